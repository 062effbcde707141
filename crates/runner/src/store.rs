//! The runner's directory:
//!
//! ```text
//! <data_dir>/runner/
//!     lock                          held by the daemon that owns the rest
//!     incarnations.json             the machine, the lives of its daemon, which of them left nothing behind
//!     attempts/<task>.<n>/          start.json shim.json ctl out.* work/, and exit.json: the spooled outcome
//!                                   … which becomes done.json when a leader has acknowledged it
//!     removed/                      attempts that are being removed
//!     refused/{current,previous}    attempts that this node has given up for ever
//! ```

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::runner::Outcome;
use proto::{AttemptId, Incarnation};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::shim::capture::Capture;

/// The daemon's order to the shim.
pub(crate) const START: &str = "start.json";
/// What an order becomes that has been called off.
pub(crate) const CALLED_OFF: &str = "start.called-off";
/// The processes of the attempt.
pub(crate) const SHIM_STATE: &str = "shim.json";
/// The shim's socket.
pub(crate) const SOCKET: &str = "ctl";
/// The outcome that no leader has acknowledged.
pub(crate) const EXIT: &str = "exit.json";
/// The outcome that one has.
pub(crate) const DONE: &str = "done.json";
/// What the task reads from its standard input.
pub(crate) const STDIN: &str = "stdin";
/// Why its program could not be executed.
pub(crate) const UNFIT: &str = "unfit";
/// The working directory of a task that names none.
pub(crate) const WORK: &str = "work";

/// Room for the record of an end.
const RECORD_BYTES: usize = 4096;

/// Lives that are remembered.
const HISTORY_MAX: usize = 64;

/// Writes atomically: readers see the old content or the new.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec(value)?)?;
    fs::rename(temporary, path)
}

/// Writes atomically, and has it on disk when it returns.
pub(crate) fn write_durably(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let bytes = serde_json::to_vec(value)?;
    // Not truncated first: that would give away what was reserved.
    let mut file = File::options().write(true).create(true).truncate(false).open(&temporary)?;
    file.write_all(&bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Takes the room that [`write_durably`] will need there: a disk that fills up meanwhile must not cost the record.
pub(crate) fn reserve(path: &Path) -> io::Result<()> {
    fs::write(path.with_extension("tmp"), [b' '; RECORD_BYTES])
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let parsed = fs::read(path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
    // People have to know which file it is.
    parsed.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// None if it is not there, or no whole value: files that are not on disk when the machine loses power come back empty.
pub(crate) fn read_whole<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match read(path) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            tracing::warn!(%error, "a file is garbled: going on as if it were not there");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `incarnations.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lives {
    pub(crate) machine_id: String,
    /// Oldest first; the last is the present one.
    pub(crate) history: Vec<Incarnation>,
    /// Those of them whose leftovers are all ended.
    pub(crate) ended: Vec<Incarnation>,
}

impl Lives {
    /// The record with a new life, and whether what lies in the directory was left by this very machine: a copied
    /// disk's twin may still run.
    pub(crate) fn begin(old: Option<Lives>, machine_id: &str, incarnation: Incarnation) -> (Lives, bool) {
        let (mut lives, ours) = match old {
            Some(old) if old.machine_id == machine_id => (old, true),
            other => {
                let machine_id = machine_id.to_owned();
                (Lives { machine_id, history: Vec::new(), ended: Vec::new() }, other.is_none())
            }
        };
        lives.history.retain(|life| *life != incarnation);
        lives.history.push(incarnation);
        let surplus = lives.history.len().saturating_sub(HISTORY_MAX);
        lives.history.drain(..surplus);
        lives.ended.retain(|life| lives.history.contains(life) && *life != incarnation);
        (lives, ours)
    }

    /// Every earlier life has left nothing.
    pub(crate) fn end_predecessors(&mut self) {
        self.ended = self.history.iter().rev().skip(1).rev().copied().collect();
    }
}

/// Paths under the runner's directory, and the right to use them: the directory is free when the last clone is gone, so
/// that whoever works on the disk holds one until it is done, though nobody may wait for it any more.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
    _lock: Arc<File>,
}

impl Store {
    /// Creates what is missing, readable by the owner alone, and takes the lock.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, OpenError> {
        let root = data_dir.join("runner");
        let create = |dir| DirBuilder::new().recursive(true).mode(0o700).create(dir);
        create(root.clone())?;
        // One name in every life: processes carry it, and the shim's working directory is another.
        let root = root.canonicalize()?;
        let lock = File::create(root.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::InUse),
            Err(fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        let store = Self { root, _lock: Arc::new(lock) };
        absent_is_fine(fs::remove_dir_all(store.removed()))?;
        for dir in [store.attempts(), store.refused(), store.removed()] {
            create(dir)?;
        }
        Ok(store)
    }

    pub(crate) fn lives(&self) -> PathBuf {
        self.root.join("incarnations.json")
    }

    pub(crate) fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    pub(crate) fn refused(&self) -> PathBuf {
        self.root.join("refused")
    }

    fn removed(&self) -> PathBuf {
        self.root.join("removed")
    }

    pub(crate) fn attempt(&self, attempt: AttemptId) -> PathBuf {
        self.attempts().join(attempt.to_string())
    }

    /// Attempts that have a directory.
    pub(crate) fn list(&self) -> io::Result<Vec<AttemptId>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.attempts())? {
            found.extend(entry?.file_name().to_str().and_then(parse));
        }
        Ok(found)
    }

    /// The outcome of an attempt, and whether a leader has acknowledged it.
    pub(crate) fn outcome(&self, attempt: AttemptId) -> io::Result<Option<(Outcome, bool)>> {
        for (name, acknowledged) in [(EXIT, false), (DONE, true)] {
            if let Some(outcome) = read_whole(&self.attempt(attempt).join(name))? {
                return Ok(Some((outcome, acknowledged)));
            }
        }
        Ok(None)
    }

    /// Notes that a leader has the outcome; of the rest only the output is kept. A crash may undo the note: the
    /// outcome is then reported, and acknowledged, once more.
    pub(crate) fn acknowledge(&self, attempt: AttemptId) -> io::Result<()> {
        let dir = self.attempt(attempt);
        match fs::rename(dir.join(EXIT), dir.join(DONE)) {
            // Its record could not be written: left like this, the next life would report it as lost.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.forget(attempt),
            renamed => renamed?,
        }
        let _ = fs::remove_dir_all(dir.join(WORK));
        for name in [SOCKET, START, CALLED_OFF, SHIM_STATE, STDIN, UNFIT] {
            let _ = fs::remove_file(dir.join(name));
        }
        Ok(())
    }

    /// Keeps what work inside the daemon has put out, with its outcome; returns how many bytes that takes. The directory
    /// appears whole: one that a crash left without an outcome would be reported as lost.
    pub(crate) fn keep(&self, outcome: &Outcome, output: &[u8], bytes_max: u64) -> io::Result<u64> {
        let staging = self.removed().join(format!("{}.kept", outcome.attempt));
        absent_is_fine(fs::remove_dir_all(&staging))?;
        DirBuilder::new().mode(0o700).create(&staging)?;
        let mut capture = Capture::new(&staging, bytes_max);
        capture.write(output);
        write_durably(&staging.join(EXIT), outcome)?;
        fs::rename(staging, self.attempt(outcome.attempt))?;
        File::open(self.attempts())?.sync_all()?;
        Ok((output.len() as u64).min(bytes_max))
    }

    /// Removes what is left of an attempt. Out of sight first: a directory that a crash left half removed would look like
    /// an attempt without an end, and be reported as lost.
    pub(crate) fn forget(&self, attempt: AttemptId) -> io::Result<()> {
        let removed = self.removed().join(attempt.to_string());
        absent_is_fine(fs::remove_dir_all(&removed))?;
        absent_is_fine(fs::rename(self.attempt(attempt), &removed))?;
        absent_is_fine(fs::remove_dir_all(removed))
    }
}

pub(crate) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Why the directory cannot be had.
#[derive(Debug)]
pub(crate) enum OpenError {
    InUse,
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The inverse of an attempt's `Display`.
pub(crate) fn parse(name: &str) -> Option<AttemptId> {
    let (task, number) = name.split_once('.')?;
    Some(AttemptId { task: task.parse().ok()?, number: number.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn life(n: u128) -> Incarnation {
        Incarnation::from_u128(n)
    }

    #[test]
    fn lives_follow_each_other_on_one_machine() {
        let (first, ours) = Lives::begin(None, "m", life(1));
        assert!(ours && first.ended.is_empty());
        let (mut second, ours) = Lives::begin(Some(first), "m", life(2));
        assert!(ours && second.ended.is_empty(), "nothing is claimed before it is done");
        second.end_predecessors();
        assert_eq!(
            (second.history.as_slice(), second.ended.as_slice()),
            (&[life(1), life(2)][..], &[life(1)][..])
        );
    }

    #[test]
    fn what_is_reserved_is_what_is_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EXIT);
        reserve(&path).unwrap();
        let reserved = fs::metadata(path.with_extension("tmp")).unwrap();
        assert_eq!(reserved.len(), RECORD_BYTES as u64);
        write_durably(&path, &"short").unwrap();
        assert_eq!(read::<String>(&path).unwrap(), "short");
        let written = fs::metadata(&path).unwrap();
        assert_eq!((written.ino(), written.len()), (reserved.ino(), 7));
    }

    #[test]
    fn the_directory_is_free_when_nobody_works_on_it_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let worker = store.clone();
        drop(store);
        assert!(matches!(Store::open(dir.path()), Err(OpenError::InUse)));
        drop(worker);
        assert!(Store::open(dir.path()).is_ok());
    }

    #[test]
    fn an_attempt_is_removed_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let attempt = AttemptId { task: proto::TaskId::from_u128(1), number: 1 };
        // What a crash in the middle of an earlier removal leaves.
        fs::create_dir_all(store.removed().join(attempt.to_string()).join(WORK)).unwrap();
        fs::create_dir(store.attempt(attempt)).unwrap();
        assert_eq!(store.list().unwrap(), [attempt]);
        store.acknowledge(attempt).unwrap();
        assert_eq!(store.list().unwrap(), [], "one without a record is removed");
        let _kept = File::create(store.removed().join("file")).unwrap();
        let removed = store.removed();
        drop(store);
        let _store = Store::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(removed).unwrap().count(), 0);
    }

    #[test]
    fn a_copied_disk_claims_nothing() {
        let (first, _) = Lives::begin(None, "m", life(1));
        let (mut twin, ours) = Lives::begin(Some(first), "other", life(2));
        twin.end_predecessors();
        assert!(!ours && twin.ended.is_empty());
    }

    #[test]
    fn the_history_is_bounded() {
        let mut lives = None;
        for n in 0..200 {
            let (mut next, _) = Lives::begin(lives, "m", life(n));
            next.end_predecessors();
            lives = Some(next);
        }
        let lives = lives.unwrap();
        assert_eq!((lives.history.len(), lives.ended.len()), (HISTORY_MAX, HISTORY_MAX - 1));
    }
}
