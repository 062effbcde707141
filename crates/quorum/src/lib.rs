//! Membership in the cluster and leader election (D4, D5).
//!
//! ```text
//!  Quorum<P>    phases: Initializing → Connected → Joined → Running → Stopped
//!    driver     one loop: owns the session, the lease and every task; awaits none of them
//!      election sans-IO, a crate of its own: events in, effects out; decides everything
//!      calls    effects as reads and writes on one session
//!      watchers what others change, as events
//!  Handle       how the supervisor tells (ready, serving, effects ended) and asks (handover, priority)
//!  View         what everybody else sees, published by `watch`
//! ```
//!
//! Leadership is *claimed*, not implied: a node that is ready stands as a candidate; when there is no `leader`, the
//! first in line claims it; elected, it has to serve by a deadline or resigns and is held down.
//!
//! Followers watch `leader` alone. When it changes they read the line once, and again while nobody leads; members are
//! listed then, about once a minute and on request (one call, plus one read for each new member). The leader watches
//! candidates, priorities and members. Nobody writes anything at rest but the leader's lease probe.
//!
//! **Invariant:** an event of an old session generation changes nothing.
//!
//! **Invariant:** every state but the last has a deadline, and the driver never awaits a component or a call in its loop.
//!
//! **Invariant:** no `leader` is deleted and no session closed while effects that it fences may be alive. The one
//! exception: effects that have not ended by their deadline lose the lease flag and then `leader` alone; the node stays
//! out of the line until they have ended.

mod config;
pub use config::Options;

mod phase;
pub use phase::{
    Connected, EDGES, Edge, Initializing, Joined, MERMAID, Phase, PhaseId, Quorum, Running, Stopped,
};
mod base;

mod view;
pub use view::{Leader, Member, Pause, Place, Readiness, Role, Sessionless, View};
mod explain;

mod handle;
pub use handle::Handle;

mod identity;
pub use identity::{FileIdentity, Identity, IdentityStore, Life};

mod record;
pub use record::{ClusterRecord, FEATURE_LEVEL, FORMAT};

mod error;
pub use error::{ConnectFailure, JoinError, JoinFailure, PriorityError};

pub use election::{
    FailedTerm, Generation, HandoverError, HoldDown, InvalidUuid, MemberUuid, TermRecord, Terms,
};

mod calls;
mod driver;
mod join;
mod leave;
pub use leave::Report;
mod watchers;
