//! What a handler is given beside its payload.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use proto::progress::{Checkpoint, CheckpointTooLarge, Progress};
use proto::{AttemptId, Epoch, FencingToken, NodeId, TaskId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::TaskError;

/// One attempt at a task, as its handler sees it. A cheap clone.
#[derive(Clone, Debug)]
pub struct Context {
    task: Arc<runner::Task>,
    deadline: Option<Instant>,
}

/// The authority under which an attempt was started: what guards shared storage is shown this, and lets nobody in who
/// shows a lower one than it has seen.
///
/// Epochs grow with every change of the leader, and attempts of one task with every try. Between tasks under *one* epoch
/// there is no order: the task's lock is, and a guard notes which attempt has it. A token of another cluster is never to
/// be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The leader's authority: cluster and epoch.
    pub leader: FencingToken,
    /// The attempt: task and number.
    pub attempt: AttemptId,
}

impl Token {
    /// The leader's epoch.
    pub const fn epoch(&self) -> Epoch {
        self.leader.epoch
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.leader, self.attempt)
    }
}

/// Why a checkpoint was not saved; the one before holds.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// See the message.
    #[error("the checkpoint cannot be written as JSON")]
    Json(#[source] serde_json::Error),
    /// See the message.
    #[error(transparent)]
    TooLarge(#[from] CheckpointTooLarge),
}

impl Context {
    /// The attempt begins now.
    pub(super) fn begin(task: runner::Task) -> Self {
        let deadline = task.run_timeout.map(|timeout| Instant::now() + timeout);
        Self { task: Arc::new(task), deadline }
    }

    /// The task.
    pub fn task(&self) -> TaskId {
        self.task.attempt.task
    }

    /// Which try this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.task.attempt.number
    }

    /// The node that it runs on.
    pub fn node(&self) -> &NodeId {
        &self.task.node
    }

    /// The fencing token.
    pub fn token(&self) -> Token {
        Token { leader: self.task.token, attempt: self.task.attempt }
    }

    /// Resolves when the attempt is to end.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn cancelled(&self) {
        self.task.cancelled.cancelled().await;
    }

    /// Whether the attempt is to end: for loops, also in blocking code.
    pub fn is_cancelled(&self) -> bool {
        self.task.cancelled.is_cancelled()
    }

    /// Goes on, unless the attempt is to end.
    ///
    /// # Errors
    /// It is: what the handler then returns no longer counts.
    pub fn check(&self) -> Result<(), TaskError> {
        if self.is_cancelled() { Err(TaskError::retryable("interrupted")) } else { Ok(()) }
    }

    /// For what takes such a token. Cancelling it tells the rest of the handler, not the cluster.
    pub fn cancellation(&self) -> CancellationToken {
        self.task.cancelled.clone()
    }

    /// When [`cancelled`](Self::cancelled) fires because the attempt has used up its run timeout; none if it has none.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// For how long this node may still run the attempt if it hears from no leader any more; zero once that has passed.
    /// A write to shared storage that may take longer than that must not begin. It is extended about every second, to
    /// the cluster's `fence_after`.
    pub fn right_left(&self) -> Duration {
        self.task.right.left()
    }

    /// Says how far it is: a percentage (more than 100 counts as 100), and one line for people (cut at 256 bytes).
    /// Cheap; the newest goes out about once a second.
    pub fn progress(&self, percent: impl Into<Option<u8>>, message: impl AsRef<str>) {
        self.task.reports.progress(Progress::new(percent.into(), Some(message.as_ref())));
    }

    /// Saves where a next attempt could go on, as JSON of at most 4 KiB. Returns at once: the newest goes out about once a
    /// second, and with the attempt's end. One that was saved just before its node is lost may be lost with it.
    ///
    /// # Errors
    /// It is too large, or no JSON.
    pub fn checkpoint<T: Serialize + ?Sized>(&self, checkpoint: &T) -> Result<(), SaveError> {
        let bytes = serde_json::to_vec(checkpoint).map_err(SaveError::Json)?;
        self.task.reports.checkpoint(Checkpoint::new(bytes)?);
        Ok(())
    }

    /// What an earlier attempt at this task saved last; none if no one did.
    ///
    /// # Errors
    /// It is no such value: say by another release of the handler. Permanent, unless the caller decides to begin anew.
    pub fn last_checkpoint<T: DeserializeOwned>(&self) -> Result<Option<T>, TaskError> {
        let Some(checkpoint) = &self.task.checkpoint else { return Ok(None) };
        serde_json::from_slice(checkpoint.as_bytes()).map(Some).map_err(|error| {
            TaskError::permanent(format!("the checkpoint of an earlier attempt cannot be read: {error}"))
        })
    }

    /// Runs `work` on a thread where it may block. It should look at [`is_cancelled`](Self::is_cancelled) now and then:
    /// the attempt counts as running until it returns, whoever waits for it.
    ///
    /// # Errors
    /// What it returns; and if it panics.
    ///
    /// # Cancel safety
    /// Dropping this does not end the thread. The attempt's end waits for it.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
    ) -> Result<T, TaskError> {
        let hold = self.task.holds.hold();
        let done = tokio::task::spawn_blocking(move || {
            let _hold = hold;
            work()
        });
        done.await
            .unwrap_or_else(|error| Err(TaskError::retryable(format!("blocking work crashed: {error}"))))
    }
}
