//! A task's output on disk, bounded: its head and its newest end, in files named after where they begin.
//!
//! The head takes half of the limit; then come files of a quarter each, of which the newest two are kept.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const PREFIX: &str = "out.";

/// The writing side.
#[derive(Debug)]
pub(crate) struct Capture {
    dir: PathBuf,
    head_max: u64,
    tail_max: u64,
    current: Option<(File, u64)>,
    tails: VecDeque<u64>,
    total: u64,
    failed: bool,
}

impl Capture {
    /// Captures into `dir`, which keeps at most `bytes_max`.
    pub(crate) fn new(dir: &Path, bytes_max: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            head_max: (bytes_max / 2).max(1),
            tail_max: (bytes_max / 4).max(1),
            current: None,
            tails: VecDeque::new(),
            total: 0,
            failed: false,
        }
    }

    /// Bytes seen, kept or not.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Takes more output. A full disk loses output but never holds up the task.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let total = self.total + bytes.len() as u64;
        if !self.failed && self.store(bytes).is_err() {
            self.failed = true;
            self.current = None;
        }
        self.total = total;
    }

    fn store(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.current.as_ref().is_none_or(|(_, room)| *room == 0) {
                self.current = Some(self.rotate()?);
            }
            let Some((file, room)) = &mut self.current else { continue };
            let part = bytes.len().min(usize::try_from(*room).unwrap_or(usize::MAX));
            file.write_all(&bytes[..part])?;
            *room -= part as u64;
            self.total += part as u64;
            bytes = &bytes[part..];
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<(File, u64)> {
        let start = self.total;
        let room = if start == 0 { self.head_max } else { self.tail_max };
        if start > 0 {
            self.tails.push_back(start);
            if self.tails.len() > 2
                && let Some(oldest) = self.tails.pop_front()
            {
                fs::remove_file(self.dir.join(name(oldest)))?;
            }
        }
        Ok((File::create(self.dir.join(name(start)))?, room))
    }
}

/// Reads from `offset` of the stream, at most `bytes_max`: where the bytes begin (later than asked for where output was
/// dropped) and the bytes, none if there are none yet.
pub(crate) fn read(dir: &Path, offset: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
    // A file that was there when the directory was listed may be dropped before it is opened: look again.
    for _ in 0..8 {
        match read_listed(dir, offset, bytes_max) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
    }
    Ok((offset, Vec::new()))
}

fn read_listed(dir: &Path, offset: u64, bytes_max: usize) -> io::Result<(u64, Vec<u8>)> {
    let mut starts = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let start = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        starts.extend(start.and_then(|start| start.parse::<u64>().ok()));
    }
    starts.sort_unstable();
    let covering = starts.iter().rposition(|start| *start <= offset);
    for start in &starts[covering.unwrap_or(0)..] {
        let mut file = File::open(dir.join(name(*start)))?;
        let from = offset.max(*start);
        if from < start.saturating_add(file.metadata()?.len()) {
            file.seek(SeekFrom::Start(from - start))?;
            let mut bytes = Vec::new();
            file.take(bytes_max as u64).read_to_end(&mut bytes)?;
            return Ok((from, bytes));
        }
    }
    Ok((offset, Vec::new()))
}

fn name(start: u64) -> String {
    format!("{PREFIX}{start:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(dir: &Path) -> u64 {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    #[test]
    fn short_output_is_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut capture = Capture::new(dir.path(), 100);
        for part in ["hello ", "world"] {
            capture.write(part.as_bytes());
        }
        assert_eq!(capture.total(), 11);
        assert_eq!(read(dir.path(), 0, 100).unwrap(), (0, b"hello world".to_vec()));
        assert_eq!(read(dir.path(), 6, 3).unwrap(), (6, b"wor".to_vec()));
        assert_eq!(read(dir.path(), 11, 100).unwrap(), (11, vec![]));
    }

    #[test]
    fn output_that_cannot_be_kept_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut capture = Capture::new(dir.path(), 8);
        fs::create_dir(dir.path().join(name(4))).unwrap();
        capture.write(b"more than fits");
        capture.write(b"and more");
        assert_eq!((capture.total(), read(dir.path(), 0, 100).unwrap().1.len()), (22, 4));
    }

    #[test]
    fn long_output_keeps_head_and_end_and_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut capture = Capture::new(dir.path(), 400);
        let stream: Vec<u8> = (0..5_000_u32).map(|n| (n % 251) as u8).collect();
        for part in stream.chunks(77) {
            capture.write(part);
            assert!(kept(dir.path()) <= 400);
        }
        assert_eq!(capture.total(), 5_000);
        let (mut offset, mut seen, mut gaps) = (0_u64, 0_u64, 0);
        loop {
            let (from, bytes) = read(dir.path(), offset, 64).unwrap();
            if bytes.is_empty() {
                break;
            }
            gaps += u32::from(from > offset);
            let start = usize::try_from(from).unwrap();
            assert_eq!(bytes, stream[start..start + bytes.len()]);
            seen += bytes.len() as u64;
            offset = from + bytes.len() as u64;
        }
        assert_eq!((offset, gaps), (5_000, 1));
        assert!(seen >= 300, "head and at least one quarter, not {seen}");
    }
}
