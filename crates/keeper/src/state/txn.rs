//! What is logged: a write with everything decided.

use bytes::Bytes;

use super::AclList;
use crate::wire::Code;

/// One transaction: the unit of the log and of replay.
///
/// Names are resolved, versions computed and ACLs expanded, so that replay needs nothing but the state before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Its number; each is one more than the one before.
    pub zxid: i64,
    /// When it was made, in milliseconds since 1970.
    pub time_ms: i64,
    /// The session that made it; for the opening and the closing of a session, that one.
    pub session: i64,
    /// The xid of the request, 0 if there was none.
    pub cxid: i32,
    /// What it does.
    pub body: TxnBody,
}

/// What a [`Txn`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnBody {
    /// Opens [`Txn::session`].
    CreateSession {
        /// How long the session lives without a sign of its client, in milliseconds.
        timeout_ms: i32,
        /// What resumes it.
        password: [u8; 16],
    },
    /// Closes [`Txn::session`] and deletes its ephemerals.
    CloseSession {
        /// The ephemerals, sorted.
        paths: Vec<String>,
    },
    /// Nothing but a zxid spent: a write that was refused.
    Error {
        /// With what.
        code: Code,
    },
    /// Changes to znodes, all or none, in this order. One for a plain write, any number for a multi; checks leave
    /// nothing behind.
    Edits(Vec<Edit>),
}

/// One change to one znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// A znode appears.
    Create {
        /// Its final path.
        path: String,
        /// Its data; null and empty differ.
        data: Option<Bytes>,
        /// Its ACL, expanded.
        acl: AclList,
        /// Whether [`Txn::session`] owns it.
        ephemeral: bool,
        /// The number of creates under its parent, this one included.
        parent_cversion: i32,
    },
    /// A znode without children goes.
    Delete {
        /// Its path.
        path: String,
    },
    /// Its data is replaced.
    SetData {
        /// Its path.
        path: String,
        /// The new data; null and empty differ.
        data: Option<Bytes>,
        /// The new version.
        version: i32,
    },
    /// Its ACL is replaced.
    SetAcl {
        /// Its path.
        path: String,
        /// The new ACL, expanded.
        acl: AclList,
        /// The new version of the ACL.
        version: i32,
    },
}

impl Edit {
    /// The znode it is about.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Create { path, .. }
            | Self::Delete { path }
            | Self::SetData { path, .. }
            | Self::SetAcl { path, .. } => path,
        }
    }
}
