//! Times at which the watchdog itself stood still. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use clock::Instant;

/// A wait that takes this much longer than it was to take is a pause: SIGSTOP, a suspended machine, one that is much too
/// busy. Nothing else ran then either, so it proves nothing against anybody.
const LATE: Duration = Duration::from_millis(250);

/// Pauses that are remembered; with looks this far apart, older ones concern nothing that is still measured.
const PAUSES_MAX: usize = 64;

/// The pauses, oldest first: when each was over, and how long it was.
#[derive(Debug, Default)]
pub(super) struct Pauses(VecDeque<(Instant, Duration)>);

impl Pauses {
    /// A wait of `wait` lasted from `before` to `now`.
    pub(super) fn waited(&mut self, before: Instant, wait: Duration, now: Instant) {
        let late = now.since(before).saturating_sub(wait);
        if late >= LATE {
            self.0.push_back((now, late));
            if self.0.len() > PAUSES_MAX {
                self.0.pop_front();
            }
        }
    }

    /// How much of the time between `since` and `now` was no pause.
    pub(super) fn awake(&self, since: Instant, now: Instant) -> Duration {
        let paused: Duration = self
            .0
            .iter()
            .filter(|(over, _)| *over > since)
            .map(|(over, paused)| (*paused).min(over.since(since)))
            .sum();
        now.since(since).saturating_sub(paused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn pauses_do_not_count() {
        let mut pauses = Pauses::default();
        let ms = Duration::from_millis;
        pauses.waited(at(0), ms(100), at(130));
        assert_eq!(pauses.awake(at(0), at(130)), ms(130), "a little late is no pause");
        // Stopped for 5 s.
        pauses.waited(at(1_000), ms(100), at(6_100));
        let rows = [
            // since, now, awake
            (900, 6_100, 200),
            (900, 6_500, 600),
            (0, 6_500, 1_500),
            // It began in the middle of the pause, by a clock that goes on: only what came after counts.
            (3_000, 6_500, 400),
            (6_100, 6_500, 400),
            (6_200, 6_500, 300),
        ];
        for (since, now, awake) in rows {
            assert_eq!(pauses.awake(at(since), at(now)), ms(awake), "{since} to {now}");
        }
        pauses.waited(at(7_000), ms(100), at(8_100));
        assert_eq!(pauses.awake(at(900), at(8_200)), ms(7_300 - 5_000 - 1_000), "both");
    }

    #[test]
    fn memory_is_bounded() {
        let mut pauses = Pauses::default();
        for n in 0..1_000 {
            pauses.waited(at(n * 1_000), Duration::ZERO, at(n * 1_000 + 500));
        }
        assert_eq!(pauses.0.len(), PAUSES_MAX);
    }
}
