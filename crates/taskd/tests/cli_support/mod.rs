//! A node that is not one: answers the API as its tasks' commands tell it to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::api::{Api, ApiError, ApiErrorKind, ListFilter, Submission, Submitted, TaskPage, Via, Why};
use proto::operate::{OperateDone, OperateOrder, Operations};
use proto::runner::OutputChunk;
use proto::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, SchedulePage, ScheduleView};
use proto::status::{
    ClusterStatus, CoordinationKind, CoordinationService, CoordinationStatus, Health, LeaderStatus,
    LogStatus, MemberStatus, Slots,
};
use proto::task::{Attempt, AttemptEnd, ExecPayload, TaskState, TaskView};
use proto::vip::{
    Applied, Backend, ConfigEntry, ConfigText, Drained, LocalPhase, LocalService, NodeReport, ServiceName,
    ServiceState, ServiceView, VipEvent, VipOrder, VipPage, VipView, VipWhy,
};
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
    /// Configurations that were applied, the first one first.
    texts: Arc<Mutex<Vec<String>>>,
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

fn no_schedule(name: &ScheduleName) -> ApiError {
    ApiError::new(ApiErrorKind::NotFound, format!("there is no schedule {name}"))
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
                    started_ms: None,
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
                    waits_for: Vec::new(),
                    note: None,
                    progress: None,
                    checkpoint: None,
                    steps: proto::history::Steps::default(),
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
            .filter(|task| filter.states.is_empty() || filter.states.contains(&task.state))
            .cloned()
            .collect();
        let total = matching.len() as u64;
        Ok(TaskPage {
            next: None,
            tasks: matching.into_iter().take(filter.limit.unwrap_or(50) as usize).collect(),
            total: Some(total),
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

    async fn schedule_order(
        self,
        _: Context,
        _: Via,
        order: ScheduleOrder,
    ) -> Result<ScheduleDone, ApiError> {
        Err(no_schedule(order.name()))
    }

    async fn schedule(self, _: Context, _: Via, name: ScheduleName) -> Result<ScheduleView, ApiError> {
        Err(no_schedule(&name))
    }

    async fn schedules(self, _: Context, _: Via, _: Option<ScheduleName>) -> Result<SchedulePage, ApiError> {
        Ok(SchedulePage { schedules: Vec::new(), total: 0 })
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
            paused: None,
            drained: Default::default(),
        })
    }

    async fn operate(self, _: Context, _: Via, order: OperateOrder) -> Result<OperateDone, ApiError> {
        match order {
            OperateOrder::Drain { node, .. } | OperateOrder::Undrain { node } => {
                Err(ApiError::new(ApiErrorKind::NotFound, format!("there is no node {node}")))
            }
            _ => Ok(OperateDone { changed: false, now: Operations::default() }),
        }
    }

    async fn operations(self, _: Context, _: Via) -> Result<Operations, ApiError> {
        Ok(Operations::default())
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

    async fn vips(self, _: Context, _: Via) -> Result<VipPage, ApiError> {
        Ok(vip_page())
    }

    async fn vip_why(self, _: Context, _: Via, service: ServiceName) -> Result<VipWhy, ApiError> {
        let page = vip_page();
        let found = page.services.into_iter().find(|known| known.service == service);
        let found = found.ok_or_else(|| {
            ApiError::new(
                ApiErrorKind::NotFound,
                format!("there is no service {service}; there are iscsi, nfs"),
            )
        })?;
        Ok(VipWhy {
            service,
            state: found.state,
            reasons: vec!["one reason".to_owned(), found.why],
            remedy: found.remedy,
        })
    }

    async fn vip_order(self, _: Context, _: Via, order: VipOrder) -> Result<String, ApiError> {
        match order {
            // It was taken, and its answer is lost: the connection ends with whoever serves it.
            VipOrder::Move { service, .. } if service.as_str() == "nfs" => {
                std::panic::resume_unwind(Box::new("the node is gone"))
            }
            VipOrder::Drain { node, .. } => Ok(format!("{node} is drained")),
            VipOrder::Undrain { node } => Ok(format!("{node} may hold services again")),
            VipOrder::Move { service, to: Some(to) } => Ok(format!("{service} goes to {to}")),
            VipOrder::Move { service, to: None } | VipOrder::Release { service } => {
                Err(ApiError::new(ApiErrorKind::Conflict, format!("nobody else can hold {service}")))
            }
        }
    }

    async fn config_get(self, _: Context, _: Via, revision: Option<u64>) -> Result<ConfigText, ApiError> {
        let texts = self.texts.lock().unwrap();
        let newest = u64::try_from(texts.len()).unwrap();
        if revision.is_none() && texts.last().is_some_and(|text| text.contains(UNREADABLE)) {
            return Err(ApiError::new(ApiErrorKind::Conflict, "/taskd/vip/config cannot be read"));
        }
        match revision.unwrap_or(newest) {
            0 => Ok(ConfigText { revision: 0, applied_ms: 0, by: None, text: String::new() }),
            wanted if wanted <= newest => {
                Ok(config_text(wanted, &texts[usize::try_from(wanted).unwrap() - 1]))
            }
            wanted => Err(ApiError::new(ApiErrorKind::NotFound, format!("there is no revision {wanted}"))),
        }
    }

    async fn config_history(self, _: Context, _: Via) -> Result<Vec<ConfigEntry>, ApiError> {
        let texts = self.texts.lock().unwrap();
        let mut entries: Vec<_> = (1_u64..)
            .zip(texts.iter())
            .map(|(revision, text)| {
                let ConfigText { applied_ms, by, .. } = config_text(revision, text);
                ConfigEntry { revision, applied_ms, by, bytes: u64::try_from(text.len()).unwrap() }
            })
            .collect();
        entries.reverse();
        Ok(entries)
    }

    async fn config_apply(
        self,
        _: Context,
        _: Via,
        text: String,
        expected: Option<u64>,
    ) -> Result<Applied, ApiError> {
        let mut texts = self.texts.lock().unwrap();
        let found = u64::try_from(texts.len()).unwrap();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            let message = format!("revision {expected} was expected, but {found} holds");
            return Err(ApiError::new(ApiErrorKind::Conflict, message));
        }
        texts.push(text);
        let warnings = vec!["service.iscsi.spread: no other service is in the group".to_owned()];
        Ok(Applied { revision: found + 1, changes: vec!["service iscsi: new".to_owned()], warnings })
    }
}

/// A configuration with this in it is one that nobody can read once it holds.
pub(crate) const UNREADABLE: &str = "# unreadable from now on";

fn config_text(revision: u64, text: &str) -> ConfigText {
    ConfigText { revision, applied_ms: 1_000 * revision, by: Some(node()), text: text.to_owned() }
}

/// `iscsi` is held by n1, a dry run; `nfs` is blocked.
fn vip_page() -> VipPage {
    let local = |phase| LocalService { unfit: None, phase, since_ms: 1_000, note: None, conflict: None };
    let view = |name: &str, state, phase: LocalPhase, trouble: Option<&str>| ServiceView {
        service: name.parse().unwrap(),
        state,
        vips: vec![VipView { address: "172.0.20.241/24".to_owned(), interface: "storage".to_owned() }],
        holder: Some(node()),
        since_ms: Some(1_000),
        order: vec![node(), "n2".parse().unwrap()],
        why: "n1 is preferred".to_owned(),
        trouble: trouble.map(str::to_owned),
        remedy: trouble.map(|_| "take it off the other machine".to_owned()),
        nodes: [(node(), local(phase))].into(),
    };
    let services = vec![
        view("iscsi", ServiceState::Held, LocalPhase::Held, None),
        view("nfs", ServiceState::Blocked, LocalPhase::Blocked, Some("52:54:00:12:34:56 answers")),
    ];
    let report = NodeReport {
        node: node(),
        incarnation: Incarnation::from_u128(3),
        backend: Backend::DryRun,
        why_dry: None,
        unreadable: None,
        stopping: false,
        labels: BTreeMap::new(),
        services: services
            .iter()
            .flat_map(|view| view.nodes.values().map(|l| (view.service.clone(), l.clone())))
            .collect(),
    };
    let drained = Drained { since_ms: 1_000, why: "kernel update".to_owned() };
    VipPage {
        revision: 1,
        services,
        nodes: vec![report],
        drained: [("n3".parse().unwrap(), drained)].into(),
        events: vec![VipEvent {
            at_ms: 2_000,
            service: Some("iscsi".parse().unwrap()),
            what: "took it".to_owned(),
        }],
        answered_by: Some(node()),
        notes: vec!["DRY RUN on n1".to_owned()],
    }
}
