//! What this node knows: one value, published as it changes. What people read is made from it by [`page`](crate::page()).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proto::NodeId;
use proto::vip::{ConfigText, Drained, NodeReport, ServiceName, VipEvent};

use crate::config::Config;
use crate::store::{Assignment, Holder, Term};

/// Events that are kept.
pub const EVENTS_MAX: usize = 256;

/// What this node knows.
#[derive(Clone, Debug)]
pub struct View {
    /// The node.
    pub node: NodeId,
    /// When this was made, in milliseconds since 1970.
    pub as_of_ms: u64,
    /// Whether there is a session with the coordination service. Without one, all but `own` and `events` is as it was last
    /// seen.
    pub connected: bool,
    /// Whether the configuration was seen since this node's start. Before that, that there is none in here says nothing.
    pub known: bool,
    /// Whether this node leads and may act.
    pub leads: bool,
    /// The configuration as it was applied.
    pub text: Arc<ConfigText>,
    /// The same, parsed.
    pub config: Arc<Config>,
    /// Why the applied text is not followed, if it is not; `config` is then the last one that was.
    pub config_trouble: Option<String>,
    /// Services that this node's lease is too short for (see [`check_timing`](crate::check_timing)), each with the sentence
    /// that says so.
    pub timing_trouble: BTreeMap<ServiceName, String>,
    /// Nodes that are to hold nothing.
    pub drained: BTreeMap<NodeId, Drained>,
    /// What the other nodes say of themselves, this one's as it was written included.
    pub reports: BTreeMap<NodeId, NodeReport>,
    /// What this node says of itself.
    pub own: NodeReport,
    /// Each service's documents.
    pub services: BTreeMap<ServiceName, Documents>,
    /// What happened here lately, oldest first; at most [`EVENTS_MAX`].
    pub events: VecDeque<VipEvent>,
}

/// What the coordination service says of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// Who is to hold it.
    pub assignment: Option<Assignment>,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// What is known of the last one who did.
    pub term: Option<Term>,
}
