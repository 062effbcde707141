//! Sessions: which there are, their opening and their closing.

use super::apply::Origin;
use super::{Edit, State, Txn, TxnBody, Written};
use crate::wire::Reply;

/// An open session. When it expires is not durable: after a restart each has its whole timeout again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// How long it lives without a sign of its client, in milliseconds.
    pub timeout_ms: i32,
    /// What resumes it.
    pub password: [u8; 16],
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("timeout_ms", &self.timeout_ms).finish_non_exhaustive()
    }
}

impl State {
    /// The session of that id, if it is open.
    #[must_use]
    pub fn session(&self, id: i64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// The open sessions by id.
    pub fn sessions(&self) -> impl Iterator<Item = (i64, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    /// Opens a session.
    pub fn create_session(&mut self, id: i64, timeout_ms: i32, password: [u8; 16], time_ms: i64) -> Written {
        self.sessions.insert(id, Session { timeout_ms, password });
        self.of_session(id, time_ms, TxnBody::CreateSession { timeout_ms, password })
    }

    /// Closes a session and deletes what it owns, in the order of the paths. Spends a zxid even if there is no such
    /// session.
    pub fn close_session(&mut self, id: i64, time_ms: i64) -> Written {
        let owned = self.tree.ephemerals().get(&id);
        let paths: Vec<String> = owned.into_iter().flatten().map(ToString::to_string).collect();
        self.sessions.remove(&id);
        let body = TxnBody::CloseSession { paths: paths.clone() };
        let mut written = self.of_session(id, time_ms, body);
        let origin = Origin { zxid: written.txn.zxid, time_ms, session: id };
        for path in paths {
            let edit = Edit::Delete { path };
            let at = self.locate(&edit).expect("an ephemeral is in the tree, and has no children");
            let undo = self.apply(origin, at, &edit);
            self.announce(origin.zxid, at, &edit, &undo, &mut written.changes);
        }
        written
    }

    fn of_session(&mut self, session: i64, time_ms: i64, body: TxnBody) -> Written {
        self.last_zxid += 1;
        let txn = Txn { zxid: self.last_zxid, time_ms, session, cxid: 0, body };
        Written { txn, result: Ok(Reply::Empty), changes: Vec::new() }
    }
}
