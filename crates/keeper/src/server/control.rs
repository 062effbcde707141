//! What the owner of a server asks of its engine, and how the engine's end becomes known.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How a server is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ending {
    /// After what has been read is on the disk and answered.
    Stop,
    /// Now.
    Abort,
}

/// Shared by the [`Server`](super::Server), its engine thread and its log thread.
#[derive(Debug, Default)]
pub(super) struct Control {
    wanted: Mutex<Wanted>,
    changed: Condvar,
    notify: Notify,
    /// Copies of what `wanted` says, readable without its lock.
    paused: AtomicBool,
    aborted: AtomicBool,
}

#[derive(Debug, Default)]
struct Wanted {
    paused: bool,
    ending: Option<Ending>,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, Wanted> {
        // Nothing can panic while it is held; the two flags are valid whatever happened.
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the engine stand still at its next step, or go on. A server that is to end is not held.
    pub(super) fn pause(&self, paused: bool) {
        let mut wanted = self.lock();
        wanted.paused = paused && wanted.ending.is_none();
        self.paused.store(wanted.paused, Ordering::Release);
        self.changed.notify_all();
        self.notify.notify_one();
    }

    /// Asks for the end. A stop can become an abort, never the other way.
    pub(super) fn end(&self, ending: Ending) {
        let mut wanted = self.lock();
        wanted.paused = false;
        wanted.ending = wanted.ending.max(Some(ending));
        self.paused.store(false, Ordering::Release);
        self.aborted.store(wanted.ending == Some(Ending::Abort), Ordering::Release);
        self.changed.notify_all();
        self.notify.notify_one();
    }

    /// The end that was asked for, if one was.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.lock().ending
    }

    /// Whether everything is to end now.
    pub(super) fn aborted(&self) -> bool {
        self.aborted.load(Ordering::Acquire)
    }

    /// Blocks the thread while the server is paused: as a stopped process, it neither reads nor answers.
    pub(super) fn hold_while_paused(&self) {
        if !self.paused.load(Ordering::Acquire) {
            return;
        }
        let mut wanted = self.lock();
        while wanted.paused {
            wanted = self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Resolves when something was asked for since the last time.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn changed(&self) {
        self.notify.notified().await;
    }
}
