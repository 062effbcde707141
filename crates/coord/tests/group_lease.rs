//! Several authorities behind one prober: proved together, ended one by one, and nothing written while there is none.

mod common;

use std::time::Duration;

use clock::{BootClock, Clock, Instant};
use common::{SOON, TIMEOUT, create, layout, session};
use coord::{GroupLease, Hold, LeaseState, LeaseTiming, Link, Mode, Op, ReadBack, Undo, Write};
use testkit::until;

fn timing(link: &Link) -> LeaseTiming {
    assert_eq!(link.session_timeout(), TIMEOUT);
    LeaseTiming::new(TIMEOUT, Duration::from_millis(600), Duration::from_millis(500))
}

fn probe() -> String {
    layout().probe(&"n1".parse().expect("a node id"))
}

fn group(link: &Link) -> GroupLease {
    GroupLease::start(link.clone(), probe(), timing(link), BootClock::shared())
}

async fn write(link: &Link, ops: Vec<Op>, gone: &str) {
    let read_back = ReadBack::Gone { path: gone.into() };
    link.write(Write { ops, read_back, undo: Undo::Keep }, SOON).await.expect("it can be written");
}

/// Takes a service: its holder, and its term's next version.
async fn take(link: &Link, group: &GroupLease, name: &str) -> Hold {
    let (holder, term) = (format!("/test/{name}-holder"), format!("/test/{name}-term"));
    link.ensure(&term).await.expect("it can be created");
    let sent = BootClock.now();
    let ops = vec![
        create(&holder, Mode::Ephemeral),
        Op::Set { path: term.clone(), data: b"held".into(), version: Some(0) },
    ];
    let read_back = ReadBack::OwnEphemeral { path: holder.clone() };
    link.write(Write { ops, read_back, undo: Undo::DeleteOwn }, SOON).await.expect("nobody else has it");
    let checks = vec![Op::Check { path: holder, version: 0 }, Op::Check { path: term, version: 1 }];
    group.hold(checks, sent)
}

async fn lost(hold: &Hold) -> String {
    let mut states = hold.states.clone();
    let lost = states.wait_for(|state| matches!(state, LeaseState::Lost { .. }));
    let state = tokio::time::timeout(SOON, lost).await.expect("it is lost").expect("it is there").clone();
    let LeaseState::Lost { reason } = state else { unreachable!("it was waited for") };
    assert!(!hold.flag.holds());
    reason
}

/// The first commit of a probe that was sent after this call.
async fn commit(group: &GroupLease) -> Instant {
    commit_after(group, BootClock.now()).await
}

async fn commit_after(group: &GroupLease, event: Instant) -> Instant {
    let mut commits = group.commits();
    let later = commits.wait_for(|sent| *sent > event);
    *tokio::time::timeout(SOON, later).await.expect("a probe is committed").expect("the group is there")
}

async fn probes(link: &Link) -> i32 {
    link.exists(&probe()).await.expect("it can be looked at").map_or(-1, |stat| stat.version)
}

#[tokio::test]
async fn nothing_is_written_while_nothing_is_held() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let group = group(&link);
    let quiet = async |before: i32| {
        let end = BootClock.now() + timing(&link).period * 8;
        until("eight periods are over", SOON * 3, async || {
            assert_eq!(probes(&link).await, before, "a probe for nothing");
            (BootClock.now() > end).then_some(())
        })
        .await;
    };
    quiet(-1).await;
    let hold = take(&link, &group, "a").await;
    assert!(hold.flag.holds());
    commit(&group).await;
    drop(hold);
    // One may be on its way; it is answered before a read that is asked later.
    link.sync("/").await.unwrap();
    let before = probes(&link).await;
    assert!(before >= 0);
    quiet(before).await;
    group.stop().await;
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn what_is_gone_ends_one_hold_and_the_others_go_on() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let witness = common::session(coordinator.hosts()).await;
    let other = witness.link();
    let group = group(&link);
    let (a, b, c) =
        (take(&link, &group, "a").await, take(&link, &group, "b").await, take(&link, &group, "c").await);
    let sent = commit(&group).await;
    for hold in [&a, &b, &c] {
        assert!(hold.flag.proved_until() >= sent + timing(&link).term());
    }

    // Somebody deletes a holder.
    let delete = Op::Delete { path: "/test/a-holder".into(), version: None };
    let deleted = BootClock.now();
    write(&other, vec![delete], "/test/a-holder").await;
    assert_eq!(lost(&a).await, "/test/a-holder is not ours any more");
    let noticed = BootClock.now();
    assert!(noticed.since(deleted) < timing(&link).term(), "by a probe, not by a lapse");
    let sent = commit(&group).await;
    assert!(sent > noticed && b.flag.holds() && c.flag.holds());
    assert_eq!(
        (b.flag.proved_until(), *b.states.borrow() == LeaseState::Held),
        (c.flag.proved_until(), true)
    );

    // And creates it again, as who takes it over does: in the same version, which only the term tells apart.
    write(
        &other,
        vec![
            Op::Delete { path: "/test/b-holder".into(), version: None },
            create("/test/b-holder", Mode::Ephemeral),
            Op::Set { path: "/test/b-term".into(), data: b"taken".into(), version: Some(1) },
        ],
        "/test/none",
    )
    .await;
    assert_eq!(lost(&b).await, "/test/b-term is not ours any more");
    commit(&group).await;
    assert!(c.flag.holds());

    group.stop().await;
    assert!(!c.flag.holds());
    assert_eq!(lost(&c).await, "it was given up");
    session.close(SOON).await.unwrap();
    witness.close(SOON).await.unwrap();
}

/// With a period so long that what comes sooner was not the period's.
#[tokio::test]
async fn who_comes_and_who_is_left_is_proved_at_once() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let witness = common::session(coordinator.hosts()).await;
    let (long, at_once) = (Duration::from_secs(60), Duration::from_secs(10));
    let slow = LeaseTiming { timeout: long * 2, margin: long, period: Duration::from_secs(30) };
    let group = GroupLease::start(link.clone(), probe(), slow, BootClock::shared());
    let since = BootClock.now();
    // The first probe finds no node to write to, the second does.
    let a = take(&link, &group, "a").await;
    let proved = commit_after(&group, since).await;
    let b = take(&link, &group, "b").await;
    commit_after(&group, proved).await;
    // The probe for the one that comes stumbles over one that is gone, and proves neither it nor the rest.
    write(
        &witness.link(),
        vec![Op::Delete { path: "/test/a-holder".into(), version: None }],
        "/test/a-holder",
    )
    .await;
    let deleted = BootClock.now();
    let c = take(&link, &group, "c").await;
    lost(&a).await;
    let sent = commit_after(&group, deleted).await;
    for hold in [&b, &c] {
        assert!(hold.flag.proved_until() >= sent + slow.term());
    }
    assert!(BootClock.now().since(since) < at_once, "none of it waited for the next period");
    group.stop().await;
    session.close(SOON).await.unwrap();
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn a_hold_that_is_dropped_is_not_checked_any_more() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let group = group(&link);
    let (a, b) = (take(&link, &group, "a").await, take(&link, &group, "b").await);
    commit(&group).await;
    let (flag, mut states) = (a.flag.clone(), a.states.clone());
    drop(a);
    assert!(!flag.holds(), "at once");
    // The release, on the same connection: no probe that is sent from now on may stumble over it.
    write(&link, vec![Op::Delete { path: "/test/a-holder".into(), version: Some(0) }], "/test/a-holder")
        .await;
    let version = probes(&link).await;
    let end = BootClock.now() + timing(&link).term() * 2;
    until("two terms are over", SOON * 3, async || {
        assert!(b.flag.holds(), "it was proved all the time");
        (BootClock.now() > end).then_some(())
    })
    .await;
    assert!(probes(&link).await > version);
    let lost = states.wait_for(|state| matches!(state, LeaseState::Lost { .. })).await.unwrap().clone();
    assert_eq!(lost, LeaseState::Lost { reason: "it was given up".into() });
    // Without its owner nothing is held.
    let flag = b.flag.clone();
    drop(group);
    assert!(!flag.holds());
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn the_end_of_the_session_ends_all_and_what_comes_later() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let group = group(&link);
    let (a, b) = (take(&link, &group, "a").await, take(&link, &group, "b").await);
    session.close(SOON).await.unwrap();
    for hold in [&a, &b] {
        lost(hold).await;
    }
    let late = group.hold(vec![Op::Check { path: "/test".into(), version: 0 }], BootClock.now());
    lost(&late).await;
    assert!(!late.flag.holds());
    group.stop().await;
}
