use std::net::SocketAddr;

use super::identity::Identities;
use super::{ConnId, ConnectionInfo, ConnectionStats, Now};

/// What the core knows of an open connection.
#[derive(Debug)]
pub(super) struct Connection {
    peer: SocketAddr,
    /// Nothing before the handshake.
    pub(super) attached: Option<Attached>,
    pub(super) identities: Identities,
    pub(super) stats: ConnectionStats,
}

/// The session of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attached {
    pub(super) session: i64,
    /// Negotiated anew by each connection: the one the session was created with counts only after a restart.
    pub(super) timeout_ms: i32,
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, now: Now) -> Self {
        Self {
            peer,
            attached: None,
            identities: Identities::of_peer(peer),
            stats: ConnectionStats::new(now.wall_ms),
        }
    }

    pub(super) fn info(&self, conn: ConnId) -> ConnectionInfo<'_> {
        ConnectionInfo {
            conn,
            peer: self.peer,
            session: self.attached.map_or(0, |attached| attached.session),
            timeout_ms: self.attached.map_or(0, |attached| attached.timeout_ms),
            stats: &self.stats,
        }
    }
}
