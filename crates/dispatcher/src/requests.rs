//! What people ask for: submit, cancel, retry, look.

use std::collections::BTreeMap;

use proto::TaskId;
use proto::api::{ApiError, ApiErrorKind, Submission, Submitted};
use proto::task::{TaskSpec, TaskState, TaskView};

use crate::core::{Core, Effect, Now, finish};
use crate::database::attempt_id;
use crate::driver::Located;
use crate::record::{META_KEY, Task, rules_bytes};
use crate::storage::BodyRef;

/// Room that a record needs beside its texts: field names, ids, the attempts to come.
const RECORD_OVERHEAD: u64 = 1_024;

impl Core {
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
        let retention = &self.settings.retention;
        let known = spec.idempotency_key.as_deref().and_then(|key| self.db.by_key(key, retention));
        if let Some((id, state)) = known {
            return Some(Submitted::Existing { id, state });
        }
        let refuse = |kind, message: String| Some(Submitted::Refused(ApiError::new(kind, message)));
        if let Err(error) = spec.check() {
            return refuse(ApiErrorKind::Invalid, error.to_string());
        }
        let key = submission.id.as_u128();
        if key == META_KEY
            || self.db.schedule_at(key).is_some()
            || self.db.is_kept_key(key)
            || self.db.settings().has_key(key)
        {
            return refuse(
                ApiErrorKind::Invalid,
                "the task id is taken by something else: draw it at random".to_owned(),
            );
        }
        if spec.origin.is_some() {
            return refuse(ApiErrorKind::Invalid, "only a schedule's tasks have an origin".to_owned());
        }
        if let Err(message) = self.check_kind(&spec.kind) {
            return refuse(ApiErrorKind::Invalid, message);
        }
        self.check_room(&spec.kind, spec.payload.len() as u64).err().map(Submitted::Refused)
    }

    /// Whether it is a kind that is run somewhere, as far as is known.
    pub(crate) fn check_kind(&self, kind: &str) -> Result<(), String> {
        if !kind.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return Err(format!("{kind:?} is not a kind: use letters, digits, '.', '_' and '-'"));
        }
        let Some(kinds) = self.runners.kinds_without(kind) else { return Ok(()) };
        let kinds = if kinds.is_empty() { "nothing".to_owned() } else { kinds.join(", ") };
        Err(format!(
            "no node runs tasks of kind {kind:?}; what they run is: {kinds}. Use one of these, or enable it in a node's \
             configuration and restart that node"
        ))
    }

    /// Whether another task of a kind may wait, with a payload so large.
    pub(crate) fn check_room(&self, kind: &str, payload_bytes: u64) -> Result<(), ApiError> {
        self.check_queue()?;
        self.check_quota(kind, payload_bytes)
    }

    /// Whether another task may wait or run.
    fn check_queue(&self) -> Result<(), ApiError> {
        let max = self.settings.queue_tasks_max;
        if self.db.open_len() < max {
            return Ok(());
        }
        let message =
            format!("{max} tasks wait or run, the limit is {max}: nothing was queued, submit it again later");
        Err(ApiError::new(ApiErrorKind::Full, message))
    }

    /// Accepts or refuses each; those with a body have their payload there. `room` is what the log has left for new
    /// tasks, in bytes, and is used up.
    pub(crate) fn submit(
        &mut self,
        now: Now,
        submissions: Vec<(Submission, Option<BodyRef>)>,
        room: &mut u64,
    ) -> Vec<Submitted> {
        // Who was there already under another id, by its key: those behind it wait for that one.
        let mut known: BTreeMap<TaskId, TaskId> = BTreeMap::new();
        let mut answers = Vec::with_capacity(submissions.len());
        for (mut submission, body) in submissions {
            let asked = submission.id;
            for dependency in submission.spec.rules.iter_mut().flat_map(|rules| &mut rules.after) {
                dependency.task = known.get(&dependency.task).copied().unwrap_or(dependency.task);
            }
            let answer = self.submit_one(now, submission, body, room);
            if let Submitted::Existing { id, .. } = answer
                && id != asked
            {
                known.insert(asked, id);
            }
            answers.push(answer);
        }
        answers
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
            if let Some(unknown) = self.unknown_dependency(&spec.rules().after) {
                let message = format!(
                    "it is to wait for task {unknown}, which is not known here: submit that one before it, or in the same \
                     call in front of it"
                );
                return Some(Submitted::Refused(ApiError::new(ApiErrorKind::Invalid, message)));
            }
            let inline = if body.is_some() { 0 } else { spec.payload.len() };
            match room.checked_sub(record_bytes(spec) + inline as u64) {
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
        self.create(now, id, spec, body);
        Submitted::Accepted { id }
    }

    /// Adds a task for which there is room, and lets it wait for whatever it has to.
    pub(crate) fn create(&mut self, now: Now, id: TaskId, spec: TaskSpec, body: Option<BodyRef>) {
        let mut task = Task {
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
            waits_for: Vec::new(),
            checkpoint: None,
            progress: None,
            note: None,
            history: None,
        };
        let standing = self.standing(now, task.start_ms(), &task.spec.rules().after);
        (task.state, task.not_before_ms) = (standing.state, standing.not_before_ms);
        (task.waits_for, task.note) = (standing.waits_for, standing.note);
        if task.state.is_final() {
            task.finished_ms = Some(now.wall_ms);
        }
        self.db.insert(task);
        self.await_start(now, id);
    }

    /// Cancels a task: at once if nothing of it runs, otherwise once its runner says that it is gone.
    pub(crate) fn cancel(&mut self, now: Now, prefix: &str) -> Result<TaskView, ApiError> {
        let task = self.db.find(prefix)?;
        let (id, state) = (task.id, task.state);
        match state {
            TaskState::Scheduled | TaskState::Blocked | TaskState::Queued | TaskState::Retrying => {
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
    pub(crate) fn retry(&mut self, now: Now, prefix: &str) -> Result<TaskView, ApiError> {
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
        let payload_bytes = task.body.as_ref().map_or(task.spec.payload.len() as u64, BodyRef::bytes);
        self.check_quota(&task.spec.kind, payload_bytes)?;
        self.db.change(id, |task| {
            task.state = TaskState::Queued;
            // Whatever it was to wait for: whoever asks for it wants it now.
            (task.finished_ms, task.not_before_ms, task.note) = (None, Some(now.wall_ms), None);
            (task.failed, task.lost) = (0, 0);
        });
        self.enqueue(now, id);
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
}

/// What a task's record takes at the most, beside its payload.
pub(crate) fn record_bytes(spec: &TaskSpec) -> u64 {
    let texts = [&spec.name, &spec.idempotency_key].into_iter().flatten().map(String::len).sum::<usize>()
        + spec.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    // What it waits for is written down twice.
    RECORD_OVERHEAD + (texts + 2 * rules_bytes(spec)) as u64
}

/// What a submission gets when the log has no room.
pub(crate) fn full() -> ApiError {
    ApiError::new(
        ApiErrorKind::Full,
        "the task log's budget is used up: nothing was queued; let tasks finish, shorten the retention or raise the \
         budget, then submit it again",
    )
}
