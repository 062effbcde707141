//! A ZooKeeper-protocol server for one machine.

pub mod core;
pub mod server;
pub mod state;
pub mod store;
pub mod wire;
