//! What there is, and what happens when.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use clock::Instant;
use drill::Drill;
use proto::NodeId;
use proto::vip::LocalPhase;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use super::service::{Doc, Service};
use crate::holder::{Core, Event, Ticket};

pub(super) const NODES: usize = 3;

/// How long things befall the world, and how long it has to recover after that.
pub(super) const TROUBLE_MS: u64 = 60_000;
pub(super) const RECOVERY_MS: u64 = 40_000;

/// How long a process that runs may take to remove what it may not have: tries that fail included.
pub(super) const REMOVED_WITHIN_MS: u64 = 1000;

pub(super) const PROBE_MS: u64 = 80;

/// A core that is woken more often than that in one history spins.
pub(super) const TICKS_MAX: u64 = 1000;

/// The ensemble's timing, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) timeout: u64,
    pub(super) tick: u64,
    pub(super) margin: u64,
    pub(super) period: u64,
}

impl Setup {
    pub(super) fn drawn(seed: u64) -> Self {
        match seed % 2 {
            0 => Self { timeout: 4000, tick: 2000, margin: 2100, period: 667 },
            _ => Self { timeout: 2000, tick: 500, margin: 600, period: 250 },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    Up,
    Down,
}

/// A lease on what was taken.
#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) id: u64,
    pub(super) term_version: i32,
    pub(super) until: u64,
    /// What was last said of it.
    pub(super) held: bool,
}

/// The address in a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct There {
    pub(super) token: u64,
    pub(super) gone_by: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: NodeId,
    pub(super) run: Run,
    pub(super) stopping: bool,
    pub(super) paused_until: u64,
    pub(super) cut: bool,
    /// Counts its processes.
    pub(super) life: u64,
    pub(super) core: Option<Core>,
    /// What it hears while its core is at work, in the middle of a writing that was interrupted.
    pub(super) session: Option<u64>,
    pub(super) hold: Option<Hold>,
    pub(super) wake: u64,
    pub(super) kernel: Option<There>,
    /// Since when a running process has the address outside of its lease.
    pub(super) astray: Option<u64>,
    /// The present take: acknowledged at, and what it found recorded.
    pub(super) wait: Option<(u64, u64)>,
    pub(super) hears_until: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Ask {
    Take { ticket: Ticket, version: i32, grace: Duration, sent: u64 },
    Release { ticket: Ticket, term_version: i32, free: bool },
    Prove { hold: u64, term_version: i32, sent: u64 },
    Ping,
}

#[derive(Clone, Debug)]
pub(super) enum Say {
    Core(Event),
    Proof { hold: u64, sent: u64, ok: bool },
    SessionUp(u64),
    SessionOver(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Happens {
    ToNode { n: usize, life: u64, say: Say },
    ToService { n: usize, session: u64, ask: Ask },
    Read { n: usize, session: u64, doc: Doc },
    Wake { n: usize, life: u64 },
    ProbeDue { n: usize, life: u64, hold: u64 },
    LapseDue { n: usize, life: u64, hold: u64 },
    PingDue { n: usize, life: u64, session: u64 },
    Expire { session: u64, heard: u64 },
    Undo { take: Uuid },
    KernelLooks { n: usize, token: u64 },
    Guard { n: usize },
    Start { n: usize },
    Befall,
}

/// What happened, for the tests that want something to have happened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) takes: u64,
    pub(super) waits: u64,
    pub(super) puts: u64,
    pub(super) expired_by_kernel: u64,
    pub(super) ticks: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) drill: Drill,
    pub(super) rng: StdRng,
    pub(super) now: u64,
    pub(super) order: u64,
    pub(super) queue: BinaryHeap<(Reverse<(u64, u64)>, u64)>,
    pub(super) pending: std::collections::BTreeMap<u64, Happens>,
    pub(super) service: Service,
    pub(super) nodes: Vec<Node>,
    pub(super) next_id: u64,
    pub(super) well: bool,
    pub(super) foreign_until: u64,
    pub(super) only_kernels: bool,
    pub(super) violation: Option<String>,
    pub(super) lines: VecDeque<String>,
    pub(super) counts: Counts,
}

pub(super) fn instant(ms: u64) -> Instant {
    Instant::from_nanos(ms * 1_000_000)
}

impl World {
    pub(super) fn new(seed: u64, setup: Setup, drill: Drill) -> Self {
        let node = |n: usize| Node {
            name: format!("n{n}").parse().expect("a label"),
            run: Run::Down,
            stopping: false,
            paused_until: 0,
            cut: false,
            life: 0,
            core: None,
            session: None,
            hold: None,
            wake: 0,
            kernel: None,
            astray: None,
            wait: None,
            hears_until: 0,
        };
        let mut world = Self {
            setup,
            drill,
            rng: StdRng::seed_from_u64(seed),
            now: 1,
            order: 0,
            queue: BinaryHeap::new(),
            pending: Default::default(),
            service: Service::new(),
            nodes: (0..NODES).map(node).collect(),
            next_id: 0,
            well: false,
            foreign_until: 0,
            only_kernels: false,
            violation: None,
            lines: VecDeque::new(),
            counts: Counts::default(),
        };
        for n in 0..NODES {
            world.after(1, Happens::Start { n });
        }
        world.after(10, Happens::Befall);
        let order = world.nodes.iter().map(|node| node.name.clone()).collect();
        world.assign(order);
        world
    }

    /// One whole history.
    pub(super) fn live(&mut self) -> Result<(), String> {
        self.run_until(TROUBLE_MS);
        self.heal();
        self.run_until(TROUBLE_MS + RECOVERY_MS);
        if let Some(violation) = self.violation.take() {
            return Err(self.told(&violation));
        }
        if self.counts.ticks > TICKS_MAX {
            let cores: Vec<_> = self.nodes.iter().map(|node| &node.core).collect();
            return Err(self.told(&format!("{} ticks: a core spins\n{cores:?}", self.counts.ticks)));
        }
        let now = instant(self.now);
        let holds = |n: &usize| {
            let node = &self.nodes[*n];
            node.kernel.is_some()
                && node.core.as_ref().is_some_and(|core| core.phase(now) == LocalPhase::Held)
        };
        let held: Vec<_> = (0..NODES).filter(holds).collect();
        match (&held[..], &self.service.holder) {
            ([one], Some(holder)) if holder.node == *one => Ok(()),
            _ if self.only_kernels => Ok(()),
            _ => {
                Err(self
                    .told(&format!("it did not recover: held by {held:?}, holder {:?}", self.service.holder)))
            }
        }
    }

    pub(super) fn trace(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    pub(super) fn told(&self, what: &str) -> String {
        format!("{what}\n{}at {}: {what}", self.trace(), self.now)
    }

    pub(super) fn log(&mut self, line: String) {
        if self.lines.len() == 120 {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>6} {line}", self.now));
    }

    pub(super) fn violated(&mut self, what: String) {
        if self.only_kernels && !what.contains("two kernels") {
            return;
        }
        self.violation.get_or_insert(what);
    }

    pub(super) fn after(&mut self, ms: u64, happens: Happens) {
        self.order += 1;
        self.queue.push((Reverse((self.now + ms, self.order)), self.order));
        self.pending.insert(self.order, happens);
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn run_until(&mut self, end: u64) {
        while let Some((Reverse((at, _)), _)) = self.queue.peek()
            && *at <= end
            && self.violation.is_none()
        {
            let at = *at;
            let Some((_, order)) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            if let Some(happens) = self.pending.remove(&order) {
                self.happen(happens);
                self.look_for_strays();
            }
        }
        self.now = self.now.max(end);
    }

    pub(super) fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::ToNode { n, life, say } => self.reach_node(n, life, say),
            Happens::ToService { n, session, ask } => {
                if self.nodes[n].cut {
                    // What only proves is not sent again.
                    if !matches!(ask, Ask::Ping | Ask::Prove { .. }) {
                        self.after(50, Happens::ToService { n, session, ask });
                    }
                } else {
                    self.asked(n, session, ask);
                }
            }
            Happens::Read { n, session, doc } => {
                if !self.nodes[n].cut && self.nodes[n].session == Some(session) {
                    let event = self.read(session, doc);
                    self.tell(n, Say::Core(event));
                }
            }
            Happens::Wake { n, life } => {
                if self.nodes[n].life == life && self.nodes[n].wake <= self.now {
                    if self.is_paused(n) {
                        let wait = self.nodes[n].paused_until.saturating_sub(self.now).max(1);
                        self.after(wait, Happens::Wake { n, life });
                    } else {
                        self.nodes[n].wake = u64::MAX;
                        self.counts.ticks += 1;
                        self.feed(n, Event::Tick);
                    }
                }
            }
            Happens::ProbeDue { n, life, hold } => self.probe_due(n, life, hold),
            Happens::LapseDue { n, life, hold } => self.lapse_due(n, life, hold),
            Happens::PingDue { n, life, session } => {
                if self.nodes[n].life == life && self.nodes[n].session == Some(session) {
                    if !self.is_paused(n) {
                        self.ask(n, Ask::Ping);
                    }
                    self.after(self.setup.timeout / 3, Happens::PingDue { n, life, session });
                }
            }
            Happens::Expire { session, heard } => {
                let due = self
                    .service
                    .sessions
                    .get(&session)
                    .is_some_and(|known| known.alive && known.heard == heard);
                if due {
                    self.expire(session);
                }
            }
            Happens::Undo { take } => {
                if self.service.holder.take_if(|holder| holder.take == take).is_some() {
                    self.log("a take that nobody waits for is undone".to_owned());
                    self.changed(Doc::Holder);
                }
            }
            Happens::KernelLooks { n, token } => {
                if self.nodes[n].kernel.take_if(|there| there.token == token).is_some() {
                    self.counts.expired_by_kernel += 1;
                    self.log(format!("the kernel of n{n} removes the address"));
                    self.core_event(n, Event::Vanished("172.0.20.241".to_owned()));
                }
            }
            Happens::Guard { n } => {
                if self.nodes[n].run == Run::Down && self.kernel_remove(n) {
                    self.log(format!("the guard of n{n} removes the address"));
                }
            }
            Happens::Start { n } => self.start(n),
            Happens::Befall => {
                if !self.well {
                    self.befall();
                    let next = self.rng.random_range(50..2500);
                    self.after(next, Happens::Befall);
                }
            }
        }
    }
}
