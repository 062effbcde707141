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
    assert!(world.adopted > 2 && world.extended > 2, "{} {}", world.adopted, world.extended);
    assert!(world.moved() > 2, "{}", world.moved());
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
        world.restart(0, Boot::Wiped);
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

impl World {
    /// Submits a task that is under a shim, and has node 0 run it.
    fn one_runs(&mut self) -> TaskId {
        self.submit(2);
        self.beat(0);
        self.work();
        assert_eq!(self.machines[0].processes.len(), 1);
        TaskId::from_u128(self.submitted << 64)
    }

    fn attempts_of(&self, id: TaskId) -> Vec<(u32, NodeId, Incarnation)> {
        let task = self.core.db.get(id).expect("accepted");
        task.attempts
            .iter()
            .map(|attempt| (attempt.number, attempt.node.clone(), attempt.incarnation))
            .collect()
    }

    /// Everybody beats for so long.
    fn live(&mut self, ms: u64, silent: Option<usize>) {
        let until = self.ms + ms;
        while self.ms < until {
            for index in (0..NODES).filter(|index| Some(*index) != silent) {
                self.beat(index);
            }
            self.work();
            self.advance(20);
            self.check();
        }
    }
}

/// Killed and restarted within its right: the same attempt goes on in the new life, whoever leads, and a second time too.
#[test]
fn an_adopted_attempt_belongs_to_the_life_that_adopted_it() {
    for leaders in 0..4 {
        let mut world = World::new();
        let id = world.one_runs();
        let node = world.machines[0].node.clone();
        for restart in 0..2 {
            world.crash(0);
            world.advance(FENCE_MS / 2);
            if leaders & 1 != 0 {
                world.change_leader(9, 0);
            }
            world.restart(0, Boot::Adopts);
            world.members();
            world.beat(0);
            if leaders & 2 != 0 {
                // What the beat has moved is lost with its leader.
                world.change_leader(0, 0);
            }
            world.live(3 * FENCE_MS, None);
            let life = world.machines[0].life();
            assert_eq!(
                world.attempts_of(id),
                [(1, node.clone(), life)],
                "restart {restart}, leaders {leaders}"
            );
            assert_eq!(world.core.runners.get(&node).map(|runner| runner.used), Some(1));
        }
        world.finish_one(0, 1);
        world.report(0);
        world.commit_all();
        assert_eq!(world.core.db.get(id).map(|task| task.state), Some(TaskState::Succeeded));
    }
}

/// What was adopted keeps at least the right that it had: a new life that falls silent before it is answered is given up
/// no sooner than the old one would have been.
#[test]
fn a_life_that_adopts_and_falls_silent_is_not_given_up_early() {
    let mut world = World::new();
    // A long term: the floor for lives that were never answered has passed long ago.
    world.advance(10 * FENCE_MS);
    let id = world.one_runs();
    let answered = world.ms;
    world.crash(0);
    world.restart(0, Boot::Adopts);
    world.members();
    world.send_beat(0);
    let (_, beat) = world.machines[0].beat.take().expect("it beats");
    // Taken in, and the answer never leaves.
    assert!(world.core.heartbeat(world.now(), beat).is_some());
    world.crash(0);
    while world.attempts_of(id).len() == 1 {
        world.live(20, Some(0));
        assert!(world.ms < answered + 4 * FENCE_MS, "it is never given up");
    }
    let waited = world.ms - answered;
    assert!(waited >= FENCE_MS + DRIFT_MS, "{waited} ms");
}

/// A planned restart: its node alone gets the time, a new leader knows of it, and it ends.
#[test]
fn a_planned_restart_has_its_time_and_no_more() {
    for change_leader in [false, true] {
        let mut world = World::new();
        let id = world.one_runs();
        world.machines[0].leaving = true;
        world.beat(0);
        assert_eq!(world.extended, 1);
        let granted = world.ms;
        world.crash(0);
        world.members();
        if change_leader {
            world.change_leader(0, 0);
        }
        assert!(world.core.db.meta().extended().next().is_some());
        while world.attempts_of(id).len() == 1 {
            world.live(20, Some(0));
            assert!(world.ms < granted + 4 * (FENCE_MS + LEAVE_MS), "it is never given up");
        }
        let waited = world.ms - granted;
        let least = FENCE_MS + LEAVE_MS + DRIFT_MS;
        assert!((least..least + FENCE_MS).contains(&waited), "{waited} ms, another leader: {change_leader}");
        world.live(40, None);
        assert_eq!(world.core.db.meta().extended().next(), None, "forgotten once it is over");
        assert_eq!(world.core.db.meta().usual(), Duration::from_millis(FENCE_MS));
    }
}
