//! One service on this machine: its core, and what the core's effects come to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use coord::Hold;
use ipnet::IpNet;
use proto::vip::{LocalPhase, ServiceName};
use rand::Rng;
use tokio::task::AbortHandle;
use uuid::Uuid;

use super::jobs::Job;
use super::{Driver, Said};
use crate::announce::{Announcements, Port};
use crate::checks::Links;
use crate::config::Service;
use crate::holder::pen::{Pen, Stroke, Then};
use crate::holder::{Core, Effect, Event, PutDone, PutEnd, Taken};
use crate::hooks::Moment;
use crate::local_db::Entry;
use crate::net::{BackendKind, Mac};
use crate::options::Facts;
use crate::store;

/// What proves that it is ours.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) take: Uuid,
    pub(super) hold: Hold,
    watching: AbortHandle,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// One service on this machine.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) core: Core,
    pub(super) definition: Service,
    /// Interface and address, as they are called here.
    pub(super) places: Vec<(String, IpNet)>,
    pub(super) hold: Option<Holding>,
    /// The last take, for the release.
    pub(super) taken: Option<store::Taken>,
    pub(super) announcements: Announcements,
    listeners: Vec<AbortHandle>,
    /// Addresses that were written and not removed, with the link that they were written to.
    pub(super) put: Vec<(u32, IpNet)>,
    /// What is or may be in the database.
    pub(super) recorded: BTreeSet<Entry>,
    pub(super) since: (LocalPhase, u64),
    pub(super) timing_trouble: Option<String>,
}

impl Local {
    pub(super) fn new(
        core: Core,
        definition: Service,
        facts: &Facts,
        announcements: Announcements,
        wall: u64,
    ) -> Self {
        let places = places(&definition, facts);
        Self {
            core,
            definition,
            places,
            hold: None,
            taken: None,
            announcements,
            listeners: Vec::new(),
            put: Vec::new(),
            recorded: BTreeSet::new(),
            since: (LocalPhase::Idle, wall),
            timing_trouble: None,
        }
    }

    /// Takes a new definition or new facts; whether its addresses are others now.
    pub(super) fn define(&mut self, definition: Service, facts: &Facts) -> bool {
        let new = places(&definition, facts);
        self.definition = definition;
        let changed = new != self.places;
        self.places = new;
        changed
    }

    pub(super) fn is_on(&self, interface: &str) -> bool {
        self.places.iter().any(|(on, _)| on == interface)
    }

    /// The interfaces with their addresses, as far as they are there and can carry any.
    fn ports(&self, links: &Links) -> Vec<(Port, Vec<IpAddr>)> {
        let mut ports: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        for (interface, address) in &self.places {
            ports.entry(interface).or_default().push(address.addr());
        }
        let port = |(interface, addresses): (&str, Vec<IpAddr>)| {
            let link = links.get(interface)?;
            let port = Port { link: link.link, interface: link.name.clone(), mac: Mac(link.mac?) };
            Some((port, addresses))
        };
        ports.into_iter().filter_map(port).collect()
    }

    fn deafen(&mut self) {
        self.listeners.drain(..).for_each(|listener| listener.abort());
    }
}

fn places(definition: &Service, facts: &Facts) -> Vec<(String, IpNet)> {
    let place = |vip: &crate::config::Vip| (facts.interface(&vip.interface).to_owned(), vip.address);
    definition.vips.iter().map(place).collect()
}

impl Driver {
    pub(super) fn feed_all(&mut self, event: &Event) {
        let services: Vec<_> = self.services.keys().cloned().collect();
        for service in services {
            self.feed(&service, event.clone());
        }
    }

    /// One event into a core, its effects out of it, until nothing more follows at once.
    pub(super) fn feed(&mut self, service: &ServiceName, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let now = self.options.clock.now();
            let Some(local) = self.services.get_mut(service) else { return };
            for effect in local.core.step(event, now) {
                events.extend(self.perform(service, effect));
            }
        }
        let (now, wall) = (self.options.clock.now(), self.options.clock.wall().0);
        let Some(local) = self.services.get_mut(service) else { return };
        let phase = local.core.phase(now);
        if local.since.0 != phase {
            local.since = (phase, wall);
            self.dirty = true;
        }
    }

    fn perform(&mut self, service: &ServiceName, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Take { ticket, version, grace } => {
                let take = self.uuid();
                self.take(service, ticket, version, grace, take);
            }
            Effect::Prove(taken) => self.prove(service, &taken),
            Effect::Unprove => {
                if let Some(local) = self.services.get_mut(service) {
                    local.hold = None;
                }
            }
            Effect::Record(ticket) => self.record(service, ticket),
            Effect::Forget(ticket) => {
                let local = self.services.get_mut(service)?;
                // From here on nothing of it can be on this machine.
                self.guard.handle().forget(service);
                let entries: Vec<_> = std::mem::take(&mut local.recorded).into_iter().collect();
                let name = service.clone();
                // Called here: the order of the calls counts, and a record may follow.
                let removed = self.db.remove(entries);
                let instead = Job::Core(name.clone(), Event::Forgotten(ticket));
                self.spawn("forgetting addresses", instead, async move {
                    if let Err(error) = removed.await {
                        // It costs a look at the next start.
                        tracing::warn!(%error, "the database of addresses could not be told");
                    }
                    Job::Core(name, Event::Forgotten(ticket))
                });
            }
            Effect::Probe(ticket) => self.probe(service, ticket),
            Effect::Put { grace } => return Some(Event::Put(self.put(service, grace))),
            Effect::Remove => return Some(Event::Removed(self.remove(service))),
            Effect::Announce => {
                let now = self.options.clock.now();
                if let Some(local) = self.services.get_mut(service) {
                    local.announcements.start(now);
                }
                self.announce_due();
            }
            Effect::Hush => {
                if let Some(local) = self.services.get_mut(service) {
                    local.announcements.stop();
                    local.deafen();
                }
            }
            Effect::Came => {
                self.listen(service);
                self.hook(service, Moment::Take);
                let what = if self.dry() {
                    "dry run: its addresses would be here now"
                } else {
                    "its addresses are here"
                };
                self.note(Some(service), what.to_owned());
            }
            Effect::Went => {
                self.hook(service, Moment::Release);
                let what = if self.dry() {
                    "dry run: its addresses would be gone from here now"
                } else {
                    "its addresses are gone from here"
                };
                self.note(Some(service), what.to_owned());
            }
            Effect::Release { ticket, term_version, free } => {
                self.release(service, ticket, term_version, free)
            }
            Effect::Say(what) => self.note(Some(service), what),
        }
        None
    }

    pub(super) fn uuid(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(
            self.rng.next_u64().to_be_bytes().repeat(2).try_into().unwrap_or_default(),
        )
        .into_uuid()
    }

    fn dry(&self) -> bool {
        self.options.backend.kind() == BackendKind::DryRun
    }

    /// Not in a dry run: the program would believe in addresses that are not there.
    fn hook(&mut self, service: &ServiceName, moment: Moment) {
        let Some(local) = self.services.get(service) else { return };
        let addresses: Vec<_> = local.places.iter().map(|(_, address)| *address).collect();
        if !self.dry() {
            self.hooks.run(service, moment, &addresses);
        } else if let Some(hook) = self.hooks.would_run(service, moment, &addresses) {
            self.note(Some(service), format!("dry run: would run {hook}"));
        }
    }

    fn prove(&mut self, service: &ServiceName, taken: &Taken) {
        let (Some(connected), Some(local)) = (&self.connected, self.services.get_mut(service)) else {
            return;
        };
        let Some(store_taken) = local.taken.as_ref().filter(|known| known.take == taken.take) else { return };
        let hold = connected.lease.hold(store_taken.authority(&connected.control.layout), taken.sent);
        let (mut states, said, take) = (hold.states.clone(), self.said.0.clone(), taken.take);
        let name = service.clone();
        let watching = async move {
            loop {
                let state = states.borrow_and_update().clone();
                if said.send(Said::Lease(name.clone(), take, state)).await.is_err()
                    || states.changed().await.is_err()
                {
                    return;
                }
            }
        };
        let watching = self.passing_on.spawn(self.options.pulse.watch("a lease's states", watching));
        local.hold = Some(Holding { take, hold, watching });
    }

    /// On disk, and known to the guard; the latter is no condition, since the kernel ends them too.
    fn record(&mut self, service: &ServiceName, ticket: u64) {
        let links = self.links.borrow().clone();
        let Some(local) = self.services.get_mut(service) else { return };
        let link = |interface: &String| links.get(interface).map_or(0, |link| link.link);
        let entry = |(interface, address): &(String, IpNet)| Entry {
            service: service.clone(),
            interface: interface.clone(),
            link: link(interface),
            address: *address,
        };
        let entries: Vec<_> = local.places.iter().map(entry).collect();
        local.recorded.extend(entries.iter().cloned());
        let guarded: Vec<_> = entries.iter().map(|entry| (entry.link, entry.address)).collect();
        let remaining = local.hold.as_ref().map(|hold| hold.hold.flag.proved_remaining()).unwrap_or_default();
        let until = self.options.clock.now() + remaining;
        let name = service.clone();
        // Called here: the order of the calls counts.
        let (added, told) = (self.db.add(entries), self.guard.handle().hold(&name, guarded, until));
        let instead = Job::Core(name.clone(), Event::Recorded(ticket, Err("it crashed".to_owned())));
        self.spawn("recording addresses", instead, async move {
            let (written, told) = futures::future::join(added, told).await;
            if let Err(unguarded) = told {
                tracing::warn!(service = %name, "{unguarded}");
            }
            let answer = written.map_err(|error| {
                let why = std::error::Error::source(&error).map(|source| format!(": {source}"));
                format!("{error}{}", why.unwrap_or_default())
            });
            Job::Core(name, Event::Recorded(ticket, answer))
        });
    }

    fn probe(&mut self, service: &ServiceName, ticket: u64) {
        let links = self.links.borrow().clone();
        let Some(local) = self.services.get(service) else { return };
        let ports = local.ports(&links);
        let (announcer, policy, name) = (self.options.announcer.clone(), self.options.probe, service.clone());
        let crashed = Err("the question crashed".to_owned());
        self.spawn(
            "asking for addresses",
            Job::Core(name.clone(), Event::Probed(ticket, crashed)),
            async move {
                let asked = ports.iter().map(|(port, addresses)| announcer.probe(port, addresses, policy));
                let answers = futures::future::try_join_all(asked).await;
                let answer = answers
                    .map(|answers| answers.into_iter().flatten().next())
                    .map_err(|error| error.to_string());
                Job::Core(name, Event::Probed(ticket, answer))
            },
        );
    }

    /// Writes all of a service's addresses: clock, write, clock, each.
    fn put(&mut self, service: &ServiceName, grace: std::time::Duration) -> PutDone {
        let (clock, backend, drill) =
            (self.options.clock.clone(), self.options.backend.clone(), self.options.drill.clone());
        let links = self.links.borrow().clone();
        let nothing = PutDone { there: None, end: PutEnd::OutsideLease };
        let (Some(local), Some(connected)) = (self.services.get_mut(service), &self.connected) else {
            return nothing;
        };
        let Some(flag) = local.hold.as_ref().map(|hold| hold.hold.flag.clone()) else { return nothing };
        let fresh = connected.control.timing.term();
        // It may believe that what it knows has lapsed.
        self.guard.handle().extend(service, clock.now() + flag.proved_remaining());
        let mut pen = Pen::new(local.places.len(), grace, fresh, drill);
        loop {
            let now = clock.now();
            match pen.next(now, flag.proved_remaining()) {
                Stroke::Done(done) => return done,
                Stroke::Write { index, valid_s } => {
                    let Some((interface, address)) = local.places.get(index) else { return nothing };
                    let Some(link) = links.get(interface).map(|link| link.link) else {
                        let why = format!("there is no interface {interface}");
                        pen.written(Err(why), clock.now(), flag.proved_remaining());
                        continue;
                    };
                    if !local.put.contains(&(link, *address)) {
                        local.put.push((link, *address));
                    }
                    let answer = backend.put(link, *address, valid_s);
                    if matches!(answer, Err(crate::net::NetError::Foreign { .. })) {
                        // Somebody else's: it is not ours to remove.
                        local.put.retain(|put| *put != (link, *address));
                    }
                    let answer = answer.map_err(|error| error.to_string());
                    if pen.written(answer, clock.now(), flag.proved_remaining()) == Then::Erase
                        && let Err(error) = backend.remove(link, *address)
                    {
                        // The core removes it again.
                        tracing::warn!(%error, "an address that came too late could not be removed at once");
                    }
                }
            }
        }
    }

    fn remove(&mut self, service: &ServiceName) -> Result<(), String> {
        let backend = self.options.backend.clone();
        let Some(local) = self.services.get_mut(service) else { return Ok(()) };
        let mut failures = Vec::new();
        local.put.retain(|(link, address)| match backend.remove(*link, *address) {
            Ok(_) => false,
            Err(error) => {
                failures.push(format!("{address}: {error}"));
                true
            }
        });
        if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
    }

    /// Rounds that are due.
    pub(super) fn announce_due(&mut self) {
        let (now, links) = (self.options.clock.now(), self.links.borrow().clone());
        for (service, local) in &mut self.services {
            // Asked at the last moment: this process may have stood still, and somebody else have taken the service.
            let holds = local.hold.as_ref().is_some_and(|hold| hold.hold.flag.holds());
            if local.announcements.due(now, &mut self.rng) && holds && local.core.may_announce() {
                for (port, addresses) in local.ports(&links) {
                    if let Err(error) = self.options.announcer.announce(&port, &addresses) {
                        tracing::warn!(%service, %error, "the addresses could not be announced");
                    }
                }
            }
        }
    }

    /// Hears who else says that it has an address, from now on.
    pub(super) fn listen(&mut self, service: &ServiceName) {
        let links = self.links.borrow().clone();
        let Some(local) = self.services.get_mut(service) else { return };
        local.deafen();
        for (port, addresses) in local.ports(&links) {
            let mut listening = match self.options.announcer.listen(&port, addresses) {
                Ok(listening) => listening,
                Err(error) => {
                    tracing::warn!(%service, %error, "nobody listens for others who have the addresses");
                    continue;
                }
            };
            let (said, name) = (self.said.0.clone(), service.clone());
            let pass_on = async move {
                // The whole of it, or its task would end.
                let listening = &mut listening;
                while let Some(foreign) = listening.conflicts.recv().await {
                    if said.send(Said::Conflict(name.clone(), foreign)).await.is_err() {
                        return;
                    }
                }
            };
            let listener = self.passing_on.spawn(self.options.pulse.watch("a listener", pass_on));
            local.listeners.push(listener);
        }
    }
}
