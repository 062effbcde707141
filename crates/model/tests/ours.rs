//! The election that production runs keeps its invariants in every state that one fault can lead to, and what a planted
//! bug breaks is found.

use drill::Bug;
use model::ours::{self, Bounds, Kind, Ours, Start, tell};
use model::report::explore;

/// The shortest path to where `property` does not hold once `bug` is planted.
fn shortest(bug: Bug, bounds: Bounds, property: &'static str) -> String {
    let clean = explore("clean", bounds.to_string(), Ours::new(bounds.clone()), 1, None);
    assert_eq!(clean.broken().count(), 0, "it is the bug that breaks it: {clean}");
    let planted = Ours::new(bounds.planted(bug)).only(property);
    let mut report = explore("planted", String::new(), planted, 1, None);
    tell(&report.path(property).expect("the checker finds it"))
}

#[test]
fn any_one_fault() {
    for bounds in Bounds::small() {
        let mut report = explore("ours", bounds.to_string(), Ours::new(bounds), 1, None);
        let broken = report.broken().map(|(name, ..)| *name).next();
        if let Some(name) = broken {
            let path = report.path(name).map(|path| tell(&path)).unwrap_or_default();
            panic!("{report}\n{name}\n{path}");
        }
    }
}

#[test]
fn finds_planted_implied_leadership() {
    let bounds = Bounds::new(Start::Cold, 0);
    insta::assert_snapshot!("implied-leadership", shortest(Bug::ImpliedLeadership, bounds, ours::ONE_OWNER));
}

#[test]
fn finds_planted_early_delete() {
    let bounds = Bounds::new(Start::Warm, 2).kinds(&[Kind::SlowEnd, Kind::Resign]);
    insta::assert_snapshot!("early-delete", shortest(Bug::EarlyDelete, bounds, ours::FENCE_LAST));
}

/// No bug of ours, but one of the assumption that all leases rest on: that no session ends before the lease that its last
/// probe gave. What follows is what the model is for.
#[test]
fn a_session_that_ends_before_its_lease_gives_two_leaders() {
    let mut bounds = Bounds::new(Start::Warm, 1).kinds(&[Kind::Cut]);
    bounds.expires_min = 1;
    let mut report = explore("ours", String::new(), Ours::new(bounds).only(ours::ONE_LEASE), 1, None);
    insta::assert_snapshot!(tell(&report.path(ours::ONE_LEASE).expect("the checker finds it")));
}
