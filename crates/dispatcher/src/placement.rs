//! The runners as the leader knows them, and which one a task goes to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use clock::Instant;
use proto::runner::Capacity;
use proto::{AttemptId, Grant, Incarnation, NodeId};

use crate::queue::Need;

/// One node's runner.
#[derive(Debug)]
pub(crate) struct Runner {
    /// Where its RPC listens, as last heard.
    pub(crate) address: String,
    /// The life that the coordination service lists.
    pub(crate) member: Option<Incarnation>,
    /// The life that sends heartbeats.
    pub(crate) life: Option<Incarnation>,
    pub(crate) capacity: Capacity,
    /// The grant under which it gets starts.
    pub(crate) grant: Grant,
    /// Whether it has said that it holds that grant: before, it would refuse them.
    pub(crate) holds_grant: bool,
    /// When its last heartbeat was answered.
    pub(crate) answered: Option<Instant>,
    /// It gets nothing before that.
    pub(crate) hold_until: Option<Instant>,
    /// Attempts of the present life that have not ended.
    pub(crate) used: u32,
    /// Committed attempts to send, in order.
    pub(crate) outbox: VecDeque<AttemptId>,
    /// Start calls under way.
    pub(crate) calls: u32,
    /// Attempts to ask about; true = also to be cancelled.
    pub(crate) ask: BTreeMap<AttemptId, bool>,
    /// Whether its inventory is wanted although nothing is to be asked.
    pub(crate) inventory_due: bool,
    /// Whether a question is under way.
    pub(crate) asking: bool,
    /// No further question before that.
    pub(crate) ask_at: Instant,
    /// As it stands in the index of free slots.
    listed: Option<u32>,
}

impl Runner {
    fn new() -> Self {
        let capacity =
            Capacity { slots: 0, free: 0, labels: BTreeMap::new(), kinds: Vec::new(), draining: false };
        Self {
            address: String::new(),
            member: None,
            life: None,
            capacity,
            grant: Grant::default(),
            holds_grant: false,
            answered: None,
            hold_until: None,
            used: 0,
            outbox: VecDeque::new(),
            calls: 0,
            ask: BTreeMap::new(),
            inventory_due: false,
            asking: false,
            ask_at: Instant::default(),
            listed: None,
        }
    }

    /// Whether it could run such a task if it had a slot.
    pub(crate) fn suits(&self, need: &Need) -> bool {
        self.capacity.kinds.contains(&need.kind)
            && need.labels.iter().all(|(key, value)| self.capacity.labels.get(key) == Some(value))
    }

    /// Whether starts may be sent: a member's present life that was answered lately, has got its grant and takes work.
    pub(crate) fn ready(&self, now: Instant, fresh: Duration) -> bool {
        !self.capacity.draining
            && self.life.is_some()
            && self.member == self.life
            && self.holds_grant
            && self.answered.is_some_and(|at| now.since(at) <= fresh)
    }

    /// Slots that the leader believes to be free.
    pub(crate) fn free(&self) -> u32 {
        self.capacity.slots.saturating_sub(self.used)
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Runners {
    list: BTreeMap<NodeId, Runner>,
    /// Those with free slots, most free first.
    free: BTreeSet<(Reverse<u32>, NodeId)>,
    /// For how long after its last answered heartbeat a runner is taken to be there.
    pub(crate) fresh: Duration,
}

impl Runners {
    pub(crate) fn new(fresh: Duration) -> Self {
        Self { list: BTreeMap::new(), free: BTreeSet::new(), fresh }
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Runner> {
        self.list.get(node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Runner)> {
        self.list.iter()
    }

    /// The kinds that the members run, if `kind` is surely none of them: every member has been heard of. None if a
    /// member runs it, or may.
    pub(crate) fn kinds_without(&self, kind: &str) -> Option<Vec<&str>> {
        let members = || self.list.values().filter(|runner| runner.member.is_some());
        let runs = |runner: &Runner| runner.capacity.kinds.iter().any(|known| known == kind);
        // The first one usually runs it, so this costs next to nothing for each submission.
        if members().any(|runner| runs(runner) || runner.answered.is_none()) || members().next().is_none() {
            return None;
        }
        let kinds: BTreeSet<&str> =
            members().flat_map(|runner| &runner.capacity.kinds).map(String::as_str).collect();
        Some(kinds.into_iter().collect())
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.list.keys().cloned().collect()
    }

    /// Makes sure that there is an entry.
    pub(crate) fn ensure(&mut self, node: &NodeId) {
        if !self.list.contains_key(node) {
            self.list.insert(node.clone(), Runner::new());
        }
    }

    /// Changes an entry and its place among the free ones; none if there is no such entry.
    pub(crate) fn change<R>(
        &mut self,
        node: &NodeId,
        now: Instant,
        change: impl FnOnce(&mut Runner) -> R,
    ) -> Option<R> {
        let runner = self.list.get_mut(node)?;
        let result = change(runner);
        if runner.hold_until.is_some_and(|until| now >= until) {
            runner.hold_until = None;
        }
        let takes = runner.ready(now, self.fresh) && runner.hold_until.is_none();
        let listed = takes.then(|| runner.free()).filter(|free| *free > 0);
        if listed != runner.listed {
            if let Some(free) = runner.listed {
                self.free.remove(&(Reverse(free), node.clone()));
            }
            if let Some(free) = listed {
                self.free.insert((Reverse(free), node.clone()));
            }
            runner.listed = listed;
        }
        Some(result)
    }

    /// Forgets a runner about which nothing is left to know.
    pub(crate) fn remove(&mut self, node: &NodeId) {
        if let Some(runner) = self.list.remove(node)
            && let Some(free) = runner.listed
        {
            self.free.remove(&(Reverse(free), node.clone()));
        }
    }

    /// Lets time act on every entry; whether one came to have free slots.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        let mut freed = false;
        for node in self.nodes() {
            let before = self.list.get(&node).and_then(|runner| runner.listed);
            self.change(&node, now, |_| ());
            freed |= before.is_none() && self.list.get(&node).is_some_and(|runner| runner.listed.is_some());
        }
        freed
    }

    /// Whether any slot is free.
    pub(crate) fn any_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// The node with most free slots that suits; of equals the first by name.
    pub(crate) fn best(&self, need: &Need) -> Option<&NodeId> {
        let mut free = self.free.iter().map(|(_, node)| node);
        free.find(|node| self.list.get(*node).is_some_and(|runner| runner.suits(need)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_free_first_and_only_where_it_suits() {
        let now = Instant::from_nanos(5_000_000_000);
        let life = Incarnation::from_u128(1);
        let mut runners = Runners::new(Duration::from_secs(3));
        let nodes: Vec<NodeId> = ["n1", "n2", "n3"].iter().map(|n| n.parse().expect("valid")).collect();
        for (node, (slots, zone)) in nodes.iter().zip([(2, "a"), (3, "b"), (3, "a")]) {
            runners.ensure(node);
            runners.change(node, now, |runner| {
                runner.capacity.slots = slots;
                runner.capacity.kinds = vec!["noop".to_owned()];
                runner.capacity.labels.insert("zone".to_owned(), zone.to_owned());
                (runner.member, runner.life, runner.answered) = (Some(life), Some(life), Some(now));
                runner.holds_grant = true;
            });
        }
        let need = |kind: &str, zone: Option<&str>| Need {
            kind: kind.to_owned(),
            labels: zone.map(|zone| ("zone".to_owned(), zone.to_owned())).into_iter().collect(),
            limits: Vec::new(),
        };
        let mut placed = Vec::new();
        while let Some(node) = runners.best(&need("noop", None)).cloned() {
            placed.push(node.as_str().to_owned());
            runners.change(&node, now, |runner| runner.used += 1);
        }
        assert_eq!(placed, ["n2", "n3", "n1", "n2", "n3", "n1", "n2", "n3"]);
        assert!(!runners.any_free());
        for node in &nodes {
            runners.change(node, now, |runner| runner.used = 0);
        }
        assert_eq!(runners.best(&need("noop", Some("a"))).map(NodeId::as_str), Some("n3"));
        assert_eq!(runners.best(&need("exec", None)), None);
        assert_eq!(runners.best(&need("noop", Some("c"))), None);

        let late = now + Duration::from_secs(4);
        assert!(!runners.tick(late));
        assert_eq!(runners.best(&need("noop", None)), None, "nobody has been heard of lately");
        runners.change(&nodes[0], late, |runner| {
            (runner.answered, runner.hold_until) = (Some(late), Some(late + Duration::from_millis(1)));
        });
        assert_eq!(runners.best(&need("noop", None)), None, "held");
        assert!(runners.tick(late + Duration::from_millis(1)));
        assert_eq!(runners.best(&need("noop", None)), Some(&nodes[0]));
    }
}
