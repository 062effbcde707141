//! What is to be done, in the words of whoever asks for it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::TaskId;
use proto::task::{Condition, Dependency, Limit, LostPolicy, Rules, TaskSpec};
use serde::Serialize;

use super::draw_id;

/// How long a submission waits for a leader unless told otherwise.
const WITHIN: Duration = Duration::from_secs(30);

/// A task to submit. Its id is drawn here and stays the same over every try, so that a lost reply doubles nothing; a clone
/// has the same one.
///
/// ```
/// # use std::time::Duration;
/// # use taskd::client::Task;
/// # fn task() -> Result<Task, taskd::client::PayloadError> {
/// let scrub = Task::new("scrub", &serde_json::json!({ "volume": "v1" }))?
///     .priority(10)
///     .lock("volume/v1")
///     .retries(5)
///     .run_timeout(Duration::from_secs(3600))
///     .idempotency_key("scrub-v1-2026-11");
/// # Ok(scrub)
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it is submitted by `Client::submit`"]
pub struct Task {
    pub(super) id: TaskId,
    pub(super) spec: TaskSpec,
    pub(super) within: Duration,
}

/// A payload is no JSON: say a map whose keys are no strings.
#[derive(Debug, thiserror::Error)]
#[error("the payload of kind {kind:?} cannot be written as JSON")]
pub struct PayloadError {
    kind: String,
    #[source]
    source: serde_json::Error,
}

impl Task {
    /// A task of `kind`, with `payload` as JSON and every option at its default.
    ///
    /// # Errors
    /// See [`PayloadError`].
    pub fn new<P: Serialize + ?Sized>(kind: impl Into<String>, payload: &P) -> Result<Self, PayloadError> {
        let kind = kind.into();
        match serde_json::to_vec(payload) {
            Ok(bytes) => Ok(TaskSpec::new(kind, bytes).into()),
            Err(source) => Err(PayloadError { kind, source }),
        }
    }

    /// Its id.
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// For people.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.spec.name = Some(name.into());
        self
    }

    /// −100 to 100; higher runs first. 0 unless told.
    pub fn priority(mut self, priority: i32) -> Self {
        self.spec.priority = priority;
        self
    }

    /// It runs only on nodes with this label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.spec.labels.insert(key.into(), value.into());
        self
    }

    /// Attempts after the first. None unless told, but a few for nodes that are lost.
    pub fn retries(mut self, retries: u32) -> Self {
        self.spec.retries.max = retries;
        self
    }

    /// The pause before the first retry, which doubles each time up to `longest`. 1 s and 5 min unless told.
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.spec.retries.backoff_ms = millis(first);
        self.spec.retries.backoff_ms_max = millis(longest);
        self
    }

    /// How long one attempt may run.
    pub fn run_timeout(mut self, timeout: Duration) -> Self {
        self.spec.run_timeout_ms = Some(millis(timeout));
        self
    }

    /// How long one attempt may say nothing of its progress.
    pub fn progress_timeout(mut self, timeout: Duration) -> Self {
        self.rules().progress_timeout_ms = Some(millis(timeout));
        self
    }

    /// How long it may wait for its first slot once it could start.
    pub fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.rules().queue_timeout_ms = Some(millis(timeout));
        self
    }

    /// Not before so long after it was accepted.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.rules().delay_ms = Some(millis(delay));
        self
    }

    /// Not before then, by the leader's clock.
    pub fn start_at(mut self, at: SystemTime) -> Self {
        self.rules().start_at_ms = Some(millis(at.duration_since(UNIX_EPOCH).unwrap_or_default()));
        self
    }

    /// It starts when `task` has succeeded, and is cancelled if that ends otherwise.
    pub fn after(self, task: TaskId) -> Self {
        self.after_end(task, Condition::Success)
    }

    /// It starts when `task` has ended like this, and is cancelled if that ends otherwise.
    pub fn after_end(mut self, task: TaskId, on: Condition) -> Self {
        self.rules().after.push(Dependency { task, on });
        self
    }

    /// It runs only while no other task that names this lock does.
    pub fn lock(self, key: impl Into<String>) -> Self {
        self.limit(key, 1)
    }

    /// It runs only while fewer than `max` tasks that name this key do.
    pub fn limit(mut self, key: impl Into<String>, max: u32) -> Self {
        self.rules().limits.push(Limit { key: key.into(), max });
        self
    }

    /// The first task that was submitted with this key is the one that is done; the handle is that one's.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.spec.idempotency_key = Some(key.into());
        self
    }

    /// What becomes of it when its node is lost. It is run elsewhere, after the fence, unless told.
    pub fn on_lost(mut self, policy: LostPolicy) -> Self {
        self.spec.on_lost = policy;
        self
    }

    /// How long to try to submit it, that is to wait for a leader. 30 s unless told.
    pub fn submit_within(mut self, within: Duration) -> Self {
        self.within = within;
        self
    }

    fn rules(&mut self) -> &mut Rules {
        self.spec.rules.get_or_insert_default()
    }
}

impl From<TaskSpec> for Task {
    /// With options that have no word here, or a payload that is no JSON.
    fn from(spec: TaskSpec) -> Self {
        Self { id: draw_id(), spec, within: WITHIN }
    }
}

impl From<Task> for TaskSpec {
    fn from(task: Task) -> Self {
        task.spec
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
