//! A lease that proves what it says, seen from outside: nobody is inside of it who could not have committed a probe.

use std::time::Duration;

use clock::{BootClock, Clock, Instant};
use coord::{Fence, Lease, LeaseFlag, LeaseTiming, Link, Mode, Op, ReadBack, Session, Undo, Write};
use drill::{Bug, Drill};
use proto::Epoch;
use testkit::{Ensemble, Proxy};

use crate::common::{TIMEOUT, create, layout};
use crate::{LIMIT, PATIENCE, faults, session, within};

fn timing(link: &Link) -> LeaseTiming {
    assert_eq!(link.session_timeout(), TIMEOUT);
    LeaseTiming::new(TIMEOUT, Duration::from_millis(600), Duration::from_millis(500))
}

fn claim(data: &str, expect: i32) -> Write {
    let layout = layout();
    let data = data.as_bytes().to_vec();
    Write {
        ops: vec![
            create(&layout.leader(), Mode::Ephemeral),
            Op::Set { path: layout.epoch(), data, version: Some(expect) },
        ],
        read_back: ReadBack::OwnEphemeral { path: layout.leader() },
        undo: Undo::DeleteOwn,
    }
}

/// Leads in epoch 1, as far as a lease is concerned.
async fn lead(session: &Session) -> Lease {
    let (link, layout) = (session.link(), layout());
    let sent = BootClock.now();
    link.write(claim("ours", 0), PATIENCE).await.unwrap();
    let fence = Fence { epoch_path: layout.epoch(), version: 1 };
    let authority = vec![Op::Check { path: layout.leader(), version: 0 }, fence.check()];
    let probe = layout.probe(&"n1".parse().unwrap());
    let timing = timing(&link);
    Lease::start(link, authority, probe, Epoch(1), sent, timing, BootClock::shared())
}

/// The send instants of the probes that the history says were committed.
fn probes(drill: &Drill) -> Vec<Instant> {
    let sent = |fact: &String| {
        let fields = fact.split_once(" probe ")?.1;
        fields.split(' ').find_map(|field| field.strip_prefix("sent="))?.parse().ok()
    };
    drill.history().iter().filter_map(sent).map(Instant::from_nanos).collect()
}

/// Waits until a probe has been committed: from then on the lease does not live on its claim.
async fn proved(drill: &Drill) {
    testkit::until("a probe is committed", PATIENCE, async || (!probes(drill).is_empty()).then_some(()))
        .await;
}

/// Nothing that was sent after `end` can have been committed, so that the lease is over one term after it: by this
/// process's own clock, however busy the machine is.
async fn over_after(flag: &LeaseFlag, drill: &Drill, end: Instant, term: Duration) -> Result<(), String> {
    let over = async || {
        let now = BootClock.now();
        if now <= end + term {
            return None;
        }
        // Read after the clock, so that what holds held later still.
        let holds = flag.holds();
        Some(if holds { Err(now.since(end + term)) } else { Ok(()) })
    };
    // A planted bug may need the next probe to show.
    let first = within("the term is over", PATIENCE, over).await?;
    first.map_err(|late| format!("it held {late:?} after anything that was committed could prove"))?;
    within("it stays over", timing_stays(), async || flag.holds().then_some(()))
        .await
        .map_or(Ok(()), |()| Err("it held again, with nothing committed".to_owned()))?;
    match probes(drill).into_iter().find(|sent| *sent > end) {
        Some(sent) => Err(format!("a probe was believed that was sent {:?} after the end", sent.since(end))),
        None => Ok(()),
    }
}

/// Some probe periods.
fn timing_stays() -> Duration {
    Duration::from_millis(700)
}

/// Another session deletes the leader's node and leads: the next committed probe says so, and a read does not.
async fn deposed(drill: Drill) -> Result<(), String> {
    let coordinator = testkit::coordinator().await;
    let others = session(coordinator.hosts(), &Drill::none()).await;
    let ours = session(coordinator.hosts(), &drill).await;
    let lease = lead(&ours).await;
    let flag = lease.flag();
    proved(&drill).await;
    let mut takeover = claim("theirs", 1);
    takeover.ops.insert(0, Op::Delete { path: layout().leader(), version: None });
    others.link().write(takeover, PATIENCE).await.unwrap();
    let taken = BootClock.now();
    over_after(&flag, &drill, taken, timing(&ours.link()).term()).await?;
    lease.stop().await;
    ours.close(PATIENCE).await.unwrap();
    others.close(PATIENCE).await.unwrap();
    Ok(())
}

/// The connection is lost in silence: another node may lead as soon as the server has let the session go.
async fn cut_off(drill: Drill) -> Result<(), String> {
    let coordinator = testkit::coordinator().await;
    let proxy = Proxy::start(coordinator.hosts()).await;
    let others = session(coordinator.hosts(), &Drill::none()).await;
    let ours = session(proxy.hosts(), &drill).await;
    let lease = lead(&ours).await;
    let flag = lease.flag();
    proved(&drill).await;
    proxy.blackhole();
    let cut = BootClock.now();
    let successor = within("another leads", PATIENCE, async || {
        let held = flag.holds();
        others.link().write(claim("theirs", 1), LIMIT).await.ok()?;
        // Held before the other had even asked, so this is no matter of who is quicker.
        let still = flag.holds();
        Some(if still { Err(format!("two are inside their leases (before: {held})")) } else { Ok(()) })
    });
    successor.await??;
    over_after(&flag, &drill, cut, timing(&ours.link()).term()).await?;
    lease.stop().await;
    let _ = ours.close(Duration::from_millis(100)).await;
    others.close(PATIENCE).await.unwrap();
    Ok(())
}

/// The server that we are connected to goes on, the two others are stopped: it answers reads until it misses its leader.
async fn follower_alone(ensemble: &Ensemble, drill: Drill) -> Result<(), String> {
    let leader = ensemble.leader().await;
    let follower = (leader + 1) % ensemble.servers.len();
    let ours = session(ensemble.servers[follower].hosts(), &drill).await;
    let lease = lead(&ours).await;
    let flag = lease.flag();
    proved(&drill).await;
    let rest = || ensemble.servers.iter().enumerate().filter(|(index, _)| *index != follower);
    rest().for_each(|(_, server)| server.pause());
    let alone = BootClock.now();
    let outcome = over_after(&flag, &drill, alone, timing(&ours.link()).term()).await;
    rest().for_each(|(_, server)| server.resume());
    lease.stop().await;
    let _ = ours.close(Duration::from_millis(100)).await;
    outcome
}

#[tokio::test]
async fn holds_that_a_deposed_leader_is_outside_of_its_lease() {
    assert_eq!(deposed(faults(None, "")).await, Ok(()));
}

#[tokio::test]
async fn holds_that_a_leader_that_is_cut_off_is_outside_of_its_lease_before_another_leads() {
    assert_eq!(cut_off(faults(None, "")).await, Ok(()));
}

#[tokio::test]
async fn holds_that_a_follower_without_a_majority_proves_nothing() {
    let Some(ensemble) = testkit::ensemble_or_skip(3).await else { return };
    assert_eq!(follower_alone(&ensemble, faults(None, "")).await, Ok(()));
}

#[tokio::test]
async fn finds_planted_no_lease() {
    for violation in [
        deposed(faults(Some(Bug::NoLease), "")).await.expect_err("the bug went unnoticed"),
        cut_off(faults(Some(Bug::NoLease), "")).await.expect_err("the bug went unnoticed"),
    ] {
        assert!(violation.contains("it held") || violation.contains("two are inside"), "{violation}");
    }
}

#[tokio::test]
async fn finds_planted_read_probe() {
    let violation = deposed(faults(Some(Bug::ReadProbe), "")).await.expect_err("the bug went unnoticed");
    assert!(violation.contains("it held"), "{violation}");
}

#[tokio::test]
async fn finds_planted_read_probe_by_a_follower_without_a_majority() {
    let Some(ensemble) = testkit::ensemble_or_skip(3).await else { return };
    let outcome = follower_alone(&ensemble, faults(Some(Bug::ReadProbe), "")).await;
    let violation = outcome.expect_err("the bug went unnoticed");
    assert!(violation.contains("it held") || violation.contains("believed"), "{violation}");
}
