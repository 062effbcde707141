//! A node's directory: locked by one daemon at a time.
//!
//! ```text
//! <data_dir>/lock           held (flock) while the daemon lives; the kernel frees it with the process
//!            machine-id     which machine the directory belongs to
//!            identity.json  what the node's session in ZooKeeper owned, fsynced before it was created
//!            runner/        attempts, output, spooled outcomes
//!            keeper/        the embedded coordination service's log and snapshots, if this node has one
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another daemon has it.
    #[error(
        "{path} is in use by another taskd (its process id is in that file): stop that one, or use another --data-dir"
    )]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The directory was copied from another machine.
    #[error(
        "{path} belongs to another machine: this looks like a copied disk. Start with an empty --data-dir, and never run two nodes with one id"
    )]
    OtherMachine {
        /// The file that says so.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("failed to {action} {path}: check that it exists and that taskd may write there")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A locked data directory. The lock ends with the value or with the process.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    machine_id: String,
    _lock: Flock<File>,
}

impl DataDir {
    /// Creates what is missing and takes the lock.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { action, path, source }
        };
        fs::create_dir_all(path).map_err(failed("create", path))?;
        let path = fs::canonicalize(path).map_err(failed("resolve", path))?;
        let lock_path = path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock)
            .map_err(|_| DataDirError::InUse { path: lock_path.clone() })?;
        let note = format!("{}\n", std::process::id());
        lock.set_len(0)
            .and_then(|()| lock.write_all(note.as_bytes()))
            .map_err(failed("write to", &lock_path))?;
        let machine_id = claim_machine(&path)?;
        Ok(Self { path, machine_id, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which machine this is, as far as it can be told.
    pub(crate) fn machine_id(&self) -> &str {
        &self.machine_id
    }
}

/// Writes down which machine owns the directory, or checks it.
fn claim_machine(path: &Path) -> Result<String, DataDirError> {
    let here = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    claim_for(path, here.trim())
}

fn claim_for(path: &Path, here: &str) -> Result<String, DataDirError> {
    let file = path.join("machine-id");
    let recorded = match fs::read_to_string(&file) {
        Ok(recorded) => recorded.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(DataDirError::Io { action: "read", path: file, source }),
    };
    // A machine without an id (a bare container) cannot be told from another one.
    if !here.is_empty() && !recorded.is_empty() && recorded != here {
        return Err(DataDirError::OtherMachine { path: file });
    }
    if !recorded.is_empty() || here.is_empty() {
        return Ok(recorded);
    }
    // Whole or not at all: half an id, left by a crash, would be another machine's for ever.
    let new = path.join("machine-id.new");
    let write = || {
        let mut written = File::create(&new)?;
        written.write_all(here.as_bytes())?;
        written.sync_all()?;
        fs::rename(&new, &file)?;
        File::open(path)?.sync_all()
    };
    write().map_err(|source| DataDirError::Io { action: "write", path: file.clone(), source })?;
    Ok(here.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(&dir.path().join("n1")).unwrap();
        let second = DataDir::open(&dir.path().join("n1")).unwrap_err();
        assert!(second.to_string().contains("another taskd"), "{second}");
        drop(first);
        DataDir::open(&dir.path().join("n1")).expect("the lock ends with its holder");
    }

    #[test]
    fn a_copied_disk_is_refused_and_an_unfinished_claim_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("machine-id");
        // Left empty by a crash, or taken when the machine had no id yet.
        fs::write(&file, "").unwrap();
        assert_eq!(claim_for(dir.path(), "").unwrap(), "");
        assert_eq!(claim_for(dir.path(), "f00d").unwrap(), "f00d");
        assert_eq!(fs::read_to_string(&file).unwrap(), "f00d", "from now on it belongs to that machine");
        assert_eq!(claim_for(dir.path(), "").unwrap(), "f00d");
        let error = claim_for(dir.path(), "beef").unwrap_err();
        assert!(error.to_string().contains("another machine"), "{error}");
    }
}
