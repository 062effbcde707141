//! Executes a node's tasks: process trees under shims, and services inside the daemon.
//!
//! ```text
//! Runner<Booting> ──boot──▶ Runner<Running> ──drain──▶ Runner<Draining> ──stop, leave──▶ Runner<Stopped>
//!        └─ fails: BootFailure, everything undone
//! ```
//!
//! A leader reaches a runner through [`Handle::server`]; the runner reaches the leader through a [`LeaderLink`]: signs of
//! life, and how attempts ended. One loop owns all state; calls are requests in its queue.
//!
//! # Invariants
//!
//! - Nothing is started before the coordination service's epoch was observed, under a lower epoch than any seen, for another
//!   life of this node, or under a grant that is not the present one.
//! - An attempt whose right to run has lapsed is gone by `send instant of the last answered heartbeat + fence_after`: the loop
//!   and the attempt's shim each see to that alone.
//! - An end is reported only when the whole process tree is gone, and reported until a leader acknowledges it. Ends of
//!   process tasks are on disk before that, and ends inside the daemon that have output. Others inside the daemon are not:
//!   should it crash, its successor says that its life is over, and whatever was not acknowledged counts as lost.
//! - An attempt runs at most once here: a repeated start is answered from memory.
//! - A node that has said "unknown" of an attempt never runs it, even after a crash.
//! - Absent on purpose: any notion of the coordination service, of queues, retries and placement.
//!
//! Modules in reading order: [`Options`] and [`Services`]; `phase`, `boot`, `driver` (the loop), `fence` and `ledger` (its
//! pure parts), `attempt`, `process` and `in_process` (one attempt), [`shim`] (the other side of a process), `leftovers`, `store`.

mod adopt;
mod attempt;
mod boot;
mod driver;
mod error;
mod fence;
mod handle;
mod in_process;
mod ledger;
mod leftovers;
mod link;
mod options;
mod phase;
mod proc;
mod process;
mod refusals;
mod server;
mod service;
pub mod shim;
mod store;

pub use error::BootFailure;
pub use handle::{Handle, Status};
pub use ledger::Retention;
pub use link::{LeaderLink, LinkError};
pub use options::{ExitPolicy, InvalidOptions, Options, PidNamespace, ShimProgram};
pub use phase::{Booting, Draining, EDGES, Edge, MERMAID, Phase, PhaseId, Report, Runner, Running, Stopped};
pub use server::Server;
pub use service::{
    Exec, ExecPolicy, Hold, Holds, Noop, Process, Reports, Right, Said, Services, Sleep, Task, TaskService,
    Unfit, Work, WorkError,
};
