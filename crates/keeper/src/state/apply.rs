//! Edits become changes of the tree: of a write that has been checked, and of a transaction of the log.

use super::node;
use super::slab::Slot;
use super::tree::{NewData, NewNode, Undo};
use super::{Change, ChangeKind, Edit, Session, State, Txn, TxnBody, path};

/// Why a transaction does not fit onto the state it is replayed on: the log and the snapshot are not of one history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// There is a hole, or an overlap.
    #[error("transaction {found:#x} follows {last:#x}")]
    OutOfOrder {
        /// The last transaction that was replayed.
        last: i64,
        /// The next one in the log.
        found: i64,
    },
    /// It changes what is not there, or makes what is.
    #[error("transaction {zxid:#x} cannot be applied to {path:?}: {what}")]
    Contradiction {
        /// The transaction.
        zxid: i64,
        /// The znode.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// When and by whom an edit is made.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) zxid: i64,
    pub(super) time_ms: i64,
    pub(super) session: i64,
}

impl State {
    /// Applies a transaction of the log.
    ///
    /// # Errors
    /// [`ReplayError`]: the state is not to be used any more, as a part of the transaction may have been applied.
    pub fn replay(&mut self, txn: &Txn) -> Result<(), ReplayError> {
        if txn.zxid != self.last_zxid + 1 {
            return Err(ReplayError::OutOfOrder { last: self.last_zxid, found: txn.zxid });
        }
        let origin = Origin { zxid: txn.zxid, time_ms: txn.time_ms, session: txn.session };
        match &txn.body {
            TxnBody::CreateSession { timeout_ms, password } => {
                self.sessions.insert(txn.session, Session { timeout_ms: *timeout_ms, password: *password });
            }
            TxnBody::CloseSession { paths } => {
                for path in paths {
                    let at = self.parent_of(path, true).map_err(|what| contradiction(txn, path, what))?;
                    self.tree.delete(at, path, txn.zxid);
                }
                self.sessions.remove(&txn.session);
            }
            TxnBody::Error { .. } => {}
            TxnBody::Edits(edits) => {
                for edit in edits {
                    let at = self.locate(edit).map_err(|what| contradiction(txn, edit.path(), what))?;
                    self.apply(origin, at, edit);
                }
            }
        }
        self.last_zxid = txn.zxid;
        Ok(())
    }

    /// Makes a change. `at` is the parent for a create and a delete, else the znode itself.
    pub(super) fn apply(&mut self, origin: Origin, at: Slot, edit: &Edit) -> Undo {
        let Origin { zxid, time_ms, session } = origin;
        match edit {
            Edit::Create { path, data, acl, ephemeral, parent_cversion } => {
                let new = NewNode {
                    data: node::own(data.as_ref()),
                    acl: acl.clone(),
                    owner: if *ephemeral { session } else { 0 },
                    parent_cversion: *parent_cversion,
                    zxid,
                    time_ms,
                };
                self.tree.create(at, path, new)
            }
            Edit::Delete { path } => self.tree.delete(at, path, zxid),
            Edit::SetData { data, version, .. } => {
                let data = node::own(data.as_ref());
                self.tree.set_data(at, NewData { data, version: *version, zxid, time_ms })
            }
            Edit::SetAcl { acl, version, .. } => self.tree.set_acl(at, acl, *version),
        }
    }

    /// What watches may fire for because of an edit that has just been applied.
    pub(super) fn announce(&self, zxid: i64, at: Slot, edit: &Edit, undo: &Undo, changes: &mut Vec<Change>) {
        let acl_at = &self.tree.node(at).acl;
        let (kind, acl) = match (edit, undo) {
            (Edit::Create { acl, .. }, _) => (ChangeKind::Created, acl),
            (Edit::Delete { .. }, Undo::Delete { node, .. }) => (ChangeKind::Deleted, &node.acl),
            (Edit::SetData { .. }, _) => (ChangeKind::DataChanged, acl_at),
            (Edit::SetAcl { .. } | Edit::Delete { .. }, _) => return,
        };
        changes.push(Change { path: edit.path().to_owned(), kind, zxid, acl: acl.clone() });
        if kind != ChangeKind::DataChanged {
            changes.push(Change {
                path: path::parent(edit.path()).to_owned(),
                kind: ChangeKind::ChildrenChanged,
                zxid,
                acl: acl_at.clone(),
            });
        }
    }

    /// What an edit is to be applied at, unless it contradicts the state.
    pub(super) fn locate(&self, edit: &Edit) -> Result<Slot, &'static str> {
        match edit {
            Edit::Create { path, .. } => self.parent_of(path, false),
            Edit::Delete { path } => self.parent_of(path, true),
            Edit::SetData { path, .. } | Edit::SetAcl { path, .. } => {
                self.tree.find(path).ok_or("there is no such znode")
            }
        }
    }

    /// The parent of a znode that is there, or is not there yet.
    fn parent_of(&self, path: &str, there: bool) -> Result<Slot, &'static str> {
        let is_valid = path != "/" && path::is_valid(path);
        let (parent, name) = path::split(path).filter(|_| is_valid).ok_or("no znode can be there")?;
        let parent = self.tree.find(parent).ok_or("it has no parent")?;
        let child = self.tree.child(parent, name);
        match child {
            None if self.tree.node(parent).owner != 0 => Err("its parent is ephemeral"),
            None if there => Err("there is no such znode"),
            Some(_) if !there => Err("it is there already"),
            Some(child) if self.tree.node(child).children.is_some() => Err("it has children"),
            _ => Ok(parent),
        }
    }
}

fn contradiction(txn: &Txn, path: &str, what: &'static str) -> ReplayError {
    ReplayError::Contradiction { zxid: txn.zxid, path: path.to_owned(), what }
}
