//! What the coordination service says, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coord::{Generation, GroupLease};
use proto::NodeId;
use proto::vip::{ConfigText, Drained, NodeReport, ServiceName};

use super::jobs::Job;
use super::local::Local;
use super::{Connected, Driver, Mode};
use crate::announce::Announcements;
use crate::config::{self, Config};
use crate::holder::timing::check_timing;
use crate::holder::{Assigned, Core, Event, Settings};
use crate::store::{Assignment, Change, Document, Followers, Found, Holder, Store, Term};

/// One service's documents; each none until it was seen, then none in it where there is no such document.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) assignment: Option<Option<Found<Assignment>>>,
    pub(super) holder: Option<Option<Found<Holder>>>,
    pub(super) term: Option<Option<Found<Term>>>,
}

/// Everything that was read. Without a session it is as it was.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Whether the configuration was seen on this session.
    pub(super) config_seen: bool,
    /// Whether it was ever.
    pub(super) config_known: bool,
    pub(super) text: Arc<ConfigText>,
    pub(super) config: Arc<Config>,
    pub(super) config_trouble: Option<String>,
    pub(super) drained: Option<BTreeMap<NodeId, Drained>>,
    /// Nodes that say something.
    pub(super) nodes: Option<BTreeSet<NodeId>>,
    pub(super) reports: BTreeMap<NodeId, NodeReport>,
    /// Reports that were seen, also unreadable ones.
    heard: BTreeSet<NodeId>,
    pub(super) services: Option<BTreeSet<ServiceName>>,
    pub(super) documents: BTreeMap<ServiceName, Seen>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let text = ConfigText { revision: 0, applied_ms: 0, by: None, text: String::new() };
        Self {
            config_seen: false,
            config_known: false,
            text: Arc::new(text),
            config: Arc::new(Config::default()),
            config_trouble: None,
            drained: None,
            nodes: None,
            reports: BTreeMap::new(),
            heard: BTreeSet::new(),
            services: None,
            documents: BTreeMap::new(),
        }
    }

    /// Another session: everything has to be seen again before it counts.
    fn forget(&mut self) {
        self.config_seen = false;
        self.drained = None;
        self.nodes = None;
        self.heard.clear();
        self.services = None;
        self.documents.clear();
    }

    pub(super) fn has_all_reports(&self) -> bool {
        self.nodes.as_ref().is_some_and(|nodes| nodes.iter().all(|node| self.heard.contains(node)))
    }

    /// Whether everything was seen once.
    pub(super) fn is_complete(&self) -> bool {
        let seen = |service: &ServiceName| {
            let seen = self.documents.get(service);
            seen.is_some_and(|seen| seen.assignment.is_some() && seen.holder.is_some() && seen.term.is_some())
        };
        self.config_seen
            && self.drained.is_some()
            && self.has_all_reports()
            && self.services.as_ref().is_some_and(|services| services.iter().all(seen))
    }
}

fn readable<T>(document: Document<T>) -> Option<Found<T>> {
    // Its follower has said it.
    document.unwrap_or_default()
}

impl Driver {
    /// The quorum's view has changed: another session, none, or the term.
    pub(super) fn take_control(&mut self) {
        let control = self.control.borrow_and_update().clone();
        let Some(control) = control else {
            if self.connected.is_some() {
                self.disconnect();
            }
            return;
        };
        let generation = control.link.generation();
        if self.connected.as_ref().is_some_and(|connected| connected.generation == generation) {
            if let Some(connected) = &mut self.connected {
                connected.control = control;
            }
            if self.ended.is_none() {
                self.take_term();
            }
            return;
        }
        self.disconnect();
        let (clock, pulse) = (self.options.clock.clone(), &self.options.pulse);
        let store = Store::new(control.link.clone(), control.layout.clone(), clock.clone());
        let followers = Followers::start(&store, pulse);
        let probe = control.layout.probe(&self.options.node);
        let lease = GroupLease::start(control.link.clone(), probe, control.timing, clock);
        let (commits, state) = (lease.commits(), control.link.state());
        // A session that is new owns nothing.
        let audited = state.borrow().connection();
        self.connected =
            Some(Connected { generation, control, store, followers, lease, commits, state, audited });
        self.feed_all(&Event::Session(Some(generation.0)));
        self.judge_timing();
        self.refresh_fitness();
        self.take_term();
    }

    /// No session any more: what it held goes at once.
    fn disconnect(&mut self) {
        self.end_placing();
        self.feed_all(&Event::Session(None));
        self.connected = None;
        self.ended = None;
        self.cluster.forget();
        self.written = None;
        self.dirty = true;
    }

    /// After a reconnect: what does this session own? A take whose answer went with the connection may have been done, of a
    /// service that is configured no more by now: nobody follows that one here.
    pub(super) fn audit(&mut self) {
        let Some(connected) = &mut self.connected else { return };
        let connection = connected.state.borrow_and_update().connection();
        if connection.is_none() || connection == connected.audited {
            return;
        }
        connected.audited = connection;
        let (store, generation) = (connected.store.clone(), connected.generation);
        self.spawn("looking for what this session owns", Job::Audited(generation, None), async move {
            let own = store.own_holders().await;
            if let Err(error) = &own {
                tracing::debug!(%error, "what this session owns is not known: until the next reconnect");
            }
            Job::Audited(generation, own.ok())
        });
    }

    /// Gives up what nobody here knows of; of what somebody does, its core sees to it.
    pub(super) fn audited(&mut self, generation: Generation, own: Option<BTreeSet<ServiceName>>) {
        let Some(connected) = self.connected.as_ref().filter(|now| now.generation == generation) else {
            return;
        };
        let store = connected.store.clone();
        let unknown = |service: &ServiceName| !self.services.contains_key(service);
        let unknown: Vec<_> = own.into_iter().flatten().filter(unknown).collect();
        for service in unknown {
            self.note(Some(&service), "giving up a take that nobody here knows of".to_owned());
            let store = store.clone();
            self.spawn("giving up what nobody knows of", Job::Disowned, async move {
                if let Err(error) = store.disown(&service).await {
                    tracing::warn!(%service, %error, "not given up");
                }
                Job::Disowned
            });
        }
    }

    /// The followers say so before the quorum does.
    pub(super) fn session_over(&mut self) {
        if let Some(connected) = &mut self.connected
            && connected.control.link.state().borrow().ended().is_none()
        {
            tracing::error!("what follows the documents of the virtual IPs has crashed: starting it again");
            connected.followers = Followers::start(&connected.store, &self.options.pulse);
            return;
        }
        self.ended = self.connected.as_ref().map(|connected| connected.generation);
        self.end_placing();
        self.feed_all(&Event::Session(None));
    }

    pub(super) fn change(&mut self, change: Change) {
        match change {
            Change::Config(document) => {
                (self.cluster.config_seen, self.cluster.config_known) = (true, true);
                match document {
                    Ok(found) => {
                        self.cluster.text = found.map_or_else(|| Cluster::new().text, |found| found.value);
                        match config::parse(&self.cluster.text.text) {
                            Ok(config) => {
                                self.cluster.config = Arc::new(config);
                                self.cluster.config_trouble = None;
                            }
                            // A newer taskd wrote it, or nobody did.
                            Err(errors) => self.cluster.config_trouble = Some(errors.to_string()),
                        }
                    }
                    Err(garbage) => self.cluster.config_trouble = Some(garbage.to_string()),
                }
                if let Some(trouble) = self.cluster.config_trouble.clone() {
                    self.note(None, format!("the applied configuration is not followed: {trouble}"));
                }
                self.take_config();
            }
            Change::Drained(document) => {
                match document {
                    Ok(found) => {
                        self.cluster.drained = Some(found.map(|found| found.value).unwrap_or_default());
                    }
                    // What was known holds on: a node under maintenance gets nothing because of it.
                    Err(garbage) => self.note(None, garbage.to_string()),
                }
                self.refresh_peers();
            }
            Change::Services(services) => {
                let gone: Vec<_> = self
                    .cluster
                    .documents
                    .keys()
                    .filter(|service| !services.contains(*service))
                    .cloned()
                    .collect();
                for service in gone {
                    self.cluster.documents.remove(&service);
                    self.feed(&service, Event::Assigned(None));
                    self.feed(&service, Event::Holder(None));
                }
                self.cluster.services = Some(services);
                self.retire();
            }
            Change::Assignment(service, document) => {
                if let Ok(found) = &document {
                    let assigned = found.as_ref().map(|found| Assigned {
                        version: found.version,
                        mark: found.mark,
                        order: found.value.order.clone(),
                    });
                    self.feed(&service, Event::Assigned(assigned));
                }
                self.cluster.documents.entry(service).or_default().assignment = Some(readable(document));
            }
            Change::Holder(service, document) => {
                let session = self.connected.as_ref().map(|connected| connected.control.link.session_id());
                if let Ok(found) = &document {
                    let holder =
                        found.as_ref().map(|found| (found.value.node.clone(), found.owner == session));
                    self.feed(&service, Event::Holder(holder));
                }
                self.cluster.documents.entry(service).or_default().holder = Some(readable(document));
                self.retire();
            }
            Change::Term(service, document) => {
                if let Ok(found) = &document {
                    let term = found.as_ref().map(|found| (found.version, found.value.clone()));
                    self.feed(&service, Event::Term(term));
                }
                self.cluster.documents.entry(service).or_default().term = Some(readable(document));
            }
            Change::Nodes(nodes) => {
                self.cluster.reports.retain(|node, _| nodes.contains(node));
                self.cluster.heard.retain(|node| nodes.contains(node));
                if !nodes.contains(&self.options.node) {
                    // Somebody removed it.
                    self.written = None;
                }
                self.cluster.nodes = Some(nodes);
                self.refresh_peers();
            }
            Change::Report(node, document) => {
                self.cluster.heard.insert(node.clone());
                match readable(document) {
                    Some(found) => drop(self.cluster.reports.insert(node, found.value)),
                    None => drop(self.cluster.reports.remove(&node)),
                }
                self.refresh_peers();
            }
            Change::Ended(_) => self.session_over(),
        }
    }

    /// Another configuration, or other facts: only what differs is touched.
    pub(super) fn take_config(&mut self) {
        let config = Arc::clone(&self.cluster.config);
        let facts = self.options.facts.clone();
        let mut changed = Vec::new();
        for (service, definition) in &config.services {
            match self.services.get_mut(service) {
                Some(local) => {
                    if local.define(definition.clone(), &facts) {
                        changed.push((service.clone(), Event::Redefined));
                    }
                    changed.push((service.clone(), Event::Grace(definition.takeover_grace)));
                }
                None => {
                    let local = self.new_local(definition.clone());
                    self.services.insert(service.clone(), local);
                    changed.extend(self.all_known(service));
                }
            }
        }
        for (service, event) in changed {
            self.feed(&service, event);
        }
        self.checks.configure(&config.services, &facts.interfaces, facts.scripts);
        self.hooks.retain(|service| config.services.contains_key(service));
        self.judge_timing();
        self.refresh_fitness();
        self.refresh_peers();
        self.retire();
    }

    fn new_local(&self, definition: config::Service) -> Local {
        let settings = Settings {
            me: self.options.node.clone(),
            probe_takes: self.options.probe.takes(),
            tickets: self.tickets.clone(),
            drill: self.options.drill.clone(),
        };
        let core = Core::new(settings, definition.takeover_grace);
        let announcements = Announcements::new(self.options.announce.clone());
        Local::new(core, definition, &self.options.facts, announcements, self.options.clock.wall().0)
    }

    /// What a core that is new has missed.
    fn all_known(&self, service: &ServiceName) -> Vec<(ServiceName, Event)> {
        let mut events = Vec::new();
        if let Some(connected) = &self.connected
            && self.ended.is_none()
        {
            events.push(Event::Session(Some(connected.generation.0)));
            let session = Some(connected.control.link.session_id());
            let seen = self.cluster.documents.get(service).cloned().unwrap_or_default();
            if let Some(assignment) = seen.assignment {
                events.push(Event::Assigned(assignment.map(|found| Assigned {
                    version: found.version,
                    mark: found.mark,
                    order: found.value.order,
                })));
            }
            if let Some(holder) = seen.holder {
                events.push(Event::Holder(holder.map(|found| (found.value.node, found.owner == session))));
            }
            if let Some(term) = seen.term {
                events.push(Event::Term(term.map(|found| (found.version, found.value))));
            }
        }
        if let Mode::Stopping { .. } = self.mode {
            events.push(Event::Stop);
        }
        // Until its checks have answered.
        events.insert(0, Event::Fitness(Some("its checks have not answered yet".to_owned())));
        events.into_iter().map(|event| (service.clone(), event)).collect()
    }

    /// Services that this session's lease is too short for are not held.
    fn judge_timing(&mut self) {
        let Some(timing) = self.connected.as_ref().map(|connected| connected.control.timing) else { return };
        for local in self.services.values_mut() {
            let judged = check_timing(timing.timeout, timing.margin, local.definition.takeover_grace);
            local.timing_trouble = judged.err().map(|refusal| refusal.to_string());
        }
    }

    /// Forgets services that are configured no more, once nothing is left of them.
    pub(super) fn retire(&mut self) {
        let Cluster { config, documents, .. } = &self.cluster;
        self.services.retain(|service, local| {
            let held = documents
                .get(service)
                .is_some_and(|seen| seen.assignment.as_ref().is_some_and(Option::is_some));
            config.services.contains_key(service) || held || !local.core.is_finished()
        });
    }
}
