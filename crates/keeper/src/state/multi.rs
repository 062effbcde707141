//! Several writes, all or none.

use super::apply::Origin;
use super::slab::Slot;
use super::tree::Undo;
use super::write::{Checked, CreateKind};
use super::{Caller, Change, Edit, State, TxnBody, Written};
use crate::wire::{Code, MultiOp, MultiResult, Reply};

/// Bytes that the ACLs of one multi may have together. Each create that says `auth` in a few bytes logs all identities of
/// the caller, and a multi holds tens of thousands of them.
const ACL_BYTES_MAX: usize = 16 << 20;

/// What has been done so far.
#[derive(Default)]
struct Progress {
    edits: Vec<Edit>,
    /// For each edit what it was applied at and what it replaced.
    undo: Vec<(Slot, Undo)>,
    results: Vec<MultiResult>,
    changes: Vec<Change>,
    acl_bytes: usize,
}

impl State {
    /// Each op sees what the ones before it did. The first that is refused takes all of them back; what is answered
    /// then is an error for each, under a header without one.
    pub(super) fn multi(&mut self, caller: &Caller<'_>, ops: Vec<MultiOp>) -> Written {
        let origin = self.origin(caller);
        let count = ops.len();
        let mut done = Progress::default();
        for op in ops {
            if let Err(code) = self.step(caller, origin, op, &mut done) {
                return self.fail(caller, done, count, code);
            }
        }
        let Progress { edits, results, changes, .. } = done;
        Written { changes, ..self.spend(caller, TxnBody::Edits(edits), Ok(Reply::Multi(results))) }
    }

    fn step(
        &mut self,
        caller: &Caller<'_>,
        origin: Origin,
        op: MultiOp,
        done: &mut Progress,
    ) -> Result<(), Code> {
        let checked = match op {
            MultiOp::Create(create) => self.check_create(caller, create, CreateKind::Ordinary),
            MultiOp::CreateContainer(create) => self.check_create(caller, create, CreateKind::Container),
            MultiOp::CreateTtl { create, ttl } => self.check_create(caller, create, CreateKind::Ttl(ttl)),
            MultiOp::Delete { path, version } => self.check_delete(caller, path, version),
            MultiOp::SetData { path, data, version } => self.check_set_data(caller, path, data, version),
            MultiOp::Check { path, version } => self.check_version(caller, &path, version),
        };
        let Checked::Edit(at, edit) = checked? else {
            done.results.push(MultiResult::Check);
            return Ok(());
        };
        if let Edit::Create { acl, .. } = &edit {
            done.acl_bytes += acl.iter().map(|entry| entry.scheme.len() + entry.id.len()).sum::<usize>();
            if done.acl_bytes > ACL_BYTES_MAX {
                return Err(Code::InvalidAcl);
            }
        }
        let undo = self.apply(origin, at, &edit);
        self.announce(origin.zxid, at, &edit, &undo, &mut done.changes);
        done.results.push(match &edit {
            Edit::Create { path, .. } => MultiResult::Create { path: path.clone() },
            Edit::Delete { .. } => MultiResult::Delete,
            Edit::SetData { .. } | Edit::SetAcl { .. } => MultiResult::SetData(self.tree.node(at).stat()),
        });
        done.edits.push(edit);
        done.undo.push((at, undo));
        Ok(())
    }

    fn fail(&mut self, caller: &Caller<'_>, done: Progress, count: usize, code: Code) -> Written {
        for (edit, (at, undo)) in done.edits.iter().zip(done.undo).rev() {
            self.tree.undo(at, edit.path(), undo);
        }
        let before = done.results.len();
        let result = |index: usize| match index.cmp(&before) {
            std::cmp::Ordering::Less => Code::Ok,
            std::cmp::Ordering::Equal => code,
            std::cmp::Ordering::Greater => Code::RuntimeInconsistency,
        };
        let results = (0..count).map(|index| MultiResult::Error(result(index).number())).collect();
        self.spend(caller, TxnBody::Error { code }, Ok(Reply::Multi(results)))
    }
}
