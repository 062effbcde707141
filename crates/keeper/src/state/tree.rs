//! The znodes as a tree, and the four changes that can be made to it, each of which can be taken back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::acl::AclTable;
use super::node::Node;
use super::slab::{Slab, Slot};
use super::{AclList, path};

/// The root is the first znode there is, and stays.
pub(super) const ROOT: Slot = Slot(0);

/// The tree and what is derived from it.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    slab: Slab,
    acls: AclTable,
    /// The paths that each session owns; sessions that own none are not in it.
    ephemerals: BTreeMap<i64, BTreeSet<Box<str>>>,
    /// The UTF-16 units of all paths and the bytes of all data.
    size: i64,
}

/// What a change has replaced. Changes are taken back in the opposite order of their making.
#[derive(Debug)]
pub(super) enum Undo {
    Create { cversion: i32, pzxid: i64 },
    Delete { pzxid: i64, node: Box<Node> },
    SetData(NewData),
    SetAcl { acl: AclList, version: i32 },
}

/// What a new znode is, but for its place.
#[derive(Debug)]
pub(super) struct NewNode {
    pub(super) data: Option<Arc<[u8]>>,
    pub(super) acl: AclList,
    /// The session that owns it, or 0.
    pub(super) owner: i64,
    pub(super) parent_cversion: i32,
    pub(super) zxid: i64,
    pub(super) time_ms: i64,
}

/// What a set of data changes.
#[derive(Debug)]
pub(super) struct NewData {
    pub(super) data: Option<Arc<[u8]>>,
    pub(super) version: i32,
    pub(super) zxid: i64,
    pub(super) time_ms: i64,
}

impl Tree {
    /// A tree of this root alone.
    pub(super) fn with_root(mut root: Node) -> Self {
        let mut tree = Self {
            slab: Slab::default(),
            acls: AclTable::default(),
            ephemerals: BTreeMap::new(),
            size: 1 + len(root.data_len()),
        };
        root.acl = tree.acls.intern(&root.acl);
        tree.slab.insert(root);
        tree
    }

    /// The number of znodes, the root included.
    pub(super) const fn len(&self) -> usize {
        self.slab.len()
    }

    /// The znodes: all that is not derived.
    pub(super) const fn slab(&self) -> &Slab {
        &self.slab
    }

    pub(super) const fn size(&self) -> i64 {
        self.size
    }

    pub(super) const fn ephemerals(&self) -> &BTreeMap<i64, BTreeSet<Box<str>>> {
        &self.ephemerals
    }

    pub(super) fn node(&self, slot: Slot) -> &Node {
        self.slab.get(slot)
    }

    #[cfg(test)]
    pub(super) fn node_mut(&mut self, slot: Slot) -> &mut Node {
        self.slab.get_mut(slot)
    }

    /// The znode of a path, which need not be valid: nothing is found there then. The root answers to `""` too.
    pub(super) fn find(&self, path: &str) -> Option<Slot> {
        if matches!(path, "" | "/") {
            return Some(ROOT);
        }
        path.strip_prefix('/')?.split('/').try_fold(ROOT, |slot, name| self.child(slot, name))
    }

    /// The child of that name. No child has an empty name.
    pub(super) fn child(&self, parent: Slot, name: &str) -> Option<Slot> {
        self.slab.get(parent).children.as_ref()?.get(name)
    }

    /// Adds a znode. Its name must not be there yet.
    pub(super) fn create(&mut self, parent: Slot, path: &str, new: NewNode) -> Undo {
        self.add(parent, path, Node::new(new.data, new.acl, new.owner, new.zxid, new.time_ms));
        let node = self.slab.get_mut(parent);
        let undo = Undo::Create { cversion: node.cversion, pzxid: node.pzxid };
        // Once the count has overflowed it stays, and with it the zxid: ZooKeeper takes the new one for an old one.
        if new.parent_cversion > node.cversion {
            node.cversion = new.parent_cversion;
            node.pzxid = new.zxid;
        }
        undo
    }

    /// Removes a znode without children.
    pub(super) fn delete(&mut self, parent: Slot, path: &str, zxid: i64) -> Undo {
        let node = self.take(parent, path);
        let parent_node = self.slab.get_mut(parent);
        let pzxid = parent_node.pzxid;
        parent_node.pzxid = pzxid.max(zxid);
        Undo::Delete { pzxid, node: Box::new(node) }
    }

    /// Replaces the data of a znode.
    pub(super) fn set_data(&mut self, slot: Slot, new: NewData) -> Undo {
        let node = self.slab.get_mut(slot);
        let before = node.data_len();
        let undo = Undo::SetData(NewData {
            data: std::mem::replace(&mut node.data, new.data),
            version: std::mem::replace(&mut node.version, new.version),
            zxid: std::mem::replace(&mut node.mzxid, new.zxid),
            time_ms: std::mem::replace(&mut node.mtime, new.time_ms),
        });
        self.size += len(node.data_len()) - len(before);
        undo
    }

    /// Replaces the ACL of a znode.
    pub(super) fn set_acl(&mut self, slot: Slot, acl: &AclList, version: i32) -> Undo {
        let acl = self.acls.intern(acl);
        let node = self.slab.get_mut(slot);
        let was = std::mem::replace(&mut node.acl, acl);
        let undo = Undo::SetAcl { acl: was.clone(), version: std::mem::replace(&mut node.aversion, version) };
        self.acls.release(&was);
        undo
    }

    /// Takes back a change of the znode at `path`: `at` is what the change was given.
    pub(super) fn undo(&mut self, at: Slot, path: &str, undo: Undo) {
        match undo {
            Undo::Create { cversion, pzxid } => {
                self.take(at, path);
                let parent = self.slab.get_mut(at);
                parent.cversion = cversion;
                parent.pzxid = pzxid;
            }
            Undo::Delete { pzxid, node } => {
                self.add(at, path, *node);
                self.slab.get_mut(at).pzxid = pzxid;
            }
            Undo::SetData(was) => {
                self.set_data(at, was);
            }
            Undo::SetAcl { acl, version } => {
                self.set_acl(at, &acl, version);
            }
        }
    }

    /// Adds a znode as it is. Its name must not be there yet.
    pub(super) fn add(&mut self, parent: Slot, path: &str, mut node: Node) -> Slot {
        node.acl = self.acls.intern(&node.acl);
        self.size += path::units(path) + len(node.data_len());
        if node.owner != 0 {
            self.ephemerals.entry(node.owner).or_default().insert(path.into());
        }
        let slot = self.slab.insert(node);
        let children = self.slab.get_mut(parent).children.get_or_insert_default();
        let new = Arc::make_mut(children).insert(path::name(path), slot);
        assert!(new, "{path:?} is there already");
        slot
    }

    fn take(&mut self, parent: Slot, path: &str) -> Node {
        let above = self.slab.get_mut(parent);
        let children = above.children.as_mut().expect("the parent of a znode has children");
        let slot =
            Arc::make_mut(children).remove(path::name(path)).expect("the znode is a child of its parent");
        if children.len() == 0 {
            above.children = None;
        }
        let node = self.slab.remove(slot);
        self.size -= path::units(path) + len(node.data_len());
        if let Some(paths) = self.ephemerals.get_mut(&node.owner) {
            paths.remove(path);
            if paths.is_empty() {
                self.ephemerals.remove(&node.owner);
            }
        }
        self.acls.release(&node.acl);
        node
    }
}

fn len(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
