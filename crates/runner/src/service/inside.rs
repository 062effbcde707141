//! What work inside the daemon is given, and what it gives back.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clock::{Instant, SharedClock};
use proto::progress::{Checkpoint, Progress};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// What an attempt has said of itself so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// How far it is.
    pub progress: Progress,
    /// The newest checkpoint; none if it has said none itself.
    pub checkpoint: Option<Checkpoint>,
    /// Grows with everything that it says, also where nothing is new: whoever repeats itself is alive.
    pub count: u64,
}

/// Takes what an attempt says of itself. Its runner tells the leader the newest, about once a heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<watch::Sender<Said>>);

impl Reports {
    /// How far it is.
    pub fn progress(&self, progress: Progress) {
        self.0.send_modify(|said| {
            said.progress = progress;
            said.count += 1;
        });
    }

    /// Where its task's next attempt could go on.
    pub fn checkpoint(&self, checkpoint: Checkpoint) {
        self.0.send_modify(|said| {
            said.checkpoint = Some(checkpoint);
            said.count += 1;
        });
    }

    /// The newest.
    pub fn newest(&self) -> Said {
        self.0.borrow().clone()
    }

    /// The newest, now and as it changes.
    pub fn subscribe(&self) -> watch::Receiver<Said> {
        self.0.subscribe()
    }
}

/// Until when a node may run an attempt: extended by each heartbeat that a leader answers.
#[derive(Clone)]
pub struct Right(Option<(watch::Receiver<Option<Instant>>, SharedClock)>);

impl Right {
    pub(crate) const fn new(deadline: watch::Receiver<Option<Instant>>, clock: SharedClock) -> Self {
        Self(Some((deadline, clock)))
    }

    /// Of nobody knows whom: it has no time left.
    pub const fn unknown() -> Self {
        Self(None)
    }

    /// For how long the attempt may still run if no further heartbeat is answered; zero once that has passed. After that,
    /// another node may run the task's next attempt.
    pub fn left(&self) -> Duration {
        let Some((deadline, clock)) = &self.0 else { return Duration::ZERO };
        deadline.borrow().map_or(Duration::ZERO, |deadline| deadline.since(clock.now()))
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Right({:?} left)", self.left())
    }
}

/// Keeps an attempt from counting as ended while anything of it may still run that dropping its future does not end,
/// such as a blocking thread.
#[derive(Clone, Debug, Default)]
pub struct Holds(TaskTracker);

/// One such thing. The attempt has ended when the last one is dropped.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "it holds by existing")] TaskTrackerToken);

impl Holds {
    /// Takes a hold on the attempt.
    pub fn hold(&self) -> Hold {
        Hold(self.0.token())
    }

    /// Waits until nothing holds the attempt any more. Cancel safe.
    pub(crate) async fn released(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// Why work inside the daemon did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct WorkError {
    /// For people.
    pub message: String,
    /// No other attempt would fare better.
    pub permanent: bool,
}

impl From<String> for WorkError {
    /// One that another attempt may not meet.
    fn from(message: String) -> Self {
        Self { message, permanent: false }
    }
}

impl From<&str> for WorkError {
    fn from(message: &str) -> Self {
        message.to_owned().into()
    }
}
