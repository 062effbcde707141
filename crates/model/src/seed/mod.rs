//! The design that the post-mortem shows, as it was published: what two threads and a queue can do to each other.
//!
//! ```text
//!  quorum thread   an event loop; on each event it calls the service, and the call returns when it is done
//!     ENTER_RUNNING → StartService: start the runner's thread, `Sched(BootRunner)`; dispatcher, if first in line
//!     STOPPED       → StopService:  StopRunner: `Sched(reset)` on the runner's loop, wait for it, join the thread
//!  runner thread   a loop over a queue of coroutines, one at a time to its end
//!     BootRunner    → Initialize(); failed? `Stop`: NotifyStop, then sleep until the quorum server has stopped
//!     reset         → destroys the runner, wakes whoever waits
//!  ZooKeeper client  keeps the session alive by itself, whatever the two do
//! ```
//!
//! The leader is whoever has the lowest sequence among the members; nobody says so, everybody concludes it.

mod cluster;
mod node;

pub use cluster::{Action, Seed, State, tell};
pub use node::{Event, Job, Life, Node, Phase, QuorumThread};

use stateright::{Model, Property};

/// The two threads of a node wait for each other.
pub const DEADLOCK: &str = "no two threads wait for each other";
/// Everybody takes a node for the leader that does not act as one, and never will.
pub const LEADERLESS: &str = "whoever is taken for the leader acts as one, or can get there";
/// So that the model is not wrong in the trivial way.
pub const STOPS: &str = "a node that is told to stop can stop";
/// As above.
pub const LEADS: &str = "a node can lead";

/// From the leaderless state on, as long as that one node's session lives.
pub const NEVER: &str = "the same node is taken for the leader and does not act as one";
/// So that this was asked of more than one state.
pub const OTHERS_CAME_BACK: &str = "other nodes are restarted and join again";

impl Model for Seed {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(actions);
        let steadfast = self.steadfast;
        actions.retain(|action| match action {
            Action::Disconnect(index) | Action::Expire(index) => Some(*index) != steadfast,
            _ => true,
        });
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        state.after(action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if self.steadfast.is_some() {
            return vec![
                Property::always(NEVER, |model: &Self, state: &State| {
                    let leader = state.leader().filter(|leader| !leader.acts());
                    leader == model.steadfast.map(|index| &state.nodes[index])
                }),
                Property::sometimes(OTHERS_CAME_BACK, |model: &Self, state: &State| {
                    let rejoined = |(now, then): (&Node, &Node)| now.sequence > then.sequence;
                    state.nodes.iter().zip(&model.start.nodes).any(rejoined)
                }),
            ];
        }
        let all = vec![
            Property::always(DEADLOCK, |_, state: &State| !state.nodes.iter().any(Node::is_deadlocked)),
            Property::always(LEADERLESS, |_, state: &State| !state.is_leaderless_for_good()),
            Property::sometimes(STOPS, |_, state: &State| {
                state.nodes.iter().any(|node| node.life == Life::Exited)
            }),
            Property::sometimes(LEADS, |_, state: &State| state.leader().is_some_and(|node| node.acts())),
        ];
        all.into_iter().filter(|property| self.only.is_none_or(|only| only == property.name)).collect()
    }
}
