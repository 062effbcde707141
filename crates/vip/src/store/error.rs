//! What goes wrong with documents.

use coord::{CallError, Op, Rejection, WriteError};

use super::Garbage;

/// A document was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The coordination service does not answer, or the session is over.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It answers something else.
    #[error(transparent)]
    Garbage(#[from] Garbage),
}

/// A document was not written, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What it depends on was not read; nothing was written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It was refused, or its outcome is not known.
    #[error("failed to {what}: {source}")]
    Write {
        /// What was tried, with its path.
        what: String,
        /// Why not.
        source: WriteError,
    },
    /// Others write it all the time; nothing was written.
    #[error("failed to write {path}: others were quicker each time; try again")]
    Contended {
        /// Which node.
        path: String,
    },
    /// The document would become larger than it may be.
    #[error("{path} would have {bytes} bytes, and {max} are allowed")]
    TooLarge {
        /// Which node.
        path: String,
        /// As large as it would be.
        bytes: usize,
        /// As large as it may be.
        max: usize,
    },
    /// The document would name more than it may.
    #[error(
        "{path} names {max} nodes already: take back what is over first (taskd vip list shows them, taskd vip undrain NODE)"
    )]
    TooMany {
        /// Which node.
        path: String,
        /// As many as it may name.
        max: usize,
    },
    /// Another session holds it.
    #[error(
        "{path} is held by session {owner}: an earlier life of this node, which then ends by itself, or another node of the \
         same name"
    )]
    NotOurs {
        /// Which node.
        path: String,
        /// Whose it is.
        owner: String,
    },
}

impl From<CallError> for StoreError {
    fn from(error: CallError) -> Self {
        Self::Read(error.into())
    }
}

impl From<Garbage> for StoreError {
    fn from(garbage: Garbage) -> Self {
        Self::Read(garbage.into())
    }
}

/// Tries at a compare-and-set that others win.
pub(super) const CONTENDED_MAX: usize = 8;

/// Whether it was refused because a node is not as it was read, so that reading it again helps.
pub(super) fn stale(error: &WriteError) -> bool {
    use Rejection::{BadVersion, NoNode, NodeExists, NotEmpty};
    matches!(error, WriteError::Rejected { reason: NodeExists | NoNode | BadVersion | NotEmpty, .. })
}

/// The path of the step that a write was refused for.
pub(super) fn refused<'a>(ops: &'a [Op], error: &WriteError) -> Option<&'a str> {
    match error {
        WriteError::Rejected { op, .. } => ops.get(*op).map(Op::path),
        WriteError::Unknown | WriteError::Ended(_) => None,
    }
}
