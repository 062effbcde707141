//! The checker finds by itself what the post-mortem describes.

use model::report::explore;
use model::seed::{self, Seed};

/// The shortest path to where `property` does not hold, in words, and the state it leads to.
fn shortest(property: &'static str) -> (String, seed::State) {
    let mut report = explore("seed", String::new(), Seed::new(1, 0).only(property), 1, None);
    let path = report.path(property).expect("the checker finds it");
    let last = path.last().expect("a path is not empty").0.clone();
    (seed::tell(&path), last)
}

#[test]
fn the_shortest_path_to_the_deadlock() {
    let (words, last) = shortest(seed::DEADLOCK);
    insta::assert_snapshot!("deadlock", words);
    assert!(last.nodes.iter().any(|node| node.is_deadlocked()));
}

#[test]
fn the_shortest_path_to_a_cluster_that_nobody_leads_and_that_stays_so() {
    let (words, last) = shortest(seed::LEADERLESS);
    insta::assert_snapshot!("leaderless", words);
    // From there on: other nodes are cut off, restarted, join again, are told to stop. Nothing of it helps.
    let report = explore("seed, afterwards", String::new(), Seed::aftermath(last, 2, 3), 1, None);
    assert_eq!(report.broken().count(), 0, "{report}");
    assert!(report.unique > 1_000, "{report}");
}

#[test]
fn the_model_is_not_wrong_in_the_trivial_way() {
    let report = explore("seed", String::new(), Seed::new(0, 1), 1, None);
    assert_eq!(
        report.broken().count(),
        0,
        "without a lost connection a node leads, and stops when told: {report}"
    );
}
