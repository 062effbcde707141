//! The server around the core: sockets, threads, and the order in which things become known.

mod control;
mod engine;
mod error;
mod handle;
mod net;
mod options;

pub use error::{Failure, StartError, StopError};
pub use handle::Server;
pub use options::{InvalidOptions, Options};
