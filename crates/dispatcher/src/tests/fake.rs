//! A runner in memory, behind a real tarpc client and server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use proto::leader::{Heartbeat, OutcomeReport};
use proto::runner::{
    Capacity, Inventory, Outcome, OutputChunk, Presence, Refusal, RunnerRpc, RunnerRpcClient, StartBatch,
    StartReply,
};
use proto::task::{AttemptEnd, TaskSpec};
use proto::{AttemptId, Epoch, FencingToken, Grant, Incarnation, NodeId};
use tarpc::context::Context;
use tarpc::server::{BaseChannel, Channel};
use tokio::task::JoinSet;

use crate::clients::{ConnectError, Runners};
use crate::handle::Handle;

#[derive(Debug, Default)]
pub(super) struct State {
    floor: Epoch,
    pub(super) grant: Option<Grant>,
    pub(super) running: BTreeMap<AttemptId, TaskSpec>,
    pub(super) spool: BTreeMap<AttemptId, Outcome>,
    refused: BTreeSet<AttemptId>,
    /// Every start that was accepted, in order.
    pub(super) started: Vec<AttemptId>,
    /// Starts are accepted and never answered.
    pub(super) mute: bool,
    pub(super) unreachable: bool,
}

/// Kind `noop` ends at once; everything else when the test says so.
#[derive(Clone, Debug)]
pub(super) struct FakeRunner {
    pub(super) node: NodeId,
    pub(super) life: Incarnation,
    slots: u32,
    labels: BTreeMap<String, String>,
    state: Arc<Mutex<State>>,
}

impl FakeRunner {
    pub(super) fn new(name: &str, slots: u32) -> Self {
        let node = name.parse().expect("valid");
        let life = Incarnation::from_u128(u128::from(name.as_bytes()[1]));
        Self { node, life, slots, labels: BTreeMap::new(), state: Arc::default() }
    }

    /// The same with a label.
    pub(super) fn with(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds this")
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            slots: self.slots,
            free: self.slots.saturating_sub(self.state().running.len() as u32),
            labels: self.labels.clone(),
            kinds: vec!["noop".to_owned(), "wait".to_owned()],
            draining: false,
        }
    }

    /// Ends an attempt.
    pub(super) fn end(&self, attempt: AttemptId, end: AttemptEnd) {
        let mut state = self.state();
        if state.running.remove(&attempt).is_some() {
            let outcome =
                Outcome { attempt, end, started_ms: Some(1), ended_ms: 2, output_bytes: 0, checkpoint: None };
            state.spool.insert(attempt, outcome);
        }
    }

    /// Sends a heartbeat, and another once a new grant has come; whether they were answered.
    pub(super) async fn beat(&self, leader: &Handle) -> bool {
        let held = self.state().grant;
        self.beat_once(leader).await && (self.state().grant == held || self.beat_once(leader).await)
    }

    async fn beat_once(&self, leader: &Handle) -> bool {
        let capacity = self.capacity();
        let (grant, running) = {
            let state = self.state();
            (state.grant, state.running.keys().copied().collect())
        };
        let beat = Heartbeat {
            node: self.node.clone(),
            address: self.node.to_string(),
            incarnation: self.life,
            ended_incarnations: vec![],
            grant,
            capacity,
            running,
            leave_ms: None,
            reports: vec![],
        };
        let Ok(reply) = leader.heartbeat(beat).await else { return false };
        let mut state = self.state();
        state.floor = state.floor.max(reply.token.epoch);
        state.grant = Some(reply.grant);
        drop(state);
        for attempt in reply.end {
            self.end(attempt, AttemptEnd::Cancelled);
        }
        true
    }

    /// Reports outcomes; how many the leader acknowledged.
    pub(super) async fn report(&self, leader: &Handle) -> usize {
        let outcomes: Vec<_> = self.state().spool.values().cloned().collect();
        if outcomes.is_empty() {
            return 0;
        }
        let report = OutcomeReport { node: self.node.clone(), incarnation: self.life, outcomes };
        let Ok(acknowledged) = leader.outcomes(report).await else { return 0 };
        let mut state = self.state();
        for attempt in &acknowledged {
            state.spool.remove(attempt);
        }
        acknowledged.len()
    }

    fn floor(&self, token: FencingToken) -> Result<(), Refusal> {
        let mut state = self.state();
        if token.epoch < state.floor {
            return Err(Refusal::StaleToken { seen: state.floor });
        }
        state.floor = token.epoch;
        Ok(())
    }

    fn presence(&self, attempt: AttemptId) -> Presence {
        let mut state = self.state();
        if state.running.contains_key(&attempt) {
            Presence::Running
        } else if let Some(outcome) = state.spool.get(&attempt) {
            Presence::Ended(outcome.clone())
        } else {
            state.refused.insert(attempt);
            Presence::Unknown
        }
    }
}

impl RunnerRpc for FakeRunner {
    async fn start(self, _: Context, request: StartBatch) -> Result<Vec<StartReply>, Refusal> {
        self.floor(request.token)?;
        if request.incarnation != self.life {
            return Err(Refusal::WrongIncarnation { current: self.life });
        }
        let mut replies = Vec::new();
        let mute = {
            let mut state = self.state();
            if state.grant != Some(request.grant) {
                return Err(Refusal::WrongGrant { current: state.grant });
            }
            for start in request.starts {
                if state.refused.contains(&start.attempt) {
                    replies.push(StartReply::Refused { reason: "given up before".to_owned() });
                    continue;
                }
                if state.running.len() as u32 >= self.slots {
                    replies.push(StartReply::Busy);
                    continue;
                }
                state.started.push(start.attempt);
                if start.spec.kind == "noop" {
                    let (attempt, end) = (start.attempt, AttemptEnd::Exited { code: 0 });
                    let outcome = Outcome {
                        attempt,
                        end,
                        started_ms: Some(1),
                        ended_ms: 1,
                        output_bytes: 0,
                        checkpoint: None,
                    };
                    state.spool.insert(attempt, outcome);
                } else {
                    state.running.insert(start.attempt, start.spec);
                }
                replies.push(StartReply::Accepted);
            }
            state.mute
        };
        if mute {
            std::future::pending::<()>().await;
        }
        Ok(replies)
    }

    async fn cancel(
        self,
        _: Context,
        token: FencingToken,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<Presence>, Refusal> {
        self.floor(token)?;
        if self.state().unreachable {
            std::future::pending::<()>().await;
        }
        for attempt in &attempts {
            self.end(*attempt, AttemptEnd::Cancelled);
        }
        Ok(attempts.into_iter().map(|attempt| self.presence(attempt)).collect())
    }

    async fn inventory(self, _: Context, token: FencingToken) -> Result<Inventory, Refusal> {
        self.floor(token)?;
        let capacity = self.capacity();
        let state = self.state();
        Ok(Inventory {
            node: self.node.clone(),
            incarnation: self.life,
            ended_incarnations: vec![],
            capacity,
            running: state.running.keys().copied().collect(),
            outcomes: state.spool.values().cloned().collect(),
        })
    }

    async fn confirm(
        self,
        _: Context,
        token: FencingToken,
        attempts: Vec<AttemptId>,
    ) -> Result<Vec<Presence>, Refusal> {
        self.floor(token)?;
        Ok(attempts.into_iter().map(|attempt| self.presence(attempt)).collect())
    }

    async fn output(
        self,
        _: Context,
        attempt: AttemptId,
        offset: u64,
        _: u32,
    ) -> Result<OutputChunk, Refusal> {
        if self.state().started.contains(&attempt) {
            Ok(OutputChunk { offset, bytes: b"hello".to_vec(), complete: true })
        } else {
            Err(Refusal::NoSuchAttempt)
        }
    }
}

/// Connects to fake runners by their names.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) runners: Vec<FakeRunner>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Network {
    pub(super) fn of(runners: &[FakeRunner]) -> Arc<Self> {
        Arc::new(Self { runners: runners.to_vec(), tasks: Arc::default() })
    }
}

impl Runners for Network {
    fn connect(&self, node: &NodeId, _: &str) -> BoxFuture<'static, Result<RunnerRpcClient, ConnectError>> {
        let runner = self.runners.iter().find(|runner| runner.node == *node).cloned();
        let tasks = Arc::clone(&self.tasks);
        async move {
            let runner = runner.filter(|runner| !runner.state().unreachable);
            let runner = runner.ok_or_else(|| ConnectError("connection refused".to_owned()))?;
            let (near, far) = tarpc::transport::channel::unbounded();
            let client = RunnerRpcClient::new(tarpc::client::Config::default(), near);
            let mut tasks = tasks.lock().expect("no test panics while it holds this");
            let serve = BaseChannel::with_defaults(far).execute(runner.serve());
            tasks.spawn(serve.for_each_concurrent(None, |call| call));
            tasks.spawn(client.dispatch.map(|_| ()));
            Ok(client.client)
        }
        .boxed()
    }
}
