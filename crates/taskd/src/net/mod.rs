//! The network edge: the one place that knows sockets.
//!
//! Every connection opens with a [handshake](proto::hello), so that a stranger on the port, an old peer and a node of
//! another cluster are each told apart and told so; after it, frames carry tarpc messages as MessagePack with *named*
//! fields. Nothing here spawns on its own: whoever connects gets the dispatch future and joins it ([`Peers`] does
//! that for a node and for [`Client`](crate::client::Client)).
//!
//! | module | what |
//! |---|---|
//! | `socket` | [`Network`], the seam where a simulation puts its own sockets; the only file that names TCP |
//! | `codec` | MessagePack with named fields |
//! | `handshake` | both sides of the first frame |
//! | `listener` | [`Listener`]: bounded, rate-limited in what it logs |
//! | `serve` | drives one connection's requests |
//! | `connect` | [`connect`] and the typed [`connect_api`], [`connect_runner`], [`connect_leader`] |
//! | `peers` | [`Peers`]: one lazily reconnected client per address and service |

mod codec;
mod connect;
mod handshake;
mod listener;
mod peers;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

pub use codec::MessagePack;
pub use connect::{
    ConnectError, Connection, Dispatch, Rpc, connect, connect_api, connect_leader, connect_runner,
};
pub use handshake::{Identity, IdentityConflict, Peer};
pub use listener::{Incoming, Limits, Listener};
pub use peers::Peers;
pub use serve::serve;
pub use socket::{Acceptor, Duplex, Network, SharedNetwork, Tcp, Wire};

/// The release that this build says it is.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
