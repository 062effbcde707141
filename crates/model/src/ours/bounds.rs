//! How far the model goes.

use std::fmt;
use std::time::Duration;

use drill::Drill;
use election::{HoldDown, Settings};

/// What can go wrong. Each costs one of [`Bounds::faults`]; how it ends (reconnected, restarted, …) is free, at any
/// moment or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The process dies. It may be restarted.
    Crash,
    /// A node's network is gone.
    Cut,
    /// ZooKeeper has no majority.
    Outage,
    /// The process is stopped by a signal, or its machine is paused.
    Pause,
    /// A request was executed, its answer is lost.
    LoseAnswer,
    /// A request is lost.
    LoseRequest,
    /// A write is executed, or not, after its caller has been told that it failed.
    LateWrite,
    /// A request, or its answer, takes as long as it may.
    Slow,
    /// A node is not ready to lead for a while.
    Unready,
    /// The dispatcher of this term never serves.
    Unserved,
    /// What a term fenced does not end in time.
    SlowEnd,
    /// The node is told to stop.
    Stop,
    /// The leader is told to hand over.
    Handover,
    /// The dispatcher says that the term cannot go on.
    Resign,
    /// Another node gets a higher priority.
    Priority,
    /// Something blocks a thread of the leader: the watchdog gives its term up, and its effects do not end.
    Wedge,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Crash,
        Self::Cut,
        Self::Outage,
        Self::Pause,
        Self::LoseAnswer,
        Self::LoseRequest,
        Self::LateWrite,
        Self::Slow,
        Self::Unready,
        Self::Unserved,
        Self::SlowEnd,
        Self::Stop,
        Self::Handover,
        Self::Resign,
        Self::Priority,
        Self::Wedge,
    ];
}

/// Where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Three nodes have just joined.
    Cold,
    /// One has led for a while.
    Warm,
}

/// How far the model goes.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Where it begins.
    pub start: Start,
    /// How many nodes, up to 3.
    pub nodes: usize,
    /// How many faults in all.
    pub faults: u8,
    /// Of which kinds.
    pub kinds: Vec<Kind>,
    /// What was read, or answered, may be overtaken on its way to the node by whatever else happens at that instant.
    pub overtaking: bool,
    /// From elected to serving, and from resigning to effects ended, in units.
    pub serve: u8,
    /// From the last disturbance to a serving leader, in units.
    pub recovery: u8,
    /// From being told to stop to having left, in units.
    pub stop: u8,
    /// From the last sign of life to the end of a session at the earliest, in units. No more than the lease, so that
    /// nothing rests on a margin.
    pub expires_min: u8,
    /// How many steps at most, nearest first.
    pub steps_max: Option<usize>,
    /// Bugs to plant.
    pub drill: Drill,
}

/// The time that all others are multiples of. As long as none of them is 0 the length does not matter.
pub(super) const UNIT: Duration = Duration::from_secs(1);

/// From the send instant of a probe to the end of the lease: T − margin.
pub(super) const LEASE: u8 = 2;
/// From the last sign of life to the end of a session at the latest: one tick more than at the earliest.
pub(super) const EXPIRES_MAX: u8 = 3;
/// ZooKeeper has a majority again: past the point where sessions are given up.
pub(super) const OUTAGE_MAX: u8 = 7;
/// A call is answered, or given up, within this.
pub(super) const CALL: u8 = 1;
/// A join, likewise.
pub(super) const JOIN: u8 = 2;
/// A failed term keeps its node out of the line.
pub(super) const HOLD: HoldDown = HoldDown { first: UNIT.saturating_mul(2), max: UNIT.saturating_mul(4) };

impl Bounds {
    /// All kinds of faults, `faults` of them.
    pub fn new(start: Start, faults: u8) -> Self {
        Self {
            start,
            nodes: 3,
            faults,
            kinds: Kind::ALL.to_vec(),
            overtaking: false,
            serve: 2,
            // T and a tick are 3 of them. One less does not hold.
            recovery: if faults <= 1 { 4 } else { 12 },
            stop: 10,
            expires_min: LEASE,
            steps_max: None,
            drill: Drill::none(),
        }
    }

    /// What fits into a minute without optimisation.
    pub fn small() -> Vec<Self> {
        let quick = |kind: &Kind| !matches!(kind, Kind::Outage | Kind::Pause);
        let mut one = Self::new(Start::Warm, 1);
        one.kinds.retain(quick);
        let mut two = Self::new(Start::Warm, 1).kinds(&[Kind::Outage, Kind::Pause]);
        two.nodes = 2;
        vec![one, two]
    }

    /// What fits into ten minutes of a release build, and 6 GB.
    pub fn full() -> Vec<Self> {
        let calls = [
            Kind::LoseAnswer,
            Kind::LoseRequest,
            Kind::LateWrite,
            Kind::Slow,
            Kind::Unserved,
            Kind::SlowEnd,
            Kind::Resign,
        ];
        let mut any_two = Self::new(Start::Warm, 2);
        any_two.steps_max = Some(5_000_000);
        vec![
            Self::new(Start::Cold, 0),
            Self::new(Start::Warm, 1),
            Self::new(Start::Warm, 2).kinds(&calls),
            any_two,
        ]
    }

    /// With `bug` planted.
    pub fn planted(mut self, bug: drill::Bug) -> Self {
        self.drill = bug.planted();
        self
    }

    /// What may be overtaken is.
    pub fn overtaking(mut self) -> Self {
        self.overtaking = true;
        self
    }

    /// Only these kinds.
    pub fn kinds(mut self, kinds: &[Kind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// The settings that production has, in its proportions, in units.
    pub(super) fn settings(&self, node: usize) -> Settings {
        let units = |count: u8| UNIT * u32::from(count);
        Settings {
            node: super::zk::name(node),
            eligible: true,
            claim_grace: units(1),
            serve_deadline: units(self.serve),
            end_deadline: units(self.serve),
            hysteresis: units(1),
            suspend_max: units(EXPIRES_MAX),
            give_up: units(6),
            answer: units(CALL + 1),
            join: units(JOIN + 1),
            retry: units(1),
            refresh: units(3),
            forgive_after: units(4),
            // With it, the one refresh that is ever drawn is neither shorter nor longer.
            seed: SEED,
            drill: self.drill.clone(),
        }
    }

    /// Whether the example with this index can be reached within these bounds.
    pub(super) fn expects(&self, index: usize) -> bool {
        let has = |kind| self.faults > 0 && self.steps_max.is_none() && self.kinds.contains(&kind);
        match index {
            0 => true,
            1 => has(Kind::Crash),
            2 => has(Kind::Cut),
            3 => has(Kind::Handover),
            4 => has(Kind::Stop),
            _ => has(Kind::Cut),
        }
    }
}

/// See [`Bounds::settings`].
const SEED: u64 = 2108;

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, nodes, faults, kinds, overtaking, steps_max, .. } = self;
        write!(f, "{nodes} nodes, {start:?} start, at most {faults} faults of ")?;
        if kinds.len() == Kind::ALL.len() {
            write!(f, "{} kinds", kinds.len())?;
        } else {
            write!(f, "{kinds:?}")?;
        }
        if *overtaking {
            f.write_str(", answers may be overtaken")?;
        }
        steps_max.map_or(Ok(()), |steps| write!(f, ", the nearest {steps} steps"))
    }
}
