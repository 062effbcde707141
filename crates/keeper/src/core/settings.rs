use std::time::Duration;

use clock::Instant;

/// What a [`Core`](super::Core) allows, and how long its ticks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The unit of session time: sessions expire at multiples of it. At least 1 ms.
    pub tick: Duration,
    /// The shortest session timeout; `None` is two ticks.
    pub session_timeout_min: Option<Duration>,
    /// The longest session timeout; `None` is twenty ticks.
    pub session_timeout_max: Option<Duration>,
    /// The largest request in bytes, header included (`jute.maxbuffer`). A connection that sends more is closed.
    pub frame_bytes_max: usize,
    /// Watches that one connection may hold. The request that passes the bound closes its connection: an error
    /// in its place would leave a client that ignores it (as most do after a reconnect) without its watches.
    pub watches_per_connection_max: usize,
    /// Bytes of the paths that one connection watches; passing it closes the connection.
    pub watch_bytes_per_connection_max: usize,
    /// Watches that all connections together may hold. Passing it closes the connection that holds most.
    pub watches_max: usize,
    /// Bytes of the paths that all connections together watch; passing it closes the connection that holds most.
    pub watch_bytes_max: usize,
    /// Identities that one connection may add with `auth`; the one beyond is refused as a failed authentication.
    pub identities_per_connection_max: usize,
    /// Sessions alive at a time. A connection that asks for one more is closed without an answer.
    pub sessions_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tick: Duration::from_secs(2),
            session_timeout_min: None,
            session_timeout_max: None,
            frame_bytes_max: 0xf_ffff,
            watches_per_connection_max: 1_000_000,
            watch_bytes_per_connection_max: 64 << 20,
            watches_max: 2_000_000,
            watch_bytes_max: 256 << 20,
            identities_per_connection_max: 64,
            sessions_max: 65_536,
        }
    }
}

impl Settings {
    /// A tick in milliseconds, at least one.
    pub(super) fn tick_ms(&self) -> u64 {
        u64::try_from(self.tick.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// The timeout that a client gets which asks for `wanted_ms`.
    pub(super) fn session_timeout_ms(&self, wanted_ms: i32) -> i32 {
        let millis = |limit: Option<Duration>, ticks: u32| {
            i32::try_from(limit.unwrap_or(self.tick * ticks).as_millis()).unwrap_or(i32::MAX)
        };
        // The upper bound is applied last, so that it wins if the two contradict each other.
        wanted_ms.max(millis(self.session_timeout_min, 2)).min(millis(self.session_timeout_max, 20))
    }
}

/// The time of one call: the core asks no clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// What timeouts are measured with. Never goes backwards from one call to the next.
    pub monotonic: Instant,
    /// Milliseconds since the Unix epoch, for `ctime` and `mtime`.
    pub wall_ms: i64,
}

impl Now {
    /// Whole milliseconds of the monotonic clock.
    pub(super) fn ms(self) -> u64 {
        self.monotonic.as_nanos() / 1_000_000
    }
}

/// One connection, for as long as the process runs: its owner never gives the same number twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);
