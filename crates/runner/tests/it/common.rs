//! A leader in a box, and a runner with real shims.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use clock::BootClock;
use futures::future::BoxFuture;
use proto::leader::{Heartbeat, HeartbeatReply, OutcomeReport};
use proto::runner::{Outcome, OutputChunk, Presence, Refusal, RunnerRpc, Start, StartBatch, StartReply};
use proto::task::{AttemptEnd, ExecPayload, TaskSpec};
use proto::{AttemptId, ClusterId, Epoch, FencingToken, Grant, Incarnation, TaskId};
use runner::{
    ExecPolicy, Handle, LeaderLink, LinkError, Options, PidNamespace, Runner, Running, Services, ShimProgram,
    Task, TaskService, Unfit, Work,
};
use tarpc::context;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const EPOCH: u64 = 5;

pub(crate) fn token(epoch: u64) -> FencingToken {
    FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(epoch) }
}

pub(crate) fn attempt(n: u128) -> AttemptId {
    AttemptId { task: TaskId::from_u128(n), number: 1 }
}

/// What the leader does, and has been told.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) answers: bool,
    pub(crate) acknowledges: bool,
    pub(crate) grant: Grant,
    pub(crate) fence_after: Duration,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) beats: Vec<Heartbeat>,
    pub(crate) reports: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Link(Arc<Mutex<Leader>>, Arc<Notify>);

impl Link {
    pub(crate) fn new() -> Self {
        let leader = Leader {
            answers: true,
            acknowledges: true,
            grant: Grant::new(Epoch(EPOCH), 1),
            fence_after: Duration::from_secs(30),
            outcomes: vec![],
            beats: vec![],
            reports: 0,
        };
        Self(Arc::new(Mutex::new(leader)), Arc::new(Notify::new()))
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Leader) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    pub(crate) fn outcome(&self, attempt: AttemptId) -> Option<Outcome> {
        self.with(|leader| leader.outcomes.iter().find(|outcome| outcome.attempt == attempt).cloned())
    }

    pub(crate) async fn end_of(&self, attempt: AttemptId) -> AttemptEnd {
        eventually(&format!("an outcome of {attempt}"), || self.outcome(attempt).map(|outcome| outcome.end))
            .await
    }
}

impl LeaderLink for Link {
    fn heartbeat(&self, beat: Heartbeat) -> BoxFuture<'_, Result<HeartbeatReply, LinkError>> {
        let reply = self.with(|leader| {
            leader.beats.push(beat);
            let (grant, fence_after_ms) = (leader.grant, leader.fence_after.as_millis() as u64);
            leader.answers.then(|| HeartbeatReply { token: token(EPOCH), grant, fence_after_ms, end: vec![] })
        });
        Box::pin(std::future::ready(reply.ok_or(LinkError::NoLeader)))
    }

    fn outcomes(&self, report: OutcomeReport) -> BoxFuture<'_, Result<Vec<AttemptId>, LinkError>> {
        let acknowledged = self.with(|leader| {
            leader.reports += 1;
            let attempts = report.outcomes.iter().map(|outcome| outcome.attempt).collect();
            leader.outcomes.extend(report.outcomes);
            leader.acknowledges.then_some(attempts)
        });
        Box::pin(std::future::ready(acknowledged.ok_or(LinkError::NoLeader)))
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.1.notified())
    }
}

pub(crate) fn shim() -> ShimProgram {
    ShimProgram { program: PathBuf::from(env!("CARGO_BIN_EXE_taskd-shim")), args: vec![] }
}

/// A shim that is started by a shell script, which has its file as `$SHIM`.
pub(crate) fn shim_by(dir: &Path, script: &str) -> ShimProgram {
    use std::os::unix::fs::OpenOptionsExt;
    let program = dir.join("shim.sh");
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o700).open(&program).unwrap();
    let text = format!("#!/bin/sh\nSHIM='{}'\n{script}\n", env!("CARGO_BIN_EXE_taskd-shim"));
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    ShimProgram { program, args: vec![] }
}

pub(crate) fn options(data_dir: &Path, link: &Link, life: u128) -> Options {
    let mut options = Options::new(
        "n1".parse().unwrap(),
        "127.0.0.1:1".to_owned(),
        Incarnation::from_u128(life),
        "machine".to_owned(),
        data_dir.to_owned(),
        Services::built_in(ExecPolicy::Any),
        shim(),
        BootClock::shared(),
        Arc::new(link.clone()),
    );
    options.kill_grace = Duration::from_millis(300);
    // Most tests are about what a boot ends.
    options.adopt = false;
    options.heartbeat = Duration::from_millis(100);
    options
}

/// A booted runner that holds a grant.
pub(crate) struct Node {
    pub(crate) runner: Runner<Running>,
    pub(crate) handle: Handle,
    pub(crate) link: Link,
    pub(crate) life: Incarnation,
}

impl Node {
    pub(crate) async fn boot(options: Options, link: &Link) -> Self {
        let life = options.incarnation;
        let runner = Runner::new(options).boot(CancellationToken::new()).await.unwrap();
        let handle = runner.handle();
        handle.observe(token(EPOCH));
        let node = Self { runner, handle, link: link.clone(), life };
        if link.with(|leader| leader.answers) {
            node.has_grant().await;
        }
        node
    }

    pub(crate) async fn has_grant(&self) {
        eventually("a grant", || self.handle.status().borrow().grant).await;
    }

    pub(crate) fn batch(&self, starts: Vec<Start>) -> StartBatch {
        let grant = self.link.with(|leader| leader.grant);
        StartBatch { token: token(EPOCH), incarnation: self.life, grant, starts }
    }

    pub(crate) async fn try_start(&self, batch: StartBatch) -> Result<Vec<StartReply>, Refusal> {
        self.handle.server().start(context::current(), batch).await
    }

    pub(crate) async fn start(&self, attempt: AttemptId, spec: TaskSpec) {
        let replies = self.try_start(self.batch(vec![Start { attempt, spec, checkpoint: None }])).await;
        assert_eq!(replies, Ok(vec![StartReply::Accepted]));
    }

    pub(crate) async fn cancel(&self, attempt: AttemptId) -> Vec<Presence> {
        self.handle.server().cancel(context::current(), token(EPOCH), vec![attempt]).await.unwrap()
    }

    pub(crate) async fn confirm(&self, attempt: AttemptId) -> Presence {
        let answers = self.handle.server().confirm(context::current(), token(EPOCH), vec![attempt]).await;
        answers.unwrap().remove(0)
    }

    pub(crate) async fn output(&self, attempt: AttemptId, offset: u64) -> Result<OutputChunk, Refusal> {
        self.handle.server().output(context::current(), attempt, offset, 1 << 20).await
    }

    /// The whole output, once it is complete.
    pub(crate) async fn text(&self, attempt: AttemptId) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut text = Vec::new();
        loop {
            let chunk = self.output(attempt, text.len() as u64).await.unwrap();
            text.extend(chunk.bytes);
            if chunk.complete {
                return String::from_utf8(text).unwrap();
            }
            assert!(Instant::now() < deadline, "the output never completes");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn stop(self) {
        let _ = self.runner.drain().stop(Duration::from_secs(4)).await;
    }
}

pub(crate) fn exec(argv: &[&str]) -> TaskSpec {
    let argv = argv.iter().map(|arg| (*arg).to_owned()).collect();
    let payload = ExecPayload { argv, ..ExecPayload::default() };
    TaskSpec::new("exec", serde_json::to_vec(&payload).unwrap())
}

pub(crate) fn sh(script: &str) -> TaskSpec {
    exec(&["sh", "-c", script])
}

/// A task whose processes can be told from every other on the machine: `sleep` for a unique time.
pub(crate) struct Sleeper(String);

impl Sleeper {
    pub(crate) fn new(salt: u32) -> Self {
        Self(format!("1000.{:07}{salt:03}", std::process::id()))
    }

    pub(crate) fn command(&self) -> String {
        format!("sleep {}", self.0)
    }

    /// Its processes, however they are related by now.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&cmdline).starts_with(&format!("sleep\0{}", self.0)) {
                pids.push(pid);
            }
        }
        pids
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.pids().is_empty()
    }

    pub(crate) async fn runs(&self, count: usize) {
        eventually("the task's processes", || (self.pids().len() >= count).then_some(())).await;
    }
}

/// A service that blocks the thread which polls it, so that nobody can end it but the test.
#[derive(Debug)]
pub(crate) struct Stubborn {
    begun: Arc<AtomicBool>,
    until: Arc<Mutex<mpsc::Receiver<()>>>,
}

/// Ends what is [`Stubborn`] when it is dropped.
pub(crate) struct Hold {
    begun: Arc<AtomicBool>,
    _release: mpsc::Sender<()>,
}

impl Stubborn {
    pub(crate) fn new() -> (Hold, Self) {
        let (release, until) = mpsc::channel();
        let begun = Arc::<AtomicBool>::default();
        (
            Hold { begun: Arc::clone(&begun), _release: release },
            Self { begun, until: Arc::new(Mutex::new(until)) },
        )
    }
}

impl Hold {
    pub(crate) async fn begun(&self) {
        eventually("the work", || self.begun.load(Ordering::Relaxed).then_some(())).await;
    }
}

impl TaskService for Stubborn {
    fn prepare(&self, _: Task) -> Result<Work, Unfit> {
        let (begun, until) = (Arc::clone(&self.begun), Arc::clone(&self.until));
        Ok(Work::InProcess(Box::pin(async move {
            begun.store(true, Ordering::Relaxed);
            let _ = until.lock().unwrap().recv();
            Ok(Vec::new())
        })))
    }
}

/// The shim of an attempt.
pub(crate) fn shim_pid(data_dir: &Path, attempt: AttemptId) -> i32 {
    let state = std::fs::read(data_dir.join(format!("runner/attempts/{attempt}/shim.json"))).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    state["shim"]["pid"].as_i64().unwrap().try_into().unwrap()
}

pub(crate) fn signal(pid: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        for pid in self.pids() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) const MODES: [PidNamespace; 2] = [PidNamespace::Auto, PidNamespace::Never];
