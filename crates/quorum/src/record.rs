//! What quorum keeps in ZooKeeper: JSON with named fields, so that a person with a shell can read it and an
//! older node ignores what a newer one added.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proto::{ClusterId, Epoch, Incarnation, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the layout below the root. A node refuses a cluster of another.
pub const FORMAT: u32 = 1;

/// What nodes of this release can do together; grows when every member can.
pub const FEATURE_LEVEL: u32 = 1;

/// Terms that `terms` remembers at most.
const RECENT_MAX: usize = 16;

/// `<root>/cluster`: created once, by the first node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Which cluster this is.
    pub uuid: ClusterId,
    /// [`FORMAT`] of its layout.
    pub format: u32,
    /// [`FEATURE_LEVEL`] it runs at.
    pub feature_level: u32,
}

/// `<root>/members/_c_<uuid>-z-<sequence>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberRecord {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) version: String,
}

/// `<root>/candidates/_c_<uuid>-<node>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CandidateRecord {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    pub(crate) sequence: u64,
}

/// `<root>/leader`. Written once, by the claim: its version stays 0, which the lease checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaderRecord {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) sequence: u64,
    pub(crate) epoch: Epoch,
    /// Of the membership that claimed it: a restarted node recognizes its predecessor's.
    pub(crate) uuid: MemberUuid,
}

/// `<root>/epoch`: its *version* is the epoch, this is the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    /// The node that an orderly handover is meant for; a claim clears it.
    #[serde(default)]
    pub(crate) handover_to: Option<NodeId>,
    /// Who wrote this, for people.
    #[serde(default)]
    pub(crate) by: Option<NodeId>,
}

/// `<root>/priority`, revisioned by its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PriorityRecord {
    #[serde(default)]
    pub(crate) nodes: BTreeMap<NodeId, i32>,
}

/// `<root>/terms`: recent terms, failed ones and the hold-downs they earned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The newest terms that came to serve, oldest first.
    #[serde(default)]
    pub recent: Vec<TermRecord>,
    /// Nodes whose last term failed.
    #[serde(default)]
    pub failed: BTreeMap<NodeId, FailedTerm>,
}

/// A term that came to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermRecord {
    /// Which.
    pub epoch: Epoch,
    /// Whose.
    pub node: NodeId,
}

/// A node's newest failed term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub(crate) fn served(&mut self, node: &NodeId, epoch: Epoch) {
        if self.recent.last().is_none_or(|last| last.epoch < epoch) {
            self.recent.push(TermRecord { epoch, node: node.clone() });
            let surplus = self.recent.len().saturating_sub(RECENT_MAX);
            self.recent.drain(..surplus);
        }
    }

    /// Remembers that a term of `node` failed. The same term counts once.
    pub(crate) fn fail(
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
    pub(crate) fn serves(&self, epoch: Epoch) -> bool {
        self.recent.last().is_some_and(|last| last.epoch == epoch)
    }
}

/// One membership: drawn for each session before anything is created, and part of the names of its ephemerals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What a member's name starts with; ZooKeeper appends the sequence.
pub(crate) fn member_prefix(uuid: MemberUuid) -> String {
    format!("_c_{uuid}-z-")
}

/// A candidate's name.
pub(crate) fn candidate_name(uuid: MemberUuid, node: &NodeId) -> String {
    format!("_c_{uuid}-{node}")
}

/// Uuid and sequence in a member's name.
pub(crate) fn parse_member(name: &str) -> Option<(MemberUuid, u64)> {
    let (uuid, sequence) = name.strip_prefix("_c_")?.split_once("-z-")?;
    Some((uuid.parse().ok()?, sequence.parse().ok()?))
}

/// Uuid and node in a candidate's name.
pub(crate) fn parse_candidate(name: &str) -> Option<(MemberUuid, NodeId)> {
    let (uuid, node) = name.strip_prefix("_c_")?.split_once('-')?;
    Some((uuid.parse().ok()?, node.parse().ok()?))
}

/// A record as it is stored.
pub(crate) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    // These types hold strings, numbers and maps with string keys only, which JSON always takes.
    serde_json::to_vec(record).unwrap_or_default()
}

/// A record as it was stored; an empty node is the default.
///
/// # Errors
///
/// When the bytes are not this record.
pub(crate) fn decode<T: DeserializeOwned + Default>(data: &[u8]) -> Result<T, serde_json::Error> {
    if data.is_empty() { Ok(T::default()) } else { serde_json::from_slice(data) }
}

/// As [`decode`], for what must never leave a cluster without a leader: garbage counts as empty, and is said.
pub(crate) fn decode_or_default<T: DeserializeOwned + Default>(path: &str, data: &[u8]) -> T {
    decode(data).unwrap_or_else(|error| {
        tracing::error!(path, %error, "this node holds garbage; going on as if it were empty");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_as_they_are_made() {
        let uuid = MemberUuid(0xfeed);
        let node: NodeId = "n-1".parse().unwrap();
        assert_eq!(parse_member(&format!("{}0000000759", member_prefix(uuid))), Some((uuid, 759)));
        assert_eq!(parse_candidate(&candidate_name(uuid, &node)), Some((uuid, node)));
        for alien in ["", "_c_", "_c_12-z-1", "z-0000000759", "_c_zz-n1", "lock-_c_"] {
            assert_eq!((parse_member(alien), parse_candidate(alien)), (None, None), "{alien:?}");
        }
    }

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

    #[test]
    fn empty_is_default_and_unknown_fields_are_ignored() {
        assert_eq!(decode::<EpochRecord>(b"").unwrap(), EpochRecord::default());
        let newer = br#"{"handover_to":"n2","colour":"red"}"#;
        assert_eq!(decode::<EpochRecord>(newer).unwrap().handover_to, Some("n2".parse().unwrap()));
        assert!(decode::<EpochRecord>(b"\xff").is_err());
    }
}
