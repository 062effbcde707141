//! What goes wrong before a node runs, and when it is asked for something.

use std::io;
use std::time::Duration;

use coord::{CallError, ConnectError, WriteError};
use proto::{ClusterId, NodeId};

/// No session came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// The deadline has passed, or trying again is pointless.
    #[error("failed to connect to ZooKeeper within {within:?}")]
    Failed {
        /// How long it was tried.
        within: Duration,
        /// The last try's failure.
        #[source]
        source: ConnectError,
    },
    /// Asked to stop.
    #[error("connecting was cancelled")]
    Cancelled,
}

/// The node did not join. What it had created is gone again, or goes with its session, which was closed.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// The deadline has passed, or trying again is pointless.
    #[error("failed to join the cluster within {within:?}")]
    Failed {
        /// How long it was tried.
        within: Duration,
        /// The last try's failure.
        #[source]
        source: JoinError,
    },
    /// Asked to stop.
    #[error("joining was cancelled")]
    Cancelled,
}

impl JoinFailure {
    /// Whether the node and the ensemble are not of the same cluster: a person has to decide.
    pub fn is_foreign_cluster(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if !source.is_transient())
    }
}

/// Why one attempt to join failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A write failed.
    #[error("failed to write {what}")]
    Write {
        /// What was written.
        what: String,
        /// Why not.
        #[source]
        source: WriteError,
    },
    /// The identity could not be read or made durable.
    #[error("failed to keep this node's identity in its data directory")]
    Identity(#[source] io::Error),
    /// Another cluster lives there.
    #[error(
        "this node belongs to cluster {expected}, but {path} is cluster {found}: check the coordination hosts and \
         root; if the node is to move to that cluster, wipe its data directory; if the ensemble was replaced by \
         mistake, restore it"
    )]
    Foreign {
        /// The node's.
        expected: ClusterId,
        /// The ensemble's.
        found: ClusterId,
        /// Where.
        path: String,
    },
    /// Its cluster is gone.
    #[error(
        "this node belongs to cluster {expected}, but {path} does not exist: the ensemble was wiped or the root is \
         another; restore the ensemble's data, or, to start over without it, wipe the data directory of every node"
    )]
    Wiped {
        /// The node's.
        expected: ClusterId,
        /// Where.
        path: String,
    },
    /// A cluster of another release.
    #[error(
        "{path} has format {found}, this release of taskd understands {}: run the release that the other nodes run",
        crate::record::FORMAT
    )]
    Format {
        /// The ensemble's.
        found: u32,
        /// Where.
        path: String,
    },
    /// Not what it should be.
    #[error(
        "{path} holds something else than taskd's data: {reason}; is the root shared with another program?"
    )]
    Garbage {
        /// Where.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No lease could ever hold.
    #[error(
        "ZooKeeper agreed to a session timeout of {negotiated:?} only, which is not more than the lease margin of \
         {margin:?}: raise maxSessionTimeout on the servers, or lower their tickTime and the configured margin"
    )]
    TimeoutTooShort {
        /// The server's.
        negotiated: Duration,
        /// Ours.
        margin: Duration,
    },
    /// One attempt took too long.
    #[error("no end within {0:?}")]
    Deadline(Duration),
    /// Asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl JoinError {
    /// Whether another try can help without somebody changing something.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(error) => error.is_transient(),
            Self::Call(_) | Self::Write { .. } | Self::Deadline(_) | Self::Cancelled => true,
            Self::Identity(_)
            | Self::Foreign { .. }
            | Self::Wiped { .. }
            | Self::Format { .. }
            | Self::Garbage { .. }
            | Self::TimeoutTooShort { .. } => false,
        }
    }
}

/// A priority that was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriorityError {
    /// Neither a member nor known from before.
    #[error("{node} is not a member of this cluster; members are {members}")]
    NoSuchNode {
        /// The node.
        node: NodeId,
        /// Who is.
        members: String,
    },
    /// Others write it all the time.
    #[error("the priorities were changed by somebody else at the same time: look, and try again")]
    Contended,
    /// It may have been set or not.
    #[error("it is not known whether the priority was set: {0}")]
    Unknown(String),
    /// Nothing was set.
    #[error("the priority was not set: {0}")]
    Failed(String),
    /// This node's quorum has stopped.
    #[error("this node is stopping")]
    Stopped,
}
