//! The leader's part and what people order.

use std::collections::BTreeMap;

use proto::vip::{Drained, ServiceName, VipOrder};
use proto::{FencingToken, NodeId};

use super::cluster::Cluster;
use super::{Driver, Mode};
use crate::handle::{OrderError, Request};
use crate::placer::{Assigned, Event, Known, Order, Scribe, World};

/// A term of this node.
#[derive(Debug)]
pub(super) struct Placing {
    token: FencingToken,
    pub(super) scribe: Scribe,
}

/// What a placer may know, once it is everything.
fn known(cluster: &Cluster) -> Option<BTreeMap<ServiceName, Known>> {
    if !cluster.is_complete() || cluster.config_trouble.is_some() {
        return None;
    }
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
    Some(cluster.services.iter().flatten().map(|service| (service.clone(), known(service))).collect())
}

impl Driver {
    /// The term as the quorum sees it: begins to place, goes on, or ends.
    pub(super) fn take_term(&mut self) {
        let term = self.connected.as_ref().and_then(|connected| connected.control.term.clone());
        let token = term.as_ref().map(|term| term.token);
        if self.placing.as_ref().is_some_and(|placing| Some(placing.token) != token) {
            self.end_placing();
        }
        if let (Some(term), Some(store), None, Mode::Serving) = (term, self.store(), &self.placing, self.mode)
        {
            let token = term.token;
            self.placing =
                Some(Placing { token, scribe: Scribe::new(term, store, self.options.pulse.clone()) });
        }
        self.dirty = true;
    }

    pub(super) fn end_placing(&mut self) {
        if let Some(placing) = self.placing.take() {
            placing.scribe.end();
        }
    }

    /// Has the placer look at everything, if anything has become known or is due.
    pub(super) fn place(&mut self) {
        let now = self.options.clock.now();
        let is_due = |placing: &Placing| placing.scribe.wake().is_some_and(|at| at <= now);
        if self.dirty || self.placing.as_ref().is_some_and(is_due) {
            self.with_world(|scribe, world| scribe.look(now, world));
        }
    }

    /// A write of the leader's has ended.
    pub(super) fn placed(&mut self, event: Event) {
        let now = self.options.clock.now();
        self.with_world(|scribe, world| scribe.heard(now, world, event));
    }

    fn with_world(&mut self, call: impl FnOnce(&mut Scribe, Option<&World<'_>>)) {
        let Some(placing) = &mut self.placing else { return };
        let (known, none) = (known(&self.cluster), BTreeMap::new());
        let world = known.as_ref().map(|services| World {
            revision: self.cluster.text.revision,
            config: &self.cluster.config,
            nodes: &self.cluster.reports,
            drained: self.cluster.drained.as_ref().unwrap_or(&none),
            services,
        });
        call(&mut placing.scribe, world.as_ref());
    }

    pub(super) fn request(&mut self, request: Request) {
        let Request { order, reply } = request;
        let order = match order {
            VipOrder::Move { service, to } => Order::Move(service, to),
            VipOrder::Release { service } => Order::Release(service),
            VipOrder::Drain { node, why } => {
                let drained = Drained { since_ms: self.options.clock.wall().0, why };
                let Some(store) = self.store() else { return no_session(&self.options.node, reply) };
                return self.answer(reply, async move {
                    match store.drain(&node, drained).await {
                        Ok(true) => Ok(format!(
                            "{node} is drained: what it holds moves to others, and it takes nothing"
                        )),
                        Ok(false) => Ok(format!("{node} was drained already")),
                        Err(error) => Err(OrderError::from(&error)),
                    }
                });
            }
            VipOrder::Undrain { node } => {
                let Some(store) = self.store() else { return no_session(&self.options.node, reply) };
                return self.answer(reply, async move {
                    match store.undrain(&node).await {
                        Ok(true) => Ok(format!("{node} may hold services again")),
                        Ok(false) => Ok(format!("{node} was not drained")),
                        Err(error) => Err(OrderError::from(&error)),
                    }
                });
            }
        };
        if self.placing.is_none() {
            // Whoever asked may have left.
            let _ = reply.send(Err(OrderError::NotLeader));
            return;
        }
        let now = self.options.clock.now();
        self.with_world(|scribe, world| scribe.order(now, world, order, reply));
    }

    fn store(&self) -> Option<crate::store::Store> {
        self.connected.as_ref().map(|connected| connected.store.clone())
    }
}

fn no_session(node: &NodeId, reply: tokio::sync::oneshot::Sender<Result<String, OrderError>>) {
    let what = format!(
        "{node} has no session with the coordination service, so nothing was changed: taskd cluster status says why; or ask \
         another node with --addr"
    );
    // Whoever asked may have left.
    let _ = reply.send(Err(OrderError::NotDone(what)));
}
