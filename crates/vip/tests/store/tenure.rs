//! Takes and releases: by whom, when, and what is left of those that nobody waited for.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use clock::{BootClock, Clock};
use coord::{GroupLease, LeaseState, LeaseTiming, Op};
use testkit::{Flow, Proxy, until};
use uuid::Uuid;
use vip::store::{GRACE_MAX, Refusal, Release, TakeError, TakeRequest, Taken, Term};

use crate::world::{Party, SOON, assignment, layout, node, web};

const GRACE: Duration = Duration::from_millis(2_000);

async fn take(party: &Party, id: u128, assignment: i32, grace: Duration) -> Result<Taken, TakeError> {
    let (service, holder) = (web(), party.holder(id));
    let request =
        TakeRequest { service: &service, holder: &holder, assignment, member: &party.member, grace };
    party.store.take(request).await
}

/// Two nodes, and a service that is assigned in version 0.
async fn pair(hosts: &str, other: &str) -> (Party, Party) {
    let (n1, n2) = (Party::start(hosts, "n1").await, Party::start(other, "n2").await);
    let term = n2.elect().await;
    assert_eq!(n2.store.assign(&term, &assignment(&["n1", "n2"])).await, Ok(0));
    (n1, n2)
}

#[tokio::test]
async fn only_after_a_release_is_there_no_wait() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = pair(&hosts, &hosts).await;
    let before = BootClock.now();
    let first = take(&n1, 1, 0, GRACE).await.unwrap();
    assert_eq!((first.wait, first.grace, first.term_version), (Duration::ZERO, GRACE, 1));
    assert!(before <= first.sent && first.sent <= BootClock.now());
    let held = Term::Held { node: node("n1"), take: Uuid::from_u128(1), grace: GRACE };
    assert_eq!(n2.store.term(&web()).await.unwrap(), Some(held));
    assert_eq!(take(&n2, 2, 0, GRACE).await, Err(TakeError::Refused(Refusal::Held)));
    assert_eq!(n1.store.own_holders().await.unwrap().into_iter().collect::<Vec<_>>(), [web()]);
    assert!(n2.store.own_holders().await.unwrap().is_empty());

    assert_eq!(n1.store.release(&first, Uuid::from_u128(11)).await, Ok(Release::Done));
    assert_eq!(n1.store.release(&first, Uuid::from_u128(12)).await, Ok(Release::NotOurs), "once is enough");
    let second = take(&n2, 2, 0, Duration::from_millis(500)).await.unwrap();
    assert_eq!((second.wait, second.grace), (Duration::ZERO, Duration::from_millis(500)));
    // What is another's now, an earlier take cannot give up.
    assert_eq!(n1.store.release(&first, Uuid::from_u128(13)).await, Ok(Release::NotOurs));
    assert_eq!(n1.store.withdraw(&first).await, Ok(Release::NotOurs));
    assert_eq!(n1.store.disown(&web()).await, Ok(Release::NotOurs));
    assert!(n2.exists(&layout().vip_holder(&web())).await);

    // It dies: whoever takes waits what was recorded, records the larger, and hands that on if it had not waited.
    n2.end().await;
    n1.absent(&layout().vip_holder(&web())).await;
    let third = take(&n1, 3, 0, Duration::from_millis(300)).await.unwrap();
    assert_eq!((third.wait, third.grace), (Duration::from_millis(500), Duration::from_millis(500)));
    assert_eq!(n1.store.withdraw(&third).await, Ok(Release::Done));
    let fourth = take(&n1, 4, 0, GRACE).await.unwrap();
    assert_eq!((fourth.wait, fourth.grace), (Duration::from_millis(500), GRACE));
    // A holder that nobody here knows of any more goes as well, and is waited for.
    assert_eq!(n1.store.disown(&web()).await, Ok(Release::Done));
    assert_eq!(take(&n1, 5, 0, GRACE).await.unwrap().wait, GRACE);
    // Also if somebody has deleted the term meanwhile.
    n1.write(Op::Delete { path: layout().vip_term(&web()), version: None }).await;
    assert_eq!(n1.store.disown(&web()).await, Ok(Release::Done));
    assert!(!n1.exists(&layout().vip_holder(&web())).await);
    n1.end().await;
}

#[tokio::test]
async fn a_take_is_refused_for_what_has_changed() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = (Party::start(hosts.clone(), "n1").await, Party::start(hosts, "n2").await);
    assert_eq!(take(&n1, 1, 0, GRACE).await, Err(TakeError::Refused(Refusal::NoTerm)));
    let term = n2.elect().await;
    n2.store.assign(&term, &assignment(&["n1"])).await.unwrap();
    assert_eq!(take(&n1, 1, 1, GRACE).await, Err(TakeError::Refused(Refusal::Reassigned)));
    let gone = Party { member: format!("{}/gone", layout().members()), ..n1 };
    assert_eq!(take(&gone, 1, 0, GRACE).await, Err(TakeError::Refused(Refusal::NotMember)));
    assert!(!n2.exists(&layout().vip_holder(&web())).await);
    gone.end().await;
    n2.end().await;
}

/// Whoever had it may have its addresses for as long as any grace is; afterwards everything is as ever.
#[tokio::test]
async fn a_term_that_somebody_edits_is_waited_out_and_written_again() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = pair(&hosts, &hosts).await;
    let lost = take(&n1, 1, 0, GRACE).await.unwrap();
    n2.set(layout().vip_term(&web()), b"{\"state\":\"lost\"}").await;
    assert_eq!(n1.store.term(&web()).await.unwrap(), Some(Term::Unknown));
    // Its holder is proved no more, and cannot say that its addresses are gone; but it can go.
    assert_eq!(n1.store.release(&lost, Uuid::from_u128(11)).await, Ok(Release::NotOurs));
    assert_eq!(take(&n2, 2, 0, GRACE).await, Err(TakeError::Refused(Refusal::Held)));
    assert_eq!(n1.store.disown(&web()).await, Ok(Release::Done));

    let second = take(&n2, 2, 0, GRACE).await.unwrap();
    assert_eq!((second.wait, second.grace), (GRACE_MAX, GRACE_MAX));
    let held = Term::Held { node: node("n2"), take: Uuid::from_u128(2), grace: GRACE_MAX };
    assert_eq!(n1.store.term(&web()).await.unwrap(), Some(held));
    // It goes before it has waited: the next one waits as long.
    assert_eq!(n2.store.withdraw(&second).await, Ok(Release::Done));
    let third = take(&n1, 3, 0, GRACE).await.unwrap();
    assert_eq!(third.wait, GRACE_MAX);
    assert_eq!(n1.store.release(&third, Uuid::from_u128(12)).await, Ok(Release::Done));
    let fourth = take(&n2, 4, 0, GRACE).await.unwrap();
    assert_eq!((fourth.wait, fourth.grace), (Duration::ZERO, GRACE));
    n1.end().await;
    n2.end().await;
}

/// Of two who try at the same moment exactly one takes it, and the other is told so.
#[tokio::test]
async fn of_two_who_take_at_once_one_does() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = pair(&hosts, &hosts).await;
    for round in 0..10 {
        let (a, b) = tokio::join!(take(&n1, 2 * round, 0, GRACE), take(&n2, 2 * round + 1, 0, GRACE));
        let (store, taken) = match (a, b) {
            (Ok(taken), Err(TakeError::Refused(Refusal::Held | Refusal::Overtaken))) => (&n1.store, taken),
            (Err(TakeError::Refused(Refusal::Held | Refusal::Overtaken)), Ok(taken)) => (&n2.store, taken),
            other => panic!("round {round}: {other:?}"),
        };
        assert_eq!(taken.wait, Duration::ZERO);
        assert_eq!(store.release(&taken, Uuid::from_u128(100 + round)).await, Ok(Release::Done));
    }
    n1.end().await;
    n2.end().await;
}

#[tokio::test]
async fn a_lease_on_a_take_ends_when_another_takes() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = pair(&hosts, &hosts).await;
    let (link, ms) = (n1.store.link().clone(), Duration::from_millis);
    let timing = LeaseTiming::new(link.session_timeout(), ms(600), ms(500));
    let group = GroupLease::start(link, layout().probe(&n1.node), timing, BootClock::shared());
    let taken = take(&n1, 1, 0, GRACE).await.unwrap();
    let mut hold = group.hold(taken.authority(&layout()), taken.sent);
    let proved = group.commits().wait_for(|sent| *sent > taken.sent).await.map(|sent| *sent).unwrap();
    assert!(hold.flag.holds() && hold.flag.proved_until() >= proved + timing.term());

    n2.write(coord::Op::Delete { path: layout().vip_holder(&web()), version: None }).await;
    take(&n2, 2, 0, GRACE).await.unwrap();
    let lost = hold.states.wait_for(|state| matches!(state, LeaseState::Lost { .. }));
    tokio::time::timeout(SOON, lost).await.expect("a probe finds out").unwrap();
    assert!(!hold.flag.holds());
    group.stop().await;
    n1.end().await;
    n2.end().await;
}

#[tokio::test]
async fn a_take_that_nobody_waits_for_leaves_no_holder() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let (n1, n2) = pair(&hosts, &hosts).await;
    let path = layout().vip_holder(&web());
    {
        let mut unread = pin!(take(&n1, 1, 0, GRACE));
        let woken = Woken::default();
        until("it is taken", SOON, async || {
            // Looked at before it is polled, so that its answer is never read.
            if n2.exists(&path).await {
                return Some(());
            }
            if woken.0.swap(false, Ordering::SeqCst) {
                assert!(woken.poll(unread.as_mut()).is_pending());
            }
            None
        })
        .await;
    }
    n2.absent(&path).await;
    // And the next one, of the same session, is not what is undone.
    let taken = take(&n1, 2, 0, GRACE).await.unwrap();
    assert_eq!(taken.wait, GRACE, "nobody knows what became of the first");
    n1.store.link().sync("/").await.unwrap();
    assert!(n2.exists(&path).await);
    n1.end().await;
    n2.end().await;
}

#[tokio::test]
async fn a_take_and_a_release_whose_answers_are_lost_are_found_out() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let proxy = Proxy::start(hosts.clone()).await;
    let (n1, n2) = pair(&proxy.hosts(), &hosts).await;
    let path = layout().vip_holder(&web());
    let deaf = || proxy.set(|faults| faults.to_client = Flow::Drop);
    let hear = || {
        proxy.heal();
        proxy.cut();
    };
    let (taken, ()) = tokio::join!(until_it_writes(1, take(&n1, 1, 0, GRACE), deaf), async {
        n2.present(&path).await;
        hear();
    });
    let taken = taken.unwrap();
    assert_eq!((taken.term_version, taken.wait), (1, Duration::ZERO));

    deaf();
    let (released, ()) = tokio::join!(n1.store.release(&taken, Uuid::from_u128(11)), async {
        n2.absent(&path).await;
        hear();
    });
    assert_eq!(released, Ok(Release::Done));
    let free = Term::Free { node: Some(node("n1")), release: Some(Uuid::from_u128(11)) };
    assert_eq!(n2.store.term(&web()).await.unwrap(), Some(free));

    // Lost, and taken by another before it can be found out: that one's stays.
    let taken = take(&n1, 2, 0, GRACE).await.unwrap();
    deaf();
    let (released, other) = tokio::join!(n1.store.release(&taken, Uuid::from_u128(12)), async {
        n2.absent(&path).await;
        let other = take(&n2, 3, 0, GRACE).await;
        hear();
        other
    });
    assert_eq!((released, other.unwrap().wait), (Ok(Release::NotOurs), Duration::ZERO));
    assert!(n2.exists(&path).await);
    n1.end().await;
    n2.end().await;
}

/// Knows whether a future that is polled by hand wants to be polled again.
#[derive(Clone)]
struct Woken(Arc<AtomicBool>);

impl Default for Woken {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Woken {
    fn poll<F: Future>(&self, future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::new(self.clone()));
        future.poll(&mut Context::from_waker(&waker))
    }
}

/// Runs something that reads that many times and then writes; calls `before` when it has read and not yet written.
pub(crate) async fn until_it_writes<F: Future>(reads: usize, work: F, before: impl FnOnce()) -> F::Output {
    let mut work = Box::pin(work);
    let woken = Woken::default();
    let wakes = async || {
        until("it is answered", SOON, async || woken.0.swap(false, Ordering::SeqCst).then_some(())).await;
    };
    for _ in 0..reads {
        wakes().await;
        assert!(woken.poll(work.as_mut()).is_pending(), "it reads");
    }
    wakes().await;
    before();
    work.await
}
