//! The answer to "may I still?".

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clock::{Instant, SharedClock};
use drill::{Bug, Drill};
use proto::Epoch;
use tokio::sync::Notify;

/// For how long a lease holds with the bug planted that there is none.
const NEVER: Duration = Duration::from_secs(86_400);

/// The answer to "may I still?", read at the last moment before an effect. It never says yes longer than the last
/// committed probe proves, whatever became of the task that probes.
#[derive(Clone)]
pub struct LeaseFlag {
    shared: Arc<Shared>,
}

struct Shared {
    /// Nanoseconds of the clock until which authority holds; 0: it does not.
    until: AtomicU64,
    /// When the probing task was last seen alive, and how long after that it is missed.
    beat: AtomicU64,
    gap: Duration,
    dropped: AtomicBool,
    /// Wakes the prober.
    stir: Arc<Notify>,
    clock: SharedClock,
    /// The leader's term that it is about, if it is about one: the history of a drill tells those.
    epoch: Option<Epoch>,
    drill: Drill,
}

impl fmt::Debug for LeaseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFlag").field("remaining", &self.remaining()).finish()
    }
}

impl LeaseFlag {
    pub(super) fn new(
        gap: Duration,
        clock: SharedClock,
        epoch: Option<Epoch>,
        drill: Drill,
        stir: Arc<Notify>,
    ) -> Self {
        let beat = AtomicU64::new(clock.now().as_nanos());
        let (until, dropped) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { shared: Arc::new(Shared { until, beat, gap, dropped, stir, clock, epoch, drill }) }
    }

    /// Whether authority holds at this moment.
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// For how long authority still holds if nothing is heard any more, not even of the task that probes; zero if it
    /// does not.
    pub fn remaining(&self) -> Duration {
        let shared = &self.shared;
        if shared.drill.plants(Bug::NoLease) {
            return NEVER;
        }
        if shared.dropped.load(Ordering::SeqCst) {
            return Duration::ZERO;
        }
        let until = Instant::from_nanos(shared.until.load(Ordering::SeqCst));
        let missed = Instant::from_nanos(shared.beat.load(Ordering::SeqCst)) + shared.gap;
        // Read last, so that time spent above only shortens the answer.
        until.min(missed).since(shared.clock.now())
    }

    /// What the last committed probe proves: its send instant + T − margin. It may lie in the past, and is
    /// [`Instant::default`] where nothing is proved. For timers that somebody else runs, such as the kernel's: whether
    /// authority holds *now* is what [`holds`](Self::holds) says, which may end earlier.
    pub fn proved_until(&self) -> Instant {
        let shared = &self.shared;
        if shared.dropped.load(Ordering::SeqCst) {
            return Instant::default();
        }
        Instant::from_nanos(shared.until.load(Ordering::SeqCst))
    }

    /// For how long what the last committed probe proves still lasts; zero if authority does not hold now. Longer than
    /// [`remaining`](Self::remaining), which also counts that the task that probes may fall silent: this is for timers that
    /// end by themselves whatever becomes of this process, the kernel's and a guard's.
    pub fn proved_remaining(&self) -> Duration {
        let shared = &self.shared;
        if shared.drill.plants(Bug::NoLease) {
            return NEVER;
        }
        let until = self.proved_until();
        // After what was proved: a flag that falls in between is seen.
        if self.holds() { until.since(shared.clock.now()) } else { Duration::ZERO }
    }

    /// The last question before an effect of the term leaves: whether authority holds. `kind` names the effect in the
    /// history of a drill.
    pub fn lets_out(&self, kind: &'static str) -> bool {
        let Shared { drill, clock, epoch, .. } = &*self.shared;
        let Some(epoch) = epoch.filter(|_| drill.keeps_history()) else { return self.holds() };
        // Read first: a thread that stands still after the look has let nothing out too late because of that.
        let at = clock.now();
        let holds = self.holds();
        if holds {
            drill.record(at, || format!("effect epoch={} kind={kind}", epoch.0));
        }
        holds
    }

    /// Gives authority up, at once and for good: no later probe brings it back.
    pub fn drop_now(&self) {
        let Shared { drill, clock, epoch, .. } = &*self.shared;
        // This runs in a destructor: nothing that could fail without need.
        if !self.shared.dropped.swap(true, Ordering::SeqCst)
            && let Some(epoch) = epoch.filter(|_| drill.keeps_history())
        {
            drill.record(clock.now(), || format!("lease-dropped epoch={}", epoch.0));
        }
        self.shared.stir.notify_one();
    }

    /// A flag that holds until `until` and has no lease behind it, for tests of what reads it.
    pub fn fixed_for_tests(until: Instant, clock: SharedClock) -> Self {
        let flag = Self::new(Duration::MAX, clock, Some(Epoch::default()), Drill::none(), Arc::default());
        flag.extend(until);
        flag
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// A probe that was sent at `sent` has been committed.
    pub(super) fn note_probe(&self, sent: Instant, term: Duration) {
        let Shared { drill, clock, epoch, .. } = &*self.shared;
        let Some(epoch) = epoch else { return };
        let (sent_ns, until_ns) = (sent.as_nanos(), (sent + term).as_nanos());
        drill
            .record(clock.now(), || format!("probe epoch={} sent={sent_ns} valid_until={until_ns}", epoch.0));
    }

    pub(super) fn extend(&self, until: Instant) {
        self.shared.until.fetch_max(until.as_nanos(), Ordering::SeqCst);
    }

    /// The probing task is alive at `now`. After a silence in which anything may have happened nothing counts that was
    /// proved before; returned is then how long that was.
    pub(super) fn beat(&self, now: Instant) -> Option<Duration> {
        let silence = now.since(Instant::from_nanos(self.shared.beat.load(Ordering::SeqCst)));
        let gap = silence > self.shared.gap;
        if gap {
            // Before the beat, which would let the flag hold again.
            self.shared.until.store(0, Ordering::SeqCst);
        }
        self.shared.beat.store(now.as_nanos(), Ordering::SeqCst);
        gap.then_some(silence)
    }
}
