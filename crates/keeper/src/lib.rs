//! A ZooKeeper-protocol server for one machine.
//!
//! Ordinary ZooKeeper clients use it as they use ZooKeeper 3.8; what it answers is judged against that server. It is not
//! highly available: one machine, one process, and while that is down so is it. What it acknowledged survives a crash.
//!
//! ```text
//!    server     sockets, threads, order      ── the only part that knows tokio
//!    ├── core   sessions, watches, requests  ── bytes and time in, bytes and transactions out
//!    │   └── state   znodes, ACLs            ── a pure function of its transactions
//!    ├── store  log, snapshots, recovery     ── blocking files
//!    └── wire   the codec, both directions
//! ```
//!
//! Everything but `server` and `store` is without IO, clock and randomness of its own, so that it can be driven by a
//! simulation.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let listen = "127.0.0.1:2181".parse()?;
//! let options = keeper::server::Options::new("/var/lib/keeper", listen);
//! // In earnest the seed is fresh randomness: passwords of sessions are drawn from it.
//! let server = keeper::server::Server::start(options, clock::BootClock::shared(), [0; 32]).await?;
//! println!("ZooKeeper clients connect to {}", server.address());
//! server.stop().await?;
//! # Ok(()) }
//! ```

// The raw client of the tests names the crate, inside of it and outside.
#[cfg(test)]
extern crate self as keeper;

pub mod core;
pub mod server;
pub mod state;
pub mod store;
pub mod wire;
