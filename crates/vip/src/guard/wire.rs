//! What the daemon and its guard say to each other: a line of JSON each.

use ipnet::IpNet;
use proto::vip::ServiceName;
use serde::{Deserialize, Serialize};

/// The longest line that is read: thousands of addresses.
pub(super) const LINE_BYTES_MAX: usize = 1 << 20;

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    /// The first one.
    Start {
        /// Only say what would be removed.
        dry_run: bool,
    },
    /// What there is from now on, all of it, in place of what was said before.
    Hold {
        /// Counts these orders.
        seq: u64,
        /// Everything that may be on the machine.
        holds: Vec<Held>,
    },
    /// Nothing is left to guard: end without touching anything.
    Clean,
}

/// The addresses of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// Whose.
    pub(super) service: ServiceName,
    /// CLOCK_BOOTTIME: from then on nobody may have them.
    pub(super) until_ns: u64,
    /// The interfaces' numbers, and the addresses.
    pub(super) addresses: Vec<(u32, IpNet)>,
}

/// From the guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The order of that number is known; 0: it is there.
    Ack(u64),
}

pub(super) fn line(message: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("strings, numbers and lists are always JSON");
    line.push(b'\n');
    line
}
