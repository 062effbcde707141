//! Scripts of faults for the world, and what has to hold under them.

use proptest::prelude::*;

use super::*;

fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let node = 0..3_usize;
    let fault = prop_oneof![
        3 => (node.clone(), 100..9_000_u64).prop_map(|(node, down_ms)| Fault::Crash { node, down_ms }),
        4 => (node.clone(), 50..9_000_u64).prop_map(|(node, ms)| Fault::Cut { node, ms }),
        1 => (50..14_000_u64).prop_map(|ms| Fault::CutAll { ms }),
        3 => (node.clone(), 1..4_u8).prop_map(|(node, count)| Fault::LoseAnswers { node, count }),
        1 => (node.clone(), 100..5_000_u64).prop_map(|(node, ms)| Fault::Unready { node, ms }),
        1 => (node.clone(), -1..3_i32).prop_map(|(node, priority)| Fault::Priority { node, priority }),
        2 => node.clone().prop_map(|node| Fault::Handover { node }),
        1 => node.prop_map(|node| Fault::AskResign { node }),
    ];
    prop::collection::vec((0..60_000_u64, fault), 0..25)
}

fn manner() -> impl Strategy<Value = Manner> {
    let serves = prop_oneof![8 => (5..1_500_u64).prop_map(Some), 1 => Just(None)];
    let ends = prop_oneof![8 => 1..800_u64, 1 => Just(30_000_u64)];
    (serves, ends).prop_map(|(serves_after_ms, ends_after_ms)| Manner { serves_after_ms, ends_after_ms })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn safe_under_faults_and_recovers(
        seed in any::<u64>(),
        faults in faults(),
        mut manners in prop::collection::vec(manner(), 3),
    ) {
        // At least one can serve, or there is nothing to recover to.
        manners[2].serves_after_ms = Some(50);
        let mut world = World::new(&manners, seed);
        for (when, fault) in faults {
            world.after(when, Action::Inject(fault));
        }
        world.run(ms(75_000));
        // Effects that take 30 s to end and hold-downs of 12 s have passed by then.
        world.run(ms(90_000));
        for _ in 0..100 {
            world.run(ms(500));
            prop_assert!(world.serving().is_some(), "nobody serves, or somebody flaps: {world:#?}");
        }
    }
}

#[test]
fn a_dead_leader_is_replaced_by_the_next_in_line_at_once() {
    let manner = Manner { serves_after_ms: Some(20), ends_after_ms: 20 };
    let mut world = World::new(&[manner; 3], 7);
    world.run(ms(2_000));
    let first = world.serving().expect("one leads");
    let before = world.zk.epoch;
    world.inject(Fault::Crash { node: first, down_ms: 60_000 });
    world.run(TIMEOUT + ms(TICK_MS) + ms(500));
    let second = world.serving().expect("another leads within T + tick + 0.5 s");
    assert!(second != first && world.zk.epoch > before);
}

#[test]
fn a_short_cut_resumes_the_same_epoch() {
    let manner = Manner { serves_after_ms: Some(20), ends_after_ms: 20 };
    for cut in [100, 1_000, 2_500, 3_900] {
        let mut world = World::new(&[manner; 3], cut);
        world.run(ms(2_000));
        let (leader, epoch) = (world.serving().expect("one leads"), world.zk.epoch);
        world.inject(Fault::Cut { node: leader, ms: cut });
        world.run(ms(cut + 1_500));
        assert_eq!((world.serving(), world.zk.epoch), (Some(leader), epoch), "cut for {cut} ms");
    }
}

#[test]
#[should_panic(expected = "leader deleted under living effects (invariant 10)")]
fn the_world_notices_a_leader_deleted_too_early() {
    let manner = Manner { serves_after_ms: Some(20), ends_after_ms: 500 };
    let mut world = World::planted(&[manner; 3], 7, Bug::EarlyDelete.planted());
    world.run(ms(2_000));
    let leader = world.serving().expect("one leads");
    world.inject(Fault::AskResign { node: leader });
    world.run(ms(1_000));
}

#[test]
#[should_panic(expected = "two leaders in epoch 1 (invariant 1)")]
fn the_world_notices_leadership_implied_by_rank() {
    let manner = Manner { serves_after_ms: Some(20), ends_after_ms: 500 };
    World::planted(&[manner; 3], 7, Bug::ImpliedLeadership.planted()).run(ms(30_000));
}
