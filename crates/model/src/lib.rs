//! Every reachable state, within bounds, of two designs:
//!
//! - [`seed`]: the one of the post-mortem, whose deadlock and lasting leaderless state a checker finds by itself;
//! - [`ours`]: the very [`election::Election`] that production runs, three of them, one abstract ZooKeeper, faults.
//!
//! `docs/model.md` says what is modelled, what is left out, and what was found.

pub mod ours;
pub mod report;
pub mod seed;
