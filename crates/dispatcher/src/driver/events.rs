//! What the loop is asked for, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::api::{ApiError, ListFilter, Submission, Submitted, TaskPage, Why};
use proto::leader::{Heartbeat, HeartbeatReply, NotLeading, OutcomeReport};
use proto::operate::{OperateDone, OperateOrder, Operations};
use proto::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, SchedulePage, ScheduleView};
use proto::status::{FenceStatus, LogStatus, Slots};
use proto::task::{TaskState, TaskView};
use proto::{AttemptId, NodeId, TaskId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::commits::Release;
use super::{Done, Driver};
use crate::core::{Core, Now};
use crate::handle::{RunnerSeen, not_leading};
use crate::storage::BodyRef;

/// Batches of submissions whose payloads are being written at a time.
const BODY_BATCHES_MAX: usize = 64;

pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Everything that the [`Handle`](crate::Handle) can ask for.
#[derive(Debug)]
pub(crate) enum Event {
    /// With its share of what may wait at a time.
    Submit(Vec<Submission>, OwnedSemaphorePermit, Reply<Result<Vec<Submitted>, ApiError>>),
    Show(String, Reply<Result<TaskView, ApiError>>),
    List(ListFilter, Reply<Result<TaskPage, ApiError>>),
    Why(String, Reply<Result<Why, ApiError>>),
    Cancel(String, Reply<Result<TaskView, ApiError>>),
    Retry(String, Reply<Result<TaskView, ApiError>>),
    Watch(Vec<(TaskId, u64)>, Duration, Reply<Result<Vec<TaskView>, ApiError>>),
    /// As for a submission.
    ScheduleOrder(ScheduleOrder, OwnedSemaphorePermit, Reply<Result<ScheduleDone, ApiError>>),
    Schedule(ScheduleName, Reply<Result<ScheduleView, ApiError>>),
    Schedules(Option<ScheduleName>, Reply<Result<SchedulePage, ApiError>>),
    Operate(Box<OperateOrder>, Reply<Result<OperateDone, ApiError>>),
    Operations(Reply<Result<Operations, ApiError>>),
    Locate(String, u32, Reply<Result<Located, ApiError>>),
    Heartbeat(Heartbeat, Reply<Result<HeartbeatReply, NotLeading>>),
    Outcomes(OutcomeReport, Reply<Result<Vec<AttemptId>, NotLeading>>),
    Stats(Reply<(LogStatus, Vec<(TaskState, u64)>)>),
    Capacities(Reply<Vec<RunnerSeen>>),
    Fences(Reply<Vec<FenceStatus>>),
}

/// Where an attempt's output is.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    pub(crate) attempt: AttemptId,
}

pub(super) type Submissions = Vec<(Submission, Option<BodyRef>)>;

impl Driver {
    /// Answers once everything until now has committed.
    pub(super) fn reply<T: Send + 'static>(&mut self, to: Reply<T>, answer: T) {
        self.held.push(Release::Reply(Box::new(move || {
            let _ = to.send(answer); // Its caller may have given up.
        })));
    }

    pub(super) fn event(&mut self, now: Now, event: Event) {
        let drain = self.parts.drain.is_cancelled();
        if self.broken {
            return refuse(&self.parts.node, event);
        }
        let suspended = !self.parts.lease.holds();
        match event {
            Event::Submit(..)
            | Event::Cancel(..)
            | Event::Retry(..)
            | Event::ScheduleOrder(..)
            | Event::Operate(..)
                if suspended || drain =>
            {
                refuse(&self.parts.node, event);
            }
            Event::Heartbeat(..) | Event::Outcomes(..) if suspended => refuse(&self.parts.node, event),
            Event::Submit(tasks, room, reply) => self.submit(now, tasks, room, reply),
            Event::Show(id, reply) => {
                let view = self.core.db.find(&id).map(|task| task.view(true));
                self.reply(reply, view);
            }
            Event::List(filter, reply) => {
                let page = self.core.db.list(&filter).map(|listed| listed.page);
                self.reply(reply, page);
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
                let view = self.core.retry(now, &id);
                self.reply(reply, view);
            }
            Event::Watch(tasks, patience, reply) => self.watch(now, tasks, patience, reply),
            Event::ScheduleOrder(order, _room, reply) => {
                let answer = self.with_room(|core, room| core.schedule_order(now, order, room));
                self.acknowledge(reply, answer);
            }
            Event::Schedule(name, reply) => {
                let view = self.core.schedule_view(now, &name);
                self.reply(reply, view);
            }
            Event::Schedules(after, reply) => {
                let page = self.core.schedule_page(now, after.as_ref());
                self.reply(reply, Ok(page));
            }
            Event::Operate(order, reply) => {
                let done = self.core.operate(now, *order);
                self.acknowledge(reply, done);
            }
            Event::Operations(reply) => {
                let operations = self.core.operations(now);
                self.reply(reply, Ok(operations));
            }
            Event::Locate(id, attempt, reply) => {
                let located = self.core.locate(&id, attempt);
                self.reply(reply, located);
            }
            Event::Heartbeat(beat, reply) => {
                let (node, life) = (beat.node.clone(), beat.incarnation);
                match self.core.heartbeat(now, beat) {
                    Some(answer) => {
                        let beat = Release::Beat(reply, answer, node, life);
                        // What must end is not told before the reason for it has committed, nor what may run longer.
                        if matches!(&beat, Release::Beat(_, answer, ..) if answer.end.is_empty() && !self.core.is_extended(answer.fence_after_ms))
                        {
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
                let seen = runners.map(|(node, runner)| RunnerSeen {
                    node: node.clone(),
                    slots: Slots { total: runner.capacity.slots, free: runner.free() },
                    heard: runner.answered.map(|at| now.at.since(at)),
                });
                let _ = reply.send(seen.collect());
            }
            Event::Fences(reply) => {
                let _ = reply.send(self.core.fences(now));
            }
        }
    }

    fn submit(
        &mut self,
        now: Now,
        tasks: Vec<Submission>,
        room: OwnedSemaphorePermit,
        reply: Reply<Result<Vec<Submitted>, ApiError>>,
    ) {
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
        self.spawn("the writing of payloads", async move {
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
            Done::Bodies(tasks, room, result, reply)
        });
    }

    pub(super) fn accept(
        &mut self,
        now: Now,
        tasks: Submissions,
        reply: Reply<Result<Vec<Submitted>, ApiError>>,
    ) {
        let submitted = self.with_room(|core, room| core.submit(now, tasks, room));
        self.acknowledge(reply, Ok(submitted));
    }

    /// Decides something that takes room in the log.
    fn with_room<T>(&mut self, decide: impl FnOnce(&mut Core, &mut u64) -> T) -> T {
        // The log knows nothing yet of what this turn has accepted already.
        let mut room = self.room.unwrap_or_else(|| self.parts.log.room());
        let decided = decide(&mut self.core, &mut room);
        self.room = Some(room);
        decided
    }

    /// Lets the ticks that have come become tasks. Only inside the lease.
    pub(super) fn run_schedules(&mut self, now: Now) {
        if self.core.schedules_are_due() {
            self.with_room(|core, room| core.run_schedules(now, room));
        }
    }

    /// Answers once everything until now has committed, if the lease holds then.
    fn acknowledge<T: Send + 'static>(
        &mut self,
        reply: Reply<Result<T, ApiError>>,
        answer: Result<T, ApiError>,
    ) {
        let lease = Arc::clone(&self.parts.lease);
        self.held.push(Release::Reply(Box::new(move || {
            let answer = if lease.lets_out("ack") {
                answer
            } else {
                Err(ApiError::new(
                    proto::api::ApiErrorKind::Unknown,
                    "the leader's lease ended before its answer: it is not known whether it was done; ask again with \
                     the same id",
                ))
            };
            let _ = reply.send(answer); // Its caller may have given up.
        })));
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
        } else if self.watchers.is_full(tasks.len()) {
            Err(ApiError::new(Full, "too many calls wait for tasks: ask again later"))
        } else {
            return self.watchers.insert(tasks, now.at + patience, reply);
        };
        self.reply(reply, answer);
    }
}

/// Answers that nothing was done.
pub(super) fn refuse(node: &NodeId, event: Event) {
    let error = not_leading(node);
    let not_leading = NotLeading { node: node.clone(), leader: None };
    match event {
        Event::Submit(_, _, reply) => drop(reply.send(Err(error))),
        Event::Show(_, reply) | Event::Cancel(_, reply) | Event::Retry(_, reply) => {
            drop(reply.send(Err(error)))
        }
        Event::List(_, reply) => drop(reply.send(Err(error))),
        Event::Why(_, reply) => drop(reply.send(Err(error))),
        Event::Watch(_, _, reply) => drop(reply.send(Err(error))),
        Event::ScheduleOrder(_, _, reply) => drop(reply.send(Err(error))),
        Event::Schedule(_, reply) => drop(reply.send(Err(error))),
        Event::Schedules(_, reply) => drop(reply.send(Err(error))),
        Event::Operate(_, reply) => drop(reply.send(Err(error))),
        Event::Operations(reply) => drop(reply.send(Err(error))),
        Event::Locate(_, _, reply) => drop(reply.send(Err(error))),
        Event::Heartbeat(_, reply) => drop(reply.send(Err(not_leading))),
        Event::Outcomes(_, reply) => drop(reply.send(Err(not_leading))),
        Event::Stats(reply) => drop(reply),
        Event::Capacities(reply) => drop(reply),
        Event::Fences(reply) => drop(reply),
    }
}
