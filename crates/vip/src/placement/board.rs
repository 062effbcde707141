//! The services on their nodes, while they are being placed.

use std::collections::{BTreeMap, BTreeSet};

use proto::NodeId;
use proto::vip::{Backend, ServiceName};

use super::{Input, NAMED_MAX, Obstacle, Placement, Standing, own_obstacle, why};
use crate::config::Service;

/// How a service came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// An operator wants it there.
    Ordered,
    /// It was there.
    Stays,
    /// It had none.
    Chosen,
}

/// A service.
pub(super) struct Row<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) service: &'a Service,
    pub(super) standing: &'a Standing,
    /// Who could have it if it were fit, dry runs included.
    pub(super) eligible: Vec<&'a NodeId>,
    /// Who is fit: real nodes if there is one, dry runs otherwise.
    pub(super) fit: BTreeSet<&'a NodeId>,
    /// Whoever of them is neither put last nor passed over; if that is nobody, whoever is not put last, and then all.
    choices: BTreeSet<&'a NodeId>,
    pub(super) head: Option<&'a NodeId>,
    pub(super) how: How,
}

impl Row<'_> {
    /// The place of a node among the preferred; those not among them come after all.
    pub(super) fn preference(&self, node: &NodeId) -> usize {
        let preferred = &self.service.preferred;
        preferred.iter().position(|other| other == node).unwrap_or(preferred.len())
    }

    /// Whether it is to go to another, now that there is one.
    fn gives_way(&self, node: &NodeId) -> bool {
        let last = &self.standing.put_last;
        last.contains(node) && self.fit.iter().any(|other| !last.contains(*other))
    }

    fn movable(&self) -> bool {
        self.head.is_some() && (self.how == How::Chosen || (self.how == How::Stays && self.service.failback))
    }
}

/// How good a node is for a service; the smaller, the better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    dry: bool,
    put_last: bool,
    passed_over: bool,
    mates: usize,
    preference: usize,
    others: usize,
    node: &'a NodeId,
}

/// All of them.
pub(super) struct Board<'a> {
    pub(super) input: &'a Input<'a>,
    pub(super) rows: Vec<Row<'a>>,
    /// Nodes that only say what they would do.
    dry: BTreeSet<&'a NodeId>,
    /// Which rows are on a node.
    on: BTreeMap<&'a NodeId, Vec<usize>>,
}

impl<'a> Board<'a> {
    pub(super) fn new(input: &'a Input<'a>) -> Self {
        const NEW: &Standing = &Standing {
            holder: None,
            order: Vec::new(),
            moving: false,
            passed_over: BTreeSet::new(),
            put_last: BTreeSet::new(),
            kept_off: BTreeSet::new(),
            move_to: None,
        };
        let rows = input.config.services.iter().map(|(name, service)| {
            let standing = input.standings.get(name).unwrap_or(NEW);
            let mut eligible = Vec::new();
            let (mut real, mut pretending) = (BTreeSet::new(), BTreeSet::new());
            for (node, report) in input.nodes {
                let state = own_obstacle(input, name, node);
                if matches!(state, None | Some(Obstacle::Unfit)) {
                    eligible.push(node);
                }
                let fit = if report.backend == Backend::DryRun { &mut pretending } else { &mut real };
                fit.extend(state.is_none().then_some(node));
            }
            let candidates = if real.is_empty() { pretending } else { real };
            let mut choices = candidates.clone();
            choices.retain(|node| !standing.put_last.contains(*node));
            if choices.is_empty() {
                choices.clone_from(&candidates);
            }
            let willing = choices.clone();
            choices.retain(|node| !standing.passed_over.contains(*node));
            if choices.is_empty() {
                choices = willing;
            }
            Row { name, service, standing, eligible, fit: candidates, choices, head: None, how: How::Chosen }
        });
        let dry = input.nodes.iter().filter(|(_, report)| report.backend == Backend::DryRun);
        Self { input, rows: rows.collect(), dry: dry.map(|(node, _)| node).collect(), on: BTreeMap::new() }
    }

    /// Places everything.
    pub(super) fn settle(mut self) -> BTreeMap<ServiceName, Placement> {
        self.keep();
        self.house();
        self.improve();
        let mut placements = BTreeMap::new();
        let mut seconds = Vec::new();
        for at in 0..self.rows.len() {
            let order = self.order(at, &seconds);
            seconds.extend(order.get(1).map(|node| (self.rows[at].service.spread.clone(), node.clone())));
            let why = why::sentence(&self, at, &order);
            placements.insert(self.rows[at].name.clone(), Placement { order, why });
        }
        placements
    }

    /// What is ordered, and what stays where it is.
    fn keep(&mut self) {
        for at in 0..self.rows.len() {
            let row = &self.rows[at];
            let fit = |node: &&NodeId| row.service.enabled && row.fit.contains(*node);
            let standing = row.standing;
            let ordered = standing.move_to.as_ref().filter(fit);
            let keeps = |node: &&NodeId| fit(node) && !row.gives_way(node);
            let stays = || standing.incumbent().filter(keeps).or(standing.holder.as_ref().filter(keeps));
            if let Some(target) = ordered {
                self.put(at, Some(target));
                self.rows[at].how = How::Ordered;
            } else if let Some(incumbent) = stays() {
                self.put(at, Some(incumbent));
                self.rows[at].how = How::Stays;
            }
        }
    }

    fn put(&mut self, at: usize, head: Option<&'a NodeId>) {
        if let Some(before) = self.rows[at].head
            && let Some(rows) = self.on.get_mut(before)
        {
            rows.retain(|row| *row != at);
        }
        if let Some(head) = head {
            self.on.entry(head).or_default().push(at);
        }
        self.rows[at].head = head;
    }

    fn on(&self, node: &NodeId) -> &[usize] {
        self.on.get(node).map_or(&[], Vec::as_slice)
    }

    /// Finds places for the rest: at first alone on a node within the group, also by making room, then where there is one.
    fn house(&mut self) {
        let homeless = |row: &Row<'_>| row.service.enabled && row.head.is_none() && !row.fit.is_empty();
        let waiting: Vec<usize> = (0..self.rows.len()).filter(|at| homeless(&self.rows[*at])).collect();
        for at in &waiting {
            let alone = self.ranked(*at).into_iter().find(|node| self.mates(*at, node) == 0);
            match alone {
                Some(node) => self.put(*at, Some(node)),
                None => {
                    self.make_room(*at, &mut BTreeSet::new());
                }
            }
        }
        for at in waiting {
            if self.rows[at].head.is_none() {
                let best = self.ranked(at).first().copied();
                self.put(at, best);
            }
        }
    }

    /// Kuhn's step: has `at` alone on a node of its group if those that were placed just now can be shifted for it.
    fn make_room(&mut self, at: usize, tried: &mut BTreeSet<&'a NodeId>) -> bool {
        for node in self.ranked(at) {
            if !tried.insert(node) {
                continue;
            }
            let there: Vec<usize> = self.mates_on(at, node).collect();
            let free = match there.as_slice() {
                [] => true,
                [one] => self.rows[*one].how == How::Chosen && self.make_room(*one, tried),
                _ => false,
            };
            if free {
                self.put(at, Some(node));
                return true;
            }
        }
        false
    }

    /// Lets what may move go to better places, until there is none. Each step lowers (pairs that share a node within a
    /// group, sum of the preferences), so it ends, and a second run finds nothing left to do.
    fn improve(&mut self) {
        while self.step() || self.swap() {}
    }

    fn step(&mut self) -> bool {
        for at in 0..self.rows.len() {
            let row = &self.rows[at];
            let Some(here) = row.head.filter(|_| row.movable()) else { continue };
            let now = (self.mates(at, here), row.preference(here));
            if now == (0, 0) {
                continue;
            }
            let better = self.ranked(at).into_iter().find(|node| {
                let then = (self.mates(at, node), row.preference(node));
                then.0 <= now.0 && (then.0 < now.0 || then.1 < now.1)
            });
            if better.is_some() {
                self.put(at, better);
                return true;
            }
        }
        false
    }

    /// Two of one group that stand in each other's way.
    fn swap(&mut self) -> bool {
        for a in 0..self.rows.len() {
            for b in a + 1..self.rows.len() {
                let (one, two) = (&self.rows[a], &self.rows[b]);
                let (Some(here), Some(there)) = (one.head, two.head) else { continue };
                let group = one.service.spread.is_some() && one.service.spread == two.service.spread;
                let may = one.movable()
                    && two.movable()
                    && one.choices.contains(there)
                    && two.choices.contains(here);
                if group
                    && may
                    && one.preference(there) + two.preference(here)
                        < one.preference(here) + two.preference(there)
                {
                    self.put(a, Some(there));
                    self.put(b, Some(here));
                    return true;
                }
            }
        }
        false
    }

    /// Who of the same group is on that node.
    fn mates_on(&self, at: usize, node: &NodeId) -> impl Iterator<Item = usize> + '_ {
        let group = self.rows[at].service.spread.as_ref();
        let mate = move |other: &usize| {
            *other != at && group.is_some() && self.rows[*other].service.spread.as_ref() == group
        };
        self.on(node).iter().copied().filter(mate)
    }

    /// How many of the same group are on that node.
    pub(super) fn mates(&self, at: usize, node: &NodeId) -> usize {
        self.mates_on(at, node).count()
    }

    fn rank(&self, at: usize, node: &'a NodeId) -> Rank<'a> {
        let row = &self.rows[at];
        let dry = self.dry.contains(node);
        let others = self.on(node).iter().filter(|other| **other != at).count();
        let put_last = row.standing.put_last.contains(node);
        let passed_over = row.standing.passed_over.contains(node);
        let (mates, preference) = (self.mates(at, node), row.preference(node));
        Rank { dry, put_last, passed_over, mates, preference, others, node }
    }

    /// The choices, best first.
    fn ranked(&self, at: usize) -> Vec<&'a NodeId> {
        let mut nodes: Vec<&NodeId> = self.rows[at].choices.iter().copied().collect();
        nodes.sort_by_cached_key(|node| self.rank(at, node));
        nodes
    }

    /// The head, and who follows. `seconds`: who is next for a service of a group, so that two that go at the same time do
    /// not both go there.
    fn order(&self, at: usize, seconds: &[(Option<String>, NodeId)]) -> Vec<NodeId> {
        let row = &self.rows[at];
        if !row.service.enabled {
            return Vec::new();
        }
        let mut nodes = row.eligible.clone();
        if nodes.is_empty() {
            // Nobody is there who could. Whoever was meant may take it when it is back, leader or not.
            let back = |node: &&NodeId| {
                !self.input.drained.contains_key(*node)
                    && !row.standing.kept_off.contains(*node)
                    && matches!(
                        own_obstacle(self.input, row.name, node),
                        Some(Obstacle::Absent | Obstacle::Unreadable | Obstacle::Stopping)
                    )
            };
            return row.standing.order.iter().filter(back).cloned().collect();
        }
        let may_be_first = |node: &&NodeId| nodes.contains(node) && !row.standing.put_last.contains(*node);
        let first = row.head.or_else(|| row.standing.incumbent().filter(may_be_first));
        let is_real = |node: &NodeId| !self.dry.contains(node);
        if first.is_none_or(is_real) && nodes.iter().any(|node| is_real(node)) {
            nodes.retain(|node| is_real(node));
        }
        let group = &row.service.spread;
        let awaited = |node: &NodeId| {
            let same = |(other, second): &&(Option<String>, NodeId)| {
                group.is_some() && other == group && second == node
            };
            seconds.iter().filter(same).count()
        };
        nodes.sort_by_cached_key(|node| {
            let rank = self.rank(at, node);
            (
                Some(*node) != first,
                rank.dry,
                rank.put_last,
                rank.passed_over,
                rank.mates,
                rank.preference,
                awaited(node),
                rank,
            )
        });
        nodes.into_iter().take(NAMED_MAX).cloned().collect()
    }
}
