//! Whose fault silence is: a server that did not listen cannot tell who was silent.

use std::time::Duration;

use clock::Instant;

/// A look that is late by less says nothing, however short the tick is: it is what a busy machine does.
const LATE_MIN: Duration = Duration::from_millis(500);

/// Notices that the engine stood still (paused, stopped, suspended, starved of time, busy with one request) and spares the
/// sessions that fell due meanwhile: what their clients sent lies unread in their sockets. To let a session live longer
/// than it must is always safe, to end it is not.
#[derive(Debug, Default)]
pub(super) struct Hearing {
    /// When the engine meant to look at what is due.
    planned: Option<Instant>,
    spares_until: Option<Instant>,
}

impl Hearing {
    /// The engine means to look at what is due at `at`.
    pub(super) fn plan(&mut self, at: Instant) {
        self.planned = Some(at);
    }

    /// Looks: whether sessions may be ended for their silence. Not for a tick after a look that came late, by half a tick
    /// or more.
    pub(super) fn may_judge(&mut self, now: Instant, tick: Duration) -> bool {
        if self.planned.take().is_some_and(|planned| now.since(planned) >= LATE_MIN.max(tick / 2)) {
            self.spares_until = Some(now + tick);
        }
        self.spares_until = self.spares_until.filter(|until| now < *until);
        self.spares_until.is_none()
    }

    /// Until when nothing is judged, if it is.
    pub(super) fn spares_until(&self) -> Option<Instant> {
        self.spares_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_look_that_came_late_nothing_is_judged_for_a_tick() {
        let tick = Duration::from_secs(2);
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let mut hearing = Hearing::default();
        // (planned for, looked at, may judge)
        for (planned, looked, judges) in [
            (1_000, 1_000, true),
            (2_000, 2_999, true),
            (3_000, 4_000, false),
            (5_000, 5_001, false),
            (5_999, 5_999, false),
            (6_000, 6_000, true),
            (7_000, 900_000, false),
            (901_000, 950_000, false),
            (952_000, 952_000, true),
        ] {
            hearing.plan(at(planned));
            assert_eq!(
                hearing.may_judge(at(looked), tick),
                judges,
                "planned for {planned}, looked at {looked}"
            );
        }
        assert!(hearing.may_judge(at(2_000_000), tick), "without a plan there is no late");
        hearing.plan(at(2_000_000));
        assert!(hearing.may_judge(at(2_000_400), Duration::from_millis(50)), "a busy machine");
    }
}
