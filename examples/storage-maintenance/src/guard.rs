//! The token file of a volume: whoever writes to it shows a token, and whoever shows a lower one than the file has is
//! refused.
//!
//! taskd sees to it that no two attempts of a task, and no two tasks with the same lock, run at a time. One case is beyond
//! it: a whole machine that is paused, given up, and resumed. What it had begun goes on as if nothing had happened, beside its
//! successor. Only the storage itself can tell them apart.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use taskd::proto::{ClusterId, Epoch, TaskId};
use taskd::service::{Context, TaskError, Token};

use crate::volume::OWN;

/// How long the file's lock may be taken: it is held for moments.
const LOCKED_MAX: Duration = Duration::from_secs(5);

/// The right to write to a volume, as long as nobody with a higher token has taken it.
#[derive(Debug)]
pub(crate) struct Guard {
    dir: PathBuf,
    shown: Shown,
}

/// What the file has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Shown {
    cluster: ClusterId,
    epoch: Epoch,
    task: TaskId,
    attempt: u32,
}

impl Shown {
    /// Whether `self` may take a volume that `last` has taken.
    fn may_follow(&self, last: &Shown) -> Result<(), TaskError> {
        if self.cluster != last.cluster {
            return Err(TaskError::permanent(format!(
                "the volume belongs to cluster {}: remove its {OWN}/token.json if that is no more",
                last.cluster
            )));
        }
        // Between tasks under one epoch their lock is the order: that one of them begins means that the other has ended.
        let stale = self.epoch < last.epoch
            || self.epoch == last.epoch && self.task == last.task && self.attempt < last.attempt;
        if stale {
            return Err(TaskError::retryable(format!(
                "a higher token has been shown: epoch {}, attempt {} of {}",
                last.epoch.0, last.attempt, last.task
            )));
        }
        Ok(())
    }
}

impl Guard {
    /// Takes the volume for an attempt that has the right to run.
    pub(crate) fn take(volume: &Path, context: &Context) -> Result<Self, TaskError> {
        if context.right_left().is_zero() {
            return Err(TaskError::retryable("this node has lost the right to run the attempt"));
        }
        Self::show(volume, context.token())
    }

    /// Shows a token, and takes the volume if it is not a lower one.
    pub(crate) fn show(volume: &Path, token: Token) -> Result<Self, TaskError> {
        let dir = volume.join(OWN);
        fs::create_dir_all(&dir)?;
        let shown = Shown {
            cluster: token.leader.cluster,
            epoch: token.epoch(),
            task: token.attempt.task,
            attempt: token.attempt.number,
        };
        let guard = Self { dir, shown };
        let _locked = guard.lock()?;
        if let Some(last) = guard.last()? {
            guard.shown.may_follow(&last)?;
        }
        write(&guard.dir.join("token.json"), &guard.shown)?;
        Ok(guard)
    }

    /// Does what others will see, if the volume is still ours. Short: those who want to take it wait meanwhile.
    pub(crate) fn publish<T>(&self, work: impl FnOnce() -> std::io::Result<T>) -> Result<T, TaskError> {
        let _locked = self.lock()?;
        match self.last()? {
            Some(last) if last == self.shown => Ok(work()?),
            last => Err(TaskError::retryable(format!("the volume was taken by somebody else: {last:?}"))),
        }
    }

    fn last(&self) -> Result<Option<Shown>, TaskError> {
        match fs::read(self.dir.join("token.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Blocks: call it where that is allowed. The lock is the operating system's, and ends with the process.
    fn lock(&self) -> Result<File, TaskError> {
        let file = File::create(self.dir.join("token.lock"))?;
        let give_up = Instant::now() + LOCKED_MAX;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(fs::TryLockError::Error(error)) => return Err(error.into()),
                Err(fs::TryLockError::WouldBlock) if Instant::now() >= give_up => {
                    return Err(TaskError::retryable("somebody keeps the volume's token locked"));
                }
                Err(fs::TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Writes a file as JSON: others see the old content or the new.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use taskd::proto::{AttemptId, FencingToken};

    use super::*;

    fn token(epoch: u64, task: u128, number: u32) -> Token {
        Token {
            leader: FencingToken { cluster: ClusterId::from_u128(1), epoch: Epoch(epoch) },
            attempt: AttemptId { task: TaskId::from_u128(task), number },
        }
    }

    #[test]
    fn the_higher_token_wins() {
        let volume = tempfile::tempdir().unwrap();
        let show = |token| Guard::show(volume.path(), token);
        let first = show(token(5, 1, 1)).unwrap();
        first.publish(|| Ok(())).unwrap();
        let second = show(token(5, 1, 2)).unwrap();
        let gone = first.publish(|| Ok(())).unwrap_err();
        assert!(gone.to_string().contains("taken by somebody else"), "{gone}");
        for stale in [token(5, 1, 1), token(4, 2, 9)] {
            let refused = show(stale).unwrap_err();
            assert!(refused.to_string().contains("a higher token has been shown: epoch 5"), "{refused}");
        }
        second.publish(|| Ok(())).unwrap();
        // Another task under the same epoch had to wait for the lock; and a new leader's are above all.
        show(token(5, 2, 1)).unwrap();
        show(token(6, 1, 1)).unwrap();
        let mut foreign = token(7, 1, 1);
        foreign.leader.cluster = ClusterId::from_u128(2);
        assert!(show(foreign).unwrap_err().is_permanent());
    }
}
