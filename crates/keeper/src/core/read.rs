use bytes::Bytes;

use super::dispatch::{Answer, Asked};
use super::watch::Mode;
use super::{ConnId, Core, Output};
use crate::wire::{
    AddWatchMode, Code, EventKind, Id, MultiReadOp, MultiResult, Reply, Request, WatchedEvent, WatcherKind,
    event_frame,
};

/// Bytes that the results of one multi-read may have. A request of a mebibyte can ask for the largest znode tens of
/// thousands of times.
const MULTI_READ_BYTES_MAX: usize = 16 << 20;

impl Core {
    /// Answers a request that changes no znode, and sets the watches it asks for.
    pub(super) fn read(&mut self, asked: Asked, body: &Bytes, out: &mut Output) -> Answer {
        let conn = asked.conn;
        let result = match Request::decode(asked.op, body) {
            Err(_) => Err(Code::MarshallingError),
            Ok(Request::MultiRead(ops)) => match self.multi_read(conn, &ops) {
                Some(results) => Ok(Reply::Multi(results)),
                None => {
                    self.refuse(conn, out);
                    return Answer::Closed;
                }
            },
            Ok(Request::SetWatches { relative_zxid, watches }) => {
                self.set_watches(conn, relative_zxid, &watches, out);
                Ok(Reply::Empty)
            }
            Ok(Request::SetWatches2 { relative_zxid, watches, persistent, persistent_recursive }) => {
                self.set_watches(conn, relative_zxid, &watches, out);
                for path in &persistent {
                    self.watches.add(path, conn, AddWatchMode::Persistent);
                }
                for path in &persistent_recursive {
                    self.watches.add(path, conn, AddWatchMode::PersistentRecursive);
                }
                Ok(Reply::Empty)
            }
            Ok(request) => self.look(asked, &request),
        };
        if self.watches.exceeds(conn, &self.settings) {
            self.refuse(conn, out);
            return Answer::Closed;
        }
        while let Some(most) = self.watches.beyond_all(&self.settings) {
            self.refuse(most, out);
            if most == conn {
                return Answer::Closed;
            }
        }
        Answer::Reply(result)
    }

    fn look(&mut self, asked: Asked, request: &Request) -> Result<Reply, Code> {
        let conn = asked.conn;
        let ids = self.connections.get(&conn).map_or(&[][..], |connection| connection.identities.as_slice());
        // A path that cannot be read is not watched; that a znode is missing is what a watch on existence is for.
        match request {
            Request::Exists { path, watch } => {
                let found = self.state.exists(path);
                if *watch && matches!(found, Ok(_) | Err(Code::NoNode)) {
                    self.watches.data.add(path, conn, Mode::Once);
                }
                found
            }
            Request::GetData { path, watch } => {
                let found = self.state.data(ids, path)?;
                if *watch {
                    self.watches.data.add(path, conn, Mode::Once);
                }
                Ok(found)
            }
            Request::GetChildren { path, watch } => {
                let found = self.state.children(ids, path)?;
                if *watch {
                    self.watches.child.add(path, conn, Mode::Once);
                }
                Ok(found)
            }
            Request::GetChildren2 { path, watch } => {
                let found = self.state.children2(ids, path)?;
                if *watch {
                    self.watches.child.add(path, conn, Mode::Once);
                }
                Ok(found)
            }
            Request::GetAcl { path } => self.state.acl(ids, path),
            Request::GetAllChildrenNumber { path } => self.state.all_children_number(ids, path),
            Request::GetEphemerals { prefix } => Ok(self.state.ephemerals(asked.session, prefix)),
            Request::Sync { path } => Ok(Reply::Path(path.clone())),
            Request::WhoAmI => Ok(Reply::WhoAmI(
                self.connections.get(&conn).map_or_else(Vec::new, |known| known.identities.users()),
            )),
            Request::AddWatch { path, mode } => {
                let mode = AddWatchMode::try_from(*mode).map_err(|_| Code::MarshallingError)?;
                self.watches.add(path, conn, mode);
                Ok(Reply::Error(Code::Ok.number()))
            }
            Request::CheckWatches { path, kind } => {
                let kind = WatcherKind::try_from(*kind).map_err(|_| Code::MarshallingError)?;
                self.watches.check(path, kind).map(|()| Reply::Empty)
            }
            Request::RemoveWatches { path, kind } => {
                let kind = WatcherKind::try_from(*kind).map_err(|_| Code::MarshallingError)?;
                self.watches.remove(path, conn, kind).map(|()| Reply::Empty)
            }
            // All others are handled before they come here.
            _ => Err(Code::Unimplemented),
        }
    }

    /// Each op stands for itself; nothing if the results are out of bounds together.
    fn multi_read(&self, conn: ConnId, ops: &[MultiReadOp]) -> Option<Vec<MultiResult>> {
        let ids = self.connections.get(&conn).map_or(&[][..], |connection| connection.identities.as_slice());
        let mut bytes = 0_usize;
        let mut results = Vec::with_capacity(ops.len());
        for op in ops {
            let result = self.read_one(ids, op).unwrap_or_else(|code| MultiResult::Error(code.number()));
            bytes += match &result {
                MultiResult::GetData { data, .. } => data.as_ref().map_or(0, Bytes::len),
                MultiResult::GetChildren(children) => children.iter().map(|name| name.len() + 4).sum(),
                _ => 0,
            };
            if bytes > MULTI_READ_BYTES_MAX {
                return None;
            }
            results.push(result);
        }
        Some(results)
    }

    fn read_one(&self, ids: &[Id], op: &MultiReadOp) -> Result<MultiResult, Code> {
        let reply = match op {
            MultiReadOp::GetData { path } => self.state.data(ids, path)?,
            MultiReadOp::GetChildren { path } => self.state.children(ids, path)?,
        };
        match reply {
            Reply::Data { data, stat } => Ok(MultiResult::GetData { data, stat }),
            Reply::Children(children) => Ok(MultiResult::GetChildren(children)),
            _ => Err(Code::SystemError),
        }
    }

    /// Sets watches that fire once again after a reconnect. What they would have seen since `seen` fires at once
    /// instead, and whoever may read what: ZooKeeper does not look at the ACL here.
    fn set_watches(&mut self, conn: ConnId, seen: i64, watches: &crate::wire::Watches, out: &mut Output) {
        for path in &watches.data {
            match self.state.stat(path) {
                None => self.replay(conn, EventKind::NodeDeleted, path, out),
                Some(stat) if stat.mzxid > seen => self.replay(conn, EventKind::NodeDataChanged, path, out),
                Some(_) => self.watches.data.add(path, conn, Mode::Once),
            }
        }
        for path in &watches.exist {
            match self.state.stat(path) {
                Some(_) => self.replay(conn, EventKind::NodeCreated, path, out),
                None => self.watches.data.add(path, conn, Mode::Once),
            }
        }
        for path in &watches.child {
            match self.state.stat(path) {
                None => self.replay(conn, EventKind::NodeDeleted, path, out),
                Some(stat) if stat.pzxid > seen => {
                    self.replay(conn, EventKind::NodeChildrenChanged, path, out)
                }
                Some(_) => self.watches.child.add(path, conn, Mode::Once),
            }
        }
    }

    fn replay(&mut self, conn: ConnId, kind: EventKind, path: &str, out: &mut Output) {
        self.send(conn, event_frame(&WatchedEvent::new(kind, path)), out);
    }
}
