//! What the virtual IPs of a node are given.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clock::SharedClock;
use coord::{Layout, LeaseTiming, Link, Term};
use drill::Drill;
use proto::{Incarnation, NodeId};
use pulse::Pulse;

use crate::announce::{AnnouncePolicy, Announcer, ProbePolicy};
use crate::config::Hooks;
use crate::net::Backend;

/// What the virtual IPs of a node are given.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node.
    pub node: NodeId,
    /// This life of its daemon, drawn at its start.
    pub incarnation: Incarnation,
    /// The node's directory; this crate keeps to `vips.json` in it.
    pub data_dir: PathBuf,
    /// The machine's addresses.
    pub backend: Arc<dyn Backend>,
    /// Why that is a dry run although nobody asked for one, with what to do, as a clause. Others read it.
    pub why_dry: Option<String>,
    /// The network's side of holding one.
    pub announcer: Arc<dyn Announcer>,
    /// What the node's own file says; [`Handle::facts`](crate::Handle::facts) replaces it.
    pub facts: Facts,
    /// How an address is asked for before it is taken.
    pub probe: ProbePolicy,
    /// When a held address is announced again.
    pub announce: AnnouncePolicy,
    /// CLOCK_BOOTTIME where there is a kernel: the guard reads it itself.
    pub clock: SharedClock,
    /// Seeds the ids of takes and releases.
    pub rng_seed: u64,
    /// Where whoever watches from outside sees that a task blocks a thread.
    pub pulse: Pulse,
    /// Faults that a test switches on; none by default.
    pub drill: Drill,
    /// How the guard is started, which removes the addresses when this process dies. None: there is none, and the
    /// kernel's own timer alone removes them then. A dry run needs none.
    pub guard: Option<GuardProgram>,
}

/// What a node knows of itself, from its own file; read again on SIGHUP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What the configuration's roles are called here: role to interface. A name that is no role is an interface's own.
    pub interfaces: BTreeMap<String, String>,
    /// Labels, which services may ask for.
    pub labels: BTreeMap<String, String>,
    /// Programs of this machine.
    pub hooks: Hooks,
    /// Whether checks of the cluster's configuration may run programs here, as the daemon's user.
    pub scripts: bool,
}

impl Facts {
    /// The interface that `name`, a role or an interface's own name, means on this node.
    pub fn interface<'a>(&'a self, name: &'a str) -> &'a str {
        self.interfaces.get(name).map_or(name, String::as_str)
    }
}

/// The quorum's control session, on which everything of the virtual IPs lives, so that it goes with the member node.
#[derive(Clone, Debug)]
pub struct Control {
    /// The session.
    pub link: Link,
    /// Where everything is.
    pub layout: Layout,
    /// This node's member node, without which it takes nothing.
    pub member: String,
    /// The session's timeout and what leases make of it.
    pub timing: LeaseTiming,
    /// While this node leads and may act.
    pub term: Option<Term>,
}

/// A program that runs the guard when it is started with these arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardProgram {
    /// Its file.
    pub program: PathBuf,
    /// What leads to the guard.
    pub args: Vec<String>,
}
