//! Scrubbing: every file is read and compared with what it was, to find what rots before it is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use taskd::proto::TaskId;
use taskd::service::{Context, Service, TaskError};

use crate::guard::{self, Guard};
use crate::volume::{self, OWN};

/// The kind of task.
pub(crate) const KIND: &str = "scrub";

/// Files between two checkpoints.
const BATCH: usize = 4;

/// What a task carries.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scrub {
    pub(crate) volume: PathBuf,
    /// A pause after each file, in milliseconds: a scrub is to disturb nobody.
    #[serde(default)]
    pub(crate) pause_ms: u64,
}

/// What it has found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files whose content changed though nobody wrote to them.
    pub(crate) damaged: Vec<PathBuf>,
}

/// How far attempts have come at least. It must stay small: what they have found is on the volume itself, with how far they
/// have come exactly, since both change in one write.
#[derive(Debug, Serialize, Deserialize)]
struct Stopped {
    behind: PathBuf,
}

/// What is known of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    crc32: u32,
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u128,
}

/// `checksums.json` of a volume.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Checksums {
    files: BTreeMap<PathBuf, Known>,
    /// The task whose scrub is under way, or was the last one.
    #[serde(default)]
    of: Option<TaskId>,
    /// The last file that it has looked at.
    #[serde(default)]
    behind: PathBuf,
    /// What it has found up to there.
    found: Found,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Scrubber;

impl Service for Scrubber {
    type Payload = Scrub;
    type Output = Found;

    async fn run(&self, context: Context, scrub: Scrub) -> Result<Found, TaskError> {
        if !scrub.volume.is_dir() {
            return Err(TaskError::permanent(format!("there is no volume {}", scrub.volume.display())));
        }
        let stopped = context.last_checkpoint::<Stopped>()?;
        let volume = Arc::new(scrub.volume);
        let begin = {
            let (volume, context) = (Arc::clone(&volume), context.clone());
            move || {
                let guard = Guard::take(&volume, &context)?;
                Ok((guard, volume::files(&volume)?, read(&volume)?))
            }
        };
        let (guard, files, mut sums) = context.blocking(begin).await?;
        let guard = Arc::new(guard);
        let first = match &stopped {
            // An attempt may have ended between its write and its checkpoint: what was counted must not be counted again.
            Some(_) if sums.of == Some(context.task()) => files.partition_point(|file| *file <= sums.behind),
            _ => {
                (sums.of, sums.found) = (Some(context.task()), Found::default());
                0
            }
        };
        for (batch, done) in files[first..].chunks(BATCH).zip((first..).step_by(BATCH)) {
            context.check()?;
            let percent = u8::try_from(done * 100 / files.len()).unwrap_or(100);
            context.progress(percent, format!("{done} of {} files", files.len()));
            let work = {
                let (guard, volume) = (Arc::clone(&guard), Arc::clone(&volume));
                let (context, batch) = (context.clone(), batch.to_vec());
                move || {
                    for file in batch {
                        context.check()?;
                        sums.behind.clone_from(&file);
                        look(&volume, file, &mut sums)?;
                    }
                    guard.publish(|| guard::write(&volume.join(OWN).join("checksums.json"), &sums))?;
                    Ok(sums)
                }
            };
            sums = context.blocking(work).await?;
            // After what it stands for is on the volume, never before.
            if let Some(behind) = batch.last() {
                context.checkpoint(&Stopped { behind: behind.clone() })?;
            }
            tokio::select! {
                () = context.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(scrub.pause_ms) * batch.len() as u32) => {}
            }
        }
        Ok(sums.found)
    }
}

fn read(volume: &Path) -> Result<Checksums, TaskError> {
    match fs::read(volume.join(OWN).join("checksums.json")) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Checksums::default()),
        Err(error) => Err(error.into()),
    }
}

/// Compares a file with what is known of it.
fn look(volume: &Path, file: PathBuf, sums: &mut Checksums) -> Result<(), TaskError> {
    let path = volume.join(&file);
    let modified = fs::metadata(&path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let (crc32, bytes) = volume::checksum(&path)?;
    sums.found.files += 1;
    sums.found.bytes += bytes;
    match sums.files.get(&file) {
        // What is known stays: it is what the file should be.
        Some(known) if known.modified == modified && (known.crc32, known.bytes) != (crc32, bytes) => {
            sums.found.damaged.push(file);
        }
        _ => {
            sums.files.insert(file, Known { crc32, bytes, modified });
        }
    }
    Ok(())
}
