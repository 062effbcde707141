//! The dispatcher's cheap-clone face. Every call has a deadline and forwards to the owner loop.

use std::sync::Arc;
use std::time::Duration;

use proto::api::{ApiError, ApiErrorKind, ListFilter, Submission, Submitted, TaskPage, Why};
use proto::leader::{Heartbeat, HeartbeatReply, NotLeading, OutcomeReport};
use proto::operate::{OperateDone, OperateOrder, Operations};
use proto::runner::{OutputChunk, Refusal};
use proto::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, SchedulePage, ScheduleView};
use proto::status::{FenceStatus, LogStatus, Slots};
use proto::task::{TaskSpec, TaskState, TaskView};
use proto::{AttemptId, NodeId, TaskId};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::clients::Clients;
use crate::driver::{Event, Located};

/// For a call to be answered.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// KiB of submissions that may wait for the loop at a time, payloads that are being written included.
pub(crate) const SUBMISSIONS_KIB_MAX: u32 = 64 * 1_024;

/// For a watch to end without news.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

/// Most bytes of output in one answer.
const OUTPUT_BYTES_MAX: u32 = 1024 * 1024;

/// What the dispatcher can be asked for.
///
/// # Cancel safety
/// Dropping a call's future forgets its answer; what had been asked for may still be done.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) node: NodeId,
    pub(crate) events: mpsc::Sender<Event>,
    /// Of runners.
    pub(crate) reports: mpsc::Sender<Event>,
    /// KiB of submissions that may wait for the loop.
    pub(crate) submissions: Arc<Semaphore>,
    pub(crate) failed: watch::Receiver<Option<String>>,
    pub(crate) clients: Arc<Clients>,
}

/// A runner as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerSeen {
    /// Its node.
    pub node: NodeId,
    /// Its slots, and those that the leader believes to be free.
    pub slots: Slots,
    /// How long ago its last heartbeat was answered, if one was in this term.
    pub heard: Option<Duration>,
}

/// How a call to the owner loop went wrong.
enum CallFailure {
    /// It was not taken: nothing was done.
    NotTaken,
    /// It was taken and not answered.
    Unanswered,
}

impl Handle {
    async fn call<T>(
        &self,
        line: &mpsc::Sender<Event>,
        within: Duration,
        event: impl FnOnce(oneshot::Sender<T>) -> Event,
    ) -> Result<T, CallFailure> {
        let deadline = Instant::now() + within;
        let permit = timeout_at(deadline, line.reserve()).await;
        let Ok(Ok(permit)) = permit else { return Err(CallFailure::NotTaken) };
        let (reply, answer) = oneshot::channel();
        permit.send(event(reply));
        match timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            _ => Err(CallFailure::Unanswered),
        }
    }

    async fn ask<T>(
        &self,
        within: Duration,
        event: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Event,
    ) -> Result<T, ApiError> {
        self.call(&self.events, within, event).await.unwrap_or_else(|failure| {
            Err(match failure {
                CallFailure::NotTaken => not_leading(&self.node),
                CallFailure::Unanswered => ApiError::new(
                    ApiErrorKind::Unknown,
                    "the leader did not answer in time: it is not known whether it was done; ask again with the same id",
                ),
            })
        })
    }

    /// Submits tasks; each is answered once it is durable.
    ///
    /// # Errors
    /// [`ApiErrorKind::NoLeader`]: nothing was queued. [`ApiErrorKind::Unknown`]: it may have been; submit again with
    /// the same ids.
    pub async fn submit(&self, tasks: Vec<Submission>) -> Result<Vec<Submitted>, ApiError> {
        let deadline = Instant::now() + CALL_DEADLINE;
        let waiting = Arc::clone(&self.submissions).acquire_many_owned(share(&tasks));
        match timeout_at(deadline, waiting).await {
            Ok(Ok(room)) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.ask(left, |reply| Event::Submit(tasks, room, reply)).await
            }
            _ => Err(ApiError::new(
                ApiErrorKind::Full,
                "more is being submitted than the task log can take: nothing was queued, submit it again later",
            )),
        }
    }

    /// One task by a unique prefix of its id. A payload that is kept outside of the log's segments is left out.
    ///
    /// # Errors
    /// No such task, or several; no leader.
    pub async fn show(&self, id: String) -> Result<TaskView, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Show(id, reply)).await
    }

    /// Tasks, newest first.
    ///
    /// # Errors
    /// No leader.
    pub async fn list(&self, filter: ListFilter) -> Result<TaskPage, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::List(filter, reply)).await
    }

    /// Why a task is where it is.
    ///
    /// # Errors
    /// As [`show`](Self::show).
    pub async fn why(&self, id: String) -> Result<Why, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Why(id, reply)).await
    }

    /// Asks for a task to be cancelled.
    ///
    /// # Errors
    /// It has ended otherwise; as [`show`](Self::show); [`ApiErrorKind::Unknown`].
    pub async fn cancel(&self, id: String) -> Result<TaskView, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Cancel(id, reply)).await
    }

    /// Queues a task that ended without success again.
    ///
    /// # Errors
    /// It has not; the queue is full; as [`show`](Self::show); [`ApiErrorKind::Unknown`].
    pub async fn retry(&self, id: String) -> Result<TaskView, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Retry(id, reply)).await
    }

    /// Waits until one of the tasks is past the given revision or final, or `patience` (at most a minute) has passed;
    /// returns them all.
    ///
    /// # Errors
    /// One does not exist; too many calls wait; no leader.
    pub async fn watch(
        &self,
        tasks: Vec<(TaskId, u64)>,
        patience: Duration,
    ) -> Result<Vec<TaskView>, ApiError> {
        let patience = patience.min(PATIENCE_MAX);
        self.ask(patience + CALL_DEADLINE, |reply| Event::Watch(tasks, patience, reply)).await
    }

    /// Adds or changes a schedule; answered once it is durable.
    ///
    /// # Errors
    /// What is wrong with the order; no leader; [`ApiErrorKind::Unknown`]: give it again with the same ids.
    pub async fn schedule_order(&self, order: ScheduleOrder) -> Result<ScheduleDone, ApiError> {
        let deadline = Instant::now() + CALL_DEADLINE;
        let bytes = match &order {
            ScheduleOrder::Add { spec, .. } => spec_bytes(&spec.task),
            _ => 0,
        };
        let waiting = Arc::clone(&self.submissions).acquire_many_owned(kib(bytes));
        match timeout_at(deadline, waiting).await {
            Ok(Ok(room)) => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.ask(left, |reply| Event::ScheduleOrder(order, room, reply)).await
            }
            _ => Err(ApiError::new(
                ApiErrorKind::Full,
                "more is being submitted than the task log can take: nothing was changed, try again later",
            )),
        }
    }

    /// One schedule.
    ///
    /// # Errors
    /// There is none of that name; no leader.
    pub async fn schedule(&self, name: ScheduleName) -> Result<ScheduleView, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Schedule(name, reply)).await
    }

    /// Schedules by name, from behind `after` on.
    ///
    /// # Errors
    /// No leader.
    pub async fn schedules(&self, after: Option<ScheduleName>) -> Result<SchedulePage, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Schedules(after, reply)).await
    }

    /// Carries an operator's order out; answered once it is durable.
    ///
    /// # Errors
    /// What is wrong with the order; no leader; [`ApiErrorKind::Unknown`]: to give it again is safe.
    pub async fn operate(&self, order: OperateOrder) -> Result<OperateDone, ApiError> {
        self.ask(CALL_DEADLINE, |reply| Event::Operate(Box::new(order), reply)).await
    }

    /// What operators have set, and every node that is known.
    ///
    /// # Errors
    /// No leader.
    pub async fn operations(&self) -> Result<Operations, ApiError> {
        self.ask(CALL_DEADLINE, Event::Operations).await
    }

    /// Part of the output of an attempt (0 = the newest), from the node that has it.
    ///
    /// # Errors
    /// There is no such attempt, it left no output, or its node is gone or does not answer.
    pub async fn output(
        &self,
        id: String,
        attempt: u32,
        offset: u64,
        bytes_max: u32,
    ) -> Result<OutputChunk, ApiError> {
        let located = self.ask(CALL_DEADLINE, |reply| Event::Locate(id, attempt, reply)).await?;
        let Located { node, address, attempt } = located;
        let bytes_max = bytes_max.min(OUTPUT_BYTES_MAX);
        match self.clients.output(&node, &address, attempt, offset, bytes_max).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(removed @ Refusal::OutputRemoved { .. })) => Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!(
                    "node {node} had the output of attempt {}: {removed} (see tasks.output_retention_age)",
                    attempt.number
                ),
            )),
            Ok(Err(Refusal::NoSuchAttempt)) => Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!("node {node} has no output of attempt {} (any more)", attempt.number),
            )),
            Ok(Err(refusal)) => Err(ApiError::new(ApiErrorKind::Internal, format!("node {node}: {refusal}"))),
            Err(reason) => Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!(
                    "node {node}, which has the output of attempt {}, does not answer: {reason}; ask again when it is back",
                    attempt.number
                ),
            )),
        }
    }

    /// A runner's sign of life.
    ///
    /// # Errors
    /// This node does not lead, or its lease does not hold at the moment.
    pub async fn heartbeat(&self, beat: Heartbeat) -> Result<HeartbeatReply, NotLeading> {
        let answer = self.call(&self.reports, CALL_DEADLINE, |reply| Event::Heartbeat(beat, reply)).await;
        answer.unwrap_or_else(|_| Err(self.not_leading()))
    }

    /// Outcomes that a runner wants to be rid of; returns those whose end is committed.
    ///
    /// # Errors
    /// As [`heartbeat`](Self::heartbeat).
    pub async fn outcomes(&self, report: OutcomeReport) -> Result<Vec<AttemptId>, NotLeading> {
        let answer = self.call(&self.reports, CALL_DEADLINE, |reply| Event::Outcomes(report, reply)).await;
        answer.unwrap_or_else(|_| Err(self.not_leading()))
    }

    /// The task log's size and how many tasks are in which state; none if the dispatcher has stopped.
    pub async fn stats(&self) -> Option<(LogStatus, Vec<(TaskState, u64)>)> {
        self.call(&self.events, CALL_DEADLINE, Event::Stats).await.ok()
    }

    /// Every known node's runner.
    pub async fn capacities(&self) -> Vec<RunnerSeen> {
        self.call(&self.events, CALL_DEADLINE, Event::Capacities).await.unwrap_or_default()
    }

    /// The nodes of which nothing is heard although attempts of theirs may run, and when those are over.
    pub async fn fences(&self) -> Vec<FenceStatus> {
        self.call(&self.events, CALL_DEADLINE, Event::Fences).await.unwrap_or_default()
    }

    /// Set once, when the dispatcher can do nothing more in this term: whoever owns it should resign and stop it.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.failed.clone()
    }

    fn not_leading(&self) -> NotLeading {
        NotLeading { node: self.node.clone(), leader: None }
    }
}

/// What a submission takes of [`SUBMISSIONS_KIB_MAX`].
fn share(tasks: &[Submission]) -> u32 {
    kib(tasks.iter().map(|task| spec_bytes(&task.spec)).sum())
}

fn spec_bytes(spec: &TaskSpec) -> usize {
    let texts = [&spec.name, &spec.idempotency_key].into_iter().flatten().map(String::len).sum::<usize>();
    let labels = spec.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    512 + spec.payload.len() + texts + labels
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes / 1_024 + 1).unwrap_or(u32::MAX).min(SUBMISSIONS_KIB_MAX)
}

/// What a caller gets whose request was not taken.
pub(crate) fn not_leading(node: &NodeId) -> ApiError {
    ApiError::new(ApiErrorKind::NoLeader, format!("node {node} does not dispatch at the moment"))
}
