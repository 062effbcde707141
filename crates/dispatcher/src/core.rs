//! The decisions of the dispatcher, without IO: what happened and the present time go in; the new absolute state of
//! every task that changed, and what to do once that is committed, come out.
//!
//! The state here runs ahead of the log. Therefore nothing that is derived from it may leave the driver before
//! everything that was changed until then has committed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clock::Instant;
use proto::api::{ApiError, ApiErrorKind, Submission, Submitted};
use proto::task::{Attempt, TaskState, TaskView};
use proto::{AttemptId, FencingToken, Grant, Incarnation, NodeId, TaskId};
use rand::rngs::StdRng;

use crate::attempts::{Open, Sent};
use crate::database::{Database, attempt_id};
use crate::driver::Located;
use crate::fence::Fence;
use crate::members::MemberInfo;
use crate::placement::Runners;
use crate::queue::{Need, Place, Queue};
use crate::record::{META_KEY, Task};
use crate::storage::BodyRef;

/// Assignments in one go, so that a turn of the driver stays short.
const ASSIGN_MAX: usize = 4_096;

/// Tasks forgotten in one go.
const EXPIRE_MAX: usize = 2_048;

/// How long after its run timeout an attempt is ended by the leader, should its runner not have done so.
const OVERDUE_MARGIN: Duration = Duration::from_secs(10);

/// Room that a record needs beside its texts: field names, ids, the attempts to come.
const RECORD_OVERHEAD: u64 = 1_024;

/// The present time, to decide by and to write down.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) at: Instant,
    pub(crate) wall_ms: u64,
}

/// What the core has to know of its term and its options.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) token: FencingToken,
    pub(crate) fence_after: Duration,
    pub(crate) retention_count: usize,
    pub(crate) retention_age: Duration,
    pub(crate) queue_tasks_max: usize,
    pub(crate) payload_inline_max: usize,
}

/// What to do once everything until now has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Hand the attempt to [`Core::may_send`].
    Start(AttemptId),
    /// Hand the attempt to [`Core::ask_cancel`].
    Cancel(AttemptId),
    /// Nobody refers to it any more.
    DeleteBody(BodyRef),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Due(TaskId),
    Overdue(AttemptId),
}

/// The whole state of the term.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) db: Database,
    pub(crate) queue: Queue,
    pub(crate) runners: Runners,
    pub(crate) fence: Fence,
    /// Attempts that may run or be about to.
    pub(crate) open: BTreeMap<AttemptId, Open>,
    /// The same by the runner's life.
    pub(crate) lives: BTreeMap<(NodeId, Incarnation), BTreeSet<AttemptId>>,
    /// Tasks that wait for their time, and until when.
    pub(crate) pausing: BTreeMap<TaskId, Instant>,
    timers: BTreeSet<(Instant, Timer)>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) dispatch_due: bool,
    /// Runners with something in their outbox.
    pub(crate) outbox_due: BTreeSet<NodeId>,
    /// Runners to be asked something.
    pub(crate) ask_due: BTreeSet<NodeId>,
    pub(crate) rng: StdRng,
    /// Grants given in this term, to whichever runner: no number is ever given twice.
    grants_given: u32,
}

impl Core {
    /// The state that a replay found, at the start of a term.
    pub(crate) fn recover(
        settings: Settings,
        db: Database,
        fence: Fence,
        fresh: Duration,
        rng: StdRng,
        now: Now,
    ) -> Self {
        let mut core = Self {
            settings,
            db,
            queue: Queue::default(),
            runners: Runners::new(fresh),
            fence,
            open: BTreeMap::new(),
            lives: BTreeMap::new(),
            pausing: BTreeMap::new(),
            timers: BTreeSet::new(),
            effects: Vec::new(),
            dispatch_due: true,
            outbox_due: BTreeSet::new(),
            ask_due: BTreeSet::new(),
            rng,
            grants_given: 0,
        };
        core.db.granted(core.settings.fence_after);
        core.db.begin(core.settings.token.epoch);
        let mut waiting = Vec::new();
        let mut running = Vec::new();
        let mut bare = Vec::new();
        for task in core.db.iter() {
            let unended = task.attempts.iter().filter(|attempt| attempt.end.is_none());
            let before = running.len();
            running.extend(unended.map(|attempt| (attempt_id(task.id, attempt.number), attempt.clone())));
            match task.state {
                TaskState::Queued => waiting.push((task.id, 0)),
                TaskState::Retrying => {
                    let left = task.not_before_ms.unwrap_or(0).saturating_sub(now.wall_ms);
                    // The wall clock may have jumped: no pause is longer than the longest that was asked for.
                    waiting.push((task.id, left.min(task.spec.retries.backoff_ms_max)));
                }
                TaskState::Running | TaskState::Cancelling if running.len() == before => bare.push(task.id),
                _ => {}
            }
        }
        for (id, left_ms) in waiting {
            core.wait(id, now.at, Duration::from_millis(left_ms));
        }
        for (id, attempt) in running {
            core.runners.ensure(&attempt.node);
            core.opened(now, id, &attempt, Sent::Unsure);
        }
        for id in bare {
            tracing::error!(task = %id, "the task is recorded as running without an attempt: nothing of it can run");
            let requeue = core.db.change(id, |task| {
                let requeue = task.state == TaskState::Running;
                if requeue {
                    task.state = TaskState::Queued;
                } else {
                    finish(task, TaskState::Cancelled, now.wall_ms);
                }
                requeue
            });
            if requeue == Some(true) {
                core.enqueue(id);
            }
        }
        core
    }

    /// Whether this submission's payload has to be written to the log on its own before [`submit`](Self::submit).
    pub(crate) fn needs_body(&self, submission: &Submission) -> bool {
        submission.spec.payload.len() > self.settings.payload_inline_max && self.examine(submission).is_none()
    }

    /// What is to be answered without accepting anything; none if it can be accepted.
    fn examine(&self, submission: &Submission) -> Option<Submitted> {
        let existing = |task: &Task| Submitted::Existing { id: task.id, state: task.state };
        if let Some(task) = self.db.get(submission.id) {
            return Some(existing(task));
        }
        let spec = &submission.spec;
        if let Some(task) = spec.idempotency_key.as_deref().and_then(|key| self.db.by_key(key)) {
            return Some(existing(task));
        }
        let refuse = |kind, message: String| Some(Submitted::Refused(ApiError::new(kind, message)));
        if let Err(error) = spec.check() {
            return refuse(ApiErrorKind::Invalid, error.to_string());
        }
        if submission.id.as_u128() == META_KEY {
            return refuse(ApiErrorKind::Invalid, "the task id is zero: draw it at random".to_owned());
        }
        if !spec.kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return refuse(
                ApiErrorKind::Invalid,
                format!("{:?} is not a kind: use letters, digits, '.', '_' and '-'", spec.kind),
            );
        }
        let max = self.settings.queue_tasks_max;
        if self.db.open_len() >= max {
            return refuse(
                ApiErrorKind::Full,
                format!(
                    "{max} tasks wait or run, the limit is {max}: nothing was queued, submit it again later"
                ),
            );
        }
        None
    }

    /// Accepts or refuses each; those with a body have their payload there. `room` is what the log has left for new
    /// tasks, in bytes, and is used up.
    pub(crate) fn submit(
        &mut self,
        now: Now,
        submissions: Vec<(Submission, Option<BodyRef>)>,
        room: &mut u64,
    ) -> Vec<Submitted> {
        submissions
            .into_iter()
            .map(|(submission, body)| self.submit_one(now, submission, body, room))
            .collect()
    }

    fn submit_one(
        &mut self,
        now: Now,
        submission: Submission,
        body: Option<BodyRef>,
        room: &mut u64,
    ) -> Submitted {
        let answer = self.examine(&submission).or_else(|| {
            let spec = &submission.spec;
            let texts =
                [&spec.name, &spec.idempotency_key].into_iter().flatten().map(String::len).sum::<usize>()
                    + spec.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            let inline = if body.is_some() { 0 } else { spec.payload.len() };
            let bytes = RECORD_OVERHEAD + (texts + inline) as u64;
            match room.checked_sub(bytes) {
                Some(left) => {
                    *room = left;
                    None
                }
                None => Some(Submitted::Refused(full())),
            }
        });
        if let Some(answer) = answer {
            self.effects.extend(body.map(Effect::DeleteBody));
            return answer;
        }
        let Submission { id, mut spec } = submission;
        if body.is_some() {
            spec.payload = Vec::new();
        }
        self.db.insert(Task {
            id,
            revision: 1,
            order: 0,
            spec,
            body,
            state: TaskState::Queued,
            submitted_ms: now.wall_ms,
            finished_ms: None,
            not_before_ms: None,
            attempt_count: 0,
            failed: 0,
            lost: 0,
            attempts: Vec::new(),
        });
        self.enqueue(id);
        Submitted::Accepted { id }
    }

    /// Cancels a task: at once if nothing of it runs, otherwise once its runner says that it is gone.
    pub(crate) fn cancel(&mut self, now: Now, prefix: &str) -> Result<TaskView, ApiError> {
        let task = self.db.find(prefix)?;
        let (id, state) = (task.id, task.state);
        match state {
            TaskState::Queued | TaskState::Retrying => {
                self.unwait(id);
                self.db.change(id, |task| finish(task, TaskState::Cancelled, now.wall_ms));
            }
            TaskState::Running => {
                let attempt = attempt_id(id, task.attempt_count);
                self.db.change(id, |task| task.state = TaskState::Cancelling);
                self.effects.push(Effect::Cancel(attempt));
            }
            TaskState::Cancelling | TaskState::Cancelled => {}
            _ => {
                return Err(ApiError::new(
                    ApiErrorKind::Conflict,
                    format!("task {id} has ended already: it is {state}"),
                ));
            }
        }
        self.view(id)
    }

    /// Queues a task that ended without success again, with a fresh budget of attempts.
    pub(crate) fn retry(&mut self, prefix: &str) -> Result<TaskView, ApiError> {
        let task = self.db.find(prefix)?;
        let (id, state) = (task.id, task.state);
        if !state.is_final() || state == TaskState::Succeeded {
            return Err(ApiError::new(
                ApiErrorKind::Conflict,
                format!("task {id} is {state}: only a task that ended without success can be retried"),
            ));
        }
        let max = self.settings.queue_tasks_max;
        if self.db.open_len() >= max {
            return Err(ApiError::new(
                ApiErrorKind::Full,
                format!("{max} tasks wait or run, the limit is {max}: retry it later"),
            ));
        }
        self.db.change(id, |task| {
            task.state = TaskState::Queued;
            (task.finished_ms, task.not_before_ms) = (None, None);
            (task.failed, task.lost) = (0, 0);
        });
        self.enqueue(id);
        self.view(id)
    }

    pub(crate) fn view(&self, id: TaskId) -> Result<TaskView, ApiError> {
        let missing = || ApiError::new(ApiErrorKind::NotFound, format!("there is no task {id}"));
        self.db.get(id).map(|task| task.view(true)).ok_or_else(missing)
    }

    /// Which runner has the output of attempt `number` (0 = the newest).
    pub(crate) fn locate(&self, prefix: &str, number: u32) -> Result<Located, ApiError> {
        let task = self.db.find(prefix)?;
        let number = if number == 0 { task.attempt_count } else { number };
        let missing = |message| Err(ApiError::new(ApiErrorKind::NotFound, message));
        if task.attempt_count == 0 {
            return missing(format!("task {} has no attempt yet: see taskd task why {}", task.id, task.id));
        }
        let Some(attempt) = task.attempt(number) else {
            return missing(format!(
                "task {} has no attempt {number} that is still remembered; the newest is {}",
                task.id, task.attempt_count
            ));
        };
        match self.runners.get(&attempt.node).filter(|runner| !runner.address.is_empty()) {
            Some(runner) => Ok(Located {
                node: attempt.node.clone(),
                address: runner.address.clone(),
                attempt: attempt_id(task.id, number),
            }),
            None => missing(format!(
                "node {}, which has the output of attempt {number}, is no member of the cluster at the moment",
                attempt.node
            )),
        }
    }

    /// Takes note of who is a member.
    pub(crate) fn members(&mut self, now: Now, members: &[MemberInfo]) {
        for member in members {
            self.runners.ensure(&member.node);
        }
        for node in self.runners.nodes() {
            let member = members.iter().find(|member| member.node == node);
            let joined = self.runners.change(&node, now.at, |runner| {
                let life = member.map(|member| member.incarnation);
                let joined = life.is_some() && life != runner.member;
                runner.member = life;
                if joined && let Some(member) = member {
                    runner.address.clone_from(&member.address);
                    runner.inventory_due = true;
                    runner.ask_at = now.at;
                }
                joined
            });
            if joined == Some(true) {
                self.ask_due.insert(node);
            }
        }
        self.requeue_gone_members(now);
        self.dispatch_due = true;
    }

    /// Gives free slots to waiting tasks.
    pub(crate) fn dispatch(&mut self, now: Now) {
        if !std::mem::take(&mut self.dispatch_due) {
            return;
        }
        let mut cursor = None;
        for _ in 0..ASSIGN_MAX {
            if !self.runners.any_free() {
                return;
            }
            let Some((place, need)) = self.queue.next_head(cursor) else { return };
            cursor = Some(place);
            let Some(node) = self.runners.best(&need).cloned() else { continue };
            if let Some(id) = self.queue.remove(&need, place) {
                self.assign(now, id, node);
            }
        }
        self.dispatch_due = true;
    }

    fn assign(&mut self, now: Now, id: TaskId, node: NodeId) {
        let Some(runner) = self.runners.get(&node) else { return };
        let Some(life) = runner.life else { return };
        let grant = runner.grant;
        let token = self.settings.token;
        let attempt = self.db.change(id, |task| {
            let attempt = Attempt {
                number: task.attempt_count + 1,
                node,
                incarnation: life,
                token,
                grant,
                assigned_ms: now.wall_ms,
                ended_ms: None,
                end: None,
            };
            task.state = TaskState::Running;
            task.not_before_ms = None;
            task.push_attempt(attempt.clone());
            attempt
        });
        let Some(attempt) = attempt else { return };
        let attempt_id = attempt_id(id, attempt.number);
        self.opened(now, attempt_id, &attempt, Sent::Unsent);
        self.effects.push(Effect::Start(attempt_id));
    }

    /// Takes note of an attempt that may run.
    fn opened(&mut self, now: Now, id: AttemptId, attempt: &Attempt, sent: Sent) {
        let (node, life) = (attempt.node.clone(), attempt.incarnation);
        let timeout = self.db.get(id.task).and_then(|task| task.spec.run_timeout_ms);
        if let Some(timeout) = timeout {
            // A new leader counts anew: that only makes this backstop later, never earlier.
            let at = now.at + Duration::from_millis(timeout) + OVERDUE_MARGIN;
            self.timers.insert((at, Timer::Overdue(id)));
        }
        self.runners.change(&node, now.at, |runner| {
            if runner.life == Some(life) {
                runner.used += 1;
            }
        });
        self.lives.entry((node.clone(), life)).or_default().insert(id);
        self.open.insert(id, Open { node, life, sent, missing: 0, overdue: false, ending: false });
    }

    /// Lets a task wait for `pause`, then for a slot.
    pub(crate) fn wait(&mut self, id: TaskId, now: Instant, pause: Duration) {
        if pause.is_zero() {
            self.enqueue(id);
        } else {
            let at = now + pause;
            self.pausing.insert(id, at);
            self.timers.insert((at, Timer::Due(id)));
        }
    }

    pub(crate) fn enqueue(&mut self, id: TaskId) {
        if let Some(task) = self.db.get(id) {
            self.queue.insert(Need::of(&task.spec), Place::new(task.spec.priority, task.order), id);
            self.dispatch_due = true;
        }
    }

    /// Takes a task out of whatever it waits for.
    pub(crate) fn unwait(&mut self, id: TaskId) {
        if let Some(at) = self.pausing.remove(&id) {
            self.timers.remove(&(at, Timer::Due(id)));
        } else if let Some(task) = self.db.get(id) {
            self.queue.remove(&Need::of(&task.spec), Place::new(task.spec.priority, task.order));
        }
    }

    /// Lets time act.
    pub(crate) fn tick(&mut self, now: Now) {
        while let Some(&(at, timer)) = self.timers.first() {
            if at > now.at {
                break;
            }
            self.timers.pop_first();
            match timer {
                Timer::Due(id) => {
                    self.pausing.remove(&id);
                    self.enqueue(id);
                }
                Timer::Overdue(attempt) => {
                    if let Some(open) = self.open.get_mut(&attempt) {
                        open.overdue = true;
                        self.ask_cancel(now, attempt);
                    }
                }
            }
        }
        self.dispatch_due |= self.runners.tick(now.at);
        self.fence_silent(now);
        let age = u64::try_from(self.settings.retention_age.as_millis()).unwrap_or(u64::MAX);
        let bodies =
            self.db.expire(self.settings.retention_count, now.wall_ms.saturating_sub(age), EXPIRE_MAX);
        self.effects.extend(bodies.into_iter().map(Effect::DeleteBody));
        self.forget_runners(now);
    }

    /// A grant that nobody was given before.
    pub(crate) fn new_grant(&mut self) -> Grant {
        self.grants_given += 1;
        Grant::new(self.settings.token.epoch, self.grants_given)
    }

    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }
}

/// What a submission gets when the log has no room.
pub(crate) fn full() -> ApiError {
    ApiError::new(
        ApiErrorKind::Full,
        "the task log's budget is used up: nothing was queued; let tasks finish, shorten the retention or raise the \
         budget, then submit it again",
    )
}

/// Makes a task final.
pub(crate) fn finish(task: &mut Task, state: TaskState, wall_ms: u64) {
    task.state = state;
    task.finished_ms = Some(wall_ms);
    task.not_before_ms = None;
}
