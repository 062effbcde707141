//! The cluster as `taskd cluster status` shows it. The JSON form is stable.

use std::collections::BTreeMap;
use std::fmt;

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
    /// What it is, once it has said so.
    #[serde(default)]
    pub service: Option<CoordinationService>,
}

/// What serves as the coordination service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinationService {
    /// Which program it is, and on how many machines.
    pub kind: CoordinationKind,
    /// Its release, as it says.
    pub version: String,
    /// Whether it outlives the loss of a machine.
    pub highly_available: bool,
}

impl CoordinationService {
    /// A service of `kind` and `version`.
    pub fn new(kind: CoordinationKind, version: impl Into<String>) -> Self {
        Self { kind, version: version.into(), highly_available: kind == CoordinationKind::Ensemble }
    }
}

/// As people should read it: one machine is said to be one.
impl fmt::Display for CoordinationService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            CoordinationKind::EmbeddedKeeper => f.write_str("embedded keeper")?,
            CoordinationKind::Keeper => f.write_str("keeper")?,
            CoordinationKind::StandaloneZookeeper => write!(f, "standalone ZooKeeper {}", self.version)?,
            CoordinationKind::Ensemble => write!(f, "ZooKeeper {} ensemble", self.version)?,
        }
        f.write_str(if self.highly_available {
            ""
        } else {
            " (one machine, not highly available; for more, ZooKeeper)"
        })
    }
}

/// The sorts of coordination service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoordinationKind {
    /// A keeper inside the node that answers.
    EmbeddedKeeper,
    /// A keeper: by itself, or inside another node.
    Keeper,
    /// One ZooKeeper server that has no others.
    StandaloneZookeeper,
    /// Several ZooKeeper servers.
    Ensemble,
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
