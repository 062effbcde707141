//! What the dispatcher is configured with.

use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use drill::Drill;
use proto::NodeId;
use pulse::Pulse;

use crate::phase::machine::PhaseId;

/// How long final tasks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At most so many.
    pub count: usize,
    /// At most so long.
    pub age: Duration,
    /// At most so many bytes of the task log, large payloads included.
    pub bytes: u64,
    /// How long the idempotency key of a final task goes on returning it, whether it is still kept itself or not.
    pub idempotency_age: Duration,
    /// At most so many keys whose tasks are not kept any more.
    pub idempotency_count: usize,
}

impl Default for Retention {
    /// What a node does unless it is told otherwise.
    fn default() -> Self {
        let day = Duration::from_secs(24 * 60 * 60);
        Self { count: 10_000, age: day, bytes: 64 << 20, idempotency_age: day, idempotency_count: 100_000 }
    }
}

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// How long a runner may run what it runs after the sending of its last answered heartbeat.
    pub fence_after: Duration,
    /// By how much two machines' clocks may drift apart within `fence_after`.
    pub drift: Duration,
    /// How often runners send heartbeats.
    pub heartbeat: Duration,
    /// How long final tasks are kept.
    pub retention: Retention,
    /// Tasks that may wait or run at a time.
    pub queue_tasks_max: usize,
    /// Larger payloads are kept outside of the log's segments, in bytes; a quarter of what one append may hold is the
    /// most that counts.
    pub payload_inline_max: usize,
    /// How much waiting makes up for a point of priority; zero: none does.
    pub priority_ageing: Duration,
    /// The task log.
    pub log: coord::log::LogOptions,
    /// The coordination service, for the session that carries the log; and the faults that a test switches on.
    pub coord: coord::Options,
    /// The coordination client's own thread.
    pub runtime: Arc<coord::ClientRuntime>,
    /// Time.
    pub clock: SharedClock,
    /// Randomness: the jitter of retries.
    pub rng_seed: u64,
    /// Where whoever watches the dispatcher from outside sees that it blocks a thread.
    pub pulse: Pulse,
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
    pub(crate) priority_ageing: Duration,
    /// Bytes of one append; it must fit into a segment.
    pub(crate) append_bytes_max: usize,
    pub(crate) clock: SharedClock,
    pub(crate) rng_seed: u64,
    pub(crate) pulse: Pulse,
    pub(crate) drill: Drill,
}

impl Config {
    /// Shows the phase to whoever watches from outside.
    pub(crate) fn enter(&self, phase: PhaseId) {
        self.pulse.phase(phase.as_str(), self.clock.now());
    }
}

/// Part of a segment that one append may fill; the rest is the segment's own.
const APPEND_SHARE: (usize, usize) = (3, 4);

impl Options {
    pub(crate) fn config(&self) -> Config {
        let append_bytes_max = self.log.segment_bytes_max / APPEND_SHARE.1 * APPEND_SHARE.0;
        Config {
            node: self.node.clone(),
            fence_after: self.fence_after,
            drift: self.drift,
            heartbeat: self.heartbeat,
            retention: self.retention,
            queue_tasks_max: self.queue_tasks_max,
            // With all else that a task may have, its record must fit into an append.
            payload_inline_max: self.payload_inline_max.min(append_bytes_max / 4),
            priority_ageing: self.priority_ageing,
            append_bytes_max,
            clock: Arc::clone(&self.clock),
            rng_seed: self.rng_seed,
            pulse: self.pulse.clone(),
            drill: self.coord.drill.clone(),
        }
    }
}
