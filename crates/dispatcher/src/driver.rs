//! The owner loop: the only place that touches the core. It never awaits a call or a commit inline; everything comes
//! back as an event. What it releases — replies, starts, questions — waits in line behind the commit of everything
//! that had been decided until then.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use proto::api::{ApiError, ListFilter, Submission, Submitted, TaskPage, Why};
use proto::leader::{Heartbeat, HeartbeatReply, NotLeading, OutcomeReport};
use proto::status::LogStatus;
use proto::task::{TaskState, TaskView};
use proto::{AttemptId, FencingToken, Incarnation, NodeId, TaskId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::attempts::StartResult;
use crate::beats::{Answer, Ask};
use crate::clients::{AskFailure, Clients};
use crate::core::{Core, Effect, Now};
use crate::handle::not_leading;
use crate::members::MemberInfo;
use crate::storage::{Authority, BodyFailure, BodyRef, Change, Commit, Failure, Log, Refused};
use crate::watch::Watchers;

/// Events that wait for the loop.
pub(crate) const EVENTS_MAX: usize = 4_096;

/// Events handled in one turn.
const TURN_MAX: usize = 512;

/// Commits that may be outstanding before no further event is taken.
const COMMITS_MAX: usize = 256;

/// Batches of submissions whose payloads are being written at a time.
const BODY_BATCHES_MAX: usize = 64;

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long outstanding commits are waited for when the loop stops.
const FLUSH: Duration = Duration::from_millis(500);

/// What a record costs in a segment beside its bytes.
const CHANGE_OVERHEAD: usize = 64;

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Everything that the [`Handle`](crate::Handle) can ask for.
#[derive(Debug)]
pub(crate) enum Event {
    Submit(Vec<Submission>, Reply<Result<Vec<Submitted>, ApiError>>),
    Show(String, Reply<Result<TaskView, ApiError>>),
    List(ListFilter, Reply<Result<TaskPage, ApiError>>),
    Why(String, Reply<Result<Why, ApiError>>),
    Cancel(String, Reply<Result<TaskView, ApiError>>),
    Retry(String, Reply<Result<TaskView, ApiError>>),
    Watch(Vec<(TaskId, u64)>, Duration, Reply<Result<Vec<TaskView>, ApiError>>),
    Locate(String, u32, Reply<Result<Located, ApiError>>),
    Heartbeat(Heartbeat, Reply<Result<HeartbeatReply, NotLeading>>),
    Outcomes(OutcomeReport, Reply<Result<Vec<AttemptId>, NotLeading>>),
    Stats(Reply<(LogStatus, Vec<(TaskState, u64)>)>),
    Capacities(Reply<Vec<(NodeId, u32, u32)>>),
}

/// Where an attempt's output is.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) attempt: AttemptId,
}

type Submissions = Vec<(Submission, Option<BodyRef>)>;

/// What a task of the loop comes back with.
enum Done {
    Bodies(Submissions, Result<(), BodyFailure>, Reply<Result<Vec<Submitted>, ApiError>>),
    Started(NodeId, Vec<AttemptId>, StartResult),
    Asked(Box<(Ask, Result<Answer, AskFailure>)>),
    BodyDeleted(Result<(), BodyFailure>),
    BodiesCollected(Result<usize, BodyFailure>),
}

/// What waits for a commit.
enum Release {
    Reply(Box<dyn FnOnce() + Send>),
    Beat(Reply<Result<HeartbeatReply, NotLeading>>, HeartbeatReply, NodeId, Incarnation),
    Effect(Effect),
}

struct Group {
    commit: Commit,
    releases: Vec<Release>,
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
    pub(crate) failed: watch::Sender<Option<String>>,
    /// Nothing new is accepted or assigned.
    pub(crate) drain: CancellationToken,
    /// The loop ends.
    pub(crate) stop: CancellationToken,
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
        Self {
            core,
            parts,
            log_failure,
            unwritten: VecDeque::new(),
            held: Vec::new(),
            groups: VecDeque::new(),
            io: JoinSet::new(),
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
        let referenced = self.core.db.iter().filter_map(|task| task.body.clone()).collect();
        self.io.spawn(async move { Done::BodiesCollected(log.collect_bodies(referenced).await) });
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Vec::with_capacity(TURN_MAX);
        let (stop, drain) = (self.parts.stop.clone(), self.parts.drain.clone());
        let mut members_open = true;
        let mut failure_open = true;
        let mut drained = false;
        loop {
            let accepting = self.unwritten.is_empty() && self.groups.len() < COMMITS_MAX;
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
                count = self.parts.events.recv_many(&mut taken, TURN_MAX), if accepting => {
                    if count == 0 {
                        // Every handle is gone; whoever owns this loop still stops it.
                        stop.cancelled().await;
                        break;
                    }
                    let now = self.now();
                    for event in taken.drain(..) {
                        self.event(now, event);
                    }
                }
            }
            self.catch_up();
            self.turn();
        }
        self.finish().await;
    }

    fn now(&self) -> Now {
        Now { at: self.parts.clock.now(), wall_ms: self.parts.clock.wall().0 }
    }

    /// Takes whatever else is there already, so that one turn serves it all.
    fn catch_up(&mut self) {
        while !self.groups.is_empty()
            && let Some(result) = first(&mut self.groups).now_or_never()
        {
            self.committed(result);
        }
        while let Some(done) = self.io.try_join_next() {
            let now = self.now();
            self.done(now, done);
        }
    }

    /// Decides, writes, sends.
    fn turn(&mut self) {
        if self.broken {
            return;
        }
        let now = self.now();
        let effective = self.parts.lease.holds();
        if effective && !self.parts.drain.is_cancelled() && self.unwritten.is_empty() {
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

    /// Answers once everything until now has committed.
    fn reply<T: Send + 'static>(&mut self, to: Reply<T>, answer: T) {
        self.held.push(Release::Reply(Box::new(move || {
            let _ = to.send(answer); // Its caller may have given up.
        })));
    }

    fn event(&mut self, now: Now, event: Event) {
        let drain = self.parts.drain.is_cancelled();
        if self.broken {
            return refuse(&self.parts.node, event);
        }
        let suspended = !self.parts.lease.holds();
        match event {
            Event::Submit(..) | Event::Cancel(..) | Event::Retry(..) if suspended || drain => {
                refuse(&self.parts.node, event);
            }
            Event::Heartbeat(..) | Event::Outcomes(..) if suspended => refuse(&self.parts.node, event),
            Event::Submit(tasks, reply) => self.submit(now, tasks, reply),
            Event::Show(id, reply) => {
                let view = self.core.db.find(&id).map(|task| task.view(true));
                self.reply(reply, view);
            }
            Event::List(filter, reply) => {
                let page = self.core.db.list(&filter);
                self.reply(reply, Ok(page));
            }
            Event::Why(id, reply) => {
                let why = self.core.db.find(&id).map(|task| self.core.why(now, task, suspended));
                self.reply(reply, why);
            }
            Event::Cancel(id, reply) => {
                let view = self.core.cancel(now, &id);
                self.reply(reply, view);
            }
            Event::Retry(id, reply) => {
                let view = self.core.retry(&id);
                self.reply(reply, view);
            }
            Event::Watch(tasks, patience, reply) => self.watch(now, tasks, patience, reply),
            Event::Locate(id, attempt, reply) => {
                let located = self.core.locate(&id, attempt);
                self.reply(reply, located);
            }
            Event::Heartbeat(beat, reply) => {
                let (node, life) = (beat.node.clone(), beat.incarnation);
                match self.core.heartbeat(now, beat) {
                    Some(answer) => {
                        let beat = Release::Beat(reply, answer, node, life);
                        // What must end is not told before the reason for it has committed.
                        if matches!(&beat, Release::Beat(_, answer, ..) if answer.end.is_empty()) {
                            self.release(beat);
                        } else {
                            self.held.push(beat);
                        }
                    }
                    None => {
                        let _ = reply.send(Err(NotLeading { node: self.parts.node.clone(), leader: None }));
                    }
                }
            }
            Event::Outcomes(report, reply) => {
                let ended = self.core.outcomes(now, report);
                self.reply(reply, Ok(ended));
            }
            Event::Stats(reply) => {
                let _ = reply.send((self.parts.log.status(), self.core.db.counts()));
            }
            Event::Capacities(reply) => {
                let runners = self.core.runners.iter();
                let slots =
                    runners.map(|(node, runner)| (node.clone(), runner.capacity.slots, runner.free()));
                let _ = reply.send(slots.collect());
            }
        }
    }

    fn submit(&mut self, now: Now, tasks: Vec<Submission>, reply: Reply<Result<Vec<Submitted>, ApiError>>) {
        if !tasks.iter().any(|task| self.core.needs_body(task)) {
            let tasks = tasks.into_iter().map(|task| (task, None)).collect();
            return self.accept(now, tasks, reply);
        }
        if self.body_batches >= BODY_BATCHES_MAX {
            let _ = reply.send(Err(ApiError::new(
                proto::api::ApiErrorKind::Full,
                "too many large payloads are being written: nothing was queued, submit it again later",
            )));
            return;
        }
        self.body_batches += 1;
        let mut tasks: Submissions = tasks.into_iter().map(|task| (task, None)).collect();
        let mut wanted = Vec::new();
        for (index, (task, _)) in tasks.iter_mut().enumerate() {
            if self.core.needs_body(task) {
                self.bodies_named += 1;
                let key = (u128::from(self.parts.token.epoch.0) << 64) | u128::from(self.bodies_named);
                wanted.push((index, key, Bytes::copy_from_slice(&task.spec.payload)));
            }
        }
        let log = Arc::clone(&self.parts.log);
        self.io.spawn(async move {
            let mut result = Ok(());
            for (index, key, data) in wanted {
                match log.put_body(key, data).await {
                    Ok(body) => {
                        if let Some(task) = tasks.get_mut(index) {
                            task.1 = Some(body);
                        }
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                }
            }
            Done::Bodies(tasks, result, reply)
        });
    }

    fn accept(&mut self, now: Now, tasks: Submissions, reply: Reply<Result<Vec<Submitted>, ApiError>>) {
        let mut room = self.parts.log.room();
        let submitted = self.core.submit(now, tasks, &mut room);
        self.reply(reply, Ok(submitted));
    }

    fn watch(
        &mut self,
        now: Now,
        tasks: Vec<(TaskId, u64)>,
        patience: Duration,
        reply: Reply<Result<Vec<TaskView>, ApiError>>,
    ) {
        use proto::api::ApiErrorKind::{Full, Invalid, NotFound};
        let answer = if tasks.len() > crate::watch::WATCHED_MAX {
            let max = crate::watch::WATCHED_MAX;
            Err(ApiError::new(Invalid, format!("{} tasks, the limit of one call is {max}", tasks.len())))
        } else if let Some((id, _)) = tasks.iter().find(|(id, _)| self.core.db.get(*id).is_none()) {
            Err(ApiError::new(NotFound, format!("there is no task {id}")))
        } else if patience.is_zero() || crate::watch::is_news(&self.core.db, &tasks) {
            Ok(crate::watch::views(&self.core.db, &tasks))
        } else if self.watchers.len() >= crate::watch::WATCHERS_MAX {
            Err(ApiError::new(Full, "too many calls wait for tasks: ask again later"))
        } else {
            return self.watchers.insert(tasks, now.at + patience, reply);
        };
        self.reply(reply, answer);
    }

    fn done(&mut self, now: Now, done: Result<Done, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(error) => return self.fail(format!("a call of the dispatcher ended unexpectedly: {error}")),
        };
        match done {
            Done::Bodies(tasks, result, reply) => {
                self.body_batches -= 1;
                if result.is_ok() && !self.broken && !self.parts.drain.is_cancelled() {
                    return self.accept(now, tasks, reply);
                }
                let bodies = tasks.into_iter().filter_map(|(_, body)| body);
                let orphans: Vec<Release> =
                    bodies.map(|body| Release::Effect(Effect::DeleteBody(body))).collect();
                self.held.extend(orphans);
                let error = match result {
                    Err(BodyFailure::Full) => crate::core::full(),
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
            self.io.spawn(async move {
                let result = clients.start(token, &*lease, &*log, batch).await;
                Done::Started(node, attempts, result)
            });
        }
    }

    /// Asks what has to be asked.
    fn ask(&mut self, now: Now) {
        for ask in self.core.next_asks(now) {
            let (clients, token) = (Arc::clone(&self.parts.clients), self.parts.token);
            self.io.spawn(async move {
                let answer = clients.ask(token, &ask).await;
                Done::Asked(Box::new((ask, answer)))
            });
        }
    }

    /// Hands what was decided to the log, and what depends on it to the line behind the commit.
    fn write(&mut self) {
        if self.core.db.is_dirty() {
            for (tasks, reply) in self.watchers.wake(self.core.db.changed()) {
                if crate::watch::is_news(&self.core.db, &tasks) {
                    let views = crate::watch::views(&self.core.db, &tasks);
                    self.reply(reply, Ok(views));
                }
            }
            split(self.core.db.take_changes(), self.parts.append_bytes_max, &mut self.unwritten);
        }
        let effects = self.core.take_effects();
        self.held.extend(effects.into_iter().map(Release::Effect));
        while let Some(changes) = self.unwritten.front() {
            // A refused append takes its changes with it; a record's bytes are shared, not copied.
            match self.parts.log.append(changes.clone()) {
                Ok(commit) => {
                    self.unwritten.pop_front();
                    self.groups.push_back(Group { commit, releases: Vec::new() });
                }
                Err(Refused::Busy) => return,
                Err(error @ Refused::Full) => {
                    tracing::error!(%error, "outcomes and assignments wait until the cleaner has made room");
                    return;
                }
                Err(error) => return self.fail(error.to_string()),
            }
        }
        let held = std::mem::take(&mut self.held);
        if let Some(last) = self.groups.back_mut() {
            last.releases.extend(held);
        } else {
            for release in held {
                self.release(release);
            }
        }
    }

    fn committed(&mut self, result: Result<(), Failure>) {
        let Some(group) = self.groups.pop_front() else { return };
        match result {
            Ok(()) => {
                for release in group.releases {
                    self.release(release);
                }
            }
            Err(failure) => self.fail(failure.to_string()),
        }
    }

    /// Lets go of something whose reason has committed.
    fn release(&mut self, release: Release) {
        match release {
            Release::Reply(reply) => reply(),
            Release::Beat(reply, answer, node, life) => {
                // The order matters: an answer may leave later than it is noted, never the other way round, and the
                // lease is read after the note, at the last moment.
                self.core.answered(self.now(), &node, life);
                let answer = if self.parts.lease.holds() {
                    Ok(answer)
                } else {
                    Err(NotLeading { node: self.parts.node.clone(), leader: None })
                };
                let _ = reply.send(answer);
            }
            Release::Effect(Effect::Start(attempt)) => self.core.may_send(self.now(), attempt),
            Release::Effect(Effect::Cancel(attempt)) => self.core.ask_cancel(self.now(), attempt),
            Release::Effect(Effect::DeleteBody(body)) => {
                let log = Arc::clone(&self.parts.log);
                self.io.spawn(async move { Done::BodyDeleted(log.delete_body(body).await) });
            }
        }
    }

    /// Nothing can be relied on any more: whatever waits for a commit is let down, and its callers are told that it is
    /// not known what became of it.
    fn fail(&mut self, why: String) {
        if !std::mem::replace(&mut self.broken, true) {
            tracing::error!(why, "the dispatcher can do nothing more in this term");
            self.parts.failed.send_replace(Some(why));
        }
        self.groups.clear();
        self.held.clear();
        self.unwritten.clear();
        self.watchers = Watchers::default();
    }

    /// The last turn: writes what was decided, answers what commits in time.
    async fn finish(mut self) {
        self.parts.events.close();
        while let Ok(event) = self.parts.events.try_recv() {
            refuse(&self.parts.node, event);
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

/// The first outstanding commit. Cancel safe. Call it only while there is one.
async fn first(groups: &mut VecDeque<Group>) -> Result<(), Failure> {
    match groups.front_mut() {
        Some(group) => (&mut group.commit).await,
        None => std::future::pending().await,
    }
}

/// Answers that nothing was done.
fn refuse(node: &NodeId, event: Event) {
    let error = not_leading(node);
    let not_leading = NotLeading { node: node.clone(), leader: None };
    match event {
        Event::Submit(_, reply) => drop(reply.send(Err(error))),
        Event::Show(_, reply) | Event::Cancel(_, reply) | Event::Retry(_, reply) => {
            drop(reply.send(Err(error)))
        }
        Event::List(_, reply) => drop(reply.send(Err(error))),
        Event::Why(_, reply) => drop(reply.send(Err(error))),
        Event::Watch(_, _, reply) => drop(reply.send(Err(error))),
        Event::Locate(_, _, reply) => drop(reply.send(Err(error))),
        Event::Heartbeat(_, reply) => drop(reply.send(Err(not_leading))),
        Event::Outcomes(_, reply) => drop(reply.send(Err(not_leading))),
        Event::Stats(reply) => drop(reply),
        Event::Capacities(reply) => drop(reply),
    }
}

/// Cuts changes into appends that fit into a segment.
fn split(changes: Vec<Change>, bytes_max: usize, into: &mut VecDeque<Vec<Change>>) {
    let mut part = Vec::new();
    let mut bytes = 0;
    for change in changes {
        let size = CHANGE_OVERHEAD + change.body.as_ref().map_or(0, Bytes::len);
        if bytes + size > bytes_max && !part.is_empty() {
            into.push_back(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += size;
        part.push(change);
    }
    if !part.is_empty() {
        into.push_back(part);
    }
}
