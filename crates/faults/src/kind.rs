//! The kinds of faults, and a plan of one: drawn from a seed, so that it can be drawn again.

use std::time::Duration;

use clap::ValueEnum;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

/// What goes wrong. "Node" is the leader in three cases of four, else another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Kind {
    /// A node's packets are dropped both ways
    NodeCut,
    /// What is sent to a node is dropped; what it sends arrives
    NodeDeaf,
    /// What a node sends is dropped; what is sent to it arrives
    NodeMute,
    /// A node's connections are answered with RST, both ways
    NodeRejected,
    /// A node has no route to anybody: connecting fails at once
    RouteRemoved,
    /// A node is cut from ZooKeeper alone, and heard by the other nodes
    CoordinationCut,
    /// A node loses a third of its packets both ways
    PacketLoss,
    /// The leading node's only ZooKeeper server is cut from the other servers, and goes on answering reads
    FollowerCut,
    /// SIGSTOP of the leading node
    LeaderPaused,
    /// SIGSTOP of another node
    FollowerPaused,
    /// SIGSTOP of ZooKeeper's leader
    EnsemblePaused,
    /// kill -9 and restart of a ZooKeeper server
    ServerKilled,
    /// Each ZooKeeper server is killed and restarted, one after the other
    ServersRolled,
    /// All of ZooKeeper is down for a while
    EnsembleDown,
    /// kill -9 of the leading node, and restart
    LeaderKilled,
    /// kill -9 of another node, and restart
    FollowerKilled,
    /// SIGTERM of the leading node, and restart
    LeaderStopped,
    /// A node's wall clock jumps, and later jumps back
    ClockStepped,
    /// Two at once: of the leading node, and of ZooKeeper or of another node
    Pair,
}

/// On whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The node that leads when the fault begins.
    Leader,
    /// One that does not; which of them is drawn.
    Other(usize),
    /// ZooKeeper; where the kind leaves a choice, it is drawn.
    Ensemble(usize),
}

/// One fault, or one half of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Act {
    pub(crate) kind: Kind,
    pub(crate) victim: Victim,
}

/// A fault with everything that is drawn about it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) acts: Vec<Act>,
    /// Between the two of a pair.
    pub(crate) apart: Duration,
    /// How long it lasts.
    pub(crate) hold: Duration,
    /// A node is told to stop at this part of the time, from 0 to 1, and which.
    pub(crate) stop: Option<(f64, usize)>,
    /// By how much a wall clock is set off.
    pub(crate) step_s: i64,
}

const NODE_KINDS: [Kind; 7] = [
    Kind::NodeCut,
    Kind::NodeDeaf,
    Kind::NodeMute,
    Kind::NodeRejected,
    Kind::RouteRemoved,
    Kind::CoordinationCut,
    Kind::LeaderKilled,
];
const ENSEMBLE_KINDS: [Kind; 3] = [Kind::ServerKilled, Kind::EnsemblePaused, Kind::EnsembleDown];
const STEPS_S: [i64; 4] = [3_600, -3_600, 90, -90];

/// Deals all kinds before it deals one again.
#[derive(Debug)]
pub(crate) struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        Self { kinds: kinds.to_vec(), left: Vec::new() }
    }

    /// The next fault, where `timeout` is T.
    pub(crate) fn deal(&mut self, timeout: Duration, random: &mut StdRng) -> Plan {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            self.left.shuffle(random);
        }
        let kind = self.left.pop().unwrap_or(Kind::NodeCut);
        let acts = acts(kind, random);
        let (least, most) = hold(kind);
        let stoppable = !matches!(kind, Kind::LeaderStopped | Kind::ServersRolled);
        Plan {
            kind,
            acts,
            apart: Duration::from_millis(random.random_range(0..800)),
            hold: timeout.mul_f64(random.random_range(least..most)),
            stop: (stoppable && random.random_ratio(1, 3))
                .then(|| (random.random_range(0.0..1.0), random.random_range(0..6))),
            step_s: STEPS_S[random.random_range(0..STEPS_S.len())],
        }
    }
}

fn acts(kind: Kind, random: &mut StdRng) -> Vec<Act> {
    let other = Victim::Other(random.random_range(0..2));
    let ensemble = Victim::Ensemble(random.random_range(0..6));
    let one = |victim| vec![Act { kind, victim }];
    match kind {
        Kind::Pair => {
            let first =
                Act { kind: NODE_KINDS[random.random_range(0..NODE_KINDS.len())], victim: Victim::Leader };
            let second = if random.random_ratio(1, 2) {
                Act { kind: ENSEMBLE_KINDS[random.random_range(0..ENSEMBLE_KINDS.len())], victim: ensemble }
            } else {
                Act { kind: NODE_KINDS[random.random_range(0..NODE_KINDS.len())], victim: other }
            };
            vec![first, second]
        }
        Kind::LeaderPaused | Kind::LeaderKilled | Kind::LeaderStopped | Kind::FollowerCut => {
            one(Victim::Leader)
        }
        Kind::FollowerPaused | Kind::FollowerKilled => one(other),
        Kind::EnsemblePaused | Kind::ServerKilled | Kind::ServersRolled | Kind::EnsembleDown => one(ensemble),
        _ => one(if random.random_ratio(3, 4) { Victim::Leader } else { other }),
    }
}

/// For how long it lasts, in T: from a blip that every session survives to an absence that none does.
fn hold(kind: Kind) -> (f64, f64) {
    match kind {
        Kind::LeaderPaused | Kind::FollowerPaused | Kind::EnsemblePaused => (1.0, 3.0),
        Kind::RouteRemoved => (1.6, 2.6),
        Kind::FollowerCut => (1.2, 2.2),
        Kind::ServersRolled => (0.0, 0.1),
        Kind::EnsembleDown => (0.2, 1.8),
        Kind::LeaderKilled | Kind::FollowerKilled | Kind::LeaderStopped => (0.05, 1.8),
        _ => (0.3, 2.2),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn every_kind_is_dealt_once_before_any_again_and_the_same_seed_deals_the_same() {
        let deal = || {
            let (mut deck, mut random) = (Deck::new(Kind::value_variants()), StdRng::seed_from_u64(7));
            (0..Kind::value_variants().len() * 3)
                .map(|_| deck.deal(Duration::from_secs(2), &mut random))
                .collect::<Vec<_>>()
        };
        let plans = deal();
        for round in plans.chunks(Kind::value_variants().len()) {
            let mut kinds: Vec<_> = round.iter().map(|plan| plan.kind).collect();
            kinds.sort();
            assert_eq!(kinds, Kind::value_variants());
        }
        assert_eq!(format!("{plans:?}"), format!("{:?}", deal()));
    }

    #[test]
    fn a_pair_leaves_a_node_and_a_majority_alone() {
        let (mut deck, mut random) = (Deck::new(&[Kind::Pair]), StdRng::seed_from_u64(1));
        for _ in 0..100 {
            let plan = deck.deal(Duration::from_secs(2), &mut random);
            assert!(matches!(
                (plan.acts[0].victim, plan.acts[1].victim),
                (Victim::Leader, Victim::Other(0 | 1) | Victim::Ensemble(_))
            ));
        }
    }
}
