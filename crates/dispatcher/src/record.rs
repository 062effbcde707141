//! What the log keeps of a task: its absolute state, in MessagePack with named fields.

mod compact;
mod keys;
mod page;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto::history::Steps;
use proto::progress::{self, Checkpoint};
use proto::schedule::{ScheduleName, ScheduleSpec, Tick, TickCounts};
use proto::task::{Attempt, AttemptEnd, Dependency, TaskSpec, TaskState, TaskView};
use proto::{NodeId, ScheduleId, TaskId};
use serde::{Deserialize, Serialize};

pub(crate) use self::keys::{key_key, node_key, pause_key, quota_key, schedule_key, tick_task};
pub(crate) use self::page::{Page, rules_bytes};
use crate::operations::{DrainedNode, KindQuota, Pause};
use crate::storage::BodyRef;

/// The key of [`Meta`]. No task may have it.
pub(crate) const META_KEY: u128 = 0;

/// Newest version of the records. A reader refuses later ones rather than misunderstand them.
const FORMAT: u32 = 2;

/// Of tasks and [`Meta`], which have no `kind`.
const PLAIN: u32 = 1;

/// Of records that say of what kind they are. Releases that know of tasks alone refuse them.
const OF_A_KIND: u32 = 2;

/// The kind of [`Schedule`].
const SCHEDULE: &str = "schedule";

/// The kind of [`DrainedNode`].
pub(crate) const NODE: &str = "node";

/// The kind of [`Pause`].
pub(crate) const PAUSE: &str = "pause";

/// The kind of [`KindQuota`].
pub(crate) const QUOTA: &str = "quota";

/// The kind of [`Key`].
pub(crate) const KEY: &str = "key";

/// Newest attempts that a record keeps.
const ATTEMPTS_KEPT: usize = 8;

/// Longest message of an attempt's end that a record keeps, in bytes.
const MESSAGE_BYTES_MAX: usize = 512;

/// A task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    /// Grows with every change.
    pub(crate) revision: u64,
    /// Place in the order of submissions.
    pub(crate) order: u64,
    /// The payload is empty if it lies in `body`.
    #[serde(serialize_with = "compact::spec")]
    pub(crate) spec: TaskSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<BodyRef>,
    pub(crate) state: TaskState,
    pub(crate) submitted_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finished_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_before_ms: Option<u64>,
    /// Highest attempt number ever used.
    pub(crate) attempt_count: u32,
    /// Failed attempts of the present budget.
    #[serde(default, skip_serializing_if = "compact::is_default")]
    pub(crate) failed: u32,
    /// Lost attempts of the present budget.
    #[serde(default, skip_serializing_if = "compact::is_default")]
    pub(crate) lost: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "compact::attempts")]
    pub(crate) attempts: Vec<Attempt>,
    /// Those of its dependencies that have not ended, while it is blocked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) waits_for: Vec<Dependency>,
    /// Why it ended, where no attempt tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<Box<str>>,
    /// Where its next attempt could go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<Box<Checkpoint>>,
    /// How far its attempt is: of this leader's memory alone.
    #[serde(skip)]
    pub(crate) progress: Option<Box<progress::Progress>>,
    /// What of its way nothing else here tells.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "compact::steps")]
    pub(crate) history: Option<Box<Steps>>,
}

impl Task {
    /// The record of attempt `number`, if it is still kept.
    pub(crate) fn attempt(&self, number: u32) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|attempt| attempt.number == number)
    }

    /// Appends an attempt and forgets the oldest ended ones beyond the limit.
    pub(crate) fn push_attempt(&mut self, attempt: Attempt) {
        self.attempt_count = attempt.number;
        self.progress = None;
        if self.attempts.len() >= ATTEMPTS_KEPT
            && let Some(oldest) = self.attempts.iter().position(|attempt| attempt.end.is_some())
        {
            self.attempts.remove(oldest);
        }
        self.attempts.push(attempt);
    }

    /// Records the end of attempt `number` unless it has one.
    pub(crate) fn end_attempt(&mut self, number: u32, end: AttemptEnd, at_ms: u64) {
        if let Some(attempt) =
            self.attempts.iter_mut().find(|attempt| attempt.number == number && attempt.end.is_none())
        {
            attempt.end = Some(shorten(end));
            attempt.ended_ms = Some(at_ms);
            if number == self.attempt_count {
                self.progress = None;
            }
        }
    }

    /// As a person sees it.
    pub(crate) fn view(&self, payload: bool) -> TaskView {
        let spec = if payload || self.spec.payload.is_empty() {
            self.spec.clone()
        } else {
            TaskSpec {
                payload: Vec::new(),
                kind: self.spec.kind.clone(),
                name: self.spec.name.clone(),
                labels: self.spec.labels.clone(),
                idempotency_key: self.spec.idempotency_key.clone(),
                rules: self.spec.rules.clone(),
                origin: self.spec.origin.clone(),
                ..self.spec
            }
        };
        TaskView {
            id: self.id,
            revision: self.revision,
            spec,
            state: self.state,
            submitted_ms: self.submitted_ms,
            finished_ms: self.finished_ms,
            not_before_ms: self.not_before_ms,
            attempt_count: self.attempt_count,
            attempts: self.attempts.clone(),
            waits_for: self.waits_for.clone(),
            note: self.note.as_deref().map(str::to_owned),
            steps: self.history.as_deref().filter(|_| payload).cloned().unwrap_or_default(),
            progress: self.progress.as_deref().cloned(),
            checkpoint: self.checkpoint.as_deref().filter(|_| payload).cloned(),
        }
    }
}

/// Cuts a message so that no runner can make a record grow past a segment.
fn shorten(mut end: AttemptEnd) -> AttemptEnd {
    if let AttemptEnd::Lost { reason: text }
    | AttemptEnd::Failed { message: text }
    | AttemptEnd::Refused { message: text } = &mut end
        && text.len() > MESSAGE_BYTES_MAX
    {
        let cut = (0..=MESSAGE_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(cut);
        text.push('…');
    }
    end
}

/// An idempotency key whose task is forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) key: String,
    pub(crate) task: TaskId,
    /// As it ended.
    pub(crate) state: TaskState,
    pub(crate) finished_ms: u64,
    /// Grows with every change.
    pub(crate) revision: u64,
}

/// What the log keeps of the cluster's past promises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Grows with every change.
    pub(crate) revision: u64,
    /// The longest right to run that was ever granted to a runner, in milliseconds; `extended` counts while it is there,
    /// for releases that do not know it.
    fence_after_ms_max: u64,
    /// The same without `extended`, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usual_ms: Option<u64>,
    /// Nodes that were granted more for a planned restart, and how much in all, in milliseconds, until that is over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    extended: BTreeMap<NodeId, u64>,
}

impl Meta {
    /// The longest right that was ever granted but for planned restarts.
    pub(crate) fn usual(&self) -> Duration {
        Duration::from_millis(self.usual_ms.unwrap_or(self.fence_after_ms_max))
    }

    /// The longest right that was ever granted, or is granted for a planned restart that may not be over.
    pub(crate) const fn longest(&self) -> Duration {
        Duration::from_millis(self.fence_after_ms_max)
    }

    /// What was granted for planned restarts that may not be over.
    pub(crate) fn extended(&self) -> impl Iterator<Item = (&NodeId, Duration)> {
        self.extended.iter().map(|(node, ms)| (node, Duration::from_millis(*ms)))
    }

    /// With another usual right and other extensions.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut u64, &mut BTreeMap<NodeId, u64>)) {
        let mut usual = self.usual_ms.unwrap_or(self.fence_after_ms_max);
        change(&mut usual, &mut self.extended);
        let most = self.extended.values().copied().max();
        self.fence_after_ms_max = most.map_or(usual, |most| most.max(usual));
        self.usual_ms = most.is_some().then_some(usual);
        self.revision += 1;
    }
}

/// A schedule. It is written anew with every tick, behind the tasks of its ticks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) name: ScheduleName,
    pub(crate) id: ScheduleId,
    /// Grows with every change.
    pub(crate) revision: u64,
    pub(crate) spec: ScheduleSpec,
    pub(crate) created_ms: u64,
    #[serde(default)]
    pub(crate) paused: bool,
    pub(crate) progress: Progress,
}

/// How far a schedule has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// What became of every tick until then is decided, and nothing will decide it again.
    pub(crate) until_ms: u64,
    #[serde(default)]
    pub(crate) last: Option<Tick>,
    /// The newest tick's that became one.
    #[serde(default)]
    pub(crate) last_task: Option<TaskId>,
    /// Ticks that were skipped since, for its sake.
    #[serde(default)]
    pub(crate) skipped_for_it: u64,
    /// Missed ticks made good since the last that came in time.
    #[serde(default)]
    pub(crate) made_good: u32,
    #[serde(default)]
    pub(crate) counts: TickCounts,
}

impl Schedule {
    /// The key of its record.
    pub(crate) fn key(&self) -> u128 {
        schedule_key(&self.name)
    }
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(
        "record {key:032x} was written in format {format}, this release reads up to {FORMAT}: upgrade this node"
    )]
    Newer { key: u128, format: u32 },
    #[error("record {key:032x} is of the kind {kind:?}, which this release does not know: upgrade this node")]
    Unknown { key: u128, kind: String },
    #[error("record {key:032x} is damaged")]
    Damaged { key: u128, source: rmp_serde::decode::Error },
}

#[derive(Serialize)]
struct Wrapped<'a, T> {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    k: Option<&'a str>,
    r: &'a T,
}

#[derive(Deserialize)]
struct Head {
    v: u32,
    #[serde(default)]
    k: Option<String>,
}

#[derive(Deserialize)]
struct Unwrapped<T> {
    r: T,
}

/// What a record is.
#[derive(Debug)]
pub(crate) enum Record {
    Meta(Meta),
    Task(Box<Task>),
    Schedule(Box<Schedule>),
    Node(Box<DrainedNode>),
    Pause(Box<Pause>),
    Quota(Box<KindQuota>),
    Key(Box<Key>),
}

/// Encodes a task or a [`Meta`].
pub(crate) fn encode<T: Serialize>(record: &T) -> Bytes {
    wrap(&Wrapped { v: PLAIN, k: None, r: record })
}

/// Encodes a schedule.
pub(crate) fn encode_schedule(schedule: &Schedule) -> Bytes {
    wrap(&Wrapped { v: OF_A_KIND, k: Some(SCHEDULE), r: schedule })
}

/// Encodes a record that says of what kind it is.
pub(crate) fn encode_kind<T: Serialize>(kind: &str, record: &T) -> Bytes {
    wrap(&Wrapped { v: OF_A_KIND, k: Some(kind), r: record })
}

fn wrap<T: Serialize>(wrapped: &Wrapped<'_, T>) -> Bytes {
    let bytes =
        rmp_serde::to_vec_named(wrapped).expect("plain data with string keys always encodes into memory");
    Bytes::from(bytes)
}

/// Decodes a record.
pub(crate) fn decode(key: u128, bytes: &[u8]) -> Result<Record, Unreadable> {
    let damaged = |source| Unreadable::Damaged { key, source };
    let head: Head = rmp_serde::from_slice(bytes).map_err(damaged)?;
    match (head.v, head.k.as_deref()) {
        (..=PLAIN, _) if key == META_KEY => unwrap(bytes).map(Record::Meta),
        (..=PLAIN, _) => unwrap(bytes).map(|task| Record::Task(Box::new(task))),
        (OF_A_KIND, Some(SCHEDULE)) => unwrap(bytes).map(|schedule| Record::Schedule(Box::new(schedule))),
        (OF_A_KIND, Some(NODE)) => unwrap(bytes).map(|node| Record::Node(Box::new(node))),
        (OF_A_KIND, Some(PAUSE)) => unwrap(bytes).map(|pause| Record::Pause(Box::new(pause))),
        (OF_A_KIND, Some(QUOTA)) => unwrap(bytes).map(|quota| Record::Quota(Box::new(quota))),
        (OF_A_KIND, Some(KEY)) => unwrap(bytes).map(|kept| Record::Key(Box::new(kept))),
        (OF_A_KIND, kind) => {
            return Err(Unreadable::Unknown { key, kind: kind.unwrap_or("none").to_owned() });
        }
        (format, _) => return Err(Unreadable::Newer { key, format }),
    }
    .map_err(damaged)
}

fn unwrap<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice::<Unwrapped<T>>(bytes).map(|unwrapped| unwrapped.r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_no_task_to_a_release_that_knows_of_tasks_alone() {
        let schedule = Schedule {
            name: "nightly".parse().expect("valid"),
            id: ScheduleId::from_u128(7),
            revision: 3,
            spec: ScheduleSpec::new("@daily", TaskSpec::new("noop", vec![1])),
            created_ms: 5,
            paused: false,
            progress: Progress::default(),
        };
        let bytes = encode_schedule(&schedule);
        // What such a release looks at first.
        assert!(rmp_serde::from_slice::<Head>(&bytes).is_ok_and(|head| head.v > PLAIN));
        match decode(schedule.key(), &bytes).expect("this one reads it") {
            Record::Schedule(read) => assert_eq!(*read, schedule),
            other => panic!("{other:?}"),
        }
        let unknown = wrap(&Wrapped { v: OF_A_KIND, k: Some("calendar"), r: &1 });
        let said = decode(9, &unknown).expect_err("of a later release").to_string();
        assert!(said.contains("\"calendar\"") && said.contains("upgrade this node"), "{said}");
    }

    #[test]
    fn an_extension_is_seen_by_every_release_and_leaves_no_trace() {
        #[derive(Deserialize)]
        struct Former {
            fence_after_ms_max: u64,
        }
        let node: NodeId = "n1".parse().expect("valid");
        let mut meta = Meta::default();
        meta.change(|usual, _| *usual = 30_000);
        let before = meta.clone();
        meta.change(|_, extended| {
            extended.insert(node.clone(), 90_000);
        });
        let bytes = encode(&meta);
        let former: Former = unwrap(&bytes).expect("a former release reads it");
        assert_eq!(former.fence_after_ms_max, 90_000, "it knows of no extension, and waits for everybody");
        let Ok(Record::Meta(read)) = decode(META_KEY, &bytes) else { panic!("this one reads it") };
        assert_eq!((&read, read.usual()), (&meta, Duration::from_secs(30)));
        meta.change(|_, extended| {
            extended.remove(&node);
        });
        assert_eq!(Meta { revision: before.revision, ..meta }, before);
    }
}
