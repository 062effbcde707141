//! The fenced log of a real ZooKeeper under the dispatcher: what one term committed the next one has, and the first
//! one can do nothing more.

use std::time::{Duration, Instant};

use clock::BootClock;
use coord::{ClientRuntime, Fence, Layout, LeaseFlag, Link, Op, ReadBack, Session, Term, Undo, Write};
use proto::api::{ApiErrorKind, Submitted};
use proto::task::{AttemptEnd, TaskState};
use proto::{ClusterId, Epoch, FencingToken, TaskId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fake::{FakeRunner, Network};
use super::{is, members_of, submit, task, until};
use crate::{Dispatcher, Dispatching, Options, Retention};

pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) fn coord_options(hosts: String) -> coord::Options {
    coord::Options {
        session_timeout: Duration::from_secs(2),
        tick: Duration::from_millis(500),
        margin: Duration::from_millis(600),
        ..coord::Options::new(hosts, "/test/dispatcher")
    }
}

/// Begins a term: grows the epoch, as an election would.
pub(super) async fn claim(link: &Link, layout: &Layout) -> Term {
    let path = layout.epoch();
    let version = link.get(&path).await.expect("read").expect("there").stat.version;
    let data = vec![version as u8];
    let write = Write {
        ops: vec![Op::Set { path: path.clone(), data: data.clone(), version: Some(version) }],
        read_back: ReadBack::Data { path: path.clone(), data },
        undo: Undo::Keep,
    };
    link.write(write, SOON).await.expect("claimed");
    let version = version + 1;
    let clock = BootClock::shared();
    Term {
        token: FencingToken { cluster: ClusterId::from_u128(7), epoch: Epoch(version as u64) },
        fence: Fence { epoch_path: path, version },
        lease: LeaseFlag::fixed_for_tests(clock.now() + Duration::from_secs(600), clock),
    }
}

pub(super) fn options(hosts: String) -> Options {
    Options {
        node: "leader".parse().expect("valid"),
        fence_after: Duration::from_secs(30),
        drift: Duration::from_millis(500),
        heartbeat: Duration::from_secs(1),
        retention: Retention::default(),
        queue_tasks_max: 100_000,
        payload_inline_max: 4_096,
        priority_ageing: Duration::from_secs(60),
        log: coord::log::LogOptions::default(),
        coord: coord_options(hosts),
        pulse: pulse::Pulse::default(),
        runtime: ClientRuntime::start().expect("a thread"),
        clock: BootClock::shared(),
        rng_seed: 1,
    }
}

async fn lead(hosts: String, term: Term, runners: &[FakeRunner]) -> Dispatcher<Dispatching> {
    let options = options(hosts);
    let (members, seen) = watch::channel(members_of(runners));
    let dispatcher = Dispatcher::new(options, term, seen, Network::of(runners), None);
    drop(members); // They stay as they are.
    dispatcher.recover(CancellationToken::new()).await.expect("recovers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terms_follow_each_other_over_a_real_zookeeper() {
    let coordinator = testkit::coordinator().await;
    let hosts = coordinator.hosts();
    let runtime = ClientRuntime::start().expect("a thread");
    let control = coord_options(hosts.clone());
    let layout = Layout::of(&control);
    let control = Session::connect(&control, runtime, BootClock::shared()).await.expect("connects");
    layout.ensure(&control.link()).await.expect("created");

    let runners = [FakeRunner::new("n1", 64), FakeRunner::new("n2", 64)];
    let first = lead(hosts.clone(), claim(&control.link(), &layout).await, &runners).await;
    let handle = first.handle();
    for runner in &runners {
        assert!(runner.beat(&handle).await);
    }
    let waiting = submit(&handle, task(1, "wait")).await;
    let mut large = task(2, "wait");
    large.spec.payload = vec![3; 200_000];
    let large = submit(&handle, large).await;
    let started = Instant::now();
    let batch: Vec<_> = (1_000..2_000).map(|id| task(id, "noop")).collect();
    let accepted = handle.submit(batch).await.expect("answered");
    assert!(accepted.iter().all(|one| matches!(one, Submitted::Accepted { .. })));
    let deadline = Instant::now() + Duration::from_secs(30);
    while count(&handle, TaskState::Succeeded).await < 1_000 {
        assert!(Instant::now() < deadline, "{:?}", handle.stats().await);
        for runner in &runners {
            runner.beat(&handle).await; // On a busy machine this takes longer than one heartbeat lasts.
            runner.report(&handle).await;
        }
        tokio::task::yield_now().await;
    }
    eprintln!("1,000 noop tasks in {:?}", started.elapsed());
    until(&handle, &runners, large, |_| running(&runners) == 2).await;

    let second = lead(hosts, claim(&control.link(), &layout).await, &runners).await;
    // The first one has not noticed yet, and can do nothing.
    let refused = handle.submit(vec![task(3, "noop")]).await.map_err(|error| error.kind);
    assert!(matches!(refused, Err(ApiErrorKind::Unknown | ApiErrorKind::NoLeader)), "{refused:?}");
    let mut failed = handle.failed();
    tokio::time::timeout(SOON, failed.wait_for(Option::is_some)).await.expect("noticed").expect("told");

    let handle = second.handle();
    assert_eq!(count(&handle, TaskState::Succeeded).await, 1_000);
    assert!(handle.show(TaskId::from_u128(3 << 96).to_string()).await.is_err(), "it was never committed");
    for runner in &runners {
        let attempts: Vec<_> = runner.state().running.keys().copied().collect();
        for attempt in attempts {
            runner.end(attempt, AttemptEnd::Exited { code: 0 });
        }
    }
    for id in [waiting, large] {
        let view = until(&handle, &runners, id, is(TaskState::Succeeded)).await;
        assert_eq!(view.attempt_count, 1, "reattached, not restarted");
    }
    assert_eq!(runners.iter().map(|runner| runner.state().started.len()).sum::<usize>(), 1_002);

    let stopped = second.drain().stop(Duration::from_secs(4)).await;
    assert_eq!(stopped.report().problems, Vec::<String>::new());
    let stopped = first.drain().stop(Duration::from_secs(4)).await;
    assert_eq!(stopped.report().problems.len(), 1, "it says that its log had failed: {:?}", stopped.report());
    control.close(SOON).await.expect("closes");
}

fn running(runners: &[FakeRunner]) -> usize {
    runners.iter().map(|runner| runner.state().running.len()).sum()
}

async fn count(handle: &crate::Handle, state: TaskState) -> u64 {
    let (_, counts) = handle.stats().await.expect("it dispatches");
    counts.into_iter().find(|(other, _)| *other == state).map_or(0, |(_, count)| count)
}
