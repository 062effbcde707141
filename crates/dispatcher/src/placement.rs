//! The runners as the leader knows them, and which one a task goes to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use clock::Instant;
use proto::operate::Quota;
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
    /// It gets nothing until an operator says so.
    drained: bool,
    /// Slots of the attempts of the present life that have not ended.
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
            drained: false,
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
            && need.placing.as_deref().is_none_or(|placing| {
                placing.slots <= self.capacity.slots
                    && placing.require.iter().all(|term| term.is_met_by(&self.capacity.labels))
            })
    }

    /// Whether an operator has said that it gets nothing.
    pub(crate) fn drained(&self) -> bool {
        self.drained
    }

    /// Whether starts may be sent: a member's present life that was answered lately, has got its grant and takes work.
    pub(crate) fn ready(&self, now: Instant, fresh: Duration) -> bool {
        !self.capacity.draining
            && !self.drained
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
    /// Those that an operator has drained, known or not.
    drained: BTreeSet<NodeId>,
    /// Those that gather free slots for a task that needs many, in the present pass over the queue.
    reserved: BTreeSet<NodeId>,
    /// Kinds with a quota: what of them may run.
    kinds: BTreeMap<String, Kind>,
    /// How many attempts may run on which node, of the tasks that are to be spread, by their keys.
    spread: BTreeMap<String, BTreeMap<NodeId, u32>>,
    /// For how long after its last answered heartbeat a runner is taken to be there.
    pub(crate) fresh: Duration,
}

impl Runners {
    pub(crate) fn new(fresh: Duration) -> Self {
        Self {
            list: BTreeMap::new(),
            free: BTreeSet::new(),
            drained: BTreeSet::new(),
            reserved: BTreeSet::new(),
            kinds: BTreeMap::new(),
            spread: BTreeMap::new(),
            fresh,
        }
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
            let drained = self.drained.contains(node);
            self.list.insert(node.clone(), Runner { drained, ..Runner::new() });
        }
    }

    /// A node gets nothing more, or again.
    pub(crate) fn set_drained(&mut self, node: &NodeId, drained: bool, now: Instant) {
        if drained {
            self.drained.insert(node.clone());
        } else {
            self.drained.remove(node);
        }
        self.change(node, now, |runner| runner.drained = drained);
    }

    /// These kinds have a quota; how many of them run is counted from zero.
    pub(crate) fn set_quotas(&mut self, quotas: BTreeMap<String, Quota>) {
        let kinds = quotas.into_iter();
        self.kinds = kinds.map(|(kind, quota)| (kind, Kind { quota, ..Kind::default() })).collect();
    }

    /// How many of a kind run, if it has a quota.
    pub(crate) fn of_kind(&self, kind: &str) -> Option<(u32, Quota)> {
        self.kinds.get(kind).map(|kind| (kind.running, kind.quota))
    }

    /// An attempt may run on a node from here on.
    pub(crate) fn began(&mut self, kind: &str, spread: Option<&str>, node: &NodeId) {
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.running += 1;
            *kind.on.entry(node.clone()).or_default() += 1;
        }
        if let Some(key) = spread {
            *self.spread.entry(key.to_owned()).or_default().entry(node.clone()).or_default() += 1;
        }
    }

    /// It does not any more; whether its kind has a quota of what may run.
    pub(crate) fn ended(&mut self, kind: &str, spread: Option<&str>, node: &NodeId) -> bool {
        let mut limited = false;
        if let Some(kind) = self.kinds.get_mut(kind) {
            kind.running = kind.running.saturating_sub(1);
            less(&mut kind.on, node);
            limited = kind.quota.running.is_some();
        }
        if let Some(key) = spread
            && let Some(on) = self.spread.get_mut(key)
        {
            less(on, node);
            if on.is_empty() {
                self.spread.remove(key);
            }
        }
        limited
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

    /// The node with most free slots that suits; of equals the first by name. For a task that has wishes, the one that
    /// meets most of them.
    pub(crate) fn best(&self, need: &Need) -> Option<&NodeId> {
        let slots = need.slots();
        let kind = self.kinds.get(&need.kind);
        let mut free = self
            .free
            .iter()
            .take_while(|(Reverse(free), _)| *free >= slots)
            .map(|(_, node)| node)
            .filter(|node| !self.reserved.contains(*node))
            .filter(|node| self.list.get(*node).is_some_and(|runner| runner.suits(need)))
            .filter(|node| kind.is_none_or(|kind| kind.has_room_on(node)));
        let wishes = need.placing.as_deref().filter(|it| it.spread.is_some() || !it.prefer.is_empty());
        let Some(placing) = wishes else { return free.next() };
        let spread = placing.spread.as_ref().and_then(|key| self.spread.get(key));
        free.min_by_key(|node| {
            let beside = spread.and_then(|on| on.get(*node)).copied().unwrap_or(0);
            let labels = self.list.get(*node).map(|runner| &runner.capacity.labels);
            let met = labels
                .map_or(0, |labels| placing.prefer.iter().filter(|term| term.is_met_by(labels)).count());
            (beside, Reverse(met))
        })
    }

    /// A new pass over the queue begins: nothing is kept free yet.
    pub(crate) fn begin_pass(&mut self) {
        self.reserved.clear();
    }

    /// For a task that needs more slots than any node has free: the node that is nearest to that gets nothing of those
    /// behind it, in this pass. Otherwise small tasks would take every slot that becomes free, for ever. It has most free
    /// slots in the next pass too, so that it stays the same one.
    pub(crate) fn reserve(&mut self, need: &Need) {
        if need.slots() <= 1 {
            return;
        }
        let nearest = self.free.iter().map(|(_, node)| node).find(|node| {
            !self.reserved.contains(*node) && self.list.get(*node).is_some_and(|runner| runner.suits(need))
        });
        if let Some(node) = nearest.cloned() {
            self.reserved.insert(node);
        }
    }

    /// Whether no node on which such a task could run has room for another one of its kind.
    pub(crate) fn kind_is_full_on_all(&self, need: &Need) -> bool {
        let Some(kind) = self.kinds.get(&need.kind) else { return false };
        let mut suiting = self.list.iter().filter(|(_, runner)| runner.suits(need) && !runner.drained);
        suiting.all(|(node, _)| !kind.has_room_on(node))
    }
}

/// A kind with a quota.
#[derive(Debug, Default)]
struct Kind {
    quota: Quota,
    /// Attempts that may run.
    running: u32,
    /// The same by node.
    on: BTreeMap<NodeId, u32>,
}

impl Kind {
    fn has_room_on(&self, node: &NodeId) -> bool {
        self.quota.per_node.is_none_or(|max| self.on.get(node).copied().unwrap_or(0) < max)
    }
}

fn less(on: &mut BTreeMap<NodeId, u32>, node: &NodeId) {
    if let Some(count) = on.get_mut(node) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            on.remove(node);
        }
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
            placing: None,
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
