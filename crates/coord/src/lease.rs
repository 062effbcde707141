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

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clock::{Instant, SharedClock};
use drill::{Bug, Drill};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use proto::Epoch;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::session::over;
use crate::{Link, Op, Rejection, WriteError};

/// Probes on their way at the same time; an answer that is older proves nothing any more.
const IN_FLIGHT_MAX: usize = 16;

/// For how long a lease holds with the bug planted that there is none.
const NEVER: Duration = Duration::from_secs(86_400);

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
    drop_noticed: Notify,
    clock: SharedClock,
    /// The term that it is about.
    epoch: Epoch,
    drill: Drill,
}

impl fmt::Debug for LeaseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseFlag").field("remaining", &self.remaining()).finish()
    }
}

impl LeaseFlag {
    fn new(gap: Duration, clock: SharedClock, epoch: Epoch, drill: Drill) -> Self {
        let beat = AtomicU64::new(clock.now().as_nanos());
        let (until, dropped, drop_noticed) = (AtomicU64::new(0), AtomicBool::new(false), Notify::new());
        Self { shared: Arc::new(Shared { until, beat, gap, dropped, drop_noticed, clock, epoch, drill }) }
    }

    /// Whether authority holds at this moment.
    pub fn holds(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// For how long authority still holds if nothing is heard any more; zero if it does not.
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

    /// The last question before an effect of the term leaves: whether authority holds. `kind` names the effect in the
    /// history of a drill.
    pub fn lets_out(&self, kind: &'static str) -> bool {
        let Shared { drill, clock, epoch, .. } = &*self.shared;
        if !drill.keeps_history() {
            return self.holds();
        }
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
        if !self.shared.dropped.swap(true, Ordering::SeqCst) && drill.keeps_history() {
            drill.record(clock.now(), || format!("lease-dropped epoch={}", epoch.0));
        }
        self.shared.drop_noticed.notify_one();
    }

    /// A flag that holds until `until` and has no lease behind it, for tests of what reads it.
    pub fn fixed_for_tests(until: Instant, clock: SharedClock) -> Self {
        let flag = Self::new(Duration::MAX, clock, Epoch::default(), Drill::none());
        flag.shared.until.store(until.as_nanos(), Ordering::SeqCst);
        flag
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.shared.dropped.load(Ordering::SeqCst)
    }

    /// A probe that was sent at `sent` has been committed.
    fn note_probe(&self, sent: Instant, term: Duration) {
        let Shared { drill, clock, epoch, .. } = &*self.shared;
        let (sent_ns, until_ns) = (sent.as_nanos(), (sent + term).as_nanos());
        drill
            .record(clock.now(), || format!("probe epoch={} sent={sent_ns} valid_until={until_ns}", epoch.0));
    }

    fn extend(&self, until: Instant) {
        self.shared.until.fetch_max(until.as_nanos(), Ordering::SeqCst);
    }

    fn suspend(&self) {
        self.shared.until.store(0, Ordering::SeqCst);
    }

    fn beat(&self, now: Instant) {
        self.shared.beat.store(now.as_nanos(), Ordering::SeqCst);
    }
}

/// Keeps authority proved: owns the task that probes.
#[derive(Debug)]
pub struct Lease {
    flag: LeaseFlag,
    states: watch::Receiver<LeaseState>,
    tasks: JoinSet<()>,
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
        let flag = LeaseFlag::new(timing.gap(), clock.clone(), epoch, link.drill().clone());
        flag.extend(first_proof + timing.term());
        let first = if flag.holds() { LeaseState::Held } else { LeaseState::Lapsed };
        let (publish, states) = watch::channel(first);
        let mut ops = authority;
        ops.push(Op::Set { path: probe_path.clone(), data: Vec::new(), version: None });
        let pulse = link.pulse().clone();
        let prober = Prober { link, ops, probe_path, timing, clock, flag: flag.clone(), publish };
        let mut tasks = JoinSet::new();
        tasks.spawn(pulse.watch("its lease", prober.run()));
        Lease { flag, states, tasks }
    }

    /// The flag to read before every effect.
    pub fn flag(&self) -> LeaseFlag {
        self.flag.clone()
    }

    /// What the lease is worth, now and as it changes.
    pub fn states(&self) -> watch::Receiver<LeaseState> {
        self.states.clone()
    }

    /// Gives authority up and stops probing.
    ///
    /// # Cancel safety
    /// Cancelled, it has given authority up and stopped probing all the same.
    pub async fn stop(mut self) {
        self.flag.drop_now();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Lease {
    /// Nobody extends the flag from here on, so it must not hold on.
    fn drop(&mut self) {
        self.flag.drop_now();
    }
}

struct Prober {
    link: Link,
    ops: Vec<Op>,
    probe_path: String,
    timing: LeaseTiming,
    clock: SharedClock,
    flag: LeaseFlag,
    publish: watch::Sender<LeaseState>,
}

impl Prober {
    async fn run(self) {
        let reason = self.probe().await;
        self.flag.drop_now();
        tracing::info!(probe = %self.probe_path, %reason, "lease lost");
        self.publish.send_replace(LeaseState::Lost { reason });
    }

    /// Until authority is gone for good; returns why.
    async fn probe(&self) -> String {
        let mut ticks = tokio::time::interval(self.timing.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut probes = FuturesUnordered::new();
        // A proof that was sent before this is no proof: the clock had a gap since.
        let mut not_before = Instant::default();
        let mut last = self.clock.now();
        let over = over(self.link.state());
        tokio::pin!(over);
        loop {
            let lapse = tokio::time::sleep(self.flag.remaining());
            let held = self.flag.holds();
            tokio::select! {
                biased;
                () = self.flag.shared.drop_noticed.notified() => return "it was given up".into(),
                ended = &mut over => return ended.to_string(),
                Some(proof) = probes.next(), if !probes.is_empty() => match proof {
                    Ok(Some(sent)) => {
                        self.flag.note_probe(sent, self.timing.term());
                        if sent >= not_before {
                            self.flag.extend(sent + self.timing.term());
                        }
                    }
                    Ok(None) => {}
                    Err(reason) => return reason,
                },
                _ = ticks.tick() => {
                    let now = self.clock.now();
                    let gap = now.since(last);
                    if gap > self.timing.gap() {
                        tracing::warn!(?gap, "this process stood still: authority is dropped until it is proved anew");
                        self.flag.suspend();
                        not_before = now;
                    }
                    last = now;
                    self.flag.beat(now);
                    if probes.len() < IN_FLIGHT_MAX {
                        probes.push(self.once());
                    }
                }
                () = lapse, if held => {}
            }
            if self.flag.is_dropped() {
                return "it was given up".into();
            }
            self.show();
        }
    }

    /// One probe: when it was sent, if it was committed; why authority is gone, if it is.
    async fn once(&self) -> Result<Option<Instant>, String> {
        // An answer that takes longer proves nothing.
        let Ok(answer) = tokio::time::timeout(self.timing.term(), self.link.probe(&self.ops)).await else {
            return Ok(None);
        };
        match answer {
            Ok(sent) => Ok(sent),
            Err(WriteError::Rejected { op, reason: Rejection::NoNode }) if op + 1 == self.ops.len() => {
                match self.link.ensure(&self.probe_path).await {
                    Ok(()) => tracing::info!(path = %self.probe_path, "probe node created"),
                    Err(error) => tracing::warn!(%error, "the lease cannot be proved"),
                }
                Ok(None)
            }
            Err(WriteError::Rejected { op, reason: Rejection::NoNode | Rejection::BadVersion }) => {
                let path = self.ops.get(op).map_or("?", Op::path);
                Err(format!("{path} is not ours any more"))
            }
            Err(WriteError::Rejected { op, reason }) => {
                tracing::warn!(path = self.ops.get(op).map_or("?", Op::path), %reason, "a lease probe was refused");
                Ok(None)
            }
            Err(WriteError::Ended(ended)) => Err(ended.to_string()),
            Err(WriteError::Unknown) => Ok(None),
        }
    }

    fn show(&self) {
        let state = if self.flag.holds() { LeaseState::Held } else { LeaseState::Lapsed };
        self.publish.send_if_modified(|shown| {
            let changed = *shown != state;
            if changed {
                tracing::debug!(from = ?shown, to = ?state, probe = %self.probe_path, "lease");
                *shown = state.clone();
            }
            changed
        });
    }
}
