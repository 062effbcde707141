//! A small simulated world for the election: N nodes, one ZooKeeper, sessions, leases; faults from a script.
//!
//! Time is virtual and every choice comes from one seed. The world checks after each step what must always hold
//! (at most one node per epoch, at most one inside its lease, deadlines everywhere, nothing deleted under living
//! effects) and in the end that the cluster has recovered.

mod faulty;
mod zookeeper;

use std::collections::BTreeMap;
use std::time::Duration;

use clock::Instant;
use drill::{Bug, Drill};
use proto::{Epoch, Incarnation, NodeId};

use super::tests::{ms, settings};
use super::{Effect, Election, Event, Generation, Seen, Settings, Standing};
use crate::record::{HoldDown, LeaderRecord, Terms};

const TIMEOUT: Duration = ms(4_000);
const MARGIN: Duration = ms(2_100);
const TICK_MS: u64 = 2_000;
const HOLD: HoldDown = HoldDown { first: ms(3_000), max: ms(12_000) };

type SessionId = u64;

#[derive(Clone, Debug)]
enum Fault {
    Crash {
        node: usize,
        down_ms: u64,
    },
    Cut {
        node: usize,
        ms: u64,
    },
    CutAll {
        ms: u64,
    },
    /// The next answers are lost, though what was asked is done.
    LoseAnswers {
        node: usize,
        count: u8,
    },
    Unready {
        node: usize,
        ms: u64,
    },
    Priority {
        node: usize,
        priority: i32,
    },
    Handover {
        node: usize,
    },
    AskResign {
        node: usize,
    },
}

/// How a node's supervisor behaves.
#[derive(Clone, Copy, Debug)]
struct Manner {
    serves_after_ms: Option<u64>,
    ends_after_ms: u64,
}

#[derive(Debug)]
struct Lease {
    epoch: Epoch,
    session: SessionId,
    valid_until: Instant,
    lapsed: bool,
    dropped: bool,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    core: Election,
    up: bool,
    life: u64,
    session: SessionId,
    connected: bool,
    lease: Option<Lease>,
    /// The newest term whose effects live.
    effects: Option<Epoch>,
    manner: Manner,
    last: Standing,
    lose_answers: u8,
}

#[derive(Debug)]
enum Action {
    Deliver {
        node: usize,
        life: u64,
        event: Event,
    },
    Execute {
        node: usize,
        life: u64,
        session: SessionId,
        generation: Generation,
        effect: Effect,
    },
    /// Read `leader` as it is now, as a watch does.
    Watch {
        node: usize,
        life: u64,
    },
    Tick {
        node: usize,
        life: u64,
    },
    Probe {
        node: usize,
        life: u64,
        epoch: Epoch,
    },
    Proof {
        node: usize,
        life: u64,
        epoch: Epoch,
        sent: Instant,
    },
    LeaseEnd {
        node: usize,
        life: u64,
        epoch: Epoch,
    },
    Expire {
        session: SessionId,
        cut_at: Instant,
    },
    Undo {
        node: usize,
        session: SessionId,
        epoch: Epoch,
    },
    Reconnect {
        node: usize,
        life: u64,
    },
    NoticeCut {
        node: usize,
        life: u64,
        session: SessionId,
    },
    Restart {
        node: usize,
    },
    Ready {
        node: usize,
        life: u64,
        ready: bool,
    },
    Inject(Fault),
}

#[derive(Debug, Default)]
struct ZooKeeper {
    epoch: i32,
    target: Option<NodeId>,
    leader: Option<(SessionId, LeaderRecord)>,
    candidates: BTreeMap<SessionId, (NodeId, Incarnation, u64)>,
    priorities: BTreeMap<NodeId, i32>,
    terms: Terms,
    /// Live sessions, and since when each is out of touch.
    sessions: BTreeMap<SessionId, Option<Instant>>,
    sequence: u64,
}

#[derive(Debug)]
struct World {
    drill: Drill,
    now: Instant,
    queue: BTreeMap<(Instant, u64), Action>,
    serial: u64,
    random: u64,
    zk: ZooKeeper,
    nodes: Vec<Node>,
    epochs: BTreeMap<Epoch, usize>,
    sessions_made: u64,
}

impl World {
    fn new(manners: &[Manner], seed: u64) -> Self {
        Self::planted(manners, seed, Drill::none())
    }

    fn planted(manners: &[Manner], seed: u64, drill: Drill) -> Self {
        let mut world = Self {
            drill,
            now: Instant::from_nanos(1_000_000_000),
            queue: BTreeMap::new(),
            serial: 0,
            random: seed | 1,
            zk: ZooKeeper::default(),
            nodes: Vec::new(),
            epochs: BTreeMap::new(),
            sessions_made: 0,
        };
        for (index, manner) in manners.iter().enumerate() {
            let id: NodeId = format!("n{index}").parse().unwrap();
            let core = Election::new(world.settings(&id), Generation(1), 0, world.now);
            world.nodes.push(Node {
                id,
                core,
                up: false,
                life: 0,
                session: 0,
                connected: false,
                lease: None,
                effects: None,
                manner: *manner,
                last: Standing::Follower,
                lose_answers: 0,
            });
            world.after(0, Action::Restart { node: index });
        }
        world
    }

    fn settings(&self, id: &NodeId) -> Settings {
        Settings { drill: self.drill.clone(), ..settings(id.as_str()) }
    }

    fn pick(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        range.start + self.random % (range.end - range.start)
    }

    fn after(&mut self, delay_ms: u64, action: Action) {
        self.at(self.now + ms(delay_ms), action);
    }

    fn at(&mut self, when: Instant, action: Action) {
        self.serial += 1;
        self.queue.insert((when, self.serial), action);
    }

    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((when, _), action) = entry.remove_entry();
            self.now = self.now.max(when);
            self.act(action);
            self.check();
        }
        self.now = end;
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Deliver { node, life, event } => self.step(node, life, event),
            Action::Tick { node, life } => {
                let due = self.nodes[node].core.deadline().is_some_and(|due| due <= self.now);
                if due {
                    self.step(node, life, Event::Tick);
                }
            }
            Action::Execute { node, life, session, generation, effect } => {
                self.execute(node, life, session, generation, effect);
            }
            Action::Watch { node, life } => {
                if self.nodes[node].connected {
                    let leader = self.leader_seen(self.nodes[node].session);
                    self.seen(node, life, Seen::Leader(leader));
                }
            }
            Action::Probe { node, life, epoch } => self.probe(node, life, epoch),
            Action::Proof { node, life, epoch, sent } => {
                let Some(lease) = self.lease_of(node, life, epoch) else { return };
                lease.valid_until = lease.valid_until.max(sent + (TIMEOUT - MARGIN));
                let (until, lapsed) = (lease.valid_until, std::mem::take(&mut lease.lapsed));
                self.at(until, Action::LeaseEnd { node, life, epoch });
                if lapsed && until > self.now {
                    self.seen(node, life, Seen::LeaseHeld { epoch });
                }
            }
            Action::LeaseEnd { node, life, epoch } => {
                let now = self.now;
                let Some(lease) = self.lease_of(node, life, epoch) else { return };
                if lease.valid_until <= now && !std::mem::replace(&mut lease.lapsed, true) {
                    self.seen(node, life, Seen::LeaseLapsed { epoch });
                }
            }
            Action::Expire { session, cut_at } => {
                if self.zk.sessions.get(&session) == Some(&Some(cut_at)) {
                    self.end_session(session);
                }
            }
            Action::Undo { node, session, epoch } => {
                let ours = self
                    .zk
                    .leader
                    .as_ref()
                    .is_some_and(|(owner, leader)| *owner == session && leader.epoch == epoch);
                if ours && self.nodes[node].connected && self.nodes[node].session == session {
                    self.set_leader(None);
                } else if ours {
                    self.after(100, Action::Undo { node, session, epoch });
                }
            }
            Action::Reconnect { node, life } => self.reconnect(node, life),
            Action::NoticeCut { node, life, session } => {
                if !self.nodes[node].connected && self.nodes[node].session == session {
                    self.seen(node, life, Seen::Disconnected);
                }
            }
            Action::Restart { node } => self.restart(node),
            Action::Ready { node, life, ready } => self.step(node, life, Event::Ready(ready)),
            Action::Inject(fault) => self.inject(fault),
        }
    }

    fn lease_of(&mut self, node: usize, life: u64, epoch: Epoch) -> Option<&mut Lease> {
        let node = &mut self.nodes[node];
        let live = node.up && node.life == life;
        node.lease.as_mut().filter(|lease| live && lease.epoch == epoch && !lease.dropped)
    }

    fn seen(&mut self, node: usize, life: u64, seen: Seen) {
        let generation = self.nodes[node].core.generation();
        self.step(node, life, Event::Seen(generation, seen));
    }

    fn step(&mut self, index: usize, life: u64, event: Event) {
        let now = self.now;
        let node = &mut self.nodes[index];
        if !node.up || node.life != life {
            return;
        }
        let effects = node.core.step(event, now);
        let due = node.core.deadline().expect("a state without a deadline (invariant 4)");
        self.at(due.max(now + Duration::from_micros(100)), Action::Tick { node: index, life });
        for effect in effects {
            self.perform(index, life, effect);
        }
        self.supervise(index, life);
    }

    /// What the supervisor does on a change of role.
    fn supervise(&mut self, index: usize, life: u64) {
        let standing = self.nodes[index].core.standing();
        if standing == self.nodes[index].last {
            return;
        }
        let before = std::mem::replace(&mut self.nodes[index].last, standing);
        let manner = self.nodes[index].manner;
        match standing {
            Standing::Elected(epoch) => {
                let other = self.epochs.insert(epoch, index);
                assert!(
                    other.is_none_or(|other| other == index),
                    "two leaders in epoch {epoch} (invariant 1)"
                );
                self.nodes[index].effects = Some(epoch);
                if let (Some(after), Standing::Follower) = (manner.serves_after_ms, before) {
                    self.after(after, Action::Deliver { node: index, life, event: Event::Serving(epoch) });
                }
            }
            Standing::Resigning(epoch) => {
                let event = Event::EffectsEnded(epoch);
                self.after(manner.ends_after_ms, Action::Deliver { node: index, life, event });
            }
            Standing::Follower => self.nodes[index].effects = None,
            Standing::Suspended(_) => {}
        }
    }

    fn perform(&mut self, index: usize, life: u64, effect: Effect) {
        let (session, generation) = (self.nodes[index].session, self.nodes[index].core.generation());
        match effect {
            Effect::StartLease { epoch } => {
                // The claim was sent at most one round trip ago.
                let valid_until = self.now + (TIMEOUT - MARGIN) - ms(40);
                self.nodes[index].lease =
                    Some(Lease { epoch, session, valid_until, lapsed: false, dropped: false });
                self.at(valid_until, Action::LeaseEnd { node: index, life, epoch });
                self.after(100, Action::Probe { node: index, life, epoch });
            }
            Effect::DropLease { epoch } => {
                if let Some(lease) = self.nodes[index].lease.as_mut().filter(|lease| lease.epoch == epoch) {
                    lease.dropped = true;
                }
            }
            Effect::Join { generation } => {
                let node = &mut self.nodes[index];
                node.connected = false;
                let delay = self.pick(20..200);
                self.after(delay, Action::Execute { node: index, life, session, generation, effect });
            }
            Effect::HandoverDone { .. } => {}
            Effect::Leave => panic!("nobody was asked to stop"),
            effect => {
                let delay = self.pick(1..20);
                self.after(delay, Action::Execute { node: index, life, session, generation, effect });
            }
        }
    }

    fn probe(&mut self, node: usize, life: u64, epoch: Epoch) {
        let now = self.now;
        let authority = self.zk.leader.as_ref().map(|(owner, leader)| (*owner, leader.epoch));
        let version = Epoch(self.zk.epoch.unsigned_abs().into());
        let connected = self.nodes[node].connected;
        let Some(lease) = self.lease_of(node, life, epoch) else { return };
        if connected && (authority != Some((lease.session, epoch)) || version != epoch) {
            lease.dropped = true;
            return self.seen(node, life, Seen::LeaseLost { epoch, reason: "deposed".into() });
        }
        if connected {
            let delay = self.pick(1..20);
            self.after(delay, Action::Proof { node, life, epoch, sent: now });
        }
        self.after(660, Action::Probe { node, life, epoch });
    }

    fn cut(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !std::mem::replace(&mut node.connected, false) {
            return;
        }
        let (session, life, cut_at) = (node.session, node.life, self.now);
        if let Some(touch) = self.zk.sessions.get_mut(&session) {
            *touch = Some(cut_at);
            let over = self.pick(0..TICK_MS);
            self.at(cut_at + TIMEOUT + ms(over), Action::Expire { session, cut_at });
        }
        let late = self.pick(0..1_500);
        self.after(late, Action::NoticeCut { node: index, life, session });
    }

    fn reconnect(&mut self, index: usize, life: u64) {
        let node = &self.nodes[index];
        if !node.up || node.life != life || node.connected {
            return;
        }
        let session = node.session;
        if !self.zk.sessions.contains_key(&session) {
            return self.seen(index, life, Seen::Ended);
        }
        self.zk.sessions.insert(session, None);
        self.nodes[index].connected = true;
        // The client may report the cut only now, together with its end.
        self.seen(index, life, Seen::Disconnected);
        self.seen(index, life, Seen::Connected);
        self.after(5, Action::Watch { node: index, life });
    }

    fn restart(&mut self, index: usize) {
        if self.nodes[index].up {
            return;
        }
        let old = self.nodes[index].session;
        self.end_session(old);
        let sequence = self.open_session(index);
        let now = self.now;
        let settings = self.settings(&self.nodes[index].id);
        let node = &mut self.nodes[index];
        node.life += 1;
        node.up = true;
        node.last = Standing::Follower;
        (node.lease, node.effects, node.lose_answers) = (None, None, 0);
        node.core = Election::new(settings, Generation(1), sequence, now);
        let life = node.life;
        self.after(2, Action::Watch { node: index, life });
        self.after(30, Action::Ready { node: index, life, ready: true });
    }

    fn inject(&mut self, fault: Fault) {
        let count = self.nodes.len();
        match fault {
            Fault::Crash { node, down_ms } => {
                let node = node % count;
                self.cut(node);
                self.nodes[node].up = false;
                self.nodes[node].last = Standing::Follower;
                self.after(down_ms, Action::Restart { node });
            }
            Fault::Cut { node, ms } => {
                let node = node % count;
                self.cut(node);
                let life = self.nodes[node].life;
                self.after(ms, Action::Reconnect { node, life });
            }
            Fault::CutAll { ms } => {
                for node in 0..count {
                    self.inject(Fault::Cut { node, ms });
                }
            }
            Fault::LoseAnswers { node, count: lost } => self.nodes[node % count].lose_answers = lost,
            Fault::Unready { node, ms } => {
                let (node, life) = (node % count, self.nodes[node % count].life);
                self.after(0, Action::Ready { node, life, ready: false });
                self.after(ms, Action::Ready { node, life, ready: true });
            }
            Fault::Priority { node, priority } => {
                let id = self.nodes[node % count].id.clone();
                self.zk.priorities.insert(id, priority);
                self.stir();
            }
            Fault::Handover { node } => {
                let (node, life) = (node % count, self.nodes[node % count].life);
                self.step(node, life, Event::Handover { ticket: 1, to: None });
            }
            Fault::AskResign { node } => {
                let (node, life) = (node % count, self.nodes[node % count].life);
                self.step(node, life, Event::Resign { reason: "test".into() });
            }
        }
    }

    /// What must hold after each step.
    fn check(&self) {
        let active: Vec<&NodeId> = self
            .nodes
            .iter()
            .filter(|node| node.up && matches!(node.core.standing(), Standing::Elected(_)))
            .filter(|node| {
                node.lease.as_ref().is_some_and(|lease| !lease.dropped && lease.valid_until > self.now)
            })
            .map(|node| &node.id)
            .collect();
        assert!(active.len() <= 1, "{active:?} all lead inside their leases at {:?} (invariant 2)", self.now);
    }

    /// The one node that leads and serves.
    fn serving(&self) -> Option<usize> {
        let leading = |node: &Node| matches!(node.core.standing(), Standing::Elected(_));
        let found = self.nodes.iter().position(|node| node.up && leading(node))?;
        self.nodes[found].core.leader_serves().then_some(found)
    }
}
