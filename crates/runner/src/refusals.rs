//! Attempts that this node has answered "unknown" or "gone" for, and so must never run: a start that was delayed on its
//! way is refused. On disk before the answer leaves.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use proto::AttemptId;

use crate::store::parse;

/// Entries of one file; two files are kept. Older starts name an older life of this node and are refused for that.
const ENTRIES_MAX: usize = 32_768;

/// What is refused, in memory.
#[derive(Debug)]
pub(crate) struct Refusals {
    known: HashSet<AttemptId>,
    /// Those of them that are on disk.
    durable: HashSet<AttemptId>,
    order: VecDeque<AttemptId>,
    log: Arc<Log>,
}

impl Refusals {
    /// Reads both files.
    pub(crate) fn load(dir: &Path) -> io::Result<Self> {
        let log = Log { dir: dir.to_owned(), count: Mutex::new(0) };
        let (previous, current) = (entries(&log.previous())?, entries(&log.current())?);
        *log.count.lock().unwrap_or_else(PoisonError::into_inner) = current.len();
        let order: VecDeque<AttemptId> = previous.into_iter().chain(current).collect();
        let known: HashSet<AttemptId> = order.iter().copied().collect();
        Ok(Self { durable: known.clone(), known, order, log: Arc::new(log) })
    }

    pub(crate) fn contains(&self, attempt: AttemptId) -> bool {
        self.known.contains(&attempt)
    }

    /// Refuses from now on. Returns what must run, off the loop, before anybody is told so; none if all are on disk.
    pub(crate) fn add(
        &mut self,
        attempts: &[AttemptId],
    ) -> Option<impl FnOnce() -> io::Result<()> + Send + use<>> {
        let new = attempts.iter().copied().filter(|attempt| self.known.insert(*attempt));
        self.order.extend(new);
        while self.order.len() > 2 * ENTRIES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.known.remove(&oldest);
                self.durable.remove(&oldest);
            }
        }
        let log = Arc::clone(&self.log);
        let write: Vec<_> =
            attempts.iter().copied().filter(|attempt| !self.durable.contains(attempt)).collect();
        (!write.is_empty()).then_some(move || log.append(&write))
    }

    /// These are on disk. What could not be written stays refused until a restart, and nobody was told more.
    pub(crate) fn written(&mut self, attempts: &[AttemptId]) {
        let known = &self.known;
        self.durable.extend(attempts.iter().filter(|attempt| known.contains(attempt)));
    }
}

#[derive(Debug)]
struct Log {
    dir: PathBuf,
    /// Entries of the current file.
    count: Mutex<usize>,
}

impl Log {
    fn current(&self) -> PathBuf {
        self.dir.join("current")
    }

    fn previous(&self) -> PathBuf {
        self.dir.join("previous")
    }

    fn append(&self, attempts: &[AttemptId]) -> io::Result<()> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        if *count >= ENTRIES_MAX {
            fs::rename(self.current(), self.previous())?;
            *count = 0;
        }
        let mut file = File::options().create(true).append(true).open(self.current())?;
        // A line that was cut short must not swallow the next one.
        let lines = attempts.iter().map(|attempt| format!("{attempt}\n"));
        let text: String = std::iter::once("\n".to_owned()).chain(lines).collect();
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        if *count == 0 {
            File::open(&self.dir)?.sync_all()?;
        }
        *count += attempts.len();
        Ok(())
    }
}

fn entries(path: &Path) -> io::Result<Vec<AttemptId>> {
    match fs::read(path) {
        // What a crash cut short or garbled was never answered for.
        Ok(text) => Ok(String::from_utf8_lossy(&text).lines().filter_map(parse).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(n: usize) -> AttemptId {
        AttemptId { task: proto::TaskId::from_u128(n as u128), number: 1 }
    }

    #[test]
    fn refusals_survive_and_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut refusals = Refusals::load(dir.path()).unwrap();
        for batch in (0..3 * ENTRIES_MAX).collect::<Vec<_>>().chunks(ENTRIES_MAX / 2) {
            let batch: Vec<_> = batch.iter().map(|n| attempt(*n)).collect();
            refusals.add(&batch).unwrap()().unwrap();
            refusals.written(&batch);
            assert!(refusals.add(&batch).is_none(), "known already");
        }
        let loaded = Refusals::load(dir.path()).unwrap();
        for refusals in [&refusals, &loaded] {
            assert!(
                refusals.contains(attempt(3 * ENTRIES_MAX - 1)) && refusals.contains(attempt(ENTRIES_MAX))
            );
            assert!(!refusals.contains(attempt(0)) && refusals.order.len() <= 2 * ENTRIES_MAX);
        }
    }

    #[test]
    fn what_a_crash_cut_short_swallows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = attempt(1).to_string();
        for torn in [&text.as_bytes()[..text.len() - 3], b"\xff\xff"] {
            fs::write(dir.path().join("current"), torn).unwrap();
            let mut refusals = Refusals::load(dir.path()).unwrap();
            refusals.add(&[attempt(2)]).unwrap()().unwrap();
            let loaded = Refusals::load(dir.path()).unwrap();
            assert!(loaded.contains(attempt(2)) && !loaded.contains(attempt(1)));
        }
    }

    #[test]
    fn a_refusal_that_was_not_written_is_written_when_it_is_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut refusals = Refusals::load(dir.path()).unwrap();
        drop(refusals.add(&[attempt(1)]));
        assert!(refusals.contains(attempt(1)));
        assert!(!Refusals::load(dir.path()).unwrap().contains(attempt(1)));
        refusals.add(&[attempt(1)]).unwrap()().unwrap();
        assert!(Refusals::load(dir.path()).unwrap().contains(attempt(1)));
    }
}
