//! What the tasks themselves saw: no two attempts of one task at a time, nothing after a success, nothing twice.

use std::collections::BTreeMap;

use crate::load::Task;

#[derive(Debug, Default)]
struct Run {
    starts: u32,
    /// Hundredths of a second since boot.
    started: u64,
    seen: u64,
    ended: bool,
}

/// Everything that must not be. `acknowledged` are the submissions that were accepted, `tasks` what the cluster knows.
pub(crate) fn check(trace: &str, acknowledged: &[String], tasks: &[Task]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut runs: BTreeMap<&str, BTreeMap<u32, Run>> = BTreeMap::new();
    // A last line without an end is still being written.
    for line in trace.rfind('\n').map_or("", |end| &trace[..end]).lines() {
        let Some((kind, task, attempt, at)) = parse(line) else {
            wrong.push(format!("{line:?} is not a line of a trace"));
            continue;
        };
        let run = runs.entry(task).or_default().entry(attempt).or_default();
        if run.starts == 0 {
            run.started = at;
        }
        run.starts += u32::from(kind == "S");
        run.seen = run.seen.max(at);
        run.ended |= kind == "E";
    }
    let known: BTreeMap<&str, &Task> = tasks.iter().map(|task| (task.id.as_str(), task)).collect();
    for id in acknowledged {
        match known.get(id.as_str()) {
            None => wrong.push(format!("task {id} was acknowledged and is not there")),
            Some(task) if !task.is_final() => {
                wrong.push(format!("task {id} was acknowledged and is still {}", task.state))
            }
            Some(task) if task.state == "succeeded" => {
                if !runs.get(id.as_str()).is_some_and(|runs| runs.values().any(|run| run.ended)) {
                    wrong.push(format!("task {id} succeeded, and none of its attempts came to its end"));
                }
            }
            Some(_) => {}
        }
    }
    for (task, runs) in &runs {
        let mut alive_until: Option<(u32, u64)> = None;
        for (attempt, run) in runs {
            if run.starts > 1 {
                wrong.push(format!("task {task}: attempt {attempt} started {} times", run.starts));
            }
            if known.get(task).is_some_and(|task| *attempt > task.attempt_count) {
                wrong
                    .push(format!("task {task}: attempt {attempt} ran, and the cluster does not know of it"));
            }
            if let Some((earlier, seen)) = alive_until.filter(|(_, seen)| run.started < *seen) {
                wrong.push(format!(
                    "task {task}: attempt {attempt} started {} ms before attempt {earlier} was last seen",
                    (seen - run.started) * 10
                ));
            }
            if alive_until.is_none_or(|(_, seen)| run.seen > seen) {
                alive_until = Some((*attempt, run.seen));
            }
        }
    }
    wrong
}

fn parse(line: &str) -> Option<(&str, &str, u32, u64)> {
    let fields: Vec<&str> = line.split(' ').collect();
    let &[kind, task, attempt, at] = &fields[..] else { return None };
    // "123.45" as hundredths: the kernel always writes two digits.
    let at = at.replace('.', "").parse().ok()?;
    matches!(kind, "S" | "P" | "E").then_some((kind, task, attempt.parse().ok()?, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_wrong_is_found() {
        let task = |state: &str, attempts| Task {
            id: "a".to_owned(),
            state: state.to_owned(),
            attempt_count: attempts,
        };
        let rows: [(&str, Vec<Task>, &str); 9] = [
            ("S a 1 1.00\nP a 1 1.20\nS a 2 1.20\nE a 2 1.40\n", vec![task("succeeded", 2)], ""),
            (
                "S a 1 1.00\nE a 1 1.40\nS a 2 1.30\n",
                vec![task("succeeded", 2)],
                "attempt 2 started 100 ms before",
            ),
            (
                "S a 1 1.00\nP a 1 9.00\nS a 2 10.00\nS a 3 12.00\nP a 2 13.00\n",
                vec![task("dead", 3)],
                "attempt 3",
            ),
            ("S a 1 1.00\nS a 1 1.00\nE a 1 1.20\n", vec![task("succeeded", 1)], "started 2 times"),
            ("S a 1 1.00\nE a 1 1.20\n", vec![], "not there"),
            ("S a 1 1.00\nE a 1 1.20\n", vec![task("running", 1)], "still running"),
            ("S a 1 1.00\n", vec![task("succeeded", 1)], "came to its end"),
            ("S a 1 1.00\nE a 1 1.20\nS a 2 3.00\n", vec![task("succeeded", 1)], "does not know of it"),
            ("S a 1 x\nE a 1 1.20\n", vec![task("succeeded", 1)], "not a line"),
        ];
        for (trace, tasks, expected) in rows {
            let found = check(trace, &["a".to_owned()], &tasks);
            if expected.is_empty() {
                assert!(found.is_empty(), "{trace:?}: {found:?}");
            } else {
                assert!(
                    found.iter().any(|line| line.contains(expected)),
                    "{trace:?}: {expected:?}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn a_line_that_is_being_written_does_not_count() {
        let task = Task { id: "a".to_owned(), state: "succeeded".to_owned(), attempt_count: 1 };
        assert!(check("S a 1 1.00\nE a 1 1.20\nS a", &["a".to_owned()], &[task]).is_empty());
    }
}
