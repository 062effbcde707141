//! One connection, as its client sees it.

use std::hash::Hash;

use bytes::Bytes;
use keeper::core::ConnId;
use keeper::wire::{
    Code, ConnectResponse, OpCode, Reply, ReplyHeader, RequestHeader, STATE_SYNC_CONNECTED, WatchedEvent,
    XID_NOTIFICATION, XID_PING,
};

/// What a frame from the server was.
#[derive(Debug)]
pub(crate) enum Heard {
    Greeting(ConnectResponse),
    Event(WatchedEvent),
    Reply { op: i32, before: i32, err: i32, bytes: usize },
}

impl Heard {
    /// The same for the same kind of news.
    pub(crate) fn trace(&self) -> impl Hash {
        let known = |op: i32| OpCode::try_from(op).ok();
        match self {
            Self::Greeting(response) => (0, response.session_id.signum(), None, None, 0),
            Self::Event(event) => (1, i64::from(event.kind.number()), None, None, 0),
            Self::Reply { op, before, err, bytes } => {
                (2, i64::from(*err), known(*op), known(*before), bytes.checked_ilog2().unwrap_or(0))
            }
        }
    }
}

/// What a client is waiting for, and may rely on.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) conn: ConnId,
    /// Whether the handshake is done.
    pub(crate) greeted: bool,
    /// The request that is being handled.
    asked: Option<RequestHeader>,
    /// The op code of the last reply.
    before: i32,
}

impl Peer {
    pub(crate) fn new(conn: ConnId) -> Self {
        Self { conn, greeted: false, asked: None, before: 0 }
    }

    /// A frame is about to be sent to the server.
    pub(crate) fn sends(&mut self, frame: &Bytes) {
        self.asked = RequestHeader::split(frame).ok().filter(|_| self.greeted).map(|(header, _)| header);
    }

    /// Whatever the server had to say about the frame has been said.
    pub(crate) fn sent(&mut self) {
        self.asked = None;
    }

    /// A frame came from the server, whose last zxid is `zxid`.
    pub(crate) fn hears(&mut self, frame: &Bytes, zxid: i64) -> Heard {
        if !self.greeted {
            self.greeted = true;
            return Heard::Greeting(
                ConnectResponse::decode(frame).expect("the first frame answers the handshake"),
            );
        }
        let (header, body) = ReplyHeader::split(frame).expect("a header");
        // The xid alone does not tell: a client may choose it for a request.
        if header == (ReplyHeader { xid: XID_NOTIFICATION, zxid: -1, err: 0 }) {
            let event = WatchedEvent::decode(&body).expect("an event");
            // Of any path: who sets a watch again may name one that never was, and is told that it is gone.
            assert_eq!(event.state, STATE_SYNC_CONNECTED);
            return Heard::Event(event);
        }
        let asked = self.asked.take().expect("a reply answers the request before it, once");
        is_reply(asked, header, &body, zxid);
        let before = std::mem::replace(&mut self.before, asked.op);
        Heard::Reply { op: asked.op, before, err: header.err, bytes: body.len() }
    }
}

/// Whether this may be said to that.
fn is_reply(asked: RequestHeader, header: ReplyHeader, body: &Bytes, zxid: i64) {
    let op = OpCode::try_from(asked.op);
    let xid = if op == Ok(OpCode::Ping) { XID_PING } else { asked.xid };
    assert_eq!(header.xid, xid);
    let code = Code::try_from(header.err).expect("an error code");
    match op {
        Ok(OpCode::Auth | OpCode::Sasl) => assert_eq!(header.zxid, 0),
        _ if code == Code::Unimplemented && header.zxid == -1 => {}
        _ => assert_eq!(header.zxid, zxid, "a reply shows the state as it is"),
    }
    match (op, code) {
        (Ok(op), Code::Ok) => {
            let reply = Reply::decode(op, body).expect("the reply of its kind");
            let mut written = bytes::BytesMut::new();
            reply.encode(&mut written);
            assert_eq!(written.len(), body.len(), "nothing stands behind the reply");
        }
        (_, code) => assert!(body.is_empty() && code != Code::Ok, "an error has no body"),
    }
}
