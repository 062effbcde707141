//! The durable state: znodes, sessions and the last zxid, as a pure function of the transactions.
//!
//! ```text
//!  WriteOp ──► State::write ──► Written { txn, result, changes }
//!                 checks, in ZooKeeper's order          │ logged
//!                 apply ◄───────────────────────────────┘
//!                   ▲         State::replay(txn) after a restart
//!                   └──────── State::read_from(image) + replay of what came later
//! ```
//!
//! Nothing here does IO, reads a clock or makes a random choice. ZooKeeper 3.8.0 standalone, as Debian ships it, is the
//! specification, to the last zxid and stat field. What is not like it, and why:
//!
//! - Containers, and nodes with a time to live, are refused with [`Code::Unimplemented`](crate::wire::Code): for the
//!   latter ZooKeeper does the same unless told otherwise. So are the two nodes that make a quota below
//!   `/zookeeper/quota`: a limit that nobody keeps would be a lie.
//! - ACLs are bounded, once `auth` has become the caller's identities: to 1,000 entries and 1 MiB, those of one
//!   multi to 16 MiB. Longer ones are invalid.
//! - Where ZooKeeper has no order (children, ephemerals, the deletes of a closing session) paths are sorted.
//! - A multi sees its own changes and those of all writes before it. So does ZooKeeper's, but for one race: the ACL
//!   that a write checks there may be one that a write in front of it in the pipeline has already replaced.
//!
//! **Invariant**: every write spends exactly one zxid, refused or not, and a refused one changes nothing else.
//!
//! **Invariant**: whatever reaches output is ordered. There is no hash map in here.

mod acl;
mod apply;
mod binary;
mod children;
mod codec;
mod image;
mod multi;
mod node;
mod path;
mod read;
mod session;
mod slab;
#[cfg(test)]
mod tests;
mod tree;
mod txn;
mod write;
mod written;

use std::collections::BTreeMap;

pub use acl::{AclList, permitted};
pub use apply::ReplayError;
pub use codec::TxnError;
pub use image::{Image, ImageError};
pub use path::is_valid;
pub use session::Session;
pub use txn::{Edit, Txn, TxnBody};
pub use written::{Caller, Change, ChangeKind, WriteOp, Written};

use crate::wire::{Acl, Perms};

/// The znodes, the sessions and the last zxid.
#[derive(Clone, Debug)]
pub struct State {
    tree: tree::Tree,
    sessions: BTreeMap<i64, Session>,
    last_zxid: i64,
}

/// How much there is, as `mntr` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Znodes. ZooKeeper has the root under two names and counts both.
    pub znodes: usize,
    /// Those that sessions own.
    pub ephemerals: usize,
    /// The UTF-16 units of all paths and the bytes of all data.
    pub data_bytes: i64,
}

impl State {
    /// What ZooKeeper has before its first transaction: `/`, `/zookeeper`, `/zookeeper/config`, `/zookeeper/quota`, all
    /// of them as of zxid 0 and 1970, open to everyone but for `config`.
    #[must_use]
    pub fn new() -> Self {
        let open = AclList::from(Acl::open());
        let everyone_reads = Acl { perms: Perms::READ, scheme: "world".to_owned(), id: "anyone".to_owned() };
        let node = || node::Node::new(Some(std::sync::Arc::default()), open.clone(), 0, 0, 0);
        let mut tree = tree::Tree::with_root(node());
        let zookeeper = tree.add(tree::ROOT, "/zookeeper", node());
        tree.add(zookeeper, "/zookeeper/quota", node());
        let config = tree.add(zookeeper, "/zookeeper/config", node());
        tree.set_acl(config, &AclList::from(vec![everyone_reads]), -1);
        Self { tree, sessions: BTreeMap::new(), last_zxid: 0 }
    }

    /// The zxid of the last write, 0 before the first.
    #[must_use]
    pub const fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// How much there is.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            znodes: self.tree.len() + 1,
            ephemerals: self.tree.ephemerals().values().map(std::collections::BTreeSet::len).sum(),
            data_bytes: self.tree.size(),
        }
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}
