//! The leader's dispatcher: owns the task database, gives tasks to runners, and records what becomes of them.
//!
//! ```text
//!  Recovering ──recover──▶ Dispatching ──drain──▶ Draining ──stop──▶ Stopped
//!      │ replay, first record,                        │ nothing new; outcomes
//!      ▼ inventories of the runners                   ▼ are still recorded
//!  RecoverFailure (everything closed again)
//!
//!  Handle ─▶ events ─▶ driver (owner loop) ─▶ core (no IO) ─▶ changes ─▶ log ─▶ commit
//!     ▲                    ▲                                                    │
//!     └──── replies ───────┴──── starts, questions to runners ◀── released ◀────┘
//! ```
//!
//! One term of leadership is one value: [`Dispatcher::new`] takes the term, [`Dispatcher::recover`] makes it serve,
//! and [`Handle`] is what everybody else holds. The core decides and is handed the time; the driver is the only one
//! that touches it and never awaits a call or a commit inline.
//!
//! **Invariant:** nothing is acknowledged, sent or shown before everything it rests on has committed. The core runs
//! ahead of the log, and whatever leaves the driver waits in line behind the commit of the turn that decided it.
//!
//! **Invariant:** an attempt number is never used twice, not even when no runner began it.
//!
//! **Invariant:** a fenced attempt is followed by another only when (a) its runner has said, for good, that nothing of
//! it runs, (b) the longest right to run ever granted, plus drift, has passed since its runner was last answered, or
//! (c) a later life of that runner has said that its predecessor's leftovers are ended.
//!
//! **Invariant:** a task whose success was acknowledged to its runner is never run again. It becomes `succeeded` even
//! if it had been given up as lost, dead or cancelled: the only way in which a final state changes by itself.
//!
//! **Invariant:** outside of the lease no heartbeat is answered, nothing is started and nobody is given up.
//!
//! **Invariant:** a tick of a schedule is one task under every leader: its id follows from the schedule's and from the
//! tick, and the record that says how far the schedule has come is written behind the tasks that it speaks of.
//!
//! **Choice:** a lost attempt counts as an attempt. A task may lose up to `max(retries, 3)` before it is dead, so that
//! one that asked for no retries survives a lost node, and one that takes nodes down with it does not go on for ever.
//! Starts that no runner began count nothing.

mod phase;
pub use phase::machine::{
    Dispatcher, Dispatching, Draining, EDGES, MERMAID, Phase, PhaseId, Recovering, Stopped,
};

mod lifecycle;
pub use lifecycle::{RecoverFailure, Report};

mod config;
pub use config::{Options, Retention};

mod members;
pub use members::MemberInfo;

mod handle;
pub use handle::{Handle, RunnerSeen};

mod inspect;
pub use inspect::{Inspected, inspect};

mod clients;
pub use clients::{ConnectError, Runners};

pub mod storage;

mod standby;
pub use standby::{HeadStart, Standby, StandbyError};

mod fenced_log;

mod driver;

mod adoption;
mod attempts;
mod beats;
mod core;
mod database;
mod fence;
mod history;
mod operations;
mod placement;
mod queue;
mod record;
mod reports;
mod requests;
mod retry;
mod schedules;
mod timers;
mod waiting;
mod watch;
mod why;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
