//! The state beside a model that is as naive as can be: a map from paths to znodes, copied before each multi.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::steps::{Step, history, ids, take};
use super::*;
use crate::state::{is_valid, permitted};
use crate::wire::{CreateMode, MultiOp, MultiResult};

#[derive(Clone)]
struct Znode {
    data: Option<Bytes>,
    acl: Vec<Acl>,
    stat: Stat,
    creates: i32,
}

#[derive(Clone)]
struct Model {
    /// The root's path is empty.
    znodes: BTreeMap<String, Znode>,
    sessions: BTreeSet<i64>,
    zxid: i64,
}

/// Who writes, and when.
struct By {
    session: i64,
    ids: Vec<Id>,
    time_ms: i64,
}

impl Model {
    fn new() -> Self {
        let znode = Znode { data: Some(Bytes::new()), acl: Acl::open(), stat: Stat::default(), creates: 0 };
        let paths = ["", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"];
        let mut znodes: BTreeMap<_, _> = paths.map(|path| (path.to_owned(), znode.clone())).into();
        let config = znodes.get_mut("/zookeeper/config").unwrap();
        config.acl = vec![entry(1, "world", "anyone")];
        config.stat.aversion = -1;
        Self { znodes, sessions: BTreeSet::new(), zxid: 0 }
    }

    fn children(&self, path: &str) -> Vec<String> {
        let below = format!("{path}/");
        let names = self.znodes.keys().filter_map(|path| path.strip_prefix(&below));
        names.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned).collect()
    }

    fn stat(&self, path: &str) -> Stat {
        let znode = &self.znodes[path];
        let num_children = self.children(path).len() as i32;
        Stat {
            num_children,
            cversion: 2 * znode.creates - num_children,
            data_length: znode.data.as_ref().map_or(0, Bytes::len) as i32,
            ..znode.stat
        }
    }

    fn get(&self, path: &str) -> Result<&Znode, Code> {
        self.znodes.get(if path == "/" { "" } else { path }).ok_or(Code::NoNode)
    }

    fn allowed(&self, by: &By, path: &str, perms: Perms) -> Result<&Znode, Code> {
        let znode = self.get(path)?;
        if permitted(&znode.acl, perms, &by.ids) { Ok(znode) } else { Err(Code::NoAuth) }
    }

    fn valid(&self, by: &By, path: &str) -> Result<(), Code> {
        if !self.sessions.contains(&by.session) {
            return Err(Code::SessionExpired);
        }
        if is_valid(path) { Ok(()) } else { Err(Code::BadArguments) }
    }

    fn create(&mut self, by: &By, create: Create) -> Result<String, Code> {
        let mode = CreateMode::from_flags(create.flags).ok_or(Code::BadArguments)?;
        if mode.is_ttl() || mode.is_container() {
            return Err(Code::Unimplemented);
        }
        if !self.sessions.contains(&by.session) {
            return Err(Code::SessionExpired);
        }
        let mut path = create.path;
        let parent = path[..path.rfind('/').ok_or(Code::BadArguments)?].to_owned();
        let acl = acl(by, create.acl)?;
        let creates = self.allowed(by, &parent, Perms::CREATE)?.creates;
        if mode.is_sequential() {
            path = format!("{path}{creates:010}");
        }
        self.valid(by, &path)?;
        if self.get(&path).is_ok() {
            return Err(Code::NodeExists);
        }
        let above = self.znodes.get_mut(&parent).unwrap();
        if above.stat.ephemeral_owner != 0 {
            return Err(Code::NoChildrenForEphemerals);
        }
        above.creates += 1;
        above.stat.pzxid = self.zxid;
        let stat = Stat {
            czxid: self.zxid,
            mzxid: self.zxid,
            pzxid: self.zxid,
            ctime: by.time_ms,
            mtime: by.time_ms,
            ephemeral_owner: if mode.is_ephemeral() { by.session } else { 0 },
            ..Stat::default()
        };
        self.znodes.insert(path.clone(), Znode { data: create.data, acl, stat, creates: 0 });
        Ok(path)
    }

    fn delete(&mut self, by: &By, path: &str, version: i32) -> Result<(), Code> {
        if !self.sessions.contains(&by.session) {
            return Err(Code::SessionExpired);
        }
        let parent = path[..path.rfind('/').ok_or(Code::BadArguments)?].to_owned();
        if matches!(path, "/" | "/zookeeper" | "/zookeeper/config" | "/zookeeper/quota") {
            return Err(Code::BadArguments);
        }
        self.allowed(by, &parent, Perms::DELETE)?;
        matches(self.znodes.get(path).ok_or(Code::NoNode)?.stat.version, version)?;
        if !self.children(path).is_empty() {
            return Err(Code::NotEmpty);
        }
        self.remove(path);
        Ok(())
    }

    fn remove(&mut self, path: &str) {
        self.znodes.remove(path).unwrap();
        let parent = &path[..path.rfind('/').unwrap()];
        self.znodes.get_mut(parent).unwrap().stat.pzxid = self.zxid;
    }

    fn set(&mut self, by: &By, path: &str, data: Option<Bytes>, version: i32) -> Result<Stat, Code> {
        self.valid(by, path)?;
        matches(self.allowed(by, path, Perms::WRITE)?.stat.version, version)?;
        let path = path.trim_end_matches('/');
        let znode = self.znodes.get_mut(path).unwrap();
        znode.data = data;
        znode.stat.version += 1;
        znode.stat.mzxid = self.zxid;
        znode.stat.mtime = by.time_ms;
        Ok(self.stat(path))
    }

    fn check(&self, by: &By, path: &str, version: i32) -> Result<(), Code> {
        self.valid(by, path)?;
        matches(self.allowed(by, path, Perms::READ)?.stat.version, version)
    }

    fn write(&mut self, by: &By, op: WriteOp) -> Result<Reply, Code> {
        match op {
            WriteOp::Create(create) => self.create(by, create).map(Reply::Path),
            WriteOp::Create2(create) => {
                let path = self.create(by, create)?;
                Ok(Reply::PathStat { stat: self.stat(&path), path })
            }
            WriteOp::Delete { path, version } => self.delete(by, &path, version).map(|()| Reply::Empty),
            WriteOp::SetData { path, data, version } => self.set(by, &path, data, version).map(Reply::Stat),
            WriteOp::SetAcl { path, acl: given, version } => {
                self.valid(by, &path)?;
                let acl = acl(by, given)?;
                matches(self.allowed(by, &path, Perms::ADMIN)?.stat.aversion, version)?;
                let path = path.trim_end_matches('/');
                let znode = self.znodes.get_mut(path).unwrap();
                znode.acl = acl;
                znode.stat.aversion += 1;
                Ok(Reply::Stat(self.stat(path)))
            }
            WriteOp::Check { path, version } => self.check(by, &path, version).map(|()| Reply::Empty),
            WriteOp::Multi(ops) => Ok(Reply::Multi(self.multi(by, ops))),
            other => panic!("the histories have no {other:?}"),
        }
    }

    fn multi(&mut self, by: &By, ops: Vec<MultiOp>) -> Vec<MultiResult> {
        let before = self.clone();
        let mut results = Vec::new();
        for op in ops.clone() {
            let result = match op {
                MultiOp::Create(create)
                | MultiOp::CreateContainer(create)
                | MultiOp::CreateTtl { create, .. } => {
                    self.create(by, create).map(|path| MultiResult::Create { path })
                }
                MultiOp::Delete { path, version } => {
                    self.delete(by, &path, version).map(|()| MultiResult::Delete)
                }
                MultiOp::SetData { path, data, version } => {
                    self.set(by, &path, data, version).map(MultiResult::SetData)
                }
                MultiOp::Check { path, version } => {
                    self.check(by, &path, version).map(|()| MultiResult::Check)
                }
            };
            match result {
                Ok(result) => results.push(result),
                Err(code) => {
                    let mut codes = vec![Code::Ok; results.len()];
                    codes.push(code);
                    codes.resize(ops.len(), Code::RuntimeInconsistency);
                    *self = before;
                    return codes.into_iter().map(|code| MultiResult::Error(code.number())).collect();
                }
            }
        }
        results
    }

    fn take(&mut self, step: Step, time_ms: i64) -> Result<Reply, Code> {
        self.zxid += 1;
        match step {
            Step::Open(session) => {
                self.sessions.insert(session);
            }
            Step::Close(session) => {
                self.sessions.remove(&session);
                for path in self.owned(session) {
                    self.remove(&path);
                }
            }
            Step::Write { session, authenticated, op } => {
                return self.write(&By { session, ids: ids(authenticated), time_ms }, op);
            }
        }
        Ok(Reply::Empty)
    }

    fn owned(&self, session: i64) -> Vec<String> {
        let owned = self.znodes.iter().filter(|(_, znode)| znode.stat.ephemeral_owner == session);
        owned.map(|(path, _)| path.clone()).collect()
    }
}

fn matches(current: i32, expected: i32) -> Result<(), Code> {
    if expected == -1 || expected == current { Ok(()) } else { Err(Code::BadVersion) }
}

/// The lists of the histories are empty, or valid but for `auth` of somebody unknown.
fn acl(by: &By, given: Vec<Acl>) -> Result<Vec<Acl>, Code> {
    let digest = by.ids.iter().find(|id| id.scheme == "digest");
    match given.first().ok_or(Code::InvalidAcl)?.scheme.as_str() {
        "auth" => digest.map(|id| vec![entry(31, "digest", &id.id)]).ok_or(Code::InvalidAcl),
        _ => Ok(given),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_state_is_what_the_model_is(steps in history(200)) {
        let (mut state, mut model) = (State::new(), Model::new());
        for (step, time_ms) in steps.into_iter().zip(1000..) {
            let expected = model.take(step.clone(), time_ms);
            let written = take(&mut state, step.clone(), time_ms);
            prop_assert_eq!(written.result, expected, "{:?}", step);
            prop_assert_eq!(written.txn.zxid, model.zxid);
        }
        let superuser = [id("super", "")];
        for (path, znode) in &model.znodes {
            let (data, acl, stat) = (znode.data.clone(), znode.acl.clone(), model.stat(path));
            prop_assert_eq!(state.data(&superuser, path), Ok(Reply::Data { data, stat }));
            prop_assert_eq!(state.acl(&superuser, path), Ok(Reply::Acl { acl, stat }));
            let children = Reply::Children(model.children(path));
            prop_assert_eq!(state.children(&superuser, path), Ok(children));
        }
        for session in 1..=3 {
            prop_assert_eq!(state.ephemerals(session, ""), Reply::Ephemerals(model.owned(session)));
            prop_assert_eq!(state.session(session).is_some(), model.sessions.contains(&session));
        }
        let counts = state.counts();
        let bytes = |(path, znode): (&String, &Znode)| path.len() + znode.data.as_ref().map_or(0, Bytes::len);
        prop_assert_eq!(counts.znodes, model.znodes.len() + 1);
        prop_assert_eq!(counts.data_bytes, 1 + model.znodes.iter().map(bytes).sum::<usize>() as i64);
    }
}
