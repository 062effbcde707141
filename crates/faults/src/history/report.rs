//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use clock::Instant;

use super::Timing;

/// A promise that the histories can show to be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Every line makes sense.
    Malformed,
    /// An epoch is claimed once, by one node, and everybody who names its leader names that one.
    OneOwner,
    /// Epochs are claimed in their order.
    EpochOrder,
    /// A leader has effects only under an epoch that it claimed itself, from its claim on.
    Unclaimed,
    /// Each effect lies inside the lease.
    OutsideLease,
    /// No effect follows the end of authority that the node itself declared.
    AfterDrop,
    /// `leader` is deleted only after the last effect of its epoch, and after authority has ended.
    EarlyRelease,
    /// The effects of an epoch end before those of any higher one begin.
    Overlap,
    /// An epoch is claimed only when nobody is entitled by a lower one any more.
    TwoEntitled,
    /// No node takes its lease for longer than T − margin from a probe's sending.
    LeaseArithmetic,
    /// A runner takes no orders of a leader that is older than one it has heard.
    StaleAccepted,
    /// What is opened is closed exactly once.
    ClosedOnce,
    /// A node leaves, which releases its fences, only when what they fence has ended.
    LeftWithEffects,
    /// A stop ends in time.
    SlowStop,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// By whom, when, and what it means.
    pub text: String,
}

impl From<Violation> for String {
    fn from(violation: Violation) -> Self {
        violation.to_string()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// What an epoch came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The epoch.
    pub epoch: u64,
    /// Who claimed it.
    pub node: String,
    /// When its claim was known to be committed.
    pub claimed: Instant,
    /// Its effects.
    pub effects: u64,
    /// When it had the first of them: it serves from there on.
    pub first_effect: Option<Instant>,
    /// When it had the last of them.
    pub last_effect: Option<Instant>,
    /// When its dispatcher was known to have ended.
    pub ended: Option<Instant>,
    /// When its `leader` was deleted.
    pub released: Option<Instant>,
}

/// Nobody led: no node was inside its lease and had begun to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The epoch that ended before.
    pub after: u64,
    /// The epoch that ended it, or none until the histories end.
    pub before: Option<u64>,
    /// Its beginning, in nanoseconds since boot.
    pub from_ns: u64,
    /// Its end.
    pub to_ns: u64,
}

impl Gap {
    /// How long it was.
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.to_ns.saturating_sub(self.from_ns))
    }
}

/// Everything that the histories say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything that must not be. An offence that is repeated within one epoch is one violation.
    pub violations: Vec<Violation>,
    /// Leader effects that were looked at. None at all proves nothing.
    pub effects: u64,
    /// The same, by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Epochs that were claimed.
    pub epochs: u64,
    /// What became of each, by epoch.
    pub terms: Vec<Term>,
    /// Leaderless intervals from the first effect on, by time.
    pub gaps: Vec<Gap>,
    /// How long each stop took that came to its end.
    pub stops: Vec<(String, Duration)>,
    /// When each node had an effect, by time.
    pub(crate) served: Vec<(Instant, u64)>,
}

impl Report {
    /// Whether a rule was broken.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }

    /// How long after `instant` a leader had an effect for the first time; none if nobody had one since.
    pub fn served_after(&self, instant: Instant) -> Option<Duration> {
        let next = self.served.partition_point(|(at, _)| *at < instant);
        self.served.get(next).map(|(at, _)| at.since(instant))
    }

    /// The same, of an epoch above `epoch`.
    pub fn succeeded_after(&self, instant: Instant, epoch: u64) -> Option<Duration> {
        let next = self.served.partition_point(|(at, _)| *at < instant);
        let mut later = self.served[next..].iter();
        later.find(|(_, served)| *served > epoch).map(|(at, _)| at.since(instant))
    }

    /// The longest leaderless interval that ended.
    pub fn longest_gap(&self) -> Option<&Gap> {
        self.gaps.iter().filter(|gap| gap.before.is_some()).max_by_key(|gap| gap.length())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} epochs, {} effects, {} leaderless intervals, {} stops, {} violations",
            self.epochs,
            self.effects,
            self.gaps.len(),
            self.stops.len(),
            self.violations.len()
        )?;
        if let Some(gap) = self.longest_gap() {
            writeln!(
                f,
                "the longest leaderless interval: {:?}, before epoch {:?}",
                gap.length(),
                gap.before
            )?;
        }
        self.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}

/// An instant as the files have it, with a point where the seconds end.
pub(crate) fn at(instant: Instant) -> String {
    let nanos = instant.as_nanos();
    format!("{}.{:09} s", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// What the lease of a probe sent then is made of.
pub(crate) fn lease(sent: Instant, timing: Timing) -> String {
    format!("sent at {} + T {:?} − margin {:?}", at(sent), timing.timeout, timing.margin)
}
