//! taskd: durable tasks and one leader for a cluster of nodes, in one binary and as a library.
//!
//! The composition root. It installs no signal handler and no log subscriber and never ends its process: that is
//! the binary's business.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | what can be configured, and from where it was |
//! | [`net`] | sockets, handshake, codec, pooled connections |
//! | [`client`] | talks to any node of a cluster |
//! | [`node`] | a node: built, started, stopped |
//! | [`service`] | kinds of tasks of your own |

pub mod client;
pub mod config;
pub mod net;
pub mod node;
pub mod service;
pub mod telemetry;

mod api_server;
mod coordination;
mod data_dir;
mod head_start;
mod links;
mod reload;
mod status;
mod supervisor;
mod vips;
mod wiring;

pub use config::Config;
pub use data_dir::DataDirError;
pub use drill;
pub use node::{Builder, LogOnly, Node, NodeHandle, StartError, StopRequester};
pub use proto;
pub use reload::{Reloaded, Reloader};
pub use runner;
pub use supervisor::watchdog::{LastRung, Wedge};
pub use supervisor::{StopCause, StopReport};
pub use vip;

// Its code is compiled as that of these pages is.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct LibraryPage;
