//! A log in memory whose commits can be held back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use proto::status::LogStatus;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::storage::{
    Authority, BodyFailure, BodyRef, Change, Commit, Failure, Live, Log, Opened, Refused, Storage,
};

type Done = oneshot::Sender<Result<(), Failure>>;

#[derive(Debug, Default)]
pub(super) struct State {
    records: BTreeMap<u128, (u64, Option<Bytes>)>,
    pub(super) bodies: BTreeMap<u128, Bytes>,
    waiting: VecDeque<(Vec<Change>, Done)>,
    hold: bool,
    /// How often something was appended.
    pub(super) appends: usize,
    /// Nothing is taken.
    pub(super) busy: bool,
    pub(super) room: u64,
}

/// Shared by every term of a test.
#[derive(Clone, Debug)]
pub(super) struct MemoryLog {
    state: Arc<Mutex<State>>,
    failure: Arc<watch::Sender<Option<Failure>>>,
}

#[derive(Serialize)]
struct Name {
    name: String,
    bytes: u64,
    crc: u32,
}

/// The log's own type is opaque, so it is made the way a replay makes it.
fn body_ref(key: u128, bytes: usize) -> BodyRef {
    let name = Name { name: "test".to_owned(), bytes: bytes as u64, crc: key as u32 };
    rmp_serde::from_slice(&rmp_serde::to_vec_named(&name).expect("encodes")).expect("the same fields")
}

/// Which body is meant: the test hides the key's low bits where the log keeps its checksum.
fn key_of(body: &BodyRef) -> u32 {
    let text = format!("{body:?}");
    let crc = text.split("crc: ").nth(1).expect("printed").split(' ').next().expect("printed");
    crc.parse().expect("a number")
}

impl MemoryLog {
    pub(super) fn new() -> Self {
        let state = State { room: 1 << 30, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), failure: Arc::new(watch::Sender::new(None)) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    /// From now on nothing commits, or everything does again.
    pub(super) fn hold(&self, hold: bool) {
        let mut state = self.state();
        state.hold = hold;
        if !hold {
            while let Some((changes, done)) = state.waiting.pop_front() {
                state.apply(changes);
                let _ = done.send(Ok(()));
            }
        }
    }

    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// The log ends: what waits is lost.
    pub(super) fn fail(&self) {
        self.state().waiting.clear();
        self.failure.send_replace(Some(Failure::Deposed));
    }
}

impl State {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            let old = self.records.insert(change.key, (change.revision, change.body));
            assert!(old.is_none_or(|(revision, _)| revision < change.revision), "revisions grow");
        }
    }
}

impl Log for MemoryLog {
    fn append(&self, changes: Vec<Change>) -> Result<Commit, Refused> {
        let mut state = self.state();
        if state.busy {
            return Err(Refused::Busy);
        }
        state.appends += 1;
        let (done, commit) = oneshot::channel();
        if state.hold {
            state.waiting.push_back((changes, done));
        } else {
            state.apply(changes);
            let _ = done.send(Ok(()));
        }
        Ok(commit.map(|result| result.unwrap_or(Err(Failure::Broken("unknown".to_owned())))).boxed())
    }

    fn room(&self) -> u64 {
        self.state().room
    }

    fn status(&self) -> LogStatus {
        LogStatus { bytes: 0, live_bytes: 0, budget_bytes: 0, segments: 0 }
    }

    fn put_body(&self, key: u128, data: Bytes) -> BoxFuture<'static, Result<BodyRef, BodyFailure>> {
        let body = body_ref(key, data.len());
        self.state().bodies.insert(u128::from(key as u32), data);
        async move { Ok(body) }.boxed()
    }

    fn get_body(&self, body: BodyRef) -> BoxFuture<'static, Result<Bytes, BodyFailure>> {
        let found = self.state().bodies.get(&u128::from(key_of(&body))).cloned();
        async move { found.ok_or(BodyFailure::Missing) }.boxed()
    }

    fn delete_body(&self, body: BodyRef) -> BoxFuture<'static, Result<(), BodyFailure>> {
        self.state().bodies.remove(&u128::from(key_of(&body)));
        async move { Ok(()) }.boxed()
    }

    fn collect_bodies(&self, referenced: Vec<BodyRef>) -> BoxFuture<'static, Result<usize, BodyFailure>> {
        let kept: Vec<u128> = referenced.iter().map(|body| u128::from(key_of(body))).collect();
        self.state().bodies.retain(|key, _| kept.contains(key));
        async move { Ok(0) }.boxed()
    }

    fn failure(&self) -> watch::Receiver<Option<Failure>> {
        self.failure.subscribe()
    }
}

impl Storage for MemoryLog {
    fn open(&mut self, _cancel: CancellationToken) -> BoxFuture<'_, Result<Opened, String>> {
        let state = self.state();
        let live = state.records.iter().filter_map(|(key, (revision, body))| {
            Some(Live { key: *key, revision: *revision, body: body.clone()? })
        });
        let live = live.collect();
        drop(state);
        let log = Arc::new(self.clone());
        async move { Ok(Opened { log, live, ahead: None, session_timeout: Duration::from_secs(4) }) }.boxed()
    }

    fn close(self: Box<Self>, _within: Duration) -> BoxFuture<'static, Result<(), String>> {
        async { Ok(()) }.boxed()
    }
}

/// A lease that a test grants and takes away.
#[derive(Debug)]
pub(super) struct TestLease(pub(super) std::sync::atomic::AtomicBool);

impl Authority for TestLease {
    fn holds(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}
