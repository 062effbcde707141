use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;

/// How a [`Server`](super::Server) is set up. [`Options::new`] has the defaults; change what you need and leave the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the log, the snapshots and the lock file live. Created if it does not exist; belongs to one server at a time.
    pub data_dir: PathBuf,
    /// Where clients connect. Port 0 takes a free one: see [`Server::address`](super::Server::address).
    pub listen: SocketAddr,
    /// The unit of session time: timeouts are clamped to 2 to 20 of them, and sessions expire at multiples of it. Default 2 s.
    pub tick: Duration,
    /// The shortest session a client may ask for. Default `None`: two ticks.
    pub session_timeout_min: Option<Duration>,
    /// The longest session a client may ask for. Default `None`: twenty ticks.
    pub session_timeout_max: Option<Duration>,
    /// Connections open at a time; further ones are closed at once. Default 4,096. Never more than three
    /// quarters of the files that the process may have open.
    pub connections_max: usize,
    /// Sessions alive at a time. Default 65,536.
    pub sessions_max: usize,
    /// Watches that one connection may hold. Default 1,000,000.
    pub watches_per_connection_max: usize,
    /// The largest request, as ZooKeeper's `jute.maxbuffer`. A connection that announces more is closed. Default 1,048,575 bytes.
    pub frame_bytes_max: usize,
    /// Requests of one connection that are executed but not yet answered. At the bound the connection is not read until some are. Default 2,000.
    pub requests_outstanding_max: usize,
    /// Unsent bytes of replies at which a connection is not read until its client has taken some. Default 1 MiB.
    pub reply_bytes_pause: usize,
    /// Unsent bytes of replies and watch events at which a connection is closed: its client does not read. Default 32 MiB.
    pub reply_bytes_max: usize,
    /// Half-received requests and unsent replies of all connections together. Beyond it the connection that holds most is closed. Default 256 MiB.
    pub buffered_bytes_max: usize,
    /// Changes that wait for the disk. At the bound no connection is read. Default 20,000.
    pub group_txns_max: usize,
    /// A connection must have sent its first request within this time. Default 10 s.
    pub handshake_timeout: Duration,
    /// A client that takes none of the bytes that wait for it for this long is cut off. Default 30 s.
    pub write_timeout: Duration,
    /// How long a graceful stop may take before it becomes an abort. Default 3 s.
    pub stop_timeout: Duration,
    /// Changes after which a snapshot is written and the log is cut. Default 100,000.
    pub snapshot_every_txns: u64,
    /// Bytes of log after which that is done too: they are what a start has to read. Default 64 MiB.
    pub snapshot_every_bytes: u64,
}

impl Options {
    /// The defaults, for a server that keeps its data in `data_dir` and listens on `listen`.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            tick: Duration::from_secs(2),
            session_timeout_min: None,
            session_timeout_max: None,
            connections_max: 4_096,
            sessions_max: 65_536,
            watches_per_connection_max: 1_000_000,
            frame_bytes_max: 0xf_ffff,
            requests_outstanding_max: 2_000,
            reply_bytes_pause: 1 << 20,
            reply_bytes_max: 32 << 20,
            buffered_bytes_max: 256 << 20,
            group_txns_max: 20_000,
            handshake_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(3),
            snapshot_every_txns: 100_000,
            snapshot_every_bytes: 64 << 20,
        }
    }

    /// The shortest session, with the default filled in.
    pub fn session_min(&self) -> Duration {
        self.session_timeout_min.unwrap_or(self.tick * 2)
    }

    /// The longest session, with the default filled in.
    pub fn session_max(&self) -> Duration {
        self.session_timeout_max.unwrap_or(self.tick * 20)
    }

    /// Looks whether a server can run with these.
    ///
    /// # Errors
    /// The first value that makes no sense, with what it must be.
    pub fn validate(&self) -> Result<(), InvalidOptions> {
        let positive = [
            ("connections_max", self.connections_max),
            ("sessions_max", self.sessions_max),
            ("requests_outstanding_max", self.requests_outstanding_max),
            ("reply_bytes_pause", self.reply_bytes_pause),
            ("group_txns_max", self.group_txns_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(InvalidOptions::Zero(name));
        }
        let waits = [
            ("handshake_timeout", self.handshake_timeout),
            ("write_timeout", self.write_timeout),
            ("stop_timeout", self.stop_timeout),
        ];
        if let Some((name, _)) = waits.iter().find(|(_, value)| value.is_zero()) {
            return Err(InvalidOptions::Zero(name));
        }
        let every = [
            ("snapshot_every_txns", self.snapshot_every_txns),
            ("snapshot_every_bytes", self.snapshot_every_bytes),
        ];
        if let Some((name, _)) = every.iter().find(|(_, value)| *value == 0) {
            return Err(InvalidOptions::Zero(name));
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(InvalidOptions::NoDataDir);
        }
        // The upper bound keeps twenty ticks within the 32 bits of milliseconds that the protocol has for a timeout.
        if self.tick < Duration::from_millis(1) || self.tick > Duration::from_secs(3_600) {
            return Err(InvalidOptions::Tick(self.tick));
        }
        let (min, max) = (self.session_min(), self.session_max());
        if min < Duration::from_millis(1) || min > max || max > Duration::from_millis(i32::MAX as u64) {
            return Err(InvalidOptions::SessionTimeouts { min, max });
        }
        if !(1_024..=64 << 20).contains(&self.frame_bytes_max) {
            return Err(InvalidOptions::FrameBytes(self.frame_bytes_max));
        }
        if self.reply_bytes_max < self.reply_bytes_pause || self.buffered_bytes_max < self.reply_bytes_max {
            return Err(InvalidOptions::ReplyBytes);
        }
        Ok(())
    }
}

/// A value of [`Options`] that no server can run with.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidOptions {
    /// A bound or a time that must be more than nothing.
    #[error("{0} must be more than 0")]
    Zero(&'static str),
    /// The data directory is the empty path.
    #[error("the data directory must be named")]
    NoDataDir,
    /// The tick is too short or too long.
    #[error("the tick must be between 1 ms and 1 h, not {0:?}")]
    Tick(Duration),
    /// The bounds of session timeouts contradict each other.
    #[error(
        "session timeouts must be between 1 ms and 24 days, the smallest ({min:?}) no longer than the largest ({max:?})"
    )]
    SessionTimeouts {
        /// The shortest.
        min: Duration,
        /// The longest.
        max: Duration,
    },
    /// The largest frame is out of range.
    #[error("the largest request must be between 1 KiB and 64 MiB, not {0} bytes")]
    FrameBytes(usize),
    /// The bounds of unsent bytes contradict each other.
    #[error(
        "the bounds of unsent bytes must not shrink: reply_bytes_pause <= reply_bytes_max <= buffered_bytes_max"
    )]
    ReplyBytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_refused_with_the_name_of_the_value() {
        let check = |change: fn(&mut Options), expected: &str| {
            let mut options = Options::new("/data", SocketAddr::from(([127, 0, 0, 1], 0)));
            assert_eq!(options.validate(), Ok(()));
            change(&mut options);
            let error = options.validate().expect_err("it is nonsense").to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(|options| options.tick = Duration::ZERO, "tick");
        check(|options| options.tick = Duration::from_secs(86_400), "tick");
        check(|options| options.connections_max = 0, "connections_max");
        check(|options| options.write_timeout = Duration::ZERO, "write_timeout");
        check(|options| options.snapshot_every_txns = 0, "snapshot_every_txns");
        check(|options| options.snapshot_every_bytes = 0, "snapshot_every_bytes");
        check(|options| options.data_dir = PathBuf::new(), "data directory");
        check(|options| options.session_timeout_min = Some(Duration::from_secs(41)), "no longer than");
        check(|options| options.frame_bytes_max = 100, "1 KiB");
        check(|options| options.reply_bytes_max = 1, "must not shrink");
    }
}
