//! The protocol on the wire: ZooKeeper 3.8's jute records, in both directions.

mod code;
mod error;
mod records;
mod reply;
mod request;

pub use code::{Code, OpCode};
pub use error::DecodeError;
pub use records::{
    Acl, AddWatchMode, ClientInfo, ConnectRequest, ConnectResponse, CreateMode, EventKind, Id, Perms,
    ReplyHeader, RequestHeader, STATE_SYNC_CONNECTED, Stat, WatchedEvent, WatcherKind, XID_AUTH,
    XID_NOTIFICATION, XID_PING, XID_SET_WATCHES,
};
pub use reply::{MultiResult, Reply};
pub use request::{Create, MultiOp, MultiReadOp, Request, Watches};
