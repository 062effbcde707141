//! Segments whose appender gives up, whose answer is lost, or which wait across a reconnect.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use clock::{BootClock, Clock};
use coord::log::{Change, CommitError, LogFailure, LogHandle, LogOptions, TaskLog};
use coord::{LeaseFlag, Link, Term};
use drill::{Bug, Drill};
use proto::{ClusterId, Epoch, FencingToken};
use testkit::{Flow, Proxy, until};
use tokio::runtime::{Builder, Runtime};

use crate::common::{elect, layout};
use crate::{LIMIT, PATIENCE, back_after, connection, faults, lost_unnoticed, session, within};

/// Two do not fit into one segment.
const BODY: usize = 1_200;

fn log_options() -> LogOptions {
    LogOptions { segment_bytes_max: 2_048, linger: Duration::ZERO, in_flight: 4, ..LogOptions::default() }
}

/// Where the segments are when the connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// In the client, which has no connection and sends them on the next one.
    Queued,
    /// On a wire that brings them nowhere.
    InFlight,
    /// Written, and the answers are on their way.
    Unanswered,
    /// The first on such a wire; the second was about to be sent when the writer stood still, and is sent on the next
    /// connection, before it has heard of the loss.
    Torn,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    moment: Moment,
    /// How many appends, each of which fills a segment.
    segments: u128,
    /// Whether the appender still listens.
    listens: bool,
}

#[derive(Debug)]
struct Summary {
    appended: usize,
    confirmed: usize,
}

/// A proxy on a thread of its own: it goes on while the writer stands still on one of the test's.
struct Network {
    proxy: Proxy,
    runtime: Option<Runtime>,
}

impl Network {
    async fn start(hosts: String) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let proxy = runtime.spawn(async move { Proxy::start(hosts).await }).await.unwrap();
        Self { proxy, runtime: Some(runtime) }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn put(log: &LogHandle, key: u128) -> coord::log::Commit {
    let body = Some(Bytes::from(vec![7; BODY]));
    log.append(vec![Change { key, revision: 1, body, urgent: false }]).unwrap()
}

async fn segments(link: &Link) -> usize {
    let names = link.children(&layout().log_dir()).await.unwrap();
    names.iter().filter(|name| name.starts_with("log-")).count()
}

fn failed(log: &LogHandle) -> String {
    format!("the log failed: {:?}", *log.failure().borrow())
}

async fn scenario(drill: Drill, case: Case) -> Result<Summary, String> {
    let coordinator = testkit::coordinator().await;
    let network = Network::start(coordinator.hosts()).await;
    let proxy = &network.proxy;
    let others = session(coordinator.hosts(), &Drill::none()).await;
    let ours = session(proxy.hosts(), &drill).await;
    let (link, witness) = (ours.link(), others.link());
    let fence = elect(&witness).await;
    let opened = TaskLog::open(link.clone(), layout(), fence, log_options()).await;
    let (log, _) = opened.map_err(|error| format!("it does not open: {error}"))?;
    let handle = log.handle();
    put(&handle, 0).await.map_err(|error| format!("before any fault: {error}"))?;
    let (mut confirmed, mut appended) = (BTreeSet::from([0]), 1);
    let (last, before) = (connection(&link), segments(&witness).await);

    let mut commits = Vec::new();
    match case.moment {
        Moment::Queued => {
            proxy.replace(|faults| faults.refuse = true);
            lost_unnoticed(&drill).await;
        }
        Moment::InFlight | Moment::Torn => proxy.set(|faults| faults.to_server = Flow::Stall),
        Moment::Unanswered => proxy.set(|faults| faults.to_client = Flow::Stall),
    }
    let sent = drill.polls("coord.send");
    for key in 1..=case.segments {
        commits.push((key, put(&handle, key)));
        appended += 1;
        if case.moment == Moment::Torn && key == 1 {
            // It has left before what is asked after it.
            link.sync("/").await.expect_err("nothing arrives");
        }
    }
    match case.moment {
        Moment::Queued => {
            until("they are in the client", PATIENCE, async || {
                (drill.polls("coord.send") >= sent + case.segments.min(4) as u64).then_some(())
            })
            .await;
        }
        Moment::InFlight => {
            link.sync("/").await.expect_err("nothing arrives");
        }
        Moment::Unanswered => {
            until("they are written", PATIENCE, async || {
                (segments(&witness).await >= before + case.segments.min(4) as usize).then_some(())
            })
            .await;
        }
        Moment::Torn => {
            until("the writer stands still", PATIENCE, async || {
                (drill.polls("coord.send") >= sent + 2).then_some(())
            })
            .await;
        }
    }
    if !case.listens {
        commits.clear();
    }
    proxy.replace(|_| {});
    back_after(&link, last).await;

    // What is appended afterwards comes after all of it.
    commits.push((appended, put(&handle, appended)));
    for (key, commit) in commits {
        match tokio::time::timeout(LIMIT, commit).await {
            Ok(Ok(())) => drop(confirmed.insert(key)),
            Ok(Err(error)) => return Err(format!("append {key}: {error}; {}", failed(&handle))),
            Err(_) => return Err(format!("append {key} was never answered")),
        }
    }
    let appended = appended + 1;
    log.stop(PATIENCE).await.map_err(|error| format!("it does not stop: {error}"))?;

    let fence = elect(&witness).await;
    let opened = TaskLog::open(witness.clone(), layout(), fence, log_options()).await;
    let (log, live) = opened.map_err(|error| format!("it cannot be replayed: {error}"))?;
    let found: BTreeSet<u128> = live.iter().map(|live| live.key).collect();
    if !confirmed.is_subset(&found) {
        return Err(format!("confirmed {confirmed:?}, found {found:?}"));
    }
    if found != (0..found.len() as u128).collect() || found.len() > appended as usize {
        return Err(format!("{found:?} is not how {appended} appends begin"));
    }
    log.stop(PATIENCE).await.unwrap();
    ours.close(PATIENCE).await.unwrap();
    others.close(PATIENCE).await.unwrap();
    Ok(Summary { appended: appended as usize, confirmed: confirmed.len() })
}

fn points(moment: Moment) -> &'static str {
    match moment {
        Moment::Queued => "hold:coord.lost=2s",
        // The first append, the first on the dead wire, and this one.
        Moment::Torn => "block:coord.send@3=2s",
        Moment::InFlight | Moment::Unanswered => "",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn holds_that_no_segment_is_lost_or_stands_above_a_hole() {
    let moments = [Moment::Queued, Moment::InFlight, Moment::Unanswered, Moment::Torn];
    let each = moments.map(|moment| async move {
        for (segments, listens) in [(1, true), (1, false), (2, true), (2, false), (6, true), (6, false)] {
            if moment == Moment::Torn && segments == 1 {
                continue;
            }
            let case = Case { moment, segments, listens };
            let outcome = scenario(faults(None, points(moment)), case).await;
            let summary = outcome.unwrap_or_else(|violation| panic!("{case:?}: {violation}"));
            let told = if listens { summary.appended } else { 2 };
            assert_eq!(summary.confirmed, told, "{case:?}");
        }
    });
    futures::future::join_all(each).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn finds_planted_no_chain_check() {
    let case = Case { moment: Moment::Torn, segments: 2, listens: true };
    let outcome = scenario(faults(Some(Bug::NoChainCheck), points(case.moment)), case).await;
    let violation = outcome.expect_err("the bug went unnoticed");
    assert!(violation.contains("above a hole") || violation.contains("is missing"), "{violation}");
}

#[tokio::test]
async fn nothing_is_written_outside_of_the_lease() {
    let coordinator = testkit::coordinator().await;
    let ours = session(coordinator.hosts(), &Drill::none()).await;
    let link = ours.link();
    let fence = elect(&link).await;
    let until = BootClock.now() + Duration::from_secs(3);
    let lease = LeaseFlag::fixed_for_tests(until, BootClock::shared());
    let token = FencingToken {
        cluster: ClusterId::from_u128(1),
        epoch: Epoch(u64::try_from(fence.version).unwrap()),
    };
    let term = Term { token, fence, lease: lease.clone() };
    let (log, _) = TaskLog::open_under(link.clone(), layout(), &term, log_options(), None).await.unwrap();
    let handle = log.handle();
    put(&handle, 1).await.unwrap();
    testkit::until("it has lapsed", PATIENCE, async || (!lease.holds()).then_some(())).await;
    let before = segments(&link).await;
    let late = put(&handle, 2);
    // Time enough for a writer that does not look.
    for _ in 0..20 {
        link.sync("/").await.unwrap();
    }
    assert_eq!(segments(&link).await, before, "a lapsed lease may come back, so the log waits");
    assert_eq!(*handle.failure().borrow(), None);
    lease.drop_now();
    assert_eq!(
        within("an end", LIMIT, async || handle.failure().borrow().clone()).await,
        Ok(LogFailure::LeaseOver)
    );
    assert_eq!(late.await, Err(CommitError::Stopped), "it is known not to be written");
    assert_eq!(segments(&link).await, before);
    drop(log);
    ours.close(PATIENCE).await.unwrap();
}
