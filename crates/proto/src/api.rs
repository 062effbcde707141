//! What people, scripts and peers ask of any node. A node that does not lead passes the call on to the leader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::operate::{OperateDone, OperateOrder, Operations};
use crate::runner::OutputChunk;
use crate::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, SchedulePage, ScheduleView};
use crate::status::ClusterStatus;
use crate::task::{TaskSpec, TaskState, TaskView};
use crate::vip::{Applied, ConfigEntry, ConfigText, ServiceName, VipOrder, VipPage, VipWhy};
use crate::{NodeId, TaskId};

/// Served by every node.
#[tarpc::service]
pub trait Api {
    /// Submits tasks. Each is accepted durably or refused on its own, in order.
    ///
    /// The caller draws the ids and keeps them when it retries: a task that exists is reported as
    /// [`Submitted::Existing`], never doubled. While there is no leader the call waits, within its deadline.
    async fn submit(via: Via, tasks: Vec<Submission>) -> Result<Vec<Submitted>, ApiError>;

    /// One task by id or by a unique prefix of it (at least 4 digits).
    async fn show(via: Via, id: String) -> Result<TaskView, ApiError>;

    /// Tasks, newest first, without payloads.
    async fn list(via: Via, filter: ListFilter) -> Result<TaskPage, ApiError>;

    /// Why a task is where it is, and what would change it.
    async fn why(via: Via, id: String) -> Result<Why, ApiError>;

    /// Asks for a task to be cancelled and returns its present state; cancelled means that its processes are gone.
    async fn cancel(via: Via, id: String) -> Result<TaskView, ApiError>;

    /// Queues a task that ended without success again, with a fresh budget of attempts.
    async fn retry(via: Via, id: String) -> Result<TaskView, ApiError>;

    /// Waits until at least one of the tasks is past the given revision or final, or `patience_ms` has passed;
    /// returns them all, without payloads. Where they do not all fit into a frame, those come first of which there is
    /// news: ask again with the revisions that came. The largest revision waits for the end.
    async fn watch(via: Via, tasks: Vec<(TaskId, u64)>, patience_ms: u64) -> Result<Vec<TaskView>, ApiError>;

    /// Adds or changes a schedule. The caller keeps the ids that it drew when it repeats the call.
    async fn schedule_order(via: Via, order: ScheduleOrder) -> Result<ScheduleDone, ApiError>;

    /// One schedule.
    async fn schedule(via: Via, name: ScheduleName) -> Result<ScheduleView, ApiError>;

    /// Schedules by name, from behind `after` on, as many as fit into a frame.
    async fn schedules(via: Via, after: Option<ScheduleName>) -> Result<SchedulePage, ApiError>;

    /// Part of the output of a task's attempt (0 = the newest one), from whichever node has it.
    async fn output(
        via: Via,
        id: String,
        attempt: u32,
        offset: u64,
        bytes_max: u32,
    ) -> Result<OutputChunk, ApiError>;

    /// The cluster as this node sees it, completed by the leader's knowledge if there is one. Works without a leader.
    async fn status(via: Via) -> Result<ClusterStatus, ApiError>;

    /// Asks the leader to hand over, to `to` if given. Returns who took over.
    async fn handover(via: Via, to: Option<NodeId>) -> Result<NodeId, ApiError>;

    /// Sets a node's priority for leading; higher leads.
    async fn set_priority(via: Via, node: NodeId, priority: i32) -> Result<(), ApiError>;

    /// Virtual IPs as this node sees them. Works without a leader.
    async fn vips(via: Via) -> Result<VipPage, ApiError>;

    /// Why a service is where it is, and what would change it. Works without a leader.
    async fn vip_why(via: Via, service: ServiceName) -> Result<VipWhy, ApiError>;

    /// Carries an order out; returns what was done, as a sentence. Moves and releases go to the leader; a drain works
    /// through any node that has a session, also without a leader.
    async fn vip_order(via: Via, order: VipOrder) -> Result<String, ApiError>;

    /// The cluster's configuration: the one that holds, or an earlier revision. Works without a leader, as the two
    /// others.
    async fn config_get(via: Via, revision: Option<u64>) -> Result<ConfigText, ApiError>;

    /// The revisions that are kept, newest first.
    async fn config_history(via: Via) -> Result<Vec<ConfigEntry>, ApiError>;

    /// Has `text` hold for the cluster; refused with [`ApiErrorKind::Conflict`] if the revision that holds is not the
    /// `expected` one any more, and with [`ApiErrorKind::Invalid`] and every error if the text makes no sense.
    async fn config_apply(via: Via, text: String, expected: Option<u64>) -> Result<Applied, ApiError>;

    /// Carries an operator's order out: drained nodes, a pause, quotas. To give it again is safe.
    async fn operate(via: Via, order: OperateOrder) -> Result<OperateDone, ApiError>;

    /// What operators have set, and the nodes as the leader sees them.
    async fn operations(via: Via) -> Result<Operations, ApiError>;
}

/// Whether a call comes from a client or was passed on by a peer; a peer's call is not passed on again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// From a client.
    Client,
    /// Passed on by a node that takes us for the leader.
    Peer,
}

/// A task to accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Drawn at random by the client.
    pub id: TaskId,
    /// What to do.
    pub spec: TaskSpec,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Submitted {
    /// Accepted and committed.
    Accepted {
        /// The task.
        id: TaskId,
    },
    /// The same id or idempotency key was accepted before.
    Existing {
        /// That task, whose id differs from the submission's if the key matched.
        id: TaskId,
        /// Where it stands.
        state: TaskState,
    },
    /// Not accepted; nothing was queued.
    Refused(ApiError),
}

/// Which tasks to list: those to which everything that is set applies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFilter {
    /// Only tasks in this state.
    #[serde(default)]
    pub state: Option<TaskState>,
    /// Only tasks in one of these states, that one included; none = in any.
    #[serde(default)]
    pub states: Vec<TaskState>,
    /// Only tasks of this kind.
    #[serde(default)]
    pub kind: Option<String>,
    /// Only tasks with this in their name.
    #[serde(default)]
    pub name: Option<String>,
    /// Only tasks whose name begins with this.
    #[serde(default)]
    pub name_prefix: Option<String>,
    /// Only tasks of which an attempt that is still remembered was given to this node.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Only tasks that ask for all of these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Only tasks of this schedule.
    #[serde(default)]
    pub schedule: Option<ScheduleName>,
    /// Only tasks that were accepted then or later: milliseconds since 1970.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Only tasks that were accepted before, likewise.
    #[serde(default)]
    pub until_ms: Option<u64>,
    /// Only tasks that ended then or later, likewise. With this or the next, they come by their end.
    #[serde(default)]
    pub ended_since_ms: Option<u64>,
    /// Only tasks that ended before, likewise.
    #[serde(default)]
    pub ended_until_ms: Option<u64>,
    /// Behind this: what a page before gave as `next`. It stays good whatever happens meanwhile, under every leader.
    #[serde(default)]
    pub after: Option<String>,
    /// At most this many; the server caps it at 1,000, at what fits into a frame, and at how much it looks at.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// A page of tasks. It may have fewer than were asked for, or none, and yet not be the last one: see `next`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPage {
    /// Newest first, without payloads.
    pub tasks: Vec<TaskView>,
    /// How many there are in all, pages before and behind included; none where only looking at each of them would tell,
    /// that is with any filter but states.
    pub total: Option<u64>,
    /// Where the next page begins; none if this is the last one.
    #[serde(default)]
    pub next: Option<String>,
}

/// Why a task is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The task.
    pub id: TaskId,
    /// Where it stands.
    pub state: TaskState,
    /// The reason, as a sentence.
    pub reason: String,
    /// The command that would change it, if one would.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// A failure that reaches a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For scripts.
    pub kind: ApiErrorKind,
    /// What failed, on what, and what to do.
    pub message: String,
}

impl ApiError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiErrorKind {
    /// The request makes no sense as it is; retrying does not help.
    Invalid,
    /// No such task or node.
    NotFound,
    /// The prefix fits several tasks.
    Ambiguous,
    /// The task's state does not allow it.
    Conflict,
    /// The task database or the queue is full; later it may work.
    Full,
    /// There is no leader to ask; nothing was done.
    NoLeader,
    /// The answer did not come in time; it is not known whether it was done.
    Unknown,
    /// A bug or a broken peer.
    Internal,
}
