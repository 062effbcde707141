//! `[vip]`: what virtual IPs need to know of this node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest name of an interface, in bytes.
const INTERFACE_BYTES_MAX: usize = 15;

/// Virtual IPs, as far as they are this node's business. Which there are, and who is to hold them, is the cluster's own
/// configuration (`taskd config apply`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    /// How addresses are changed.
    pub backend: VipBackend,
    /// Roles that the cluster's configuration names, and this node's interfaces for them.
    pub interfaces: BTreeMap<String, String>,
    /// A program that is run with `take SERVICE ADDRESS…` once addresses are here and announced.
    pub on_take: Option<PathBuf>,
    /// A program that is run with `release SERVICE ADDRESS…` once they are gone.
    pub on_release: Option<PathBuf>,
    /// Whether `script` checks of the cluster's configuration run here, as taskd's user; without, they fail here.
    pub scripts: bool,
    /// How often the network is asked for an address before it is taken.
    pub probe_count: u32,
    /// Between two questions, and after the last.
    #[serde(with = "humantime_serde")]
    pub probe_interval: Duration,
    /// How often a held address is announced although nothing has changed.
    #[serde(with = "humantime_serde")]
    pub announce_refresh: Duration,
}

/// How a node changes its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VipBackend {
    /// In the kernel where this process may (`CAP_NET_ADMIN` and `CAP_NET_RAW`); otherwise a dry run, said loudly.
    Auto,
    /// In the kernel; a node that may not does not start.
    Netlink,
    /// Not at all: it takes part and says what it would do.
    DryRun,
    /// The node takes no part in virtual IPs.
    Off,
}

impl VipBackend {
    /// As the file has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Netlink => "netlink",
            Self::DryRun => "dry-run",
            Self::Off => "off",
        }
    }
}

impl Vip {
    /// Everything at its default, with this backend.
    pub fn new(backend: VipBackend) -> Self {
        Self {
            backend,
            interfaces: BTreeMap::new(),
            on_take: None,
            on_release: None,
            scripts: false,
            probe_count: 2,
            probe_interval: Duration::from_millis(40),
            announce_refresh: Duration::from_secs(60),
        }
    }
}

/// Says what is wrong with it.
pub(super) fn check(vip: &Vip, unless: &mut impl FnMut(bool, &str, String)) {
    for (role, interface) in &vip.interfaces {
        let named = !interface.is_empty()
            && interface.len() <= INTERFACE_BYTES_MAX
            && !interface.contains(|c: char| c == '/' || c.is_whitespace());
        unless(
            named && !role.is_empty(),
            &format!("vip.interfaces.{role}"),
            format!(
                "{interface:?} is no name of an interface: use one that `ip link` shows, such as \"eth1\""
            ),
        );
    }
    for (key, program) in [("vip.on_take", &vip.on_take), ("vip.on_release", &vip.on_release)] {
        let Some(program) = program else { continue };
        unless(
            program.is_absolute() && program.is_file(),
            key,
            format!("there is no program {}: give the whole path of a file", program.display()),
        );
    }
    unless(
        (1..=10).contains(&vip.probe_count),
        "vip.probe_count",
        format!("{} is no number of questions: use 1 to 10", vip.probe_count),
    );
    let intervals = Duration::from_millis(10)..=Duration::from_secs(1);
    unless(
        intervals.contains(&vip.probe_interval),
        "vip.probe_interval",
        format!("{:?} is no pause between questions: use 10ms to 1s", vip.probe_interval),
    );
    unless(
        vip.announce_refresh >= Duration::from_secs(1),
        "vip.announce_refresh",
        format!("{:?} is too short: use 1s or more", vip.announce_refresh),
    );
}
