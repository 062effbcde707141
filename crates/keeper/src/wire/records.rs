//! The records that both directions share.

use bytes::Bytes;

use super::code::numbered;

/// The xid of a watch event.
pub const XID_NOTIFICATION: i32 = -1;
/// The xid of a ping and of its answer.
pub const XID_PING: i32 = -2;
/// The xid that clients give to auth requests.
pub const XID_AUTH: i32 = -4;
/// The xid that clients give to the watches they set again after a reconnect.
pub const XID_SET_WATCHES: i32 = -8;

/// What ZooKeeper tells about a znode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stat {
    /// The zxid that created it.
    pub czxid: i64,
    /// The zxid that last changed its data.
    pub mzxid: i64,
    /// When it was created, in milliseconds since 1970.
    pub ctime: i64,
    /// When its data last changed, in milliseconds since 1970.
    pub mtime: i64,
    /// The number of changes of its data.
    pub version: i32,
    /// The number of changes among its children.
    pub cversion: i32,
    /// The number of changes of its ACL.
    pub aversion: i32,
    /// The session that owns it, 0 if it is not ephemeral.
    pub ephemeral_owner: i64,
    /// The length of its data in bytes, 0 for null data.
    pub data_length: i32,
    /// The number of its children.
    pub num_children: i32,
    /// The zxid that last changed the list of its children.
    pub pzxid: i64,
}

/// A set of permissions: the bits of an ACL entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Perms(pub i32);

impl Perms {
    /// Read data and list children.
    pub const READ: Self = Self(1);
    /// Set data.
    pub const WRITE: Self = Self(1 << 1);
    /// Create children.
    pub const CREATE: Self = Self(1 << 2);
    /// Delete children.
    pub const DELETE: Self = Self(1 << 3);
    /// Set the ACL.
    pub const ADMIN: Self = Self(1 << 4);
    /// All of them.
    pub const ALL: Self = Self(31);

    /// Whether any of `other`'s bits is set here.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An identity: what a connection is known by, and what an ACL entry names.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// `world`, `auth`, `digest`, `ip`, ...
    pub scheme: String,
    /// What the scheme makes of it: `anyone`, `user:hash`, an address.
    pub id: String,
}

/// One entry of an access control list.
///
/// A null scheme is read as an empty one: ZooKeeper refuses both with
/// [`InvalidAcl`](super::Code::InvalidAcl).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Acl {
    /// What is allowed.
    pub perms: Perms,
    /// The scheme of who is allowed.
    pub scheme: String,
    /// Who is allowed.
    pub id: String,
}

impl Acl {
    /// Everyone may do everything: `world:anyone` with all permissions.
    #[must_use]
    pub fn open() -> Vec<Self> {
        vec![Self { perms: Perms::ALL, scheme: "world".to_owned(), id: "anyone".to_owned() }]
    }
}

/// An identity of a connection, as `WhoAmI` answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientInfo {
    /// The scheme.
    pub scheme: String,
    /// The user, without secrets.
    pub user: String,
}

/// The first frame of a connection, from the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectRequest {
    /// 0.
    pub protocol_version: i32,
    /// The highest zxid that the client has seen; a server that is behind it refuses.
    pub last_zxid_seen: i64,
    /// The session timeout that the client wishes for, in milliseconds.
    pub timeout_ms: i32,
    /// The session to resume, 0 for a new one.
    pub session_id: i64,
    /// The password of the session to resume. Null is read as empty.
    pub password: Bytes,
    /// Whether a read-only server would do; clients before 3.4 do not send it.
    pub read_only: Option<bool>,
}

/// The first frame of a connection, from the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectResponse {
    /// 0.
    pub protocol_version: i32,
    /// The session timeout that holds, in milliseconds; 0 if the session was refused.
    pub timeout_ms: i32,
    /// The session, 0 if it was refused.
    pub session_id: i64,
    /// What the client needs to resume the session; zeros if it was refused.
    pub password: [u8; 16],
    /// Whether the server is read-only; sent only to clients that sent theirs.
    pub read_only: Option<bool>,
}

/// What precedes the body of every request but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Chosen by the client, comes back in the reply.
    pub xid: i32,
    /// The op code as it came; it may be none that exists.
    pub op: i32,
}

/// What precedes the body of every frame from the server but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    /// The request's, or [`XID_NOTIFICATION`] for a watch event.
    pub xid: i32,
    /// The last zxid that the server had applied.
    pub zxid: i64,
    /// A [`Code`](super::Code), raw because a client may meet one it does not know.
    pub err: i32,
}

numbered! {
    /// What happened to a watched znode.
    EventKind, "event kind" {
        /// The state of the session changed; made by clients.
        None = -1,
        /// It was created.
        NodeCreated = 1,
        /// It was deleted.
        NodeDeleted = 2,
        /// Its data changed.
        NodeDataChanged = 3,
        /// A child was created or deleted.
        NodeChildrenChanged = 4,
        /// Made by clients.
        DataWatchRemoved = 5,
        /// Made by clients.
        ChildWatchRemoved = 6,
        /// Made by clients.
        PersistentWatchRemoved = 7,
    }
}

/// The state that a server puts into its watch events: `SyncConnected`.
pub const STATE_SYNC_CONNECTED: i32 = 3;

/// A watch that fired.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WatchedEvent {
    /// What happened.
    pub kind: EventKind,
    /// [`STATE_SYNC_CONNECTED`] from a server.
    pub state: i32,
    /// Where.
    pub path: String,
}

impl WatchedEvent {
    /// An event as a server sends it.
    #[must_use]
    pub fn new(kind: EventKind, path: impl Into<String>) -> Self {
        Self { kind, state: STATE_SYNC_CONNECTED, path: path.into() }
    }
}

numbered! {
    /// What a create makes, from the flags of its request. `try_from` fails where ZooKeeper answers
    /// [`BadArguments`](super::Code::BadArguments).
    CreateMode, "create flags" {
        /// Stays.
        Persistent = 0,
        /// Goes with its session.
        Ephemeral = 1,
        /// Stays; a counter is appended to its name.
        PersistentSequential = 2,
        /// Goes with its session; a counter is appended to its name.
        EphemeralSequential = 3,
        /// Goes some time after its last child.
        Container = 4,
        /// Goes when it has not changed for long enough.
        Ttl = 5,
        /// The same; a counter is appended to its name.
        TtlSequential = 6,
    }
}

impl CreateMode {
    /// The mode of a request's flags, `None` if there is none of that number.
    #[must_use]
    pub fn from_flags(flags: i32) -> Option<Self> {
        Self::try_from(flags).ok()
    }

    /// Whether the znode belongs to its session.
    #[must_use]
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    /// Whether a counter is appended to the name.
    #[must_use]
    pub const fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential | Self::TtlSequential)
    }

    /// Whether it is a container.
    #[must_use]
    pub const fn is_container(self) -> bool {
        matches!(self, Self::Container)
    }

    /// Whether it has a time to live.
    #[must_use]
    pub const fn is_ttl(self) -> bool {
        matches!(self, Self::Ttl | Self::TtlSequential)
    }
}

numbered! {
    /// Which watches `CheckWatches` and `RemoveWatches` mean.
    WatcherKind, "watcher kind" {
        /// Those set by listing children.
        Children = 1,
        /// Those set by reading data or existence.
        Data = 2,
        /// All.
        Any = 3,
    }
}

numbered! {
    /// What `AddWatch` adds.
    AddWatchMode, "watch mode" {
        /// A watch of one znode that stays when it fires.
        Persistent = 0,
        /// The same for the whole subtree.
        PersistentRecursive = 1,
    }
}
