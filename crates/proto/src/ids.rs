//! Identifiers. Each is parsed once, at the edge, and cannot be confused with another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not the identifier it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: {rule}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// Whether it is a DNS label in lower case.
pub(crate) fn is_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What is said of a text that is none.
pub(crate) fn not_a_label(what: &'static str, text: &str) -> InvalidId {
    InvalidId {
        what,
        text: text.chars().take(80).collect(),
        rule: "use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end",
    }
}

/// A node's name: 1–63 of `a-z`, `0-9`, `-`, not starting or ending with `-` (a DNS label).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if is_label(text) { Ok(Self(text.to_owned())) } else { Err(not_a_label("node id", text)) }
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl Serialize for $name {
            /// As it is displayed where people read it, 16 bytes elsewhere.
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
            }
        }

        impl $name {
            /// Wraps 128 bits that the caller drew at random.
            pub const fn from_u128(bits: u128) -> Self {
                Self(Uuid::from_u128(bits))
            }

            /// The 128 bits.
            pub const fn as_u128(self) -> u128 {
                self.0.as_u128()
            }
        }

        impl fmt::Display for $name {
            /// 32 lower-case hexadecimal digits.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.simple(), f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text).map(Self).map_err(|_| InvalidId {
                    what: $what,
                    text: text.chars().take(80).collect(),
                    rule: "use 32 hexadecimal digits",
                })
            }
        }
    };
}

uuid_id!(
    /// A task. The *client* draws it and keeps it when it retries, so that a lost reply never doubles a task.
    TaskId,
    "task id"
);
uuid_id!(
    /// A schedule. Its ticks' tasks are named after it, so that one that is added under the name of another that was
    /// removed has other tasks.
    ScheduleId,
    "schedule id"
);
uuid_id!(
    /// One cluster state. A wiped or restored ensemble has another, which fences off everyone who knew the old.
    ClusterId,
    "cluster id"
);
uuid_id!(
    /// One life of a node's daemon, drawn at its start.
    Incarnation,
    "incarnation"
);

/// A term of leadership: the version of the epoch node. Only ever grows within one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a leader shows to be believed: receivers refuse an epoch below the highest they have seen of the same
/// cluster, and any other cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    /// The cluster that elected the leader.
    pub cluster: ClusterId,
    /// The leader's term.
    pub epoch: Epoch,
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.epoch, self.cluster)
    }
}

/// One attempt at a task. Numbers start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId {
    /// The task.
    pub task: TaskId,
    /// Which attempt, from 1.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.task, self.number)
    }
}

/// The number under which a runner may accept starts; issued by the leader in its heartbeat replies and renewed
/// after every lapse. Grows across terms: the high 32 bits are the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grant(pub u64);

impl Grant {
    /// The `n`th grant that the leader of `epoch` issues to one runner.
    pub const fn new(epoch: Epoch, n: u32) -> Self {
        Self((epoch.0 << 32) | n as u64)
    }

    /// The grant after this one, in the same term.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids() {
        for good in ["n1", "a", "node-01", "0"] {
            assert_eq!(good.parse::<NodeId>().map(String::from), Ok(good.to_owned()));
        }
        for bad in ["", "-a", "a-", "N1", "a_b", "a.b", &"x".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn task_ids_print_and_parse() {
        let id = TaskId::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id.to_string(), "0123456789abcdef0123456789abcdef");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("xyz".parse::<TaskId>().is_err());
    }

    #[test]
    fn grants_grow_across_terms() {
        assert!(Grant::new(Epoch(2), 0) > Grant::new(Epoch(1), u32::MAX));
    }
}
