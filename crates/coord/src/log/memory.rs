//! A coordination service in memory that loses connections, answers and order as the real one may.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{oneshot, watch};

use super::store::{Connection, ReadError, Refusal, Step, Store, Stored, Why};

type Nodes = BTreeMap<String, Stored>;

/// A transaction, and who waits for its answer.
type Pending = (Vec<Step>, oneshot::Sender<Result<(), Refusal>>);

/// The service.
#[derive(Clone, Debug)]
pub(super) struct World(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    nodes: Nodes,
    /// As if a segment did not check its predecessor.
    unchained: bool,
    sessions: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let node = |path: &str| (path.to_owned(), Stored { data: Vec::new(), version: 0 });
        let nodes = ["/epoch", "/tasks", "/tasks/bodies"].map(node).into();
        Self(Arc::new(Mutex::new(Inner { nodes, unchained: false, sessions: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(super) fn unchain(&self) {
        self.lock().unchained = true;
    }

    /// Another term begins; its epoch.
    pub(super) fn elect(&self) -> i32 {
        let mut inner = self.lock();
        let epoch = inner.nodes.get_mut("/epoch").unwrap();
        epoch.version += 1;
        epoch.version
    }

    /// Direct access, for damage.
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut Nodes) -> R) -> R {
        change(&mut self.lock().nodes)
    }

    /// The segments there are, by name, with their lengths.
    pub(super) fn segments(&self) -> Vec<(String, usize)> {
        let inner = self.lock();
        let log = inner.nodes.iter().filter(|(path, _)| path.starts_with("/tasks/log-"));
        log.map(|(path, node)| (path["/tasks/".len()..].to_owned(), node.data.len())).collect()
    }

    fn run(&self, steps: &[Step]) -> Result<(), Refusal> {
        let mut inner = self.lock();
        let Inner { nodes, unchained, .. } = &mut *inner;
        let mut undo = Vec::new();
        for (step, it) in steps.iter().enumerate() {
            let (Step::Check { path, .. }
            | Step::Create { path, .. }
            | Step::Set { path, .. }
            | Step::Delete { path }) = it;
            undo.push((path.clone(), nodes.get(path).cloned()));
            if let Err(why) = apply(nodes, it, *unchained) {
                for (path, before) in undo.into_iter().rev() {
                    match before {
                        Some(node) => drop(nodes.insert(path, node)),
                        None => drop(nodes.remove(&path)),
                    }
                }
                return Err(Refusal::Rejected { step, why });
            }
        }
        Ok(())
    }
}

fn apply(nodes: &mut Nodes, step: &Step, unchained: bool) -> Result<(), Why> {
    match step {
        Step::Check { path, .. } if unchained && path.starts_with("/tasks/log-") => Ok(()),
        Step::Check { path, version } => match nodes.get(path) {
            None => Err(Why::NoNode),
            Some(node) if node.version != *version => Err(Why::BadVersion),
            Some(_) => Ok(()),
        },
        Step::Create { path, data } => {
            if nodes.contains_key(path) {
                return Err(Why::NodeExists);
            }
            nodes.insert(path.clone(), Stored { data: data.to_vec(), version: 0 });
            Ok(())
        }
        Step::Set { path, data, version } => match nodes.get_mut(path) {
            None => Err(Why::NoNode),
            Some(node) if node.version != *version => Err(Why::BadVersion),
            Some(node) => {
                *node = Stored { data: data.to_vec(), version: version + 1 };
                Ok(())
            }
        },
        Step::Delete { path } => nodes.remove(path).map(|_| ()).ok_or(Why::NoNode),
    }
}

/// A session. Its requests wait until [`process`](Self::process), unless it is automatic.
#[derive(Clone, Debug)]
pub(super) struct Session(Arc<Lane>);

#[derive(Debug)]
struct Lane {
    world: World,
    writer: u64,
    connection: watch::Sender<Connection>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    automatic: bool,
    pending: VecDeque<Pending>,
    /// On their way though the connection they were sent on is gone.
    late: Vec<Vec<Step>>,
    /// What reads show instead of the truth.
    stale: Option<Nodes>,
}

impl Session {
    pub(super) fn new(world: &World) -> Self {
        let writer = {
            let mut inner = world.lock();
            inner.sessions += 1;
            inner.sessions
        };
        let queue = Queue { automatic: true, ..Queue::default() };
        let connection = watch::Sender::new(Connection::Up);
        Self(Arc::new(Lane { world: world.clone(), writer, connection, queue: Mutex::new(queue) }))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap()
    }

    /// Answers at once, or when told to.
    pub(super) fn automatic(&self, automatic: bool) {
        self.queue().automatic = automatic;
        if automatic {
            self.process(usize::MAX);
        }
    }

    /// Requests that wait.
    pub(super) fn pending(&self) -> usize {
        self.queue().pending.len()
    }

    /// Serves up to `count` requests, if connected.
    pub(super) fn process(&self, count: usize) {
        for _ in 0..count {
            if self.connection() != Connection::Up {
                return;
            }
            let Some((steps, answer)) = self.queue().pending.pop_front() else { return };
            answer.send(self.0.world.run(&steps)).ok();
        }
    }

    /// Cuts the connection: the first `applied` requests are served and their answers lost, the next `lost` are
    /// lost themselves (or come `late`), the others still wait in the client and are sent after the reconnect.
    pub(super) fn cut(&self, applied: usize, lost: usize, late: bool) {
        if self.connection() == Connection::Ended {
            return;
        }
        let up = self.connection() == Connection::Up;
        self.0.connection.send_replace(Connection::Down);
        for at in 0..applied + lost {
            // What is queued while disconnected is not on any wire.
            let Some((steps, answer)) = up.then(|| self.queue().pending.pop_front()).flatten() else {
                return;
            };
            if at < applied {
                self.0.world.run(&steps).ok();
            } else if late {
                self.queue().late.push(steps);
            }
            answer.send(Err(Refusal::Lost)).ok();
        }
    }

    pub(super) fn reconnect(&self) {
        self.0.connection.send_if_modified(|connection| {
            let down = *connection == Connection::Down;
            if down {
                *connection = Connection::Up;
            }
            down
        });
        if self.queue().automatic {
            self.process(usize::MAX);
        }
    }

    /// What was late arrives.
    pub(super) fn arrive(&self) {
        let late = std::mem::take(&mut self.queue().late);
        for steps in late {
            self.0.world.run(&steps).ok();
        }
    }

    pub(super) fn expire(&self) {
        self.0.connection.send_replace(Connection::Ended);
        let pending = std::mem::take(&mut self.queue().pending);
        for (_, answer) in pending {
            answer.send(Err(Refusal::Ended)).ok();
        }
    }

    /// Reads show what is there now, until `thaw`: a deposed leader answers.
    pub(super) fn freeze(&self) {
        let nodes = self.0.world.lock().nodes.clone();
        self.queue().stale = Some(nodes);
    }

    pub(super) fn thaw(&self) {
        self.queue().stale = None;
    }

    fn read<R>(&self, read: impl FnOnce(&Nodes) -> R) -> Result<R, ReadError> {
        match self.connection() {
            Connection::Down => Err(ReadError::Lost),
            Connection::Ended => Err(ReadError::Ended),
            Connection::Up => {
                let queue = self.queue();
                Ok(match &queue.stale {
                    Some(stale) => read(stale),
                    None => read(&self.0.world.lock().nodes),
                })
            }
        }
    }
}

impl Store for Session {
    fn writer(&self) -> u64 {
        self.0.writer
    }

    fn submit(&self, steps: Vec<Step>) -> BoxFuture<'static, Result<(), Refusal>> {
        let session = self.clone();
        async move {
            if session.connection() == Connection::Ended {
                return Err(Refusal::Ended);
            }
            let (answer, answered) = oneshot::channel();
            session.queue().pending.push_back((steps, answer));
            if session.queue().automatic {
                session.process(usize::MAX);
            }
            answered.await.unwrap_or(Err(Refusal::Ended))
        }
        .boxed()
    }

    fn sync(&self, _path: &str) -> BoxFuture<'_, Result<(), ReadError>> {
        let answer = self.read(|_| ());
        async move { answer }.boxed()
    }

    fn children(&self, path: &str) -> BoxFuture<'_, Result<Vec<String>, ReadError>> {
        let prefix = format!("{path}/");
        let answer = self.read(|nodes| {
            let below = nodes.keys().filter_map(|path| path.strip_prefix(&prefix));
            below.filter(|name| !name.contains('/')).map(str::to_owned).collect()
        });
        async move { answer }.boxed()
    }

    fn get(&self, path: &str) -> BoxFuture<'_, Result<Option<Stored>, ReadError>> {
        let answer = self.read(|nodes| nodes.get(path).cloned());
        async move { answer }.boxed()
    }

    fn connection(&self) -> Connection {
        *self.0.connection.borrow()
    }

    fn up(&self) -> BoxFuture<'static, bool> {
        let mut state = self.0.connection.subscribe();
        async move { state.wait_for(|state| *state != Connection::Down).await.is_ok_and(|s| *s == Connection::Up) }
            .boxed()
    }

    fn down(&self) -> BoxFuture<'static, ()> {
        let mut state = self.0.connection.subscribe();
        async move {
            state.wait_for(|state| *state != Connection::Up).await.ok();
        }
        .boxed()
    }
}
