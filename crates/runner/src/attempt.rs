//! One attempt: how it is told to end. Process trees are in [`process`](crate::process), work inside the daemon in
//! [`in_process`](crate::in_process).

use std::time::Duration;

use clock::{Instant, SharedClock};
use proto::AttemptId;
use proto::runner::Outcome;
use proto::task::AttemptEnd;
use tokio::sync::watch;

/// Longest failure message that is kept, in bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// An attempt must end.
#[derive(Clone, Debug)]
pub(crate) struct EndRequest {
    /// What it will be reported as.
    pub(crate) end: AttemptEnd,
    /// From SIGTERM to SIGKILL.
    pub(crate) grace: Duration,
    /// When the shim is no longer trusted to do it.
    pub(crate) hard_at: Instant,
}

/// What an attempt listens to.
#[derive(Debug)]
pub(crate) struct Control {
    /// Until when what runs may run; shared by all.
    pub(crate) fence: watch::Receiver<Option<Instant>>,
    pub(crate) end: watch::Receiver<Option<EndRequest>>,
    pub(crate) clock: SharedClock,
}

impl Control {
    /// Resolves when the attempt must end. Cancel safe.
    pub(crate) async fn ended(&mut self) -> EndRequest {
        match self.end.wait_for(Option::is_some).await.map(|request| request.clone()) {
            Ok(Some(request)) => request,
            // The owner is gone, and aborts whoever it owned.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// The request that has been made, if one has.
    pub(crate) fn request(&self) -> Option<EndRequest> {
        self.end.borrow().clone()
    }

    /// Until when it may run, if it may begin; otherwise how it ends. Called at the last moment: since its start was
    /// accepted, the right to run may have lapsed and a new one, which is not its own, been granted.
    pub(crate) fn may_begin(&mut self) -> Result<Instant, AttemptEnd> {
        // In this order: whoever ends a grant makes the requests before a later one can be seen here.
        let deadline = *self.fence.borrow_and_update();
        if let Some(request) = self.request() {
            return Err(request.end);
        }
        deadline.filter(|deadline| self.clock.now() < *deadline).ok_or_else(|| AttemptEnd::Lost {
            reason: "the right to run had lapsed before it was started".to_owned(),
        })
    }

    /// How long to wait for `at`.
    pub(crate) fn until(&self, at: Instant) -> Duration {
        at.since(self.clock.now())
    }
}

/// An attempt that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    /// What its directory takes, in bytes, if it has one.
    pub(crate) on_disk: Option<u64>,
}

impl Ended {
    /// One that left nothing on disk.
    pub(crate) fn in_memory(
        attempt: AttemptId,
        end: AttemptEnd,
        started_ms: Option<u64>,
        clock: &SharedClock,
    ) -> Self {
        let ended_ms = clock.wall().0;
        Self {
            outcome: Outcome { attempt, end, started_ms, ended_ms, output_bytes: 0, checkpoint: None },
            on_disk: None,
        }
    }
}

/// A message that may quote what users hand in, so that any number of outcomes fits into a frame.
pub(crate) fn shortened(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}
