use bytes::Bytes;
use rand::Rng as _;
use tracing::debug;

use super::connection::Attached;
use super::{ConnId, Core, Now, Output};
use crate::wire::{ConnectRequest, ConnectResponse, connect_response_frame};

/// The id of a standalone ZooKeeper, in the highest byte of its session ids.
const SERVER: i64 = 1;

/// The first session id of a server that starts at `wall_ms`: its own id, 40 bits of time, 16 bits of zeros to count in.
///
/// ZooKeeper takes the time since boot; the wall clock keeps ids apart over reboots too.
pub(super) fn first_id(wall_ms: i64) -> i64 {
    SERVER << 56 | ((wall_ms as u64) << 24 >> 8) as i64
}

impl Core {
    /// Handles the first frame of a connection.
    pub(super) fn greet(&mut self, conn: ConnId, frame: &Bytes, now: Now, out: &mut Output) {
        let Ok(request) = ConnectRequest::decode(frame) else {
            return self.refuse(conn, out);
        };
        // The client has seen what we have not: another server's state, or a state that was lost. It must not see us.
        if request.last_zxid_seen > self.state.last_zxid() {
            debug!(
                seen = request.last_zxid_seen,
                ours = self.state.last_zxid(),
                "refused a client that is ahead"
            );
            return self.refuse(conn, out);
        }
        let timeout_ms = self.settings.session_timeout_ms(request.timeout_ms);
        if request.session_id == 0 {
            self.create_session(conn, &request, timeout_ms, now, out);
        } else {
            self.resume_session(conn, &request, timeout_ms, now, out);
        }
    }

    fn create_session(
        &mut self,
        conn: ConnId,
        request: &ConnectRequest,
        timeout_ms: i32,
        now: Now,
        out: &mut Output,
    ) {
        if self.session_count() >= self.settings.sessions_max {
            return self.refuse(conn, out);
        }
        let session = self.next_session;
        self.next_session += 1;
        let mut password = [0; 16];
        self.random.fill_bytes(&mut password);
        let written = self.state.create_session(session, timeout_ms, password, now.wall_ms);
        out.txns.push(written.txn);
        self.attach(conn, Attached { session, timeout_ms }, now);
        self.note_reply(conn, "SESS", 0, now);
        self.send_response(conn, request, Some((session, timeout_ms, password)), out);
    }

    fn resume_session(
        &mut self,
        conn: ConnId,
        request: &ConnectRequest,
        timeout_ms: i32,
        now: Now,
        out: &mut Output,
    ) {
        let session = request.session_id;
        // As ZooKeeper, before the password is looked at.
        if let Some(former) = self.attached.get(&session).copied() {
            self.close(former, out);
        }
        let password = self.state.session(session).map(|known| known.password);
        match password.filter(|password| same(password, &request.password)) {
            Some(password) => {
                self.attach(conn, Attached { session, timeout_ms }, now);
                self.send_response(conn, request, Some((session, timeout_ms, password)), out);
            }
            None => {
                self.send_response(conn, request, None, out);
                self.close(conn, out);
            }
        }
    }

    fn attach(&mut self, conn: ConnId, attached: Attached, now: Now) {
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.attached = Some(attached);
            self.attached.insert(attached.session, conn);
            self.expiry.update(attached.session, now.ms(), attached.timeout_ms);
        }
    }

    /// Answers a handshake; without a session the client learns that there is none.
    fn send_response(
        &mut self,
        conn: ConnId,
        request: &ConnectRequest,
        session: Option<(i64, i32, [u8; 16])>,
        out: &mut Output,
    ) {
        let (session_id, timeout_ms, password) = session.unwrap_or_default();
        // A client that did not say whether it would do with a read-only server does not expect to be told.
        let read_only = request.read_only.map(|_| false);
        let response = ConnectResponse { protocol_version: 0, timeout_ms, session_id, password, read_only };
        self.send(conn, connect_response_frame(&response), out);
    }

    /// Ends a session of which nothing was heard. Its connection hears nothing of what that changes.
    pub(super) fn expire(&mut self, session: i64, now: Now, out: &mut Output) {
        debug!(session = format!("{session:#x}"), "a session expired");
        if let Some(conn) = self.attached.get(&session).copied() {
            self.close(conn, out);
        }
        self.end_session(session, now, out);
    }

    /// Ends a session: its ephemerals go in one transaction.
    pub(super) fn end_session(&mut self, session: i64, now: Now, out: &mut Output) {
        self.expiry.remove(session);
        let written = self.state.close_session(session, now.wall_ms);
        self.fire(&written.changes, out);
        out.txns.push(written.txn);
    }
}

/// Whether a password is right, in a time that does not depend on how much of it is.
fn same(password: &[u8; 16], given: &[u8]) -> bool {
    given.len() == password.len() && password.iter().zip(given).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}
