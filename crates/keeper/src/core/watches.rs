use super::watch::{Mode, NoAncestors, WatchTable};
use super::{ConnId, Core, Output, Settings, WatchCounts};
use crate::state::{Change, ChangeKind, permitted};
use crate::wire::{AddWatchMode, Code, EventKind, Perms, WatchedEvent, WatcherKind, event_frame};

/// About what a watch takes beside its path.
const WATCH_BYTES: usize = 128;

/// Both kinds of watches. Those on existence are watches on data.
#[derive(Debug, Default)]
pub(super) struct Watches {
    pub(super) data: WatchTable,
    pub(super) child: WatchTable,
}

impl Watches {
    /// Sets a persistent watch: it is one of each kind.
    pub(super) fn add(&mut self, path: &str, conn: ConnId, mode: AddWatchMode) {
        let mode = match mode {
            AddWatchMode::Persistent => Mode::Persistent,
            AddWatchMode::PersistentRecursive => Mode::Recursive,
        };
        self.data.add(path, conn, mode);
        self.child.add(path, conn, mode);
    }

    /// Removes watches of a connection. The client makes the event of it itself.
    pub(super) fn remove(&mut self, path: &str, conn: ConnId, kind: WatcherKind) -> Result<(), Code> {
        let child = kind != WatcherKind::Data && self.child.remove(path, conn);
        let data = kind != WatcherKind::Children && self.data.remove(path, conn);
        if child || data { Ok(()) } else { Err(Code::NoWatcher) }
    }

    pub(super) fn check(&self, path: &str, kind: WatcherKind) -> Result<(), Code> {
        let tripped = |NoAncestors| Code::MarshallingError;
        let child = kind != WatcherKind::Data && self.child.is_watched(path).map_err(tripped)?;
        let data = kind != WatcherKind::Children && self.data.is_watched(path).map_err(tripped)?;
        if child || data { Ok(()) } else { Err(Code::NoWatcher) }
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.data.forget(conn);
        self.child.forget(conn);
    }

    /// Whether a connection holds more than it may.
    pub(super) fn exceeds(&self, conn: ConnId, settings: &Settings) -> bool {
        let ((data, data_bytes), (child, child_bytes)) = (self.data.held_by(conn), self.child.held_by(conn));
        data + child > settings.watches_per_connection_max
            || data_bytes + child_bytes > settings.watch_bytes_per_connection_max
    }

    /// If all connections together hold more than they may, the one that holds most: it makes room for the others,
    /// who need not have done anything.
    pub(super) fn beyond_all(&self, settings: &Settings) -> Option<ConnId> {
        if self.data.watches() + self.child.watches() <= settings.watches_max
            && self.data.bytes() + self.child.bytes() <= settings.watch_bytes_max
        {
            return None;
        }
        let weight = |conn| {
            let ((data, data_bytes), (child, child_bytes)) =
                (self.data.held_by(conn), self.child.held_by(conn));
            (data + child) * WATCH_BYTES + data_bytes + child_bytes
        };
        self.data.holders().chain(self.child.holders()).max_by_key(|conn| (weight(*conn), *conn))
    }

    pub(super) fn counts(&self) -> WatchCounts {
        WatchCounts {
            watches: self.data.watches() + self.child.watches(),
            data_connections: self.data.connections(),
            data_paths: self.data.paths(),
            data_watches: self.data.watches(),
        }
    }

    /// Who is to hear of a change, and of what kind the event is.
    fn trigger(&mut self, change: &Change) -> (EventKind, Vec<ConnId>) {
        let path = &change.path;
        match change.kind {
            ChangeKind::Created => (EventKind::NodeCreated, self.data.trigger(path, false)),
            ChangeKind::DataChanged => (EventKind::NodeDataChanged, self.data.trigger(path, false)),
            ChangeKind::ChildrenChanged => (EventKind::NodeChildrenChanged, self.child.trigger(path, true)),
            ChangeKind::Deleted => {
                // Those who have a watch of each kind lose both and hear once.
                let mut heard = self.data.trigger(path, false);
                heard.extend(self.child.trigger(path, false));
                heard.sort_unstable();
                heard.dedup();
                (EventKind::NodeDeleted, heard)
            }
        }
    }
}

impl Core {
    /// Tells those who watch for changes, in the order in which the changes came about.
    ///
    /// A watch fires also when its owner may not read the znode; then nobody hears of it.
    pub(super) fn fire(&mut self, changes: &[Change], out: &mut Output) {
        for change in changes {
            let (kind, heard) = self.watches.trigger(change);
            if heard.is_empty() {
                continue;
            }
            let frame = event_frame(&WatchedEvent::new(kind, &change.path));
            for conn in heard {
                let may_read = |ids| permitted(&change.acl, Perms::READ, ids);
                if self.connections.get(&conn).is_some_and(|known| may_read(known.identities.as_slice())) {
                    self.send(conn, frame.clone(), out);
                }
            }
        }
    }
}
