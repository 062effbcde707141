//! What the whole cluster is told of its virtual IPs: one text, applied by people, kept in the coordination service
//! with a revision. A node's own file holds only node facts: its interfaces, its labels, its [`Hooks`].
//!
//! ```text
//! text ──parse──► Config ──check──► Verdict         every problem at once, each with its line, its key and what to do
//!                    └────diff────► [Change]        what an apply would change, for people
//! ```
//!
//! [`parse()`] knows the text alone. What also depends on the cluster's session timeout (D8's arithmetic) is [`check`]'s.

mod address;
mod diff;
mod parse;
mod reader;
mod verdict;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use proto::NodeId;
use proto::vip::ServiceName;
use serde::{Deserialize, Serialize};

pub use diff::{Change, Moved, diff, moved};
pub use parse::parse;
pub use reader::{ConfigErrors, Problem};
pub use verdict::{Verdict, check};

pub use crate::store::TEXT_BYTES_MAX;

/// Services of a cluster.
pub const SERVICES_MAX: usize = 64;
/// Addresses of one service.
pub const ADDRESSES_MAX: usize = 32;
/// Checks of one service.
pub const CHECKS_MAX: usize = 8;

/// The whole text, parsed: `[service.NAME]` tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The services by name.
    pub services: BTreeMap<ServiceName, Service>,
}

/// A service: addresses that move together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its addresses (`vips`); at least one, at most [`ADDRESSES_MAX`], each only once in the whole configuration.
    pub vips: Vec<Vip>,
    /// Whether anybody is to hold it (`enabled`, true).
    pub enabled: bool,
    /// Who should hold it, best first (`preferred`). Others follow after these.
    pub preferred: Vec<NodeId>,
    /// Labels that a node must have (`labels`).
    pub labels: BTreeMap<String, String>,
    /// Whether it goes back to a better node once that is fit again (`failback`, false): by default it stays.
    pub failback: bool,
    /// Services of the same group avoid each other's nodes (`spread`).
    pub spread: Option<String>,
    /// How long a node is passed over after it lost or gave up the service (`hold_down`, 10 s).
    pub hold_down: Duration,
    /// How long a taker waits if the holder before it did not release (`takeover_grace`, 2 s): that one's addresses
    /// have gone by then (D8).
    pub takeover_grace: Duration,
    /// What a node must pass to hold it (`check`); at most [`CHECKS_MAX`].
    pub checks: Vec<Check>,
}

impl Service {
    /// A service with these addresses, and with what a text that says no more means.
    pub fn new(vips: Vec<Vip>) -> Self {
        Self {
            vips,
            enabled: true,
            preferred: Vec::new(),
            labels: BTreeMap::new(),
            failback: false,
            spread: None,
            hold_down: Duration::from_secs(10),
            takeover_grace: Duration::from_secs(2),
            checks: Vec::new(),
        }
    }

    /// Its addresses without prefixes, as the configuration orders them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.vips.iter().map(|vip| vip.address.addr())
    }
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vip {
    /// The address and the prefix of its network.
    pub address: IpNet,
    /// An interface's name, or a role that nodes map to one in `[vip.interfaces]`.
    pub interface: String,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.address, self.interface)
    }
}

/// A condition on the node. The carrier of the addresses' interfaces is always one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// For people (`name`); [`title`](Self::title) if absent.
    pub name: Option<String>,
    /// What is checked: exactly one of the keys `script`, `process`, `carrier`, `tcp`.
    pub probe: Probe,
    /// Between two looks (`interval`, 1 s).
    pub interval: Duration,
    /// How long a look may take; then it has failed (`timeout`, 1 s).
    pub timeout: Duration,
    /// Failures in a row until the node is unfit (`fall`, 2).
    pub fall: u32,
    /// Successes in a row until it is fit again (`rise`, 2).
    pub rise: u32,
}

impl Check {
    /// A check with the usual durations.
    pub fn new(probe: Probe) -> Self {
        let second = Duration::from_secs(1);
        Self { name: None, probe, interval: second, timeout: second, fall: 2, rise: 2 }
    }

    /// What people call it: its name, or its kind and argument.
    pub fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.probe.to_string())
    }
}

impl fmt::Display for Check {
    /// Its title, in front of it what it does unless that says so already, and what is not as usual.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        write!(f, "{} every {}", self.probe, humantime::format_duration(self.interval))?;
        write!(
            f,
            " within {}, fall {}, rise {}",
            humantime::format_duration(self.timeout),
            self.fall,
            self.rise
        )
    }
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A program with its arguments, which exits with 0. The program is an absolute path.
    Script(Vec<String>),
    /// A process of that name (`/proc/*/comm`, or the base name of its executable) exists.
    Process(String),
    /// An interface or role has a carrier.
    Carrier(String),
    /// `HOST:PORT` accepts a TCP connection.
    Tcp(String),
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(argv) => write!(f, "script {}", argv.join(" ")),
            Self::Process(name) => write!(f, "process {name}"),
            Self::Carrier(interface) => write!(f, "carrier {interface}"),
            Self::Tcp(target) => write!(f, "tcp {target}"),
        }
    }
}

/// Programs that a node runs when it takes or releases; of a node's own file, since they are files of that node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hooks {
    /// Run with `take SERVICE ADDRESS…` after the addresses are there and announced.
    #[serde(default)]
    pub on_take: Option<PathBuf>,
    /// Run with `release SERVICE ADDRESS…` after they are gone.
    #[serde(default)]
    pub on_release: Option<PathBuf>,
}
