//! Writing addresses inside a lease, a step at a time: the clock is read before and after each, by whoever does the step.
//!
//! Residual: a process that is stopped exactly between the reading and the system call, and goes on after its lease and
//! the grace, has the address for the microseconds until its very next call removes it. It announces nothing in between,
//! and the kernel does not do so by itself. (Linux creates an address that a renewal does not find, whatever the flags
//! say, so a late renewal cannot be made harmless.)

use std::time::Duration;

use clock::Instant;
use drill::{Bug, Drill};

use super::timing::{Verdict, judge, valid_s};
use super::{PutDone, PutEnd};

/// Writings of one address that may come too late before it is given up.
const TRIES_MAX: u32 = 3;

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stroke {
    /// Write that address with that lifetime, in seconds.
    Write { index: usize, valid_s: u32 },
    /// Nothing more.
    Done(PutDone),
}

/// What to do with the address that was just written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Go on.
    GoOn,
    /// Remove it at once: it came too late.
    Erase,
}

/// Writes some addresses.
#[derive(Debug)]
pub(crate) struct Pen {
    count: usize,
    grace: Duration,
    /// What a probe is worth that is committed just now: for the bug alone.
    fresh: Duration,
    drill: Drill,
    index: usize,
    tries: u32,
    before: Instant,
    there: Option<(Instant, u32)>,
    end: Option<PutEnd>,
}

impl Pen {
    /// For so many addresses, and a successor that waits `grace`.
    pub(crate) fn new(count: usize, grace: Duration, fresh: Duration, drill: Drill) -> Self {
        let (index, tries, before) = (0, 0, Instant::default());
        Self { count, grace, fresh, drill, index, tries, before, there: None, end: None }
    }

    /// What to do at `now` with `remaining` left of the lease, both read just before this.
    pub(crate) fn next(&mut self, now: Instant, remaining: Duration) -> Stroke {
        if let Some(end) = self.end.take() {
            return Stroke::Done(PutDone { there: self.there, end });
        }
        if self.index == self.count {
            return Stroke::Done(PutDone { there: self.there, end: PutEnd::Done });
        }
        let unproved = self.drill.plants(Bug::RefreshUnproved) && !remaining.is_zero();
        let counted = if unproved { self.fresh } else { remaining };
        match valid_s(counted, self.grace) {
            Some(valid_s) if self.tries < TRIES_MAX => {
                self.before = now;
                self.tries += 1;
                // Counted as there from now on, whatever the kernel answers.
                let known = self.there.map_or(0, |(_, known)| known);
                self.there = Some((now, known.max(valid_s)));
                Stroke::Write { index: self.index, valid_s }
            }
            _ => Stroke::Done(PutDone { there: self.there, end: PutEnd::OutsideLease }),
        }
    }

    /// The kernel's answer to a `Write`, and clock and lease after it. What to do before [`next`](Self::next).
    pub(crate) fn written(&mut self, answer: Result<(), String>, now: Instant, remaining: Duration) -> Then {
        if let Some((at, _)) = &mut self.there {
            *at = now;
        }
        if let Err(why) = answer {
            self.end = Some(PutEnd::Refused(why));
            return Then::GoOn;
        }
        match judge(now.since(self.before), remaining) {
            Verdict::Good => {
                self.index += 1;
                self.tries = 0;
                Then::GoOn
            }
            Verdict::Again => Then::GoOn,
            Verdict::Remove => {
                self.end = Some(PutEnd::OutsideLease);
                Then::Erase
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(2);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn pen(count: usize) -> Pen {
        Pen::new(count, GRACE, Duration::from_secs(2), Drill::none())
    }

    fn left(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_pause_between_the_clock_and_the_kernel_is_made_good() {
        let mut pen = pen(1);
        assert_eq!(pen.next(at(0), left(1900)), Stroke::Write { index: 0, valid_s: 2 });
        // Still inside the lease, but 2 s from here are too long: written again, for less.
        assert_eq!(pen.written(Ok(()), at(1500), left(400)), Then::GoOn);
        assert_eq!(pen.next(at(1500), left(400)), Stroke::Write { index: 0, valid_s: 1 });
        assert_eq!(pen.written(Ok(()), at(1501), left(399)), Then::GoOn);
        let there = Some((at(1501), 2));
        assert_eq!(pen.next(at(1501), left(399)), Stroke::Done(PutDone { there, end: PutEnd::Done }));
    }

    #[test]
    fn a_lease_that_ran_out_meanwhile_takes_the_address_along() {
        let mut pen = pen(2);
        assert_eq!(pen.next(at(0), left(1900)), Stroke::Write { index: 0, valid_s: 2 });
        assert_eq!(pen.written(Ok(()), at(2000), left(0)), Then::Erase);
        let there = Some((at(2000), 2));
        assert_eq!(pen.next(at(2000), left(0)), Stroke::Done(PutDone { there, end: PutEnd::OutsideLease }));
    }

    #[test]
    fn outside_of_the_lease_nothing_is_written() {
        let done = PutDone { there: None, end: PutEnd::OutsideLease };
        assert_eq!(pen(1).next(at(0), left(0)), Stroke::Done(done));
    }
}
