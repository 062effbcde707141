//! What can go wrong in a transition.

use std::io;
use std::path::PathBuf;

use crate::net::NetError;

/// Addresses of an earlier life may still be there. Nothing of this one was started.
#[derive(Debug, thiserror::Error)]
pub enum CleanFailure {
    /// It was told to give up.
    #[error("the cleaning was cancelled")]
    Cancelled,
    /// The kernel does not do its part.
    #[error("the virtual IPs of an earlier life cannot be looked for or removed: {0}")]
    Net(#[from] NetError),
    /// The disk does not do its part.
    #[error("cannot {what} under {}", dir.display())]
    Disk {
        /// What was tried.
        what: &'static str,
        /// Where.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
}
