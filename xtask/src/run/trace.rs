//! What the tasks themselves saw, and whether it fits what the cluster says.
//!
//! Each attempt appends lines to one file: `S`(tart), `P`(ulse) several times a second, `E`(nd), each with its task, its
//! attempt, the time and a word. An attempt that was killed has no `E`; its last pulse shows how long it lived at least.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::client::{End, Task};

/// How an attempt learns who it is.
const SCRIPT: &str = r#"#!/bin/sh
# Arguments: the trace, pulses to live for (5 a second), and a file to digest, if any.
export PATH=/usr/local/bin:/usr/bin:/bin
trace=$1 pulses=$2 file=$3
say() { printf '%s %s %s %s %s\n' "$1" "$TASKD_TASK_ID" "$TASKD_ATTEMPT" "$(date +%s%N)" "$2" >>"$trace" || exit 9; }
say S -
digest=-
if [ -n "$file" ]; then
    digest=$(sha256sum "$file") || exit 8
    digest=${digest%% *}
fi
while [ "$pulses" -gt 0 ]; do
    sleep 0.2
    pulses=$((pulses - 1))
    say P -
done
say E "$digest"
"#;

/// The script and the file it writes to.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    script: PathBuf,
    file: PathBuf,
}

impl Trace {
    /// Writes the script into `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let (script, file) = (dir.join("attempt.sh"), dir.join("trace"));
        fs::write(&script, SCRIPT).with_context(|| format!("failed to write {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        fs::write(&file, "").with_context(|| format!("failed to write {}", file.display()))?;
        Ok(Self { script, file })
    }

    /// The command of a task that lives for `pulses` fifths of a second and digests `file`.
    pub(crate) fn argv(&self, pulses: u32, file: Option<&Path>) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let mut argv = vec![text(&self.script), text(&self.file), pulses.to_string()];
        argv.extend(file.map(text));
        argv
    }

    /// What has been written up to now.
    pub(crate) fn read(&self) -> Result<Vec<Run>> {
        let text = fs::read_to_string(&self.file)
            .with_context(|| format!("failed to read {}", self.file.display()))?;
        parse(&text)
    }
}

/// One attempt as it saw itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) task: String,
    pub(crate) attempt: u32,
    /// How often it started: more than once is wrong.
    pub(crate) starts: u32,
    /// Nanoseconds since 1970.
    pub(crate) started_ns: u64,
    /// When it was last seen alive.
    pub(crate) seen_ns: u64,
    /// The word at its end, if it came to it.
    pub(crate) finished: Option<String>,
}

/// Groups the lines by attempt. A last line without an end is still being written and does not count.
fn parse(text: &str) -> Result<Vec<Run>> {
    let mut runs: BTreeMap<(&str, u32), Run> = BTreeMap::new();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[kind, task, attempt, at, word] = &fields[..] else {
            bail!("{line:?} is not a line of a trace")
        };
        let number = |text: &str| text.parse::<u64>().with_context(|| format!("{line:?} has a bad number"));
        let (attempt, at) = (u32::try_from(number(attempt)?)?, number(at)?);
        let run = runs.entry((task, attempt)).or_insert_with(|| Run {
            task: task.to_owned(),
            attempt,
            starts: 0,
            started_ns: at,
            seen_ns: at,
            finished: None,
        });
        run.seen_ns = run.seen_ns.max(at);
        match kind {
            "S" => run.starts += 1,
            "P" => {}
            "E" => run.finished = Some(word.to_owned()),
            _ => bail!("{line:?} is of an unknown kind"),
        }
    }
    Ok(runs.into_values().collect())
}

/// Pairs of attempts of one task that were alive at the same time.
pub(crate) fn overlaps(runs: &[Run]) -> Vec<String> {
    let mut sorted: Vec<&Run> = runs.iter().collect();
    sorted.sort_by(|a, b| (&a.task, a.started_ns).cmp(&(&b.task, b.started_ns)));
    let mut found = Vec::new();
    let mut longest: Option<&Run> = None;
    for run in sorted {
        if let Some(earlier) = longest.filter(|earlier| earlier.task == run.task) {
            if run.started_ns <= earlier.seen_ns {
                found.push(format!(
                    "task {}: attempt {} started {} ms before attempt {} was last seen",
                    run.task,
                    run.attempt,
                    (earlier.seen_ns - run.started_ns) / 1_000_000,
                    earlier.attempt
                ));
            }
            if run.seen_ns <= earlier.seen_ns {
                continue;
            }
        }
        longest = Some(run);
    }
    found
}

/// What the checker found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Everything that must not be.
    pub(crate) violations: Vec<String>,
    /// Attempts that did not come to their end, each with a reason in the task database.
    pub(crate) cut_short: usize,
    /// Attempts that came to their end unheard, so that another followed: at least once, as promised.
    pub(crate) unheard: usize,
}

/// Explains every line: compares what the attempts saw with the task database and with what was acknowledged to the
/// submitters.
pub(crate) fn check(runs: &[Run], tasks: &[Task], acknowledged: &BTreeSet<String>) -> Findings {
    let mut findings = Findings { violations: overlaps(runs), ..Findings::default() };
    let known: BTreeMap<&str, &Task> = tasks.iter().map(|task| (task.id.as_str(), task)).collect();
    let mut by_task: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        by_task.entry(&run.task).or_default().push(run);
    }
    let mut wrong = |text: String| findings.violations.push(text);
    for id in acknowledged {
        match known.get(id.as_str()) {
            None => wrong(format!("task {id} was acknowledged and is not there")),
            Some(task) if !task.is_final() => {
                wrong(format!("task {id} was acknowledged and is {}", task.state))
            }
            Some(_) => {}
        }
    }
    for (id, runs) in &by_task {
        let Some(task) = known.get(id) else {
            wrong(format!("task {id} ran and is not there"));
            continue;
        };
        let success = task.attempts.iter().find(|attempt| attempt.end == Some(End::Exited { code: 0 }));
        for run in runs {
            let n = run.attempt;
            if run.starts != 1 {
                wrong(format!("task {id}: attempt {n} started {} times", run.starts));
            }
            if n == 0 || n > task.attempt_count {
                wrong(format!(
                    "task {id}: attempt {n} ran, of {} that the cluster knows",
                    task.attempt_count
                ));
            }
            if success.is_some_and(|success| n > success.number) {
                wrong(format!("task {id}: attempt {n} ran although an earlier one had succeeded"));
            }
            if task.finished_ms.is_some_and(|finished| run.started_ns / 1_000_000 > finished + 1) {
                wrong(format!("task {id}: attempt {n} started after the task was {}", task.state));
            }
            // The database keeps the newest attempts only.
            let Some(attempt) = task.attempts.iter().find(|attempt| attempt.number == n) else { continue };
            match (&run.finished, &attempt.end) {
                (Some(_), Some(End::Exited { code: 0 })) => {}
                (None, Some(End::Exited { code: 0 })) => {
                    wrong(format!("task {id}: attempt {n} is a success and did not come to its end"));
                }
                (Some(_), Some(_)) => findings.unheard += 1,
                (None, Some(_)) => findings.cut_short += 1,
                (_, None) if task.is_final() => {
                    wrong(format!("task {id} is {} and nobody knows how attempt {n} ended", task.state));
                }
                (_, None) => {}
            }
        }
    }
    for task in tasks.iter().filter(|task| task.state == "succeeded") {
        let success = task.attempts.iter().find(|attempt| attempt.end == Some(End::Exited { code: 0 }));
        let ran =
            |n| by_task.get(task.id.as_str()).is_some_and(|runs| runs.iter().any(|run| run.attempt == n));
        match success {
            Some(attempt) if ran(attempt.number) => {}
            Some(attempt) => {
                wrong(format!("task {}: attempt {} succeeded and left no line", task.id, attempt.number))
            }
            None => wrong(format!("task {} succeeded and none of its attempts did", task.id)),
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::client::{Attempt, Spec};

    fn lost() -> Option<End> {
        Some(End::Lost { reason: "its node is gone".to_owned() })
    }

    fn task(id: &str, state: &str, ends: &[Option<End>]) -> Task {
        let attempt =
            |(n, end): (u32, &Option<End>)| Attempt { number: n, node: "n1".to_owned(), end: end.clone() };
        Task {
            spec: Spec::default(),
            id: id.to_owned(),
            state: state.to_owned(),
            submitted_ms: 1,
            finished_ms: (state == "succeeded").then_some(1_000),
            attempt_count: ends.len() as u32,
            attempts: (1..).zip(ends).map(attempt).collect(),
        }
    }

    fn ms(text: &str) -> String {
        // Rows below are in milliseconds.
        text.lines()
            .map(|line| {
                let mut fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
                fields[3].push_str("000000");
                fields.join(" ") + "\n"
            })
            .collect()
    }

    #[test]
    fn every_kind_of_wrong_is_found() {
        let done = Some(End::Exited { code: 0 });
        let good = "S a 1 10 -\nP a 1 20 -\nS a 2 30 -\nE a 2 40 x";
        let rows: [(&str, Vec<Task>, &str); 11] = [
            (good, vec![task("a", "succeeded", &[lost(), done.clone()])], ""),
            (
                "S a 1 10 -\nP a 1 35 -\nS a 2 30 -\nE a 2 40 x",
                vec![task("a", "succeeded", &[lost(), done.clone()])],
                "attempt 2 started 5 ms before attempt 1",
            ),
            (
                "S a 1 10 -\nS a 1 11 -\nE a 1 12 x",
                vec![task("a", "succeeded", std::slice::from_ref(&done))],
                "started 2 times",
            ),
            (good, vec![task("a", "running", &[lost(), None])], "is running"),
            (good, vec![], "acknowledged and is not there"),
            (good, vec![task("a", "succeeded", &[done.clone(), None])], "an earlier one had succeeded"),
            (good, vec![task("a", "succeeded", std::slice::from_ref(&done))], "attempt 2 ran, of 1"),
            (
                "S a 1 10 -",
                vec![task("a", "succeeded", std::slice::from_ref(&done))],
                "did not come to its end",
            ),
            ("S a 1 10 -\nE a 1 20 x", vec![task("a", "succeeded", &[lost()])], "none of its attempts did"),
            (
                "S a 1 2000 -\nE a 1 2001 x",
                vec![task("a", "succeeded", std::slice::from_ref(&done))],
                "started after the task was",
            ),
            ("", vec![task("a", "succeeded", std::slice::from_ref(&done))], "left no line"),
        ];
        for (text, tasks, expected) in rows {
            let runs = parse(&ms(text)).unwrap();
            let found = check(&runs, &tasks, &BTreeSet::from(["a".to_owned()])).violations;
            if expected.is_empty() {
                assert!(found.is_empty(), "{text:?}: {found:?}");
            } else {
                assert!(
                    found.iter().any(|line| line.contains(expected)),
                    "{text:?} should be {expected:?}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn cut_short_and_unheard_attempts_are_counted() {
        let runs = parse(&ms("S a 1 10 -\nS a 2 30 -\nE a 2 40 x\nS a 3 50 -\nE a 3 60 x")).unwrap();
        let tasks = [task("a", "succeeded", &[lost(), lost(), Some(End::Exited { code: 0 })])];
        let findings = check(&runs, &tasks, &BTreeSet::new());
        assert_eq!((findings.cut_short, findings.unheard, findings.violations), (1, 1, vec![]));
    }

    #[test]
    fn an_overlap_with_any_earlier_attempt_is_found() {
        let runs =
            parse(&ms("S a 1 10 -\nP a 1 90 -\nS a 2 20 -\nE a 2 30 x\nS a 3 50 -\nE a 3 60 x\nS b 1 55 -"));
        assert_eq!(overlaps(&runs.unwrap()).len(), 2);
    }

    #[test]
    fn a_line_that_is_being_written_does_not_count_and_garbage_is_refused() {
        assert_eq!(parse("S a 1 10 -\nE a 1").unwrap()[0].finished, None);
        assert!(parse("S a 1\n").is_err());
        assert!(parse("X a 1 10 -\n").is_err());
    }

    #[test]
    fn the_script_leaves_a_trace_that_can_be_read() {
        let dir = crate::run::cluster::RunDir::create(&std::env::temp_dir()).unwrap();
        let trace = Trace::create(dir.path()).unwrap();
        let argv = trace.argv(1, Some(&dir.path().join("attempt.sh")));
        let mut command = std::process::Command::new(&argv[0]);
        command.args(&argv[1..]).env("TASKD_TASK_ID", "a").env("TASKD_ATTEMPT", "3");
        crate::shell::run("the script", &mut command).unwrap();
        let runs = trace.read().unwrap();
        assert_eq!((runs.len(), runs[0].task.as_str(), runs[0].attempt, runs[0].starts), (1, "a", 3, 1));
        assert_eq!(runs[0].finished.as_ref().map(String::len), Some(64), "a SHA-256 in hexadecimal");
        assert!(runs[0].seen_ns - runs[0].started_ns >= 200_000_000);
    }
}
