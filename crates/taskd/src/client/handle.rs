//! A task that was submitted, in the hands of whoever did.

use std::time::Duration;

use proto::TaskId;
use proto::api::{ApiError, ApiErrorKind, Submission, Submitted, Why};
use proto::task::{TaskState, TaskView};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::submit::too_few;
use super::{CALL_DEADLINE, CallError, Client, Task};

/// How long one call waits for news.
const POLL: Duration = Duration::from_secs(10);
/// How long the cluster may be without an answer before whoever waits hears of it: several failovers.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause after a call that was not answered.
const PAUSE: Duration = Duration::from_millis(500);
/// Of output, in one call.
const CHUNK_BYTES: u32 = 256 * 1024;
/// Largest output that is read as a value: what is longer is for people.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Why a task was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// It was refused, and nothing was queued. The message says what to change, or that it is worth trying later.
    #[error("the task was refused: {}", .0.message)]
    Refused(ApiError),
    /// Nobody knows whether it was accepted. Submit a clone of it, which has the same id: that doubles nothing.
    #[error("it is not known whether the task was accepted; submit it again under the same id: {}", .0.message)]
    Unknown(ApiError),
    /// Nothing could be asked.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Why a task has no result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// It did not succeed.
    #[error("task {} {}", .0.id, how(.0))]
    Ended(Box<TaskView>),
    /// It has not ended yet: [`wait`](Handle::wait) for it.
    #[error("task {id} is {state}: it has no result before it has succeeded")]
    NotYet {
        /// The task.
        id: TaskId,
        /// Where it stands.
        state: TaskState,
    },
    /// Its output is not of that type.
    #[error("the output of task {id} does not fit")]
    Output {
        /// The task.
        id: TaskId,
        /// In what.
        #[source]
        source: serde_json::Error,
    },
    /// Its output is too long to be a value; read it with [`Client::output`].
    #[error("the output of task {id} is longer than {OUTPUT_BYTES_MAX} bytes")]
    TooLong {
        /// The task.
        id: TaskId,
    },
    /// Nothing could be asked, or the node with the output does not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

fn how(task: &TaskView) -> String {
    let why = task.note.clone().or_else(|| task.last_end().map(ToString::to_string));
    why.map_or_else(|| format!("ended as {}", task.state), |why| format!("ended as {}: {why}", task.state))
}

/// A task, by its id, and the cluster that has it. It can be dropped without consequence: the task goes on.
#[derive(Clone, Copy, Debug)]
pub struct Handle<'c> {
    client: &'c Client,
    id: TaskId,
}

impl Client {
    /// Submits a task. While there is no leader, or an answer is lost, it goes on trying under the same id for as long as
    /// [`Task::submit_within`] says. When it returns, the task is committed: it survives every node.
    ///
    /// # Errors
    /// See [`SubmitError`].
    ///
    /// # Cancel safety
    /// Dropped half-way, the task may or may not have been accepted; submit a clone of it to be sure of it.
    pub async fn submit(&self, task: Task) -> Result<Handle<'_>, SubmitError> {
        let within = task.within;
        let answers = self
            .submit_all(vec![Submission { id: task.id, spec: task.spec }], within)
            .await
            .map_err(asked)?;
        let answer = answers.into_iter().next().ok_or_else(|| SubmitError::Unknown(too_few()))?;
        self.handle(answer)
    }

    /// Submits tasks together, each accepted or refused on its own; much faster than one by one. Those that others wait for come
    /// first. The longest [`Task::submit_within`] holds for all.
    ///
    /// # Errors
    /// Nothing is known of any of them. What a node says of one is among the answers, which are in order.
    ///
    /// # Cancel safety
    /// As [`submit`](Self::submit).
    pub async fn submit_batch(
        &self,
        tasks: impl IntoIterator<Item = Task>,
    ) -> Result<Vec<Result<Handle<'_>, SubmitError>>, SubmitError> {
        let mut within = Duration::ZERO;
        let tasks: Vec<Submission> = tasks
            .into_iter()
            .map(|task| {
                within = within.max(task.within);
                Submission { id: task.id, spec: task.spec }
            })
            .collect();
        let answers = self.submit_all(tasks, within).await.map_err(asked)?;
        Ok(answers.into_iter().map(|answer| self.handle(answer)).collect())
    }

    /// A task that somebody submitted. Nothing is asked yet.
    pub const fn task(&self, id: TaskId) -> Handle<'_> {
        Handle { client: self, id }
    }

    fn handle(&self, answer: Submitted) -> Result<Handle<'_>, SubmitError> {
        match answer {
            Submitted::Accepted { id } | Submitted::Existing { id, .. } => Ok(self.task(id)),
            Submitted::Refused(error) if error.kind == ApiErrorKind::Unknown => {
                Err(SubmitError::Unknown(error))
            }
            Submitted::Refused(error) => Err(SubmitError::Refused(error)),
        }
    }
}

/// An answer that was lost leaves the task's fate open.
fn asked(error: CallError) -> SubmitError {
    match error {
        CallError::NoAnswer { .. } => {
            SubmitError::Unknown(ApiError::new(ApiErrorKind::Unknown, error.to_string()))
        }
        other => SubmitError::Call(other),
    }
}

impl CallError {
    /// Whether the same call may well work later, as it does after a failover.
    pub fn is_transient(&self) -> bool {
        self.kind().is_none_or(|kind| {
            matches!(kind, ApiErrorKind::NoLeader | ApiErrorKind::Unknown | ApiErrorKind::Internal)
        })
    }
}

impl Handle<'_> {
    /// The task's id.
    pub const fn id(&self) -> TaskId {
        self.id
    }

    /// Where it stands, with its attempts and its progress.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn status(&self) -> Result<TaskView, CallError> {
        self.client.show(&self.id.to_string()).await
    }

    /// Why it is where it is, and what would change it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn why(&self) -> Result<Why, CallError> {
        self.client.why(&self.id.to_string()).await
    }

    /// Waits until it has ended, however: look at its [`state`](TaskView::state). Goes on through failovers.
    ///
    /// # Errors
    /// It is not known, or nobody has answered for two minutes.
    ///
    /// # Cancel safety
    /// Cancel safe: wait again.
    pub async fn wait(&self) -> Result<TaskView, CallError> {
        loop {
            if let Some(task) = self.wait_for(Duration::from_secs(3_600)).await? {
                return Ok(task);
            }
        }
    }

    /// Waits until it has ended, at most for so long; none if it has not.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Cancel safety
    /// Cancel safe: wait again.
    pub async fn wait_for(&self, timeout: Duration) -> Result<Option<TaskView>, CallError> {
        self.follow(timeout, |_| {}).await
    }

    /// As [`wait_for`](Self::wait_for), and shows what changes meanwhile, progress included.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    ///
    /// # Cancel safety
    /// Cancel safe: wait again.
    pub async fn follow(
        &self,
        timeout: Duration,
        mut news: impl FnMut(&TaskView),
    ) -> Result<Option<TaskView>, CallError> {
        let deadline = Instant::now() + timeout;
        let (mut revision, mut answered) = (0, Instant::now());
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.client.watch(vec![(self.id, revision)], left.min(POLL)).await {
                Ok(views) => {
                    answered = Instant::now();
                    let unknown =
                        || ApiError::new(ApiErrorKind::NotFound, format!("there is no task {}", self.id));
                    let view = views.into_iter().find(|view| view.id == self.id).ok_or_else(unknown)?;
                    revision = view.revision;
                    news(&view);
                    if view.state.is_final() {
                        return Ok(Some(view));
                    }
                }
                Err(error)
                    if error.is_transient() && answered.elapsed() < PATIENCE + POLL + CALL_DEADLINE =>
                {
                    tokio::time::sleep(PAUSE.min(left)).await;
                }
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Asks for it to be cancelled. It is only once nothing of it runs any more: [`wait`](Self::wait) for that.
    ///
    /// # Errors
    /// See [`CallError`]; that it has ended already is a [conflict](ApiErrorKind::Conflict).
    pub async fn cancel(&self) -> Result<TaskView, CallError> {
        self.client.cancel(&self.id.to_string()).await
    }

    /// Queues it again, if it ended without success.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn retry(&self) -> Result<TaskView, CallError> {
        self.client.retry(&self.id.to_string()).await
    }

    /// What its newest attempt has put out so far, up to 8 MiB: for people. Kept on the disk of the node that ran it, for a
    /// while.
    ///
    /// # Errors
    /// That node does not answer, or has removed it.
    pub async fn output(&self) -> Result<Vec<u8>, ResultError> {
        let mut output: Vec<u8> = Vec::new();
        let mut offset = 0;
        loop {
            let chunk = self.client.output(&self.id.to_string(), 0, offset, CHUNK_BYTES).await?;
            offset = chunk.offset + chunk.bytes.len() as u64;
            let last = chunk.bytes.is_empty() || chunk.complete;
            output.extend(chunk.bytes);
            if output.len() > OUTPUT_BYTES_MAX {
                return Err(ResultError::TooLong { id: self.id });
            }
            if last {
                return Ok(output);
            }
        }
    }

    /// What its handler returned. A handler that returned `()` has left nothing, which is read as `null`.
    ///
    /// # Errors
    /// See [`ResultError`].
    pub async fn result<T: DeserializeOwned>(&self) -> Result<T, ResultError> {
        let task = self.status().await?;
        match task.state {
            TaskState::Succeeded => {}
            state if state.is_final() => return Err(ResultError::Ended(Box::new(task))),
            state => return Err(ResultError::NotYet { id: self.id, state }),
        }
        let output = self.output().await?;
        let output = if output.is_empty() { b"null" } else { output.as_slice() };
        serde_json::from_slice(output).map_err(|source| ResultError::Output { id: self.id, source })
    }
}
