//! What the dispatcher is told about the cluster's members.

use std::collections::BTreeMap;

use proto::{Incarnation, NodeId};

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Who.
    pub node: NodeId,
    /// Where its RPC listens.
    pub address: String,
    /// Its present life.
    pub incarnation: Incarnation,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}
