//! What nodes and the coordination service say to each other, late, or never; and the leases that follow from it.

use std::time::Duration;

use rand::{Rng, RngExt};
use uuid::Uuid;

use super::service::Doc;
use super::world::*;
use crate::holder::{Event, LeaseNow, Refused, Taken};
use crate::store::Term;

impl World {
    pub(super) fn latency(&mut self) -> u64 {
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

    pub(super) fn read(&self, session: u64, doc: Doc) -> Event {
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
    pub(super) fn tell(&mut self, n: usize, say: Say) {
        let at = (self.now + self.latency()).max(self.nodes[n].hears_until);
        self.nodes[n].hears_until = at;
        let life = self.nodes[n].life;
        self.after(at - self.now, Happens::ToNode { n, life, say });
    }

    pub(super) fn reach_node(&mut self, n: usize, life: u64, say: Say) {
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

    pub(super) fn ask(&mut self, n: usize, ask: Ask) {
        if let Some(session) = self.nodes[n].session {
            let wait = self.latency();
            self.after(wait, Happens::ToService { n, session, ask });
        }
    }

    pub(super) fn hear(&mut self, session: u64) {
        let Some(known) = self.service.sessions.get_mut(&session) else { return };
        known.heard += 1;
        let heard = known.heard;
        let jitter = self.rng.random_range(0..self.setup.tick * 2);
        let wait = self.setup.timeout - self.setup.tick + jitter;
        self.after(wait, Happens::Expire { session, heard });
    }

    pub(super) fn expire(&mut self, session: u64) {
        let n = self.service.sessions.get(&session).map_or(0, |session| session.node);
        self.log(format!("session {session} of n{n} expires"));
        if self.service.expire(session) {
            self.changed(Doc::Holder);
        }
    }

    pub(super) fn asked(&mut self, n: usize, session: u64, ask: Ask) {
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

    pub(super) fn probe_due(&mut self, n: usize, life: u64, hold: u64) {
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

    pub(super) fn lapse_due(&mut self, n: usize, life: u64, hold: u64) {
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

    pub(super) fn proof(&mut self, n: usize, hold: u64, sent: u64, ok: bool) {
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

    pub(super) fn remaining(&self, n: usize) -> Duration {
        let until = self.nodes[n].hold.as_ref().map_or(0, |hold| hold.until);
        Duration::from_millis(until.saturating_sub(self.now))
    }
}
