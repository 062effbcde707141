//! What taskd's processes say to each other: ids, task descriptions and the tarpc services.
//!
//! No IO and no logic beyond validating what came in. Every type is encoded with *named* fields, so that a
//! newer node can add a field (with `#[serde(default)]`) and an older one still reads the rest.
//!
//! One TCP port serves everything: a connection opens with a [`Hello`](hello::Hello) that names the service it wants.
//!
//! | service | caller → callee | for |
//! |---|---|---|
//! | [`RunnerRpc`](runner::RunnerRpc) | leader's dispatcher → a node's runner | start, cancel, inventory, output |
//! | [`LeaderRpc`](leader::LeaderRpc) | a node's runner → leader's dispatcher | heartbeats, outcomes |
//! | [`Api`](api::Api) | clients and peers → any node | submit, look, wait, operate |

pub mod api;
pub mod hello;
pub mod history;
pub mod ids;
pub mod leader;
pub mod operate;
pub mod placing;
pub mod progress;
pub mod runner;
pub mod schedule;
pub mod status;
pub mod task;
pub mod vip;

pub use ids::{
    AttemptId, ClusterId, Epoch, FencingToken, Grant, Incarnation, InvalidId, NodeId, ScheduleId, TaskId,
};

/// Largest payload of one task, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Largest frame on the wire, in bytes: a batch of submissions must fit.
pub const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The port a node listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 10601;
