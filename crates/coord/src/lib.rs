//! Coordination through ZooKeeper: the only crate that names `zookeeper-client`, and none of its types leak.
//!
//! ```text
//!  Session (owner, one per ZooKeeper session) ── close() ──▶ nothing of it is left on the server
//!    ├── monitor task   client's state ─▶ watch<LinkState>, own timer, "is it still the same session?"
//!    ├── write actor    every non-idempotent write: pipelined, resolved after a lost reply, undone if unwanted
//!    └── client         on an OS thread of its own (ClientRuntime): it may spin, we do not
//!  Link (cheap clone)   reads, followers, writes; each with a deadline
//!  Lease, GroupLease    committed probes ─▶ LeaseFlag ("inside the lease", read at the last moment)
//! ```
//!
//! **Invariant:** every call ends by its deadline, whatever ZooKeeper, the network or the client does.
//!
//! **Invariant:** a session is closed only by [`Session::close`]; no drop of any value closes it.
//!
//! **Invariant:** no persistent or recursive watch (they die silently at the first reconnect), no lock recipe of the
//! client (cancelling one leaks an orphan), no authority that hangs on a watch or on the client's `Expired`.

mod options;
pub use options::{InvalidOptions, Options};

mod layout;
pub use layout::Layout;

mod runtime;
pub use runtime::{ClientRuntime, Host};

mod session;
pub use session::{
    CallError, CallFailure, ChildrenFollower, CloseError, ConnectError, Ended, Generation, Link, LinkState,
    Node, NodeFollower, Session, SessionId, Stat,
};

mod write;
pub use write::{Mode, Op, OpResult, ReadBack, Rejection, Undo, Write, WriteError};

mod lease;
pub use lease::{GroupLease, Hold, Lease, LeaseFlag, LeaseState, LeaseTiming};

mod term;
pub use term::{Fence, Term};

pub mod log;
