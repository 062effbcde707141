//! Writes: the checks of ZooKeeper's `PrepRequestProcessor`, in its order.

use bytes::Bytes;

use super::acl::fixup;
use super::apply::Origin;
use super::slab::Slot;
use super::{AclList, Caller, Edit, State, Txn, TxnBody, WriteOp, Written, path, permitted};
use crate::wire::{Acl, Code, Create, CreateMode, Perms, Reply};

/// A write that has passed its checks.
pub(super) enum Checked {
    /// What to do, and what to apply it at: see [`State::apply`].
    Edit(Slot, Edit),
    /// A check of a version leaves nothing behind.
    Nothing,
}

/// What a create asks for beside its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CreateKind {
    Ordinary,
    Container,
    Ttl(i64),
}

impl State {
    /// Makes a write, or refuses it; either spends a zxid.
    pub fn write(&mut self, caller: &Caller<'_>, op: WriteOp) -> Written {
        let with_stat = matches!(op, WriteOp::Create2(_));
        let checked = match op {
            WriteOp::Multi(ops) => return self.multi(caller, ops),
            WriteOp::Create(create) | WriteOp::Create2(create) => {
                self.check_create(caller, create, CreateKind::Ordinary)
            }
            WriteOp::CreateContainer(create) => self.check_create(caller, create, CreateKind::Container),
            WriteOp::CreateTtl { create, ttl } => self.check_create(caller, create, CreateKind::Ttl(ttl)),
            WriteOp::Delete { path, version } => self.check_delete(caller, path, version),
            WriteOp::SetData { path, data, version } => self.check_set_data(caller, path, data, version),
            WriteOp::SetAcl { path, acl, version } => self.check_set_acl(caller, path, acl, version),
            WriteOp::Check { path, version } => self.check_version(caller, &path, version),
            WriteOp::Reconfig => Err(Code::ReconfigDisabled),
        };
        let (at, edit) = match checked {
            Ok(Checked::Edit(at, edit)) => (at, edit),
            Ok(Checked::Nothing) => return self.spend(caller, TxnBody::Edits(Vec::new()), Ok(Reply::Empty)),
            Err(code) => return self.refuse(caller, code),
        };
        let origin = self.origin(caller);
        let undo = self.apply(origin, at, &edit);
        let mut changes = Vec::with_capacity(2);
        self.announce(origin.zxid, at, &edit, &undo, &mut changes);
        let reply = match &edit {
            Edit::Create { path, .. } if with_stat => {
                let slot = self.tree.child(at, path::name(path)).unwrap_or(at);
                Reply::PathStat { path: path.clone(), stat: self.tree.node(slot).stat() }
            }
            Edit::Create { path, .. } => Reply::Path(path.clone()),
            Edit::Delete { .. } => Reply::Empty,
            Edit::SetData { .. } | Edit::SetAcl { .. } => Reply::Stat(self.tree.node(at).stat()),
        };
        Written { changes, ..self.spend(caller, TxnBody::Edits(vec![edit]), Ok(reply)) }
    }

    /// Spends a zxid on a write that is refused: for one whose body cannot be read
    /// ([`Code::MarshallingError`]), too.
    pub fn refuse(&mut self, caller: &Caller<'_>, code: Code) -> Written {
        self.spend(caller, TxnBody::Error { code }, Err(code))
    }

    pub(super) fn spend(
        &mut self,
        caller: &Caller<'_>,
        body: TxnBody,
        result: Result<Reply, Code>,
    ) -> Written {
        let Origin { zxid, time_ms, session } = self.origin(caller);
        self.last_zxid = zxid;
        Written { txn: Txn { zxid, time_ms, session, cxid: caller.cxid, body }, result, changes: Vec::new() }
    }

    /// When and by whom the next transaction is made.
    pub(super) const fn origin(&self, caller: &Caller<'_>) -> Origin {
        Origin { zxid: self.last_zxid + 1, time_ms: caller.time_ms, session: caller.session }
    }

    pub(super) fn check_create(
        &self,
        caller: &Caller<'_>,
        create: Create,
        kind: CreateKind,
    ) -> Result<Checked, Code> {
        let mode = create.mode().ok_or(Code::BadArguments)?;
        refuse_extended(mode, kind)?;
        self.check_session(caller)?;
        let Create { mut path, data, acl, .. } = create;
        let (parent_path, _) = path::split(&path).ok_or(Code::BadArguments)?;
        let acl = fixup(acl, caller.ids)?;
        let at = self.tree.find(parent_path).ok_or(Code::NoNode)?;
        let parent = self.tree.node(at);
        check_acl(&parent.acl, Perms::CREATE, caller)?;
        if mode.is_sequential() {
            path.push_str(&format!("{:010}", parent.cversion));
        }
        if !path::is_valid(&path) {
            return Err(Code::BadArguments);
        }
        if path == "/" || self.tree.child(at, path::name(&path)).is_some() {
            return Err(Code::NodeExists);
        }
        if parent.owner != 0 {
            return Err(Code::NoChildrenForEphemerals);
        }
        if path::is_quota(&path) {
            return Err(Code::Unimplemented);
        }
        let parent_cversion = parent.cversion.wrapping_add(1);
        let acl = AclList::from(acl);
        Ok(Checked::Edit(
            at,
            Edit::Create { path, data, acl, ephemeral: mode.is_ephemeral(), parent_cversion },
        ))
    }

    pub(super) fn check_delete(
        &self,
        caller: &Caller<'_>,
        path: String,
        version: i32,
    ) -> Result<Checked, Code> {
        self.check_session(caller)?;
        let split = path::split(&path).filter(|_| !path::is_special(&path));
        let (parent_path, name) = split.ok_or(Code::BadArguments)?;
        let at = self.tree.find(parent_path).ok_or(Code::NoNode)?;
        check_acl(&self.tree.node(at).acl, Perms::DELETE, caller)?;
        // The root answers to two names, but only one of them has children: there is no `//a`.
        let child = self.tree.child(at, name).filter(|_| parent_path != "/").ok_or(Code::NoNode)?;
        let node = self.tree.node(child);
        next_version(node.version, version)?;
        if node.children.is_some() {
            return Err(Code::NotEmpty);
        }
        Ok(Checked::Edit(at, Edit::Delete { path }))
    }

    pub(super) fn check_set_data(
        &self,
        caller: &Caller<'_>,
        path: String,
        data: Option<Bytes>,
        version: i32,
    ) -> Result<Checked, Code> {
        let at = self.find_for(caller, &path)?;
        let node = self.tree.node(at);
        check_acl(&node.acl, Perms::WRITE, caller)?;
        let version = next_version(node.version, version)?;
        Ok(Checked::Edit(at, Edit::SetData { path, data, version }))
    }

    fn check_set_acl(
        &self,
        caller: &Caller<'_>,
        path: String,
        acl: Vec<Acl>,
        version: i32,
    ) -> Result<Checked, Code> {
        self.check_session(caller)?;
        if !path::is_valid(&path) {
            return Err(Code::BadArguments);
        }
        let acl = AclList::from(fixup(acl, caller.ids)?);
        let at = self.find_for(caller, &path)?;
        let node = self.tree.node(at);
        check_acl(&node.acl, Perms::ADMIN, caller)?;
        let version = next_version(node.aversion, version)?;
        Ok(Checked::Edit(at, Edit::SetAcl { path, acl, version }))
    }

    pub(super) fn check_version(
        &self,
        caller: &Caller<'_>,
        path: &str,
        version: i32,
    ) -> Result<Checked, Code> {
        let node = self.tree.node(self.find_for(caller, path)?);
        check_acl(&node.acl, Perms::READ, caller)?;
        next_version(node.version, version)?;
        Ok(Checked::Nothing)
    }

    fn find_for(&self, caller: &Caller<'_>, path: &str) -> Result<Slot, Code> {
        self.check_session(caller)?;
        if !path::is_valid(path) {
            return Err(Code::BadArguments);
        }
        self.tree.find(path).ok_or(Code::NoNode)
    }

    fn check_session(&self, caller: &Caller<'_>) -> Result<(), Code> {
        if self.sessions.contains_key(&caller.session) { Ok(()) } else { Err(Code::SessionExpired) }
    }
}

/// What is not an ordinary znode is refused before anything else is looked at, as ZooKeeper does it when extended
/// types are off. Containers it would make; we do not.
const fn refuse_extended(mode: CreateMode, kind: CreateKind) -> Result<(), Code> {
    match kind {
        _ if mode.is_ttl() => Err(Code::Unimplemented),
        CreateKind::Ttl(ttl) if ttl >= 0 => Err(Code::BadArguments),
        // ZooKeeper logs this, and cannot apply what it has logged.
        CreateKind::Ttl(_) | CreateKind::Container => Err(Code::Unimplemented),
        CreateKind::Ordinary if mode.is_container() => Err(Code::Unimplemented),
        CreateKind::Ordinary => Ok(()),
    }
}

fn check_acl(acl: &AclList, perms: Perms, caller: &Caller<'_>) -> Result<(), Code> {
    if permitted(acl, perms, caller.ids) { Ok(()) } else { Err(Code::NoAuth) }
}

/// -1 is any version, also when that is the version: after `i32::MAX` comes `i32::MIN`.
const fn next_version(current: i32, expected: i32) -> Result<i32, Code> {
    if expected != -1 && expected != current {
        return Err(Code::BadVersion);
    }
    Ok(current.wrapping_add(1))
}
