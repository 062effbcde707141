//! The tarpc service: every call becomes one request to the owner's loop.
//!
//! # Cancel safety
//! tarpc drops a handler when its caller gives up. That loses the answer, never half of an effect: a request is either in
//! the queue or not.

use proto::runner::{Inventory, OutputChunk, Presence, Refusal, RunnerRpc, StartBatch, StartReply};
use proto::{AttemptId, FencingToken};
use tarpc::context::Context;
use tokio::sync::{mpsc, oneshot};

use crate::handle::{Reply, Request};

/// Answers a leader's calls.
#[derive(Clone, Debug)]
pub struct Server {
    requests: mpsc::Sender<Request>,
}

impl Server {
    pub(crate) fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests }
    }

    /// Bounded by the call's own deadline, at which tarpc drops the handler.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Refusal> {
        let stopped = || Refusal::Failed("the runner has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl RunnerRpc for Server {
    async fn start(self, _: Context, request: StartBatch) -> Result<Vec<StartReply>, Refusal> {
        self.ask(|reply| Request::Start { batch: request, reply }).await
    }

    async fn cancel(
        self,
        _: Context,
        token: FencingToken,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<Presence>, Refusal> {
        self.ask(|reply| Request::Cancel { token, attempts, reply }).await
    }

    async fn inventory(self, _: Context, token: FencingToken) -> Result<Inventory, Refusal> {
        self.ask(|reply| Request::Inventory { token, reply }).await
    }

    async fn confirm(
        self,
        _: Context,
        token: FencingToken,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<Presence>, Refusal> {
        self.ask(|reply| Request::Confirm { token, attempts, reply }).await
    }

    async fn output(
        self,
        _: Context,
        attempt: AttemptId,
        offset: u64,
        bytes_max: u32,
    ) -> Result<OutputChunk, Refusal> {
        self.ask(|reply| Request::Output { attempt, offset, bytes_max, reply }).await
    }
}
