//! Time, nodes, kernels and messages.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use clock::Instant;
use drill::Drill;
use proto::NodeId;
use proto::vip::LocalPhase;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use uuid::Uuid;

use super::service::{Doc, Service, Session};
use crate::holder::pen::{Pen, Stroke};
use crate::holder::{Core, Effect, Event, LeaseNow, Refused, Settings, Taken, Ticket};
use crate::net::{Foreign, Mac};
use crate::store::Term;

pub(super) const NODES: usize = 3;

/// How long things befall the world, and how long it has to recover after that.
const TROUBLE_MS: u64 = 60_000;
const RECOVERY_MS: u64 = 40_000;

/// How long a process that runs may take to remove what it may not have: tries that fail included.
const REMOVED_WITHIN_MS: u64 = 1000;

const PROBE_MS: u64 = 80;

/// A core that is woken more often than that in one history spins.
const TICKS_MAX: u64 = 1000;

/// The ensemble's timing, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    timeout: u64,
    tick: u64,
    margin: u64,
    period: u64,
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
struct Hold {
    id: u64,
    term_version: i32,
    until: u64,
    /// What was last said of it.
    held: bool,
}

/// The address in a kernel.
#[derive(Clone, Copy, Debug)]
struct There {
    token: u64,
    gone_by: u64,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: NodeId,
    pub(super) run: Run,
    pub(super) stopping: bool,
    pub(super) paused_until: u64,
    pub(super) cut: bool,
    /// Counts its processes.
    life: u64,
    core: Option<Core>,
    /// What it hears while its core is at work, in the middle of a writing that was interrupted.
    session: Option<u64>,
    hold: Option<Hold>,
    wake: u64,
    kernel: Option<There>,
    /// Since when a running process has the address outside of its lease.
    astray: Option<u64>,
    /// The present take: acknowledged at, and what it found recorded.
    wait: Option<(u64, u64)>,
    hears_until: u64,
}

#[derive(Clone, Debug)]
enum Ask {
    Take { ticket: Ticket, version: i32, grace: Duration, sent: u64 },
    Release { ticket: Ticket, term_version: i32, free: bool },
    Prove { hold: u64, term_version: i32, sent: u64 },
    Ping,
}

#[derive(Clone, Debug)]
enum Say {
    Core(Event),
    Proof { hold: u64, sent: u64, ok: bool },
    SessionUp(u64),
    SessionOver(u64),
}

#[derive(Clone, Debug)]
enum Happens {
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
    setup: Setup,
    drill: Drill,
    pub(super) rng: StdRng,
    pub(super) now: u64,
    order: u64,
    queue: BinaryHeap<(Reverse<(u64, u64)>, u64)>,
    pending: std::collections::BTreeMap<u64, Happens>,
    pub(super) service: Service,
    pub(super) nodes: Vec<Node>,
    next_id: u64,
    pub(super) well: bool,
    pub(super) foreign_until: u64,
    pub(super) only_kernels: bool,
    violation: Option<String>,
    lines: VecDeque<String>,
    pub(super) counts: Counts,
}

fn instant(ms: u64) -> Instant {
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

    fn told(&self, what: &str) -> String {
        format!("{what}\n{}at {}: {what}", self.trace(), self.now)
    }

    pub(super) fn log(&mut self, line: String) {
        if self.lines.len() == 120 {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>6} {line}", self.now));
    }

    fn violated(&mut self, what: String) {
        if self.only_kernels && !what.contains("two kernels") {
            return;
        }
        self.violation.get_or_insert(what);
    }

    fn after(&mut self, ms: u64, happens: Happens) {
        self.order += 1;
        self.queue.push((Reverse((self.now + ms, self.order)), self.order));
        self.pending.insert(self.order, happens);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn run_until(&mut self, end: u64) {
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

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::ToNode { n, life, say } => self.to_node(n, life, say),
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

    // Processes.

    fn start(&mut self, n: usize) {
        if self.nodes[n].run == Run::Up {
            return;
        }
        // Its first act.
        self.kernel_remove(n);
        let drill = self.drill.clone();
        let settings =
            Settings { me: self.nodes[n].name.clone(), probe_takes: Duration::from_millis(PROBE_MS), drill };
        let old = self.nodes[n].session.take();
        if let Some(old) = old
            && self.rng.random_bool(0.3)
            && self.service.sessions.get(&old).is_some_and(|session| session.alive)
        {
            // It knew its own session of before, and ends it now that nothing is left of it.
            self.expire(old);
        }
        let node = &mut self.nodes[n];
        node.life += 1;
        node.run = Run::Up;
        node.stopping = false;
        node.paused_until = 0;
        node.wake = u64::MAX;
        node.core = Some(Core::new(settings, Duration::from_millis(2000)));
        self.log(format!("n{n} starts"));
        self.connect(n);
        if self.well {
            self.tell_well(n);
        }
    }

    fn connect(&mut self, n: usize) {
        let session = self.id();
        self.service.sessions.insert(session, Session { node: n, heard: 0, alive: true });
        self.hear(session);
        let wait = self.latency() + 50;
        let life = self.nodes[n].life;
        self.after(wait, Happens::ToNode { n, life, say: Say::SessionUp(session) });
    }

    /// Its process ends without a word; or its machine.
    pub(super) fn crash(&mut self, n: usize, machine: bool) {
        if self.nodes[n].run == Run::Down {
            return;
        }
        self.log(format!("n{n} {}", if machine { "loses its power" } else { "is killed" }));
        let node = &mut self.nodes[n];
        node.run = Run::Down;
        node.life += 1;
        node.core = None;
        node.hold = None;
        node.astray = None;
        if machine {
            node.kernel = None;
        } else if self.rng.random_bool(0.4) {
            self.after(50, Happens::Guard { n });
        }
        let wait = self.rng.random_range(500..8000);
        self.after(wait, Happens::Start { n });
    }

    fn is_paused(&self, n: usize) -> bool {
        self.nodes[n].paused_until > self.now || self.nodes[n].core.is_none()
    }

    // The network.

    fn latency(&mut self) -> u64 {
        let slow = !self.well && self.rng.random_bool(0.04);
        if slow { self.rng.random_range(100..2500) } else { self.rng.random_range(1..15) }
    }

    pub(super) fn cut(&mut self, n: usize, cut: bool) {
        if self.nodes[n].cut == cut {
            return;
        }
        self.nodes[n].cut = cut;
        self.log(format!("n{n} is {}", if cut { "cut off" } else { "reachable" }));
        if !cut && let Some(session) = self.nodes[n].session {
            // Followers look at everything again.
            for doc in [Doc::Assignment, Doc::Term, Doc::Holder] {
                let wait = self.latency();
                self.after(wait, Happens::Read { n, session, doc });
            }
        }
    }

    pub(super) fn changed(&mut self, doc: Doc) {
        for n in 0..NODES {
            if let Some(session) = self.nodes[n].session {
                let wait = self.latency();
                self.after(wait, Happens::Read { n, session, doc });
            }
        }
    }

    fn read(&self, session: u64, doc: Doc) -> Event {
        match doc {
            Doc::Assignment => Event::Assigned(self.service.assignment.clone()),
            Doc::Term => Event::Term(Some(self.service.term.clone())),
            Doc::Holder => Event::Holder(
                self.service
                    .holder
                    .as_ref()
                    .map(|holder| (self.nodes[holder.node].name.clone(), holder.session == session)),
            ),
        }
    }

    /// In the order in which it was said, as on one connection.
    fn tell(&mut self, n: usize, say: Say) {
        let at = (self.now + self.latency()).max(self.nodes[n].hears_until);
        self.nodes[n].hears_until = at;
        let life = self.nodes[n].life;
        self.after(at - self.now, Happens::ToNode { n, life, say });
    }

    fn to_node(&mut self, n: usize, life: u64, say: Say) {
        if self.nodes[n].life != life {
            return;
        }
        if self.is_paused(n) {
            let wait = self.nodes[n].paused_until.saturating_sub(self.now).max(1);
            return self.after(wait, Happens::ToNode { n, life, say });
        }
        let from_afar = match &say {
            Say::Core(event) => matches!(
                event,
                Event::Assigned(_)
                    | Event::Holder(_)
                    | Event::Term(_)
                    | Event::Taken(..)
                    | Event::Released(..)
            ),
            Say::Proof { .. } | Say::SessionOver(_) => true,
            Say::SessionUp(_) => false,
        };
        if self.nodes[n].cut && from_afar {
            if !matches!(say, Say::Proof { .. }) {
                self.after(50, Happens::ToNode { n, life, say });
            }
            return;
        }
        match say {
            Say::Core(Event::Taken(ticket, Ok(mut taken))) => {
                taken.acked = instant(self.now);
                let found = u64::try_from(taken.wait.as_millis()).unwrap_or(0);
                self.nodes[n].wait = Some((self.now, found));
                self.feed(n, Event::Taken(ticket, Ok(taken)));
            }
            Say::Core(event) => self.feed(n, event),
            Say::Proof { hold, sent, ok } => self.proof(n, hold, sent, ok),
            Say::SessionUp(session) => {
                self.nodes[n].session = Some(session);
                self.feed(n, Event::Session(Some(session)));
                for doc in [Doc::Assignment, Doc::Term, Doc::Holder] {
                    self.after(1, Happens::Read { n, session, doc });
                }
                let life = self.nodes[n].life;
                self.after(1, Happens::PingDue { n, life, session });
            }
            Say::SessionOver(session) => {
                if self.nodes[n].session == Some(session) {
                    self.log(format!("n{n} learns that its session is over"));
                    self.nodes[n].session = None;
                    self.nodes[n].hold = None;
                    self.feed(n, Event::Session(None));
                    if self.nodes[n].life == life {
                        self.connect(n);
                    }
                }
            }
        }
    }

    fn ask(&mut self, n: usize, ask: Ask) {
        if let Some(session) = self.nodes[n].session {
            let wait = self.latency();
            self.after(wait, Happens::ToService { n, session, ask });
        }
    }

    // The service.

    fn hear(&mut self, session: u64) {
        let Some(known) = self.service.sessions.get_mut(&session) else { return };
        known.heard += 1;
        let heard = known.heard;
        let jitter = self.rng.random_range(0..self.setup.tick * 2);
        let wait = self.setup.timeout - self.setup.tick + jitter;
        self.after(wait, Happens::Expire { session, heard });
    }

    fn expire(&mut self, session: u64) {
        let n = self.service.sessions.get(&session).map_or(0, |session| session.node);
        self.log(format!("session {session} of n{n} expires"));
        if self.service.expire(session) {
            self.changed(Doc::Holder);
        }
    }

    fn asked(&mut self, n: usize, session: u64, ask: Ask) {
        if !self.service.sessions.get(&session).is_some_and(|known| known.alive) {
            return self.tell(n, Say::SessionOver(session));
        }
        self.hear(session);
        let lost = !self.well && self.rng.random_bool(0.05);
        let name = self.nodes[n].name.clone();
        match ask {
            Ask::Ping => {}
            Ask::Prove { hold, term_version, sent } => {
                let ok = self.service.proves(term_version);
                if !lost {
                    self.tell(n, Say::Proof { hold, sent, ok });
                }
            }
            Ask::Take { ticket, version, grace, sent } => {
                let take = Uuid::from_u128(self.rng.next_u64().into());
                let answer = match self.service.take(session, version, grace, take, &name) {
                    Ok((found, grace)) => {
                        self.counts.takes += 1;
                        self.counts.waits += u64::from(matches!(found, Term::Held { .. }));
                        self.log(format!("n{n} takes it, found {found:?}"));
                        self.changed(Doc::Holder);
                        self.changed(Doc::Term);
                        let (sent, acked, term_version) = (instant(sent), instant(sent), self.service.term.0);
                        let wait = found.wait();
                        Ok(Taken { take, sent, acked, term_version, wait, grace })
                    }
                    Err(why) => Err(Refused::Stale(why)),
                };
                let answer = match answer {
                    Ok(_) if lost => {
                        let wait = self.rng.random_range(1..1500);
                        self.after(wait, Happens::Undo { take });
                        Err(Refused::Failed("no answer".to_owned()))
                    }
                    answer => answer,
                };
                self.tell(n, Say::Core(Event::Taken(ticket, answer)));
            }
            Ask::Release { ticket, term_version, free } => {
                let done = self.service.release(term_version, free, &name);
                if done {
                    self.log(format!("n{n} releases it, free: {free}"));
                    if free && self.nodes[n].kernel.is_some() {
                        self.violated(format!("n{n} released the service and still has the address"));
                    }
                    self.changed(Doc::Holder);
                    self.changed(Doc::Term);
                }
                let answer = match done {
                    _ if lost => Err(Refused::Failed("no answer".to_owned())),
                    true => Ok(()),
                    false => Err(Refused::Stale("not ours any more".to_owned())),
                };
                self.tell(n, Say::Core(Event::Released(ticket, answer)));
            }
        }
    }

    // Leases.

    fn probe_due(&mut self, n: usize, life: u64, hold: u64) {
        let Some(known) = self.nodes[n].hold.clone().filter(|known| known.id == hold) else { return };
        if self.nodes[n].life != life {
            return;
        }
        if self.is_paused(n) {
            let wait = self.nodes[n].paused_until.saturating_sub(self.now).max(1);
            return self.after(wait, Happens::ProbeDue { n, life, hold });
        }
        self.ask(n, Ask::Prove { hold, term_version: known.term_version, sent: self.now });
        self.after(self.setup.period, Happens::ProbeDue { n, life, hold });
    }

    fn lapse_due(&mut self, n: usize, life: u64, hold: u64) {
        if self.nodes[n].life != life {
            return;
        }
        if self.is_paused(n) {
            let wait = self.nodes[n].paused_until.saturating_sub(self.now).max(1);
            return self.after(wait, Happens::LapseDue { n, life, hold });
        }
        let now = self.now;
        let Some(known) = self.nodes[n].hold.as_mut().filter(|known| known.id == hold && known.held) else {
            return;
        };
        if known.until <= now {
            known.held = false;
            self.log(format!("the lease of n{n} lapses"));
            self.feed(n, Event::Lease(LeaseNow::Lapsed));
        }
    }

    fn proof(&mut self, n: usize, hold: u64, sent: u64, ok: bool) {
        let (now, term, life) = (self.now, self.setup.timeout - self.setup.margin, self.nodes[n].life);
        let Some(known) = self.nodes[n].hold.as_mut().filter(|known| known.id == hold) else { return };
        if !ok {
            self.nodes[n].hold = None;
            return self.feed(n, Event::Lease(LeaseNow::Lost("it is somebody else's".to_owned())));
        }
        known.until = known.until.max(sent + term);
        let until = known.until;
        if until <= now {
            return;
        }
        let news = !std::mem::replace(&mut known.held, true);
        self.after(until - now, Happens::LapseDue { n, life, hold });
        if news {
            self.feed(n, Event::Lease(LeaseNow::Held));
        }
        let remaining = Duration::from_millis(until - now);
        self.feed(n, Event::Proved { sent: instant(sent), remaining });
    }

    fn remaining(&self, n: usize) -> Duration {
        let until = self.nodes[n].hold.as_ref().map_or(0, |hold| hold.until);
        Duration::from_millis(until.saturating_sub(self.now))
    }

    // The core and what it wants.

    /// What a node hears from its own machine.
    pub(super) fn core_event(&mut self, n: usize, event: Event) {
        if event == Event::Stop {
            self.nodes[n].stopping = true;
        }
        let life = self.nodes[n].life;
        let wait = self.rng.random_range(1..5);
        self.after(wait, Happens::ToNode { n, life, say: Say::Core(event) });
    }

    fn feed(&mut self, n: usize, event: Event) {
        let life = self.nodes[n].life;
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = instant(self.now);
            let Some(core) = &mut self.nodes[n].core else { return };
            for effect in core.step(event, now) {
                if let Some(event) = self.perform(n, effect) {
                    events.push_back(event);
                }
                if self.nodes[n].life != life {
                    return;
                }
            }
        }
        let Some(core) = &self.nodes[n].core else { return };
        if self.nodes[n].stopping && core.is_finished() {
            if self.nodes[n].kernel.is_some() {
                self.violated(format!("n{n} has stopped and left the address behind"));
            }
            self.log(format!("n{n} has stopped"));
            if let Some(session) = self.nodes[n].session.take() {
                self.expire(session);
            }
            return self.crash(n, false);
        }
        let at =
            core.wake().map_or(self.now + 60_000, |at| at.as_nanos().div_ceil(1_000_000)).max(self.now + 1);
        if at < self.nodes[n].wake {
            self.nodes[n].wake = at;
        }
        self.after(at - self.now, Happens::Wake { n, life });
    }

    fn perform(&mut self, n: usize, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Take { ticket, version, grace } => {
                let sent = self.now;
                self.ask(n, Ask::Take { ticket, version, grace, sent });
            }
            Effect::Prove(taken) => {
                let id = self.id();
                let sent = taken.sent.as_nanos() / 1_000_000;
                let until = sent + self.setup.timeout - self.setup.margin;
                let life = self.nodes[n].life;
                self.nodes[n].hold = Some(Hold { id, term_version: taken.term_version, until, held: true });
                self.after(0, Happens::ProbeDue { n, life, hold: id });
                self.after(until.saturating_sub(self.now), Happens::LapseDue { n, life, hold: id });
            }
            Effect::Unprove => self.nodes[n].hold = None,
            Effect::Record(ticket) => {
                let fails = !self.well && self.rng.random_bool(0.02);
                let answer = if fails { Err("the disk is full".to_owned()) } else { Ok(()) };
                self.later(n, Event::Recorded(ticket, answer), 1..30);
            }
            Effect::Forget(ticket) => self.later(n, Event::Forgotten(ticket), 1..30),
            Effect::Probe(ticket) => {
                let foreign = self.foreign_until > self.now
                    || (0..NODES).any(|other| other != n && self.nodes[other].kernel.is_some());
                let answered = foreign && self.rng.random_bool(0.7);
                let answer = Ok(answered.then(|| self.foreign()));
                self.later(n, Event::Probed(ticket, answer), PROBE_MS..PROBE_MS + 5);
            }
            Effect::Put { grace } => return self.put(n, grace),
            Effect::Remove => {
                if !self.well && self.rng.random_bool(0.05) {
                    return Some(Event::Removed(Err("the kernel is busy".to_owned())));
                }
                if self.kernel_remove(n) {
                    self.log(format!("n{n} removes the address"));
                }
                return Some(Event::Removed(Ok(())));
            }
            Effect::Release { ticket, term_version, free } => {
                self.ask(n, Ask::Release { ticket, term_version, free });
            }
            Effect::Say(text) => self.log(format!("n{n} says: {text}")),
            Effect::Announce | Effect::Hush | Effect::Came | Effect::Went => {}
        }
        None
    }

    fn later(&mut self, n: usize, event: Event, ms: std::ops::Range<u64>) {
        let life = self.nodes[n].life;
        let wait = self.rng.random_range(ms);
        self.after(wait, Happens::ToNode { n, life, say: Say::Core(event) });
    }

    /// Writes the address, as the driver does; the process may stand still between any two of its steps.
    fn put(&mut self, n: usize, grace: Duration) -> Option<Event> {
        let fresh = Duration::from_millis(self.setup.timeout - self.setup.margin);
        let life = self.nodes[n].life;
        let mut pen = Pen::new(1, grace, fresh, self.drill.clone());
        loop {
            match pen.next(instant(self.now), self.remaining(n)) {
                Stroke::Done(done) => {
                    let there = self.nodes[n].kernel.is_some();
                    if there && self.remaining(n).is_zero() {
                        self.violated(format!("n{n} put the address outside of its lease"));
                    }
                    return Some(Event::Put(done));
                }
                Stroke::Write { valid_s, .. } => {
                    self.stand_still(n);
                    if self.nodes[n].life != life {
                        return None;
                    }
                    let fails = !self.well && self.rng.random_bool(0.01);
                    let answer = if fails { Err("the kernel refuses".to_owned()) } else { Ok(()) };
                    if answer.is_ok() {
                        self.kernel_put(n, valid_s);
                    }
                    if let Some(Stroke::Erase { .. }) =
                        pen.written(answer, instant(self.now), self.remaining(n))
                    {
                        self.kernel_remove(n);
                    }
                }
                Stroke::Erase { .. } => {
                    self.kernel_remove(n);
                }
            }
        }
    }

    /// Now and then, the process is stopped right here.
    fn stand_still(&mut self, n: usize) {
        if self.well || !self.rng.random_bool(0.01) {
            return;
        }
        let until = self.now + self.rng.random_range(20..6000);
        self.log(format!("n{n} stands still in the middle of a writing until {until}"));
        let life = self.nodes[n].life;
        self.nodes[n].paused_until = self.nodes[n].paused_until.max(until);
        let core = self.nodes[n].core.take();
        self.run_until(until);
        if self.nodes[n].life == life {
            self.nodes[n].core = core;
        }
    }

    // Kernels.

    fn kernel_put(&mut self, n: usize, valid_s: u32) {
        let token = self.id();
        let wait = u64::from(valid_s) * 1000 + self.rng.random_range(0..1000);
        let worst = self.now + u64::from(valid_s) * 1000 + 1000;
        self.nodes[n].kernel = Some(There { token, gone_by: worst });
        self.counts.puts += 1;
        self.log(format!("n{n} puts the address for {valid_s} s"));
        self.after(wait, Happens::KernelLooks { n, token });
        for other in (0..NODES).filter(|other| *other != n) {
            if self.nodes[other].kernel.is_some() {
                self.violated(format!("two kernels have the address: n{n} and n{other}"));
            }
        }
        if let Some((acked, wait)) = self.nodes[n].wait
            && self.now < acked + wait
        {
            self.violated(format!(
                "n{n} did not wait: taken at {acked}, {wait} ms to wait, put at {}",
                self.now
            ));
        }
    }

    pub(super) fn kernel_remove(&mut self, n: usize) -> bool {
        self.nodes[n].kernel.take().is_some()
    }

    /// Addresses of running processes without a lease; and lifetimes that reach beyond what a successor waits.
    fn look_for_strays(&mut self) {
        for n in 0..NODES {
            let inside = !self.remaining(n).is_zero();
            let (now, paused) = (self.now, self.is_paused(n));
            let node = &mut self.nodes[n];
            if node.kernel.is_none() || inside || paused || node.run == Run::Down {
                node.astray = None;
            } else {
                let since = *node.astray.get_or_insert(now);
                if now > since + REMOVED_WITHIN_MS {
                    self.violated(format!(
                        "n{n} runs and has had the address outside of its lease since {since}"
                    ));
                }
            }
            let Term::Held { grace, .. } = &self.service.term.1 else { continue };
            let grace = u64::try_from(grace.as_millis()).unwrap_or(0);
            let node = &self.nodes[n];
            if let (Some(there), Some(hold), false) = (node.kernel, &node.hold, paused)
                && hold.term_version == self.service.term.0
                && hold.held
                && there.gone_by > hold.until + grace
            {
                let by = hold.until + grace;
                self.violated(format!("the kernel may keep it at n{n} until {}, beyond {by}", there.gone_by));
            }
        }
    }

    pub(super) fn foreign(&self) -> Foreign {
        let address = IpAddr::V4(Ipv4Addr::new(172, 0, 20, 241));
        Foreign { address, mac: Mac([2, 0, 0, 0, 0, 9]) }
    }
}
