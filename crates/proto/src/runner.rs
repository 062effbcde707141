//! What a leader asks of a runner.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::progress::Checkpoint;
use crate::task::{AttemptEnd, TaskSpec};
use crate::{AttemptId, Epoch, FencingToken, Grant, Incarnation, NodeId};

/// Served by every node's runner. Every call carries the leader's token; a token below the highest one seen is
/// refused, and so is another cluster's.
#[tarpc::service]
pub trait RunnerRpc {
    /// Starts attempts, in order. Each gets its own answer; a refusal of the whole call starts none.
    ///
    /// Idempotent: starting an attempt that is already known reports what is known of it.
    async fn start(request: StartBatch) -> Result<Vec<StartReply>, Refusal>;

    /// Asks for attempts to be ended: SIGTERM, grace, SIGKILL. Returns at once; the end arrives as an outcome.
    ///
    /// An attempt that this runner does not know is from then on refused for ever and reported as gone.
    async fn cancel(token: FencingToken, attempts: Vec<AttemptId>) -> Result<Vec<Presence>, Refusal>;

    /// Everything this runner runs or has still to report. A new leader's first question.
    async fn inventory(token: FencingToken) -> Result<Inventory, Refusal>;

    /// Where these attempts stand. Answering [`Presence::Unknown`] durably refuses that attempt for ever.
    async fn confirm(token: FencingToken, attempts: Vec<AttemptId>) -> Result<Vec<Presence>, Refusal>;

    /// Part of an attempt's captured output (stdout and stderr as they came). Needs no token.
    async fn output(attempt: AttemptId, offset: u64, bytes_max: u32) -> Result<OutputChunk, Refusal>;
}

/// Attempts to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartBatch {
    /// The leader's authority.
    pub token: FencingToken,
    /// The runner's life that is meant; another one refuses.
    pub incarnation: Incarnation,
    /// The runner's grant; another one refuses.
    pub grant: Grant,
    /// What to start, in order.
    pub starts: Vec<Start>,
}

/// One attempt to start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The attempt.
    pub attempt: AttemptId,
    /// What to run, payload included.
    pub spec: TaskSpec,
    /// Where an earlier attempt has left off, by its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// What became of one start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartReply {
    /// Accepted; an outcome will follow.
    Accepted,
    /// No slot is free. Nothing was started; offer it elsewhere.
    Busy,
    /// This attempt will never run here. Nothing was started.
    Refused {
        /// Why: the kind is unknown or not allowed here, the payload is malformed, the attempt was given up before.
        reason: String,
    },
}

/// Why a whole call was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// A newer leader has been seen.
    #[error("the token is stale: epoch {seen} has been seen")]
    StaleToken {
        /// The highest epoch seen.
        seen: Epoch,
    },
    /// The caller leads another cluster.
    #[error("the token is of another cluster")]
    ForeignCluster,
    /// The runner was restarted meanwhile.
    #[error("this runner is incarnation {current}")]
    WrongIncarnation {
        /// The present one.
        current: Incarnation,
    },
    /// The grant has lapsed or been renewed.
    #[error("the grant is not current")]
    WrongGrant {
        /// The present one, if any.
        current: Option<Grant>,
    },
    /// The runner takes no new work because it stops.
    #[error("the runner is draining")]
    Draining,
    /// The runner no longer has or never had what was asked for.
    #[error("no such attempt here")]
    NoSuchAttempt,
    /// The output was removed, as old output is.
    #[error("its {bytes} bytes of output were removed, because they were old or others needed the room")]
    OutputRemoved {
        /// How much there was.
        bytes: u64,
    },
    /// The runner could not do its part.
    #[error("{0}")]
    Failed(String),
}

/// Where an attempt stands on a runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It runs, or its processes are being ended.
    Running,
    /// It ended; the outcome is here (and is reported until it is acknowledged).
    Ended(Outcome),
    /// It never ran here and never will.
    Unknown,
}

/// How an attempt ended, as its runner saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The attempt.
    pub attempt: AttemptId,
    /// How it ended. Its whole process tree is gone.
    pub end: AttemptEnd,
    /// When its process was started: milliseconds since 1970 by the runner's clock; none if it never was.
    pub started_ms: Option<u64>,
    /// When it ended, likewise.
    pub ended_ms: u64,
    /// Bytes of output it wrote, kept or not.
    pub output_bytes: u64,
    /// The newest checkpoint, if it said one and did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// What a runner offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// How many attempts may run at a time.
    pub slots: u32,
    /// How many more it would take now.
    pub free: u32,
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The kinds that it runs.
    pub kinds: Vec<String>,
    /// Whether it takes no new work because it stops.
    pub draining: bool,
}

/// Everything a runner runs or has still to report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The node.
    pub node: NodeId,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Earlier lives on the same machine, by its own fsynced record: what they left has ended, or is adopted and listed in
    /// `running`.
    pub ended_incarnations: Vec<Incarnation>,
    /// Its slots, labels and kinds.
    pub capacity: Capacity,
    /// Attempts whose processes exist or will.
    pub running: Vec<AttemptId>,
    /// Ends that no leader has acknowledged.
    pub outcomes: Vec<Outcome>,
}

/// Part of an attempt's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputChunk {
    /// Where `bytes` begins in the stream of all output. Larger than asked for where old output was dropped.
    pub offset: u64,
    /// The bytes; empty if there are none yet.
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
    /// No more will come after these.
    pub complete: bool,
}
