//! What the log keeps of a task: its absolute state, in MessagePack with named fields.

use bytes::Bytes;
use proto::task::{Attempt, AttemptEnd, Dependency, TaskSpec, TaskState, TaskView};
use proto::{FRAME_BYTES_MAX, TaskId};
use serde::{Deserialize, Serialize};

use crate::storage::BodyRef;

/// The key of [`Meta`]. No task may have it.
pub(crate) const META_KEY: u128 = 0;

/// Version of the records. A reader refuses later ones rather than misunderstand them.
const FORMAT: u32 = 1;

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
}

impl Task {
    /// The record of attempt `number`, if it is still kept.
    pub(crate) fn attempt(&self, number: u32) -> Option<&Attempt> {
        self.attempts.iter().rev().find(|attempt| attempt.number == number)
    }

    /// Appends an attempt and forgets the oldest ended ones beyond the limit.
    pub(crate) fn push_attempt(&mut self, attempt: Attempt) {
        self.attempt_count = attempt.number;
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
        bytes +=
            rules_bytes(spec) + task.waits_for.len() * DEPENDENCY + task.note.as_deref().map_or(0, str::len);
        for attempt in &task.attempts {
            bytes += ATTEMPT + attempt.node.as_str().len();
            if let Some(AttemptEnd::Lost { reason: text } | AttemptEnd::Failed { message: text }) =
                &attempt.end
            {
                bytes += text.len();
            }
        }
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.unwrap_or(0);
        left.is_some()
    }
}

/// Room for one [`Dependency`].
const DEPENDENCY: usize = 80;

/// About what a spec's rules take up where they are written down.
pub(crate) fn rules_bytes(spec: &TaskSpec) -> usize {
    let Some(rules) = spec.rules.as_deref() else { return 0 };
    let limits = rules.limits.iter().map(|limit| 32 + limit.key.len()).sum::<usize>();
    160 + limits + rules.after.len() * DEPENDENCY + rules.permanent_exit_codes.len() * 12
}

/// Cuts a message so that no runner can make a record grow past a segment.
fn shorten(mut end: AttemptEnd) -> AttemptEnd {
    if let AttemptEnd::Lost { reason: text } | AttemptEnd::Failed { message: text } = &mut end
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
        }
        .serialize(to)
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
        ended_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        end: &'a Option<AttemptEnd>,
    }

    pub(super) fn attempts<S: Serializer>(attempts: &[Attempt], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(attempts.iter().map(|attempt| {
            let Attempt { number, node, incarnation, token, grant, assigned_ms, ended_ms, end } = attempt;
            Try {
                number: *number,
                node,
                incarnation: *incarnation,
                token: *token,
                grant: *grant,
                assigned_ms: *assigned_ms,
                ended_ms: *ended_ms,
                end,
            }
        }))
    }
}

/// What the log keeps of the cluster's past promises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Grows with every change.
    pub(crate) revision: u64,
    /// The longest right to run that was ever granted to a runner, in milliseconds.
    pub(crate) fence_after_ms_max: u64,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(
        "record {key:032x} was written in format {format}, this release reads up to {FORMAT}: upgrade this node"
    )]
    Newer { key: u128, format: u32 },
    #[error("record {key:032x} is damaged")]
    Damaged { key: u128, source: rmp_serde::decode::Error },
}

#[derive(Serialize)]
struct Wrapped<'a, T> {
    v: u32,
    r: &'a T,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Deserialize)]
struct Unwrapped<T> {
    r: T,
}

/// Encodes a record.
pub(crate) fn encode<T: Serialize>(record: &T) -> Bytes {
    let bytes = rmp_serde::to_vec_named(&Wrapped { v: FORMAT, r: record })
        .expect("plain data with string keys always encodes into memory");
    Bytes::from(bytes)
}

/// Decodes a record.
pub(crate) fn decode<T: for<'a> Deserialize<'a>>(key: u128, bytes: &[u8]) -> Result<T, Unreadable> {
    let damaged = |source| Unreadable::Damaged { key, source };
    let version: Version = rmp_serde::from_slice(bytes).map_err(damaged)?;
    if version.v > FORMAT {
        return Err(Unreadable::Newer { key, format: version.v });
    }
    rmp_serde::from_slice::<Unwrapped<T>>(bytes).map(|unwrapped| unwrapped.r).map_err(damaged)
}
