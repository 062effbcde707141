//! The one clock of taskd.
//!
//! Every lease, fence and deadline that protects something reads time here and nowhere else, so that a
//! simulation can hand in its own time and a paused machine is noticed: [`BootClock`] goes on counting while
//! the machine is suspended, which `std::time::Instant` (CLOCK_MONOTONIC) does not.
//!
//! Waiting is done with `tokio::time`; *deciding whether something is still allowed* is done with a [`Clock`].

use std::fmt::Debug;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point on one machine's boot-time clock: nanoseconds since its boot, suspend included.
///
/// Comparable only with instants of the same machine and boot; never sent to another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The instant that lies `nanos` after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at the end of time (584 years of uptime).
    fn add(self, by: Duration) -> Instant {
        Instant(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    /// Saturates at boot.
    fn sub(self, by: Duration) -> Instant {
        Instant(self.0.saturating_sub(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Milliseconds since the Unix epoch, for people and records only: it may jump, so nothing is decided by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallMs(pub u64);

/// Where time comes from.
pub trait Clock: Debug + Send + Sync {
    /// Now, monotonic, counting through suspend.
    fn now(&self) -> Instant;

    /// Now, for people.
    fn wall(&self) -> WallMs;
}

/// A clock that components share.
pub type SharedClock = Arc<dyn Clock>;

/// CLOCK_BOOTTIME.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl BootClock {
    /// The production clock, ready to be shared.
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for BootClock {
    fn now(&self) -> Instant {
        let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .expect("CLOCK_BOOTTIME exists on every Linux since 2.6.39 and its address is ours");
        Instant(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
    }

    fn wall(&self) -> WallMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// A clock that moves only when told to: for tests of pure cores.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<AtomicU64>);

impl ManualClock {
    /// Moves time forward by `by`.
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::SeqCst))
    }

    fn wall(&self) -> WallMs {
        WallMs(self.0.load(Ordering::SeqCst) / 1_000_000)
    }
}

/// A clock that follows `tokio::time`, and so stands still and jumps with a paused runtime.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug)]
pub struct TokioClock(tokio::time::Instant);

#[cfg(feature = "tokio")]
impl TokioClock {
    /// A clock that reads zero now. Call it inside a runtime.
    pub fn start() -> Self {
        Self(tokio::time::Instant::now())
    }
}

#[cfg(feature = "tokio")]
impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant::default() + self.0.elapsed()
    }

    fn wall(&self) -> WallMs {
        WallMs(u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_goes_forward() {
        let clock = BootClock;
        let first = clock.now();
        assert!(clock.now() >= first);
        assert!(clock.wall().0 > 1_600_000_000_000, "the wall clock counts milliseconds since 1970");
    }

    #[test]
    fn arithmetic_saturates() {
        let start = Instant::from_nanos(5);
        assert_eq!(start - Duration::from_secs(1), Instant::default());
        assert_eq!(Instant::default().since(start), Duration::ZERO);
        assert_eq!((Instant::from_nanos(u64::MAX) + Duration::from_secs(1)).as_nanos(), u64::MAX);
    }
}
