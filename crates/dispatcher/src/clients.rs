//! Connections to the runners, and the calls made over them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use proto::runner::{Presence, Refusal, RunnerRpcClient, StartBatch, StartReply};
use proto::{AttemptId, FencingToken, NodeId};
use tarpc::context::{self, Context};

use crate::attempts::{Batch, StartResult};
use crate::beats::{Answer, Ask};
use crate::storage::{Authority, BodyFailure, Log};

/// For a connection to come up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// For a batch of starts to be answered.
const START_DEADLINE: Duration = Duration::from_secs(5);

/// For a question to be answered.
const ASK_DEADLINE: Duration = Duration::from_secs(2);

/// Why a runner could not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(
    /// What is in the way.
    pub String,
);

/// Connects to runners. Whoever implements it owns and joins what drives the connections.
pub trait Runners: Send + Sync + fmt::Debug {
    /// A connection to the runner of `node`, which listens on `address`. The caller sets a deadline.
    fn connect(
        &self,
        node: &NodeId,
        address: &str,
    ) -> BoxFuture<'static, Result<RunnerRpcClient, ConnectError>>;
}

/// Connections that are up.
pub(crate) struct Clients {
    runners: Arc<dyn Runners>,
    up: Mutex<BTreeMap<NodeId, (String, RunnerRpcClient)>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("runners", &self.runners).finish_non_exhaustive()
    }
}

/// A call context that ends in `within`.
fn deadline(within: Duration) -> Context {
    let mut context = context::current();
    context.deadline = std::time::Instant::now() + within;
    context
}

impl Clients {
    pub(crate) fn new(runners: Arc<dyn Runners>) -> Self {
        Self { runners, up: Mutex::default() }
    }

    async fn get(&self, node: &NodeId, address: &str) -> Result<RunnerRpcClient, ConnectError> {
        let known = {
            let up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
            up.get(node).filter(|(at, _)| at == address).map(|(_, client)| client.clone())
        };
        if let Some(client) = known {
            return Ok(client);
        }
        let client = tokio::time::timeout(CONNECT_DEADLINE, self.runners.connect(node, address))
            .await
            .map_err(|_| ConnectError(format!("{address} did not answer within {CONNECT_DEADLINE:?}")))??;
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        up.insert(node.clone(), (address.to_owned(), client.clone()));
        Ok(client)
    }

    /// The connection is of no use any more.
    pub(crate) fn drop_client(&self, node: &NodeId) {
        self.up.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// Sends a batch of starts, with the payloads that lie outside of the specs.
    pub(crate) async fn start(
        &self,
        token: FencingToken,
        lease: &dyn Authority,
        log: &dyn Log,
        batch: Batch,
    ) -> StartResult {
        let Batch { node, address, incarnation, grant, starts } = batch;
        let mut ready = Vec::with_capacity(starts.len());
        let mut unreadable = Vec::with_capacity(starts.len());
        for (mut start, body) in starts {
            if let Some(body) = body {
                match log.get_body(body).await {
                    Ok(bytes) => start.spec.payload = bytes.into(),
                    Err(error @ BodyFailure::Missing) => {
                        unreadable.push(Some(StartReply::Refused { reason: error.to_string() }));
                        continue;
                    }
                    Err(error) => {
                        return StartResult::NotSent(format!("its payload could not be read: {error}"));
                    }
                }
            }
            unreadable.push(None);
            ready.push(start);
        }
        let client = match self.get(&node, &address).await {
            Ok(client) => client,
            Err(error) => {
                return StartResult::NotSent(format!("node {node} could not be reached: {error}"));
            }
        };
        if !lease.lets_out("start") {
            return StartResult::NotSent("the leader's lease had lapsed".to_owned());
        }
        let request = StartBatch { token, incarnation, grant, starts: ready };
        let call = client.start(deadline(START_DEADLINE), request);
        match tokio::time::timeout(START_DEADLINE, call).await {
            Ok(Ok(Ok(replies))) => {
                let mut replies = replies.into_iter();
                StartResult::Replies(
                    unreadable.into_iter().map_while(|reply| reply.or_else(|| replies.next())).collect(),
                )
            }
            Ok(Ok(Err(refusal))) => StartResult::Refused(refusal),
            Ok(Err(error)) => {
                self.drop_client(&node);
                StartResult::Uncertain(error.to_string())
            }
            Err(_) => {
                self.drop_client(&node);
                StartResult::Uncertain(format!("no answer within {START_DEADLINE:?}"))
            }
        }
    }

    /// Asks a runner where attempts stand; its inventory comes last.
    pub(crate) async fn ask(&self, token: FencingToken, ask: &Ask) -> Result<Answer, AskFailure> {
        let client =
            self.get(&ask.node, &ask.address).await.map_err(|error| AskFailure::Other(error.to_string()))?;
        let whole = async {
            let mut presences = Vec::with_capacity(ask.cancel.len() + ask.confirm.len());
            if !ask.cancel.is_empty() {
                let answer = client.cancel(deadline(ASK_DEADLINE), token, ask.cancel.clone()).await;
                pair(&mut presences, &ask.cancel, self.checked(&ask.node, answer)?)?;
            }
            if !ask.confirm.is_empty() {
                let answer = client.confirm(deadline(ASK_DEADLINE), token, ask.confirm.clone()).await;
                pair(&mut presences, &ask.confirm, self.checked(&ask.node, answer)?)?;
            }
            let answer = client.inventory(deadline(ASK_DEADLINE), token).await;
            let inventory = self.checked(&ask.node, answer)?;
            Ok(Answer { presences, inventory })
        };
        tokio::time::timeout(ASK_DEADLINE, whole).await.unwrap_or_else(|_| {
            self.drop_client(&ask.node);
            Err(AskFailure::Other(format!("no answer within {ASK_DEADLINE:?}")))
        })
    }

    fn checked<T>(
        &self,
        node: &NodeId,
        answer: Result<Result<T, Refusal>, tarpc::client::RpcError>,
    ) -> Result<T, AskFailure> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(Refusal::StaleToken { seen })) => Err(AskFailure::Stale(seen)),
            Ok(Err(refusal)) => Err(AskFailure::Other(refusal.to_string())),
            Err(error) => {
                self.drop_client(node);
                Err(AskFailure::Other(error.to_string()))
            }
        }
    }

    /// Part of an attempt's output.
    pub(crate) async fn output(
        &self,
        node: &NodeId,
        address: &str,
        attempt: AttemptId,
        offset: u64,
        bytes_max: u32,
    ) -> Result<Result<proto::runner::OutputChunk, Refusal>, String> {
        let client = self.get(node, address).await.map_err(|error| error.to_string())?;
        let call = client.output(deadline(START_DEADLINE), attempt, offset, bytes_max);
        match tokio::time::timeout(START_DEADLINE, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.drop_client(node);
                Err(error.to_string())
            }
            Err(_) => Err(format!("no answer within {START_DEADLINE:?}")),
        }
    }
}

/// Why a question got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AskFailure {
    /// The runner has seen a newer leader.
    Stale(proto::Epoch),
    Other(String),
}

fn pair(
    into: &mut Vec<(AttemptId, Presence)>,
    attempts: &[AttemptId],
    presences: Vec<Presence>,
) -> Result<(), AskFailure> {
    if attempts.len() != presences.len() {
        return Err(AskFailure::Other("the runner answered another number of questions".to_owned()));
    }
    into.extend(attempts.iter().copied().zip(presences));
    Ok(())
}
