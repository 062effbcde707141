//! Snapshots: a copy of the volume with the next number, and the oldest ones removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use taskd::service::{Context, Service, TaskError};

use crate::guard::Guard;
use crate::volume::{self, SNAPSHOTS};

/// The kind of task.
pub(crate) const KIND: &str = "rotate";

/// What a task carries.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rotate {
    pub(crate) volume: PathBuf,
    /// How many snapshots are kept, at least one.
    pub(crate) keep: usize,
}

/// What it has done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rotated {
    pub(crate) created: String,
    pub(crate) removed: Vec<String>,
}

/// The service.
#[derive(Debug)]
pub(crate) struct Rotation;

impl Service for Rotation {
    type Payload = Rotate;
    type Output = Rotated;

    async fn run(&self, context: Context, Rotate { volume, keep }: Rotate) -> Result<Rotated, TaskError> {
        if keep == 0 {
            return Err(TaskError::permanent(
                "keep is 0: a rotation keeps at least the snapshot that it makes",
            ));
        }
        let inside = context.clone();
        context.blocking(move || rotate(&inside, &volume, keep)).await
    }
}

fn rotate(context: &Context, volume: &Path, keep: usize) -> Result<Rotated, TaskError> {
    let guard = Guard::take(volume, context)?;
    let dir = volume.join(SNAPSHOTS);
    // What an attempt has left that did not come to its end; each has its own, so that none removes another's.
    let partial = dir.join(format!("partial-{}-{}", context.task(), context.attempt()));
    guard.publish(|| {
        fs::create_dir_all(&dir)?;
        remove_partial(&dir)?;
        fs::create_dir(&partial)
    })?;
    let files = volume::files(volume)?;
    for (done, file) in files.iter().enumerate() {
        context.check()?;
        let percent = u8::try_from(done * 100 / files.len()).unwrap_or(100);
        context.progress(percent, format!("copying {}", file.display()));
        if let Some(parent) = file.parent() {
            fs::create_dir_all(partial.join(parent))?;
        }
        fs::copy(volume.join(file), partial.join(file))?;
    }
    let mut snapshots = list(&dir)?;
    let created = name(snapshots.last().map_or(1, |last| last + 1));
    // It appears whole, under a token that still holds, or not at all.
    guard.publish(|| fs::rename(&partial, dir.join(&created)))?;
    snapshots = list(&dir)?;
    let mut removed = Vec::new();
    for number in &snapshots[..snapshots.len().saturating_sub(keep)] {
        // Out of sight first: nobody is to take half a snapshot for a whole one.
        let doomed = dir.join(format!("partial-{}", name(*number)));
        guard.publish(|| fs::rename(dir.join(name(*number)), &doomed))?;
        fs::remove_dir_all(doomed)?;
        removed.push(name(*number));
    }
    Ok(Rotated { created, removed })
}

fn name(number: u64) -> String {
    format!("snapshot-{number:06}")
}

/// The numbers of the snapshots, in order.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("snapshot-"));
        numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn remove_partial(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("partial-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
