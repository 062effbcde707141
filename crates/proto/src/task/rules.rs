//! When a task may start, and what ends it early.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TaskState;
use crate::TaskId;
use crate::placing::Placing;

/// When a task may start, and what ends it early. Apart from the rest of a [`TaskSpec`](super::TaskSpec), since most tasks have none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Not before this: milliseconds since 1970, by the leader's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_at_ms: Option<u64>,
    /// Not before so long after it was accepted, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// How long it may wait for its first slot once it could start, in milliseconds; then it ends as
    /// [`TaskState::TimedOut`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_timeout_ms: Option<u64>,
    /// It starts when all of these have ended as they should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Dependency>,
    /// It runs only while fewer tasks than that have an attempt under each of these keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<Limit>,
    /// Exit codes that no retry would help.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permanent_exit_codes: Vec<i32>,
    /// How long an attempt may say nothing of its progress, in milliseconds; then it ends as
    /// [`AttemptEnd::NoProgress`](super::AttemptEnd::NoProgress).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_timeout_ms: Option<u64>,
    /// Where it may run, and where it would rather; none = wherever its labels are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placing: Option<Box<Placing>>,
}

impl Rules {
    /// Most tasks that one may wait for.
    pub const AFTER_MAX: usize = 64;
    /// Most keys that one may be limited by.
    pub const LIMITS_MAX: usize = 8;
    /// Most exit codes.
    pub const CODES_MAX: usize = 32;
    /// Latest time to start: the end of the year 9999.
    pub const START_MS_MAX: u64 = 253_402_300_799_999;
    /// Longest delay: ten years.
    pub const DELAY_MS_MAX: u64 = 10 * 366 * 24 * 3_600_000;
}

/// A task that another one waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Which.
    pub task: TaskId,
    /// How it has to end; otherwise the one that waits is cancelled.
    #[serde(default)]
    pub on: Condition,
}

/// How a task that others wait for has to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It succeeds.
    #[default]
    Success,
    /// It ends in any other way: for what undoes it.
    Failure,
    /// It ends.
    Always,
}

impl Condition {
    /// Whether the end `state` is the one that is waited for.
    pub const fn is_met_by(self, state: TaskState) -> bool {
        match self {
            Self::Success => matches!(state, TaskState::Succeeded),
            Self::Failure => state.is_final() && !matches!(state, TaskState::Succeeded),
            Self::Always => state.is_final(),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Success => "succeeds",
            Self::Failure => "fails",
            Self::Always => "ends",
        })
    }
}

/// Few enough tasks at a time. A lock is a limit of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Limit {
    /// Shared by all that name it, whatever their kind.
    pub key: String,
    /// This task starts only while fewer than so many that name the key have an attempt that may run.
    #[serde(default = "one")]
    pub max: u32,
}

const fn one() -> u32 {
    1
}
