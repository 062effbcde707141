//! Requests, as both sides see them.

use bytes::Bytes;

use super::{Acl, CreateMode, OpCode};

/// What the three creates without a time to live carry.
///
/// `flags` stay raw: a number that is no [`CreateMode`] is answered, not refused while reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Where; for a sequential mode the name so far.
    pub path: String,
    /// What; null and empty data are told apart, here and in what is read later.
    pub data: Option<Bytes>,
    /// Who may do what. Null is read as empty, ZooKeeper refuses both alike.
    pub acl: Vec<Acl>,
    /// A [`CreateMode`], if it is one.
    pub flags: i32,
}

impl Create {
    /// The mode that the flags name, if they name one.
    #[must_use]
    pub fn mode(&self) -> Option<CreateMode> {
        CreateMode::from_flags(self.flags)
    }
}

/// A request without its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// [`OpCode::Create`].
    Create(Create),
    /// [`OpCode::Create2`].
    Create2(Create),
    /// [`OpCode::CreateContainer`].
    CreateContainer(Create),
    /// [`OpCode::CreateTtl`].
    CreateTtl {
        /// As for the others.
        create: Create,
        /// The time to live in milliseconds.
        ttl: i64,
    },
    /// [`OpCode::Delete`].
    Delete {
        /// Where.
        path: String,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// [`OpCode::Exists`].
    Exists {
        /// Where.
        path: String,
        /// Whether to leave a watch.
        watch: bool,
    },
    /// [`OpCode::GetData`].
    GetData {
        /// Where.
        path: String,
        /// Whether to leave a watch.
        watch: bool,
    },
    /// [`OpCode::SetData`].
    SetData {
        /// Where.
        path: String,
        /// What; may be null.
        data: Option<Bytes>,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// [`OpCode::GetAcl`].
    GetAcl {
        /// Where.
        path: String,
    },
    /// [`OpCode::SetAcl`].
    SetAcl {
        /// Where.
        path: String,
        /// Who may do what from now on. Null is read as empty.
        acl: Vec<Acl>,
        /// The ACL version that must be found, -1 for any.
        version: i32,
    },
    /// [`OpCode::GetChildren`].
    GetChildren {
        /// Where.
        path: String,
        /// Whether to leave a watch.
        watch: bool,
    },
    /// [`OpCode::GetChildren2`].
    GetChildren2 {
        /// Where.
        path: String,
        /// Whether to leave a watch.
        watch: bool,
    },
    /// [`OpCode::Sync`].
    Sync {
        /// Comes back as it is.
        path: String,
    },
    /// [`OpCode::Ping`].
    Ping,
    /// [`OpCode::Check`].
    Check {
        /// Where.
        path: String,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// [`OpCode::Multi`].
    Multi(Vec<MultiOp>),
    /// [`OpCode::MultiRead`].
    MultiRead(Vec<MultiReadOp>),
    /// [`OpCode::SetWatches`].
    SetWatches {
        /// The last zxid that the client has seen: what happened since fires at once.
        relative_zxid: i64,
        /// The watches.
        watches: Watches,
    },
    /// [`OpCode::SetWatches2`].
    SetWatches2 {
        /// The last zxid that the client has seen: what happened since fires at once.
        relative_zxid: i64,
        /// The watches that fire once.
        watches: Watches,
        /// Paths of persistent watches.
        persistent: Vec<String>,
        /// Paths of persistent recursive watches.
        persistent_recursive: Vec<String>,
    },
    /// [`OpCode::AddWatch`].
    AddWatch {
        /// Where.
        path: String,
        /// An [`AddWatchMode`](super::AddWatchMode), if it is one.
        mode: i32,
    },
    /// [`OpCode::CheckWatches`].
    CheckWatches {
        /// Where.
        path: String,
        /// A [`WatcherKind`](super::WatcherKind), if it is one.
        kind: i32,
    },
    /// [`OpCode::RemoveWatches`].
    RemoveWatches {
        /// Where.
        path: String,
        /// A [`WatcherKind`](super::WatcherKind), if it is one.
        kind: i32,
    },
    /// [`OpCode::Auth`].
    Auth {
        /// Not used.
        kind: i32,
        /// The scheme. Null is read as empty, no scheme has that name.
        scheme: String,
        /// The credentials; a scheme that looks at null refuses it.
        auth: Option<Bytes>,
    },
    /// [`OpCode::Sasl`].
    Sasl {
        /// The client's step of the exchange.
        token: Option<Bytes>,
    },
    /// [`OpCode::Reconfig`].
    Reconfig {
        /// Servers to add, separated by commas.
        joining: Option<String>,
        /// Servers to remove, separated by commas.
        leaving: Option<String>,
        /// All servers, instead of the two above.
        members: Option<String>,
        /// The configuration that must be found, -1 for any.
        config_id: i64,
    },
    /// [`OpCode::GetEphemerals`].
    GetEphemerals {
        /// What the paths begin with. Null is read as empty, both mean all.
        prefix: String,
    },
    /// [`OpCode::GetAllChildrenNumber`].
    GetAllChildrenNumber {
        /// Where.
        path: String,
    },
    /// [`OpCode::WhoAmI`].
    WhoAmI,
    /// [`OpCode::CloseSession`].
    CloseSession,
}

/// Paths of watches that fire once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    /// Of data.
    pub data: Vec<String>,
    /// Of existence: these wait for a znode to be created.
    pub exist: Vec<String>,
    /// Of children.
    pub child: Vec<String>,
}

/// An op of [`Request::Multi`].
///
/// ZooKeeper takes the kind of a create from its flags, not from its header: a header of
/// [`OpCode::Create2`] with ordinary flags is a plain create, whose result has no stat, and flags of
/// a container make a container of each. Reading does the same, so there is no `Create2` here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiOp {
    /// A create whose flags are ordinary (or no mode at all).
    Create(Create),
    /// A create whose flags say container.
    CreateContainer(Create),
    /// A create whose header and flags say time to live.
    CreateTtl {
        /// As for the others.
        create: Create,
        /// The time to live in milliseconds.
        ttl: i64,
    },
    /// [`OpCode::Delete`].
    Delete {
        /// Where.
        path: String,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// [`OpCode::SetData`].
    SetData {
        /// Where.
        path: String,
        /// What; may be null.
        data: Option<Bytes>,
        /// The version that must be found, -1 for any.
        version: i32,
    },
    /// [`OpCode::Check`].
    Check {
        /// Where.
        path: String,
        /// The version that must be found, -1 for any.
        version: i32,
    },
}

/// An op of [`Request::MultiRead`]. The wire has a watch flag here, which ZooKeeper ignores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultiReadOp {
    /// [`OpCode::GetData`].
    GetData {
        /// Where.
        path: String,
    },
    /// [`OpCode::GetChildren`].
    GetChildren {
        /// Where.
        path: String,
    },
}

impl Request {
    /// The op code that the header of this request carries.
    #[must_use]
    pub const fn op(&self) -> OpCode {
        match self {
            Self::Create(_) => OpCode::Create,
            Self::Create2(_) => OpCode::Create2,
            Self::CreateContainer(_) => OpCode::CreateContainer,
            Self::CreateTtl { .. } => OpCode::CreateTtl,
            Self::Delete { .. } => OpCode::Delete,
            Self::Exists { .. } => OpCode::Exists,
            Self::GetData { .. } => OpCode::GetData,
            Self::SetData { .. } => OpCode::SetData,
            Self::GetAcl { .. } => OpCode::GetAcl,
            Self::SetAcl { .. } => OpCode::SetAcl,
            Self::GetChildren { .. } => OpCode::GetChildren,
            Self::GetChildren2 { .. } => OpCode::GetChildren2,
            Self::Sync { .. } => OpCode::Sync,
            Self::Ping => OpCode::Ping,
            Self::Check { .. } => OpCode::Check,
            Self::Multi(_) => OpCode::Multi,
            Self::MultiRead(_) => OpCode::MultiRead,
            Self::SetWatches { .. } => OpCode::SetWatches,
            Self::SetWatches2 { .. } => OpCode::SetWatches2,
            Self::AddWatch { .. } => OpCode::AddWatch,
            Self::CheckWatches { .. } => OpCode::CheckWatches,
            Self::RemoveWatches { .. } => OpCode::RemoveWatches,
            Self::Auth { .. } => OpCode::Auth,
            Self::Sasl { .. } => OpCode::Sasl,
            Self::Reconfig { .. } => OpCode::Reconfig,
            Self::GetEphemerals { .. } => OpCode::GetEphemerals,
            Self::GetAllChildrenNumber { .. } => OpCode::GetAllChildrenNumber,
            Self::WhoAmI => OpCode::WhoAmI,
            Self::CloseSession => OpCode::CloseSession,
        }
    }
}

impl MultiOp {
    /// The op code that the op's header carries when it is written.
    #[must_use]
    pub const fn op(&self) -> OpCode {
        match self {
            Self::Create(_) => OpCode::Create,
            Self::CreateContainer(_) => OpCode::CreateContainer,
            Self::CreateTtl { .. } => OpCode::CreateTtl,
            Self::Delete { .. } => OpCode::Delete,
            Self::SetData { .. } => OpCode::SetData,
            Self::Check { .. } => OpCode::Check,
        }
    }

    /// The znode that the op is about.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Create(create) | Self::CreateContainer(create) | Self::CreateTtl { create, .. } => {
                &create.path
            }
            Self::Delete { path, .. } | Self::SetData { path, .. } | Self::Check { path, .. } => path,
        }
    }
}
