//! The whole dispatcher over a log in memory and runners behind real tarpc channels, under paused time.

mod bounds;
mod fake;
mod memory;
mod operations;
mod schedules;
mod sweep;
mod waiting;
mod zookeeper;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clock::TokioClock;
use proto::api::{ApiErrorKind, ListFilter, Submission, Submitted};
use proto::task::{AttemptEnd, TaskSpec, TaskState, TaskView};
use proto::{ClusterId, Epoch, FencingToken, TaskId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::fake::{FakeRunner, Network};
use self::memory::{MemoryLog, TestLease};
use crate::config::{Config, Retention};
use crate::{Dispatcher, Dispatching, Handle, MemberInfo};

const FENCE: Duration = Duration::from_secs(30);

struct Term {
    dispatcher: Dispatcher<Dispatching>,
    handle: Handle,
    lease: Arc<TestLease>,
    members: watch::Sender<Arc<Vec<MemberInfo>>>,
}

fn members_of(runners: &[FakeRunner]) -> Arc<Vec<MemberInfo>> {
    let member = |runner: &FakeRunner| MemberInfo {
        node: runner.node.clone(),
        address: runner.node.to_string(),
        incarnation: runner.life,
        labels: Default::default(),
    };
    Arc::new(runners.iter().map(member).collect())
}

async fn lead(
    log: &MemoryLog,
    clock: impl clock::Clock + 'static,
    epoch: u64,
    runners: &[FakeRunner],
) -> Term {
    let config = Config {
        node: "leader".parse().expect("valid"),
        fence_after: FENCE,
        drift: Duration::from_millis(500),
        heartbeat: Duration::from_secs(1),
        retention: Retention { count: 100, age: Duration::from_secs(1_000), ..Retention::default() },
        queue_tasks_max: 50,
        payload_inline_max: 64,
        priority_ageing: Duration::from_secs(60),
        append_bytes_max: 2_048,
        clock: Arc::new(clock),
        rng_seed: 1,
        pulse: pulse::Pulse::default(),
        drill: drill::Drill::none(),
    };
    let token = FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(epoch) };
    let lease = Arc::new(TestLease(AtomicBool::new(true)));
    let (members, seen) = watch::channel(members_of(runners));
    let network = Network::of(runners);
    let dispatcher = Dispatcher::assemble(config, token, lease.clone(), Box::new(log.clone()), seen, network);
    let dispatcher = dispatcher.recover(CancellationToken::new()).await.expect("recovers");
    let handle = dispatcher.handle();
    Term { dispatcher, handle, lease, members }
}

fn task(id: u64, kind: &str) -> Submission {
    Submission { id: TaskId::from_u128(u128::from(id) << 96), spec: TaskSpec::new(kind, vec![]) }
}

async fn submit(handle: &Handle, task: Submission) -> TaskId {
    let id = task.id;
    assert_eq!(handle.submit(vec![task]).await, Ok(vec![Submitted::Accepted { id }]));
    id
}

/// Polls for a condition, driving the runners; the time it may take is paused and costs nothing.
async fn until(
    handle: &Handle,
    runners: &[FakeRunner],
    id: TaskId,
    done: impl Fn(&TaskView) -> bool,
) -> TaskView {
    for _ in 0..1_000 {
        for runner in runners {
            runner.beat(handle).await;
            runner.report(handle).await;
        }
        let view = handle.show(id.to_string()).await.expect("it exists");
        if done(&view) {
            return view;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {:#?}", handle.show(id.to_string()).await);
}

fn is(state: TaskState) -> impl Fn(&TaskView) -> bool {
    move |view| view.state == state
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_or_started_before_it_is_committed() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2)];
    let term = lead(&log, clock, 1, &runners).await;
    let handle = &term.handle;
    assert!(runners[0].beat(handle).await);

    log.hold(true);
    let submission = task(1, "wait");
    let id = submission.id;
    let mut call = Box::pin(handle.submit(vec![submission]));
    let early = tokio::time::timeout(Duration::from_secs(5), &mut call).await;
    assert!(early.is_err(), "answered before it was committed: {early:?}");
    assert!(log.waiting() > 0);
    assert!(runners[0].state().started.is_empty(), "started before it was committed");
    log.hold(false);
    assert_eq!(call.await, Ok(vec![Submitted::Accepted { id }]));
    until(handle, &runners, id, |_| runners[0].state().started.len() == 1).await;

    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });
    log.hold(true);
    let early = tokio::time::timeout(Duration::from_secs(5), runners[0].report(handle)).await;
    assert!(early.is_err(), "the outcome was acknowledged before it was committed");
    log.hold(false);
    assert_eq!(runners[0].report(handle).await, 1);
    assert_eq!(handle.show(id.to_string()).await.map(|view| view.state), Ok(TaskState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_task_costs_two_commits_where_a_slot_is_free() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    assert!(runners[0].beat(&term.handle).await);
    let before = log.state().appends;
    let id = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    assert_eq!(log.state().appends - before, 1, "accepted and assigned in one");
    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });
    until(&term.handle, &runners, id, is(TaskState::Succeeded)).await;
    assert_eq!(log.state().appends - before, 2, "and its end");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_reattaches_and_never_restarts() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 4), FakeRunner::new("n2", 4)];
    let term = lead(&log, clock, 1, &runners).await;
    for runner in &runners {
        assert!(runner.beat(&term.handle).await);
    }
    let ids = [submit(&term.handle, task(1, "wait")).await, submit(&term.handle, task(2, "wait")).await];
    for id in ids {
        until(&term.handle, &runners, id, |_| {
            runners.iter().map(|runner| runner.state().started.len()).sum::<usize>() == 2
        })
        .await;
    }
    drop(term); // Killed: nothing is flushed or told.

    // One ends while nobody leads, one goes on.
    let ended = *runners[0].state().started.first().expect("most free slots first: one on each");
    runners[0].end(ended, AttemptEnd::Exited { code: 0 });
    let term = lead(&log, clock, 2, &runners).await;
    until(&term.handle, &runners, ended.task, is(TaskState::Succeeded)).await;
    let other = *runners[1].state().started.first().expect("one on each");
    let view = until(&term.handle, &runners, other.task, is(TaskState::Running)).await;
    assert_eq!(view.attempt_count, 1);
    runners[1].end(other, AttemptEnd::Exited { code: 0 });
    let view = until(&term.handle, &runners, other.task, is(TaskState::Succeeded)).await;
    assert_eq!((view.attempt_count, view.attempts[0].token.epoch), (1, Epoch(1)));
    assert_eq!(runners.iter().map(|runner| runner.state().started.len()).sum::<usize>(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_start_is_asked_about_and_not_repeated() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2), FakeRunner::new("n2", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    runners[0].state().mute = true;
    for runner in &runners {
        assert!(runner.beat(&term.handle).await);
    }
    let id = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    for _ in 0..100 {
        for runner in &runners {
            runner.beat(&term.handle).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });
    let view = until(&term.handle, &runners, id, is(TaskState::Succeeded)).await;
    assert_eq!(view.attempt_count, 1);
    assert!(runners[1].state().started.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_fenced_before_its_task_runs_elsewhere() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2), FakeRunner::new("n2", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    for runner in &runners {
        assert!(runner.beat(&term.handle).await);
    }
    let id = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    assert!(runners[0].beat(&term.handle).await);
    let last_answered = tokio::time::Instant::now();
    runners[0].state().unreachable = true;
    term.members.send_replace(members_of(&runners[1..]));

    let alive = &runners[1..];
    for _ in 0..100 {
        alive[0].beat(&term.handle).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let why = term.handle.why(id.to_string()).await.expect("it exists");
    assert!(why.reason.contains("n1") && why.reason.contains("its right to run ends in"), "{why:?}");
    let view = until(&term.handle, alive, id, |view| view.attempt_count == 2).await;
    assert!(last_answered.elapsed() >= FENCE, "{:?}", last_answered.elapsed());
    assert!(last_answered.elapsed() < FENCE + Duration::from_secs(2), "{:?}", last_answered.elapsed());
    assert_eq!(view.attempts[1].node, runners[1].node);

    // It comes back and still lists the attempt: it is told to end it, and the new one goes on.
    runners[0].state().unreachable = false;
    term.members.send_replace(members_of(&runners));
    until(&term.handle, &runners, id, |_| runners[0].state().running.is_empty()).await;
    let attempt = runners[1].state().started[0];
    runners[1].end(attempt, AttemptEnd::Exited { code: 0 });
    let view = until(&term.handle, &runners, id, is(TaskState::Succeeded)).await;
    assert_eq!(view.attempt_count, 2);
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nothing_is_granted_and_with_it_again_work_goes_on() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    assert!(runners[0].beat(&term.handle).await);
    let first = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, first, |_| runners[0].state().started.len() == 1).await;
    let second = submit(&term.handle, task(2, "noop")).await;

    term.lease.0.store(false, Ordering::SeqCst);
    assert!(!runners[0].beat(&term.handle).await);
    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });
    assert_eq!(runners[0].report(&term.handle).await, 0);
    let refused = term.handle.submit(vec![task(3, "noop")]).await.map_err(|error| error.kind);
    assert_eq!(refused, Err(ApiErrorKind::NoLeader));
    let why = term.handle.why(second.to_string()).await.expect("it exists");
    assert!(why.reason.contains("lost touch"), "{why:?}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(runners[0].state().started.len(), 1);

    term.lease.0.store(true, Ordering::SeqCst);
    until(&term.handle, &runners, second, is(TaskState::Succeeded)).await;
    assert_eq!(term.handle.show(first.to_string()).await.map(|view| view.state), Ok(TaskState::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn without_the_lease_nobody_is_given_up_because_members_seem_to_be_gone() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    assert!(runners[0].beat(&term.handle).await);
    let mut now = task(1, "wait");
    now.spec.on_lost = proto::task::LostPolicy::RequeueNow;
    let id = submit(&term.handle, now).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;

    term.lease.0.store(false, Ordering::SeqCst);
    term.members.send_replace(Arc::default());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(term.handle.show(id.to_string()).await.map(|view| view.state), Ok(TaskState::Running));
    term.lease.0.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let view = term.handle.show(id.to_string()).await.expect("it exists");
    assert_eq!((view.state, view.attempt_count), (TaskState::Queued, 1), "{view:?}");
}

#[tokio::test(start_paused = true)]
async fn cancelled_means_gone() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    assert!(runners[0].beat(&term.handle).await);
    let running = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, running, |_| runners[0].state().started.len() == 1).await;
    let queued = submit(&term.handle, task(2, "wait")).await;
    let why = term.handle.why(queued.to_string()).await.expect("it exists");
    assert!(why.reason.contains("all 1 slots") && why.reason.contains("0 tasks are ahead"), "{why:?}");

    let state =
        |view: Result<TaskView, proto::api::ApiError>| view.map(|view| view.state).map_err(|e| e.kind);
    assert_eq!(state(term.handle.cancel(queued.to_string()).await), Ok(TaskState::Cancelled));
    assert_eq!(state(term.handle.cancel(running.to_string()).await), Ok(TaskState::Cancelling));
    let view = until(&term.handle, &runners, running, is(TaskState::Cancelled)).await;
    assert_eq!(view.attempts[0].end, Some(AttemptEnd::Cancelled));
    assert_eq!(state(term.handle.retry(running.to_string()).await), Ok(TaskState::Queued));
    let view = until(&term.handle, &runners, running, |_| runners[0].state().started.len() == 2).await;
    assert_eq!(view.attempt_count, 2, "attempt numbers go on");
    assert_eq!(state(term.handle.retry(running.to_string()).await), Err(ApiErrorKind::Conflict));
}

#[tokio::test(start_paused = true)]
async fn submissions_are_idempotent_bounded_and_may_be_large() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let handle = &term.handle;
    let mut keyed = task(1, "wait");
    keyed.spec.idempotency_key = Some("k".to_owned());
    let first = submit(handle, keyed.clone()).await;
    let existing = Submitted::Existing { id: first, state: TaskState::Queued };
    assert_eq!(handle.submit(vec![keyed.clone()]).await, Ok(vec![existing.clone()]));
    keyed.id = TaskId::from_u128(2 << 96);
    assert_eq!(handle.submit(vec![keyed]).await, Ok(vec![existing]));

    let refusals = |answer: Result<Vec<Submitted>, _>| -> Vec<Option<ApiErrorKind>> {
        let answers = answer.expect("answered").into_iter();
        answers.map(|one| if let Submitted::Refused(error) = one { Some(error.kind) } else { None }).collect()
    };
    let mut bad = task(3, "no such kind!");
    assert_eq!(refusals(handle.submit(vec![bad.clone()]).await), [Some(ApiErrorKind::Invalid)]);
    bad.spec = TaskSpec::new("wait", vec![0; proto::PAYLOAD_BYTES_MAX + 1]);
    assert_eq!(refusals(handle.submit(vec![bad]).await), [Some(ApiErrorKind::Invalid)]);
    log.state().room = 1_500;
    let two = handle.submit(vec![task(4, "wait"), task(5, "wait")]).await;
    assert_eq!(refusals(two), [None, Some(ApiErrorKind::Full)]);
    log.state().room = 2_500;
    let calls = (40..50).map(|id| handle.submit(vec![task(id, "wait")]));
    let together = futures::future::join_all(calls).await;
    let accepted =
        together.into_iter().filter(|answer| matches!(answer.as_deref(), Ok([Submitted::Accepted { .. }])));
    assert_eq!(accepted.count(), 2, "calls of one turn share the room");
    log.state().room = 1 << 30;

    let mut large = task(6, "wait");
    large.spec.payload = vec![7; 100_000];
    large.spec.priority = 9;
    let id = submit(handle, large).await;
    assert_eq!(log.state().bodies.len(), 1);
    until(handle, &runners, id, |_| {
        runners[0].state().running.values().any(|spec| spec.payload.len() == 100_000)
    })
    .await;
    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });
    until(handle, &runners, id, is(TaskState::Succeeded)).await;
    assert!(log.state().bodies.is_empty(), "nobody needs it any more");

    let many = (100..200).map(|id| task(id, "wait")).collect();
    let refused = refusals(handle.submit(many).await).into_iter().flatten().count();
    assert!((40..=60).contains(&refused), "{refused}");
    let page = handle
        .list(ListFilter { state: Some(TaskState::Queued), limit: Some(1), ..ListFilter::default() })
        .await
        .expect("listed");
    assert!(page.tasks.len() == 1 && page.total > Some(40), "{:?}", page.total);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_submissions_is_bounded_and_holds_up_no_heartbeat() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    log.state().busy = true;
    let started = tokio::time::Instant::now();
    let calls = (0..200_u64).map(|call| {
        let batch = (0..4_000).map(|n| task(1 + call * 4_000 + n, "noop")).collect();
        term.handle.submit(batch)
    });
    let mut flood = Box::pin(futures::future::join_all(calls));
    assert!(futures::poll!(&mut flood).is_pending());
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..3 {
        let beat = tokio::time::timeout(Duration::from_secs(1), runners[0].beat(&term.handle)).await;
        assert_eq!(beat, Ok(true), "a heartbeat waits behind submissions");
    }
    let answers = flood.await;
    assert!(started.elapsed() <= Duration::from_secs(11), "{:?}", started.elapsed());
    let full =
        answers.iter().filter(|answer| matches!(answer, Err(error) if error.kind == ApiErrorKind::Full));
    assert!(full.count() > 100, "what waits is bounded");
}

#[tokio::test(start_paused = true)]
async fn a_payload_is_kept_until_it_is_committed_that_nobody_needs_it() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let mut large = task(1, "wait");
    large.spec.payload = vec![7; 100_000];
    let id = submit(&term.handle, large).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });

    log.hold(true);
    let next = lead(&log, clock, 2, &runners).await; // It learns of the success from the inventory.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(log.waiting() > 0);
    assert_eq!(log.state().bodies.len(), 1, "a third leader may still have to start it");
    log.hold(false);
    until(&next.handle, &runners, id, is(TaskState::Succeeded)).await;
    assert!(log.state().bodies.is_empty());
}

#[tokio::test(start_paused = true)]
async fn watching_wakes_on_news_and_outputs_come_from_the_node() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    let id = submit(&term.handle, task(1, "wait")).await;
    let known = term.handle.show(id.to_string()).await.expect("it exists").revision;
    let kind = |error: proto::api::ApiError| error.kind;
    assert_eq!(
        term.handle.output(id.to_string(), 0, 0, 10).await.map_err(kind),
        Err(ApiErrorKind::NotFound),
        "no attempt yet"
    );
    let started = tokio::time::Instant::now();
    let unchanged = term.handle.watch(vec![(id, known)], Duration::from_secs(3)).await.expect("answered");
    assert!(unchanged[0].revision == known && started.elapsed() >= Duration::from_secs(3));

    let mut watch = Box::pin(term.handle.watch(vec![(id, known)], Duration::from_secs(60)));
    assert!(futures::poll!(&mut watch).is_pending());
    assert!(runners[0].beat(&term.handle).await);
    let news = tokio::time::timeout(Duration::from_secs(5), watch).await.expect("woken").expect("answered");
    assert!(news[0].revision > known && news[0].state == TaskState::Running, "{news:?}");
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    let chunk = term.handle.output(id.to_string(), 0, 0, 10).await.expect("it runs");
    assert_eq!((chunk.bytes.as_slice(), chunk.complete), (b"hello".as_slice(), true));

    // Who is not interested before the end is not answered before it.
    let mut end = Box::pin(term.handle.watch(vec![(id, u64::MAX)], Duration::from_secs(60)));
    assert!(futures::poll!(&mut end).is_pending());
    assert_eq!(term.handle.cancel(id.to_string()).await.map(|view| view.state), Ok(TaskState::Cancelling));
    assert_eq!(end.await.map(|views| views[0].state), Ok(TaskState::Cancelled));
    let unknown = term.handle.watch(vec![(TaskId::from_u128(9), 0)], Duration::ZERO).await.map_err(kind);
    assert_eq!(unknown, Err(ApiErrorKind::NotFound));
}

#[tokio::test(start_paused = true)]
async fn a_failed_log_is_said_and_leaves_nobody_in_the_dark() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let term = lead(&log, clock, 1, &[]).await;
    log.hold(true);
    let mut call = Box::pin(term.handle.submit(vec![task(1, "noop")]));
    assert!(futures::poll!(&mut call).is_pending());
    while log.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    log.fail();
    assert_eq!(call.await.map_err(|error| error.kind), Err(ApiErrorKind::Unknown));
    let mut failed = term.handle.failed();
    let why = tokio::time::timeout(Duration::from_secs(1), failed.wait_for(Option::is_some)).await;
    assert!(why.is_ok());
    let after = term.handle.submit(vec![task(2, "noop")]).await.map_err(|error| error.kind);
    assert_eq!(after, Err(ApiErrorKind::NoLeader));
}

#[tokio::test(start_paused = true)]
async fn draining_refuses_new_work_and_stopping_is_bounded() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    assert!(runners[0].beat(&term.handle).await);
    let id = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    let draining = term.dispatcher.drain();
    let refused = term.handle.submit(vec![task(2, "noop")]).await.map_err(|error| error.kind);
    assert_eq!(refused, Err(ApiErrorKind::NoLeader));
    let attempt = runners[0].state().started[0];
    runners[0].end(attempt, AttemptEnd::Exited { code: 0 });
    assert_eq!(runners[0].report(&term.handle).await, 1, "what ends is still recorded");

    log.hold(true); // The last commits never come.
    runners[0].state().spool.clear();
    let started = tokio::time::Instant::now();
    let stopped = draining.stop(Duration::from_secs(2)).await;
    assert_eq!(stopped.report().problems, Vec::<String>::new());
    assert!(started.elapsed() <= Duration::from_secs(2));
    assert_eq!(term.handle.show(id.to_string()).await.map_err(|e| e.kind), Err(ApiErrorKind::NoLeader));
    assert!(term.handle.stats().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_nobody_runs_is_refused_once_every_member_is_known() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2), FakeRunner::new("n2", 2)];
    let term = lead(&log, clock, 1, &runners).await;
    let handle = &term.handle;
    assert!(runners[0].beat(handle).await);
    submit(handle, task(1, "mine")).await;

    assert!(runners[1].beat(handle).await);
    let answer = handle.submit(vec![task(2, "mine"), task(3, "noop")]).await.expect("an answer");
    let Submitted::Refused(error) = &answer[0] else { panic!("{answer:?}") };
    assert_eq!(error.kind, ApiErrorKind::Invalid);
    assert!(error.message.contains("noop, wait"), "{error}");
    assert!(matches!(answer[1], Submitted::Accepted { .. }), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_late_success_does_not_cut_short_the_attempt_that_runs_now() {
    let (log, clock) = (MemoryLog::new(), TokioClock::start());
    let runners = [FakeRunner::new("n1", 2), FakeRunner::new("n2", 1)];
    let term = lead(&log, clock, 1, &runners).await;
    for runner in &runners {
        assert!(runner.beat(&term.handle).await);
    }
    let id = submit(&term.handle, task(1, "wait")).await;
    until(&term.handle, &runners, id, |_| runners[0].state().started.len() == 1).await;
    runners[0].state().unreachable = true;
    let alive = &runners[1..];
    term.members.send_replace(members_of(alive));
    until(&term.handle, alive, id, |_| alive[0].state().running.len() == 1).await;

    // The first attempt had succeeded all along; its node comes back and says so.
    let first = runners[0].state().started[0];
    runners[0].end(first, AttemptEnd::Exited { code: 0 });
    runners[0].state().unreachable = false;
    term.members.send_replace(members_of(&runners));
    let known = |view: &TaskView| view.attempts[0].end == Some(AttemptEnd::Exited { code: 0 });
    let view = until(&term.handle, &runners, id, known).await;
    assert_eq!(view.state, TaskState::Running, "its second attempt runs");
    until(&term.handle, &runners, id, |_| runners[0].state().spool.is_empty()).await;
    assert_eq!(alive[0].state().running.len(), 1, "nobody ends it half-way");

    // However that one ends, a success that was acknowledged is never run again.
    let second = alive[0].state().started[0];
    alive[0].end(second, AttemptEnd::Exited { code: 1 });
    let view = until(&term.handle, &runners, id, is(TaskState::Succeeded)).await;
    assert_eq!(view.attempt_count, 2);
}
