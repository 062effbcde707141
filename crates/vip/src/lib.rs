//! Virtual IPs: each service's addresses on exactly one healthy node (D8).

pub mod announce;
pub mod config;
pub mod net;
pub mod store;
