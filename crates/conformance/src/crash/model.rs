//! What one worker's part of the tree looks like after so many of its requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use keeper::wire::{Acl, Create, CreateMode, MultiOp, Request, Stat};

/// Where a node lives. Its name below that is made here, unless the server makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A node of the worker, by number.
    Plain(u32),
    /// An ephemeral of the worker, by number.
    Ephemeral(u32),
    /// A sequential node of the worker, by the stamp in its data.
    Own(u64),
    /// A sequential node in the directory that all workers share, by the stamp in its data.
    Shared(u64),
}

/// One znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Which data it has.
    pub(super) stamp: u64,
    pub(super) version: i32,
    /// Known once the server has told, as the other two.
    pub(super) path: Option<String>,
    pub(super) czxid: Option<i64>,
    pub(super) mzxid: Option<i64>,
}

/// One request that changes something, or is refused.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Create {
        key: Key,
        stamp: u64,
    },
    Set {
        key: Key,
        path: String,
        stamp: u64,
        version: i32,
    },
    Delete {
        key: Key,
        path: String,
        version: i32,
    },
    Multi(Vec<Op>),
    /// A multi whose last op finds another version: it must change nothing.
    RefusedMulti(Vec<Op>),
    /// A create of what is there.
    RefusedCreate {
        key: Key,
    },
}

pub(super) const SHARED: &str = "/shared";

/// The nodes of one worker.
#[derive(Clone, Debug)]
pub(super) struct Model {
    worker: usize,
    pub(super) nodes: BTreeMap<Key, Node>,
    /// How often a node appeared or disappeared in the worker's directory: its cversion.
    pub(super) changes: i32,
    /// The last time.
    pub(super) pzxid: Option<i64>,
}

impl Model {
    pub(super) fn new(worker: usize) -> Self {
        Self { worker, nodes: BTreeMap::new(), changes: 0, pzxid: None }
    }

    /// The worker's directory.
    pub(super) fn root(&self) -> String {
        format!("/w{}", self.worker)
    }

    /// The directory of its sequential nodes.
    pub(super) fn queue(&self) -> String {
        format!("/q{}", self.worker)
    }

    /// What a create asks for: the whole path, or the beginning of one.
    pub(super) fn path(&self, key: Key) -> String {
        match key {
            Key::Plain(number) => format!("{}/n-{number}", self.root()),
            Key::Ephemeral(number) => format!("{}/e-{number}", self.root()),
            Key::Own(_) => format!("{}/s-", self.queue()),
            Key::Shared(_) => format!("{SHARED}/s-"),
        }
    }

    /// The data of a stamp: they say whose they are, and some of them fill several pages.
    pub(super) fn data(&self, stamp: u64) -> Bytes {
        let mut data = format!("{}:{stamp}:", self.worker).into_bytes();
        let len = match stamp % 16 {
            0 => 9000,
            kind => usize::try_from(kind * 40).unwrap_or(0),
        };
        data.resize(data.len() + len, b'a' + u8::try_from(stamp % 23).unwrap_or(0));
        Bytes::from(data)
    }

    /// The stamp of data that this worker wrote.
    pub(super) fn stamp(&self, data: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(data).ok()?;
        let (worker, rest) = text.split_once(':')?;
        let (stamp, _) = rest.split_once(':')?;
        let stamp = stamp.parse().ok().filter(|_| worker == self.worker.to_string())?;
        (self.data(stamp) == data).then_some(stamp)
    }

    fn create(&self, key: Key, stamp: u64) -> Create {
        let mode = match key {
            Key::Plain(_) => CreateMode::Persistent,
            Key::Ephemeral(_) => CreateMode::Ephemeral,
            Key::Own(_) | Key::Shared(_) => CreateMode::PersistentSequential,
        };
        Create { path: self.path(key), data: Some(self.data(stamp)), acl: Acl::open(), flags: mode.number() }
    }

    fn multi_op(&self, op: &Op) -> Option<MultiOp> {
        Some(match op {
            Op::Create { key, stamp } => MultiOp::Create(self.create(*key, *stamp)),
            Op::Set { path, stamp, version, .. } => {
                MultiOp::SetData { path: path.clone(), data: Some(self.data(*stamp)), version: *version }
            }
            Op::Delete { path, version, .. } => MultiOp::Delete { path: path.clone(), version: *version },
            Op::Multi(_) | Op::RefusedMulti(_) | Op::RefusedCreate { .. } => return None,
        })
    }

    /// The request that an op is.
    pub(super) fn request(&self, op: &Op) -> Request {
        match op {
            Op::Create { key, stamp } => Request::Create(self.create(*key, *stamp)),
            Op::RefusedCreate { key } => Request::Create(self.create(*key, 0)),
            Op::Set { path, stamp, version, .. } => {
                Request::SetData { path: path.clone(), data: Some(self.data(*stamp)), version: *version }
            }
            Op::Delete { path, version, .. } => Request::Delete { path: path.clone(), version: *version },
            Op::Multi(ops) => Request::Multi(ops.iter().filter_map(|op| self.multi_op(op)).collect()),
            Op::RefusedMulti(ops) => {
                let mut ops: Vec<MultiOp> = ops.iter().filter_map(|op| self.multi_op(op)).collect();
                ops.push(MultiOp::Check { path: self.root(), version: 77 });
                Request::Multi(ops)
            }
        }
    }

    /// What the op makes of the nodes. `zxid` is known once it was acknowledged, `path` for a sequential create.
    pub(super) fn apply(&mut self, op: &Op, zxid: Option<i64>, path: Option<&str>) {
        match op {
            Op::Create { key, stamp } => {
                let named = match key {
                    Key::Plain(_) | Key::Ephemeral(_) => Some(self.path(*key)),
                    Key::Own(_) | Key::Shared(_) => path.map(str::to_owned),
                };
                let node = Node { stamp: *stamp, version: 0, path: named, czxid: zxid, mzxid: zxid };
                self.nodes.insert(*key, node);
                self.note_change(*key, zxid);
            }
            Op::Set { key, stamp, version, .. } => {
                if let Some(node) = self.nodes.get_mut(key) {
                    node.stamp = *stamp;
                    node.version = version + 1;
                    node.mzxid = zxid;
                }
            }
            Op::Delete { key, .. } => {
                self.nodes.remove(key);
                self.note_change(*key, zxid);
            }
            Op::Multi(ops) => ops.iter().for_each(|op| self.apply(op, zxid, None)),
            Op::RefusedMulti(_) | Op::RefusedCreate { .. } => {}
        }
    }

    /// All ephemerals go with their session.
    pub(super) fn lose_ephemerals(&mut self) {
        let before = self.nodes.len();
        self.nodes.retain(|key, _| !matches!(key, Key::Ephemeral(_)));
        self.changes += i32::try_from(before - self.nodes.len()).unwrap_or(0);
        self.pzxid = None;
    }

    fn note_change(&mut self, key: Key, zxid: Option<i64>) {
        if matches!(key, Key::Plain(_) | Key::Ephemeral(_)) {
            self.changes += 1;
            self.pzxid = zxid;
        }
    }

    /// Takes over what the server says of a node that is as expected.
    pub(super) fn learn(&mut self, actual: &Actual) {
        self.pzxid = Some(actual.root.pzxid);
        for (key, node) in &mut self.nodes {
            if let Some(found) = actual.nodes.get(key) {
                node.path = Some(found.path.clone());
                node.czxid = Some(found.stat.czxid);
                node.mzxid = Some(found.stat.mzxid);
            }
        }
    }

    /// The first difference from what the server has; `session` owns the ephemerals.
    pub(super) fn differs(&self, actual: &Actual, session: i64) -> Option<String> {
        if let Some(key) = actual.nodes.keys().find(|key| !self.nodes.contains_key(key)) {
            return Some(format!("{key:?} is there and should not be"));
        }
        for (key, node) in &self.nodes {
            let Some(found) = actual.nodes.get(key) else {
                return Some(format!("{key:?} is not there: {node:?}"));
            };
            let owner = if matches!(key, Key::Ephemeral(_)) { session } else { 0 };
            let agrees = found.stamp == node.stamp
                && found.stat.version == node.version
                && found.stat.ephemeral_owner == owner
                && node.path.as_ref().is_none_or(|path| *path == found.path)
                && node.czxid.is_none_or(|zxid| zxid == found.stat.czxid)
                && node.mzxid.is_none_or(|zxid| zxid == found.stat.mzxid);
            if !agrees {
                return Some(format!("{key:?} should be {node:?} (owner {owner:#x}) and is {found:?}"));
            }
        }
        if actual.root.cversion != self.changes || self.pzxid.is_some_and(|zxid| zxid != actual.root.pzxid) {
            return Some(format!(
                "the directory should have cversion {} and pzxid {:?} and has {:?}",
                self.changes, self.pzxid, actual.root
            ));
        }
        None
    }
}

/// What the server has of one worker.
#[derive(Clone, Debug)]
pub(super) struct Actual {
    pub(super) root: Stat,
    pub(super) nodes: BTreeMap<Key, Found>,
}

/// A node as the server has it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) stamp: u64,
    pub(super) stat: Stat,
}

/// The counter at the end of a sequential node's path.
pub(super) fn counter(path: &str) -> Option<u32> {
    path.get(path.len().checked_sub(10)?..)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: i64 = 7;

    fn create(key: Key, stamp: u64) -> Op {
        Op::Create { key, stamp }
    }

    /// A server that has done `ops`, with zxids from 10 on.
    fn server(ops: &[Op]) -> (Model, Actual) {
        let mut model = Model::new(3);
        for (op, zxid) in ops.iter().zip(10..) {
            model.apply(op, Some(zxid), Some("/q3/s-0000000004"));
        }
        let found = |(key, node): (&Key, &Node)| {
            let ephemeral_owner = if matches!(key, Key::Ephemeral(_)) { OWNER } else { 0 };
            let stat = Stat {
                czxid: node.czxid.unwrap(),
                mzxid: node.mzxid.unwrap(),
                version: node.version,
                ephemeral_owner,
                ..Stat::default()
            };
            (*key, Found { path: node.path.clone().unwrap(), stamp: node.stamp, stat })
        };
        let root = Stat { cversion: model.changes, pzxid: model.pzxid.unwrap(), ..Stat::default() };
        let actual = Actual { root, nodes: model.nodes.iter().map(found).collect() };
        (model, actual)
    }

    fn story() -> Vec<Op> {
        let path = "/w3/n-1".to_owned();
        vec![
            create(Key::Plain(1), 1),
            create(Key::Ephemeral(1), 2),
            create(Key::Own(3), 3),
            Op::Multi(vec![
                Op::Set { key: Key::Plain(1), path, stamp: 4, version: 0 },
                create(Key::Plain(2), 5),
            ]),
        ]
    }

    #[test]
    fn what_was_done_is_recognised_and_nothing_else() {
        let ops = story();
        let (whole, actual) = server(&ops);
        assert_eq!(whole.differs(&actual, OWNER), None);
        assert!(whole.differs(&actual, OWNER + 1).is_some(), "an ephemeral of another session");
        for done in 0..ops.len() {
            let mut less = Model::new(3);
            ops[..done].iter().for_each(|op| less.apply(op, None, None));
            assert!(less.differs(&actual, OWNER).is_some(), "after {done} of {}", ops.len());
            ops[done..].iter().for_each(|op| less.apply(op, None, None));
            assert_eq!(less.differs(&actual, OWNER), None, "zxids and names that nobody was told match any");
        }
    }

    #[test]
    fn the_smallest_difference_is_noticed() {
        let (model, actual) = server(&story());
        let check = |what: &str, change: &dyn Fn(&mut Actual)| {
            let mut changed = actual.clone();
            change(&mut changed);
            assert!(model.differs(&changed, OWNER).is_some(), "{what}");
        };
        check("half a multi", &|actual| drop(actual.nodes.remove(&Key::Plain(2))));
        check("a version", &|actual| actual.nodes.get_mut(&Key::Plain(1)).unwrap().stat.version += 1);
        check("older data", &|actual| actual.nodes.get_mut(&Key::Plain(1)).unwrap().stamp = 1);
        check("a zxid", &|actual| actual.nodes.get_mut(&Key::Plain(1)).unwrap().stat.mzxid += 1);
        check("another name", &|actual| actual.nodes.get_mut(&Key::Own(3)).unwrap().path.push('1'));
        check("the count of changes", &|actual| actual.root.cversion -= 1);
        check("the last change", &|actual| actual.root.pzxid -= 1);
    }

    #[test]
    fn data_says_whose_it_is_and_whether_it_is_whole() {
        let model = Model::new(3);
        for stamp in [0, 1, 16, 4711] {
            let data = model.data(stamp);
            assert_eq!(model.stamp(&data), Some(stamp));
            assert_eq!(Model::new(4).stamp(&data), None);
            assert_eq!(model.stamp(&data[..data.len() - 1]), None);
        }
        assert_eq!(counter("/shared/s-0000000012"), Some(12));
    }
}
