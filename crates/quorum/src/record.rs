//! What quorum keeps in ZooKeeper: JSON with named fields, so that a person with a shell can read it and an
//! older node ignores what a newer one added.

use std::collections::BTreeMap;

use election::MemberUuid;
use proto::{ClusterId, Incarnation, NodeId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Version of the layout below the root. A node refuses a cluster of another.
pub const FORMAT: u32 = 1;

/// What nodes of this release can do together; grows when every member can.
pub const FEATURE_LEVEL: u32 = 1;

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
    fn empty_is_default_and_unknown_fields_are_ignored() {
        assert_eq!(decode::<EpochRecord>(b"").unwrap(), EpochRecord::default());
        let newer = br#"{"handover_to":"n2","colour":"red"}"#;
        assert_eq!(decode::<EpochRecord>(newer).unwrap().handover_to, Some("n2".parse().unwrap()));
        assert!(decode::<EpochRecord>(b"\xff").is_err());
    }
}
