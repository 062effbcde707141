//! The lease: held by committed probes alone, and ended before the server ends the session.

mod common;

use std::time::Duration;

use clock::{BootClock, Clock, SharedClock};
use common::{SOON, TIMEOUT, ephemeral, layout, present, session};
use coord::{Lease, LeaseState, LeaseTiming, Link, Op, OpResult, ReadBack, Undo, Write};
use testkit::{Flow, Proxy, until};

fn timing(link: &Link) -> LeaseTiming {
    assert_eq!(link.session_timeout(), TIMEOUT);
    LeaseTiming::new(TIMEOUT, Duration::from_millis(600), Duration::from_millis(500))
}

/// Takes `/test/leader` and a lease on it.
async fn claim(link: &Link, clock: SharedClock) -> Lease {
    let sent = clock.now();
    let done = link.write(ephemeral("/test/leader"), SOON).await.expect("nobody else leads");
    assert!(matches!(&done[..], [OpResult::Created { .. }]));
    let authority = vec![Op::Check { path: "/test/leader".into(), version: 0 }];
    let probe = layout().probe(&"n1".parse().expect("a node id"));
    Lease::start(link.clone(), authority, probe, proto::Epoch(1), sent, timing(link), clock)
}

async fn state(lease: &Lease, what: &str, reached: impl Fn(&LeaseState) -> bool) -> LeaseState {
    let mut states = lease.states();
    let found = tokio::time::timeout(SOON, states.wait_for(reached)).await;
    found
        .unwrap_or_else(|_| panic!("the lease is not {what} but {:?}", lease.states().borrow()))
        .expect("the lease is there")
        .clone()
}

#[tokio::test]
async fn probes_keep_it_held() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let lease = claim(&link, BootClock::shared()).await;
    let flag = lease.flag();
    let term = timing(&link).term();
    let end = BootClock.now() + term * 3;
    until("three terms are over", SOON, async || {
        assert!(flag.holds(), "it holds all the time");
        assert!(flag.remaining() <= term);
        (BootClock.now() > end).then_some(())
    })
    .await;
    assert_eq!(*lease.states().borrow(), LeaseState::Held);
    lease.stop().await;
    assert!(!flag.holds(), "whoever stops proving has no authority");
    session.close(SOON).await.unwrap();
}

#[tokio::test]
async fn it_lapses_before_the_server_expires_the_session_and_comes_back() {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let session = session(proxy.hosts()).await;
    let link = session.link();
    let witness = common::session(coordinator.hosts()).await;
    let lease = claim(&link, BootClock::shared()).await;
    let flag = lease.flag();
    state(&lease, "held", |state| *state == LeaseState::Held).await;
    // Answers are held, so nothing is proved, although the server commits every probe.
    proxy.set(|faults| faults.to_client = Flow::Stall);
    state(&lease, "lapsed", |state| *state == LeaseState::Lapsed).await;
    assert!(!flag.holds());
    assert!(
        witness.link().exists("/test/leader").await.unwrap().is_some(),
        "the server still has the session"
    );
    proxy.heal();
    proxy.cut();
    state(&lease, "held again", |state| *state == LeaseState::Held).await;
    assert!(flag.holds());
    // Now nothing arrives: the lease ends first, then the server ends the session.
    proxy.blackhole();
    let blackout = BootClock.now();
    until("the lease has ended", SOON, async || (!flag.holds()).then_some(())).await;
    let lapsed = BootClock.now().since(blackout);
    assert!(lapsed <= timing(&link).term() + Duration::from_millis(500), "{lapsed:?}");
    assert!(witness.link().exists("/test/leader").await.unwrap().is_some(), "the lease outlived the session");
    common::absent(&witness.link(), "/test/leader").await;
    state(&lease, "lost", |state| matches!(state, LeaseState::Lost { .. })).await;
    assert!(!flag.holds());
    let _ = session.close(Duration::from_millis(100)).await;
    witness.close(SOON).await.unwrap();
}

#[tokio::test]
async fn it_is_lost_when_the_authority_is_gone() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let witness = common::session(coordinator.hosts()).await;
    let lease = claim(&link, BootClock::shared()).await;
    let flag = lease.flag();
    assert!(flag.holds());
    let delete = Write {
        ops: vec![Op::Delete { path: "/test/leader".into(), version: None }],
        read_back: ReadBack::Gone { path: "/test/leader".into() },
        undo: Undo::Keep,
    };
    let deleted = BootClock.now();
    witness.link().write(delete, SOON).await.unwrap();
    let lost = state(&lease, "lost", |state| matches!(state, LeaseState::Lost { .. })).await;
    assert!(BootClock.now().since(deleted) < timing(&link).term(), "noticed by a probe, not by a lapse");
    assert_eq!(lost, LeaseState::Lost { reason: "/test/leader is not ours any more".into() });
    assert!(!flag.holds());
    session.close(SOON).await.unwrap();
    witness.close(SOON).await.unwrap();
}

/// A clock that a test can make jump, as it does when a machine was suspended.
#[derive(Debug, Default)]
struct Jumping(std::sync::atomic::AtomicU64);

impl Clock for Jumping {
    fn now(&self) -> clock::Instant {
        BootClock.now() + Duration::from_nanos(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn wall(&self) -> clock::WallMs {
        BootClock.wall()
    }
}

#[tokio::test]
async fn a_gap_in_the_clock_and_giving_up() {
    let coordinator = testkit::coordinator().await;
    let session = session(coordinator.hosts()).await;
    let link = session.link();
    let clock = std::sync::Arc::new(Jumping::default());
    let lease = claim(&link, clock.clone()).await;
    let flag = lease.flag();
    until("a probe has committed", SOON, async || {
        link.exists(&layout().probe(&"n1".parse().unwrap())).await.unwrap().filter(|stat| stat.version > 1)
    })
    .await;
    assert!(flag.holds());
    // Shorter than what is left of the lease, and still nothing counts that was proved before.
    clock.0.fetch_add(1_000_000_000, std::sync::atomic::Ordering::SeqCst);
    assert!(!flag.holds(), "a gap drops authority first");
    until("it is proved anew", SOON, async || flag.holds().then_some(())).await;
    flag.drop_now();
    assert!(!flag.holds());
    state(&lease, "lost", |state| matches!(state, LeaseState::Lost { .. })).await;
    present(&link, "/test/leader").await;
    assert!(!flag.holds(), "given up is given up");
    lease.stop().await;
    session.close(SOON).await.unwrap();
}
