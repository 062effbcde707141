//! The core, its clients, and a second state that is told only what is logged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use clock::Instant;
use keeper::core::{ConnId, Core, Effect, Now, Output, Settings, WatchCounts};
use keeper::state::{State, Txn};
use keeper::wire::{ConnectRequest, connect_request_frame};

use super::SLOTS;
use super::peer::{Heard, Peer};
use crate::hunt::Traces;

/// More than any one call has to say with the bounds below.
const OUTPUT_BYTES_MAX: usize = 256 * 1024;

pub(crate) struct World<'a> {
    core: Core,
    /// What a server would have that reads the log.
    shadow: State,
    now: Now,
    slots: [Option<Peer>; SLOTS],
    /// Every session there was, with its password.
    sessions: Vec<(i64, [u8; 16])>,
    conns: u64,
    xid: i32,
    /// Everything that was said.
    said: Vec<u8>,
    traces: &'a mut Traces,
}

/// Small enough that inputs run into the bounds.
fn settings() -> Settings {
    Settings {
        tick: Duration::from_millis(100),
        frame_bytes_max: 512,
        watches_per_connection_max: 12,
        identities_per_connection_max: 3,
        sessions_max: 6,
        ..Settings::default()
    }
}

impl<'a> World<'a> {
    pub(crate) fn new(traces: &'a mut Traces) -> Self {
        let now = Now { monotonic: Instant::from_nanos(5_000_000_007), wall_ms: 1_700_000_000_000 };
        Self {
            core: Core::new(settings(), State::new(), [3; 32], now),
            shadow: State::new(),
            now,
            slots: Default::default(),
            sessions: Vec::new(),
            conns: 0,
            xid: 0,
            said: Vec::new(),
            traces,
        }
    }

    pub(crate) fn next_xid(&mut self) -> i32 {
        self.xid += 1;
        self.xid
    }

    /// A new connection in a slot; one that is there is lost.
    pub(crate) fn open(&mut self, slot: usize) {
        self.lose(slot);
        self.conns += 1;
        let conn = ConnId(self.conns);
        let peer = SocketAddr::from(([127, 0, 0, 1], 2000));
        self.core.open(conn, peer, self.now);
        self.slots[slot] = Some(Peer::new(conn));
    }

    pub(crate) fn lose(&mut self, slot: usize) {
        if let Some(peer) = self.slots[slot].take() {
            self.core.closed(peer.conn, self.now);
        }
    }

    /// Makes sure that there is a connection in a slot that is through with the handshake, unless it is refused.
    pub(crate) fn connected(&mut self, slot: usize) {
        if self.slots[slot].as_ref().is_none_or(|peer| !peer.greeted) {
            self.connect(slot, 1000);
        }
    }

    pub(crate) fn connect(&mut self, slot: usize, timeout_ms: i32) {
        self.greet(slot, &ConnectRequest { timeout_ms, read_only: Some(false), ..ConnectRequest::default() });
    }

    pub(crate) fn resume(&mut self, slot: usize, session: usize, knows_password: bool) {
        let Some(&(session_id, mut password)) = self.sessions.iter().rev().nth(session) else { return };
        if !knows_password {
            password[0] ^= 1;
        }
        let password = Bytes::copy_from_slice(&password);
        self.greet(
            slot,
            &ConnectRequest { timeout_ms: 500, session_id, password, ..ConnectRequest::default() },
        );
    }

    fn greet(&mut self, slot: usize, request: &ConnectRequest) {
        self.open(slot);
        self.raw(slot, connect_request_frame(request).slice(4..));
    }

    /// Sends a frame, if there is a connection to send it on.
    pub(crate) fn raw(&mut self, slot: usize, frame: Bytes) {
        let Some(peer) = &mut self.slots[slot] else { return };
        peer.sends(&frame);
        let conn = peer.conn;
        self.call(|core, now, out| core.frame(conn, &frame, now, out));
        if let Some(peer) = &mut self.slots[slot] {
            peer.sent();
        }
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic + Duration::from_millis(ms);
        self.now.wall_ms += i64::try_from(ms).expect("a short wait");
        self.call(|core, now, out| core.tick(now, out));
        let due = self.core.next_deadline();
        assert!(due.is_none_or(|due| due > self.now.monotonic), "nothing that was due is left");
    }

    /// The server ends, and starts again from what it has stored, not in the same millisecond.
    pub(crate) fn restart(&mut self) {
        self.wait(1);
        let stored = self.stored();
        self.slots = Default::default();
        self.core = Core::new(settings(), stored, [4; 32], self.now);
    }

    /// The state out of an image of it, held against the one that was replayed.
    fn stored(&self) -> State {
        let fingerprint = self.core.state().fingerprint();
        assert_eq!(self.shadow.fingerprint(), fingerprint, "the log tells another story");
        let mut image = Vec::new();
        self.core.state().image().write_to(&mut image).expect("memory can be written");
        let stored = State::read_from(&image[..]).expect("what was written");
        assert_eq!((stored.fingerprint(), stored.counts()), (fingerprint, self.core.state().counts()));
        stored
    }

    /// All sessions expire. Everything that was said comes back.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.wait(10_000);
        self.stored();
        assert_eq!((self.core.session_count(), self.core.next_deadline()), (0, None));
        assert_eq!(self.core.state().sessions().count(), 0);
        assert_eq!(self.core.state().counts().ephemerals, 0, "ephemerals outlive their sessions");
        assert!(self.slots.iter().flatten().all(|peer| !peer.greeted), "a connection outlives its session");
        assert_eq!(self.core.watch_counts(), WatchCounts::default(), "watches outlive their connections");
        self.said
    }

    fn call(&mut self, call: impl FnOnce(&mut Core, Now, &mut Output)) {
        let mut out = Output::default();
        call(&mut self.core, self.now, &mut out);
        for txn in &out.txns {
            self.replay(txn);
        }
        assert_eq!(self.shadow.last_zxid(), self.core.state().last_zxid());
        assert_eq!(self.core.session_count(), self.core.state().sessions().count());
        let before = self.said.len();
        for effect in out.effects {
            match effect {
                Effect::Send { conn, frame } => {
                    self.said.extend_from_slice(&conn.0.to_be_bytes());
                    self.said.extend_from_slice(&frame);
                    self.hear(conn, frame);
                }
                Effect::Close { conn } => {
                    self.said.extend_from_slice(&(!conn.0).to_be_bytes());
                    *self.slot_of(conn) = None;
                }
            }
        }
        assert!(self.said.len() - before < OUTPUT_BYTES_MAX, "too much was said at once");
        let open = self.slots.iter().flatten().count();
        assert_eq!(self.core.connection_count(), open);
    }

    fn replay(&mut self, txn: &Txn) {
        assert_eq!(txn.zxid, self.shadow.last_zxid() + 1, "zxids follow each other");
        let mut written = Vec::new();
        txn.encode(&mut written);
        let read = Txn::decode(&written).expect("what was written");
        assert_eq!(read, *txn);
        self.shadow.replay(&read).expect("what was logged can be replayed");
    }

    fn slot_of(&mut self, conn: ConnId) -> &mut Option<Peer> {
        let mut slots = self.slots.iter_mut();
        slots.find(|slot| slot.as_ref().is_some_and(|peer| peer.conn == conn)).expect("an open connection")
    }

    fn hear(&mut self, conn: ConnId, mut frame: Bytes) {
        assert_eq!(frame.get_u32() as usize, frame.len(), "the length of a frame");
        let zxid = self.core.state().last_zxid();
        let peer = self.slot_of(conn).as_mut().expect("an open connection");
        let heard = peer.hears(&frame, zxid);
        self.traces.leave(heard.trace());
        let Heard::Greeting(response) = heard else { return };
        if response.session_id != 0 {
            assert!((200..=2000).contains(&response.timeout_ms), "2 to 20 ticks: {response:?}");
            let sessions: BTreeMap<_, _> = self.sessions.iter().copied().collect();
            match sessions.get(&response.session_id) {
                Some(password) => assert_eq!(*password, response.password),
                None => self.sessions.push((response.session_id, response.password)),
            }
        }
    }
}
