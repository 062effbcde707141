//! Following the log files of several processes, with a coloured name before each line.
//!
//! Processes write to files rather than to pipes: a reader that lags or dies then blocks nobody, and what a process that
//! was killed said last is still there.

use std::fs::{self, File};
use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const COLOURS: [&str; 6] = ["\x1b[36m", "\x1b[33m", "\x1b[35m", "\x1b[32m", "\x1b[34m", "\x1b[31m"];
const RESET: &str = "\x1b[0m";
/// Read at once at most; the rest comes with the next look.
const CHUNK_BYTES_MAX: u64 = 256 * 1024;

/// Whether what is printed may have colours.
pub(crate) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A set of growing files.
#[derive(Debug)]
pub(crate) struct Follower {
    sources: Vec<Source>,
    colours: bool,
}

#[derive(Debug)]
struct Source {
    name: String,
    path: PathBuf,
    offset: u64,
    /// The beginning of a line whose end has not been written yet.
    partial: String,
}

impl Follower {
    /// Follows these (name, file) from their beginnings.
    pub(crate) fn new(sources: impl IntoIterator<Item = (String, PathBuf)>, colours: bool) -> Self {
        let source = |(name, path)| Source { name, path, offset: 0, partial: String::new() };
        Self { sources: sources.into_iter().map(source).collect(), colours }
    }

    /// The whole lines that have come since the last look, ready to be printed.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        let width = self.sources.iter().map(|source| source.name.len()).max().unwrap_or(0);
        let mut lines = Vec::new();
        for (index, source) in self.sources.iter_mut().enumerate() {
            let name = &source.name;
            let prefix = if self.colours {
                format!("{}{name:<width$} |{RESET} ", COLOURS[index % COLOURS.len()])
            } else {
                format!("{name:<width$} | ")
            };
            source.read();
            while let Some(end) = source.partial.find('\n') {
                let line: String = source.partial.drain(..=end).collect();
                lines.push(format!("{prefix}{}", line.trim_end()));
            }
        }
        lines
    }
}

impl Source {
    /// A file that is not there yet, or cannot be read, has nothing to say.
    fn read(&mut self) {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.offset))?;
            let mut bytes = Vec::new();
            file.take(CHUNK_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        if let Ok(bytes) = read() {
            self.offset += bytes.len() as u64;
            self.partial.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
}

/// The last lines of a file, for an error message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::run::cluster::RunDir;

    #[test]
    fn lines_come_whole_once_and_with_a_name() {
        let dir = RunDir::create(&std::env::temp_dir()).unwrap();
        let path = |name: &str| dir.path().join(name);
        let mut follower =
            Follower::new([("n1".to_owned(), path("a")), ("other".to_owned(), path("b"))], false);
        assert!(follower.lines().is_empty(), "files that are not there yet");
        let mut a = File::create(path("a")).unwrap();
        fs::write(path("b"), "x\n").unwrap();
        write!(a, "one\ntw").unwrap();
        assert_eq!(follower.lines(), ["n1    | one", "other | x"]);
        writeln!(a, "o").unwrap();
        assert_eq!(follower.lines(), ["n1    | two"]);
        assert_eq!(tail(&path("a"), 1), "two");
    }
}
