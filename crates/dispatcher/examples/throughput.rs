//! How many tasks per second the dispatcher alone can carry: a log in memory that commits after a given time, runners
//! in this process, over tarpc channels, that end everything at once.
//!
//! `throughput [TASKS [RUNNERS [SLOTS [COMMIT_US]]]]`, by default 100,000 3 64 2,000. Then, one task at a time, how long
//! it takes from the submission to the start, whose floor is the time of one commit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clock::BootClock;
use dispatcher::storage::{
    Authority, BodyFailure, BodyRef, Change, Commit, Failure, Log, Opened, Refused, Storage,
};
use dispatcher::{ConnectError, Dispatcher, Handle, MemberInfo, Options, Retention, Runners};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use proto::api::{Submission, Submitted};
use proto::leader::{Heartbeat, OutcomeReport};
use proto::runner::{
    Capacity, Inventory, Outcome, OutputChunk, Presence, Refusal, RunnerRpc, RunnerRpcClient, StartBatch,
    StartReply,
};
use proto::status::LogStatus;
use proto::task::{AttemptEnd, TaskSpec};
use proto::{AttemptId, ClusterId, Epoch, FencingToken, Grant, Incarnation, NodeId, TaskId};
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const SUBMITTERS: u64 = 4;
const BATCH: u64 = 500;
const SINGLES: u64 = 200;
const OUTCOMES_MAX: usize = 2_000;

fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>().expect("a number"));
    let mut next = |default| args.next().unwrap_or(default);
    let (tasks, runners, slots, commit_us) = (next(100_000), next(3), next(64), next(2_000));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(measure(
        tasks,
        runners,
        slots as u32,
        Duration::from_micros(commit_us),
    ));
}

async fn measure(tasks: u64, count: u64, slots: u32, commit: Duration) {
    let runtime = coord::ClientRuntime::start().expect("a thread");
    let options = Options {
        node: node(0),
        fence_after: Duration::from_secs(30),
        drift: Duration::from_millis(500),
        heartbeat: Duration::from_secs(1),
        retention: Retention { age: Duration::from_secs(3_600), ..Retention::default() },
        queue_tasks_max: 10_000_000,
        payload_inline_max: 4_096,
        priority_ageing: Duration::from_secs(60),
        log: coord::log::LogOptions::default(),
        coord: coord::Options::new(String::new(), "/none"),
        runtime,
        clock: BootClock::shared(),
        rng_seed: 1,
        pulse: pulse::Pulse::default(),
    };
    let log = Arc::new(Memory { commit, appends: AtomicUsize::new(0), bytes: AtomicUsize::new(0) });
    let runners: Vec<Runner> = (1..=count).map(|n| Runner::new(n, slots)).collect();
    let member = |runner: &Runner| MemberInfo {
        node: runner.node.clone(),
        address: runner.node.to_string(),
        incarnation: runner.life,
        labels: BTreeMap::new(),
    };
    let (_members, seen) = watch::channel(Arc::new(runners.iter().map(member).collect::<Vec<_>>()));
    let token = FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(1) };
    let network = Arc::new(Network { runners: runners.clone(), tasks: Arc::default() });
    let storage = Box::new(Shared(Arc::clone(&log)));
    let dispatcher = Dispatcher::over(&options, token, Arc::new(Always), storage, seen, network);
    let dispatcher = dispatcher.recover(CancellationToken::new()).await.expect("recovers");
    let handle = dispatcher.handle();
    let mut work = JoinSet::new();
    for runner in &runners {
        runner.beat(&handle).await;
        work.spawn(runner.clone().report(handle.clone()));
        work.spawn(runner.clone().beats(handle.clone()));
    }

    let begun = Instant::now();
    let mut submitters = JoinSet::new();
    for submitter in 0..SUBMITTERS {
        submitters.spawn(submit(handle.clone(), submitter, tasks / SUBMITTERS));
    }
    while let Some(joined) = submitters.join_next().await {
        joined.expect("no submitter panics");
    }
    let submitted = begun.elapsed();
    let all = tasks / SUBMITTERS * SUBMITTERS;
    while ended(&runners) < all as usize {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = begun.elapsed();
    let appends = log.appends.load(Ordering::Relaxed);
    let bytes = log.bytes.load(Ordering::Relaxed);
    println!(
        "{all} tasks: {:.0}/s (accepted after {submitted:?}, ended after {took:?}); {appends} appends, {} bytes a task",
        all as f64 / took.as_secs_f64(),
        bytes / all as usize
    );

    let mut starts = Vec::new();
    for n in 0..SINGLES {
        let before = ended(&runners);
        let begun = Instant::now();
        submit_batch(&handle, vec![task(9, n)]).await;
        while ended(&runners) == before {
            tokio::task::yield_now().await;
        }
        starts.push(begun.elapsed());
    }
    starts.sort();
    let micros = |at: usize| starts[at * starts.len() / 100].as_micros();
    println!("submit to acknowledged end, one at a time: p50 {} us, p99 {} us", micros(50), micros(99));
    work.shutdown().await;
    let stopped = dispatcher.drain().stop(Duration::from_secs(2)).await;
    assert_eq!(stopped.report().problems, Vec::<String>::new());
}

fn node(n: u64) -> NodeId {
    format!("n{n}").parse().expect("valid")
}

fn ended(runners: &[Runner]) -> usize {
    runners.iter().map(|runner| runner.ended.load(Ordering::Relaxed)).sum()
}

fn task(submitter: u64, n: u64) -> Submission {
    // Scattered like random ids.
    let bits =
        (u128::from(submitter) << 64 | u128::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    Submission { id: TaskId::from_u128(bits | 1), spec: TaskSpec::new("noop", vec![]) }
}

async fn submit(handle: Handle, submitter: u64, count: u64) {
    let mut from = 0;
    while from < count {
        let to = count.min(from + BATCH);
        submit_batch(&handle, (from..to).map(|n| task(submitter * 2, n)).collect()).await;
        from = to;
    }
}

async fn submit_batch(handle: &Handle, tasks: Vec<Submission>) {
    let submitted = handle.submit(tasks).await.expect("answered");
    assert!(submitted.iter().all(|one| matches!(one, Submitted::Accepted { .. })), "{submitted:?}");
}

#[derive(Debug)]
struct Always;

impl Authority for Always {
    fn holds(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Memory {
    commit: Duration,
    appends: AtomicUsize,
    bytes: AtomicUsize,
}

impl Log for Memory {
    fn append(&self, changes: Vec<Change>) -> Result<Commit, Refused> {
        let bytes: usize = changes.iter().map(|change| change.body.as_ref().map_or(0, Bytes::len)).sum();
        self.appends.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let at = tokio::time::Instant::now() + self.commit;
        Ok(tokio::time::sleep_until(at).map(Ok).boxed())
    }

    fn room(&self) -> u64 {
        u64::MAX
    }

    fn status(&self) -> LogStatus {
        LogStatus { bytes: 0, live_bytes: 0, budget_bytes: 0, segments: 0 }
    }

    fn put_body(&self, _: u128, _: Bytes) -> BoxFuture<'static, Result<BodyRef, BodyFailure>> {
        async { Err(BodyFailure::Full) }.boxed()
    }

    fn get_body(&self, _: BodyRef) -> BoxFuture<'static, Result<Bytes, BodyFailure>> {
        async { Err(BodyFailure::Missing) }.boxed()
    }

    fn delete_body(&self, _: BodyRef) -> BoxFuture<'static, Result<(), BodyFailure>> {
        async { Ok(()) }.boxed()
    }

    fn collect_bodies(&self, _: Vec<BodyRef>) -> BoxFuture<'static, Result<usize, BodyFailure>> {
        async { Ok(0) }.boxed()
    }

    fn failure(&self) -> watch::Receiver<Option<Failure>> {
        watch::channel(None).1
    }
}

#[derive(Debug)]
struct Shared(Arc<Memory>);

impl Storage for Shared {
    fn open(&mut self, _: CancellationToken) -> BoxFuture<'_, Result<Opened, String>> {
        let log = Arc::clone(&self.0);
        async move { Ok(Opened { log, live: vec![], ahead: None, session_timeout: Duration::from_secs(4) }) }
            .boxed()
    }

    fn close(self: Box<Self>, _: Duration) -> BoxFuture<'static, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

/// Ends whatever it starts at once.
#[derive(Clone, Debug)]
struct Runner {
    node: NodeId,
    life: Incarnation,
    slots: u32,
    grant: Arc<Mutex<Option<Grant>>>,
    begun: mpsc::UnboundedSender<AttemptId>,
    unreported: Arc<Mutex<mpsc::UnboundedReceiver<AttemptId>>>,
    ended: Arc<AtomicUsize>,
}

impl Runner {
    fn new(n: u64, slots: u32) -> Self {
        // What waits in it is bounded by the slots.
        let (begun, unreported) = mpsc::unbounded_channel();
        Self {
            node: node(n),
            life: Incarnation::from_u128(u128::from(n)),
            slots,
            grant: Arc::default(),
            begun,
            unreported: Arc::new(Mutex::new(unreported)),
            ended: Arc::default(),
        }
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            slots: self.slots,
            free: self.slots,
            labels: BTreeMap::new(),
            kinds: vec!["exec".to_owned(), "noop".to_owned(), "sleep".to_owned()],
            draining: false,
        }
    }

    async fn beat(&self, leader: &Handle) {
        let mut grant = self.grant.lock().await;
        let beat = Heartbeat {
            node: self.node.clone(),
            address: self.node.to_string(),
            incarnation: self.life,
            ended_incarnations: vec![],
            grant: *grant,
            capacity: self.capacity(),
            running: vec![],
            leave_ms: None,
            reports: vec![],
        };
        *grant = Some(leader.heartbeat(beat).await.expect("answered").grant);
    }

    async fn beats(self, leader: Handle) {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.beat(&leader).await;
        }
    }

    async fn report(self, leader: Handle) {
        let mut unreported = self.unreported.lock().await;
        let mut attempts = Vec::new();
        while unreported.recv_many(&mut attempts, OUTCOMES_MAX).await > 0 {
            let outcomes = attempts.drain(..).map(|attempt| Outcome {
                attempt,
                end: AttemptEnd::Exited { code: 0 },
                started_ms: Some(1),
                ended_ms: 1,
                output_bytes: 0,
                checkpoint: None,
            });
            let outcomes = outcomes.collect();
            let report = OutcomeReport { node: self.node.clone(), incarnation: self.life, outcomes };
            let acknowledged = leader.outcomes(report).await.expect("acknowledged");
            self.ended.fetch_add(acknowledged.len(), Ordering::Relaxed);
        }
    }
}

impl RunnerRpc for Runner {
    async fn start(self, _: Context, request: StartBatch) -> Result<Vec<StartReply>, Refusal> {
        let replies = request.starts.iter().map(|start| match self.begun.send(start.attempt) {
            Ok(()) => StartReply::Accepted,
            Err(_) => StartReply::Busy,
        });
        Ok(replies.collect())
    }

    async fn cancel(
        self,
        _: Context,
        _: FencingToken,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<Presence>, Refusal> {
        Ok(attempts.iter().map(|_| Presence::Running).collect())
    }

    async fn inventory(self, _: Context, _: FencingToken) -> Result<Inventory, Refusal> {
        Ok(Inventory {
            node: self.node.clone(),
            incarnation: self.life,
            ended_incarnations: vec![],
            capacity: self.capacity(),
            running: vec![],
            outcomes: vec![],
        })
    }

    async fn confirm(
        self,
        _: Context,
        _: FencingToken,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<Presence>, Refusal> {
        // It has been reported or is about to be.
        Ok(attempts.iter().map(|_| Presence::Running).collect())
    }

    async fn output(self, _: Context, _: AttemptId, _: u64, _: u32) -> Result<OutputChunk, Refusal> {
        Err(Refusal::NoSuchAttempt)
    }
}

#[derive(Debug)]
struct Network {
    runners: Vec<Runner>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Runners for Network {
    fn connect(&self, node: &NodeId, _: &str) -> BoxFuture<'static, Result<RunnerRpcClient, ConnectError>> {
        let runner = self.runners.iter().find(|runner| runner.node == *node).cloned();
        let tasks = Arc::clone(&self.tasks);
        async move {
            let runner = runner.ok_or_else(|| ConnectError("connection refused".to_owned()))?;
            let (near, far) = tarpc::transport::channel::bounded(64);
            let client = RunnerRpcClient::new(tarpc::client::Config::default(), near);
            let mut tasks = tasks.lock().await;
            let serve = BaseChannel::with_defaults(far).execute(runner.serve());
            tasks.spawn(serve.for_each_concurrent(None, |call| call));
            tasks.spawn(client.dispatch.map(|_| ()));
            Ok(client.client)
        }
        .boxed()
    }
}
