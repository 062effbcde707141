//! A volume: a directory with files, and with two of our own that are not looked into.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Snapshots lie here.
pub(crate) const SNAPSHOTS: &str = ".snapshots";
/// Checksums and the token lie here.
pub(crate) const OWN: &str = ".maintenance";

/// The files of a volume, relative to it, in order.
pub(crate) fn files(volume: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(volume.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && path != Path::new(SNAPSHOTS) && path != Path::new(OWN) {
                open.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// CRC-32 and size of a file.
pub(crate) fn checksum(path: &Path) -> io::Result<(u32, u64)> {
    let (mut file, mut hasher) = (fs::File::open(path)?, crc32fast::Hasher::new());
    let (mut buffer, mut size) = (vec![0; 128 * 1024], 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hasher.finalize(), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}
