//! One client per address and service, connected when it is first wanted and again when it broke.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::api::ApiClient;
use proto::leader::LeaderRpcClient;
use proto::runner::RunnerRpcClient;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{ConnectError, Connection, Identity, Rpc, SharedNetwork, connect};

/// Addresses that are remembered per service; beyond it, those without a connection are forgotten.
const ADDRESSES_MAX: usize = 4_096;

/// Owns the connections that this process opens. Clones share them; [`close`](Self::close) ends them all.
#[derive(Clone, Debug)]
pub struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    network: SharedNetwork,
    identity: Identity,
    connect_deadline: Duration,
    api: Pool<ApiClient>,
    runner: Pool<RunnerRpcClient>,
    leader: Pool<LeaderRpcClient>,
    /// The dispatch tasks; none once closed.
    tasks: Mutex<Option<JoinSet<()>>>,
    closing: CancellationToken,
}

#[derive(Debug)]
struct Pool<C>(Mutex<BTreeMap<String, Slot<C>>>);

/// The async mutex makes callers of one address share one attempt to connect.
type Slot<C> = Arc<tokio::sync::Mutex<Option<Cached<C>>>>;

#[derive(Debug)]
struct Cached<C> {
    client: C,
    /// Cancelled when its dispatch has ended.
    ended: CancellationToken,
}

impl Peers {
    /// No connections yet. Each attempt to connect, waiting for another caller's included, takes at most
    /// `connect_deadline`.
    pub fn new(network: SharedNetwork, identity: Identity, connect_deadline: Duration) -> Self {
        Self(Arc::new(Inner {
            network,
            identity,
            connect_deadline,
            api: Pool::default(),
            runner: Pool::default(),
            leader: Pool::default(),
            tasks: Mutex::new(Some(JoinSet::new())),
            closing: CancellationToken::new(),
        }))
    }

    /// A client for what people and peers ask of the node at `address`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn api(&self, address: &str) -> Result<ApiClient, ConnectError> {
        self.client(&self.0.api, address).await
    }

    /// A client for the runner at `address`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn runner(&self, address: &str) -> Result<RunnerRpcClient, ConnectError> {
        self.client(&self.0.runner, address).await
    }

    /// A client for the leader at `address`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn leader(&self, address: &str) -> Result<LeaderRpcClient, ConnectError> {
        self.client(&self.0.leader, address).await
    }

    /// Drops the connections to `address`, so that the next call opens new ones: for a peer that answers no longer.
    /// Calls that others still make through them go on until their own deadlines.
    pub fn forget(&self, address: &str) {
        lock(&self.0.api.0).remove(address);
        lock(&self.0.runner.0).remove(address);
        lock(&self.0.leader.0).remove(address);
    }

    /// Ends every connection and waits for their tasks, which end at once. Later calls get
    /// [`ConnectError::Closed`].
    pub async fn close(&self) {
        self.0.closing.cancel();
        let tasks = lock(&self.0.tasks).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        lock(&self.0.api.0).clear();
        lock(&self.0.runner.0).clear();
        lock(&self.0.leader.0).clear();
    }

    async fn client<C: Rpc>(&self, pool: &Pool<C>, address: &str) -> Result<C, ConnectError> {
        let within = self.0.connect_deadline;
        let closed = || ConnectError::Closed { address: address.to_owned() };
        let attempt = async {
            let slot = pool.slot(address);
            let mut cached = slot.lock().await;
            if let Some(Cached { client, ended }) = cached.as_ref()
                && !ended.is_cancelled()
            {
                return Ok(client.clone());
            }
            *cached = None;
            let Connection { client, dispatch, peer }: Connection<C> =
                connect(&self.0.network, address, &self.0.identity, within).await?;
            tracing::debug!(address, service = ?C::SERVICE, node = ?peer.node, "connected");
            let ended = CancellationToken::new();
            let guard = ended.clone().drop_guard();
            let spawned = self.spawn(async move {
                dispatch.await;
                drop(guard);
            });
            if !spawned {
                return Err(closed());
            }
            *cached = Some(Cached { client: client.clone(), ended });
            Ok(client)
        };
        tokio::select! {
            () = self.0.closing.cancelled() => Err(closed()),
            outcome = tokio::time::timeout(within, attempt) => outcome
                .unwrap_or_else(|_| Err(ConnectError::Deadline { address: address.to_owned(), within })),
        }
    }

    /// Whether the task was taken: not once closed.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = lock(&self.0.tasks);
        let Some(tasks) = tasks.as_mut() else { return false };
        // Ended ones are joined here, so that a node that reconnects for years keeps none.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
        true
    }
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Rpc> Pool<C> {
    fn slot(&self, address: &str) -> Slot<C> {
        let mut slots = lock(&self.0);
        if slots.len() >= ADDRESSES_MAX && !slots.contains_key(address) {
            slots.retain(|_, slot| {
                slot.try_lock()
                    .map_or(true, |cached| cached.as_ref().is_some_and(|cached| !cached.ended.is_cancelled()))
            });
        }
        Arc::clone(slots.entry(address.to_owned()).or_default())
    }
}

/// Nothing panics while it holds one of these, and what they guard is whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
