//! The leader's part and what people order.

use coord::Term as Leading;
use proto::vip::{Drained, ServiceName, VipOrder};

use super::cluster::Cluster;
use super::jobs::Job;
use super::{Driver, Mode};
use crate::handle::{OrderError, Request};
use crate::placer::{Assigned, Effect, Event, Known, Order, Placer, World};

/// A term of this node.
#[derive(Debug)]
pub(super) struct Placing {
    term: Leading,
    pub(super) placer: Placer,
    known: std::collections::BTreeMap<ServiceName, Known>,
}

fn known(cluster: &Cluster) -> std::collections::BTreeMap<ServiceName, Known> {
    let services = cluster.services.iter().flatten();
    let known = |service: &ServiceName| {
        let seen = cluster.documents.get(service).cloned().unwrap_or_default();
        let assigned = seen.assignment.flatten().map(|found| Assigned {
            version: found.version,
            mark: found.mark,
            document: found.value,
        });
        Known {
            assignment: assigned,
            holder: seen.holder.flatten().map(|found| (found.value.node, found.mark)),
            term: seen.term.flatten().map(|found| found.value),
        }
    };
    services.map(|service| (service.clone(), known(service))).collect()
}

impl Driver {
    /// The term as the quorum sees it: begins to place, goes on, or ends.
    pub(super) fn take_term(&mut self) {
        let term = self.connected.as_ref().and_then(|connected| connected.control.term.clone());
        let same = |placing: &Placing| term.as_ref().is_some_and(|term| term.token == placing.term.token);
        if self.placing.as_ref().is_some_and(|placing| !same(placing)) {
            self.end_placing();
        }
        match (term, &mut self.placing) {
            (Some(term), Some(placing)) => placing.term = term,
            (Some(term), None) if self.mode == Mode::Serving => {
                let placer = Placer::new(term.token.epoch);
                self.placing = Some(Placing { term, placer, known: Default::default() });
            }
            (_, _) => {}
        }
        self.dirty = true;
    }

    pub(super) fn end_placing(&mut self) {
        if let Some(placing) = self.placing.take() {
            for effect in placing.placer.end() {
                self.perform_placing(effect);
            }
        }
    }

    /// Has the placer look at everything.
    pub(super) fn place(&mut self) {
        self.step_placer(Event::Look);
    }

    pub(super) fn placed(&mut self, event: Event) {
        self.step_placer(event);
    }

    fn step_placer(&mut self, event: Event) {
        let Some(placing) = &mut self.placing else { return };
        let now = self.options.clock.now();
        let look = matches!(event, Event::Look);
        if look && !self.dirty && placing.placer.wake().is_none_or(|at| at > now) {
            return;
        }
        let complete = self.cluster.is_complete() && self.cluster.config_trouble.is_none();
        let none = std::collections::BTreeMap::new();
        placing.known = known(&self.cluster);
        let world = World {
            revision: self.cluster.text.revision,
            config: &self.cluster.config,
            nodes: &self.cluster.reports,
            drained: self.cluster.drained.as_ref().unwrap_or(&none),
            services: &placing.known,
        };
        let effects = placing.placer.step(now, complete.then_some(&world), event);
        for effect in effects {
            self.perform_placing(effect);
        }
    }

    fn perform_placing(&mut self, effect: Effect) {
        match effect {
            Effect::Answer(id, answer) => {
                if let Some(reply) = self.replies.remove(&id) {
                    // Whoever asked may have left.
                    let _ = reply.send(answer);
                }
            }
            Effect::Assign(assignment) => {
                let service = assignment.service.clone();
                let Some((store, term)) = self.leading() else { return };
                let order = assignment.order.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                self.note(Some(&service), format!("assigned to [{order}]: {}", assignment.why));
                let instead = Job::Placed(Event::Assigned(service.clone(), None));
                self.spawn("an assignment", instead, async move {
                    let written = store.assign(&term, &assignment).await;
                    if let Err(error) = &written {
                        tracing::warn!(%service, %error, "not assigned");
                    }
                    Job::Placed(Event::Assigned(service, written.ok()))
                });
            }
            Effect::Remove { service, waited } => {
                let Some((store, term)) = self.leading() else { return };
                let instead = Job::Placed(Event::Removed(service.clone(), None));
                self.spawn("a removal", instead, async move {
                    let removed = store.remove(&term, &service, waited).await;
                    if let Err(error) = &removed {
                        tracing::warn!(%service, %error, "not removed");
                    }
                    Job::Placed(Event::Removed(service, removed.ok()))
                });
            }
        }
    }

    fn leading(&self) -> Option<(crate::store::Store, Leading)> {
        let (connected, placing) = (self.connected.as_ref()?, self.placing.as_ref()?);
        Some((connected.store.clone(), placing.term.clone()))
    }

    pub(super) fn request(&mut self, request: Request) {
        let Request { order, reply } = request;
        let order = match order {
            VipOrder::Move { service, to } => Order::Move(service, to),
            VipOrder::Release { service } => Order::Release(service),
            VipOrder::Drain { node, why } => {
                let drained = Drained { since_ms: self.options.clock.wall().0, why };
                let Some(store) = self.store() else { return unavailable(reply) };
                return self.answer(reply, async move {
                    match store.drain(&node, drained).await {
                        Ok(true) => Ok(format!("{node} is drained: what it holds moves to others, and it takes nothing")),
                        Ok(false) => Ok(format!("{node} was drained already")),
                        Err(error) => Err(OrderError::Unavailable(error.to_string())),
                    }
                });
            }
            VipOrder::Undrain { node } => {
                let Some(store) = self.store() else { return unavailable(reply) };
                return self.answer(reply, async move {
                    match store.undrain(&node).await {
                        Ok(true) => Ok(format!("{node} may hold services again")),
                        Ok(false) => Ok(format!("{node} was not drained")),
                        Err(error) => Err(OrderError::Unavailable(error.to_string())),
                    }
                });
            }
        };
        if self.placing.is_none() {
            // Whoever asked may have left.
            let _ = reply.send(Err(OrderError::NotLeader));
            return;
        }
        self.orders += 1;
        self.replies.insert(self.orders, reply);
        self.step_placer(Event::Order(self.orders, order));
    }

    fn store(&self) -> Option<crate::store::Store> {
        self.connected.as_ref().map(|connected| connected.store.clone())
    }
}

fn unavailable(reply: tokio::sync::oneshot::Sender<Result<String, OrderError>>) {
    let why = "this node has no session with the coordination service";
    // Whoever asked may have left.
    let _ = reply.send(Err(OrderError::Unavailable(why.to_owned())));
}
