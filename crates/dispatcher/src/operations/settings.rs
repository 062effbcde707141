//! What operators have set, as the log keeps it: one record for each drained node, for the pause and for each quota.

use std::collections::BTreeMap;

use proto::operate::{Drain, Quota, Said};
use proto::{Epoch, NodeId};
use serde::{Deserialize, Serialize};

use crate::record;
use crate::storage::Change;

/// A drained node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainedNode {
    pub(crate) node: NodeId,
    /// Grows with every change.
    pub(crate) revision: u64,
    pub(crate) drain: Drain,
}

/// Nothing new starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    /// Grows with every change.
    pub(crate) revision: u64,
    pub(crate) said: Said,
}

/// How much of a kind there may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KindQuota {
    pub(crate) kind: String,
    /// Grows with every change.
    pub(crate) revision: u64,
    pub(crate) quota: Quota,
}

/// All of it, and what of it has yet to be written.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    nodes: BTreeMap<NodeId, DrainedNode>,
    /// The same by the keys of the records.
    node_keys: BTreeMap<u128, NodeId>,
    pause: Option<Pause>,
    quotas: BTreeMap<String, KindQuota>,
    quota_keys: BTreeMap<u128, String>,
    /// Every change gets one of its own, so that whatever is removed and comes back is newer than its tombstone.
    revision_next: u64,
    unwritten: BTreeMap<u128, Change>,
}

impl Settings {
    /// A term begins: what it writes is newer than all that was written before, tombstones included.
    pub(crate) fn begin(&mut self, term: Epoch) {
        self.revision_next = self.revision_next.max(term.0 << 32);
    }

    pub(crate) fn replay_node(&mut self, key: u128, node: DrainedNode) {
        self.revision_next = self.revision_next.max(node.revision + 1);
        self.node_keys.insert(key, node.node.clone());
        self.nodes.insert(node.node.clone(), node);
    }

    pub(crate) fn replay_pause(&mut self, pause: Pause) {
        self.revision_next = self.revision_next.max(pause.revision + 1);
        self.pause = Some(pause);
    }

    pub(crate) fn replay_quota(&mut self, key: u128, quota: KindQuota) {
        self.revision_next = self.revision_next.max(quota.revision + 1);
        self.quota_keys.insert(key, quota.kind.clone());
        self.quotas.insert(quota.kind.clone(), quota);
    }

    /// A record is gone, if it was one of ours.
    pub(crate) fn unlearn(&mut self, key: u128) {
        if let Some(node) = self.node_keys.remove(&key) {
            self.nodes.remove(&node);
        }
        if let Some(kind) = self.quota_keys.remove(&key) {
            self.quotas.remove(&kind);
        }
        if key == record::pause_key() {
            self.pause = None;
        }
    }

    /// How a node is drained, if it is.
    pub(crate) fn drain(&self, node: &NodeId) -> Option<&Drain> {
        self.nodes.get(node).map(|kept| &kept.drain)
    }

    pub(crate) fn drains(&self) -> impl ExactSizeIterator<Item = (&NodeId, &Drain)> {
        self.nodes.iter().map(|(node, kept)| (node, &kept.drain))
    }

    /// The node whose record has this key.
    pub(crate) fn node_at(&self, key: u128) -> Option<&NodeId> {
        self.node_keys.get(&key)
    }

    pub(crate) fn paused(&self) -> Option<&Said> {
        self.pause.as_ref().map(|pause| &pause.said)
    }

    pub(crate) fn quota(&self, kind: &str) -> Option<Quota> {
        self.quotas.get(kind).map(|kept| kept.quota)
    }

    pub(crate) fn quotas(&self) -> impl ExactSizeIterator<Item = (&str, Quota)> {
        self.quotas.iter().map(|(kind, kept)| (kind.as_str(), kept.quota))
    }

    /// Whether a record of ours has this key: no task may have it then.
    pub(crate) fn has_key(&self, key: u128) -> bool {
        self.node_keys.contains_key(&key) || self.quota_keys.contains_key(&key) || key == record::pause_key()
    }

    /// Drains a node, differently if it is drained, or not any more.
    pub(crate) fn set_drain(&mut self, node: &NodeId, drain: Option<Drain>) {
        let key = record::node_key(node);
        let revision = self.revision();
        let body = match drain {
            Some(drain) => {
                let kept = DrainedNode { node: node.clone(), revision, drain };
                let body = record::encode_kind(record::NODE, &kept);
                self.nodes.insert(node.clone(), kept);
                self.node_keys.insert(key, node.clone());
                Some(body)
            }
            None => {
                self.nodes.remove(node);
                self.node_keys.remove(&key);
                None
            }
        };
        self.unwritten.insert(key, Change { key, revision, body, urgent: true });
    }

    /// Pauses the cluster, or ends that.
    pub(crate) fn set_pause(&mut self, said: Option<Said>) {
        let (key, revision) = (record::pause_key(), self.revision());
        self.pause = said.map(|said| Pause { revision, said });
        let body = self.pause.as_ref().map(|pause| record::encode_kind(record::PAUSE, pause));
        self.unwritten.insert(key, Change { key, revision, body, urgent: true });
    }

    /// Gives a kind a quota, or none any more.
    pub(crate) fn set_quota(&mut self, kind: &str, quota: Option<Quota>) {
        let (key, revision) = (record::quota_key(kind), self.revision());
        let body = match quota {
            Some(quota) => {
                let kept = KindQuota { kind: kind.to_owned(), revision, quota };
                let body = record::encode_kind(record::QUOTA, &kept);
                self.quotas.insert(kind.to_owned(), kept);
                self.quota_keys.insert(key, kind.to_owned());
                Some(body)
            }
            None => {
                self.quotas.remove(kind);
                self.quota_keys.remove(&key);
                None
            }
        };
        self.unwritten.insert(key, Change { key, revision, body, urgent: true });
    }

    fn revision(&mut self) -> u64 {
        self.revision_next += 1;
        self.revision_next
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// What has yet to be written.
    pub(crate) fn take_changes(&mut self) -> impl Iterator<Item = Change> + use<> {
        std::mem::take(&mut self.unwritten).into_values()
    }
}
