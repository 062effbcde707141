//! One znode.

use std::sync::Arc;

use bytes::Bytes;

use super::AclList;
use super::children::Children;
use crate::wire::Stat;

/// What a znode is, but for its name: that its parent has.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Null and empty differ.
    pub(super) data: Option<Arc<[u8]>>,
    pub(super) acl: AclList,
    /// `None` if it has none, so that leaves pay nothing.
    pub(super) children: Option<Arc<Children>>,
    pub(super) czxid: i64,
    pub(super) mzxid: i64,
    pub(super) pzxid: i64,
    pub(super) ctime: i64,
    pub(super) mtime: i64,
    /// The session that owns it, or 0.
    pub(super) owner: i64,
    pub(super) version: i32,
    /// The number of creates below it. Clients are told creates and deletes: see [`stat`](Self::stat).
    pub(super) cversion: i32,
    pub(super) aversion: i32,
}

impl Node {
    /// A znode as a create makes it.
    pub(super) fn new(data: Option<Arc<[u8]>>, acl: AclList, owner: i64, zxid: i64, time_ms: i64) -> Self {
        Self {
            data,
            acl,
            children: None,
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time_ms,
            mtime: time_ms,
            owner,
            version: 0,
            cversion: 0,
            aversion: 0,
        }
    }

    pub(super) fn child_count(&self) -> usize {
        self.children.as_ref().map_or(0, |children| children.len())
    }

    pub(super) fn children(&self) -> impl Iterator<Item = (&str, super::slab::Slot)> {
        self.children.iter().flat_map(|children| children.iter())
    }

    /// What clients are told.
    pub(super) fn stat(&self) -> Stat {
        let num_children = i32::try_from(self.child_count()).unwrap_or(i32::MAX);
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime: self.ctime,
            mtime: self.mtime,
            version: self.version,
            // Creates and deletes: each create has been followed by a delete, except those of the children there are.
            cversion: self.cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion: self.aversion,
            ephemeral_owner: self.owner,
            data_length: i32::try_from(self.data_len()).unwrap_or(i32::MAX),
            num_children,
            pzxid: self.pzxid,
        }
    }

    /// The length of the data, 0 if it is null.
    pub(super) fn data_len(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.len())
    }

    /// The data as a reply carries it.
    pub(super) fn bytes(&self) -> Option<Bytes> {
        // A page at most is copied; of what is larger a reference is handed out.
        const COPIED_MAX: usize = 4096;
        self.data.as_ref().map(|data| {
            if data.len() <= COPIED_MAX {
                Bytes::copy_from_slice(data)
            } else {
                Bytes::from_owner(data.clone())
            }
        })
    }
}

/// The tree's own copy of data: what came in must not keep its frame alive.
pub(super) fn own(data: Option<&Bytes>) -> Option<Arc<[u8]>> {
    data.map(|data| if data.is_empty() { Arc::default() } else { Arc::from(&data[..]) })
}
