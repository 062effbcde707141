//! A client that changes its part of the tree as fast as the server lets it, and knows what must be there.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use keeper::wire::{Code, MultiResult, Reply, Request};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::link::{Answer, Broken, Life, Link, Session};
use super::model::{Actual, Found, Key, Model, Op, SHARED, counter};

/// Longer than a restart takes, even on a busy machine.
const SESSION_TIMEOUT: Duration = Duration::from_secs(5);
const PLAIN_NODES: u32 = 40;
const EPHEMERALS: u32 = 5;
const OWN_SEQUENTIAL: usize = 12;
const SHARED_SEQUENTIAL: usize = 6;

/// The counters that were given out in the shared directory, by any server.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<BTreeSet<u32>>);

impl Counters {
    fn add(&self, path: &str) -> anyhow::Result<()> {
        let counter = counter(path).with_context(|| format!("{path} has no counter"))?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(known.insert(counter), "the counter of {path} was given out before");
        Ok(())
    }

    pub(super) fn max(&self) -> Option<u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }
}

/// What a worker has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Writes that the server acknowledged, those that it refused as it should included.
    pub(super) acknowledged: u64,
    /// Writes without an answer that were there after the restart.
    pub(super) survived: u64,
    /// Writes without an answer that were not.
    pub(super) vanished: u64,
    /// Times when everything was read and found right.
    pub(super) checked: u64,
    pub(super) nodes_checked: u64,
    pub(super) sessions_resumed: u64,
    /// Sessions that ended because this machine stood still for longer than their timeout.
    pub(super) sessions_stalled: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    random: StdRng,
    session: Option<Session>,
    /// Its session expired, so its ephemerals went with it.
    expired: bool,
    /// What was acknowledged.
    sure: Model,
    /// What will be there once everything that was sent is done.
    ahead: Model,
    /// Sent and not acknowledged.
    pending: VecDeque<Op>,
    stamps: u64,
    own_counter: Option<u32>,
    /// The zxids of the writes acknowledged in this life.
    pub(super) zxids: Vec<i64>,
    pub(super) tally: Tally,
}

impl Worker {
    pub(super) fn new(index: usize, seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed.wrapping_add(1 + index as u64)),
            session: None,
            expired: false,
            sure: Model::new(index),
            ahead: Model::new(index),
            pending: VecDeque::new(),
            stamps: 0,
            own_counter: None,
            zxids: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// The directories it works in.
    pub(super) fn directories(&self) -> [String; 2] {
        [self.sure.root(), self.sure.queue()]
    }

    /// Checks what the server has, and then works, if `works`, until the server is killed.
    pub(super) fn live(&mut self, life: &Life, counters: &Counters, works: bool) -> anyhow::Result<()> {
        self.zxids.clear();
        let Err(broken) = self.try_to_live(life, counters, works) else { return Ok(()) };
        match broken {
            Broken::Killed => Ok(()),
            // The next life sees what has become of it.
            Broken::Lost(_) if self.session.as_ref().is_some_and(Session::may_have_expired) => Ok(()),
            Broken::Lost(error) | Broken::Wrong(error) => {
                Err(error.context(format!("in {}", self.sure.root())))
            }
        }
    }

    fn try_to_live(&mut self, life: &Life, counters: &Counters, works: bool) -> Result<(), Broken> {
        let mut link = self.connect(life)?;
        self.verify(&mut link, counters)?;
        if !works {
            return Ok(());
        }
        let floor = counters.max();
        let result = self.work(&mut link, life, counters, floor);
        self.session = Some(link.session.clone());
        result
    }

    fn connect<'a>(&mut self, life: &'a Life) -> Result<Link<'a>, Broken> {
        if let Some(session) = &mut self.session {
            session.restarted(life);
            if let Some(link) = Link::resume(life, session)? {
                self.tally.sessions_resumed += 1;
                self.session = Some(link.session.clone());
                return Ok(link);
            }
            if !session.may_have_expired() {
                return Err(anyhow!("session {:#x} was lost", session.id).into());
            }
            self.tally.sessions_stalled += 1;
            self.expired = true;
            self.session = None;
        }
        let link = Link::open(life, SESSION_TIMEOUT)?;
        self.session = Some(link.session.clone());
        Ok(link)
    }

    /// Everything that was acknowledged is there, and of what was not a part from the beginning, each wholly.
    fn verify(&mut self, link: &mut Link<'_>, counters: &Counters) -> Result<(), Broken> {
        let actual = self.read(link)?;
        let mut model = self.sure.clone();
        let mut difference = None;
        for survived in 0..=self.pending.len() {
            if let Some(op) = survived.checked_sub(1).and_then(|last| self.pending.get(last)) {
                model.apply(op, None, None);
            }
            let mut candidate = model.clone();
            if self.expired {
                candidate.lose_ephemerals();
            }
            match candidate.differs(&actual, link.session.id) {
                None => return Ok(self.adopt(candidate, survived, &actual, counters)?),
                Some(found) => difference = Some(difference.unwrap_or(found)),
            }
        }
        Err(anyhow!(
            "not what was acknowledged, alone or with any of the {} writes after it: {}; those writes: {:?}",
            self.pending.len(),
            difference.unwrap_or_default(),
            self.pending
        )
        .into())
    }

    fn adopt(
        &mut self,
        mut model: Model,
        survived: usize,
        actual: &Actual,
        counters: &Counters,
    ) -> anyhow::Result<()> {
        model.learn(actual);
        let pending = std::mem::take(&mut self.pending);
        for op in pending.iter().take(survived) {
            let Op::Create { key: key @ (Key::Own(_) | Key::Shared(_)), .. } = op else { continue };
            if let Some(found) = actual.nodes.get(key) {
                self.note_counter(*key, &found.path, counters)?;
            }
        }
        self.tally.survived += survived as u64;
        self.tally.vanished += (pending.len() - survived) as u64;
        self.tally.checked += 1;
        self.tally.nodes_checked += actual.nodes.len() as u64;
        self.expired = false;
        self.ahead = model.clone();
        self.sure = model;
        Ok(())
    }

    /// No counter is ever given out again, whatever was deleted.
    fn note_counter(&mut self, key: Key, path: &str, counters: &Counters) -> anyhow::Result<()> {
        match key {
            Key::Shared(_) => counters.add(path),
            Key::Own(_) => {
                let found = counter(path).with_context(|| format!("{path} has no counter"))?;
                ensure!(
                    self.own_counter.is_none_or(|last| found > last),
                    "{path} after the counter {:?}",
                    self.own_counter
                );
                self.own_counter = Some(found);
                Ok(())
            }
            Key::Plain(_) | Key::Ephemeral(_) => Ok(()),
        }
    }

    fn read(&self, link: &mut Link<'_>) -> Result<Actual, Broken> {
        let [root, queue] = self.directories();
        let directories = [root.clone(), queue, SHARED.to_owned()];
        let Reply::Stat(stat) = ok(link.call(Request::Exists { path: root, watch: false })?, "exists")?
        else {
            return Err(anyhow!("exists answered with something else").into());
        };
        let lists: Vec<Request> = directories
            .iter()
            .map(|path| Request::GetChildren { path: path.clone(), watch: false })
            .collect();
        let mut paths = Vec::new();
        for (directory, answer) in directories.iter().zip(link.call_all(&lists)?) {
            let Reply::Children(names) = ok(answer, directory)? else {
                return Err(anyhow!("getChildren answered with something else").into());
            };
            paths.extend(names.into_iter().map(|name| format!("{directory}/{name}")));
        }
        let gets: Vec<Request> =
            paths.iter().map(|path| Request::GetData { path: path.clone(), watch: false }).collect();
        let mut actual = Actual { root: stat, nodes: std::collections::BTreeMap::new() };
        for (path, answer) in paths.into_iter().zip(link.call_all(&gets)?) {
            let is_shared = path.starts_with(SHARED);
            if is_shared && answer.result == Err(Code::NoNode) {
                continue;
            }
            let Reply::Data { data, stat } = ok(answer, &path)? else {
                return Err(anyhow!("getData answered with something else").into());
            };
            let Some(stamp) = data.as_deref().and_then(|data| self.sure.stamp(data)) else {
                if is_shared {
                    continue;
                }
                return Err(anyhow!("{path} holds data that nobody wrote: {data:?}").into());
            };
            let key = self.key(&path, stamp).with_context(|| format!("{path} was made by nobody"))?;
            if actual.nodes.insert(key, Found { path: path.clone(), stamp, stat }).is_some() {
                return Err(anyhow!("{path} was made twice").into());
            }
        }
        Ok(actual)
    }

    fn key(&self, path: &str, stamp: u64) -> Option<Key> {
        let (directory, name) = path.rsplit_once('/')?;
        let (kind, number) = name.split_at_checked(2)?;
        let [root, queue] = self.directories();
        match kind {
            "n-" if directory == root => Some(Key::Plain(number.parse().ok()?)),
            "e-" if directory == root => Some(Key::Ephemeral(number.parse().ok()?)),
            "s-" if directory == queue => Some(Key::Own(stamp)),
            "s-" if directory == SHARED => Some(Key::Shared(stamp)),
            _ => None,
        }
    }

    fn work(
        &mut self,
        link: &mut Link<'_>,
        life: &Life,
        counters: &Counters,
        counter_floor: Option<u32>,
    ) -> Result<(), Broken> {
        let window = self.random.random_range(1..=24);
        let mut zxid_before = life.zxid_floor;
        while !life.is_ending() {
            let mut requests = Vec::new();
            while self.pending.len() < window {
                let op = self.choose();
                requests.push(self.ahead.request(&op));
                self.ahead.apply(&op, None, None);
                self.pending.push_back(op);
            }
            link.send(&requests)?;
            for _ in 0..self.random.random_range(1..=self.pending.len()) {
                let answer = link.receive()?;
                let op = self.pending.pop_front().context("nothing was sent")?;
                if answer.zxid <= zxid_before {
                    return Err(anyhow!("zxid {:#x} after {zxid_before:#x}: {op:?}", answer.zxid).into());
                }
                zxid_before = answer.zxid;
                self.acknowledged(&op, answer, counters, counter_floor).with_context(|| format!("{op:?}"))?;
            }
        }
        Err(Broken::Killed)
    }

    fn acknowledged(
        &mut self,
        op: &Op,
        answer: Answer,
        counters: &Counters,
        counter_floor: Option<u32>,
    ) -> anyhow::Result<()> {
        let (zxid, mut named) = (answer.zxid, None);
        match (op, answer.result) {
            (Op::Create { key: key @ (Key::Own(_) | Key::Shared(_)), .. }, Ok(Reply::Path(path))) => {
                ensure!(path.starts_with(&self.sure.path(*key)), "another path: {path}");
                ensure!(
                    matches!(key, Key::Own(_)) || counter(&path) > counter_floor,
                    "{path} after {counter_floor:?}"
                );
                self.note_counter(*key, &path, counters)?;
                if let Some(node) = self.ahead.nodes.get_mut(key) {
                    node.path = Some(path.clone());
                }
                named = Some(path);
            }
            (Op::Create { key, .. }, Ok(Reply::Path(path))) => {
                ensure!(path == self.sure.path(*key), "another path: {path}");
            }
            (Op::Set { version, .. }, Ok(Reply::Stat(stat))) => {
                ensure!(stat.version == version + 1 && stat.mzxid == zxid, "another stat: {stat:?}");
            }
            (Op::Delete { .. }, Ok(Reply::Empty)) => {}
            (Op::RefusedCreate { .. }, Err(Code::NodeExists)) => {}
            (Op::Multi(ops), Ok(Reply::Multi(results))) => {
                let failed = results.iter().any(|result| matches!(result, MultiResult::Error(_)));
                ensure!(results.len() == ops.len() && !failed, "a multi failed: {results:?}");
            }
            (Op::RefusedMulti(ops), Ok(Reply::Multi(results))) => {
                let last = Some(&MultiResult::Error(Code::BadVersion.number()));
                ensure!(results.len() == ops.len() + 1 && results.last() == last, "not refused: {results:?}");
            }
            (_, result) => bail!("answered with {result:?}"),
        }
        self.sure.apply(op, Some(zxid), named.as_deref());
        self.zxids.push(zxid);
        self.tally.acknowledged += 1;
        Ok(())
    }

    fn choose(&mut self) -> Op {
        match self.random.random_range(0..100) {
            0..10 => self.sequential(true),
            10..16 => self.sequential(false),
            16..40 => Op::Multi(self.several()),
            40..45 => Op::RefusedMulti(self.several()),
            45..50 => match self.ahead.nodes.keys().find(|key| matches!(key, Key::Plain(_))) {
                Some(key) => Op::RefusedCreate { key: *key },
                None => self.simple(&mut BTreeSet::new()),
            },
            _ => self.simple(&mut BTreeSet::new()),
        }
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    /// A sequential create, or a delete when there are enough.
    fn sequential(&mut self, own: bool) -> Op {
        let mine = |key: &Key| if own { matches!(key, Key::Own(_)) } else { matches!(key, Key::Shared(_)) };
        let nodes: Vec<(Key, Option<String>)> = self
            .ahead
            .nodes
            .iter()
            .filter(|(key, _)| mine(key))
            .map(|(key, node)| (*key, node.path.clone()))
            .collect();
        let enough = nodes.len() >= if own { OWN_SEQUENTIAL } else { SHARED_SEQUENTIAL };
        // The newest goes first: its counter is what a server that forgot would give out again.
        let named = nodes.into_iter().rev().find_map(|(key, path)| Some((key, path?)));
        match named {
            Some((key, path)) if enough || self.random.random_bool(0.2) => {
                Op::Delete { key, path, version: 0 }
            }
            _ => {
                let stamp = self.stamp();
                Op::Create { key: if own { Key::Own(stamp) } else { Key::Shared(stamp) }, stamp }
            }
        }
    }

    fn several(&mut self) -> Vec<Op> {
        let mut used = BTreeSet::new();
        (0..self.random.random_range(2..=7)).map(|_| self.simple(&mut used)).collect()
    }

    /// A change of a node that is not in `used`.
    fn simple(&mut self, used: &mut BTreeSet<Key>) -> Op {
        let key = loop {
            let key = match self.random.random_range(0..8) {
                0 => Key::Ephemeral(self.random.random_range(0..EPHEMERALS)),
                _ => Key::Plain(self.random.random_range(0..PLAIN_NODES)),
            };
            if used.insert(key) {
                break key;
            }
        };
        let (path, stamp) = (self.ahead.path(key), self.stamp());
        match self.ahead.nodes.get(&key).map(|node| node.version) {
            None => Op::Create { key, stamp },
            Some(version) if self.random.random_bool(0.7) => Op::Set { key, path, stamp, version },
            Some(version) => Op::Delete { key, path, version },
        }
    }
}

fn ok(answer: Answer, what: &str) -> anyhow::Result<Reply> {
    answer.result.map_err(|code| anyhow!("{what} is refused: {code:?}"))
}
