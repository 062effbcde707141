//! What the whole cluster is told of its virtual IPs: one text, applied by people, kept in the coordination service
//! with a revision. A node's own file holds only node facts ([`Facts`](crate::Facts)).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use proto::NodeId;
use proto::vip::ServiceName;
use serde::{Deserialize, Serialize};

/// The whole text, parsed: `[service.NAME]` tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The services by name.
    #[serde(default, rename = "service")]
    pub services: BTreeMap<ServiceName, Service>,
}

/// A service: addresses that move together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its addresses; at least one.
    pub vips: Vec<Vip>,
    /// Whether anybody is to hold it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who should hold it, best first. Others follow after these.
    #[serde(default)]
    pub preferred: Vec<NodeId>,
    /// Labels that a node must have.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it goes back to a better node once that is fit again; by default it stays where it is.
    #[serde(default)]
    pub failback: bool,
    /// Services of the same group avoid each other's nodes.
    #[serde(default)]
    pub spread: Option<String>,
    /// How long a node is passed over after it lost or gave up the service.
    #[serde(default = "hold_down", with = "humantime_serde")]
    pub hold_down: Duration,
    /// How long a taker waits if the holder before it did not release: its addresses have gone by then (D8).
    #[serde(default = "takeover_grace", with = "humantime_serde")]
    pub takeover_grace: Duration,
    /// What a node must pass to hold it.
    #[serde(default, rename = "check")]
    pub checks: Vec<Check>,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vip {
    /// The address and the prefix of its network.
    pub address: IpNet,
    /// An interface's name, or a role that nodes map to one in `[vip.interfaces]`.
    pub interface: String,
}

/// A condition on the node. The carrier of the addresses' interfaces is always one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// For people; the kind and its argument if absent.
    #[serde(default)]
    pub name: Option<String>,
    /// What is checked.
    #[serde(flatten)]
    pub probe: Probe,
    /// Between two looks.
    #[serde(default = "interval", with = "humantime_serde")]
    pub interval: Duration,
    /// How long a look may take; then it has failed.
    #[serde(default = "timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// Failures in a row until the node is unfit.
    #[serde(default = "fall")]
    pub fall: u32,
    /// Successes in a row until it is fit again.
    #[serde(default = "rise")]
    pub rise: u32,
}

/// What a check looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// A program with its arguments, which exits with 0.
    Script(Vec<String>),
    /// A process of that name (`/proc/*/comm`, or the base name of its executable) exists.
    Process(String),
    /// An interface or role has a carrier.
    Carrier(String),
    /// `HOST:PORT` accepts a TCP connection.
    Tcp(String),
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

const fn yes() -> bool {
    true
}

const fn hold_down() -> Duration {
    Duration::from_secs(10)
}

const fn takeover_grace() -> Duration {
    Duration::from_secs(2)
}

const fn interval() -> Duration {
    Duration::from_secs(1)
}

const fn timeout() -> Duration {
    Duration::from_secs(1)
}

const fn fall() -> u32 {
    2
}

const fn rise() -> u32 {
    2
}
