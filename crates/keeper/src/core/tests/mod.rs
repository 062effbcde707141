//! Scenarios over the bytes: what each connection is sent, in order.

mod handshake;
mod random;
mod requests;
mod sessions;
mod watches;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use clock::Instant;

use super::{ConnId, Core, Effect, Now, Output, Settings};
use crate::state::State;
use crate::wire::{
    Acl, Code, ConnectRequest, ConnectResponse, Create, Reply, ReplyHeader, Request, WatchedEvent,
    XID_NOTIFICATION, connect_request_frame, request_frame,
};

/// A core, its time, and what it had to say.
struct Server {
    core: Core,
    now: Now,
    /// As the shell's: one for many calls. The effects are taken out after each.
    out: Output,
    sent: BTreeMap<ConnId, Vec<Bytes>>,
    conns: u64,
    xid: i32,
}

/// One connection with its session.
#[derive(Clone, Copy, Debug)]
struct Client {
    conn: ConnId,
    session: i64,
    password: [u8; 16],
}

/// What is recorded in place of a frame when a connection is closed.
const CLOSED: Bytes = Bytes::new();

impl Server {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        Self::over(settings, State::new())
    }

    fn over(settings: Settings, state: State) -> Self {
        // Some uptime, and an odd one: nothing may hang on starting at zero.
        let now = Now { monotonic: Instant::from_nanos(7_000_000_123), wall_ms: 1_700_000_000_000 };
        let core = Core::new(settings, state, [7; 32], now);
        Self { core, now, out: Output::default(), sent: BTreeMap::new(), conns: 0, xid: 0 }
    }

    fn advance(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic + Duration::from_millis(ms);
        self.now.wall_ms += ms as i64;
        self.call(|core, now, out| core.tick(now, out));
    }

    fn call(&mut self, call: impl FnOnce(&mut Core, Now, &mut Output)) {
        call(&mut self.core, self.now, &mut self.out);
        for effect in std::mem::take(&mut self.out.effects) {
            let (conn, frame) = match effect {
                Effect::Send { conn, frame } => {
                    let (length, frame) = frame.split_first_chunk::<4>().unwrap();
                    assert_eq!(u32::from_be_bytes(*length) as usize, frame.len(), "the length prefix");
                    assert!(!frame.is_empty());
                    (conn, Bytes::copy_from_slice(frame))
                }
                Effect::Close { conn } => (conn, CLOSED),
            };
            let sent = self.sent.entry(conn).or_default();
            assert_ne!(sent.last(), Some(&CLOSED), "something follows the close of {conn:?}");
            sent.push(frame);
        }
    }

    fn open(&mut self) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let peer: SocketAddr = "127.0.0.1:4711".parse().unwrap();
        self.core.open(conn, peer, self.now);
        conn
    }

    /// Sends a frame, given without its length.
    fn send(&mut self, conn: ConnId, frame: impl Into<Bytes>) {
        let frame = frame.into();
        self.call(|core, now, out| core.frame(conn, &frame, now, out));
    }

    fn send_raw(&mut self, conn: ConnId, xid: i32, op: i32, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_i32(xid);
        frame.put_i32(op);
        frame.put_slice(body);
        self.send(conn, frame);
    }

    fn send_request(&mut self, conn: ConnId, xid: i32, request: &Request) {
        self.send(conn, request_frame(xid, request).slice(4..));
    }

    /// Everything a connection was sent since the last time.
    fn take(&mut self, conn: ConnId) -> Vec<Bytes> {
        self.sent.remove(&conn).unwrap_or_default()
    }

    /// The same for people: `NodeCreated /a`, `#3 Ok`, `closed`.
    fn told(&mut self, client: Client) -> Vec<String> {
        self.take(client.conn).iter().map(describe).collect()
    }

    /// A handshake: the answer, if there was one, and whether the connection was closed.
    fn handshake(&mut self, request: &ConnectRequest) -> (ConnId, Option<ConnectResponse>, bool) {
        let conn = self.open();
        self.send(conn, connect_request_frame(request).slice(4..));
        let mut sent = self.take(conn);
        let closed = sent.last() == Some(&CLOSED);
        sent.retain(|frame| *frame != CLOSED);
        assert!(sent.len() <= 1);
        (conn, sent.first().map(|frame| ConnectResponse::decode(frame).unwrap()), closed)
    }

    fn connect(&mut self) -> Client {
        self.attach(&ConnectRequest { timeout_ms: 10_000, ..ConnectRequest::default() })
    }

    fn resume(&mut self, client: Client) -> Client {
        self.attach(&ConnectRequest {
            timeout_ms: 10_000,
            session_id: client.session,
            password: Bytes::copy_from_slice(&client.password),
            ..ConnectRequest::default()
        })
    }

    fn attach(&mut self, request: &ConnectRequest) -> Client {
        let (conn, response, closed) = self.handshake(request);
        let response = response.expect("an answer");
        assert!(!closed && response.session_id != 0, "refused: {response:?}");
        Client { conn, session: response.session_id, password: response.password }
    }

    /// Asks and gives the reply; what is sent before it must be taken first.
    fn ask(&mut self, client: Client, request: &Request) -> Result<Reply, Code> {
        assert!(!self.sent.contains_key(&client.conn), "{:?}", self.told(client));
        self.xid += 1;
        self.send_request(client.conn, self.xid, request);
        let sent = self.take(client.conn);
        let [frame] = sent.as_slice() else {
            panic!("not one reply: {:?}", sent.iter().map(describe).collect::<Vec<_>>())
        };
        let (header, body) = ReplyHeader::split(frame).unwrap();
        assert_eq!(header.zxid, self.core.state().last_zxid());
        match Code::try_from(header.err).unwrap() {
            Code::Ok => Ok(Reply::decode(request.op(), &body).unwrap()),
            code => Err(code),
        }
    }

    /// Asks without looking at what comes back.
    fn tell(&mut self, client: Client, requests: &[Request]) {
        for request in requests {
            self.xid += 1;
            self.send_request(client.conn, self.xid, request);
        }
    }

    /// Makes plain znodes and forgets about it.
    fn with_nodes(mut self, paths: &[&str]) -> Self {
        let client = self.connect();
        for path in paths {
            self.ask(client, &create(path)).unwrap();
        }
        self.end(client);
        self
    }

    /// Closes a session.
    fn end(&mut self, client: Client) {
        self.tell(client, &[Request::CloseSession]);
        assert_eq!(self.take(client.conn).last(), Some(&CLOSED));
    }
}

fn describe(frame: &Bytes) -> String {
    if *frame == CLOSED {
        return "closed".to_owned();
    }
    let (header, body) = ReplyHeader::split(frame).unwrap();
    if header.xid == XID_NOTIFICATION {
        assert_eq!((header.zxid, header.err), (-1, 0), "the header of an event");
        let event = WatchedEvent::decode(&body).unwrap();
        assert_eq!(event.state, 3);
        return format!("{:?} {}", event.kind, event.path);
    }
    format!("#{} {:?}", header.xid, Code::try_from(header.err).unwrap())
}

fn create(path: &str) -> Request {
    create_mode(path, 0)
}

fn create_mode(path: &str, flags: i32) -> Request {
    Request::Create(Create { path: path.to_owned(), data: Some(Bytes::new()), acl: Acl::open(), flags })
}

fn set(path: &str) -> Request {
    Request::SetData { path: path.to_owned(), data: Some(Bytes::from_static(b"x")), version: -1 }
}

fn delete(path: &str) -> Request {
    Request::Delete { path: path.to_owned(), version: -1 }
}

fn exists(path: &str, watch: bool) -> Request {
    Request::Exists { path: path.to_owned(), watch }
}

fn data(path: &str, watch: bool) -> Request {
    Request::GetData { path: path.to_owned(), watch }
}

fn children(path: &str, watch: bool) -> Request {
    Request::GetChildren { path: path.to_owned(), watch }
}

fn add_watch(path: &str, mode: i32) -> Request {
    Request::AddWatch { path: path.to_owned(), mode }
}
