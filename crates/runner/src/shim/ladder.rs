//! When a tree gets SIGTERM and when SIGKILL: the pure part.

use std::time::Duration;

use clock::Instant;
use proto::task::AttemptEnd;

use super::KILL_ALLOWANCE;

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Terminate,
    Kill,
}

/// One tree's way to its end.
#[derive(Debug)]
pub(super) struct Ladder {
    fence: Instant,
    timeout: Option<Instant>,
    /// For how long it may say nothing, and since when it has.
    quiet: Option<(Duration, Instant)>,
    grace: Duration,
    ending: Option<Ending>,
}

#[derive(Debug)]
struct Ending {
    end: AttemptEnd,
    kill_at: Instant,
    terminated: bool,
    killed: bool,
}

impl Ladder {
    pub(super) fn new(fence: Instant, timeout: Option<Instant>, grace: Duration) -> Self {
        Self { fence, timeout, quiet: None, grace, ending: None }
    }

    /// It may say nothing of its progress for `timeout`, from `now` on.
    pub(super) fn may_be_quiet(mut self, timeout: Option<Duration>, now: Instant) -> Self {
        self.quiet = timeout.map(|timeout| (timeout, now));
        self
    }

    /// It has said something.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some((_, since)) = &mut self.quiet {
            *since = now;
        }
    }

    fn quiet_until(&self) -> Option<Instant> {
        self.quiet.map(|(timeout, since)| since + timeout)
    }

    /// Moves the fence; an end that has begun goes on.
    pub(super) fn extend(&mut self, fence: Instant) {
        self.fence = self.fence.max(fence);
    }

    /// Until when the tree may run.
    pub(super) fn fence(&self) -> Instant {
        self.fence
    }

    /// Begins the end. The first reason stays; a later call may only hasten it.
    pub(super) fn end(&mut self, now: Instant, grace: Duration, end: AttemptEnd) {
        let kill_at = (now + grace).min(self.last_kill());
        match &mut self.ending {
            None => self.ending = Some(Ending { end, kill_at, terminated: false, killed: false }),
            Some(ending) => ending.kill_at = ending.kill_at.min(kill_at),
        }
    }

    /// Whether anything may still be executed.
    pub(super) fn may_start(&self, now: Instant) -> bool {
        self.ending.is_none() && now < self.fence_term()
    }

    /// What is due; each rung is returned once, except the kill, which is repeated.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if self.ending.is_none() {
            if now >= self.fence_term() {
                let reason = "its right to run lapsed: its node had no answer from a leader for too long";
                self.end(now, self.grace, AttemptEnd::Lost { reason: reason.to_owned() });
            } else if self.timeout.is_some_and(|timeout| now >= timeout) {
                self.end(now, self.grace, AttemptEnd::TimedOut);
            } else if let Some((timeout, since)) = self.quiet
                && now >= since + timeout
            {
                let after_ms = timeout.as_millis() as u64;
                self.end(now, self.grace, AttemptEnd::NoProgress { after_ms });
            }
        }
        let last_kill = self.last_kill();
        let Some(ending) = &mut self.ending else { return Step::Wait };
        if now >= ending.kill_at.min(last_kill) {
            ending.killed = true;
            Step::Kill
        } else if !ending.terminated {
            ending.terminated = true;
            Step::Terminate
        } else {
            Step::Wait
        }
    }

    /// When to call [`step`](Self::step) next; none if only the tree's end is awaited.
    pub(super) fn next(&self) -> Option<Instant> {
        match &self.ending {
            Some(ending) if ending.killed => None,
            Some(ending) => Some(ending.kill_at.min(self.last_kill())),
            None => [Some(self.fence_term()), self.timeout, self.quiet_until()].into_iter().flatten().min(),
        }
    }

    /// Why the tree was ended, if it was.
    pub(super) fn verdict(&self) -> Option<&AttemptEnd> {
        self.ending.as_ref().map(|ending| &ending.end)
    }

    fn last_kill(&self) -> Instant {
        self.fence - KILL_ALLOWANCE
    }

    fn fence_term(&self) -> Instant {
        self.last_kill() - self.grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn ladder(timeout: Option<u64>) -> Ladder {
        Ladder::new(at(30_000), timeout.map(at), Duration::from_secs(2))
    }

    #[test]
    fn the_fence_terminates_early_enough_to_have_killed_by_its_deadline() {
        let mut ladder = ladder(None);
        assert_eq!(ladder.next(), Some(at(27_500)));
        let steps: Vec<_> =
            [27_499, 27_500, 27_501, 29_499, 29_500].into_iter().map(|ms| ladder.step(at(ms))).collect();
        assert_eq!(steps, [Step::Wait, Step::Terminate, Step::Wait, Step::Wait, Step::Kill]);
        assert!(matches!(ladder.verdict(), Some(AttemptEnd::Lost { .. })));
    }

    #[test]
    fn an_extension_moves_the_fence_but_not_a_begun_end() {
        let mut running = ladder(None);
        running.extend(at(40_000));
        running.extend(at(35_000));
        assert_eq!((running.step(at(37_499)), running.next()), (Step::Wait, Some(at(37_500))));

        let mut ending = ladder(None);
        assert_eq!(ending.step(at(28_000)), Step::Terminate);
        ending.extend(at(90_000));
        assert_eq!(ending.step(at(29_500)), Step::Kill, "the lapse stays a lapse");
    }

    #[test]
    fn a_request_is_followed_by_its_grace_and_never_outlives_the_fence() {
        for (asked, grace_ms, kill) in [(1_000, 500, 1_500), (28_000, 5_000, 29_500), (1_000, 0, 1_000)] {
            let mut ladder = ladder(None);
            ladder.end(at(asked), Duration::from_millis(grace_ms), AttemptEnd::Cancelled);
            let first = ladder.step(at(asked));
            assert_eq!(first, if kill == asked { Step::Kill } else { Step::Terminate });
            assert_eq!(ladder.step(at(kill)), Step::Kill);
            assert_eq!(ladder.verdict(), Some(&AttemptEnd::Cancelled));
        }
    }

    #[test]
    fn who_says_nothing_for_too_long_is_ended_and_who_speaks_is_not() {
        let mut ladder = ladder(None).may_be_quiet(Some(Duration::from_secs(3)), at(1_000));
        assert_eq!((ladder.next(), ladder.step(at(3_999))), (Some(at(4_000)), Step::Wait));
        ladder.heard(at(3_999));
        assert_eq!((ladder.step(at(4_000)), ladder.next()), (Step::Wait, Some(at(6_999))));
        assert_eq!(ladder.step(at(6_999)), Step::Terminate);
        ladder.heard(at(7_000));
        assert_eq!(ladder.verdict(), Some(&AttemptEnd::NoProgress { after_ms: 3_000 }));
        assert_eq!(ladder.step(at(8_999)), Step::Kill);
    }

    #[test]
    fn the_first_reason_stays_and_a_second_request_hastens() {
        let mut ladder = ladder(Some(1_000));
        assert_eq!(ladder.step(at(1_000)), Step::Terminate);
        ladder.end(at(1_100), Duration::ZERO, AttemptEnd::Cancelled);
        assert_eq!(ladder.step(at(1_100)), Step::Kill);
        assert_eq!(ladder.verdict(), Some(&AttemptEnd::TimedOut));
    }

    #[test]
    fn nothing_starts_late_or_after_an_end() {
        let mut ladder = ladder(None);
        assert!(ladder.may_start(at(27_499)) && !ladder.may_start(at(27_500)));
        ladder.end(at(0), Duration::ZERO, AttemptEnd::Cancelled);
        assert!(!ladder.may_start(at(1)));
    }
}
