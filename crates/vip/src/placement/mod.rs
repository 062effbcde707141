//! Who is to hold which service: a pure function, without time, randomness or unordered maps.
//!
//! The rules, in this order:
//!
//! 1. Only nodes that are there, not stopping, not drained, not kept off by an order, and have the service's labels count
//!    (*eligible*). Those of them that report no obstacle are *fit*. Dry runs count only where no real node is fit.
//! 2. An operator's move goes where it says, if that node is fit.
//! 3. Whoever has the service keeps it while it is fit. Only a service with `failback` goes to a better node: one that is
//!    earlier among the preferred and no worse for the spread, or one that its group does not use yet.
//! 4. A service without a place takes the best fit node: one that it did not just lose, that its spread group does not use
//!    yet (all of them together, so that none takes the only node another can have), earlier among the preferred, with
//!    fewer services, and then the first by name.
//! 5. Whoever was ordered to release a service while another could have it comes last for a while, and gives it up again
//!    only to one that is fit.
//! 6. Spread is soft: with fewer nodes than services in a group, they share. So is the hold-down of a node that lost the
//!    service: if it is the only one that is fit, it gets it.
//!
//! The successors are the other eligible nodes in the order of rule 4, fit or not: whoever follows looks itself at what
//! those ahead of it report, and so a flapping check writes nothing.

mod board;
mod why;

#[cfg(test)]
mod properties;
#[cfg(test)]
pub(crate) mod table;

use std::collections::{BTreeMap, BTreeSet};

use proto::NodeId;
use proto::vip::{Backend, Drained, NodeReport, ServiceName};

use crate::config::Config;

/// Who is named in an order at most. A leader finds others, if none of these can.
pub const NAMED_MAX: usize = 16;

/// What the reason of an assignment begins with that gives a service to nobody who could take it.
pub(crate) const NOBODY: &str = "nobody can have it";

/// What is known when services are placed.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The services.
    pub config: &'a Config,
    /// The nodes that are there, and what they say.
    pub nodes: &'a BTreeMap<NodeId, NodeReport>,
    /// Nodes that are to hold nothing.
    pub drained: &'a BTreeMap<NodeId, Drained>,
    /// Where each service stands; a service that is not named is new.
    pub standings: &'a BTreeMap<ServiceName, Standing>,
}

/// Where a service stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who holds it.
    pub holder: Option<NodeId>,
    /// The assignment's order.
    pub order: Vec<NodeId>,
    /// The assignment is later than the holder's take: whoever is first in it is to have the service.
    pub moving: bool,
    /// Who lost it or gave it up lately, and is passed over where another can have it.
    pub passed_over: BTreeSet<NodeId>,
    /// Who was ordered to release it lately, and gets it only if nobody else can have it.
    pub put_last: BTreeSet<NodeId>,
    /// Who was ordered to release it lately although nobody else could have it, and gets it not at all.
    pub kept_off: BTreeSet<NodeId>,
    /// Where an operator wants it.
    pub move_to: Option<NodeId>,
}

impl Standing {
    /// Who has the service or is to have it.
    pub fn incumbent(&self) -> Option<&NodeId> {
        let first = self.order.first();
        if self.moving { first } else { self.holder.as_ref().or(first) }
    }
}

/// Who is to hold a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Who, and then who follows. Empty: nobody.
    pub order: Vec<NodeId>,
    /// Why, as a sentence. It names what a node cannot, but no details that change by themselves.
    pub why: String,
}

/// Why a node cannot have a service now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// Not there.
    Absent,
    /// There, but what it says cannot be read.
    Unreadable,
    /// It stops.
    Stopping,
    /// It is drained.
    Drained,
    /// It lacks a label.
    Unlabelled,
    /// It was ordered to release the service a moment ago.
    KeptOff,
    /// It says that it cannot, or has not looked at the service yet.
    Unfit,
    /// It only makes a dry run, and a real node can have the service.
    DryRun,
}

/// Places every service of the configuration.
pub fn place(input: &Input<'_>) -> BTreeMap<ServiceName, Placement> {
    board::Board::new(input).settle()
}

/// What keeps `node` from having `service`, if anything.
pub fn obstacle(input: &Input<'_>, service: &ServiceName, node: &NodeId) -> Option<Obstacle> {
    own_obstacle(input, service, node).or_else(|| {
        let is = |node: &NodeId, kind| input.nodes.get(node).is_some_and(|report| report.backend == kind);
        let outdone = is(node, Backend::DryRun)
            && input
                .nodes
                .keys()
                .any(|other| is(other, Backend::Netlink) && own_obstacle(input, service, other).is_none());
        outdone.then_some(Obstacle::DryRun)
    })
}

/// The same, but for what the other nodes can.
fn own_obstacle(input: &Input<'_>, service: &ServiceName, node: &NodeId) -> Option<Obstacle> {
    let Some(report) = input.nodes.get(node) else { return Some(Obstacle::Absent) };
    let configured = input.config.services.get(service);
    let standing = input.standings.get(service);
    if report.unreadable.is_some() {
        Some(Obstacle::Unreadable)
    } else if report.stopping {
        Some(Obstacle::Stopping)
    } else if input.drained.contains_key(node) {
        Some(Obstacle::Drained)
    } else if configured.is_some_and(|service| lacks_label(&service.labels, report)) {
        Some(Obstacle::Unlabelled)
    } else if standing.is_some_and(|standing| standing.kept_off.contains(node)) {
        Some(Obstacle::KeptOff)
    } else if report.services.get(service).is_none_or(|local| local.unfit.is_some()) {
        Some(Obstacle::Unfit)
    } else {
        None
    }
}

fn lacks_label(wanted: &BTreeMap<String, String>, report: &NodeReport) -> bool {
    wanted.iter().any(|(key, value)| report.labels.get(key) != Some(value))
}
