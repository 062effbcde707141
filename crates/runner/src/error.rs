//! What can go wrong in a transition.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::options::InvalidOptions;

/// A runner that did not boot. Whatever it had started is undone: no task of its own exists, and its directory is free.
#[derive(Debug, thiserror::Error)]
pub enum BootFailure {
    /// It was told to give up.
    #[error("the boot was cancelled")]
    Cancelled,
    /// See the message.
    #[error(transparent)]
    Options(#[from] InvalidOptions),
    /// Another daemon lives there.
    #[error("the runner's directory {} is in use by another daemon: stop that one, or use another data directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// Some processes survive SIGKILL (they hang in the kernel), so what they do may not be given to others.
    #[error(
        "{count} processes of a crashed predecessor still run after {after:?} of killing: {pids:?}; reboot the machine if they hang in the kernel"
    )]
    Leftovers {
        /// How many.
        count: usize,
        /// Some of them.
        pids: Vec<i32>,
        /// For how long it was tried.
        after: Duration,
    },
    /// The disk did not do its part.
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
