//! What the dispatcher is configured with.

use std::time::Duration;

use clock::SharedClock;
use proto::NodeId;

/// How long final tasks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At most so many.
    pub count: usize,
    /// At most so long.
    pub age: Duration,
}

/// What of the [`Options`] does not concern the storage.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node: NodeId,
    pub(crate) fence_after: Duration,
    pub(crate) drift: Duration,
    pub(crate) heartbeat: Duration,
    pub(crate) retention: Retention,
    pub(crate) queue_tasks_max: usize,
    pub(crate) payload_inline_max: usize,
    /// Bytes of one append; it must fit into a segment.
    pub(crate) append_bytes_max: usize,
    pub(crate) clock: SharedClock,
    pub(crate) rng_seed: u64,
}
