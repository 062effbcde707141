//! Processes: they start and end, and carry out what their cores want.

use std::collections::VecDeque;
use std::time::Duration;

use rand::RngExt;

use super::service::Session;
use super::world::*;
use crate::holder::pen::{Pen, Stroke, Then};
use crate::holder::{Core, Effect, Event, Settings, Tickets};

impl World {
    pub(super) fn start(&mut self, n: usize) {
        if self.nodes[n].run == Run::Up {
            return;
        }
        // Its first act.
        self.kernel_remove(n);
        let drill = self.drill.clone();
        let settings = Settings {
            me: self.nodes[n].name.clone(),
            probe_takes: Duration::from_millis(PROBE_MS),
            tickets: Tickets::default(),
            drill,
        };
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

    pub(super) fn connect(&mut self, n: usize) {
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

    pub(super) fn is_paused(&self, n: usize) -> bool {
        self.nodes[n].paused_until > self.now || self.nodes[n].core.is_none()
    }

    /// What a node hears from its own machine.
    pub(super) fn core_event(&mut self, n: usize, event: Event) {
        if event == Event::Stop {
            self.nodes[n].stopping = true;
        }
        let life = self.nodes[n].life;
        let wait = self.rng.random_range(1..5);
        self.after(wait, Happens::ToNode { n, life, say: Say::Core(event) });
    }

    pub(super) fn feed(&mut self, n: usize, event: Event) {
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

    pub(super) fn perform(&mut self, n: usize, effect: Effect) -> Option<Event> {
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

    pub(super) fn later(&mut self, n: usize, event: Event, ms: std::ops::Range<u64>) {
        let life = self.nodes[n].life;
        let wait = self.rng.random_range(ms);
        self.after(wait, Happens::ToNode { n, life, say: Say::Core(event) });
    }

    /// Writes the address, as the driver does; the process may stand still between any two of its steps.
    pub(super) fn put(&mut self, n: usize, grace: Duration) -> Option<Event> {
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
                    if pen.written(answer, instant(self.now), self.remaining(n)) == Then::Erase {
                        self.kernel_remove(n);
                    }
                    self.look_for_two(n);
                }
            }
        }
    }

    /// Now and then, the process is stopped right here.
    pub(super) fn stand_still(&mut self, n: usize) {
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
}
