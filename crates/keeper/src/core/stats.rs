use std::net::SocketAddr;
use std::time::Duration;

use super::ConnId;

/// What the server has done since it started, for the four-letter words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Frames that came in, handshakes and garbage included.
    pub packets_received: u64,
    /// Frames that went out: replies and watch events.
    pub packets_sent: u64,
    /// From a request to its reply, as far as the shell measured it.
    pub latency: Latency,
    /// Connections that failed to authenticate.
    pub auth_failed: u64,
    /// Sessions that ended because nothing was heard of them.
    pub sessions_expired: u64,
    /// Connections closed because of a bound, a malformed request or an operation that does not exist.
    pub connections_refused: u64,
}

/// Smallest, largest and mean of durations in whole milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    count: u64,
    total_ms: u64,
    min_ms: u64,
    max_ms: u64,
}

impl Latency {
    pub(super) fn record(&mut self, latency: Duration) {
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.min_ms = if self.count == 0 { ms } else { self.min_ms.min(ms) };
        self.max_ms = self.max_ms.max(ms);
        self.total_ms = self.total_ms.saturating_add(ms);
        self.count += 1;
    }

    /// The smallest; 0 before the first.
    pub fn min_ms(&self) -> u64 {
        self.min_ms
    }

    /// The largest; 0 before the first.
    pub fn max_ms(&self) -> u64 {
        self.max_ms
    }

    /// The mean; 0 before the first.
    pub fn avg_ms(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total_ms as f64 / self.count as f64 }
    }
}

/// What one connection has done, for the four-letter words.
#[derive(Clone, Debug)]
pub struct ConnectionStats {
    /// Frames that it sent.
    pub packets_received: u64,
    /// Frames that it was sent.
    pub packets_sent: u64,
    /// When it was opened, in milliseconds since the Unix epoch.
    pub established_ms: i64,
    /// ZooKeeper's short name of the last operation that was answered; "NA" before the first.
    pub last_op: &'static str,
    /// The xid of the last ordinary request; -1 before the first.
    pub last_cxid: i64,
    /// The zxid in the last reply; -1 before the first.
    pub last_zxid: i64,
    /// When the last reply was made, in milliseconds since the Unix epoch.
    pub last_response_ms: i64,
    /// From a request to its reply, as far as the shell measured it.
    pub latency: Latency,
    /// The last latency, in milliseconds.
    pub last_latency_ms: u64,
}

impl ConnectionStats {
    pub(super) fn new(established_ms: i64) -> Self {
        Self {
            packets_received: 0,
            packets_sent: 0,
            established_ms,
            last_op: "NA",
            last_cxid: -1,
            last_zxid: -1,
            last_response_ms: 0,
            latency: Latency::default(),
            last_latency_ms: 0,
        }
    }

    pub(super) fn record_latency(&mut self, latency: Duration) {
        self.last_latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.latency.record(latency);
    }
}

/// One open connection as the four-letter words show it.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    /// Which connection.
    pub conn: ConnId,
    /// Its other end.
    pub peer: SocketAddr,
    /// Its session; 0 before the handshake.
    pub session: i64,
    /// The timeout it negotiated, in milliseconds; 0 before the handshake.
    pub timeout_ms: i32,
    /// What it has done.
    pub stats: &'a ConnectionStats,
}

/// How many watches there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// All watches, as `mntr` counts them: one on data and one on children are two.
    pub watches: usize,
    /// Connections that watch data or existence, as `wchs` counts them.
    pub data_connections: usize,
    /// Paths whose data or existence is watched.
    pub data_paths: usize,
    /// Watches on data or existence.
    pub data_watches: usize,
}
