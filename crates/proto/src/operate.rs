//! What an operator sets for the whole cluster: nodes that take no work, a pause, quotas. It is kept in the task log, so
//! that every leader knows of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Longest reason, and longest name of who gave an order, in bytes.
pub const REASON_BYTES_MAX: usize = 512;

/// Most drained nodes and quotas of a cluster, each.
pub const SETTINGS_MAX: usize = 2_000;

/// Longest time until a deadline: a year, in milliseconds.
pub const DEADLINE_MS_MAX: u64 = 366 * 24 * 3_600_000;

/// Who gave an order, when, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// Whoever gave it, as their client knows them. For people: nobody checks it.
    #[serde(default)]
    pub by: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// When: milliseconds since 1970, by the leader's clock.
    #[serde(default)]
    pub at_ms: u64,
}

/// A node that takes no work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// By whom, when and why.
    pub said: Said,
    /// When what runs there is ended and queued again, in milliseconds since 1970; none = it may go on to its end.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperateOrder {
    /// A node is to take no new attempts. What runs there goes on until a deadline, if there is one.
    Drain {
        /// Which.
        node: NodeId,
        /// In how many milliseconds what still runs is ended and queued again; 0 = at once, none = never.
        deadline_in_ms: Option<u64>,
        /// It is known not to be there at the moment.
        absent: bool,
        /// By whom and why; the leader fills in when.
        said: Said,
    },
    /// A node takes work again.
    Undrain {
        /// Which.
        node: NodeId,
    },
    /// Nothing new is to start anywhere.
    Pause {
        /// By whom and why; the leader fills in when.
        said: Said,
    },
    /// Attempts start again.
    Resume,
    /// A kind's quota is to be this.
    SetQuota {
        /// Which kind.
        kind: String,
        /// Those that are given replace what holds; the others stay as they are.
        quota: Quota,
    },
    /// A kind has no quota any more.
    RemoveQuota {
        /// Which kind.
        kind: String,
    },
}

/// How much of a kind there may be. What is not set is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Attempts that may run at a time, in the whole cluster.
    #[serde(default)]
    pub running: Option<u32>,
    /// Attempts that may run at a time on one node.
    #[serde(default)]
    pub per_node: Option<u32>,
    /// Tasks that may wait, whatever for. More are refused.
    #[serde(default)]
    pub queued: Option<u64>,
    /// Bytes of payload that tasks which are not final may have in all. More are refused.
    #[serde(default)]
    pub bytes: Option<u64>,
}

impl Quota {
    /// What of `over` is set, and for the rest what is set here.
    #[must_use]
    pub const fn with(self, over: Self) -> Self {
        const fn or<T: Copy>(first: Option<T>, second: Option<T>) -> Option<T> {
            if first.is_some() { first } else { second }
        }
        Self {
            running: or(over.running, self.running),
            per_node: or(over.per_node, self.per_node),
            queued: or(over.queued, self.queued),
            bytes: or(over.bytes, self.bytes),
        }
    }
}

/// A kind's quota, and what of it is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaView {
    /// The kind.
    pub kind: String,
    /// Its quota.
    pub quota: Quota,
    /// Attempts that run or are about to.
    pub running: u64,
    /// Tasks that wait.
    pub queued: u64,
    /// Bytes of payload of its tasks that are not final.
    pub bytes: u64,
}

/// A node as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node.
    pub node: NodeId,
    /// Where it stands.
    pub state: NodeState,
    /// How it is drained, if it is.
    #[serde(default)]
    pub drain: Option<Drain>,
    /// Its slots.
    pub slots: u32,
    /// Those that are taken.
    pub used: u32,
    /// Attempts that run there or may.
    pub attempts: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The kinds that it runs.
    pub kinds: Vec<String>,
    /// Where its runner listens; empty if that is not known.
    pub address: String,
    /// How long ago its last heartbeat was answered, in milliseconds, if one was in this term.
    #[serde(default)]
    pub heard_ms: Option<u64>,
}

/// Where a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It takes work.
    Ready,
    /// It takes no new work, and something still runs there.
    Draining,
    /// It takes no work, and nothing runs there.
    Drained,
    /// It is being stopped.
    Stopping,
    /// It is a member, and the leader has not heard of it lately.
    Silent,
    /// It is no member.
    Gone,
}

impl NodeState {
    /// The name on the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Stopping => "stopping",
            Self::Silent => "silent",
            Self::Gone => "gone",
        }
    }
}

/// What an operator can set, as it is, and the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// By whom, when and why nothing starts, if that is so.
    #[serde(default)]
    pub paused: Option<Said>,
    /// Every node that the leader knows of, by name.
    pub nodes: Vec<NodeView>,
    /// By kind.
    pub quotas: Vec<QuotaView>,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperateDone {
    /// Whether it changed anything.
    pub changed: bool,
    /// How things are now.
    pub now: Operations,
}
