//! The leader's dispatcher: owns the task database, gives tasks to runners, and records what becomes of them.

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
pub use handle::Handle;

mod clients;
pub use clients::{ConnectError, Runners};

pub mod storage;

mod fenced_log;

mod driver;

mod attempts;
mod beats;
mod core;
mod database;
mod fence;
mod placement;
mod queue;
mod record;
mod retry;
mod watch;
mod why;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
