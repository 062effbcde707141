//! The fenced, chained, compacted log of task states (D6).
//!
//! ```text
//!  append ─▶ queue ─▶ segment n: one multi [check epoch, check log-(n-1), create log-n, delete log-<oldest> ..]
//!                         └─▶ confirmed, in order, once the service has it
//!
//!  log-0000000041   log-0000000042   ...   log-0000000057
//!  └ oldest: cleaned first                 └ tail: never deleted; says which one the oldest is
//! ```
//!
//! Records are absolute states of keys, each with a revision; replay keeps the highest. What still counts of the
//! oldest segments is written again at the head, and the segments are deleted in the transaction that writes the
//! last of it. The cleaner runs inside the one writer, so it can never race an append.
//!
//! **Invariant:** an append is confirmed only when it and everything before it are in the service.
//!
//! **Invariant:** segments are contiguous from the tail's `oldest` to the tail; anything else is an error at replay.
//!
//! **Invariant:** every write checks the epoch: once another term has begun, nothing of this one is written.
//!
//! **Invariant:** nothing is returned by [`TaskLog::open`] before a segment of this term stands behind what was read.

mod error;
pub use error::{AppendRefused, BodyError, CommitError, LogFailure, OpenError, StopError};

mod options;
pub use options::{LogOptions, LogStats};

mod handle;
pub use handle::{Commit, LogHandle};

mod body;
pub use body::{BODY_BYTES_MAX, BodyRef};

mod ahead;
pub use ahead::{Ahead, ReadAheadError};

pub mod reading;

mod codec;
mod core;
mod driver;
mod index;
mod names;
mod open;
mod store;

mod link;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::core::Core;
use self::handle::Shared;
use self::names::Names;
use self::store::Store;
use crate::{Fence, Layout, LeaseFlag, Link, Term};

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which key.
    pub key: u128,
    /// Grows with every change of the key.
    pub revision: u64,
    /// Its new state, encoded; `None` deletes it.
    pub body: Option<Bytes>,
    /// May use the reserve when the budget is used up: for what must not be refused, outcomes above all.
    pub urgent: bool,
}

/// A key's state as replay found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which key.
    pub key: u128,
    /// The highest revision.
    pub revision: u64,
    /// The state, encoded.
    pub body: Bytes,
}

/// What became of a key since the log was read ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which key.
    pub key: u128,
    /// Its highest revision and its state, encoded; none = it is gone.
    pub state: Option<(u64, Bytes)>,
}

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The state of every key that has one, by key.
    Whole(Vec<Live>),
    /// What has changed since it was read ahead, by key.
    Since(Vec<Changed>),
}

/// The owner of an open log: of its writer task. Dropped without [`stop`](Self::stop), it ends the task and leaves
/// what is not confirmed unknown.
#[derive(Debug)]
pub struct TaskLog {
    shared: Arc<Shared>,
    writer: JoinSet<()>,
}

impl TaskLog {
    /// Replays the log under `layout`, commits this term's opening segment, and returns the state of every key that
    /// has one, by key. `link` should carry nothing else that is urgent: it is the *data* session.
    ///
    /// # Errors
    /// See [`OpenError`]. It tries for at most a minute and ends early when the session does.
    ///
    /// # Cancel safety
    /// Safe: an opening segment may be left behind, which nobody minds.
    pub async fn open(
        link: Link,
        layout: Layout,
        fence: Fence,
        options: LogOptions,
    ) -> Result<(TaskLog, Vec<Live>), OpenError> {
        let names = Self::names(&link, &layout, fence, None);
        let (log, replayed) = Self::open_on(Arc::new(link), names, options, None).await?;
        match replayed {
            Replayed::Whole(live) => Ok((log, live)),
            // Nothing was read ahead.
            Replayed::Since(_) => Ok((log, Vec::new())),
        }
    }

    /// As [`open`](Self::open), for a term of leadership: whatever is sent, is sent inside of its lease. Outside of it
    /// segments wait; once it was given up, the log fails if it has anything left to write.
    ///
    /// What was read `ahead` is gone on from where it ends, if it still can be.
    ///
    /// # Errors
    /// See [`OpenError`].
    ///
    /// # Cancel safety
    /// As [`open`](Self::open).
    pub async fn open_under(
        link: Link,
        layout: Layout,
        term: &Term,
        options: LogOptions,
        ahead: Option<Ahead>,
    ) -> Result<(TaskLog, Replayed), OpenError> {
        let names = Self::names(&link, &layout, term.fence.clone(), Some(term.lease.clone()));
        Self::open_on(Arc::new(link), names, options, ahead).await
    }

    fn names(link: &Link, layout: &Layout, fence: Fence, lease: Option<LeaseFlag>) -> Names {
        Names {
            log: layout.log_dir(),
            bodies: layout.bodies_dir(),
            epoch_path: fence.epoch_path,
            epoch: fence.version,
            lease,
            drill: link.drill().clone(),
            pulse: link.pulse().clone(),
        }
    }

    async fn open_on(
        store: Arc<dyn Store>,
        names: Names,
        options: LogOptions,
        ahead: Option<Ahead>,
    ) -> Result<(TaskLog, Replayed), OpenError> {
        options.check().map_err(OpenError::Options)?;
        let opened = open::open(&store, &names, ahead).await?;
        tracing::info!(
            log = names.log,
            epoch = names.epoch,
            opening = opened.opening,
            segments = opened.index.segments(),
            bytes = opened.index.bytes(),
            "task log open"
        );
        let linger = options.linger;
        let since = opened.changed.map(|keys| ahead::states(&opened.index, keys));
        let core = Core::new(options, names.epoch as u64, store.writer(), opened.index, opened.body_bytes);
        let replayed = since.map_or_else(|| Replayed::Whole(core.live()), Replayed::Since);
        let pulse = names.pulse.clone();
        let shared = Arc::new(Shared::new(core, store, names, opened.opening));
        let mut writer = JoinSet::new();
        // Its death by itself is published through `LogHandle::failure`.
        writer.spawn(pulse.watch("the writer of its log", driver::run(shared.clone(), linger)));
        Ok((TaskLog { shared, writer }, replayed))
    }

    /// A handle to append with.
    pub fn handle(&self) -> LogHandle {
        LogHandle { shared: self.shared.clone() }
    }

    /// Takes no more appends, writes what is queued, and ends the writer.
    ///
    /// # Errors
    /// Not everything could be written `within`, or the log had failed before.
    ///
    /// # Cancel safety
    /// Dropping the future ends the writer at once, as dropping the log does.
    pub async fn stop(mut self, within: Duration) -> Result<(), StopError> {
        self.shared.core().stop();
        self.shared.wake.notify_one();
        let ended = timeout(within, self.writer.join_next()).await;
        if let Some(failure) = self.shared.failure.borrow().clone() {
            return Err(StopError::Failed(failure));
        }
        let (segments, appends) = self.shared.core().backlog();
        match ended {
            Ok(Some(Ok(()))) | Ok(None) => Ok(()),
            Ok(Some(Err(error))) if error.is_panic() => {
                Err(StopError::Failed(LogFailure::Corrupt("the writer task panicked".to_owned())))
            }
            Ok(Some(Err(_))) | Err(_) => Err(StopError::Unflushed { segments, appends, within }),
        }
    }
}

impl Drop for TaskLog {
    fn drop(&mut self) {
        // Before the abort: the writer must not take its end for an accident.
        let done = self.shared.core().give_up();
        Shared::tell(done);
        self.writer.abort_all();
    }
}
