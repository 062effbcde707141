//! The server without its IO: bytes, time and randomness in; bytes and transactions out.
//!
//! ```text
//!            open             connect request              requests
//! (shell) ─────────▶ greeting ───────────────▶ serving ◀────────────┐
//!                       │  refused               │  └───────────────┘
//!                       ▼                        ▼  closeSession, taken over, expired, malformed, out of bounds
//!                     Close                    Close
//! ```
//!
//! A [`Core`] is told of everything in the order in which it happens, one call at a time, and answers with an
//! [`Output`]. It is a function of those calls: the same calls give the same outputs.
//!
//! **Invariants.**
//! - The effects of an output become visible only when every transaction of it and of all earlier outputs is on
//!   disk, and outputs become visible in order. The shell owes this; everything below rests on it.
//! - Replies of a connection leave in the order of its requests, each carrying the zxid of the state it shows, and
//!   a watch event leaves before the reply that shows the change.
//! - After a [`Effect::Close`] nothing more is sent on that connection, and what still comes in on it is ignored.
//! - A session has at most one connection; a connection that closes does not end its session.
//! - A session that ends takes its ephemerals with it in one transaction.
//!
//! What is answered to whom follows ZooKeeper 3.8.0 standalone as Debian ships it, down to what it refuses and how. What
//! is not like it, and why:
//!
//! - A check that stands alone and succeeds is answered; ZooKeeper fails to write that reply and answers nothing.
//! - The op code of a session's creation, which no client sends, is refused as unknown; ZooKeeper lets a client give its
//!   session any timeout with it.
//! - Authentication takes its turn among the requests of a connection; ZooKeeper's overtakes those before it.
//! - Null paths are malformed everywhere; ZooKeeper takes them for `sync` and `addWatch`, and then stumbles over them.
//! - There are bounds, see [`Settings`]: ZooKeeper has none on sessions, watches, identities and what a multi-read may
//!   answer.

mod connection;
mod dispatch;
mod expiry;
mod identity;
mod output;
mod read;
mod session;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod watch;
mod watches;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use clock::Instant;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use output::{Effect, Output};
pub use settings::{ConnId, Now, Settings};
pub use stats::{ConnectionInfo, ConnectionStats, Latency, Stats, WatchCounts};

use self::connection::Connection;
use self::expiry::ExpiryQueue;
use self::watches::Watches;
use crate::state::State;

/// Connections, sessions and watches over a [`State`]: everything the server decides.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    state: State,
    random: StdRng,
    connections: BTreeMap<ConnId, Connection>,
    /// The connection of each session that has one.
    attached: HashMap<i64, ConnId>,
    expiry: ExpiryQueue,
    next_session: i64,
    watches: Watches,
    stats: Stats,
}

impl Core {
    /// A core that goes on from `state`: its sessions get their whole timeout again from `now`.
    ///
    /// `seed` is what the passwords of new sessions are drawn from.
    pub fn new(settings: Settings, state: State, seed: [u8; 32], now: Now) -> Self {
        let mut expiry = ExpiryQueue::new(settings.tick_ms());
        let mut next_session = session::first_id(now.wall_ms);
        for (id, session) in state.sessions() {
            expiry.update(id, now.ms(), session.timeout_ms);
            next_session = next_session.max(id.saturating_add(1));
        }
        Self {
            settings,
            state,
            random: StdRng::from_seed(seed),
            connections: BTreeMap::new(),
            attached: HashMap::new(),
            expiry,
            next_session,
            watches: Watches::default(),
            stats: Stats::default(),
        }
    }

    /// A connection was accepted from `peer`. It has no session until its first frame.
    ///
    /// How long it may take for that is the shell's to bound.
    pub fn open(&mut self, conn: ConnId, peer: SocketAddr, now: Now) {
        self.connections.insert(conn, Connection::new(peer, now));
    }

    /// A frame came in, without its length prefix. Connections that are closed are ignored.
    pub fn frame(&mut self, conn: ConnId, frame: &Bytes, now: Now, out: &mut Output) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        self.stats.packets_received += 1;
        connection.stats.packets_received += 1;
        if frame.len() > self.settings.frame_bytes_max {
            return self.refuse(conn, out);
        }
        match connection.attached {
            None => self.greet(conn, frame, now, out),
            Some(attached) => self.request(conn, attached, frame, now, out),
        }
    }

    /// A connection is gone. Its watches are dropped, its session goes on until it expires.
    ///
    /// Also to be called after an [`Effect::Close`]; then it does nothing.
    pub fn closed(&mut self, conn: ConnId, _now: Now) {
        self.forget(conn);
    }

    /// The shell does not read a connection for now, for reasons of its own: its client may well have been heard of if
    /// it did. Its session lives on as if it had been.
    pub fn held_back(&mut self, conn: ConnId, now: Now) {
        if let Some(attached) = self.connections.get(&conn).and_then(|connection| connection.attached) {
            self.expiry.update(attached.session, now.ms(), attached.timeout_ms);
        }
    }

    /// Time has passed: ends the sessions that are due.
    pub fn tick(&mut self, now: Now, out: &mut Output) {
        while let Some(session) = self.expiry.pop_due(now.ms()) {
            self.stats.sessions_expired += 1;
            self.expire(session, now, out);
        }
    }

    /// When [`tick`](Self::tick) next has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.expiry.next_due_ms().map(|due| Instant::from_nanos(due.saturating_mul(1_000_000)))
    }

    /// What is stored.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was done since the start.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The open connections, oldest first.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionInfo<'_>> {
        self.connections.iter().map(|(conn, connection)| connection.info(*conn))
    }

    /// The number of open connections.
    pub fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// The number of sessions, those without a connection included.
    pub fn session_count(&self) -> usize {
        self.expiry.len()
    }

    /// The number of watches, by kinds.
    pub fn watch_counts(&self) -> WatchCounts {
        self.watches.counts()
    }

    /// When which sessions expire unless they are heard of, in milliseconds of the monotonic clock, soonest first.
    pub fn expiries(&self) -> impl Iterator<Item = (u64, &BTreeSet<i64>)> {
        self.expiry.buckets()
    }

    /// Counts what the shell exchanged with a client by itself: four-letter words.
    pub fn count_packets(&mut self, received: u64, sent: u64) {
        self.stats.packets_received += received;
        self.stats.packets_sent += sent;
    }

    /// A reply has left, this long after its request came in: only the shell knows what the disk took.
    pub fn answered(&mut self, conn: ConnId, latency: Duration) {
        self.stats.latency.record(latency);
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.stats.record_latency(latency);
        }
    }

    /// Starts the counters again, as the four-letter word `srst` does.
    pub fn reset_stats(&mut self) {
        self.stats = Stats::default();
    }

    /// Starts the counters of every connection again, as the four-letter word `crst` does.
    pub fn reset_connection_stats(&mut self) {
        for connection in self.connections.values_mut() {
            connection.stats = ConnectionStats::new(connection.stats.established_ms);
        }
    }

    fn send(&mut self, conn: ConnId, frame: Bytes, out: &mut Output) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            self.stats.packets_sent += 1;
            connection.stats.packets_sent += 1;
            out.effects.push(Effect::Send { conn, frame });
        }
    }

    /// Closes a connection that has done what it may not.
    fn refuse(&mut self, conn: ConnId, out: &mut Output) {
        self.stats.connections_refused += 1;
        self.close(conn, out);
    }

    fn close(&mut self, conn: ConnId, out: &mut Output) {
        if self.forget(conn) {
            out.effects.push(Effect::Close { conn });
        }
    }

    fn forget(&mut self, conn: ConnId) -> bool {
        let Some(connection) = self.connections.remove(&conn) else { return false };
        self.watches.forget(conn);
        // The session is this connection's: whoever takes one over has its former connection forgotten first.
        if let Some(attached) = connection.attached {
            self.attached.remove(&attached.session);
        }
        true
    }
}
