//! How the log is kept, and how full it is.

use std::time::Duration;

use proto::status::LogStatus;

/// Longest segment: ZooKeeper keeps its last 500 commits in memory at about three times their size.
const SEGMENT_BYTES_MAX: usize = 64 * 1024;

/// Shortest limit that leaves room for records beside the header.
const SEGMENT_BYTES_MIN: usize = 1024;

/// Longest linger: beyond it, latency is lost and nothing gained.
const LINGER_MAX: Duration = Duration::from_millis(2);

/// From this share of the budget on, the log is alarming: 4/5.
const ALARM: (u64, u64) = (4, 5);

/// How the log is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Longest segment in bytes, header included; 1 KiB to 64 KiB.
    pub segment_bytes_max: usize,
    /// Segments sent and not confirmed at a time, at least 1.
    pub in_flight: usize,
    /// How long a small segment waits for more while another is on its way; at most 2 ms. An idle log sends at once.
    pub linger: Duration,
    /// Bytes of changes that may wait to be sent.
    pub queue_bytes_max: usize,
    /// Bytes of segments, bodies and the queue, beyond which only urgent changes are taken. All of it is in the heap
    /// of every server.
    pub budget_bytes: u64,
    /// Bytes beyond the budget that urgent changes may use.
    pub reserve_bytes: u64,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes_max: SEGMENT_BYTES_MAX,
            in_flight: 4,
            linger: Duration::from_millis(1),
            queue_bytes_max: 8 * 1024 * 1024,
            budget_bytes: 256 * 1024 * 1024,
            reserve_bytes: 32 * 1024 * 1024,
        }
    }
}

impl LogOptions {
    /// # Errors
    /// What contradicts what.
    pub fn check(&self) -> Result<(), &'static str> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes_max) {
            return Err("segment_bytes_max must be 1 KiB to 64 KiB");
        }
        if self.in_flight == 0 {
            return Err("in_flight must be at least 1");
        }
        if self.linger > LINGER_MAX {
            return Err("linger must be at most 2 ms");
        }
        if self.queue_bytes_max < self.segment_bytes_max {
            return Err("queue_bytes_max must hold at least one segment");
        }
        if self.budget_bytes < 16 * self.segment_bytes_max as u64 {
            return Err("budget_bytes must hold at least 16 segments");
        }
        Ok(())
    }
}

/// How full the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStats {
    /// Bytes of all segments and bodies.
    pub bytes: u64,
    /// Bytes of the records that still count, and of the bodies.
    pub live_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of changes that wait to be sent.
    pub queued_bytes: u64,
}

impl LogStats {
    /// Whether at least 80 % of the budget is used.
    pub fn alarm(&self) -> bool {
        self.bytes + self.queued_bytes >= self.budget_bytes / ALARM.1 * ALARM.0
    }
}

impl From<LogStats> for LogStatus {
    fn from(stats: LogStats) -> Self {
        let LogStats { bytes, live_bytes, budget_bytes, segments, queued_bytes: _ } = stats;
        Self { bytes, live_bytes, budget_bytes, segments }
    }
}
