//! Schedules: tasks that come again and again, at the ticks of a cron expression.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::{InvalidId, is_label, not_a_label};
use crate::task::{InvalidSpec, Rules, TaskSpec, TaskState};
use crate::{ScheduleId, TaskId};

/// Most schedules of a cluster.
pub const SCHEDULES_MAX: usize = 10_000;

/// A schedule's name: 1–63 of `a-z`, `0-9`, `-`, not starting or ending with `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScheduleName(String);

impl ScheduleName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScheduleName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if is_label(text) { Ok(Self(text.to_owned())) } else { Err(not_a_label("schedule's name", text)) }
    }
}

impl TryFrom<String> for ScheduleName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ScheduleName> for String {
    fn from(name: ScheduleName) -> String {
        name.0
    }
}

impl fmt::Display for ScheduleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleSpec {
    /// When: MINUTE HOUR DAY MONTH WEEKDAY, with seconds in front if need be, or a name such as `@hourly`.
    pub cron: String,
    /// In which time zone, by its IANA name.
    #[serde(default = "utc")]
    pub zone: String,
    /// What becomes of ticks that came while nobody could act on them.
    #[serde(default)]
    pub misfire: Misfire,
    /// How late a tick may be before it counts as missed, in milliseconds.
    #[serde(default = "grace")]
    pub misfire_grace_ms: u64,
    /// What becomes of a tick while the task of the one before is not final.
    #[serde(default)]
    pub overlap: Overlap,
    /// What each tick does.
    pub task: TaskSpec,
}

fn utc() -> String {
    "UTC".to_owned()
}

const fn grace() -> u64 {
    ScheduleSpec::GRACE_MS
}

impl ScheduleSpec {
    /// Shortest misfire grace: a second.
    pub const GRACE_MS_MIN: u64 = 1_000;

    /// How late a tick may be unless told otherwise, in milliseconds.
    pub const GRACE_MS: u64 = 60_000;

    /// `task` at the ticks of `cron` in UTC, with every option at its default.
    pub fn new(cron: impl Into<String>, task: TaskSpec) -> Self {
        Self {
            cron: cron.into(),
            zone: utc(),
            misfire: Misfire::default(),
            misfire_grace_ms: Self::GRACE_MS,
            overlap: Overlap::default(),
            task,
        }
    }

    /// Checks the task and that it makes sense more than once. The ticks are not looked at.
    ///
    /// # Errors
    /// The first thing that is wrong, with what to do about it.
    pub fn check(&self) -> Result<(), InvalidSchedule> {
        self.task.check()?;
        if self.misfire_grace_ms > Rules::DELAY_MS_MAX {
            return Err(InvalidSchedule::Grace);
        }
        if self.misfire_grace_ms < Self::GRACE_MS_MIN {
            return Err(InvalidSchedule::NoGrace);
        }
        if self.task.idempotency_key.is_some() {
            return Err(InvalidSchedule::OnlyOnce("an idempotency key"));
        }
        if self.task.rules().start_at_ms.is_some() {
            return Err(InvalidSchedule::OnlyOnce("a time to start"));
        }
        if !self.task.rules().after.is_empty() {
            return Err(InvalidSchedule::OnlyOnce("a task to wait for"));
        }
        Ok(())
    }
}

/// Why a [`ScheduleSpec`] is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    /// Its task is.
    #[error(transparent)]
    Task(#[from] InvalidSpec),
    /// See the message.
    #[error("{0} is for a task that comes once: leave it out, every tick is a task of its own")]
    OnlyOnce(&'static str),
    /// See the message.
    #[error("the misfire grace is longer than ten years")]
    Grace,
    /// See the message.
    #[error(
        "the misfire grace is below a second: no tick is looked at the very moment it comes, so that none would run"
    )]
    NoGrace,
}

/// What becomes of ticks that are older than the grace when somebody can act on them at last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Misfire {
    /// Nothing.
    Skip,
    /// The newest of them runs.
    #[default]
    Once,
    /// Every one runs, in order.
    All,
}

impl fmt::Display for Misfire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::All => "all",
        })
    }
}

/// What becomes of a tick while the task of the one before is not final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It runs beside it.
    #[default]
    Allow,
    /// It is skipped.
    Forbid,
    /// That one is cancelled, and it runs once nothing of that one does.
    Replace,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Forbid => "forbid",
            Self::Replace => "replace",
        })
    }
}

/// Where a task comes from that nobody submitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The schedule.
    pub schedule: ScheduleName,
    /// Which of its ticks, in milliseconds since 1970; for one that was triggered, when that was.
    pub tick_ms: u64,
    /// Somebody wanted it then: it is none of the expression's ticks.
    #[serde(default)]
    pub triggered: bool,
}

/// What became of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TickEnd {
    /// It is this task.
    Task(TaskId),
    /// It was skipped, since this one, of a tick before, was not final.
    Overlapped(TaskId),
    /// It was skipped, since it was older than the grace.
    Missed,
}

/// A tick that was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// When it was due: milliseconds since 1970.
    pub at_ms: u64,
    /// What became of it.
    pub end: TickEnd,
}

/// How many ticks there have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TickCounts {
    /// Became tasks.
    #[serde(default)]
    pub tasks: u64,
    /// Were skipped, since the task of the one before was not final.
    #[serde(default)]
    pub overlapped: u64,
    /// Were skipped, since they were older than the grace; of very many in a row, not all are counted.
    #[serde(default)]
    pub missed: u64,
}

/// A schedule as a person or a script sees it. Its JSON form is stable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleView {
    /// Its name.
    pub name: ScheduleName,
    /// Tells it from others that had the name before.
    pub id: ScheduleId,
    /// Grows with every change.
    pub revision: u64,
    /// What was asked for; in lists without the payload.
    pub spec: ScheduleSpec,
    /// No tick does anything, until it is resumed.
    pub paused: bool,
    /// When it was added: milliseconds since 1970.
    pub created_ms: u64,
    /// The newest tick that was decided.
    #[serde(default)]
    pub last: Option<Tick>,
    /// Where that tick's task stands, if it is one that is still remembered.
    #[serde(default)]
    pub last_state: Option<TaskState>,
    /// The next ticks, in milliseconds since 1970; in lists only the first; none while it is paused.
    pub next_ms: Vec<u64>,
    /// How many ticks there have been.
    pub counts: TickCounts,
    /// What is in its way, as a sentence.
    #[serde(default)]
    pub trouble: Option<String>,
}

/// A page of schedules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulePage {
    /// By name, without payloads.
    pub schedules: Vec<ScheduleView>,
    /// How many there are in all.
    pub total: u64,
}

/// A change to a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleOrder {
    /// There is to be one like this.
    Add {
        /// Its name.
        name: ScheduleName,
        /// Drawn by the client; one that exists keeps its own.
        id: ScheduleId,
        /// What it does.
        spec: Box<ScheduleSpec>,
        /// Also if there is another of that name.
        replace: bool,
    },
    /// No tick does anything until it is resumed.
    Pause(ScheduleName),
    /// Ticks count again. Those that came meanwhile are not made good.
    Resume(ScheduleName),
    /// It is to be forgotten. Its tasks go on.
    Remove(ScheduleName),
    /// A tick now, beside the others.
    Trigger {
        /// Of which.
        name: ScheduleName,
        /// Its task's id, drawn by the client, so that a lost reply never doubles it.
        task: TaskId,
    },
}

impl ScheduleOrder {
    /// Which schedule it is for.
    pub const fn name(&self) -> &ScheduleName {
        match self {
            Self::Add { name, .. } | Self::Trigger { name, .. } => name,
            Self::Pause(name) | Self::Resume(name) | Self::Remove(name) => name,
        }
    }
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleDone {
    /// Whether anything had to be changed.
    pub changed: bool,
    /// The schedule as it is now; as it was, if it was removed.
    pub schedule: Box<ScheduleView>,
    /// The task that was triggered.
    #[serde(default)]
    pub task: Option<TaskId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::{Condition, Dependency};

    #[test]
    fn what_makes_sense_once_only_is_refused() {
        let with = |change: fn(&mut ScheduleSpec)| {
            let mut spec = ScheduleSpec::new("@daily", TaskSpec::new("noop", vec![]));
            change(&mut spec);
            spec.check().map_err(|error| error.to_string())
        };
        assert_eq!(
            with(|spec| spec.task.rules = Some(Box::new(Rules { delay_ms: Some(5), ..Rules::default() }))),
            Ok(())
        );
        type Change = fn(&mut ScheduleSpec);
        let refused: [(Change, &str); 5] = [
            (
                |s| s.task.idempotency_key = Some("k".to_owned()),
                "an idempotency key is for a task that comes once",
            ),
            (
                |s| s.task.rules = Some(Box::new(Rules { start_at_ms: Some(5), ..Rules::default() })),
                "a time to start",
            ),
            (
                |s| {
                    let after = vec![Dependency { task: TaskId::from_u128(1), on: Condition::Always }];
                    s.task.rules = Some(Box::new(Rules { after, ..Rules::default() }));
                },
                "a task to wait for",
            ),
            (|s| s.misfire_grace_ms = u64::MAX, "ten years"),
            (|s| s.task.priority = 101, "-100 to 100"),
        ];
        for (change, message) in refused {
            let error = with(change).unwrap_err();
            assert!(error.contains(message), "{error:?} should say {message:?}");
        }
        assert!("Nightly".parse::<ScheduleName>().is_err());
    }
}
