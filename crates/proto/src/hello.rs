//! The first frame in each direction on every connection, before any tarpc frame.

use serde::{Deserialize, Serialize};

use crate::{ClusterId, NodeId};

/// Version of this protocol. Peers of different versions say so and part.
pub const PROTOCOL: u32 = 1;

/// First bytes of every hello, so that a stranger on the port is told apart from an old peer.
pub const MAGIC: &str = "taskd";

/// Which service the connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// [`RunnerRpc`](crate::runner::RunnerRpc)
    Runner,
    /// [`LeaderRpc`](crate::leader::LeaderRpc)
    Leader,
    /// [`Api`](crate::api::Api)
    Api,
}

/// What the connecting side says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Always [`MAGIC`].
    pub magic: String,
    /// The caller's [`PROTOCOL`].
    pub protocol: u32,
    /// The caller's release, for people.
    pub version: String,
    /// The service it wants.
    pub service: Service,
    /// The cluster it belongs to; a plain client has none and is welcome in any.
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    /// The calling node, if it is one.
    #[serde(default)]
    pub node: Option<NodeId>,
}

/// What the listening side answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Welcome {
    /// The service follows.
    Accepted {
        /// Always [`MAGIC`].
        magic: String,
        /// The listener's [`PROTOCOL`].
        protocol: u32,
        /// The listener's release, for people.
        version: String,
        /// The listening node.
        node: NodeId,
        /// Its cluster, once it has joined one.
        cluster: Option<ClusterId>,
    },
    /// The connection ends here.
    Refused {
        /// Always [`MAGIC`].
        magic: String,
        /// Why, and what to do.
        reason: String,
    },
}
