//! The cluster: three nodes, ZooKeeper, what may yet go wrong, and what has been seen so far.

use std::collections::BTreeMap;
use std::sync::Arc;

use election::{Effect, Event, Generation, Seen, Standing};
use proto::Epoch;

use super::bounds::{Bounds, EXPIRES_MAX, LEASE, Start, UNIT};
use super::node::{Lease, News, Node, Request, Up};
use super::zk::{Changed, NOW, Zk, epoch_of};
use super::{FENCE_LAST, GENERATION, ONE_OWNER};

/// No line is longer: every node may stand twice, with a session that is over and a new one.
const LINE_MAX: u32 = 6;

/// The cluster. States share what did not change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// ZooKeeper.
    pub zk: Arc<Zk>,
    /// The nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Since how many units ZooKeeper has no majority.
    pub outage: Option<u8>,
    /// Faults that may yet happen.
    pub faults: u8,
    /// Units since anything was disturbed, or came back.
    pub quiet: u8,
    /// Whose the newest epochs are: node and life.
    pub owners: BTreeMap<Epoch, (usize, u8)>,
    /// A rule that this step broke.
    pub broken: Option<&'static str>,
}

impl World {
    /// Where it begins.
    pub(super) fn start(bounds: &Bounds) -> Self {
        let mut zk = Zk::default();
        let nodes = (0..bounds.nodes)
            .map(|index| {
                let (session, sequence) = zk.open();
                Arc::new(Node::fresh(bounds, index, 1, session, sequence))
            })
            .collect();
        let mut world = Self {
            zk: Arc::new(zk),
            nodes,
            outage: None,
            faults: 0,
            quiet: 0,
            owners: BTreeMap::new(),
            broken: None,
        };
        if bounds.start == Start::Warm {
            world = world.settled(bounds);
        }
        world.faults = bounds.faults;
        world
    }

    /// The same cluster after a while in which nothing goes wrong.
    fn settled(mut self, bounds: &Bounds) -> Self {
        while self.quiet < bounds.recovery {
            let mut actions = Vec::new();
            self.actions(bounds, &mut actions);
            let Some(action) = actions.into_iter().next() else { break };
            self = self.after(bounds, action);
        }
        self
    }

    pub(super) fn node(&mut self, index: usize) -> &mut Node {
        Arc::make_mut(&mut self.nodes[index])
    }

    pub(super) fn zk(&mut self) -> &mut Zk {
        Arc::make_mut(&mut self.zk)
    }

    /// Nodes whose lease flag is up.
    pub fn inside_lease(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().map(AsRef::as_ref).filter(|node| node.inside_lease())
    }

    /// Whether `leader` is this node's, of the term that its lease is for.
    pub fn owns_leader(&self, node: &Node) -> bool {
        let epoch = node.lease.map(|lease| lease.epoch);
        self.zk.leader.as_ref().is_some_and(|(owner, record)| {
            *owner == node.session && Some(record.epoch) == epoch && Some(epoch_of(self.zk.epoch)) == epoch
        })
    }

    /// The node that leads and serves.
    pub fn serving(&self) -> Option<&Node> {
        self.inside_lease().find(|node| {
            matches!(node.core.standing(), Standing::Elected(_)) && node.reported && self.owns_leader(node)
        })
    }

    /// Whether the node's session lives, as ZooKeeper sees it.
    pub(super) fn lives(&self, node: &Node) -> bool {
        self.zk.sessions.contains_key(&node.session)
    }

    /// D5 (5).
    pub(super) fn stops_in_time(&self, bounds: &Bounds) -> bool {
        self.nodes.iter().all(|node| node.slow_end || node.stopping.is_none_or(|age| age < bounds.stop))
    }

    /// D5 (7).
    pub(super) fn has_no_orphan(&self, bounds: &Bounds) -> bool {
        if self.quiet < bounds.recovery || self.outage.is_some() {
            return true;
        }
        let candidates = self.zk.candidates.keys().map(|session| (*session, false));
        let leader = self.zk.leader.iter().map(|(session, _)| (*session, true));
        candidates.chain(leader).all(|(session, leads)| {
            let owner = self.nodes.iter().find(|node| node.up == Up::Up && node.session == session);
            owner.is_some_and(
                |node| {
                    if leads { node.core.may_own_leader() } else { node.core.may_be_candidate() }
                },
            )
        })
    }

    /// The purpose of it all.
    pub(super) fn recovers(&self, bounds: &Bounds) -> bool {
        let healthy = self.outage.is_none() && self.nodes.iter().any(|node| node.is_healthy());
        !healthy || self.quiet < bounds.recovery || self.serving().is_some()
    }

    /// Who hears of a change in ZooKeeper.
    pub(super) fn tell(&mut self, changed: Changed) {
        if changed == Changed::default() {
            return;
        }
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if node.up != Up::Up || node.session == 0 {
                continue;
            }
            // The leader alone follows the line.
            let (watch, stir) = (changed.leader, changed.line && node.core.standing() != Standing::Follower);
            if (watch && !node.watch) || (stir && !node.stir) {
                let node = self.node(index);
                node.watch |= watch;
                node.stir |= stir;
            }
        }
    }

    /// Whoever deletes a `leader` of a node that is there has first ended what it fences.
    pub(super) fn check_fence(&mut self, session: u8) {
        let Some((owner, record)) = &self.zk.leader else { return };
        let Some(node) = self.nodes.iter().find(|node| node.up == Up::Up && node.session == session) else {
            return;
        };
        if *owner != session {
            return;
        }
        let epoch = record.epoch;
        let alive = node.effects == Some(epoch);
        let flag = node.lease.is_some_and(|lease| lease.epoch == epoch && lease.left > 0);
        let overdue = node.core.resigning().is_some_and(|term| term.epoch == epoch && term.overdue);
        if flag || (alive && !overdue) {
            self.broken = Some(FENCE_LAST);
        }
    }

    /// Ends a session by the hand of its node.
    pub(super) fn close(&mut self, session: u8) {
        self.check_fence(session);
        let changed = self.zk().end(session);
        self.tell(changed);
    }

    /// One event into an election, its effects out of it.
    pub(super) fn step(&mut self, index: usize, event: Event) {
        let stale = matches!(event, Event::Seen(generation, _) if generation != Generation(1));
        let before = stale.then(|| self.nodes[index].core.clone());
        let effects = self.node(index).core.step(event, NOW);
        if before.is_some_and(|before| before != self.nodes[index].core || !effects.is_empty()) {
            self.broken = Some(GENERATION);
        }
        for effect in effects {
            self.perform(index, effect);
        }
        self.supervise(index);
        self.node(index).core.canonical(NOW, NOW, LINE_MAX);
    }

    pub(super) fn seen(&mut self, index: usize, seen: Seen) {
        self.step(index, Event::Seen(Generation(1), seen));
    }

    /// What the driver does.
    fn perform(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::StartLease { epoch } => {
                let node = self.node(index);
                let left = LEASE.saturating_sub(node.claim_age);
                node.lease = Some(Lease { epoch, left, lapsed: left == 0 });
                node.news = (left == 0).then_some(News::Lapsed);
                let owner = (index, node.life);
                if *self.owners.entry(epoch).or_insert(owner) != owner {
                    self.broken = Some(ONE_OWNER);
                }
            }
            Effect::DropLease { epoch } => {
                let node = self.node(index);
                if node.lease.is_some_and(|lease| lease.epoch == epoch) {
                    (node.lease, node.news) = (None, None);
                }
            }
            Effect::HandoverDone { .. } => {}
            Effect::Leave => {
                let session = self.nodes[index].session;
                if self.nodes[index].effects.is_some() {
                    self.broken = Some(FENCE_LAST);
                }
                if self.nodes[index].reaches() {
                    self.close(session);
                }
                self.node(index).die(Up::Left);
            }
            effect => {
                let node = self.node(index);
                let join = matches!(effect, Effect::Join { .. });
                if join {
                    node.requests.iter_mut().for_each(|request| request.old = true);
                    // Nobody waits for the end of an audit of a session that is over.
                    node.requests.retain(|request| request.effect != Effect::Audit);
                } else if node.session == 0 {
                    // Without a session there is no answer.
                    return;
                }
                let session = node.session;
                if effect == Effect::Audit && node.requests.iter().any(|known| known.effect == effect) {
                    return;
                }
                node.requests.push(Request {
                    effect,
                    session,
                    age: 0,
                    slow: false,
                    answer: None,
                    late: false,
                    old: false,
                });
                if join {
                    (node.session, node.watch, node.stir, node.undo) = (0, false, false, false);
                    node.noticed = false;
                }
            }
        }
    }

    /// What the supervisor does when the role changes.
    fn supervise(&mut self, index: usize) {
        let standing = self.nodes[index].core.standing();
        let node = self.node(index);
        if node.up != Up::Up || standing == node.last {
            return;
        }
        node.last = standing;
        match standing {
            Standing::Elected(epoch) if node.effects != Some(epoch) => {
                (node.effects, node.reported) = (Some(epoch), false);
            }
            Standing::Elected(_) | Standing::Suspended(_) | Standing::Resigning(_) => {}
            Standing::Follower => {
                (node.effects, node.reported) = (None, false);
                (node.unserving, node.slow_end) = (false, false);
            }
        }
        node.unserved = 0;
    }

    /// Time goes on by a unit.
    pub(super) fn pass(&mut self, bounds: &Bounds) {
        self.outage = self.outage.map(|age| age + 1);
        let outage = self.outage.is_some();
        let heard: Vec<u8> =
            self.nodes.iter().filter(|node| node.reaches() && !outage).map(|node| node.session).collect();
        for (session, silent) in &mut self.zk().sessions {
            // Who would count is not there; who comes back starts anew.
            let counts = !heard.contains(session) && !outage;
            *silent = if counts { (*silent + 1).min(EXPIRES_MAX) } else { 0 };
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].up != Up::Up {
                continue;
            }
            let lives = self.lives(&self.nodes[index]);
            let owns = self.owns_leader(&self.nodes[index]);
            let node = self.node(index);
            node.core.canonical(NOW + UNIT, NOW, LINE_MAX);
            node.groggy = false;
            node.cut = node.cut.map(|age| (age + 1).min(2));
            for request in &mut node.requests {
                request.age = (request.age + 1).min(request.limit());
            }
            node.stopping = node.stopping.map(|age| (age + 1).min(bounds.stop));
            let idle = matches!(node.core.standing(), Standing::Elected(_)) && !node.reported;
            if idle && node.runs() {
                node.unserved += 1;
            }
            let probes = node.reaches() && lives;
            if let Some(lease) = &mut node.lease {
                lease.left = lease.left.saturating_sub(1);
                if probes && !owns {
                    // The flag is down before anybody is told.
                    lease.left = 0;
                    lease.lapsed = true;
                    node.news = Some(News::Lost);
                } else if probes {
                    lease.left = LEASE;
                    if std::mem::take(&mut lease.lapsed) {
                        node.news = Some(News::Held);
                    }
                } else if lease.left == 0 && !lease.lapsed {
                    lease.lapsed = true;
                    node.news = Some(News::Lapsed);
                }
            }
        }
        self.quiet = (self.quiet + 1).min(bounds.recovery);
        let oldest = epoch_of(self.zk.epoch).0.saturating_sub(1);
        self.owners.retain(|epoch, _| epoch.0 >= oldest);
    }
}
