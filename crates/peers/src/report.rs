//! What was measured, as a table and as markdown, with the ratios to taskd.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::install::Tools;
use crate::measure::LOW_RATE;
use crate::stats;

const PROBES: usize = 200;
/// The bars: throughput is so many times that of the peer, in the durability that it is fastest in.
const RATE_BARS: [(&str, f64); 2] = [("BullMQ", 2.0), ("Celery", 20.0)];
/// Whose p99 from submission to start must not be exceeded.
const LATENCY_PEER: &str = "BullMQ";

/// One system in one durability, submitted to in one way; a value for each round.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) system: String,
    pub(crate) durability: String,
    pub(crate) submission: String,
    pub(crate) workers: String,
    pub(crate) per_s: Vec<f64>,
    #[serde(default)]
    pub(crate) start_p50_us: Vec<f64>,
    #[serde(default)]
    pub(crate) start_p99_us: Vec<f64>,
    /// Processor time of servers and workers for each task.
    #[serde(default)]
    pub(crate) cpu_us: Vec<f64>,
    /// Cores that were busy meanwhile with what is not ours.
    #[serde(default)]
    pub(crate) others_cores: Vec<f64>,
}

/// The rows to compare with.
///
/// # Errors
/// The file cannot be read or holds something else.
pub(crate) fn beside(file: Option<&Path>) -> Result<Vec<Row>> {
    let Some(file) = file else { return Ok(Vec::new()) };
    let text = fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} holds no rows to compare with", file.display()))
}

/// Where it was measured.
#[derive(Debug)]
pub(crate) struct Machine {
    lines: Vec<String>,
}

impl Machine {
    /// Looks at the machine; writes to the disk, for as long as that takes [`PROBES`] times.
    pub(crate) fn look(dir: &Path, tools: &Tools) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after_colon = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let kib: f64 =
            after_colon(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
        let load: Vec<_> = read("/proc/loadavg").split_whitespace().take(3).map(str::to_owned).collect();
        let lines = vec![
            format!(
                "{cores} cores ({}), {:.0} GiB, Linux {}, load {} at the start",
                after_colon(&read("/proc/cpuinfo"), "model name"),
                kib / 1024.0 / 1024.0,
                read("/proc/sys/kernel/osrelease").trim(),
                load.join(" ")
            ),
            format!("one fdatasync of 100 bytes: p50 {} ms, p99 {} ms", probe(dir, 50)?, probe(dir, 99)?),
            tools.versions.join(", "),
        ];
        Ok(Self { lines })
    }
}

/// What the durable ones pay for: the time that an appended line takes to the disk, in ms.
fn probe(dir: &Path, percent: usize) -> Result<String> {
    let path = dir.join("probe");
    let mut file = File::create(&path).with_context(|| format!("failed to create {}", path.display()))?;
    let mut took = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        let start = Instant::now();
        file.write_all(&[b'.'; 100])?;
        file.sync_data()?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    fs::remove_file(&path)?;
    took.sort_by(f64::total_cmp);
    Ok(stats::percentile(&took, percent).map(stats::millis).unwrap_or_default())
}

/// Everything that is shown.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// taskd, first.
    pub(crate) beside: Vec<Row>,
    pub(crate) rows: Vec<Row>,
    pub(crate) tasks: u32,
}

impl Report {
    /// For a terminal.
    pub(crate) fn text(&self) -> String {
        let mut text = self.machine.lines.join("\n");
        let _ = write!(text, "\n\n{}", aligned(&self.table()));
        for line in self.verdicts().into_iter().chain(self.notes()) {
            let _ = write!(text, "\n{line}");
        }
        text
    }

    /// Writes it as markdown.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        fs::write(file, self.markdown()).with_context(|| format!("failed to write {}", file.display()))
    }

    fn markdown(&self) -> String {
        let mut text = format!("# taskd beside others: {} no-op tasks\n\n", self.tasks);
        for line in &self.machine.lines {
            let _ = writeln!(text, "- {line}");
        }
        text.push('\n');
        for (n, row) in self.table().iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if n == 0 {
                let rule = row.iter().enumerate().map(|(c, _)| if c < 4 { "---" } else { "---:" });
                let _ = writeln!(text, "| {} |", rule.collect::<Vec<_>>().join(" | "));
            }
        }
        text.push('\n');
        for line in self.verdicts().into_iter().chain(self.notes()) {
            let _ = writeln!(text, "- {line}");
        }
        text
    }

    fn table(&self) -> Vec<Vec<String>> {
        let head = ["", "durability", "submitted", "workers", "tasks/s", "start p50 ms", "start p99 ms"];
        let mut head: Vec<String> = head.map(str::to_owned).to_vec();
        head.extend(["CPU us/task", "others, cores"].map(str::to_owned));
        head.extend(self.beside.iter().map(|row| format!("{} is ×", row.system)));
        let whole = |value: f64| format!("{value:.0}");
        let mut table = vec![head];
        for row in self.beside.iter().chain(&self.rows) {
            let mut cells =
                vec![row.system.clone(), row.durability.clone(), row.submission.clone(), row.workers.clone()];
            cells.push(stats::spread(&row.per_s, whole));
            cells.push(stats::spread(&row.start_p50_us, stats::millis));
            cells.push(stats::spread(&row.start_p99_us, stats::millis));
            cells.push(stats::spread(&row.cpu_us, whole));
            cells.push(stats::spread(&row.others_cores, |cores| format!("{cores:.1}")));
            cells.extend(self.beside.iter().map(|taskd| {
                ratio(&taskd.per_s, &row.per_s).map_or("-".to_owned(), |times| format!("{times:.2}"))
            }));
            table.push(cells);
        }
        table
    }

    /// Whether taskd is as far ahead as it has to be, of each peer at its fastest.
    fn verdicts(&self) -> Vec<String> {
        let said = |met: bool| if met { "met" } else { "MISSED" };
        let mut lines = Vec::new();
        for taskd in &self.beside {
            for (peer, bar) in RATE_BARS {
                let rate = |row: &Row| stats::median(&row.per_s).unwrap_or(0.0);
                let theirs = self.rows.iter().filter(|row| row.system == peer);
                if let Some(fastest) = theirs.max_by(|a, b| rate(a).total_cmp(&rate(b)))
                    && let Some(times) = ratio(&taskd.per_s, &fastest.per_s)
                {
                    lines.push(format!(
                        "{}: {times:.2} × {peer} at its fastest ({}, {}); the bar is {bar}: {}",
                        taskd.system,
                        fastest.durability,
                        fastest.submission,
                        said(times >= bar)
                    ));
                }
            }
            for theirs in self.rows.iter().filter(|row| row.system == LATENCY_PEER) {
                let p99 = |row: &Row| stats::median(&row.start_p99_us);
                if let (Some(ours), Some(others)) = (p99(taskd), p99(theirs)) {
                    lines.push(format!(
                        "{}: start p99 {} ms, {LATENCY_PEER}'s ({}) {} ms; the bar is no worse: {}",
                        taskd.system,
                        stats::millis(ours),
                        theirs.durability,
                        stats::millis(others),
                        said(ours <= others)
                    ));
                }
            }
        }
        lines
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!(
                "{} tasks for each rate; from the first submission, by four submitters, until the end of the last is \
                 stored; median (least–most) of the rounds",
                self.tasks
            ),
            format!(
                "start: from before a task is submitted until its code runs; one by one, {LOW_RATE} a second"
            ),
            "CPU: servers and workers, without submitters; others: cores that were busy with something else"
                .to_owned(),
            "memory (snapshots): what Redis took since its last snapshot, a minute or more, is lost with it"
                .to_owned(),
            "Celery acknowledges late (at least once, like the others)".to_owned(),
        ];
        if self.beside.is_empty() {
            notes.push("taskd was not measured beside them: `cargo xtask bench peers` does both".to_owned());
        }
        notes
    }
}

/// How many times the median of the others ours is.
fn ratio(ours: &[f64], others: &[f64]) -> Option<f64> {
    let others = stats::median(others).filter(|value| *value > 0.0)?;
    Some(stats::median(ours)? / others)
}

/// Four columns of words to the left, figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(c, (cell, width))| {
                    if c < 4 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(system: &str, durability: &str, per_s: &[f64], p99: &[f64]) -> Row {
        Row {
            system: system.to_owned(),
            durability: durability.to_owned(),
            per_s: per_s.to_vec(),
            start_p99_us: p99.to_vec(),
            ..Row::default()
        }
    }

    fn report(taskd_per_s: f64) -> Report {
        Report {
            machine: Machine { lines: vec!["a machine".to_owned()] },
            beside: vec![row("taskd", "fsync", &[taskd_per_s], &[3_000.0])],
            rows: vec![
                row("BullMQ", "memory", &[4_000.0, 5_000.0, 6_000.0], &[2_000.0]),
                row("BullMQ", "fsync", &[1_000.0], &[4_000.0]),
                row("Celery", "memory", &[600.0], &[]),
            ],
            tasks: 20_000,
        }
    }

    #[test]
    fn the_bars_are_for_each_peer_at_its_fastest() {
        for (per_s, bullmq, celery) in
            [(12_000.0, "2.40 × BullMQ", "20.00 × Celery"), (9_000.0, "1.80 × BullMQ", "15.00 × Celery")]
        {
            let lines = report(per_s).verdicts();
            let met = if per_s > 10_000.0 { "met" } else { "MISSED" };
            for (line, ratio) in lines.iter().zip([bullmq, celery]) {
                assert!(line.contains(ratio) && line.contains("memory") && line.ends_with(met), "{line}");
            }
            assert!(lines[2].contains("(memory) 2.00 ms") && lines[2].ends_with("MISSED"), "{lines:?}");
            assert!(lines[3].contains("(fsync) 4.00 ms") && lines[3].ends_with("met"), "{lines:?}");
        }
    }

    #[test]
    fn the_table_is_the_same_in_a_terminal_and_in_markdown() {
        let report = report(12_000.0);
        let line = |text: &str| {
            let found = text.lines().find(|line| line.contains("4000–6000")).map(str::to_owned);
            found.unwrap().replace('|', " ").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line(&report.text()), line(&report.markdown()));
        assert_eq!(line(&report.text()).last().map(String::as_str), Some("2.40"));
    }

    #[test]
    fn what_another_program_writes_is_read_and_a_typo_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rows.json");
        let rows = |field: &str| {
            let text = format!(
                r#"[{{"system":"taskd","durability":"d","submission":"s","workers":"w","per_s":[1.5],"{field}":[2]}}]"#
            );
            fs::write(&file, text).unwrap();
            beside(Some(&file))
        };
        assert_eq!(rows("cpu_us").unwrap()[0].cpu_us, [2.0]);
        assert!(rows("cpu").is_err());
    }
}
