//! The server around the core: sockets, threads, and the order in which things become known.
//!
//! ```text
//!       clients                engine thread (keeper)                           log thread (keeper-log)
//!    ┌──────────┐   ┌───────────────────────────────────────────────┐         ┌──────────────────────────┐
//! ──▶│ listener │──▶│ main loop: accept, timers, sweep, the end     │         │                          │
//!    └──────────┘   │                                               │         │                          │
//!                   │ connection tasks        Shell                 │         │                          │
//!                   │ ┌───────┐  requests  ┌──────┐  changes        │ groups  │ append all that are there│
//! ═════requests════▶│ │ read  │───────────▶│ Core │──▶ gathered ────┼────────▶│ fdatasync once           │
//!                   │ │       │            └──┬───┘    (disk task)  │         │                          │
//!                   │ │       │    effects    ▼                     │ synced  │                          │
//! ◀════replies══════│ │ write │◀── outbox ◀── wait beside their ◀───┼─────────│                          │
//!                   │ └───────┘               group                 │         └───────────┬──────────────┘
//!                   └───────────────────────────────────────────────┘                     │ image, when due
//!                                                                             ┌───────────▼──────────────┐
//!                                                                             │ keeper-snapshot          │
//!                                                                             └──────────────────────────┘
//! ```
//!
//! While the log thread syncs, the engine executes and hands over what comes; the next sync covers all of that, without
//! waiting for the engine. What a request leads to, reads too, leaves only when every change that was executed before it
//! is on the disk; when nothing waits for the disk a read is answered without crossing threads. The effects never leave
//! the engine thread: they wait beside the group that they belong to.
//!
//! # Bounds
//!
//! | what | bound | at the bound |
//! |---|---|---|
//! | connections | [`Options::connections_max`], three quarters of the files that may be open | the new one is closed |
//! | a connection that says nothing | [`Options::handshake_timeout`] | closed |
//! | one request | [`Options::frame_bytes_max`] | closed, before its bytes are read |
//! | requests of a connection that wait for the disk | [`Options::requests_outstanding_max`] | not read |
//! | replies of a connection that its client has not taken | [`Options::reply_bytes_pause`] | not read |
//! | the same, watch events included | [`Options::reply_bytes_max`] | closed |
//! | a client that takes nothing | [`Options::write_timeout`] | closed |
//! | unsent and half-received bytes of all | [`Options::buffered_bytes_max`] | the one that holds most is closed |
//! | all that waits for the disk | [`Options::group_txns_max`], 16 MiB | nothing is read |
//! | requests of a connection in one turn | 5 ms | the others have theirs |
//! | watches of a connection, of all | [`Options::watches_per_connection_max`], 2,000,000 | closed, the one that holds most |
//! | engine → log thread | 32 groups | they gather in one |
//!
//! # Invariants
//!
//! - **Nothing is shown that a crash could take back**, and everything is shown in the order in which it was executed.
//!   The counts of four-letter words are of what was executed; their zxid is on the disk.
//! - **A session is not ended for a silence that is the server's**: not while its connection waits for the disk to be read,
//!   and not at once after the engine stood still.
//! - **A disk that fails is the end**: connections are closed, [`Server::failed`] says why, nothing is tried again.
//! - **A bug is the end too**: a panic of the engine or of a connection's task is a failure of the server, not of one client.
//! - **Whoever starts a thread or a task joins it.** The exception is a log thread that hangs in the disk when its server
//!   is aborted: it is left to end by itself, and said.
//! - The socket types are named in one file, `net.rs`.

mod connection;
mod control;
mod engine;
mod error;
mod group;
mod handle;
mod hearing;
mod limited;
mod line;
mod log;
mod net;
mod options;
mod outbox;
mod shell;
#[cfg(test)]
mod tests;
mod words;

pub use error::{Failure, StartError, StopError};
pub use handle::Server;
pub use options::{InvalidOptions, Options};
