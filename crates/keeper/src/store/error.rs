//! Why a data directory cannot be opened.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be opened. Nothing in it was changed, but for leftover temporary files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another server uses it.
    #[error(
        "the data directory {} is in use by process {pid}: stop that server or give this one a directory of its own",
        dir.display()
    )]
    Locked {
        /// The data directory.
        dir: PathBuf,
        /// The process that holds it, as it wrote itself down.
        pid: String,
    },

    /// The operating system refused.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried, to be read after "failed to".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },

    /// A file says something that was never written: its bytes changed afterwards.
    #[error("{} is damaged at offset {offset}: {problem}; {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong.
        problem: String,
        /// What to do.
        remedy: String,
    },

    /// A file that must be there is not.
    #[error("{} is missing: {problem}; put it back, or restore the whole data directory from a backup", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// How that is known.
        problem: String,
    },

    /// A file was written by another version of this program.
    #[error(
        "{} has format version {found}, and this program reads version {supported}: start the version that wrote it",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        supported: u32,
    },
}

impl OpenError {
    /// For `map_err`.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// A format that is not ours.
    pub(super) fn version(path: &Path, found: u32, supported: u32) -> Self {
        Self::Version { path: path.to_owned(), found, supported }
    }

    /// Damage that only a backup repairs.
    pub(super) fn damaged(path: &Path, offset: u64, problem: impl Into<String>) -> Self {
        let remedy = "restore the data directory from a backup (and check the disk)".to_owned();
        Self::Damaged { path: path.to_owned(), offset, problem: problem.into(), remedy }
    }
}
