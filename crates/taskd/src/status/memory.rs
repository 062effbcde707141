//! What a node remembers for `cluster status`: since when the leader has been silent, and who comes and goes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clock::Instant;
use proto::NodeId;

/// How far back joins are remembered.
const JOINS_WITHIN: Duration = Duration::from_secs(600);

/// Joins of one node that are remembered.
const JOINS_MAX: usize = 16;

/// Nodes that are remembered.
const NODES_MAX: usize = 4_096;

/// From how many joins on a node is said to come and go: the first one, and three more.
const FLAPS_FROM: usize = 4;

/// Cheap to clone; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<Remembered>>);

#[derive(Debug, Default)]
struct Remembered {
    /// The leader's address, and since when no call to it was answered.
    silent: Option<(String, Instant)>,
    joins: BTreeMap<NodeId, Joins>,
}

#[derive(Debug, Default)]
struct Joins {
    at: VecDeque<Instant>,
    /// The highest member sequence seen.
    last: Option<u64>,
}

/// A node that has joined again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flapping {
    pub(super) node: NodeId,
    /// Joins within `span`, the first one not counted.
    pub(super) again: usize,
    pub(super) span: Duration,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        // Plain data: a panic elsewhere cannot have left it half-written in a way that matters here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader has answered a call.
    pub(crate) fn leader_answered(&self) {
        self.lock().silent = None;
    }

    /// A call to the leader at `address`, begun at `begun`, was not answered.
    pub(crate) fn leader_silent(&self, address: &str, begun: Instant) {
        let mut remembered = self.lock();
        if remembered.silent.as_ref().is_none_or(|(known, _)| known != address) {
            remembered.silent = Some((address.to_owned(), begun));
        }
    }

    /// For how long the leader at `address` has not answered, if its last call was not.
    pub(super) fn silent_for(&self, address: &str, now: Instant) -> Option<Duration> {
        let remembered = self.lock();
        let (_, since) = remembered.silent.as_ref().filter(|(known, _)| known == address)?;
        Some(now.since(*since))
    }

    /// Takes note of the members that there are: node and sequence of each.
    pub(crate) fn members<'a>(&self, members: impl Iterator<Item = (&'a NodeId, u64)>, now: Instant) {
        let mut remembered = self.lock();
        for (node, sequence) in members {
            if remembered.joins.len() >= NODES_MAX && !remembered.joins.contains_key(node) {
                remembered.joins.retain(|_, joins| joins.recent(now) > 0);
            }
            let joins = remembered.joins.entry(node.clone()).or_default();
            // A twin of the same name alternates with it in the list, which is no coming and going.
            if joins.last.is_none_or(|known| sequence > known) {
                joins.last = Some(sequence);
                joins.at.push_back(now);
                if joins.at.len() > JOINS_MAX {
                    joins.at.pop_front();
                }
            }
        }
    }

    pub(super) fn flapping(&self, now: Instant) -> Vec<Flapping> {
        let remembered = self.lock();
        let flaps = remembered.joins.iter().filter_map(|(node, joins)| {
            let count = joins.recent(now);
            let first = joins.at.iter().rev().nth(count.checked_sub(1)?)?;
            (count >= FLAPS_FROM).then(|| Flapping {
                node: node.clone(),
                again: count - 1,
                span: now.since(*first),
            })
        });
        flaps.collect()
    }
}

impl Joins {
    fn recent(&self, now: Instant) -> usize {
        self.at.iter().rev().take_while(|at| now.since(**at) <= JOINS_WITHIN).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::default() + Duration::from_secs(seconds)
    }

    #[test]
    fn silence_counts_from_the_first_call_that_was_not_answered() {
        let memory = Memory::default();
        memory.leader_silent("a:1", at(10));
        memory.leader_silent("a:1", at(12));
        assert_eq!(memory.silent_for("a:1", at(15)), Some(Duration::from_secs(5)));
        assert_eq!(memory.silent_for("b:1", at(15)), None, "another leader is another matter");
        memory.leader_answered();
        assert_eq!(memory.silent_for("a:1", at(15)), None);
    }

    #[test]
    fn whoever_joins_again_and_again_comes_and_goes() {
        let memory = Memory::default();
        let (calm, busy): (NodeId, NodeId) = ("n1".parse().unwrap(), "n2".parse().unwrap());
        for turn in 0..5 {
            let members = [(&calm, 1), (&busy, 10 + turn)];
            memory.members(members.into_iter(), at(100 * turn));
            // The same list again is no news.
            memory.members(members.into_iter(), at(100 * turn + 1));
        }
        let flapping = Flapping { node: busy, again: 4, span: Duration::from_secs(400) };
        assert_eq!(memory.flapping(at(400)), [flapping]);
        assert_eq!(memory.flapping(at(2_000)), [], "long ago");
    }
}
