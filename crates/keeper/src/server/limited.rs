//! Warnings that a client can cause as often as it likes.

use std::time::Duration;

use clock::Instant;

/// Lets one through now and then and counts the others.
#[derive(Debug, Default)]
pub(super) struct Limited {
    last: Option<Instant>,
    suppressed: u64,
}

const EVERY: Duration = Duration::from_secs(5);

impl Limited {
    /// Whether to say it now; if so, how often it was not said since the last time.
    pub(super) fn due(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.since(last) < EVERY) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}
