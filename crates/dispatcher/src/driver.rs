//! The owner loop: the only place that touches the core. It never awaits a call or a commit inline; everything comes
//! back as an event. What it releases — replies, starts, questions — waits in line behind the commit of everything
//! that had been decided until then.

mod commits;
mod events;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use drill::Drill;
use futures::FutureExt;
use proto::api::{ApiError, Submitted};
use proto::task::TaskView;
use proto::{AttemptId, FencingToken, NodeId};
use pulse::Pulse;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::attempts::StartResult;
use crate::beats::{Answer, Ask};
use crate::clients::{AskFailure, Clients};
use crate::core::{Core, Effect, Now};
use crate::handle::not_leading;
use crate::members::MemberInfo;
use crate::storage::{Authority, BodyFailure, BodyRef, Change, Failure, Log};
use crate::watch::Watchers;

use self::commits::{Group, Release, first};
pub(crate) use self::events::{Event, Located, Reply};
use self::events::{Submissions, refuse};

/// Events that wait for the loop.
pub(crate) const EVENTS_MAX: usize = 4_096;

/// Events handled in one turn.
const TURN_MAX: usize = 512;

/// Commits that may be outstanding before no further event is taken.
const COMMITS_MAX: usize = 256;

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long outstanding commits are waited for when the loop stops.
const FLUSH: Duration = Duration::from_millis(500);

/// What a task of the loop comes back with.
enum Done {
    Bodies(
        Submissions,
        OwnedSemaphorePermit,
        Result<(), BodyFailure>,
        Reply<Result<Vec<Submitted>, ApiError>>,
    ),
    Started(NodeId, Vec<AttemptId>, StartResult),
    Asked(Box<(Ask, Result<Answer, AskFailure>)>),
    BodyDeleted(Result<(), BodyFailure>),
    BodiesCollected(Result<usize, BodyFailure>),
}

/// What the loop is given.
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) token: FencingToken,
    pub(crate) lease: Arc<dyn Authority>,
    pub(crate) clock: clock::SharedClock,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) append_bytes_max: usize,
    pub(crate) clients: Arc<Clients>,
    pub(crate) members: watch::Receiver<Arc<Vec<MemberInfo>>>,
    pub(crate) events: mpsc::Receiver<Event>,
    /// What runners report. It has a line of its own, which is always served: were a heartbeat to wait behind
    /// submissions, a flood of those would cost running tasks their right to run.
    pub(crate) reports: mpsc::Receiver<Event>,
    pub(crate) failed: watch::Sender<Option<String>>,
    /// Nothing new is accepted or assigned.
    pub(crate) drain: CancellationToken,
    /// The loop ends.
    pub(crate) stop: CancellationToken,
    pub(crate) pulse: Pulse,
    pub(crate) drill: Drill,
}

/// The owner of the core.
pub(crate) struct Driver {
    core: Core,
    parts: Parts,
    log_failure: watch::Receiver<Option<Failure>>,
    /// Decided, not yet taken by the log.
    unwritten: VecDeque<Vec<Change>>,
    /// Waits for the last of `unwritten`, or of `groups`.
    held: Vec<Release>,
    groups: VecDeque<Group>,
    io: JoinSet<Done>,
    /// Bytes that new tasks may still use, as of the last time that everything was handed to the log.
    room: Option<u64>,
    /// What the replay referred to; none once they are collected.
    referenced: Vec<BodyRef>,
    body_batches: usize,
    bodies_named: u64,
    watchers: Watchers<Reply<Result<Vec<TaskView>, ApiError>>>,
    broken: bool,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("node", &self.parts.node).finish_non_exhaustive()
    }
}

impl Driver {
    pub(crate) fn new(core: Core, parts: Parts) -> Self {
        let log_failure = parts.log.failure();
        // As it is in the log: what this term decides may never get there, and what was decided against must then be
        // there for the next one.
        let referenced = core.db.iter().filter_map(|task| task.body.clone()).collect();
        Self {
            core,
            parts,
            log_failure,
            unwritten: VecDeque::new(),
            held: Vec::new(),
            groups: VecDeque::new(),
            io: JoinSet::new(),
            room: None,
            referenced,
            body_batches: 0,
            bodies_named: 0,
            watchers: Watchers::default(),
            broken: false,
        }
    }

    /// Asks every member for its inventory, for at most `patience`; who has not answered by then is asked on.
    ///
    /// # Cancel safety
    /// Cancelled, it has asked and forgets the answers.
    pub(crate) async fn survey(&mut self, patience: Duration) {
        let until = tokio::time::Instant::now() + patience;
        let now = self.now();
        let members = self.parts.members.borrow_and_update().clone();
        self.core.members(now, &members);
        self.ask(now);
        while let Ok(Some(done)) = tokio::time::timeout_at(until, self.io.join_next()).await {
            let now = self.now();
            self.done(now, done);
            self.ask(now);
        }
    }

    /// Runs until it is stopped.
    pub(crate) async fn run(mut self) {
        let log = Arc::clone(&self.parts.log);
        let referenced = std::mem::take(&mut self.referenced);
        self.spawn("the collection of payloads", async move {
            Done::BodiesCollected(log.collect_bodies(referenced).await)
        });
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut reported, mut taken) = (Vec::with_capacity(TURN_MAX), Vec::with_capacity(TURN_MAX));
        let (stop, drain) = (self.parts.stop.clone(), self.parts.drain.clone());
        let mut members_open = true;
        let mut failure_open = true;
        let (mut drained, mut gone) = (false, false);
        loop {
            self.parts.drill.hold("dispatcher.run").await;
            let accepting = self.accepting();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = drain.cancelled(), if !drained => drained = true,
                _ = tick.tick() => self.tick(),
                result = first(&mut self.groups), if !self.groups.is_empty() => self.committed(result),
                Some(done) = self.io.join_next(), if !self.io.is_empty() => {
                    let now = self.now();
                    self.done(now, done);
                }
                changed = self.parts.members.changed(), if members_open => {
                    members_open = changed.is_ok();
                    let members = self.parts.members.borrow_and_update().clone();
                    self.core.members(self.now(), &members);
                }
                changed = self.log_failure.changed(), if failure_open => {
                    failure_open = changed.is_ok();
                    let failure = self.log_failure.borrow_and_update().clone();
                    if let Some(failure) = failure {
                        self.fail(failure.to_string());
                    }
                }
                count = self.parts.reports.recv_many(&mut reported, TURN_MAX) => gone = count == 0,
                count = self.parts.events.recv_many(&mut taken, TURN_MAX), if accepting => gone = count == 0,
            }
            if gone {
                // Every handle is gone; whoever owns this loop still stops it.
                stop.cancelled().await;
                break;
            }
            self.catch_up(&mut reported, &mut taken);
            self.turn();
        }
        self.finish().await;
    }

    fn spawn(&mut self, what: &'static str, work: impl Future<Output = Done> + Send + 'static) {
        self.io.spawn(self.parts.pulse.watch(what, work));
    }

    fn now(&self) -> Now {
        let now = Now { at: self.parts.clock.now(), wall_ms: self.parts.clock.wall().0 };
        self.core.db.set_wall(now.wall_ms);
        now
    }

    /// Takes whatever else is there already, so that one turn serves it all and nothing waits behind what is always
    /// busy.
    fn catch_up(&mut self, reported: &mut Vec<Event>, taken: &mut Vec<Event>) {
        while !self.groups.is_empty()
            && let Some(result) = first(&mut self.groups).now_or_never()
        {
            self.committed(result);
        }
        while let Some(done) = self.io.try_join_next() {
            let now = self.now();
            self.done(now, done);
        }
        more(&mut self.parts.reports, reported);
        if self.accepting() {
            more(&mut self.parts.events, taken);
        }
        let now = self.now();
        for event in reported.drain(..).chain(taken.drain(..)) {
            self.event(now, event);
        }
    }

    /// Whether the log keeps up.
    fn accepting(&self) -> bool {
        self.unwritten.is_empty() && self.groups.len() < COMMITS_MAX
    }

    /// Decides, writes, sends.
    fn turn(&mut self) {
        if self.broken {
            return;
        }
        let now = self.now();
        let effective = self.parts.lease.holds();
        if effective && !self.parts.drain.is_cancelled() && self.unwritten.is_empty() {
            self.run_schedules(now);
            self.core.dispatch(now);
        }
        if effective {
            self.send(now);
            self.ask(now);
        }
        self.write();
    }

    fn tick(&mut self) {
        if self.broken {
            return;
        }
        let now = self.now();
        // Without the lease nobody was answered, and nobody may be given up: a successor may know better.
        if self.parts.lease.holds() {
            self.core.tick(now);
        }
        for (tasks, reply) in self.watchers.expire(now.at) {
            let views = crate::watch::views(&self.core.db, &tasks);
            self.reply(reply, Ok(views));
        }
    }

    fn done(&mut self, now: Now, done: Result<Done, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(error) => return self.fail(format!("a call of the dispatcher ended unexpectedly: {error}")),
        };
        match done {
            Done::Bodies(tasks, _room, result, reply) => {
                self.body_batches -= 1;
                if result.is_ok() && !self.broken && !self.parts.drain.is_cancelled() {
                    return self.accept(now, tasks, reply);
                }
                let bodies = tasks.into_iter().filter_map(|(_, body)| body);
                let orphans: Vec<Release> =
                    bodies.map(|body| Release::Effect(Effect::DeleteBody(body))).collect();
                self.held.extend(orphans);
                let error = match result {
                    Err(BodyFailure::Full) => crate::requests::full(),
                    Err(error) => ApiError::new(
                        proto::api::ApiErrorKind::NoLeader,
                        format!("the payload could not be written: {error}; nothing was queued"),
                    ),
                    Ok(()) => not_leading(&self.parts.node),
                };
                let _ = reply.send(Err(error));
            }
            Done::Started(node, attempts, result) => {
                if let Err(seen) = self.core.started(now, &node, attempts, result) {
                    self.fail(format!("node {node} has seen a newer leader, of epoch {seen}"));
                }
            }
            Done::Asked(asked) => match *asked {
                (ask, Err(AskFailure::Stale(seen))) => {
                    self.fail(format!("node {} has seen a newer leader, of epoch {seen}", ask.node));
                }
                (ask, Err(AskFailure::Other(reason))) => self.core.asked(now, ask, Err(reason)),
                (ask, Ok(answer)) => self.core.asked(now, ask, Ok(answer)),
            },
            Done::BodyDeleted(Err(error)) | Done::BodiesCollected(Err(error)) => {
                tracing::warn!(%error, "payloads that nobody needs stay in the task log; the next term collects them");
            }
            Done::BodyDeleted(Ok(())) => {}
            Done::BodiesCollected(Ok(count)) => tracing::debug!(count, "payloads of earlier terms collected"),
        }
    }

    /// Sends committed assignments.
    fn send(&mut self, now: Now) {
        for batch in self.core.next_batches(now) {
            let (clients, log) = (Arc::clone(&self.parts.clients), Arc::clone(&self.parts.log));
            let (lease, token) = (Arc::clone(&self.parts.lease), self.parts.token);
            let node = batch.node.clone();
            let attempts = batch.starts.iter().map(|(start, _)| start.attempt).collect();
            self.spawn("the sending of starts", async move {
                let result = clients.start(token, &*lease, &*log, batch).await;
                Done::Started(node, attempts, result)
            });
        }
    }

    /// Asks what has to be asked.
    fn ask(&mut self, now: Now) {
        for ask in self.core.next_asks(now) {
            let (clients, token) = (Arc::clone(&self.parts.clients), self.parts.token);
            self.spawn("a question to a runner", async move {
                let answer = clients.ask(token, &ask).await;
                Done::Asked(Box::new((ask, answer)))
            });
        }
    }

    /// The last turn: writes what was decided, answers what commits in time.
    async fn finish(mut self) {
        for line in [&mut self.parts.reports, &mut self.parts.events] {
            line.close();
            while let Ok(event) = line.try_recv() {
                refuse(&self.parts.node, event);
            }
        }
        if !self.broken {
            self.write();
        }
        let until = tokio::time::Instant::now() + FLUSH;
        while !self.groups.is_empty()
            && let Ok(result) = tokio::time::timeout_at(until, first(&mut self.groups)).await
        {
            self.committed(result);
            if !self.broken {
                self.write();
            }
        }
        self.io.shutdown().await;
    }
}

/// Fills up what is taken in one turn.
fn more(line: &mut mpsc::Receiver<Event>, taken: &mut Vec<Event>) {
    while taken.len() < TURN_MAX
        && let Ok(event) = line.try_recv()
    {
        taken.push(event);
    }
}
