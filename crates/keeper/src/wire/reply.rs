//! Replies, as both sides see them.

use bytes::Bytes;

use super::{Acl, ClientInfo, Stat};

/// The body of a reply. A reply whose header has an error has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing follows the header.
    Empty,
    /// `Create`, `Sync`: a path.
    Path(String),
    /// `Create2`, `CreateContainer`, `CreateTtl`: a path and its stat.
    PathStat {
        /// The path, with its counter if the mode is sequential.
        path: String,
        /// The stat.
        stat: Stat,
    },
    /// `Exists`, `SetData`, `SetAcl`.
    Stat(Stat),
    /// `GetData`, `Reconfig`.
    Data {
        /// The data; null if the znode was last written with null.
        data: Option<Bytes>,
        /// The stat.
        stat: Stat,
    },
    /// `GetAcl`.
    Acl {
        /// Who may do what.
        acl: Vec<Acl>,
        /// The stat.
        stat: Stat,
    },
    /// `GetChildren`: names, not paths.
    Children(Vec<String>),
    /// `GetChildren2`.
    Children2 {
        /// Names, not paths.
        children: Vec<String>,
        /// The stat.
        stat: Stat,
    },
    /// `Multi`, `MultiRead`: a result for each op.
    Multi(Vec<MultiResult>),
    /// `GetEphemerals`: paths.
    Ephemerals(Vec<String>),
    /// `GetAllChildrenNumber`.
    Count(i32),
    /// `WhoAmI`.
    WhoAmI(Vec<ClientInfo>),
    /// `Sasl`: the server's step of the exchange. ZooKeeper without SASL answers null.
    Sasl(Option<Bytes>),
    /// `AddWatch`: ZooKeeper answers with an error record, whose error is always 0.
    Error(i32),
}

/// The result of one op of a multi.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiResult {
    /// Of a create.
    Create {
        /// The path, with its counter if the mode is sequential.
        path: String,
    },
    /// Of a create of a container or with a time to live; never of a header of `Create2`, see
    /// [`MultiOp`](super::MultiOp).
    Create2 {
        /// The path, with its counter if the mode is sequential.
        path: String,
        /// The stat.
        stat: Stat,
    },
    /// Of a delete.
    Delete,
    /// Of a set.
    SetData(Stat),
    /// Of a check.
    Check,
    /// Of a read of data.
    GetData {
        /// The data, may be null.
        data: Option<Bytes>,
        /// The stat.
        stat: Stat,
    },
    /// Of a list of children.
    GetChildren(Vec<String>),
    /// A [`Code`](super::Code). When a multi fails every op has one: [`Code::Ok`](super::Code::Ok)
    /// for those before the culprit, the error for the culprit, and
    /// [`Code::RuntimeInconsistency`](super::Code::RuntimeInconsistency) for those after it; the
    /// reply's header says that all went well. In a multi-read each op stands for itself.
    Error(i32),
}
