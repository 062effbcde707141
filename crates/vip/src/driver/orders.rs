//! The leader's part and what people order.

use std::collections::BTreeMap;

use proto::vip::{Drained, ServiceName, VipOrder};
use proto::{FencingToken, NodeId};

use super::cluster::{Cluster, Seen};
use super::{Driver, Mode};
use crate::handle::{OrderError, Request};
use crate::page::judge::and;
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
            wall_ms: self.options.clock.wall().0,
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
                let rest = aftermath(&self.cluster, &self.options.node, &node);
                return self.answer(reply, async move {
                    match store.drain(&node, drained).await {
                        Ok(true) => Ok(format!("{node} is drained: {rest}")),
                        Ok(false) => Ok(format!("{node} was drained already: {rest}")),
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
        if let Some(trouble) = &self.cluster.config_trouble {
            let (revision, node) = (self.cluster.text.revision, &self.options.node);
            let what = format!(
                "{node} leads and does not understand the configuration's revision {revision}, so it moves nothing: \
                 {trouble}; update taskd on {node}, or apply what it understands: taskd config apply FILE"
            );
            // Whoever asked may have left.
            let _ = reply.send(Err(OrderError::Refused(what)));
            return;
        }
        let now = self.options.clock.now();
        self.with_world(|scribe, world| scribe.order(now, world, order, reply));
    }

    fn store(&self) -> Option<crate::store::Store> {
        self.connected.as_ref().map(|connected| connected.store.clone())
    }
}

/// What a drained node still has to do, as far as is known when it is drained.
fn aftermath(cluster: &Cluster, me: &NodeId, node: &NodeId) -> String {
    let holds = |seen: &Seen| {
        let holder = seen.holder.as_ref().and_then(Option::as_ref);
        holder.is_some_and(|holder| holder.value.node == *node)
    };
    let held: Vec<_> = cluster
        .documents
        .iter()
        .filter(|(_, seen)| holds(seen))
        .map(|(service, _)| service.to_string())
        .collect();
    let takes_part = node == me || cluster.reports.contains_key(node);
    match (held.is_empty(), takes_part) {
        (false, _) => format!(
            "it still holds {}, moving to others now; reboot it when taskd vip list no longer shows it as a holder",
            and(&held)
        ),
        (true, true) => "it holds nothing, and takes nothing".to_owned(),
        (true, false) => format!(
            "but no node {node} takes part now; it takes nothing if it comes. If that is not its name: taskd vip undrain {node}"
        ),
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

#[cfg(test)]
mod tests {
    use proto::Incarnation;
    use proto::vip::{Backend, NodeReport};

    use super::*;
    use crate::store::{Found, Holder};

    #[test]
    fn whoever_drains_a_node_hears_what_it_still_holds_and_whether_there_is_such_a_node() {
        let node = |name: &str| name.parse::<NodeId>().unwrap();
        let mut cluster = Cluster::new();
        for name in ["n1", "n2"] {
            let report = NodeReport {
                node: node(name),
                incarnation: Incarnation::from_u128(1),
                backend: Backend::Netlink,
                why_dry: None,
                unreadable: None,
                stopping: false,
                labels: BTreeMap::new(),
                services: BTreeMap::new(),
            };
            cluster.reports.insert(node(name), report);
        }
        for service in ["iscsi", "nfs"] {
            let value =
                Holder { node: node("n1"), incarnation: Incarnation::from_u128(1), take: uuid::Uuid::nil() };
            let found = Found { value, version: 0, mark: 1, owner: None };
            let seen = Seen { holder: Some(Some(found)), ..Seen::default() };
            cluster.documents.insert(service.parse().unwrap(), seen);
        }
        let said: Vec<_> =
            ["n1", "n2", "n9"].map(|name| aftermath(&cluster, &node("n2"), &node(name))).into();
        assert_eq!(
            said,
            [
                "it still holds iscsi and nfs, moving to others now; reboot it when taskd vip list no longer shows it \
                 as a holder",
                "it holds nothing, and takes nothing",
                "but no node n9 takes part now; it takes nothing if it comes. If that is not its name: taskd vip undrain n9",
            ]
        );
    }
}
