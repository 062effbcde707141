//! The few file operations that storage is made of, behind a trait, so that tests can put a disk below it that
//! fails, tears and crashes.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One directory of files.
pub(super) trait Disk: Debug + Send + Sync {
    /// The names of all files, sorted.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens `name` empty, for reading and writing; what it held is gone.
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens `name`, which exists, for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Renames; a file that is called `to` is replaced.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes what was created, renamed and removed so far last through a power cut.
    fn sync_names(&self) -> io::Result<()>;

    /// Where `name` is, for messages.
    fn path(&self, name: &str) -> PathBuf;
}

/// One open file.
pub(super) trait DiskFile: Debug + Send {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;

    /// Reads up to `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all of `bytes`. After an error any part of them may be there.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or extends it with zeros.
    fn set_len(&mut self, len: u64) -> io::Result<()>;

    /// fdatasync. After an error nothing may be assumed about what was written since the last success, and a
    /// second call may lie: the kernel reports a failed write-back once.
    fn sync(&mut self) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug)]
pub(super) struct RealDisk {
    dir: PathBuf,
}

impl RealDisk {
    /// Makes the directory if it is not there, readable only for its owner: it holds password digests.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let to_sync = above_missing(dir);
        if !to_sync.is_empty() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        for above in to_sync {
            File::open(above)?.sync_all()?;
        }
        Ok(Self { dir: dir.to_owned() })
    }
}

/// The directories that will name those that have to be made for `dir`: what is in them lasts once they are synced.
fn above_missing(dir: &Path) -> Vec<&Path> {
    let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.is_dir()).count();
    let above = dir.ancestors().skip(1).take(missing);
    above.map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above }).collect()
}

impl Disk for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            // A name that is not UTF-8 is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Box::new(RealFile(options.open(self.path(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(RealFile(OpenOptions::new().read(true).write(true).open(self.path(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match FileExt::read_at(&self.0, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Reads a file through one buffer: the records of a log come in order, and a segment need not fit in memory.
#[derive(Debug)]
pub(super) struct Window<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    const BYTES: usize = 256 * 1024;

    pub(super) fn new(file: &'a dyn DiskFile) -> io::Result<Self> {
        Ok(Self { file, len: file.len()?, start: 0, bytes: Vec::new() })
    }

    /// The length of the file in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The `wanted` bytes at `offset`; fewer only where the file ends.
    pub(super) fn at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let available = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let wanted = wanted.min(available);
        let held = offset.checked_sub(self.start).and_then(|skip| usize::try_from(skip).ok());
        let skip = match held {
            Some(skip) if skip.checked_add(wanted).is_some_and(|end| end <= self.bytes.len()) => skip,
            _ => {
                self.load(offset, wanted.max(Self::BYTES).min(available))?;
                0
            }
        };
        self.bytes.get(skip..skip + wanted).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn load(&mut self, offset: u64, wanted: usize) -> io::Result<()> {
        self.bytes.resize(wanted, 0);
        self.start = offset;
        let mut filled = 0;
        while let Some(rest) = self.bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(offset + filled as u64, rest)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(())
    }

    /// The offset of the last byte from `offset` on that is not zero.
    pub(super) fn last_nonzero(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let (mut at, mut last) = (offset, None);
        while at < self.len {
            let chunk = self.at(at, Self::BYTES)?;
            if let Some(index) = chunk.iter().rposition(|byte| *byte != 0) {
                last = Some(at + index as u64);
            }
            at += chunk.len() as u64;
        }
        Ok(last)
    }

    /// Whether all `wanted` bytes at `offset` are zero; those past the end of the file count as zero.
    pub(super) fn all_zero(&mut self, offset: u64, wanted: usize) -> io::Result<bool> {
        Ok(self.at(offset, wanted)?.iter().all(|byte| *byte == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directory_that_is_made_is_made_to_last() {
        let here = tempfile::tempdir().unwrap();
        let here = here.path();
        let check = |dir: &Path, expected: &[&Path]| assert_eq!(above_missing(dir), expected, "{dir:?}");
        check(here, &[]);
        check(&here.join("a"), &[here]);
        check(&here.join("a/b/c"), &[&here.join("a/b"), &here.join("a"), here]);
        check(Path::new("."), &[]);
        check(Path::new("never-made/a"), &[Path::new("never-made"), Path::new(".")]);

        let dir = here.join("a/b/c");
        RealDisk::new(&dir).unwrap();
        assert!(dir.is_dir());
        check(&dir, &[]);
    }
}
