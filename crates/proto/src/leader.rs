//! What a runner tells the leader.

use serde::{Deserialize, Serialize};

use crate::progress::AttemptReport;
use crate::runner::{Capacity, Outcome};
use crate::{AttemptId, FencingToken, Grant, Incarnation, NodeId};

/// Served by every node, answered only by one that leads and is inside its lease.
#[tarpc::service]
pub trait LeaderRpc {
    /// "I am alive and run these." An answer extends the runner's right to run fenced attempts until
    /// `fence_after_ms` from the *sending* of this heartbeat, by the runner's own clock.
    async fn heartbeat(beat: Heartbeat) -> Result<HeartbeatReply, NotLeading>;

    /// "These have ended." Returns the attempts whose end is committed: the runner may forget those. One that is
    /// missing from the answer is reported again later.
    async fn outcomes(report: OutcomeReport) -> Result<Vec<AttemptId>, NotLeading>;

    /// "You are to lead next": has a node that does not lead read the task log ahead, and follow it for some seconds. It
    /// answers when it is as far as the log is. Leading is possible without; it only begins more slowly.
    async fn prepare() -> Result<(), String>;
}

/// A runner's sign of life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// Where its RPC listens.
    pub address: String,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Earlier lives on the same machine, which are over: what they left has ended, or is adopted and listed in `running`.
    /// Resent until it is restarted.
    pub ended_incarnations: Vec<Incarnation>,
    /// The grant it holds, if it holds one. None after a lapse: the leader then issues a new one, and sends starts under
    /// it once a heartbeat has named it.
    pub grant: Option<Grant>,
    /// Its slots, labels and kinds.
    pub capacity: Capacity,
    /// Attempts whose processes exist or will; those that it has adopted from `ended_incarnations` among them.
    pub running: Vec<AttemptId>,
    /// It is about to stop and leaves what it runs to its successor: for that it asks for a right to run that is longer
    /// than usual by so many milliseconds. The leader answers when the log says so.
    #[serde(default)]
    pub leave_ms: Option<u64>,
    /// What some of them have said of themselves since this leader was last told; bounded, the others follow.
    #[serde(default)]
    pub reports: Vec<AttemptReport>,
}

/// The leader's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// The leader's authority; the runner refuses lower ones from now on.
    pub token: FencingToken,
    /// The grant under which starts will come.
    pub grant: Grant,
    /// How long the right to run lasts from the sending of the heartbeat, in milliseconds.
    pub fence_after_ms: u64,
    /// Attempts that the runner reported as running but that must not run any more: end them.
    pub end: Vec<AttemptId>,
}

/// Ends that the runner wants to be rid of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutcomeReport {
    /// The node.
    pub node: NodeId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// The ends, oldest first.
    pub outcomes: Vec<Outcome>,
}

/// This node cannot answer as the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{node} does not lead{}", leader.as_deref().map(|l| format!("; the leader is {l}")).unwrap_or_default())]
pub struct NotLeading {
    /// Who says so.
    pub node: NodeId,
    /// The leader's address, if this node knows it.
    pub leader: Option<String>,
}
