//! A node that is not one: answers the API as its tasks' commands tell it to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::api::{Api, ApiError, ApiErrorKind, ListFilter, Submission, Submitted, TaskPage, Via, Why};
use proto::runner::OutputChunk;
use proto::status::{
    ClusterStatus, CoordinationKind, CoordinationService, CoordinationStatus, Health, LeaderStatus,
    LogStatus, MemberStatus, Slots,
};
use proto::task::{Attempt, AttemptEnd, ExecPayload, TaskState, TaskView};
use proto::{ClusterId, Epoch, FencingToken, Grant, Incarnation, NodeId, TaskId};
use tarpc::context::Context;
use taskd::net::{Identity, Limits, Listener, Tcp, serve};
use tokio::task::JoinSet;

/// The binary, without what the machine's environment may say to it.
pub(crate) fn taskd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskd"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TASKD_") {
            command.env_remove(name);
        }
    }
    command
}

/// Exit code, stdout, stderr.
pub(crate) fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = taskd(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(stdout), text(stderr));
    assert!(!stderr.contains("panicked"), "{args:?}: {stderr}");
    (status.code().expect("not ended by a signal"), stdout, stderr)
}

/// A fake node on loopback, which ends when dropped.
pub(crate) struct FakeNode {
    pub(crate) address: String,
    runtime: Option<tokio::runtime::Runtime>,
}

impl FakeNode {
    pub(crate) fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let identity = Identity::node(node());
        let listen = "127.0.0.1:0".parse().unwrap();
        let network = Tcp::shared();
        let listener = Listener::bind(&network, listen, identity, Limits::default());
        let mut listener = runtime.block_on(listener).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fake = Fake::default();
        runtime.handle().spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let incoming = listener.accept().await;
                connections.spawn(serve(incoming, fake.clone().serve()));
            }
        });
        Self { address, runtime: Some(runtime) }
    }

    /// Runs the binary against this node.
    pub(crate) fn run(&self, args: &[&str]) -> (i32, String, String) {
        run(&[args, &["--addr", &self.address]].concat())
    }

    /// Submits a command and returns its id.
    pub(crate) fn submit(&self, command: &[&str]) -> String {
        let args = [&["task", "submit", "--addr", &self.address, "--"], command].concat();
        let (code, stdout, stderr) = run(&args);
        assert_eq!((code, stderr.as_str()), (0, ""), "{args:?}");
        stdout.trim_end().to_owned()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

fn node() -> NodeId {
    "n1".parse().unwrap()
}

#[derive(Clone, Default)]
struct Fake {
    tasks: Arc<Mutex<BTreeMap<TaskId, TaskView>>>,
}

impl Fake {
    fn find(&self, prefix: &str) -> Result<TaskView, ApiError> {
        let tasks = self.tasks.lock().unwrap();
        let found: Vec<_> = tasks.values().filter(|task| task.id.to_string().starts_with(prefix)).collect();
        match found.as_slice() {
            [task] => Ok((*task).clone()),
            [] => Err(ApiError::new(ApiErrorKind::NotFound, format!("there is no task {prefix}"))),
            _ => Err(ApiError::new(ApiErrorKind::Ambiguous, format!("{prefix} fits several tasks"))),
        }
    }
}

/// What the first word of a command makes of its task.
fn outcome(argv: &[String]) -> (TaskState, Option<AttemptEnd>) {
    let number = || argv[1].parse().unwrap();
    match argv[0].as_str() {
        "exit" if argv[1] == "0" => (TaskState::Succeeded, Some(AttemptEnd::Exited { code: 0 })),
        "exit" => (TaskState::Failed, Some(AttemptEnd::Exited { code: number() })),
        "signal" => (TaskState::Failed, Some(AttemptEnd::Signaled { signal: number() })),
        "lost" => (TaskState::Lost, Some(AttemptEnd::Lost { reason: "the node is gone".to_owned() })),
        _ => (TaskState::Running, None),
    }
}

impl Api for Fake {
    async fn submit(self, _: Context, _: Via, tasks: Vec<Submission>) -> Result<Vec<Submitted>, ApiError> {
        let mut known = self.tasks.lock().unwrap();
        Ok(tasks
            .into_iter()
            .map(|Submission { id, spec }| {
                if spec.idempotency_key.as_deref() == Some("leaderless") {
                    let message = "nobody leads; nothing was queued";
                    return Submitted::Refused(ApiError::new(ApiErrorKind::NoLeader, message));
                }
                let payload = serde_json::from_slice::<ExecPayload>(&spec.payload);
                let argv = payload.map_or_else(|_| vec!["exit".to_owned(), "0".to_owned()], |p| p.argv);
                let (state, end) = outcome(&argv);
                let attempt = Attempt {
                    number: 1,
                    node: node(),
                    incarnation: Incarnation::from_u128(1),
                    token: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(3) },
                    grant: Grant(1),
                    assigned_ms: 1_700_000_000_000,
                    ended_ms: end.as_ref().map(|_| 1_700_000_001_500),
                    end,
                };
                let view = TaskView {
                    id,
                    revision: 1,
                    spec,
                    state,
                    submitted_ms: 1_700_000_000_000,
                    finished_ms: None,
                    not_before_ms: None,
                    attempt_count: 1,
                    attempts: vec![attempt],
                };
                known.insert(id, view);
                Submitted::Accepted { id }
            })
            .collect())
    }

    async fn show(self, _: Context, _: Via, id: String) -> Result<TaskView, ApiError> {
        self.find(&id)
    }

    async fn list(self, _: Context, _: Via, filter: ListFilter) -> Result<TaskPage, ApiError> {
        let tasks = self.tasks.lock().unwrap();
        let matching: Vec<_> = tasks
            .values()
            .filter(|task| filter.state.is_none_or(|state| task.state == state))
            .cloned()
            .collect();
        let total = matching.len() as u64;
        Ok(TaskPage {
            tasks: matching.into_iter().take(filter.limit.unwrap_or(50) as usize).collect(),
            total,
        })
    }

    async fn why(self, _: Context, _: Via, id: String) -> Result<Why, ApiError> {
        let task = self.find(&id)?;
        let remedy = Some(format!("taskd task cancel {}", task.id));
        Ok(Why { id: task.id, state: task.state, reason: "n1 runs it".to_owned(), remedy })
    }

    async fn cancel(self, _: Context, _: Via, id: String) -> Result<TaskView, ApiError> {
        let mut task = self.find(&id)?;
        task.state = TaskState::Cancelling;
        Ok(task)
    }

    async fn retry(self, _: Context, _: Via, id: String) -> Result<TaskView, ApiError> {
        let task = self.find(&id)?;
        Err(ApiError::new(ApiErrorKind::Conflict, format!("task {} is {}", task.id, task.state)))
    }

    async fn watch(
        self,
        _: Context,
        _: Via,
        tasks: Vec<(TaskId, u64)>,
        patience_ms: u64,
    ) -> Result<Vec<TaskView>, ApiError> {
        let views: Vec<_> = {
            let known = self.tasks.lock().unwrap();
            tasks.iter().filter_map(|(id, _)| known.get(id).cloned()).collect()
        };
        let news =
            views.iter().zip(&tasks).any(|(view, (_, seen))| view.state.is_final() || view.revision > *seen);
        if !news {
            tokio::time::sleep(Duration::from_millis(patience_ms)).await;
        }
        Ok(views)
    }

    async fn output(
        self,
        _: Context,
        _: Via,
        id: String,
        _attempt: u32,
        offset: u64,
        bytes_max: u32,
    ) -> Result<OutputChunk, ApiError> {
        let task = self.find(&id)?;
        let payload: ExecPayload = serde_json::from_slice(&task.spec.payload).unwrap();
        // In small pieces, so that more than one is needed.
        let all = format!("ran {}\n", payload.argv.join(" ")).into_bytes();
        let from = usize::try_from(offset).unwrap().min(all.len());
        let to = (from + 4.min(bytes_max as usize)).min(all.len());
        let complete = task.state.is_final() && to == all.len();
        Ok(OutputChunk { offset: from as u64, bytes: all[from..to].to_vec(), complete })
    }

    async fn status(self, _: Context, _: Via) -> Result<ClusterStatus, ApiError> {
        Ok(ClusterStatus {
            health: Health::Degraded,
            summary: "DEGRADED: n1 leads (epoch 3), 1 member; but n2 is unreachable".to_owned(),
            remedy: Some("look at n2".to_owned()),
            notes: vec!["n2 has joined again 3 times".to_owned()],
            condition: None,
            answered_by: node(),
            cluster: Some(ClusterId::from_u128(1)),
            leader: Some(LeaderStatus {
                node: node(),
                address: "127.0.0.1:10601".to_owned(),
                epoch: Epoch(3),
                sequence: Some(7),
                serving: true,
                lease_ms: Some(1_500),
            }),
            members: vec![MemberStatus {
                index: 1,
                sequence: 7,
                node: node(),
                address: "127.0.0.1:10601".to_owned(),
                role: "leader".to_owned(),
                phase: "running".to_owned(),
                priority: -5,
                slots: Some(Slots { total: 4, free: 3 }),
                version: "0.1.0".to_owned(),
                note: None,
                condition: None,
                heard_ms: None,
            }],
            coordination: CoordinationStatus {
                hosts: "zk1:2181/taskd".to_owned(),
                state: "connected".to_owned(),
                for_ms: 61_000,
                session: Some("0x1000".to_owned()),
                session_timeout_ms: 4_000,
                servers: Vec::new(),
                service: Some(CoordinationService::new(CoordinationKind::Ensemble, "3.8.0")),
            },
            log: Some(LogStatus { bytes: 4096, live_bytes: 2048, budget_bytes: 1 << 20, segments: 2 }),
            tasks: [(TaskState::Running, 1), (TaskState::Failed, 0)].into(),
            fences: Vec::new(),
        })
    }

    async fn handover(self, _: Context, _: Via, to: Option<NodeId>) -> Result<NodeId, ApiError> {
        to.ok_or_else(|| ApiError::new(ApiErrorKind::Conflict, "no other node is ready"))
    }

    async fn set_priority(self, _: Context, _: Via, node: NodeId, _: i32) -> Result<(), ApiError> {
        if node.as_str() == "n1" {
            Ok(())
        } else {
            Err(ApiError::new(ApiErrorKind::NotFound, format!("there is no node {node}")))
        }
    }
}
