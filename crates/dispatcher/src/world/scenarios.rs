//! What is played in the world: at random, and lives and fences on purpose.

use proptest::prelude::*;

use super::schedules::NAMES;
use super::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn tasks_survive_everything(steps in prop::collection::vec(any::<(u8, u8, u8)>(), 50..400)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
    }
}

/// The property above would be worth nothing in a world in which nothing happens.
#[test]
fn the_simulated_world_is_busy() {
    let mut world = World::new();
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..5_000 {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        world.step((bits as u8, (bits >> 8) as u8, (bits >> 16) as u8));
    }
    world.settle();
    assert!(world.submitted > 300 && world.starts > 200, "{} {}", world.submitted, world.starts);
    assert!(world.done.len() > 30 && world.epoch > 20, "{} {}", world.done.len(), world.epoch);
    let lost = world.core.db.iter().flat_map(|task| &task.attempts);
    let lost = lost.filter(|attempt| matches!(attempt.end, Some(AttemptEnd::Lost { .. }))).count();
    assert!(lost > 20, "{lost}");
    let ticks = world.core.db.iter().filter(|task| task.spec.origin.is_some()).count();
    assert!(world.scheduled.len() == NAMES.len() && ticks > 200, "{ticks}");
}

impl World {
    fn beat(&mut self, index: usize) {
        self.send_beat(index);
        self.deliver_beat(index, false);
        // With a grant that came just now.
        self.deliver_beat(index, false);
    }

    fn commit_all(&mut self) {
        while !self.pending.is_empty() {
            self.commit();
        }
    }

    fn work(&mut self) {
        for _ in 0..3 {
            self.turn(7);
            self.commit_all();
        }
        self.check();
    }
}

/// A node comes back with an empty disk and says, truthfully, that it knows nothing of an attempt. What its predecessor
/// left behind still runs, so only the fence may decide; and the same holds for a leader that has just taken over.
#[test]
fn only_the_life_that_was_meant_or_the_fence_gives_an_attempt_free() {
    for change_leader in [false, true] {
        let mut world = World::new();
        world.submit(2);
        world.beat(0);
        world.core.dispatch(world.now());
        world.write(Vec::new(), None);
        world.commit_all();
        let batches = world.core.next_batches(world.now());
        assert_eq!(batches.len(), 1);
        for batch in batches {
            world.start(batch, 2); // It starts, and the answer is lost.
        }
        let answered = world.ms;
        world.crash(0);
        world.restart(0, true);
        world.members();
        if change_leader {
            world.change_leader(9, 0);
        }
        let id = TaskId::from_u128(1 << 64);
        let attempts = |world: &World| world.core.db.get(id).expect("accepted").attempt_count;
        loop {
            for index in 0..NODES {
                world.beat(index);
            }
            world.work();
            if attempts(&world) > 1 {
                break;
            }
            assert!(world.ms < answered + 10 * FENCE_MS, "it is never given up");
            world.advance(20);
        }
        let waited = world.ms - answered;
        assert!((FENCE_MS + DRIFT_MS..2 * FENCE_MS).contains(&waited), "{waited} ms");
    }
}
