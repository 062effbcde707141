//! What can go wrong with a session and a call on it.

use std::io;
use std::time::Duration;

use crate::{Ended, InvalidOptions, SessionId};

/// No session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The options cannot work.
    #[error("the coordination settings are wrong")]
    Options(#[from] InvalidOptions),
    /// The client's thread could not be started.
    #[error("failed to start a thread for the ZooKeeper client")]
    Thread(#[source] io::Error),
    /// Nobody answered.
    #[error(
        "no session with ZooKeeper at {hosts} within {within:?}: check that a quorum of it runs and is reachable from here"
    )]
    Unreachable {
        /// Who was asked.
        hosts: String,
        /// For how long.
        within: Duration,
    },
    /// The credentials were refused.
    #[error("ZooKeeper at {hosts} refused the credentials: check coordination.auth")]
    AuthFailed {
        /// Who refused.
        hosts: String,
    },
    /// The server grants less than was asked for, and no lease could hold in it.
    #[error(
        "ZooKeeper at {hosts} grants a session timeout of {granted:?}, which the lease margin of {margin:?} uses up: \
         raise its maxSessionTimeout, or set coordination's tick and margin to what it has"
    )]
    TimeoutTooShort {
        /// Who granted it.
        hosts: String,
        /// The negotiated session timeout.
        granted: Duration,
        /// The configured margin.
        margin: Duration,
    },
    /// Anything else the client reports.
    #[error("no session with ZooKeeper at {hosts}: {reason}")]
    Other {
        /// Who was asked.
        hosts: String,
        /// The client's words.
        reason: String,
    },
}

impl ConnectError {
    /// Whether another try can help without somebody changing something.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Thread(_))
    }
}

/// The server did not confirm the close in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ZooKeeper did not confirm the close of session {session} within {within:?}: it expires by itself")]
pub struct CloseError {
    /// The session.
    pub session: SessionId,
    /// How long it was waited for.
    pub within: Duration,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to {operation} {path}: {failure}")]
pub struct CallError {
    /// What was tried.
    pub operation: &'static str,
    /// On which path.
    pub path: String,
    /// Why it failed.
    pub failure: CallFailure,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// ZooKeeper did not answer in time.
    #[error("no answer from ZooKeeper within {0:?}")]
    Deadline(Duration),
    /// The session is over.
    #[error("{0}")]
    Ended(Ended),
    /// There is no such node.
    #[error("there is no such node")]
    NoNode,
    /// The node is somebody else's.
    #[error("not permitted: check coordination.auth against the node's ACL")]
    NoAuth,
    /// Anything else the server or client reports.
    #[error("{0}")]
    Other(String),
}
