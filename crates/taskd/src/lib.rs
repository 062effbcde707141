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

pub mod client;
pub mod config;
pub mod net;
pub mod telemetry;
