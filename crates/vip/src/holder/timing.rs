//! The arithmetic of D8: for how long the kernel may keep an address.
//!
//! ```text
//!   sent           now        lease ends            everybody else may put it, at the earliest
//! ───┼──────────────┼─────────────┼───────────────────────────────┼───────▶
//!    │ last committed probe       │                               │
//!    ├──────── T − margin ────────┤◀─────── takeover grace ──────▶│
//!                   ├─────────── valid_s ───────────┤◀── 1.1 s ──▶│
//!                                                   └─ the kernel looks at most about a second later
//! ```
//!
//! `valid_s = ⌊sent + (T − margin) − now + grace − 1.1 s⌋`; below 1 nothing is written.
//!
//! A successor's take is committed after our `holder` has gone, so after our session ended, so after our lease; it puts the
//! addresses no earlier than `grace` after that. 1.1 s is what the kernel takes to notice, measured: it looks at expiries
//! at most about once a second over all addresses (3 s were removed after 3.04–3.32 s, the second of two of 2 s after
//! 2.98 s, none early), and 0.1 s for [`PUT_LATE_MAX`] and drift.

use std::time::Duration;

/// From the end of an address's lifetime until the kernel has certainly removed it, and what writing it may be late.
pub(crate) const KERNEL_SLACK: Duration = Duration::from_millis(1100);

/// The slowest answer to a committed probe with which an address can still be kept.
pub(crate) const RTT_MAX: Duration = Duration::from_millis(250);

/// How long after the clock was read a lifetime may be written that was computed from that reading.
pub(crate) const PUT_LATE_MAX: Duration = Duration::from_millis(50);

/// A refresh that would move the kernel's expiry by less is not worth the call.
pub(crate) const REFRESH_MIN: Duration = Duration::from_millis(500);

/// The lifetime to write, in whole seconds: `⌊remaining + grace − 1.1 s⌋`, where `remaining` is what is left of the lease
/// now and `grace` what a successor waits. None: nothing may be written, since the lease is over or the lifetime would be
/// below 1 s, the kernel's smallest.
pub fn valid_s(remaining: Duration, grace: Duration) -> Option<u32> {
    if remaining.is_zero() {
        return None;
    }
    let valid_s = (remaining + grace).checked_sub(KERNEL_SLACK)?.as_secs();
    u32::try_from(valid_s).ok().filter(|valid_s| *valid_s >= 1)
}

/// What became of a lifetime that has been written, after a look at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stands.
    Good,
    /// It was written too late after the clock was read: the kernel may keep it too long. Write it anew.
    Again,
    /// The lease has run out meanwhile: remove it.
    Remove,
}

/// Judges a write that took `took` from reading the clock to the kernel's answer, with `remaining` left of the lease after
/// it.
pub(crate) fn judge(took: Duration, remaining: Duration) -> Verdict {
    if remaining.is_zero() {
        Verdict::Remove
    } else if took > PUT_LATE_MAX {
        Verdict::Again
    } else {
        Verdict::Good
    }
}

/// A lease with which addresses are held, though barely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThinTiming {
    /// The lifetime, in seconds, that an address gets at the slowest answer that counts.
    pub valid_s: u32,
}

impl std::fmt::Display for ThinTiming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "an address may have as little as {} s to live: one late probe and the kernel removes it; raise \
             takeover_grace or the session timeout by a second",
            self.valid_s
        )
    }
}

/// A lease with which no address can be held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "with a session timeout of {timeout:?}, a lease margin of {margin:?} and a takeover grace of {grace:?} an address could \
     not live for even a second: set takeover_grace to {least:?} or more, or raise the session timeout"
)]
pub struct TimingRefusal {
    /// T, the session timeout.
    pub timeout: Duration,
    /// How much earlier a lease ends.
    pub margin: Duration,
    /// What a taker waits.
    pub grace: Duration,
    /// The smallest grace that would do.
    pub least: Duration,
}

/// Whether addresses can be held at all: `⌊T − margin − 1.1 s − 0.25 s (the slowest answer) + grace⌋` is at least 1. Says
/// so if it is below 2.
///
/// # Errors
/// It is below 1.
pub fn check_timing(
    timeout: Duration,
    margin: Duration,
    grace: Duration,
) -> Result<Option<ThinTiming>, TimingRefusal> {
    let remaining = timeout.saturating_sub(margin).saturating_sub(RTT_MAX);
    match valid_s(remaining, grace) {
        Some(valid_s) if valid_s < 2 => Ok(Some(ThinTiming { valid_s })),
        Some(_) => Ok(None),
        None => {
            let needed = Duration::from_secs(1) + KERNEL_SLACK;
            Err(TimingRefusal { timeout, margin, grace, least: needed.saturating_sub(remaining) })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn lifetimes() {
        // (left of the lease, grace, lifetime)
        let rows = [
            (1900, 2000, Some(2)),
            (1900, 3000, Some(3)),
            (1350, 2000, Some(2)),
            (1100, 2000, Some(2)),
            (1099, 2000, Some(1)),
            (100, 2000, Some(1)),
            (99, 2000, None),
            (0, 2000, None),
            (0, 60_000, None),
            (2100, 0, Some(1)),
            (2099, 0, None),
            (1, 500, None),
        ];
        for (remaining, grace, expected) in rows {
            assert_eq!(valid_s(ms(remaining), ms(grace)), expected, "{remaining} ms left, {grace} ms grace");
        }
    }

    #[test]
    fn timings() {
        // (T, margin, grace, the least lifetime; None: refused)
        let rows = [
            (4000, 2100, 2000, Some(2)),
            (4000, 2100, 1000, Some(1)),
            (4000, 2100, 400, None),
            (2000, 600, 2000, Some(2)),
            (2000, 600, 1000, Some(1)),
            (2000, 600, 949, None),
            (2000, 600, 950, Some(1)),
            (1000, 1000, 9000, None),
            (10_000, 2100, 0, Some(6)),
        ];
        for (timeout, margin, grace, least) in rows {
            let got = check_timing(ms(timeout), ms(margin), ms(grace));
            let label = format!("T {timeout}, margin {margin}, grace {grace}: {got:?}");
            match least {
                None => assert!(got.is_err(), "{label}"),
                Some(1) => assert_eq!(got, Ok(Some(ThinTiming { valid_s: 1 })), "{label}"),
                Some(_) => assert_eq!(got, Ok(None), "{label}"),
            }
        }
    }

    #[test]
    fn a_refusal_names_a_grace_that_does() {
        let refusal = check_timing(ms(2000), ms(600), ms(500)).expect_err("that is too short");
        assert_eq!(refusal.least, ms(950));
        assert!(check_timing(ms(2000), ms(600), refusal.least).is_ok());
        assert!(refusal.to_string().contains("takeover_grace to 950ms"), "{refusal}");
    }

    proptest! {
        /// Whatever is left: when the kernel has removed it, the lease's end plus the grace is not over.
        #[test]
        fn the_kernel_is_done_in_time(remaining in 0_u64..20_000, grace in 0_u64..20_000, late in 0_u64..=50) {
            if let Some(valid) = valid_s(ms(remaining), ms(grace)) {
                let gone = ms(late) + Duration::from_secs(valid.into()) + KERNEL_SLACK - PUT_LATE_MAX;
                prop_assert!(gone <= ms(remaining + grace));
                prop_assert!(remaining > 0 && valid >= 1);
            }
        }

        /// What is accepted can be held, also at the slowest answer that counts; what is refused cannot.
        #[test]
        fn what_is_accepted_can_be_held(timeout in 0_u64..20_000, margin in 0_u64..20_000, grace in 0_u64..20_000) {
            let left = ms(timeout).saturating_sub(ms(margin)).saturating_sub(RTT_MAX);
            let held = valid_s(left, ms(grace));
            prop_assert_eq!(check_timing(ms(timeout), ms(margin), ms(grace)).is_ok(), held.is_some());
        }

        /// More lease or more grace is never less time.
        #[test]
        fn it_is_monotonic(remaining in 0_u64..20_000, grace in 0_u64..20_000, more in 0_u64..3000) {
            let before = valid_s(ms(remaining), ms(grace));
            prop_assert!(valid_s(ms(remaining + more), ms(grace)) >= before);
            prop_assert!(remaining == 0 || valid_s(ms(remaining), ms(grace + more)) >= before);
        }
    }
}
