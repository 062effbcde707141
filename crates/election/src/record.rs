//! What of the election is kept in ZooKeeper: JSON with named fields, so that a person with a shell can read it and an
//! older node ignores what a newer one added.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proto::{Epoch, Incarnation, NodeId};
use serde::{Deserialize, Serialize};

/// Terms that `terms` remembers at most.
const RECENT_MAX: usize = 16;

/// `<root>/leader`. Written once, by the claim: its version stays 0, which the lease checks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// Who leads, or is about to.
    pub node: NodeId,
    /// Where its RPC listens.
    pub address: String,
    /// Which life of its daemon.
    pub incarnation: Incarnation,
    /// Of its member node.
    pub sequence: u64,
    /// Of its term.
    pub epoch: Epoch,
    /// Of the membership that claimed it: a restarted node recognizes its predecessor's.
    pub uuid: MemberUuid,
}

/// `<root>/terms`: recent terms, failed ones and the hold-downs they earned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// The newest terms that came to serve, oldest first.
    #[serde(default)]
    pub recent: Vec<TermRecord>,
    /// Nodes whose last term failed.
    #[serde(default)]
    pub failed: BTreeMap<NodeId, FailedTerm>,
}

/// A term that came to serve.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TermRecord {
    /// Which.
    pub epoch: Epoch,
    /// Whose.
    pub node: NodeId,
}

/// A node's newest failed term.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FailedTerm {
    /// Which term.
    pub epoch: Epoch,
    /// In which life of the node. A restarted one may have been repaired.
    pub incarnation: Incarnation,
    /// How many failed in a row, counting this one.
    pub count: u32,
    /// How long the node stays out of the line, in milliseconds from when an observer learns of it.
    pub hold_ms: u64,
    /// Why it failed, for people.
    pub reason: String,
}

/// How long a node whose term failed stays out of the line: `first`, then twice as long each time, up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HoldDown {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub max: Duration,
}

impl HoldDown {
    /// How long after the `count`th failure in a row.
    pub fn after(&self, count: u32) -> Duration {
        self.first.saturating_mul(1 << count.saturating_sub(1).min(20)).min(self.max)
    }
}

impl Terms {
    /// Remembers that `node` came to serve.
    pub fn served(&mut self, node: &NodeId, epoch: Epoch) {
        if self.recent.last().is_none_or(|last| last.epoch < epoch) {
            self.recent.push(TermRecord { epoch, node: node.clone() });
            let surplus = self.recent.len().saturating_sub(RECENT_MAX);
            self.recent.drain(..surplus);
        }
    }

    /// Remembers that a term of `node` failed. The same term counts once.
    pub fn fail(
        &mut self,
        node: &NodeId,
        incarnation: Incarnation,
        epoch: Epoch,
        reason: &str,
        hold: HoldDown,
    ) {
        let before = match self.failed.get(node) {
            Some(last) if last.epoch >= epoch => return,
            Some(last) => last.count,
            None => 0,
        };
        let count = before.saturating_add(1);
        let hold_ms = u64::try_from(hold.after(count).as_millis()).unwrap_or(u64::MAX);
        let reason = reason.chars().take(200).collect();
        self.failed.insert(node.clone(), FailedTerm { epoch, incarnation, count, hold_ms, reason });
    }

    /// Whether the term came to serve.
    pub fn serves(&self, epoch: Epoch) -> bool {
        self.recent.last().is_some_and(|last| last.epoch == epoch)
    }
}

/// One membership: drawn for each session before anything is created, and part of the names of its ephemerals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MemberUuid(pub u128);

impl fmt::Display for MemberUuid {
    /// 32 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for MemberUuid {
    type Err = InvalidUuid;

    fn from_str(text: &str) -> Result<Self, InvalidUuid> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidUuid);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| InvalidUuid)
    }
}

impl TryFrom<String> for MemberUuid {
    type Error = InvalidUuid;

    fn try_from(text: String) -> Result<Self, InvalidUuid> {
        text.parse()
    }
}

impl From<MemberUuid> for String {
    fn from(uuid: MemberUuid) -> String {
        uuid.to_string()
    }
}

/// Not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a membership's uuid is 32 hexadecimal digits")]
pub struct InvalidUuid;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_grow_the_hold_down_and_count_once_each() {
        let hold = HoldDown { first: Duration::from_secs(5), max: Duration::from_secs(60) };
        let node: NodeId = "n1".parse().unwrap();
        let mut terms = Terms::default();
        let mut seen = Vec::new();
        for epoch in [1, 2, 2, 5, 7, 8, 9] {
            terms.fail(&node, Incarnation::from_u128(1), Epoch(epoch), "why", hold);
            seen.push((terms.failed[&node].count, terms.failed[&node].hold_ms / 1000));
        }
        assert_eq!(seen, [(1, 5), (2, 10), (2, 10), (3, 20), (4, 40), (5, 60), (6, 60)]);
        assert_eq!(hold.after(u32::MAX), hold.max);
    }

    #[test]
    fn recent_terms_are_bounded_and_in_order() {
        let node: NodeId = "n1".parse().unwrap();
        let mut terms = Terms::default();
        for epoch in (1..=40).chain([40, 3]) {
            terms.served(&node, Epoch(epoch));
        }
        assert_eq!(terms.recent.len(), RECENT_MAX);
        assert!(terms.serves(Epoch(40)) && !terms.serves(Epoch(39)));
    }
}
