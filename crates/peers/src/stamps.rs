//! What the scripts write down: `KIND ID NANOSECONDS` of CLOCK_MONOTONIC, a line for each event, appended by all
//! processes of a run to one file.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Reads the file as it grows.
#[derive(Debug)]
pub(crate) struct Follower {
    file: File,
    /// The line that is not there in full yet.
    rest: String,
}

impl Follower {
    /// Creates the file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::options().create_new(true).append(true).read(true).open(path);
        let file = file.with_context(|| format!("failed to create {}", path.display()))?;
        Ok(Self { file, rest: String::new() })
    }

    /// Takes in what has come since.
    pub(crate) fn read(&mut self, window: &mut Window) -> Result<()> {
        self.file.read_to_string(&mut self.rest).context("failed to read the stamps")?;
        let Some(end) = self.rest.rfind('\n') else { return Ok(()) };
        for line in self.rest[..end].lines() {
            window.take(line)?;
        }
        self.rest.drain(..=end);
        Ok(())
    }
}

/// What has become of the tasks of one measurement.
#[derive(Debug)]
pub(crate) struct Window {
    first: u64,
    /// By task; 0 is never.
    submitted: Vec<u64>,
    started: Vec<u64>,
    done: Vec<u64>,
    /// How many of the last are not 0.
    ended: usize,
    /// When the peer had nothing left, where that is asked.
    empty: Option<u64>,
}

impl Window {
    pub(crate) fn new(first: u64, tasks: u32) -> Self {
        let none = vec![0; tasks as usize];
        Self { first, submitted: none.clone(), started: none.clone(), done: none, ended: 0, empty: None }
    }

    fn take(&mut self, line: &str) -> Result<()> {
        let mut words = line.split(' ');
        let (Some(kind), Some(Ok(id)), Some(Ok(at)), None) = (
            words.next(),
            words.next().map(str::parse::<u64>),
            words.next().map(str::parse::<u64>),
            words.next(),
        ) else {
            bail!("a script stamped {line:?}, which is no KIND ID NANOSECONDS")
        };
        let Some(index) = id.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) else {
            return Ok(());
        };
        let table = match kind {
            "Q" => &mut self.submitted,
            "S" => &mut self.started,
            "D" => &mut self.done,
            "E" => {
                self.empty = Some(at);
                return Ok(());
            }
            _ => bail!("a script stamped {line:?}, which is of no known kind"),
        };
        // A second time is a second attempt.
        if let Some(slot) = table.get_mut(index)
            && *slot == 0
        {
            *slot = at;
            self.ended += usize::from(kind == "D");
        }
        Ok(())
    }

    /// How many tasks have ended.
    pub(crate) fn ended(&self) -> usize {
        self.ended
    }

    pub(crate) fn all_ended(&self) -> bool {
        self.ended == self.done.len()
    }

    /// Tasks a second, from the first submission until the last end was stored.
    pub(crate) fn per_s(&self) -> Result<f64> {
        let first = self.submitted.iter().copied().filter(|at| *at > 0).min();
        let last = self.done.iter().copied().max().max(self.empty);
        match (first, last) {
            (Some(first), Some(last)) if self.all_ended() && last > first => {
                Ok(self.done.len() as f64 / ((last - first) as f64 / 1e9))
            }
            _ => bail!("{} of {} tasks ended, submitted at {first:?}", self.ended, self.done.len()),
        }
    }

    /// Microseconds from the submission of each task to its start, sorted.
    pub(crate) fn start_us(&self) -> Result<Vec<f64>> {
        let mut all = Vec::with_capacity(self.started.len());
        for (submitted, started) in self.submitted.iter().zip(&self.started) {
            if *submitted == 0 || *started == 0 {
                bail!("a task was not stamped at its submission and its start");
            }
            // One clock, but the submission is stamped before it is sent: never negative.
            all.push(started.saturating_sub(*submitted) as f64 / 1e3);
        }
        all.sort_by(f64::total_cmp);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn window(first: u64, tasks: u32, text: &str) -> Window {
        let mut window = Window::new(first, tasks);
        for line in text.lines() {
            window.take(line).unwrap();
        }
        window
    }

    #[test]
    fn throughput_is_from_the_first_submission_to_the_last_stored_end() {
        let text =
            "Q 10 1000000000\nS 11 1\nD 10 1400000000\nD 9 7000000000\nD 11 2000000000\nD 11 9000000000";
        let rows = [(text.to_owned(), 2.0), (format!("{text}\nE 10 3000000000"), 1.0)];
        for (text, per_s) in rows {
            assert!((window(10, 2, &text).per_s().unwrap() - per_s).abs() < 1e-9, "{text}");
        }
        assert!(window(10, 3, text).per_s().is_err(), "one of three is missing");
    }

    #[test]
    fn latency_is_sorted_and_needs_every_task() {
        let text = "Q 0 1000\nQ 1 2000\nS 0 9000\nS 1 3000";
        assert_eq!(window(0, 2, text).start_us().unwrap(), [1.0, 8.0]);
        assert!(window(0, 3, text).start_us().is_err());
    }

    #[test]
    fn half_a_line_waits_for_its_other_half_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stamps");
        let mut follower = Follower::create(&path).unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        let mut window = Window::new(0, 2);
        for (text, ended) in [("D 0 5\nD 1", 1), (" 7", 1), ("\n", 2)] {
            writer.write_all(text.as_bytes()).unwrap();
            follower.read(&mut window).unwrap();
            assert_eq!(window.ended(), ended, "{text:?}");
        }
        for line in ["D 0", "D x 1", "D 0 1 2", "X 0 1"] {
            assert!(window.take(line).is_err(), "{line}");
        }
    }
}
