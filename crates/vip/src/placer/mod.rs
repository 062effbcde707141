//! The leader's side: brings the assignments to where [`place`](crate::placement::place) wants them. A core without IO:
//! what is known and [`Event`]s in, [`Effect`]s out; time comes with each step.
//!
//! ```text
//!                    ┌──────── another order is wanted ───────────────────────────────────────────┐
//!                    │ at once: a move, a drain, a failback, the configuration, who has taken it  │
//!   as wanted ───────┤ after SETTLE: whoever has it goes by itself, and its successors take it    ├──▶ writing ──▶ as wanted
//!                    │ after SETTLE: only who follows, or why                                     │      │ failed
//!                    └────────────────────────────────────────────────────────────────────────────┘      └─▶ again, later
//!   not configured ──▶ assigned to nobody ──▶ nobody holds it, and it is free or the grace has passed ──▶ removed
//! ```
//!
//! # Invariants
//!
//! - Nothing is done before the configuration, the reports, the drained nodes and every service's documents have been seen
//!   once: a leader that knows nothing moves nothing.
//! - What an earlier leader decided stands: an assignment is written only where its order is not the wanted one, and a
//!   service that its present holder took under the present assignment stays with it.
//! - Succession is the successors': while one of them can take the service, the leader waits [`SETTLE`], since its write
//!   would make their takes fail.
//! - Where nothing changes, nothing is written.
//! - Every wait ends by itself: [`Placer::wake`].
//!
//! Hold-downs and orders are in memory. The next leader takes a hold-down from what the nodes say: whoever has become idle
//! within it is passed over for the rest. Of orders it knows only what was assigned; of one under way, that it is.

mod decide;
mod orders;
mod scribe;
mod watch;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clock::Instant;
use proto::vip::{Drained, NodeReport, ServiceName};
use proto::{Epoch, NodeId};

pub(crate) use scribe::Scribe;

use crate::config::Config;
use crate::handle::OrderError;
use crate::store::{Assignment, Removal, Term};

/// How long a service is left to its successors, and how long who follows may be out of date.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// For so long after it has begun, a leader leaves to its successors what it found without a holder. After an outage all
/// come back at about the same time, and a successor waits two seconds and its turn, from its own return on, for those
/// before it in line: a leader that is back first would have given the service to whoever else is, and those who come
/// a moment later would have it moved under them.
pub(crate) const RETURNING: Duration = Duration::from_secs(5);

/// How long a holder may take to give a service up that it is to give up. Then it keeps it, if it is fit.
pub(crate) const MOVE_MAX: Duration = Duration::from_secs(10);

/// How long whoever gave an order waits for its end.
pub(crate) const ORDER_MAX: Duration = Duration::from_secs(5);

/// How long an answer to a write is waited for, and then until the followers show it.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// Between a write that failed and the next.
const RETRY: Duration = Duration::from_millis(500);

/// Orders that may wait.
const ORDERS_MAX: usize = 64;

/// Tells one order's answer from another's.
pub(crate) type OrderId = u64;

/// Everything that is known, once everything has been seen; so not while the applied configuration cannot be read, for an
/// empty one in its place would remove every service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct World<'a> {
    /// This machine's wall clock, in ms since 1970, for how long ago nodes say that something was.
    pub(crate) wall_ms: u64,
    /// The configuration's revision; with 0 nothing is done.
    pub(crate) revision: u64,
    /// The configuration.
    pub(crate) config: &'a Config,
    /// What the nodes that are there say.
    pub(crate) nodes: &'a BTreeMap<NodeId, NodeReport>,
    /// Who is to hold nothing.
    pub(crate) drained: &'a BTreeMap<NodeId, Drained>,
    /// Every service about which there is anything, configured or not.
    pub(crate) services: &'a BTreeMap<ServiceName, Known>,
}

/// What is known of one service. What cannot be read is as if it were not there, but for the term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// Who is to hold it.
    pub(crate) assignment: Option<Assigned>,
    /// Who holds it, and the transaction that took it.
    pub(crate) holder: Option<(NodeId, i64)>,
    /// What is known of the last one who did.
    pub(crate) term: Option<Term>,
}

impl Known {
    fn holder(&self) -> Option<&NodeId> {
        self.holder.as_ref().map(|(node, _)| node)
    }

    fn order(&self) -> &[NodeId] {
        self.assignment.as_ref().map_or(&[], |assigned| &assigned.document.order)
    }

    /// Whether the holder took it under the present assignment, or a later one than is known.
    fn taken_since(&self) -> bool {
        match (&self.assignment, &self.holder) {
            (Some(assigned), Some((_, mark))) => *mark > assigned.mark,
            (None, holder) => holder.is_some(),
            (_, None) => false,
        }
    }
}

/// An assignment as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The node's version.
    pub(crate) version: i32,
    /// The transaction that wrote it.
    pub(crate) mark: i64,
    /// What it says.
    pub(crate) document: Assignment,
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Have a node hold the service; none = the next one that can.
    Move(ServiceName, Option<NodeId>),
    /// Have whoever holds it give it up.
    Release(ServiceName),
}

/// What happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Something became known, or time has passed.
    Look,
    /// An operator wants something.
    Order(OrderId, Order),
    /// An assignment was written, with this version; none: it was not, or perhaps not.
    Assigned(ServiceName, Option<i32>),
    /// A service was to be removed; none: it was not, or perhaps not.
    Removed(ServiceName, Option<Removal>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Write it, fenced by the term; then [`Event::Assigned`].
    Assign(Assignment),
    /// Remove everything about a service that nobody holds, fenced by the term; then [`Event::Removed`].
    Remove {
        /// Which.
        service: ServiceName,
        /// The grace has passed since nobody holds it.
        waited: bool,
    },
    /// Tell whoever gave the order.
    Answer(OrderId, Result<String, OrderError>),
}

/// What the leader remembers of one service.
#[derive(Debug, Default)]
struct Memory {
    /// Who held it when it was last looked at.
    holder: Option<NodeId>,
    /// Nobody had it when this leader saw it first, and nobody has had it since.
    found_vacant: bool,
    /// Since when nobody healthy holds it.
    unsure_since: Option<Instant>,
    /// Since when nobody holds it.
    unheld_since: Option<Instant>,
    /// Since when the assignment, of this version, is to be carried out by a holder that took it earlier.
    moving_since: Option<(i32, Instant)>,
    /// Since when another order or reason is wanted.
    wanted_since: Option<Instant>,
    /// Until when nodes are passed over.
    passed_over: BTreeMap<NodeId, Instant>,
    /// Until when nodes come last by an order.
    put_last: BTreeMap<NodeId, Instant>,
    /// Until when nodes are kept off by an order that left nobody.
    kept_off: BTreeMap<NodeId, Instant>,
    /// A write on its way, or not seen yet.
    pending: Option<Pending>,
    /// No write before that.
    not_before: Option<Instant>,
    /// An operator's wish.
    wish: Option<Wish>,
}

#[derive(Debug)]
struct Pending {
    since: Instant,
    /// The version to wait for, once it is known.
    version: Option<i32>,
}

#[derive(Debug)]
struct Wish {
    id: OrderId,
    until: Instant,
    goal: Goal,
}

#[derive(Debug)]
enum Goal {
    /// That one holds it.
    Holds(NodeId),
    /// That one does not.
    Gone(NodeId),
}

/// A leader's placer: lives as long as its term.
#[derive(Debug)]
pub(crate) struct Placer {
    epoch: Epoch,
    memories: BTreeMap<ServiceName, Memory>,
    /// Orders that came before everything was seen.
    early: Vec<(OrderId, Order, Instant)>,
    /// When everything was seen first.
    began: Option<Instant>,
    wake: Option<Instant>,
}

impl Placer {
    /// The placer of a term.
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self { epoch, memories: BTreeMap::new(), early: Vec::new(), began: None, wake: None }
    }

    /// When to look again ([`Event::Look`]) if nothing happens.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// What is to be done now. `world` is none until everything has been seen once.
    pub(crate) fn step(&mut self, now: Instant, world: Option<&World<'_>>, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.wake = None;
        match event {
            Event::Look => {}
            Event::Order(id, order) => self.ordered(now, id, order, &mut effects),
            Event::Assigned(service, version) => self.wrote(now, &service, version),
            Event::Removed(service, removal) => self.removed(now, &service, removal),
        }
        self.expire_early(now, &mut effects);
        let Some(world) = world else {
            self.expire_wishes(now, &mut effects);
            return effects;
        };
        self.watch(now, world);
        self.take_orders(now, world, &mut effects);
        // One that was never applied, or was deleted by hand, is no order to remove everything.
        if world.revision > 0 {
            self.decide(now, world, &mut effects);
        }
        effects
    }

    /// The driver ends the term: whoever waits is told.
    pub(crate) fn end(self) -> Vec<Effect> {
        let early = self.early.into_iter().map(|(id, ..)| id);
        let wishes = self.memories.into_values().filter_map(|memory| memory.wish.map(|wish| wish.id));
        early.chain(wishes).map(|id| Effect::Answer(id, Err(OrderError::NotLeader))).collect()
    }

    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// The keys whose time has not come.
fn still(until: &BTreeMap<NodeId, Instant>) -> BTreeSet<NodeId> {
    until.keys().cloned().collect()
}
