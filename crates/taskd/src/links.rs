//! The wires between components: each crate's small trait, implemented over tarpc.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clock::SharedClock;
use futures::StreamExt;
use futures::future::BoxFuture;
use proto::leader::{Heartbeat, HeartbeatReply, LeaderRpc, LeaderRpcClient, NotLeading, OutcomeReport};
use proto::runner::{RunnerRpc, RunnerRpcClient};
use proto::{AttemptId, NodeId};
use runner::LinkError;
use tarpc::client::RpcError;
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::head_start::{self, HeadStart};
use crate::net::Peers;
use crate::supervisor::published::Board;

/// How long a heartbeat or a report of outcomes may take. Longer than a group commit, shorter than a heartbeat's
/// patience.
const REPORT_WITHIN: Duration = Duration::from_secs(3);

/// For how long a node that was elected lets a heartbeat wait until it serves. The runners beat as soon as they see it
/// elected; if it told them that it does not lead yet, nothing would start until their next beat. Shorter than they wait.
const SERVES_SOON: Duration = Duration::from_secs(1);

/// Requests in flight on the connection inside the process.
const LOCAL_BUFFER: usize = 256;

fn context_for(within: Duration) -> Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + within;
    context
}

/// How this node's runner reaches the leader, wherever it is.
#[derive(Clone, Debug)]
pub(crate) struct ToLeader {
    board: Board,
    peers: Peers,
    address: String,
    clock: SharedClock,
}

/// The leader, found.
enum Found {
    Here(dispatcher::Handle),
    There(String, LeaderRpcClient),
}

impl ToLeader {
    pub(crate) fn new(board: Board, peers: Peers, address: String, clock: SharedClock) -> Self {
        Self { board, peers, address, clock }
    }

    async fn find(&self) -> Result<Found, LinkError> {
        if let Some(handle) = self.board.dispatcher() {
            // Whoever led before is not waited for any more; should it lead again, its silence begins anew.
            self.board.memory().leader_answered();
            return Ok(Found::Here(handle));
        }
        match self.board.leader_address() {
            Some(address) if address != self.address => {
                let begun = self.clock.now();
                match self.peers.leader(&address).await {
                    Ok(client) => Ok(Found::There(address, client)),
                    Err(error) => {
                        self.board.memory().leader_silent(&address, begun);
                        Err(LinkError::Unreachable(error.to_string()))
                    }
                }
            }
            _ => Err(LinkError::NoLeader),
        }
    }

    fn answer<T>(
        &self,
        address: &str,
        begun: clock::Instant,
        answer: Result<Result<T, NotLeading>, RpcError>,
    ) -> Result<T, LinkError> {
        match answer {
            Ok(answer) => {
                self.board.memory().leader_answered();
                answer.map_err(LinkError::NotLeading)
            }
            Err(error) => {
                self.board.memory().leader_silent(address, begun);
                // The address may be that of a machine that is gone: the next call connects anew.
                self.peers.forget(address);
                Err(LinkError::Unreachable(error.to_string()))
            }
        }
    }
}

impl runner::LeaderLink for ToLeader {
    fn heartbeat(&self, beat: Heartbeat) -> BoxFuture<'_, Result<HeartbeatReply, LinkError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(handle) => handle.heartbeat(beat).await.map_err(LinkError::NotLeading),
                Found::There(address, client) => {
                    let begun = self.clock.now();
                    let answer = client.heartbeat(context_for(REPORT_WITHIN), beat).await;
                    self.answer(&address, begun, answer)
                }
            }
        })
    }

    fn outcomes(&self, report: OutcomeReport) -> BoxFuture<'_, Result<Vec<AttemptId>, LinkError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(handle) => handle.outcomes(report).await.map_err(LinkError::NotLeading),
                Found::There(address, client) => {
                    let begun = self.clock.now();
                    let answer = client.outcomes(context_for(REPORT_WITHIN), report).await;
                    self.answer(&address, begun, answer)
                }
            }
        })
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        let mut board = self.board.clone();
        let leader = |board: &Board| (board.leader_address(), board.dispatcher().is_some());
        let known = leader(&board);
        Box::pin(async move {
            while leader(&board) == known {
                board.changed().await;
            }
        })
    }
}

/// Has the node at `address`, which is to lead next, read the task log, within `within`.
///
/// # Errors
/// It has not, in words.
///
/// # Cancel safety
/// Dropping the future does not take the request back.
pub(crate) async fn prepare(peers: &Peers, address: &str, within: Duration) -> Result<(), String> {
    let client = peers.leader(address).await.map_err(|error| error.to_string())?;
    let answer = client.prepare(context_for(within.min(head_start::READ_WITHIN))).await;
    answer.unwrap_or_else(|error| Err(error.to_string()))
}

/// The leader's side of [`ToLeader`]: answers runners while this node dispatches.
#[derive(Clone, Debug)]
pub(crate) struct LeaderServer {
    pub(crate) board: Board,
    pub(crate) node: NodeId,
    /// Where this node listens.
    pub(crate) address: String,
    pub(crate) head_start: HeadStart,
}

impl LeaderServer {
    fn dispatcher(&self) -> Result<dispatcher::Handle, NotLeading> {
        self.board
            .dispatcher()
            .ok_or_else(|| NotLeading { node: self.node.clone(), leader: self.board.leader_address() })
    }

    /// Waits for the dispatcher of a term that has just begun.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    async fn dispatcher_soon(&self) -> Result<dispatcher::Handle, NotLeading> {
        let mut board = self.board.clone();
        let serves = async {
            // Whoever asks may have seen this node elected before it has itself.
            let other = |leader: Option<String>| leader.is_some_and(|leader| leader != self.address);
            while board.dispatcher().is_none() && !other(board.leader_address()) {
                board.changed().await;
            }
        };
        // Whoever is too slow says so itself: the answer below.
        let _ = tokio::time::timeout(SERVES_SOON, serves).await;
        self.dispatcher()
    }
}

impl LeaderRpc for LeaderServer {
    async fn heartbeat(self, _: Context, beat: Heartbeat) -> Result<HeartbeatReply, NotLeading> {
        self.dispatcher_soon().await?.heartbeat(beat).await
    }

    async fn prepare(self, _: Context) -> Result<(), String> {
        self.head_start.prepare().await
    }

    async fn outcomes(self, _: Context, report: OutcomeReport) -> Result<Vec<AttemptId>, NotLeading> {
        self.dispatcher()?.outcomes(report).await
    }
}

/// How the leader's dispatcher reaches runners: over the network, or inside this process for its own node.
#[derive(Clone, Debug)]
pub(crate) struct ToRunners {
    peers: Peers,
    board: Board,
    node: NodeId,
    /// The tasks of the connections inside the process.
    local: Arc<Mutex<JoinSet<()>>>,
}

impl ToRunners {
    pub(crate) fn new(peers: Peers, board: Board, node: NodeId) -> Self {
        Self { peers, board, node, local: Arc::default() }
    }

    async fn here(&self) -> Result<RunnerRpcClient, dispatcher::ConnectError> {
        let runner = self
            .board
            .runner()
            .ok_or_else(|| dispatcher::ConnectError("this node's own runner does not run".to_owned()))?;
        let (near, far) = tarpc::transport::channel::bounded(LOCAL_BUFFER);
        let tarpc::client::NewClient { client, dispatch } =
            RunnerRpcClient::new(tarpc::client::Config::default(), near);
        let requests = BaseChannel::with_defaults(far).execute(runner.server().serve());
        let mut tasks = self.local.lock().await;
        while tasks.try_join_next().is_some() {}
        // Both end when the client is dropped, or with the set.
        tasks.spawn(async move { drop(dispatch.await) });
        tasks.spawn(requests.for_each_concurrent(LOCAL_BUFFER, |request| request));
        Ok(client)
    }
}

impl dispatcher::Runners for ToRunners {
    fn connect(
        &self,
        node: &NodeId,
        address: &str,
    ) -> BoxFuture<'static, Result<RunnerRpcClient, dispatcher::ConnectError>> {
        let (this, address, local) = (self.clone(), address.to_owned(), *node == self.node);
        Box::pin(async move {
            if local {
                return this.here().await;
            }
            this.peers.runner(&address).await.map_err(|error| dispatcher::ConnectError(error.to_string()))
        })
    }
}
