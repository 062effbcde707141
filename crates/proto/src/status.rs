//! The cluster as `taskd cluster status` shows it. The JSON form is stable.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::operate::{Drain, Said};
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
    /// More to know that is no fault by itself, as sentences.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The node that answered.
    pub answered_by: NodeId,
    /// What that node says of itself, if it is not simply running.
    #[serde(default)]
    pub condition: Option<Condition>,
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
    /// Attempts on nodes that are not heard of, if the leader answered.
    #[serde(default)]
    pub fences: Vec<FenceStatus>,
    /// By whom, when and why nothing new starts, if that is so and the leader answered.
    #[serde(default)]
    pub paused: Option<Said>,
    /// Nodes that get no new tasks, if the leader answered.
    #[serde(default)]
    pub drained: BTreeMap<NodeId, Drain>,
}

/// What a node says of itself when it is not simply running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// For scripts.
    pub kind: ConditionKind,
    /// A clause that speaks of the node as "it": "its runner has been booting for 4.1 s".
    pub words: String,
    /// What to do, where something can be done.
    #[serde(default)]
    pub remedy: Option<String>,
}

/// The sorts of [`Condition`], the more urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionKind {
    /// A component blocks its thread; the process is about to end.
    Wedged,
    /// It is being stopped, or stops because something failed.
    Stopping,
    /// It leads, and its authority is not proved at the moment.
    Suspended,
    /// It was elected and does not serve yet.
    Recovering,
    /// It gives up its term.
    Resigning,
    /// It gives up its term to a certain node.
    HandingOver,
    /// Its components come up, or it joins the cluster.
    Starting,
    /// Its session is over and it joins again.
    Rejoining,
    /// It has no connection to the coordination service.
    Disconnected,
    /// The coordination service is not the one that it knows.
    Barred,
    /// It runs, but does not stand for leader.
    NotACandidate,
}

/// Attempts that ran on a node of which nothing is heard: they are given to others once it cannot run them any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceStatus {
    /// The node.
    pub node: NodeId,
    /// How many attempts.
    pub attempts: u64,
    /// How many of them run again; the others are given up.
    pub run_again: u64,
    /// When its right to run ends, in milliseconds.
    pub over_in_ms: u64,
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
    /// `leader`; `elected` (does not serve yet); `was leader` (its lease is gone, its successor not there yet);
    /// `candidate`, `member`.
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
    /// What it says of itself, if it is not simply running.
    #[serde(default)]
    pub condition: Option<Condition>,
    /// How long ago the leader heard of its runner, in milliseconds, if the leader answered and has heard of it.
    #[serde(default)]
    pub heard_ms: Option<u64>,
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
    /// Each configured server as the answering node reaches it; asked only while there is no connection.
    #[serde(default)]
    pub servers: Vec<ServerStatus>,
    /// What it is, once it has said so.
    #[serde(default)]
    pub service: Option<CoordinationService>,
}

/// A server of the coordination service, as one node reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// `HOST:PORT`.
    pub address: String,
    /// What it does when it is asked.
    pub state: ServerState,
}

/// What a server of the coordination service does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It serves.
    Serves,
    /// It runs and serves nobody: its ensemble has no quorum, or it is cut off from it.
    NoQuorum,
    /// Nothing listens there.
    Refuses,
    /// It ends connections at once.
    Closes,
    /// It takes connections and says nothing.
    Silent,
    /// Nothing comes back: it is off, or packets are lost.
    NoAnswer,
    /// This machine has no route to it.
    NoRoute,
    /// Its name leads nowhere.
    UnknownName,
}

/// As a phrase that follows its address.
impl fmt::Display for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Serves => "answers",
            Self::NoQuorum => "runs but has no quorum",
            Self::Refuses => "refuses connections",
            Self::Closes => "closes connections at once",
            Self::Silent => "takes connections and stays silent",
            Self::NoAnswer => "does not answer",
            Self::NoRoute => "cannot be reached: no route",
            Self::UnknownName => "has a name that cannot be resolved",
        })
    }
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
