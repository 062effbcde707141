use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::ConnId;

/// How long a watch stays and how far it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Fires once.
    Once,
    /// Stays.
    Persistent,
    /// Stays, and sees everything below too, except for lists of children that change.
    Recursive,
}

/// The watches of one kind, data or children: at most one per connection and path, found from both sides.
///
/// Most paths are watched by one connection, so that case takes no map.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    paths: HashMap<Arc<str>, Watchers>,
    held: HashMap<ConnId, Held>,
    watches: usize,
    /// Bytes of the paths, once for each watch.
    bytes: usize,
    /// How many recursive watches there are on paths of which length. To ask for each path above a deep one costs
    /// the square of its length, so only those are asked for that can be watched.
    recursive: BTreeMap<usize, usize>,
}

#[derive(Debug)]
enum Watchers {
    One(ConnId, Mode),
    Many(BTreeMap<ConnId, Mode>),
}

/// What one connection watches.
#[derive(Debug, Default)]
struct Held {
    paths: HashSet<Arc<str>>,
    bytes: usize,
}

/// A path that ZooKeeper fails to walk up from: it has a component before its first slash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoAncestors;

impl WatchTable {
    /// Sets a watch; one that the connection has on that path already takes the new mode, even from persistent to once.
    pub(super) fn add(&mut self, path: &str, conn: ConnId, mode: Mode) {
        let key = match self.paths.get_key_value(path) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(path),
        };
        let former = match self.paths.get_mut(path) {
            Some(watchers) => watchers.insert(conn, mode),
            None => {
                self.paths.insert(Arc::clone(&key), Watchers::One(conn, mode));
                None
            }
        };
        if mode == Mode::Recursive {
            *self.recursive.entry(path.len()).or_default() += 1;
        }
        if former == Some(Mode::Recursive) {
            self.forget_recursive(path.len());
        }
        if former.is_none() {
            self.watches += 1;
            self.bytes += path.len();
            let held = self.held.entry(conn).or_default();
            held.bytes += key.len();
            held.paths.insert(key);
        }
    }

    /// Removes a watch; whether there was one.
    pub(super) fn remove(&mut self, path: &str, conn: ConnId) -> bool {
        self.remove_from_path(path, conn) && self.remove_from_held(path, conn)
    }

    /// Drops what a connection watches, in time proportional to that.
    pub(super) fn forget(&mut self, conn: ConnId) {
        for path in self.held.remove(&conn).map(|held| held.paths).into_iter().flatten() {
            self.remove_from_path(&path, conn);
        }
    }

    /// Who is to hear of an event at `path`, in ascending order; watches that fire once are gone afterwards.
    ///
    /// `children_changed` says that the event is about a list of children, which recursive watches are not told.
    pub(super) fn trigger(&mut self, path: &str, children_changed: bool) -> Vec<ConnId> {
        let mut heard = self.trigger_at(path, children_changed);
        if !self.recursive.is_empty() && !children_changed {
            let own = heard.len();
            for ancestor in ancestors(path).filter(|ancestor| self.recursive.contains_key(&ancestor.len())) {
                let recursive = self.paths.get(ancestor).into_iter().flat_map(Watchers::iter);
                heard.extend(recursive.filter(|(_, mode)| *mode == Mode::Recursive).map(|(conn, _)| conn));
            }
            if heard.len() > own {
                heard.sort_unstable();
                heard.dedup();
            }
        }
        heard
    }

    /// What `checkWatches` looks at: whether *any* connection watches `path`. ZooKeeper 3.8 does not ask whose watch it is.
    pub(super) fn is_watched(&self, path: &str) -> Result<bool, NoAncestors> {
        if path.is_empty() {
            return Ok(false);
        }
        if !path.contains('/') {
            return Err(NoAncestors);
        }
        if self.paths.contains_key(path) {
            return Ok(true);
        }
        // It goes on to look for recursive watches above, as soon as there is one anywhere, and trips over this.
        if !self.recursive.is_empty() && !path.starts_with('/') {
            return Err(NoAncestors);
        }
        Ok(false)
    }

    /// The watches that a connection holds, and the bytes of their paths.
    pub(super) fn held_by(&self, conn: ConnId) -> (usize, usize) {
        self.held.get(&conn).map_or((0, 0), |held| (held.paths.len(), held.bytes))
    }

    pub(super) fn watches(&self) -> usize {
        self.watches
    }

    /// Bytes of the paths that are watched, once for each watch.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn connections(&self) -> usize {
        self.held.len()
    }

    /// The connections that hold watches, in no order.
    pub(super) fn holders(&self) -> impl Iterator<Item = ConnId> {
        self.held.keys().copied()
    }

    pub(super) fn paths(&self) -> usize {
        self.paths.len()
    }

    fn trigger_at(&mut self, path: &str, children_changed: bool) -> Vec<ConnId> {
        let Some(watchers) = self.paths.get_mut(path) else { return Vec::new() };
        let heard = watchers
            .iter()
            .filter(|(_, mode)| *mode != Mode::Recursive || !children_changed)
            .map(|(conn, _)| conn)
            .collect();
        let mut spent = Vec::new();
        let empty = match watchers {
            Watchers::One(conn, mode) => {
                let once = *mode == Mode::Once;
                spent.extend(once.then_some(*conn));
                once
            }
            Watchers::Many(many) => {
                many.retain(|conn, mode| {
                    let once = *mode == Mode::Once;
                    spent.extend(once.then_some(*conn));
                    !once
                });
                many.is_empty()
            }
        };
        if empty {
            self.paths.remove(path);
        }
        self.watches -= spent.len();
        self.bytes -= spent.len() * path.len();
        for conn in spent {
            self.remove_from_held(path, conn);
        }
        heard
    }

    fn remove_from_path(&mut self, path: &str, conn: ConnId) -> bool {
        let Some(watchers) = self.paths.get_mut(path) else { return false };
        let (removed, empty) = match watchers {
            Watchers::One(only, mode) if *only == conn => (Some(*mode), true),
            Watchers::One(..) => (None, false),
            Watchers::Many(many) => (many.remove(&conn), many.is_empty()),
        };
        if empty {
            self.paths.remove(path);
        }
        if removed.is_some() {
            self.watches -= 1;
            self.bytes -= path.len();
        }
        if removed == Some(Mode::Recursive) {
            self.forget_recursive(path.len());
        }
        removed.is_some()
    }

    fn forget_recursive(&mut self, path_len: usize) {
        if let Some(count) = self.recursive.get_mut(&path_len) {
            *count -= 1;
            if *count == 0 {
                self.recursive.remove(&path_len);
            }
        }
    }

    fn remove_from_held(&mut self, path: &str, conn: ConnId) -> bool {
        let Some(held) = self.held.get_mut(&conn) else { return false };
        let removed = held.paths.remove(path);
        held.bytes -= if removed { path.len() } else { 0 };
        if held.paths.is_empty() {
            self.held.remove(&conn);
        }
        removed
    }
}

impl Watchers {
    fn insert(&mut self, conn: ConnId, mode: Mode) -> Option<Mode> {
        match self {
            Self::One(only, former) if *only == conn => Some(std::mem::replace(former, mode)),
            Self::One(only, only_mode) => {
                *self = Self::Many(BTreeMap::from([(*only, *only_mode), (conn, mode)]));
                None
            }
            Self::Many(many) => many.insert(conn, mode),
        }
    }

    fn iter(&self) -> impl Iterator<Item = (ConnId, Mode)> {
        let (one, many) = match self {
            Self::One(conn, mode) => (Some((*conn, *mode)), None),
            Self::Many(many) => (None, Some(many.iter().map(|(conn, mode)| (*conn, *mode)))),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// The paths above an absolute one, nearest first, "/" last.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| match path.rfind('/')? {
        _ if path.len() == 1 => None,
        0 => Some("/"),
        slash => Some(&path[..slash]),
    })
    .skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ConnId = ConnId(1);
    const B: ConnId = ConnId(2);

    #[test]
    fn the_paths_above() {
        for (path, above) in [("/", &[][..]), ("/a", &["/"]), ("/a/b/c", &["/a/b", "/a", "/"])] {
            assert_eq!(ancestors(path).collect::<Vec<_>>(), above, "above {path}");
        }
    }

    #[test]
    fn modes_by_event_and_distance() {
        // (mode, watched, event at, about children) -> (heard, still there)
        let rows = [
            (Mode::Once, "/a", "/a", false, true, false),
            (Mode::Once, "/a", "/a", true, true, false),
            (Mode::Once, "/a", "/a/b", false, false, true),
            (Mode::Persistent, "/a", "/a", false, true, true),
            (Mode::Persistent, "/a", "/a", true, true, true),
            (Mode::Persistent, "/a", "/a/b", false, false, true),
            (Mode::Recursive, "/a", "/a", false, true, true),
            (Mode::Recursive, "/a", "/a", true, false, true),
            (Mode::Recursive, "/a", "/a/b/c", false, true, true),
            (Mode::Recursive, "/a", "/a/b/c", true, false, true),
            (Mode::Recursive, "/a", "/ab", false, false, true),
            (Mode::Recursive, "/", "/a", false, true, true),
        ];
        for (mode, watched, at, about_children, heard, stays) in rows {
            let mut table = WatchTable::default();
            table.add(watched, A, mode);
            let row = format!("{mode:?} on {watched}, event at {at}");
            assert_eq!(table.trigger(at, about_children).len(), usize::from(heard), "{row}");
            assert_eq!(table.watches(), usize::from(stays), "{row}");
            assert_eq!(table.held_by(A), if stays { (1, watched.len()) } else { (0, 0) }, "{row}");
        }
    }

    #[test]
    fn one_watch_per_connection_and_path_and_the_last_mode_counts() {
        let mut table = WatchTable::default();
        table.add("/a", A, Mode::Recursive);
        table.add("/a", A, Mode::Once);
        assert_eq!((table.watches(), table.recursive.len()), (1, 0));
        assert_eq!(table.trigger("/a", true), [A]);
        assert_eq!(table.trigger("/a", true), []);

        table.add("/a", A, Mode::Once);
        table.add("/a", A, Mode::Persistent);
        assert_eq!(table.trigger("/a", false), [A]);
        assert_eq!(table.trigger("/a", false), [A]);
    }

    #[test]
    fn of_the_paths_above_a_deep_one_only_those_are_asked_for_that_can_be_watched() {
        let mut table = WatchTable::default();
        table.add("/elsewhere", A, Mode::Recursive);
        // To look each of these up takes a minute of hashing.
        let deep = "/a".repeat(200_000);
        assert_eq!(table.trigger(&deep, false), []);
        table.add(&deep[..100_000], B, Mode::Recursive);
        table.add(&deep[..100_001], A, Mode::Recursive);
        assert_eq!(table.trigger(&deep, false), [B]);
        assert!(table.remove(&deep[..100_000], B));
        assert_eq!(table.trigger(&deep, false), []);
    }

    #[test]
    fn a_connection_hears_once_and_in_order() {
        let mut table = WatchTable::default();
        table.add("/a/b", B, Mode::Recursive);
        table.add("/", B, Mode::Recursive);
        table.add("/a", A, Mode::Recursive);
        table.add("/a/b", A, Mode::Once);
        assert_eq!(table.trigger("/a/b", false), [A, B]);
        assert_eq!(table.watches(), 3);
    }

    #[test]
    fn checking_asks_for_anybodys_watch_and_trips_over_relative_paths() {
        let mut table = WatchTable::default();
        table.add("/a", B, Mode::Once);
        assert_eq!(table.is_watched("/a"), Ok(true));
        assert_eq!(table.is_watched("/b"), Ok(false));
        assert_eq!(table.is_watched(""), Ok(false));
        assert_eq!(table.is_watched("a"), Err(NoAncestors));
        assert_eq!(table.is_watched("a/b"), Ok(false));
        table.add("/r", A, Mode::Recursive);
        assert_eq!(table.is_watched("a/b"), Err(NoAncestors));
        assert_eq!(table.is_watched("/a/b"), Ok(false));
    }

    #[test]
    fn removal_leaves_nothing_behind() {
        let mut table = WatchTable::default();
        for n in 0..100 {
            let path = format!("/p{}", n % 10);
            table.add(&path, ConnId(n), [Mode::Once, Mode::Persistent, Mode::Recursive][n as usize % 3]);
        }
        table.add("/kept", ConnId(3), Mode::Persistent);
        assert!(table.remove("/p3", ConnId(3)));
        assert_eq!(table.held_by(ConnId(3)), (1, "/kept".len()));
        assert!(!table.remove("/p3", ConnId(3)));
        assert!(!table.remove("/p4", ConnId(3)));
        for n in 0..100 {
            table.forget(ConnId(n));
        }
        assert_eq!((table.watches(), table.bytes(), table.paths(), table.connections()), (0, 0, 0, 0));
        assert_eq!(table.recursive, BTreeMap::new());
    }
}
