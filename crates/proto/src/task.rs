//! Tasks: what a user asks for, and what became of it.

mod check;
mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::check::InvalidSpec;
pub use self::rules::{Condition, Dependency, Limit, Rules};
use crate::history::Steps;
use crate::progress::{Checkpoint, Progress};
use crate::schedule::Origin;
use crate::{FencingToken, Grant, Incarnation, NodeId, TaskId};

/// What a user asks for. Immutable once accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// Name of a registered task service: `exec`, `sleep`, `noop`, or one of the embedder's.
    pub kind: String,
    /// What the service gets, at most [`PAYLOAD_BYTES_MAX`](crate::PAYLOAD_BYTES_MAX) bytes. JSON for the built-in kinds.
    #[serde(with = "serde_bytes", default)]
    pub payload: Vec<u8>,
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// −100 to 100; higher runs first.
    #[serde(default)]
    pub priority: i32,
    /// Labels that the node must carry.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Attempts after the first.
    #[serde(default)]
    pub retries: Retries,
    /// How long one attempt may run, in milliseconds; none = as long as it likes.
    #[serde(default)]
    pub run_timeout_ms: Option<u64>,
    /// What to do when the node that runs it is lost.
    #[serde(default)]
    pub on_lost: LostPolicy,
    /// A second submission with the same key returns the first one's task.
    #[serde(default)]
    pub idempotency_key: Option<String>,
    /// When it may start, and what ends it early; none = as soon as there is a slot.
    #[serde(default)]
    pub rules: Option<Box<Rules>>,
    /// Where it comes from if nobody submitted it. Nobody can submit it.
    #[serde(default)]
    pub origin: Option<Box<Origin>>,
}

impl TaskSpec {
    /// A task of `kind` with `payload` and every option at its default.
    pub fn new(kind: impl Into<String>, payload: Vec<u8>) -> Self {
        Self {
            kind: kind.into(),
            payload,
            name: None,
            priority: 0,
            labels: BTreeMap::new(),
            retries: Retries::default(),
            run_timeout_ms: None,
            on_lost: LostPolicy::default(),
            idempotency_key: None,
            rules: None,
            origin: None,
        }
    }

    /// Its rules, or none of them.
    pub fn rules(&self) -> &Rules {
        static NONE: Rules = Rules {
            start_at_ms: None,
            delay_ms: None,
            queue_timeout_ms: None,
            after: Vec::new(),
            limits: Vec::new(),
            permanent_exit_codes: Vec::new(),
            progress_timeout_ms: None,
            placing: None,
        };
        self.rules.as_deref().unwrap_or(&NONE)
    }
}

/// How often a failed attempt is followed by another, and after what pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retries {
    /// Attempts after the first; lost attempts count too, so that poison ends as [`TaskState::Dead`].
    pub max: u32,
    /// Pause before the first retry, in milliseconds; doubles each time.
    pub backoff_ms: u64,
    /// Longest pause, in milliseconds.
    pub backoff_ms_max: u64,
}

impl Default for Retries {
    /// None for failures; see [`LostPolicy`] for lost nodes.
    fn default() -> Self {
        Self { max: 0, backoff_ms: 1_000, backoff_ms_max: 300_000 }
    }
}

impl Retries {
    /// Pause after `failed` failed attempts, in milliseconds: `backoff × 2^(failed − 1)`, capped.
    pub fn pause_ms(&self, failed: u32) -> u64 {
        let doubled = self.backoff_ms.saturating_mul(1u64 << failed.saturating_sub(1).min(32));
        doubled.min(self.backoff_ms_max)
    }
}

/// What becomes of a task whose node is lost while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LostPolicy {
    /// Run it elsewhere once its processes are certainly gone (the default).
    #[default]
    Requeue,
    /// Run it elsewhere at once: for work that may run twice.
    RequeueNow,
    /// Give up and report [`TaskState::Lost`].
    Fail,
}

impl fmt::Display for LostPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requeue => "requeue",
            Self::RequeueNow => "requeue-now",
            Self::Fail => "fail",
        })
    }
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Accepted, waiting for its time.
    Scheduled,
    /// Accepted, waiting for other tasks to end.
    Blocked,
    /// Accepted, waiting for a slot.
    Queued,
    /// Assigned to a node.
    Running,
    /// An attempt failed; the next one waits for its time.
    Retrying,
    /// To be cancelled; its processes are not yet known to be gone.
    Cancelling,
    /// Done.
    Succeeded,
    /// Its attempt failed and it asked for no retry.
    Failed,
    /// Cancelled, and its processes are gone.
    Cancelled,
    /// Its last attempt ran longer than it may.
    TimedOut,
    /// Its node was lost and its policy is [`LostPolicy::Fail`].
    Lost,
    /// Out of attempts.
    Dead,
}

impl TaskState {
    /// Every state, in the order of a task's life.
    pub const ALL: [TaskState; 12] = [
        Self::Scheduled,
        Self::Blocked,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Cancelling,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Lost,
        Self::Dead,
    ];

    /// Whether nothing will happen to the task any more.
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut | Self::Lost | Self::Dead
        )
    }

    /// The name on the wire and the screen.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Blocked => "blocked",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Lost => "lost",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for TaskState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
            format!("{text:?} is not a task state: use one of {}", names.join(", "))
        })
    }
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptEnd {
    /// The process ended by itself, or an in-process service returned (`code` 0).
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// A signal that taskd did not send ended the process.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// It ran longer than its run timeout and was ended.
    TimedOut,
    /// It said nothing of its progress for longer than its progress timeout and was ended.
    NoProgress {
        /// The timeout, in milliseconds.
        after_ms: u64,
    },
    /// It was ended because its task is cancelled.
    Cancelled,
    /// It was ended because its right to run had lapsed, or with its node; its processes are gone.
    Lost {
        /// What happened, for people.
        reason: String,
    },
    /// It could not be run, or an in-process service returned an error.
    Failed {
        /// What went wrong, for people.
        message: String,
    },
    /// An in-process service said that no attempt at this would succeed, so that there is no other.
    Refused {
        /// Why, for people.
        message: String,
    },
}

impl AttemptEnd {
    /// Whether the attempt did what it was asked to.
    pub const fn is_success(&self) -> bool {
        matches!(self, Self::Exited { code: 0 })
    }
}

impl fmt::Display for AttemptEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit {code}"),
            Self::Signaled { signal } => write!(f, "signal {signal}"),
            Self::TimedOut => f.write_str("timed out"),
            Self::NoProgress { after_ms } => {
                write!(
                    f,
                    "timed out: it said nothing of its progress for {:?}",
                    Duration::from_millis(*after_ms)
                )
            }
            Self::Cancelled => f.write_str("cancelled"),
            Self::Lost { reason } => write!(f, "lost: {reason}"),
            Self::Failed { message } => write!(f, "failed: {message}"),
            Self::Refused { message } => write!(f, "failed for good: {message}"),
        }
    }
}

/// One attempt, as the task database remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// Where.
    pub node: NodeId,
    /// Which life of that node's daemon.
    pub incarnation: Incarnation,
    /// Under which leader it was assigned.
    pub token: FencingToken,
    /// The runner's grant at that time.
    pub grant: Grant,
    /// When it was assigned: milliseconds since 1970, by the leader's clock.
    pub assigned_ms: u64,
    /// When its process was started, by the clock of its node; none as long as it was not reported, or if it never was.
    #[serde(default)]
    pub started_ms: Option<u64>,
    /// When its end was recorded.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// How it ended.
    #[serde(default)]
    pub end: Option<AttemptEnd>,
}

/// A task as a person or a script sees it. Its JSON form is stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// The task.
    pub id: TaskId,
    /// Grows with every change.
    pub revision: u64,
    /// What was asked for; in lists without the payload.
    pub spec: TaskSpec,
    /// Where it stands.
    pub state: TaskState,
    /// When it was accepted: milliseconds since 1970.
    pub submitted_ms: u64,
    /// When it became final.
    #[serde(default)]
    pub finished_ms: Option<u64>,
    /// When the next attempt may start, while scheduled or retrying; since when it could have, while queued after that.
    #[serde(default)]
    pub not_before_ms: Option<u64>,
    /// What it still waits for, while blocked.
    #[serde(default)]
    pub waits_for: Vec<Dependency>,
    /// Why it ended, where no attempt tells.
    #[serde(default)]
    pub note: Option<String>,
    /// How many attempts there have been.
    pub attempt_count: u32,
    /// The newest attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// How far its running attempt is, by that one's own words.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Where its next attempt could go on; left out of lists.
    #[serde(default)]
    pub checkpoint: Option<Checkpoint>,
    /// What else is remembered of its way; left out of lists.
    #[serde(default)]
    pub steps: Steps,
}

impl TaskView {
    /// The end of the newest attempt that has one.
    pub fn last_end(&self) -> Option<&AttemptEnd> {
        self.attempts.iter().rev().find_map(|attempt| attempt.end.as_ref())
    }
}

/// Payload of the built-in kind `exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecPayload {
    /// Program and arguments; never a shell string.
    pub argv: Vec<String>,
    /// Added to the task's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory; the attempt's own directory if none.
    #[serde(default)]
    pub cwd: Option<String>,
    /// What it reads from its standard input; nothing if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// As whom it runs, a name or a number; as the daemon's own user if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its file mode creation mask; the daemon's if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_none")]
    pub resources: ResourceLimits,
}

/// What each process of a task may use at the most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceLimits {
    /// Address space, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Time on a processor, in seconds; then SIGXCPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// Open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u64>,
    /// Processes and threads of its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
    /// Size of a file that it writes, in bytes; then SIGXFSZ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Payload of the built-in kind `sleep`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SleepPayload {
    /// How long, in milliseconds.
    pub ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_and_is_capped() {
        let retries = Retries { max: 9, backoff_ms: 100, backoff_ms_max: 1_000 };
        let pauses: Vec<_> = (1..=6).map(|n| retries.pause_ms(n)).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(retries.pause_ms(u32::MAX), 1_000);
    }

    #[test]
    fn states_parse_as_they_print() {
        for state in TaskState::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert!("done".parse::<TaskState>().unwrap_err().contains("succeeded"));
    }
}
