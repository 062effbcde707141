//! Three of our nodes, each with the [`Election`](election::Election) that production runs, and one abstract ZooKeeper.
//!
//! ```text
//!  World ── Zk      epoch, leader, candidates, terms, sessions; every request is one transaction
//!        └─ Node ×3 core: Election::step / deadline, as they are
//!                   what stands in for the driver: requests under way, watch, lease, audit, join
//!                   what stands in for the supervisor: ready, serving, effects ended
//! ```
//!
//! Time goes by in units. The network is quick: unless a fault says otherwise, whatever is under way happens before
//! time goes on, in every order. A state is always seen at the same instant: when time goes on, everything that a node
//! remembers is moved back instead (`Election::canonical`), so that a cluster at rest is one state again and the space
//! ends by itself. What bounds it is the number of faults ([`Bounds::faults`]).

mod act;
mod bounds;
mod fault;
mod node;
mod tell;
mod world;
mod zk;

pub use act::Action;
pub use bounds::{Bounds, Kind, Start};
pub use node::{Lease, Node, Up};
pub use tell::tell;
pub use world::World;

use election::Standing;
use proto::Epoch;
use stateright::{Model, Property};

/// The model.
#[derive(Clone, Debug)]
pub struct Ours {
    /// How far it goes.
    pub bounds: Bounds,
    /// One property alone: then the first path that is found is a shortest one.
    pub only: Option<&'static str>,
}

impl Ours {
    /// Everything within `bounds`.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, only: None }
    }

    /// The same, looking for `property` alone.
    pub fn only(mut self, property: &'static str) -> Self {
        self.only = Some(property);
        self
    }
}

/// D5 (1).
pub const ONE_OWNER: &str = "(1) an epoch has one owner";
/// D5 (2).
pub const ONE_LEASE: &str = "(2) at most one node is inside its lease";
/// D5 (2), and what it rests on.
pub const LEASE_OWNS: &str = "(2) whoever is inside its lease owns `leader`, and `epoch` is its own";
/// D5 (3).
pub const GENERATION: &str = "(3) an old generation changes nothing";
/// D5 (4).
pub const DEADLINE: &str = "(4) every state but the last has a deadline";
/// D5 (5).
pub const STOPS: &str = "(5) a stop ends";
/// D5 (7).
pub const NO_ORPHAN: &str = "(7) at rest, no live session owns an ephemeral that its node does not know";
/// D5 (8).
pub const SERVES_OR_RESIGNS: &str = "(8) elected and not serving is bounded";
/// D5 (10).
pub const FENCE_LAST: &str = "(10) `leader` goes after the effects, or after the lease when they are overdue";
/// The purpose of it all.
pub const RECOVERS: &str = "a healthy node is there, so one serves";

/// What has to be reached, or the model is too poor to mean anything.
const REACHED: [&str; 6] = [
    "a leader serves",
    "a second epoch is served",
    "a term is suspended",
    "a handover reaches its target",
    "a stop ended",
    "a session is replaced",
];

impl Model for Ours {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::start(&self.bounds)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(&self.bounds, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(&self.bounds, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(ONE_OWNER, |_, world: &World| world.broken != Some(ONE_OWNER)),
            Property::always(ONE_LEASE, |_, world: &World| world.inside_lease().count() <= 1),
            Property::always(LEASE_OWNS, |_, world: &World| {
                world.inside_lease().all(|node| world.owns_leader(node))
            }),
            Property::always(GENERATION, |_, world: &World| world.broken != Some(GENERATION)),
            Property::always(DEADLINE, |_, world: &World| {
                world.nodes.iter().all(|node| node.up != Up::Up || node.core.deadline().is_some())
            }),
            Property::always(STOPS, |model: &Self, world: &World| world.stops_in_time(&model.bounds)),
            Property::always(NO_ORPHAN, |model: &Self, world: &World| world.has_no_orphan(&model.bounds)),
            Property::always(SERVES_OR_RESIGNS, |model: &Self, world: &World| {
                world.nodes.iter().all(|node| node.unserved <= model.bounds.serve)
            }),
            Property::always(FENCE_LAST, |_, world: &World| world.broken != Some(FENCE_LAST)),
            Property::always(RECOVERS, |model: &Self, world: &World| world.recovers(&model.bounds)),
        ];
        for (index, name) in REACHED.into_iter().enumerate() {
            if self.bounds.expects(index) {
                all.push(Property::sometimes(name, REACHES[index]));
            }
        }
        all.into_iter().filter(|property| self.only.is_none_or(|only| only == property.name)).collect()
    }
}

const REACHES: [fn(&Ours, &World) -> bool; 6] = [
    |_, world| world.serving().is_some(),
    |_, world| world.serving().and_then(Node::epoch) > Some(Epoch(1)),
    |_, world| world.nodes.iter().any(|node| matches!(node.core.standing(), Standing::Suspended(_))),
    // The handover is one epoch, the claim that follows another.
    |_, world| {
        world.serving().and_then(Node::epoch) == Some(Epoch(3))
            && world.zk.sessions.len() == world.nodes.len()
    },
    |_, world| world.nodes.iter().any(|node| node.up == Up::Left),
    |_, world| world.nodes.iter().any(|node| node.life == 1 && usize::from(node.session) > world.nodes.len()),
];
