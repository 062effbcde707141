//! One attempt: how it is told to end, and how work inside the daemon runs. Process trees are in [`process`](crate::process).

use std::sync::Arc;
use std::time::Duration;

use clock::{Instant, SharedClock};
use futures::future::BoxFuture;
use proto::AttemptId;
use proto::runner::Outcome;
use proto::task::AttemptEnd;
use tokio::sync::watch;
use tokio::time;
use tokio_util::sync::CancellationToken;

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
        Self { outcome: Outcome { attempt, end, started_ms, ended_ms, output_bytes: 0, checkpoint: None }, on_disk: None }
    }
}

/// Runs work inside the daemon. Dropped work ends at its next await point.
pub(crate) async fn in_process(
    attempt: AttemptId,
    mut work: BoxFuture<'static, Result<(), String>>,
    cancelled: CancellationToken,
    timeout: Option<Duration>,
    grace: Duration,
    mut control: Control,
) -> Ended {
    let clock = Arc::clone(&control.clock);
    if let Err(end) = control.may_begin() {
        return Ended::in_memory(attempt, end, None, &clock);
    }
    let started_ms = clock.wall().0;
    let timed_out = async {
        match timeout {
            Some(timeout) => time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let (end, grace) = tokio::select! {
        biased;
        request = control.ended() => (request.end, request.grace),
        result = &mut work => {
            let end = match result {
                Ok(()) => AttemptEnd::Exited { code: 0 },
                Err(message) => AttemptEnd::Failed { message: shortened(message) },
            };
            return Ended::in_memory(attempt, end, Some(started_ms), &clock);
        }
        () = timed_out => (AttemptEnd::TimedOut, grace),
    };
    cancelled.cancel();
    // It may tidy up for so long; what it then says no longer counts.
    let mut until = time::Instant::now() + grace;
    loop {
        tokio::select! {
            biased;
            _ = &mut work => break,
            () = time::sleep_until(until) => break,
            // A stop hastens an end that has begun.
            Ok(()) = control.end.changed() => {
                let grace = control.request().map_or(grace, |request| request.grace);
                until = until.min(time::Instant::now() + grace);
            }
        }
    }
    Ended::in_memory(attempt, end, Some(started_ms), &clock)
}

/// A message that may quote what users hand in, so that any number of outcomes fits into a frame.
pub(crate) fn shortened(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

#[cfg(test)]
mod tests {
    use clock::{Clock, ManualClock};
    use proto::TaskId;

    use super::*;

    #[tokio::test]
    async fn nothing_begins_after_a_lapse_that_came_between() {
        let clock = Arc::new(ManualClock::default());
        let now = clock.now();
        let given_up = EndRequest { end: AttemptEnd::Cancelled, grace: Duration::ZERO, hard_at: now };
        let later = now + Duration::from_secs(1);
        for (fence, request, begins) in [
            (None, None, false),
            (Some(now), None, false),
            (Some(later), Some(given_up), false),
            (Some(later), None, true),
        ] {
            let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let work = {
                let ran = Arc::clone(&ran);
                Box::pin(async move {
                    ran.store(true, std::sync::atomic::Ordering::Relaxed);
                    Ok(())
                })
            };
            let control = Control {
                fence: watch::channel(fence).1,
                end: watch::channel(request).1,
                clock: Arc::clone(&clock) as SharedClock,
            };
            let attempt = AttemptId { task: TaskId::from_u128(1), number: 1 };
            let cancelled = CancellationToken::new();
            let ended = in_process(attempt, work, cancelled, None, Duration::ZERO, control).await;
            let ran = ran.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!((ran, ended.outcome.end.is_success()), (begins, begins), "{fence:?}");
        }
    }
}
