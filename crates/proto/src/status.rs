//! The cluster as `taskd cluster status` shows it. The JSON form is stable.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::task::TaskState;
use crate::{ClusterId, Epoch, NodeId};

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Whether it does its work.
    pub health: Health,
    /// One sentence that says what is the matter: who leads, or for how long nobody has, why, and who is next.
    pub summary: String,
    /// What to do about it, where something can be done.
    #[serde(default)]
    pub remedy: Option<String>,
    /// The node that answered.
    pub answered_by: NodeId,
    /// The cluster, once known.
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    /// The present leader.
    #[serde(default)]
    pub leader: Option<LeaderStatus>,
    /// Members in order of their sequence.
    pub members: Vec<MemberStatus>,
    /// The coordination service.
    pub coordination: CoordinationStatus,
    /// The task log, if the leader answered.
    #[serde(default)]
    pub log: Option<LogStatus>,
    /// Tasks by state, if the leader answered.
    #[serde(default)]
    pub tasks: BTreeMap<TaskState, u64>,
}

/// Whether the cluster does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// A leader serves and every member runs.
    Healthy,
    /// A leader serves; something needs a look.
    Degraded,
    /// Nobody serves as leader.
    NoLeader,
}

/// The present leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderStatus {
    /// Who.
    pub node: NodeId,
    /// Where its RPC listens.
    pub address: String,
    /// Its term.
    pub epoch: Epoch,
    /// Its member sequence, if it is listed among the members.
    #[serde(default)]
    pub sequence: Option<u64>,
    /// Whether its dispatcher serves.
    pub serving: bool,
    /// What is left of its lease, in milliseconds, if the leader answered.
    #[serde(default)]
    pub lease_ms: Option<u64>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its place in the order of sequences, from 1.
    pub index: u32,
    /// Its member sequence.
    pub sequence: u64,
    /// Who.
    pub node: NodeId,
    /// Where its RPC listens.
    pub address: String,
    /// `leader`, `candidate`, `member`.
    pub role: String,
    /// The phase of its quorum component, or `unreachable`.
    pub phase: String,
    /// Its priority for leading.
    pub priority: i32,
    /// Its slots, if known.
    #[serde(default)]
    pub slots: Option<Slots>,
    /// Its release.
    pub version: String,
    /// Something to know about it, as a phrase.
    #[serde(default)]
    pub note: Option<String>,
}

/// How many attempts a node runs at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// In all.
    pub total: u32,
    /// Free ones among them.
    pub free: u32,
}

/// The coordination service as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinationStatus {
    /// The configured hosts and root.
    pub hosts: String,
    /// `connected`, `disconnected` or `expired`.
    pub state: String,
    /// For how long it has been in that state, in milliseconds.
    pub for_ms: u64,
    /// The session, in hexadecimal.
    #[serde(default)]
    pub session: Option<String>,
    /// The negotiated session timeout, in milliseconds.
    pub session_timeout_ms: u64,
}

/// The task log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStatus {
    /// Bytes of all segments and bodies.
    pub bytes: u64,
    /// Bytes of the records that still count.
    pub live_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Segments.
    pub segments: u64,
}
