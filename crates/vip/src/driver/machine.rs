//! What the kernel, the checks and the node's own file say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::vip::{Backend, LocalPhase, ServiceName};
use tokio::time;

use super::jobs::Job;
use super::local::Local;
use super::{Driver, LOOK_AGAIN};
use crate::checks::{Fitness, Links};
use crate::holder::Event;
use crate::net::{Address, BackendKind, Interface, NetEvent};

impl Driver {
    pub(super) fn net(&mut self, event: Option<NetEvent>) {
        match event {
            Some(NetEvent::AddressGone(address)) => self.address_gone(&address),
            Some(NetEvent::AddressSet(address)) => self.address_set(&address),
            Some(NetEvent::LinkSet(link)) => {
                self.link_events += 1;
                let mut links = Links::clone(&self.links.borrow());
                // A renamed interface is known by its new name alone.
                links.retain(|_, known| known.link != link.link);
                links.insert(link.name.clone(), link);
                self.take_links(links);
            }
            Some(NetEvent::LinkGone { link, .. }) => {
                self.link_events += 1;
                let mut links = Links::clone(&self.links.borrow());
                links.retain(|_, known| known.link != link);
                self.take_links(links);
            }
            Some(NetEvent::Overrun) => self.look_at = Some(time::Instant::now()),
            None => {
                tracing::warn!("the kernel's events have ended: asking for them again");
                self.watch = None;
                self.look_at = Some(time::Instant::now());
            }
        }
    }

    fn address_gone(&mut self, gone: &Address) {
        let has = |put: &[(u32, ipnet::IpNet)]| put.contains(&(gone.link, gone.address));
        let service =
            self.services.iter().find(|(_, local)| has(&local.put)).map(|(service, _)| service.clone());
        let Some(service) = service else { return };
        let what = format!("{} from {}", gone.address.addr(), gone.interface);
        // The kernel says that a link is down before it takes its IPv6 addresses.
        let down = self.links.borrow().values().any(|link| link.link == gone.link && !link.up);
        self.feed(&service, if down { Event::Dropped(what) } else { Event::Vanished(what) });
    }

    /// An address of ours that lives for ever, or is tagged as nobody's, would stay behind after a `kill -9`.
    fn address_set(&mut self, set: &Address) {
        let tagged = set.ours || !self.options.backend.keeps_tags();
        if tagged && set.valid_for.is_some() {
            return;
        }
        let has = |local: &Local| local.put.contains(&(set.link, set.address));
        let service = self.services.iter().find(|(_, local)| has(local)).map(|(service, _)| service.clone());
        if let Some(service) = service {
            self.feed(&service, Event::Overwritten(format!("{} on {}", set.address.addr(), set.interface)));
        }
    }

    /// The interfaces as they are now: who has come back is announced on again.
    fn take_links(&mut self, links: Links) {
        let old = self.links.send_replace(Arc::new(links.clone()));
        let carries = |link: &Interface| link.up && link.carrier;
        let back = |(name, link): &(&String, &Interface)| {
            let before = old.get(*name);
            carries(link)
                && before.is_none_or(|before| {
                    !carries(before) || before.link != link.link || before.mac != link.mac
                })
        };
        // Another interface of that name: what the disk and the guard were told of was the one before.
        let is_another = |name: &str| {
            let number = |links: &Links| links.get(name).map(|link| link.link);
            number(&links).is_some_and(|link| number(&old) != Some(link))
        };
        let moved: Vec<_> = self
            .services
            .iter()
            .filter(|(_, local)| local.places.iter().any(|(name, _)| is_another(name)))
            .map(|(service, _)| service.clone())
            .collect();
        for service in moved {
            self.feed(&service, Event::Redefined);
        }
        for (name, link) in links.iter().filter(back) {
            let anew = old.get(name).is_none_or(|before| before.link != link.link || before.mac != link.mac);
            let on: Vec<_> = self
                .services
                .iter()
                .filter(|(_, local)| local.is_on(name))
                .map(|(service, _)| service.clone())
                .collect();
            for service in on {
                if anew && self.services.get(&service).is_some_and(|local| !local.put.is_empty()) {
                    self.listen(&service);
                }
                self.feed(&service, Event::LinkUp);
            }
        }
    }

    /// Looks at the whole machine if events were lost, or watches it again.
    pub(super) fn look_again(&mut self) {
        if self.looking || self.look_at.is_none_or(|at| at > time::Instant::now()) {
            return;
        }
        (self.looking, self.look_at) = (true, None);
        let backend = self.options.backend.clone();
        if self.watch.is_none() {
            self.spawn("watching the machine", Job::Watched(None), async move {
                let watch = backend.watch().await;
                if let Err(error) = &watch {
                    tracing::warn!(%error, "the machine cannot be watched");
                }
                Job::Watched(watch.ok())
            });
        } else {
            let events = self.link_events;
            self.spawn("looking at the machine", Job::Looked(events, None), async move {
                let seen = futures::future::try_join(backend.addresses(), backend.interfaces()).await;
                if let Err(error) = &seen {
                    tracing::warn!(%error, "the machine cannot be looked at");
                }
                Job::Looked(events, seen.ok())
            });
        }
    }

    pub(super) fn looked(&mut self, events: u64, seen: Option<(Vec<Address>, Vec<Interface>)>) {
        self.looking = false;
        let Some((addresses, interfaces)) = seen else {
            self.look_at = Some(time::Instant::now() + LOOK_AGAIN);
            return;
        };
        if events != self.link_events {
            // Some of it may be older than what was heard meanwhile.
            self.look_at = Some(time::Instant::now());
            return;
        }
        self.take_links(interfaces.into_iter().map(|link| (link.name.clone(), link)).collect());
        let missing = |(link, address): &&(u32, ipnet::IpNet)| {
            !addresses.iter().any(|there| there.link == *link && there.address == *address)
        };
        let mut vanished = Vec::new();
        for (service, local) in &self.services {
            let gone = local.put.iter().filter(missing).map(|(_, address)| address.addr().to_string());
            vanished.extend(gone.map(|address| (service.clone(), address)));
        }
        for (service, address) in vanished {
            self.feed(&service, Event::Vanished(address));
        }
    }

    pub(super) fn take_facts(&mut self) {
        let facts = self.facts.borrow_and_update().clone();
        self.hooks.configure(facts.hooks.clone());
        self.options.facts = facts;
        self.note(None, "the node's own file was read again".to_owned());
        self.take_config();
    }

    pub(super) fn refresh_fitness(&mut self) {
        let services: Vec<_> = self.services.keys().cloned().collect();
        for service in services {
            let unfit = self.unfit(&service);
            self.feed(&service, Event::Fitness(unfit));
        }
    }

    /// Why this node cannot hold the service.
    fn unfit(&self, service: &ServiceName) -> Option<String> {
        let local = self.services.get(service)?;
        if let Some(trouble) = &local.timing_trouble {
            return Some(trouble.clone());
        }
        if self.options.backend.kind() == BackendKind::DryRun
            && let Some(node) = self.real_node()
        {
            return Some(format!("this node is a dry run, and {node} is not"));
        }
        let holds = local.since.0 != LocalPhase::Idle;
        match self.fitness.borrow().get(service) {
            Some(Fitness::Fit) | None => None,
            Some(Fitness::Unfit(why)) => Some(why.clone()),
            // Checks that were just configured are no reason to drop what is held.
            Some(Fitness::Unknown(_)) if holds => None,
            Some(Fitness::Unknown(why)) => Some(why.clone()),
        }
    }

    /// Another node that changes its kernel.
    fn real_node(&self) -> Option<&proto::NodeId> {
        let real = |report: &&proto::vip::NodeReport| {
            report.node != self.options.node && report.backend == Backend::Netlink && !report.stopping
        };
        self.cluster.reports.values().find(real).map(|report| &report.node)
    }

    /// What each service's nodes can do, as they say.
    pub(super) fn refresh_peers(&mut self) {
        let Some(drained) = self.cluster.drained.clone() else { return };
        if !self.cluster.has_all_reports() {
            return;
        }
        let real = self
            .cluster
            .reports
            .values()
            .any(|report| report.backend == Backend::Netlink && !report.stopping);
        let me_drained = drained.contains_key(&self.options.node);
        let mut able: BTreeMap<ServiceName, _> = BTreeMap::new();
        for service in self.services.keys() {
            let can = |report: &&proto::vip::NodeReport| {
                let fit = report.services.get(service).is_some_and(|local| local.unfit.is_none());
                let dry = real && report.backend == Backend::DryRun;
                fit && !dry && !report.stopping && !drained.contains_key(&report.node)
            };
            let nodes = self.cluster.reports.values().filter(can).map(|report| report.node.clone()).collect();
            able.insert(service.clone(), nodes);
        }
        let there: BTreeSet<_> = self.cluster.reports.keys().cloned().collect();
        for (service, able) in able {
            self.feed(&service, Event::Peers { there: there.clone(), able, drained: me_drained });
        }
        if self.options.backend.kind() == BackendKind::DryRun {
            self.refresh_fitness();
        }
    }
}
