//! What others hold of the log: handles and commits.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::sync::{Notify, oneshot, watch};

use super::Change;
use super::LogStats;
use super::core::{Core, Done};
use super::error::{AppendRefused, CommitError, LogFailure};
use super::names::Names;
use super::store::Store;

/// Through which an appender is told.
pub(super) type Ticket = oneshot::Sender<Result<(), CommitError>>;

/// What the handles and the writer task share.
#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core<Ticket>>,
    /// The writer has something to look at.
    pub(super) wake: Notify,
    pub(super) failure: watch::Sender<Option<LogFailure>>,
    pub(super) store: Arc<dyn Store>,
    pub(super) names: Names,
    /// Names the bodies of this term: the sequence of its opening segment, which no other term has.
    pub(super) opening: u64,
    pub(super) bodies: AtomicU64,
}

impl Shared {
    pub(super) fn new(core: Core<Ticket>, store: Arc<dyn Store>, names: Names, opening: u64) -> Self {
        Self {
            core: Mutex::new(core),
            wake: Notify::new(),
            failure: watch::Sender::new(None),
            store,
            names,
            opening,
            bodies: AtomicU64::new(0),
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core<Ticket>> {
        // A panic in the core would leave it as it was before or after a step; the writer task reports its own.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the appenders, in order.
    pub(super) fn tell(done: Done<Ticket>) {
        for (ticket, result) in done {
            // Nobody has to wait for a commit.
            ticket.send(result).ok();
        }
    }

    /// Ends the log for `failure`, unless it has ended before.
    pub(super) fn fail(&self, failure: LogFailure) {
        let done = self.core().fail(&failure);
        self.failure.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                tracing::error!(%failure, "the task log ends");
                *known = Some(failure);
            }
            first
        });
        Self::tell(done);
    }
}

/// Appends to the log, asks about it, and keeps its bodies. Cheap to clone.
#[derive(Clone)]
pub struct LogHandle {
    pub(super) shared: Arc<Shared>,
}

impl LogHandle {
    /// Queues `changes` to be committed together, in one segment, after those of every earlier call. Does not
    /// wait: the [`Commit`] says when they are durable.
    ///
    /// Revisions of a key must grow: a change below the revision that the log holds is skipped, as replay would.
    /// If any change is `urgent`, all of them may use the reserve. No changes at all are a barrier: their commit proves
    /// that this term still writes, and that everything before is durable.
    ///
    /// # Errors
    /// Nothing was taken, for the reason given.
    pub fn append(&self, changes: Vec<Change>) -> Result<Commit, AppendRefused> {
        let (ticket, told) = oneshot::channel();
        self.shared.core().append(changes, ticket)?;
        self.shared.wake.notify_one();
        Ok(Commit(told))
    }

    /// How full the log is.
    pub fn stats(&self) -> LogStats {
        self.shared.core().stats()
    }

    /// Becomes `Some`, once, when the log ends by itself: nothing more will be written.
    pub fn failure(&self) -> watch::Receiver<Option<LogFailure>> {
        self.shared.failure.subscribe()
    }
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Resolves when the changes of one append are durable, or are known not to be, or cannot be known to be.
///
/// Commits resolve in the order of their appends. Dropping one takes nothing back.
#[derive(Debug)]
#[must_use = "nothing is durable before its commit says so"]
pub struct Commit(oneshot::Receiver<Result<(), CommitError>>);

impl Future for Commit {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A ticket that vanished untold went down with the writer: its fate is not known.
        let told = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(told.unwrap_or(Err(CommitError::Unknown)))
    }
}
