//! What a task says of itself: lines over a pipe that its whole tree inherits.
//!
//! A pipe rather than a socket, because a shell can write to it (`echo … >&$TASKD_PROGRESS_FD`); a descriptor rather than
//! a path, because it needs no rights to any directory and cannot be mistaken for another attempt's. Writes of up to 4096
//! bytes do not mix with those of others. It is always emptied, so that no task waits for who listens, and only the
//! newest of it is kept.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use clock::Instant;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use proto::progress::{CHECKPOINT_BYTES_MAX, Checkpoint, Progress};
use serde::Deserialize;
use serde_json::Value;

use super::wire::ShimReport;

/// Least time between two reports to the daemon.
const TELL_PAUSE: Duration = Duration::from_millis(100);
/// Longest line: a checkpoint of which every byte is escaped, and a message.
const LINE_BYTES_MAX: usize = 8 * CHECKPOINT_BYTES_MAX;
/// Read at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// The reading end, and the newest that came.
#[derive(Debug)]
pub(super) struct Said {
    pipe: PipeReader,
    /// Kept until the task has inherited it.
    writer: Option<OwnedFd>,
    open: bool,
    lines: Lines,
    latest: ShimReport,
    /// Something came since the daemon was told.
    untold: bool,
    tell_at: Instant,
}

impl Said {
    /// Opened as early as can be: shells know descriptors of one digit only.
    pub(super) fn open() -> io::Result<Self> {
        let (pipe, writer) = io::pipe()?;
        let flags = OFlag::from_bits_retain(fcntl(&pipe, FcntlArg::F_GETFL)?);
        fcntl(&pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let writer = OwnedFd::from(writer);
        fcntl(&writer, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(Self {
            pipe,
            writer: Some(writer),
            open: true,
            lines: Lines::default(),
            latest: ShimReport::default(),
            untold: false,
            tell_at: Instant::from_nanos(0),
        })
    }

    /// Where the task finds its end.
    pub(super) fn number(&self) -> Option<RawFd> {
        self.writer.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The task has it.
    pub(super) fn handed_over(&mut self) {
        self.writer = None;
    }

    /// What to poll for reading.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.open.then(|| self.pipe.as_fd())
    }

    /// Takes what has come, at most `rounds` chunks of it; whether there was any line.
    pub(super) fn pump(&mut self, rounds: usize) -> bool {
        let before = self.latest.count;
        let mut buffer = [0; CHUNK_BYTES];
        for _ in 0..rounds {
            if !self.open {
                break;
            }
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.open = false,
                Ok(count) => self.lines.take(&buffer[..count], |line| hear(&mut self.latest, line)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        self.untold |= self.latest.count != before;
        self.latest.count != before
    }

    /// The newest.
    pub(super) fn latest(&self) -> &ShimReport {
        &self.latest
    }

    /// What to tell the daemon now: the newest, unless it was told just before.
    pub(super) fn due(&mut self, now: Instant) -> Option<&ShimReport> {
        if !self.untold || now < self.tell_at {
            return None;
        }
        self.untold = false;
        self.tell_at = now + TELL_PAUSE;
        Some(&self.latest)
    }

    /// When to tell it next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.untold.then_some(self.tell_at)
    }
}

/// Bytes cut into lines.
#[derive(Debug, Default)]
struct Lines {
    pending: Vec<u8>,
    /// The present line is too long: the rest of it is dropped.
    skipping: bool,
}

impl Lines {
    fn take(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = part.ends_with(b"\n");
            if !self.skipping {
                self.pending.extend_from_slice(part);
                if self.pending.len() > LINE_BYTES_MAX {
                    line(b"(a line of its progress was too long, and dropped)");
                    self.skipping = true;
                } else if whole {
                    line(&self.pending[..self.pending.len() - 1]);
                }
            }
            if whole || self.skipping {
                self.pending.clear();
            }
            self.skipping &= !whole;
        }
    }
}

#[derive(Debug, Deserialize)]
struct Line {
    percent: Option<f64>,
    message: Option<String>,
    checkpoint: Option<Value>,
}

/// Takes one line in: what it names is replaced, the rest stays. A line that is no such object counts as a message, so
/// that whoever wrote it sees it.
fn hear(latest: &mut ShimReport, line: &[u8]) {
    if line.iter().all(u8::is_ascii_whitespace) {
        return;
    }
    latest.count += 1;
    let Ok(Line { percent, message, checkpoint }) = serde_json::from_slice(line) else {
        let message = String::from_utf8_lossy(line);
        latest.progress = Progress::new(latest.progress.percent, Some(&message));
        return;
    };
    // Rounded down: 100 is when it is done.
    let percent = percent.map(|percent| percent.clamp(0.0, 100.0) as u8).or(latest.progress.percent);
    let mut message = message.or_else(|| latest.progress.message.clone());
    match checkpoint.map(text) {
        None => {}
        // It is to be an environment variable.
        Some(text) if text.contains('\0') => {
            message = Some("(its checkpoint has a NUL character, and was dropped)".to_owned());
        }
        Some(text) => match Checkpoint::new(text.into_bytes()) {
            Ok(checkpoint) => latest.checkpoint = Some(checkpoint),
            Err(too_large) => message = Some(format!("({too_large})")),
        },
    }
    latest.progress = Progress::new(percent, message.as_deref());
}

/// A text as it is; anything else as JSON.
fn text(checkpoint: Value) -> String {
    match checkpoint {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> ShimReport {
        let (mut lines, mut latest) = (Lines::default(), ShimReport::default());
        for part in text.as_bytes().chunks(7) {
            lines.take(part, |line| hear(&mut latest, line));
        }
        latest
    }

    #[test]
    fn the_newest_of_each_counts() {
        let rows = [
            ("", 0, "", None),
            ("{\"percent\": 40.9, \"message\": \"a of b\"}\n", 1, "40 % a of b", None),
            ("{\"percent\": 40, \"message\": \"a\"}\n{\"percent\": 140}\n\n", 2, "100 % a", None),
            ("{\"percent\": -3}\n{\"checkpoint\": \"row 7\"}\n{\"percent\": 5", 2, "0 %", Some("row 7")),
            ("{\"checkpoint\": {\"row\": 7}}\nhalf way\n", 2, "half way", Some("{\"row\":7}")),
            ("{\"checkpoint\": \"\"}\n", 1, "", Some("")),
            (
                "{\"checkpoint\": \"a\\u0000\"}\n",
                1,
                "(its checkpoint has a NUL character, and was dropped)",
                None,
            ),
        ];
        for (text, count, progress, checkpoint) in rows {
            let latest = heard(text);
            assert_eq!((latest.count, latest.progress.to_string().as_str()), (count, progress), "{text:?}");
            assert_eq!(latest.checkpoint.as_ref().map(Checkpoint::as_bytes), checkpoint.map(str::as_bytes));
        }
    }

    #[test]
    fn what_is_too_large_is_said_and_forgotten() {
        let large = "x".repeat(CHECKPOINT_BYTES_MAX + 1);
        let latest = heard(&format!("{{\"checkpoint\": \"old\"}}\n{{\"checkpoint\": \"{large}\"}}\n"));
        assert_eq!(latest.checkpoint.map(Checkpoint::into_bytes), Some(b"old".to_vec()));
        assert!(latest.progress.message.unwrap().contains("the limit is 4096"));
        let endless = format!("{}\n{{\"percent\": 7}}\n", "x".repeat(3 * LINE_BYTES_MAX));
        let latest = heard(&endless);
        assert_eq!((latest.count, latest.progress.percent), (2, Some(7)));
        assert!(latest.progress.message.unwrap().contains("too long"));
    }
}
