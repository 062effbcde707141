//! Virtual IPs: what nodes report, what people see and order.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Incarnation, InvalidId, NodeId};

/// The name of a service, whose addresses move together: as a node's name, a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

impl ServiceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if crate::ids::is_label(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(crate::ids::not_a_label("service name", text))
        }
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How a node's addresses are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// In the kernel.
    Netlink,
    /// Not at all: it says what it would do.
    DryRun,
}

/// What a node says of itself: the content of its ephemeral under `vip-nodes`, written only when it changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// Who.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its backend. A dry run never takes what a node with the real one could.
    pub backend: Backend,
    /// Why it only makes a dry run although its file does not ask for one, with what to do, as a clause; none where it
    /// changes addresses, and where a dry run is what its file says.
    #[serde(default)]
    pub why_dry: Option<String>,
    /// Why what it says cannot be read. Only whoever reads it says so: nothing else here is the node's own word then.
    #[serde(default)]
    pub unreadable: Option<String>,
    /// It is stopping: it takes nothing any more.
    pub stopping: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it stands with each service of the configuration.
    pub services: BTreeMap<ServiceName, LocalService>,
}

/// Where a node stands with one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalService {
    /// Why this node cannot hold it at present, as a clause ("eth1 has no carrier"); none if it can.
    pub unfit: Option<String>,
    /// What it does.
    pub phase: LocalPhase,
    /// Since when, on its wall clock, in milliseconds since 1970.
    pub since_ms: u64,
    /// What people should know of it, as a sentence.
    #[serde(default)]
    pub note: Option<String>,
    /// Who else answers for one of the addresses.
    #[serde(default)]
    pub conflict: Option<Conflict>,
}

/// What a node does for one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalPhase {
    /// Nothing.
    Idle,
    /// It has taken the service and waits until the one before it cannot have the addresses any more.
    Waiting,
    /// It asks the network whether somebody has the addresses.
    Probing,
    /// The addresses are here.
    Held,
    /// Somebody else answers for an address: it is not taken before that ends.
    Blocked,
    /// It gives the service up.
    Releasing,
}

/// Somebody else who answers for an address of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// Which address.
    pub address: IpAddr,
    /// The hardware address that answers, as `52:54:00:12:34:56`.
    pub mac: String,
    /// On which interface it was heard.
    pub interface: String,
}

/// One service as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Which.
    pub service: ServiceName,
    /// Where it stands.
    pub state: ServiceState,
    /// Its addresses with their prefixes, and the interface or role that the configuration names.
    pub vips: Vec<VipView>,
    /// Who holds it, as the coordination service says.
    pub holder: Option<NodeId>,
    /// Since when it is in this state, in milliseconds since 1970; none if that is not known.
    pub since_ms: Option<u64>,
    /// Who is to hold it, and who follows, in this order.
    pub order: Vec<NodeId>,
    /// Why that order, as a sentence.
    pub why: String,
    /// What is the matter, as a sentence, if something is.
    pub trouble: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
    /// What each node says.
    pub nodes: BTreeMap<NodeId, LocalService>,
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// The address with its prefix, `172.0.20.241/24`.
    pub address: String,
    /// Interface, or the role that nodes map to one.
    pub interface: String,
}

/// Where a service stands in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Its addresses are on one node.
    Held,
    /// A node would hold it, but only makes a dry run: its addresses are on no interface.
    DryRun,
    /// A node is taking it.
    Taking,
    /// Somebody foreign answers for an address.
    Blocked,
    /// Nobody has it.
    Down,
    /// Its configuration says that nobody is to have it.
    Disabled,
    /// The answering node has no session, so it does not know.
    Unknown,
}

/// Everything about virtual IPs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipPage {
    /// The configuration's revision; 0 = none was ever applied.
    pub revision: u64,
    /// The services, by name.
    pub services: Vec<ServiceView>,
    /// What each node says of itself.
    pub nodes: Vec<NodeReport>,
    /// Nodes that are to hold nothing.
    pub drained: BTreeMap<NodeId, Drained>,
    /// What the answering node did and saw lately, oldest first.
    pub events: Vec<VipEvent>,
    /// That node.
    #[serde(default)]
    pub answered_by: Option<NodeId>,
    /// More to know that concerns no single service, as sentences: dry runs, a node without a session.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Why a node is to hold nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// What the operator said.
    pub why: String,
}

/// Something that happened on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipEvent {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// On which service, if on one.
    pub service: Option<ServiceName>,
    /// What, as a sentence.
    pub what: String,
}

/// What people order. The leader carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VipOrder {
    /// Have a node hold a service now.
    Move {
        /// Which service.
        service: ServiceName,
        /// Where to; none = to the next one that can.
        to: Option<NodeId>,
    },
    /// Have whoever holds it give it up, and keep it off that node for the service's hold-down.
    Release {
        /// Which service.
        service: ServiceName,
    },
    /// Have a node hold nothing until [`Undrain`](Self::Undrain).
    Drain {
        /// Which node.
        node: NodeId,
        /// For those who wonder later.
        why: String,
    },
    /// Let a node hold services again.
    Undrain {
        /// Which node.
        node: NodeId,
    },
}

/// The cluster's configuration, as it was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigText {
    /// Counts applies, from 1; 0 = none was ever applied, and the text is empty.
    pub revision: u64,
    /// When, in milliseconds since 1970.
    pub applied_ms: u64,
    /// Through which node.
    pub by: Option<NodeId>,
    /// The file's text, TOML.
    pub text: String,
}

/// What an apply did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The revision that holds now.
    pub revision: u64,
    /// What differs from the one before, a line each; empty if nothing does (then the revision is the old one).
    pub changes: Vec<String>,
    /// What is allowed but worth a look, a line each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One revision of the cluster's configuration, without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigEntry {
    /// Counts applies, from 1.
    pub revision: u64,
    /// When, in milliseconds since 1970.
    pub applied_ms: u64,
    /// Through which node.
    pub by: Option<NodeId>,
    /// The text's size.
    pub bytes: u64,
}

/// Why a service is where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipWhy {
    /// The service.
    pub service: ServiceName,
    /// Where it stands.
    pub state: ServiceState,
    /// The reasons, a sentence each, the most important first.
    pub reasons: Vec<String>,
    /// The command or deed that would change it, if one would.
    #[serde(default)]
    pub remedy: Option<String>,
}
