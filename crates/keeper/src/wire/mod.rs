//! The protocol on the wire: ZooKeeper 3.8's jute records, in both directions.
//!
//! ```text
//! client                                   server
//!   length, ConnectRequest        ──▶
//!                                 ◀──  length, ConnectResponse
//!   length, RequestHeader, body   ──▶
//!                                 ◀──  length, ReplyHeader, body        in the order of the requests
//!                                 ◀──  length, ReplyHeader, event       xid -1, zxid -1
//! ```
//!
//! [`RequestHeader::split`] and [`Request::decode`] read what a server gets, [`reply_frame`] and
//! [`event_frame`] write what it sends; [`request_frame`], [`ReplyHeader::split`], [`Reply::decode`] and
//! [`WatchedEvent::decode`] are for a client.
//!
//! # What is not as it should be
//!
//! As ZooKeeper 3.8.0 has it; none of it is in the protocol's description.
//!
//! | the frame | the answer |
//! |---|---|
//! | has a length below 0 or above `jute.maxbuffer` | closed |
//! | is the first, and shorter than a [`ConnectRequest`] | closed |
//! | is shorter than a [`RequestHeader`] | closed |
//! | is an `Auth` or `Sasl` whose body is malformed | closed |
//! | has an op code that is unknown, or `Notification`, `Error` | [`Code::Unimplemented`] with the zxid -1, then closed |
//! | is a write whose body is malformed or whose path is null | [`Code::MarshallingError`]; a zxid is used up and an error is logged under it; not so for a `Reconfig` |
//! | is a multi with a null path | the same, but nothing is logged for the zxid, and the reply's is the one before; behind the header, an empty list of results (here, as any other write) |
//! | is a read whose body is malformed or whose path is null | [`Code::MarshallingError`], no zxid |
//! | is a multi-read that holds writes | the same; behind the header, an empty list of results (here, nothing) |
//! | is a `Check`, not in a multi, that succeeds | none at all; here, an empty one |
//! | is a `DeleteContainer` | [`Code::BadArguments`], as it is for ZooKeeper's own use; a zxid is used up |
//! | goes on behind the body | what is behind is ignored |
//!
//! Malformed is what [`Request::decode`] refuses: a multi that holds reads is a write that is malformed.
//!
//! Where this crate is stricter than ZooKeeper: it refuses a null path in `Sync` and `AddWatch` too, which ZooKeeper
//! takes for a name. A create in a multi whose flags say time to live, but whose header does not, is refused even where ZooKeeper
//! would not have come to it because an op before it had failed; so is a null id in an ACL where ZooKeeper would first have
//! found another fault.
//!
//! Null data and empty data are different: what was written as null is read as null.
//!
//! **Invariant**: reading never panics, does not recurse, and reserves no more than a small multiple of the bytes that are there.

mod code;
mod error;
mod frame;
mod jute;
mod multi;
mod records;
mod records_codec;
mod reply;
mod reply_codec;
mod request;
mod request_codec;
#[cfg(test)]
mod tests;

pub use code::{Code, OpCode};
pub use error::DecodeError;
pub use frame::{
    FrameLengthError, connect_request_frame, connect_response_frame, event_frame, put_reply, reply_frame,
    request_frame, take_frame,
};
pub use records::{
    Acl, AddWatchMode, ClientInfo, ConnectRequest, ConnectResponse, CreateMode, EventKind, Id, Perms,
    ReplyHeader, RequestHeader, STATE_SYNC_CONNECTED, Stat, WatchedEvent, WatcherKind, XID_AUTH,
    XID_NOTIFICATION, XID_PING, XID_SET_WATCHES,
};
pub use reply::{MultiResult, Reply};
pub use request::{Create, MultiOp, MultiReadOp, Request, Watches};
