//! What goes into a write and what comes of it.

use bytes::Bytes;

use super::{AclList, Txn};
use crate::wire::{Acl, Code, Create, Id, MultiOp, Reply, Request};

/// On whose behalf a write is made, and when.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The session; it must be open, or the write fails with [`Code::SessionExpired`].
    pub session: i64,
    /// The identities of the connection in the order they were added: first `ip`, then one for each accepted auth.
    pub ids: &'a [Id],
    /// The xid of the request.
    pub cxid: i32,
    /// The wall time in milliseconds since 1970.
    pub time_ms: i64,
}

/// A request that spends a zxid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOp {
    /// Answered with [`Reply::Path`].
    Create(Create),
    /// Answered with [`Reply::PathStat`].
    Create2(Create),
    /// Refused.
    CreateContainer(Create),
    /// Refused, as ZooKeeper does unless extended types are switched on.
    CreateTtl {
        /// As for the others.
        create: Create,
        /// The time to live in milliseconds.
        ttl: i64,
    },
    /// Answered with [`Reply::Empty`].
    Delete {
        /// Where.
        path: String,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// Answered with [`Reply::Stat`].
    SetData {
        /// Where.
        path: String,
        /// What; may be null.
        data: Option<Bytes>,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// Answered with [`Reply::Stat`].
    SetAcl {
        /// Where.
        path: String,
        /// Who may do what from now on.
        acl: Vec<Acl>,
        /// The ACL version that must be found, -1 for any.
        version: i32,
    },
    /// Answered with [`Reply::Empty`].
    Check {
        /// Where.
        path: String,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// Answered with [`Reply::Multi`], also when it fails.
    Multi(Vec<MultiOp>),
    /// Refused, as ZooKeeper does unless reconfiguration is switched on.
    Reconfig,
}

impl TryFrom<Request> for WriteOp {
    type Error = Request;

    /// The write that the request is; gives it back if it is none.
    fn try_from(request: Request) -> Result<Self, Request> {
        Ok(match request {
            Request::Create(create) => Self::Create(create),
            Request::Create2(create) => Self::Create2(create),
            Request::CreateContainer(create) => Self::CreateContainer(create),
            Request::CreateTtl { create, ttl } => Self::CreateTtl { create, ttl },
            Request::Delete { path, version } => Self::Delete { path, version },
            Request::SetData { path, data, version } => Self::SetData { path, data, version },
            Request::SetAcl { path, acl, version } => Self::SetAcl { path, acl, version },
            Request::Check { path, version } => Self::Check { path, version },
            Request::Multi(ops) => Self::Multi(ops),
            Request::Reconfig { .. } => Self::Reconfig,
            other => return Err(other),
        })
    }
}

/// What came of a write. Every write spends a zxid, refused ones too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What to log.
    pub txn: Txn,
    /// The body of the reply, or the error of its header. A multi that fails is answered, not refused: `Ok` with an
    /// error for each op.
    pub result: Result<Reply, Code>,
    /// What watches may fire for, in the order ZooKeeper fires them.
    pub changes: Vec<Change>,
}

impl Written {
    /// The zxid that was spent: that of the reply's header.
    #[must_use]
    pub const fn zxid(&self) -> i64 {
        self.txn.zxid
    }
}

/// Something that watches may fire for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The znode.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// The transaction.
    pub zxid: i64,
    /// The ACL of the znode at `path` as it is, or was when it was deleted: an event is sent to those only whom it
    /// lets read (`permitted(&acl, Perms::READ, ids)`; CVE-2024-23944).
    pub acl: AclList,
}

/// What happened to a znode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Fires its data watches.
    Created,
    /// Fires its data watches, and then its child watches except those whose owner has just been told.
    Deleted,
    /// Fires its data watches.
    DataChanged,
    /// Fires its child watches.
    ChildrenChanged,
}
