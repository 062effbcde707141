//! What the log keeps of a task: its absolute state, in MessagePack with named fields.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use proto::history::Steps;
use proto::placing::Placing;
use proto::progress::{self, Checkpoint};
use proto::schedule::{ScheduleName, ScheduleSpec, Tick, TickCounts};
use proto::task::{Attempt, AttemptEnd, Dependency, TaskSpec, TaskState, TaskView};
use proto::{FRAME_BYTES_MAX, NodeId, ScheduleId, TaskId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// Tasks that fit into one answer.
#[derive(Debug)]
pub(crate) struct Page {
    bytes_left: usize,
}

impl Default for Page {
    /// Half a frame: the sizes are estimates, if generous ones.
    fn default() -> Self {
        Self { bytes_left: FRAME_BYTES_MAX / 2 }
    }
}

impl Page {
    /// Whether the task's view, without its payload, fits as well; takes its room.
    pub(crate) fn fits(&mut self, task: &Task) -> bool {
        // Names of the fields, numbers and ids, beside the texts.
        const VIEW: usize = 400;
        const ATTEMPT: usize = 200;
        let spec = &task.spec;
        let texts = [spec.name.as_deref(), spec.idempotency_key.as_deref(), Some(spec.kind.as_str())];
        let mut bytes = VIEW + texts.into_iter().flatten().map(str::len).sum::<usize>();
        bytes += spec.labels.iter().map(|(key, value)| 8 + key.len() + value.len()).sum::<usize>();
        bytes += spec.origin.as_ref().map_or(0, |origin| ORIGIN + origin.schedule.as_str().len());
        bytes += PROGRESS * usize::from(task.progress.is_some());
        bytes +=
            rules_bytes(spec) + task.waits_for.len() * DEPENDENCY + task.note.as_deref().map_or(0, str::len);
        for attempt in &task.attempts {
            bytes += ATTEMPT + attempt.node.as_str().len();
            if let Some(
                AttemptEnd::Lost { reason: text }
                | AttemptEnd::Failed { message: text }
                | AttemptEnd::Refused { message: text },
            ) = &attempt.end
            {
                bytes += text.len();
            }
        }
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.unwrap_or(0);
        left.is_some()
    }
}

/// Room for an [`Origin`](proto::schedule::Origin), beside its schedule's name.
const ORIGIN: usize = 60;

/// Room for one [`Progress`](progress::Progress).
const PROGRESS: usize = 300;

/// Room for one [`Dependency`].
const DEPENDENCY: usize = 80;

/// About what a spec's rules take up where they are written down.
pub(crate) fn rules_bytes(spec: &TaskSpec) -> usize {
    let Some(rules) = spec.rules.as_deref() else { return 0 };
    let limits = rules.limits.iter().map(|limit| 32 + limit.key.len()).sum::<usize>();
    let placing = rules.placing.as_deref().map_or(0, placing_bytes);
    160 + limits + rules.after.len() * DEPENDENCY + rules.permanent_exit_codes.len() * 12 + placing
}

fn placing_bytes(placing: &Placing) -> usize {
    let terms = placing.require.iter().chain(&placing.prefer);
    let terms = terms.map(|term| 8 + term.to_string().len()).sum::<usize>();
    64 + terms + placing.spread.as_deref().map_or(0, str::len)
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

/// Wire types as the log keeps them: without the fields that are at their defaults, which every reader fills in. On the
/// wire and in JSON they are all there.
mod compact {
    use std::collections::BTreeMap;

    use proto::history::Steps;
    use proto::schedule::Origin;
    use proto::task::{Attempt, AttemptEnd, LostPolicy, Retries, Rules, TaskSpec};
    use proto::{FencingToken, Grant, Incarnation, NodeId};
    use serde::{Serialize, Serializer};

    pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
        *value == T::default()
    }

    fn bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    #[derive(Serialize)]
    struct Spec<'a> {
        kind: &'a str,
        #[serde(serialize_with = "bytes", skip_serializing_if = "<[u8]>::is_empty")]
        payload: &'a [u8],
        #[serde(skip_serializing_if = "Option::is_none")]
        name: &'a Option<String>,
        #[serde(skip_serializing_if = "is_default")]
        priority: i32,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        labels: &'a BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        retries: Retries,
        #[serde(skip_serializing_if = "Option::is_none")]
        run_timeout_ms: Option<u64>,
        #[serde(skip_serializing_if = "is_default")]
        on_lost: LostPolicy,
        #[serde(skip_serializing_if = "Option::is_none")]
        idempotency_key: &'a Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rules: Option<&'a Rules>,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<&'a Origin>,
    }

    pub(super) fn spec<S: Serializer>(spec: &TaskSpec, to: S) -> Result<S::Ok, S::Error> {
        // Taken apart, so that a field that is added is not forgotten here.
        let TaskSpec {
            kind,
            payload,
            name,
            priority,
            labels,
            retries,
            run_timeout_ms,
            on_lost,
            idempotency_key,
            rules,
            origin,
        } = spec;
        Spec {
            kind,
            payload,
            name,
            priority: *priority,
            labels,
            retries: *retries,
            run_timeout_ms: *run_timeout_ms,
            on_lost: *on_lost,
            idempotency_key,
            rules: rules.as_deref(),
            origin: origin.as_deref(),
        }
        .serialize(to)
    }

    /// Each as a list of its fields in their order, since there may be some in every record.
    pub(super) fn steps<S: Serializer>(history: &Option<Box<Steps>>, to: S) -> Result<S::Ok, S::Error> {
        let steps = history.as_deref().map_or(&[][..], |history| &history.steps);
        let forgotten = history.as_deref().map_or(0, |history| history.forgotten);
        let steps: Vec<_> = steps.iter().map(|step| (step.at_ms, step.state, step.until_ms)).collect();
        (steps, forgotten).serialize(to)
    }

    #[derive(Serialize)]
    struct Try<'a> {
        number: u32,
        node: &'a NodeId,
        incarnation: Incarnation,
        token: FencingToken,
        grant: Grant,
        assigned_ms: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        started_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ended_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        end: &'a Option<AttemptEnd>,
    }

    pub(super) fn attempts<S: Serializer>(attempts: &[Attempt], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(attempts.iter().map(|attempt| {
            let Attempt { number, node, incarnation, token, grant, assigned_ms, started_ms, ended_ms, end } =
                attempt;
            Try {
                number: *number,
                node,
                incarnation: *incarnation,
                token: *token,
                grant: *grant,
                assigned_ms: *assigned_ms,
                started_ms: *started_ms,
                ended_ms: *ended_ms,
                end,
            }
        }))
    }
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

/// The key of a schedule's record, which follows from its name. It is not [`META_KEY`], and a task that has it is refused.
pub(crate) fn schedule_key(name: &ScheduleName) -> u128 {
    digest("taskd schedule", &[name.as_str().as_bytes()])
}

/// The key of a drained node's record.
pub(crate) fn node_key(node: &NodeId) -> u128 {
    digest("taskd node", &[node.as_str().as_bytes()])
}

/// The key of the record of a pause.
pub(crate) fn pause_key() -> u128 {
    digest("taskd pause", &[])
}

/// The key of a kind's quota.
pub(crate) fn quota_key(kind: &str) -> u128 {
    digest("taskd quota", &[kind.as_bytes()])
}

/// The key of the record of an idempotency key, which follows from it.
pub(crate) fn key_key(key: &str) -> u128 {
    digest("taskd idempotency key", &[key.as_bytes()])
}

/// The task of a tick, under whichever leader.
pub(crate) fn tick_task(schedule: ScheduleId, tick_ms: u64) -> TaskId {
    TaskId::from_u128(digest("taskd tick", &[&schedule.as_u128().to_be_bytes(), &tick_ms.to_be_bytes()]))
}

/// Changing this doubles ticks and loses schedules.
fn digest(domain: &str, parts: &[&[u8]]) -> u128 {
    let mut hash = Sha256::new_with_prefix(domain);
    for part in parts {
        hash.update([0]);
        hash.update(part);
    }
    let bits = hash.finalize().iter().take(16).fold(0, |bits: u128, byte| bits << 8 | u128::from(*byte));
    if bits == META_KEY { 1 } else { bits }
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

    /// What is written today has to be found by tomorrow's release.
    #[test]
    fn names_and_ticks_keep_their_keys() {
        let name: ScheduleName = "nightly".parse().expect("valid");
        assert_eq!(format!("{:032x}", schedule_key(&name)), "a4f63cf13587070067496666bd232b32");
        let tick = tick_task(ScheduleId::from_u128(7), 1_796_000_000_000);
        assert_eq!(tick.to_string(), "eb17557b890a741c36df35d2b9ff0ff6");
        assert_ne!(tick, tick_task(ScheduleId::from_u128(7), 1_796_000_001_000));
    }

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
