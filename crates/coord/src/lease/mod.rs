//! Authority in ZooKeeper, for as long as this process can prove that its session lives (D5 "Lease").
//!
//! ```text
//! send instant of the last committed probe ──────── T − margin ────────▶│ authority ends here, on our own timer
//!                                                                       │◀── margin ──▶│ earliest expiry on the server
//! ```
//!
//! A probe is a committed `multi` [check every authority node, set the probe node]: only a commit proves the session
//! alive (a deposed leader answers `sync`, a cut-off follower answers reads), and it notices authority that is gone.
//!
//! Probes overlap: the next is sent when its time has come, answered the last or not. Were they sent one after the
//! other, a slow answer would delay the next *send*, and it is the send instant that counts.
//!
//! One prober proves any number of authorities, its [`Hold`]s, with one probe for all of them: a [`GroupLease`]. A
//! [`Lease`] is a group of one. Each hold has its own flag and its own end: authority that is gone ends that hold alone.

mod flag;
pub use flag::LeaseFlag;

mod group;
pub use group::{GroupLease, Hold};

mod prober;

use std::time::Duration;

use clock::{Instant, SharedClock};
use proto::Epoch;
use tokio::sync::watch;

use crate::{Link, Op};

/// The three durations of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTiming {
    /// T: the negotiated session timeout.
    pub timeout: Duration,
    /// How much earlier authority ends: one tick and some drift.
    pub margin: Duration,
    /// Between two probes.
    pub period: Duration,
}

impl LeaseTiming {
    /// The period of D5: min(T/6, tick/2).
    pub fn new(timeout: Duration, margin: Duration, tick: Duration) -> Self {
        Self { timeout, margin, period: (timeout / 6).min(tick / 2).max(Duration::from_millis(10)) }
    }

    /// For how long one committed probe is a proof, from its sending.
    pub fn term(&self) -> Duration {
        self.timeout.saturating_sub(self.margin)
    }

    /// A silence of the probing task after which nothing it had proved counts: the process was stopped or the machine
    /// paused, and what the clock did meanwhile is not known.
    fn gap(&self) -> Duration {
        self.period + self.term() / 2
    }
}

/// What a lease is worth now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Authority holds. Read [`LeaseFlag::holds`] before every effect all the same.
    Held,
    /// Not proved in time: every effect has to stop. It is held again when a probe commits.
    Lapsed,
    /// Gone for good.
    Lost {
        /// Why, for people.
        reason: String,
    },
}

/// Keeps one authority proved: owns the task that probes.
#[derive(Debug)]
pub struct Lease {
    // Given up before its group ends.
    hold: Hold,
    group: GroupLease,
}

impl Lease {
    /// Starts probing. `authority` are the checks that must hold, `probe_path` a node that nobody watches (it is
    /// created if missing), `first_proof` the send instant of the committed write that took the authority in `epoch`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(
        link: Link,
        authority: Vec<Op>,
        probe_path: String,
        epoch: Epoch,
        first_proof: Instant,
        timing: LeaseTiming,
        clock: SharedClock,
    ) -> Lease {
        let group = GroupLease::start(link, probe_path, timing, clock);
        let hold = group.hold_in(authority, first_proof, Some(epoch));
        Lease { hold, group }
    }

    /// The flag to read before every effect.
    pub fn flag(&self) -> LeaseFlag {
        self.hold.flag.clone()
    }

    /// What the lease is worth, now and as it changes.
    pub fn states(&self) -> watch::Receiver<LeaseState> {
        self.hold.states.clone()
    }

    /// Gives authority up and stops probing.
    ///
    /// # Cancel safety
    /// Cancelled, it has given authority up and stopped probing all the same.
    pub async fn stop(self) {
        let Lease { hold, group } = self;
        hold.flag.drop_now();
        group.stop().await;
    }
}
