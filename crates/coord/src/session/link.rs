//! Calls on a session. Each ends by its deadline.

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clock::{Instant, SharedClock};
use drill::{Bug, Drill};
use pulse::Pulse;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zookeeper_client as zk;

use super::connect::Opened;
use super::state::Monitor;
use super::{CallError, CallFailure, ChildrenFollower, Ended, Generation, LinkState, Node, NodeFollower};
use super::{SessionId, Stat};
use crate::write::{Submissions, actor};
use crate::{ClientRuntime, Op, OpResult, Options, Write, WriteError};

/// The client's only home: taken out of here, the session can be closed once the calls in flight are over.
#[derive(Clone, Debug)]
pub(crate) struct Slot(Arc<Mutex<Option<zk::Client>>>);

impl Slot {
    pub(crate) fn get(&self) -> Option<zk::Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn take(&self) -> Option<zk::Client> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The way to call on one session; cheap to clone. It outlives the session: calls then fail with [`Ended`].
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    slot: Slot,
    session: SessionId,
    generation: Generation,
    session_timeout: Duration,
    call_deadline: Duration,
    mark: String,
    acls: zk::Acls<'static>,
    clock: SharedClock,
    drill: Drill,
    pulse: Pulse,
    publish: watch::Sender<LinkState>,
    writes: Submissions,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("session", &format_args!("{}", self.shared.session))
            .field("generation", &self.shared.generation)
            .field("state", &*self.shared.publish.borrow())
            .finish()
    }
}

/// Starts a session's monitor and write actor.
pub(super) fn start(
    options: &Options,
    clock: SharedClock,
    runtime: &ClientRuntime,
    opened: &Opened,
    closing: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Link {
    let client = &opened.client;
    let session = SessionId(client.session_id().0);
    let session_timeout = client.session_timeout();
    let acls = if options.auth.is_some() { zk::Acls::creator_all() } else { zk::Acls::anyone_all() };
    let slot = Slot(Arc::new(Mutex::new(Some(client.clone()))));
    let since = clock.now();
    let (publish, _) = watch::channel(LinkState::Connected { since, connection: 1 });
    let (writes, queue) = Submissions::channel();
    let link = Link {
        shared: Arc::new(Shared {
            slot: slot.clone(),
            session,
            generation: runtime.next_generation(),
            session_timeout,
            call_deadline: options.call_deadline,
            mark: format!("{}/probes/session-{session}", options.root),
            acls,
            clock: clock.clone(),
            drill: options.drill.clone(),
            pulse: options.pulse.clone(),
            publish: publish.clone(),
            writes,
        }),
    };
    let monitor = Monitor {
        client: client.state_watcher(),
        session,
        slot,
        mark: link.shared.mark.clone(),
        acls,
        clock,
        drill: options.drill.clone(),
        state: publish,
        // The client's own deadline is 1.4 T after it last heard anything, and it may take 0.4 T of them to notice the
        // loss. Earlier would give up sessions that can still be resumed. (If a busy machine wakes us later than the
        // client's deadline, `Options::connect_string` sees to it that the client gives up by itself.)
        give_up: session_timeout.mul_f64(0.85),
        closing: closing.clone(),
        release: opened.release.clone(),
    };
    tasks.spawn(options.pulse.watch("the monitor of its session", monitor.run()));
    tasks.spawn(options.pulse.watch("the writer of its session", actor::run(link.clone(), queue)));
    link
}

impl Link {
    /// The session's id, as the server chose it.
    pub fn session_id(&self) -> SessionId {
        self.shared.session
    }

    /// Which of this process's sessions this is.
    pub fn generation(&self) -> Generation {
        self.shared.generation
    }

    /// The session timeout that the server agreed to.
    pub fn session_timeout(&self) -> Duration {
        self.shared.session_timeout
    }

    /// How long a call on this link takes at most; a good limit for writes, too.
    pub fn call_deadline(&self) -> Duration {
        self.shared.call_deadline
    }

    /// The state of the connection, now and as it changes.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.publish.subscribe()
    }

    /// Waits until the server that answers the next read has everything that its leader had committed. Not a proof
    /// of being alive: a deposed leader answers too.
    ///
    /// # Errors
    /// See [`CallFailure`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn sync(&self, path: &str) -> Result<(), CallError> {
        self.call("sync", path, |client, path| async move { client.sync(&path).await }).await
    }

    /// A node's data, or `None` where there is no such node.
    ///
    /// # Errors
    /// See [`CallFailure`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn get(&self, path: &str) -> Result<Option<Node>, CallError> {
        self.call("read", path, |client, path| async move {
            match client.get_data(&path).await {
                Ok((data, stat)) => Ok(Some(Node { data, stat: stat.into() })),
                Err(zk::Error::NoNode) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The names of a node's children, sorted.
    ///
    /// # Errors
    /// See [`CallFailure`]; `NoNode` where there is no such node.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, CallError> {
        self.call("list", path, |client, path| async move {
            let mut names = client.list_children(&path).await?;
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    /// What is known about a node, or `None` where there is no such node.
    ///
    /// # Errors
    /// See [`CallFailure`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, CallError> {
        self.call("look at", path, |client, path| async move {
            Ok(client.check_stat(&path).await?.map(Stat::from))
        })
        .await
    }

    /// The paths of the ephemerals under `root` that this session owns, sorted.
    ///
    /// # Errors
    /// See [`CallFailure`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn own_ephemerals(&self, root: &str) -> Result<Vec<String>, CallError> {
        let mut paths = self
            .call("list our ephemerals under", root, |client, path| async move {
                client.list_ephemerals(&path).await
            })
            .await?;
        paths.retain(|path| *path != self.shared.mark);
        paths.sort_unstable();
        Ok(paths)
    }

    /// Creates a persistent node and its parents, unless they exist.
    ///
    /// # Errors
    /// See [`CallFailure`].
    ///
    /// # Cancel safety
    /// Safe: what was created stays, and whoever asks again finds it.
    pub async fn ensure(&self, path: &str) -> Result<(), CallError> {
        let acls = self.shared.acls;
        self.call("create", path, move |client, path| async move {
            if client.check_stat(&path).await?.is_some() {
                return Ok(());
            }
            client.mkdir(&path, &zk::CreateMode::Persistent.with_acls(acls)).await
        })
        .await
    }

    /// The node at `path`; if there is none, one with `data` is created first. Whoever comes second reads what the
    /// first wrote.
    ///
    /// # Errors
    /// See [`CallFailure`]; `NoNode` where the parent is missing.
    ///
    /// # Cancel safety
    /// Safe: what was created stays, and whoever asks again reads it.
    pub async fn create_or_get(&self, path: &str, data: &[u8]) -> Result<Node, CallError> {
        let acls = self.shared.acls;
        let data = data.to_vec();
        self.call("create or read", path, move |client, path| {
            let data = data.clone();
            async move {
                match client.get_data(&path).await {
                    Ok((data, stat)) => return Ok(Node { data, stat: stat.into() }),
                    Err(zk::Error::NoNode) => {}
                    Err(error) => return Err(error),
                }
                match client.create(&path, &data, &zk::CreateMode::Persistent.with_acls(acls)).await {
                    Ok(_) | Err(zk::Error::NodeExists) => {}
                    Err(error) => return Err(error),
                }
                let (data, stat) = client.get_data(&path).await?;
                Ok(Node { data, stat: stat.into() })
            }
        })
        .await
    }

    /// Follows one node: first its current value, then every change that is seen.
    pub fn follow_node(&self, path: impl Into<String>) -> NodeFollower {
        NodeFollower::new(self.clone(), path.into())
    }

    /// Follows the names of a node's children.
    pub fn follow_children(&self, path: impl Into<String>) -> ChildrenFollower {
        ChildrenFollower::new(self.clone(), path.into())
    }

    /// Writes, all or nothing, through the write actor. It submits only while connected, keeps the order of the
    /// calls (of the calls, not of the first polls of what they return), and when the answer is lost finds out by
    /// reading whether the write was done.
    ///
    /// # Errors
    /// See [`WriteError`]. `Unknown` means that `within` has passed: the actor goes on until it knows, and then does
    /// what [`Write::undo`] says.
    ///
    /// # Cancel safety
    /// Dropping the future is what passing `within` is: `Unknown`.
    pub fn write(
        &self,
        write: Write,
        within: Duration,
    ) -> impl Future<Output = Result<Vec<OpResult>, WriteError>> + Send + 'static {
        self.shared.writes.submit(write, within, self.state())
    }

    pub(crate) fn pulse(&self) -> &Pulse {
        &self.shared.pulse
    }

    pub(crate) fn drill(&self) -> &Drill {
        &self.shared.drill
    }

    pub(crate) fn acls(&self) -> zk::Acls<'static> {
        self.shared.acls
    }

    /// The client, for one call at most: a handle that is kept keeps the session from closing.
    pub(crate) fn client(&self) -> Result<zk::Client, Ended> {
        self.shared.slot.get().ok_or_else(|| self.ended())
    }

    pub(super) fn take_client(&self) -> Option<zk::Client> {
        self.shared.slot.take()
    }

    /// Adds what becomes of the session to the history of a drill.
    pub(super) fn note(&self, what: &'static str) {
        let Shared { session, clock, drill, .. } = &*self.shared;
        // This runs in destructors, too: nothing that could fail without need.
        if !drill.keeps_history() {
            return;
        }
        drill.record(clock.now(), || format!("{what} session id={session}"));
    }

    pub(super) fn publish_closed(&self) {
        self.shared.publish.send_if_modified(|state| {
            let open = state.ended().is_none();
            if open {
                *state = LinkState::Ended(Ended::Closed);
            }
            open
        });
    }

    fn ended(&self) -> Ended {
        // An empty slot without a published end is a session that is just being closed.
        self.shared.publish.borrow().ended().unwrap_or(Ended::Closed)
    }

    /// Commits idempotent ops directly, without the queue of the write actor: for lease probes.
    ///
    /// `Ok(None)`: nothing was proved (not connected, or answered on another connection than it was sent on).
    /// `Ok(Some(sent))`: everything was committed, and sent at `sent`.
    pub(crate) async fn probe(&self, ops: &[Op]) -> Result<Option<Instant>, WriteError> {
        if self.shared.publish.borrow().connection().is_none() {
            return Ok(None);
        }
        let client = self.client().map_err(WriteError::Ended)?;
        // Consumes what it has seen so far: a change from here on is one between sending and answer.
        let mut state = client.state_watcher();
        let sent = self.shared.clock.now();
        if self.shared.drill.plants(Bug::ReadProbe) {
            // An answer to a read passes for a proof.
            let path = ops.last().map_or("/", Op::path);
            return Ok(client.check_stat(path).await.ok().map(|_| sent));
        }
        match actor::commit(&client, ops, self.shared.acls).await {
            Ok(_) => {
                let same = futures::FutureExt::now_or_never(state.changed()).is_none();
                Ok(same.then_some(sent))
            }
            Err(actor::Refusal::Rejected { op, reason }) => Err(WriteError::Rejected { op, reason }),
            Err(actor::Refusal::Lost) => Ok(None),
            // The client knows it a moment before the link does.
            Err(actor::Refusal::Ended) => Err(WriteError::Ended(over(self.state()).await)),
        }
    }

    /// Runs a read, or a write that may be repeated, until it is answered, the session is over or the deadline has
    /// passed. It starts only while connected, so that nothing piles up in the client.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        path: &str,
        attempt: impl Fn(zk::Client, String) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, zk::Error>>,
    {
        let deadline = self.shared.call_deadline;
        let error = |failure| CallError { operation, path: path.to_owned(), failure };
        match tokio::time::timeout(deadline, self.attempts(path, attempt)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(error(failure)),
            Err(_) => Err(error(CallFailure::Deadline(deadline))),
        }
    }

    async fn attempts<T, F>(
        &self,
        path: &str,
        attempt: impl Fn(zk::Client, String) -> F,
    ) -> Result<T, CallFailure>
    where
        F: Future<Output = Result<T, zk::Error>>,
    {
        let mut state = self.state();
        loop {
            let connection = connected(&mut state).await.map_err(CallFailure::Ended)?;
            let client = self.client().map_err(CallFailure::Ended)?;
            let answer = tokio::select! {
                answer = attempt(client, path.to_owned()) => answer,
                ended = over(state.clone()) => return Err(CallFailure::Ended(ended)),
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(zk::Error::ConnectionLoss) => another(&mut state, connection).await,
                Err(zk::Error::NoNode) => return Err(CallFailure::NoNode),
                Err(zk::Error::NoAuth) => return Err(CallFailure::NoAuth),
                Err(zk::Error::SessionExpired | zk::Error::ClientClosed | zk::Error::AuthFailed) => {
                    return Err(CallFailure::Ended(over(state).await));
                }
                Err(other) => return Err(CallFailure::Other(other.to_string())),
            }
        }
    }
}

/// Waits for a connection and returns its number.
pub(crate) async fn connected(state: &mut watch::Receiver<LinkState>) -> Result<u64, Ended> {
    let settled = state.wait_for(|state| !matches!(state, LinkState::Disconnected { .. })).await;
    match settled.as_deref() {
        Ok(LinkState::Connected { connection, .. }) => Ok(*connection),
        Ok(LinkState::Ended(ended)) => Err(*ended),
        // The sender is in every link, so it is there; were it not, the session would be.
        Ok(LinkState::Disconnected { .. }) | Err(_) => Err(Ended::Closed),
    }
}

/// Waits until the session is over.
pub(crate) async fn over(mut state: watch::Receiver<LinkState>) -> Ended {
    let ended = state.wait_for(|state| state.ended().is_some()).await;
    ended.as_deref().ok().and_then(|state| state.ended()).unwrap_or(Ended::Closed)
}

/// Waits until the connection is another than `connection`: the client reports a loss to its callers before we have
/// heard of it.
pub(crate) async fn another(state: &mut watch::Receiver<LinkState>, connection: u64) {
    // An error means that the session is gone, which the caller sees next.
    let _ = state.wait_for(|state| state.connection() != Some(connection)).await;
}
