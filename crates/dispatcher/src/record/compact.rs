//! Wire types as the log keeps them: without the fields that are at their defaults, which every reader fills in. On the
//! wire and in JSON they are all there.

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
