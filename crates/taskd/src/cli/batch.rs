//! `taskd task submit --batch`: many tasks from a file, one JSON object per line, which may wait for one another.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use proto::TaskId;
use proto::api::{ApiErrorKind, Submission, Submitted};
use proto::placing::Term;
use proto::task::{Dependency, ExecPayload, Limit, LostPolicy, ResourceLimits, Retries, Rules, TaskSpec};
use serde::Deserialize;
use serde_json::Value;
use taskd::client::{Client, draw_id};

use super::args::{parse_condition, parse_umask, placing};
use super::failure::Failure;
use super::output::{self, Output};
use super::submit::{millis, since_1970};
use crate::exit::Exit;

/// Most tasks in one file.
const LINES_MAX: usize = 100_000;

/// Longest line: a payload, written as JSON.
const LINE_BYTES_MAX: usize = 4 * proto::PAYLOAD_BYTES_MAX;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(rename = "ref")]
    name_here: Option<String>,
    kind: Option<String>,
    command: Option<Vec<String>>,
    payload: Option<Value>,
    name: Option<String>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    retries: u32,
    #[serde(default, with = "humantime_serde")]
    retry_backoff: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    run_timeout: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    queue_timeout: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    progress_timeout: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    delay: Option<Duration>,
    at: Option<String>,
    #[serde(default)]
    after: BTreeMap<String, String>,
    #[serde(default)]
    locks: Vec<String>,
    #[serde(default)]
    limits: BTreeMap<String, u32>,
    #[serde(default)]
    no_retry_on: Vec<i32>,
    #[serde(default)]
    require: Vec<Term>,
    #[serde(default)]
    prefer: Vec<Term>,
    #[serde(default)]
    avoid: Vec<Term>,
    spread: Option<String>,
    slots: Option<u32>,
    #[serde(default)]
    on_lost: LostPolicy,
    idempotency_key: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    cwd: Option<String>,
    stdin: Option<String>,
    user: Option<String>,
    umask: Option<String>,
    #[serde(default)]
    resources: ResourceLimits,
}

/// A task of the file.
#[derive(Debug)]
struct Item {
    /// From 1.
    line: usize,
    name: Option<String>,
    /// Names of others in the file.
    after: Vec<String>,
    submission: Submission,
}

pub(super) async fn run(
    client: &Client,
    output: Output,
    path: &Path,
    within: Duration,
) -> Result<Exit, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let shown = path.display();
    let items = if path == Path::new("-") {
        parse(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).map_err(|error| usage(format!("{shown}: {error}")))?;
        parse(BufReader::new(file))
    };
    let items = items.and_then(in_order).map_err(|message| usage(format!("{shown}: {message}")))?;
    let submissions = items.iter().map(|item| item.submission.clone()).collect();
    let answers = client.submit_all(submissions, within).await?;
    report(output, &items, &answers)
}

/// Says what became of each, in the order of the file.
fn report(output: Output, items: &[Item], answers: &[Submitted]) -> Result<Exit, Failure> {
    let mut rows: Vec<(&Item, &Submitted)> = items.iter().zip(answers).collect();
    rows.sort_by_key(|(item, _)| item.line);
    let json = || {
        let tasks: Vec<Value> = rows
            .iter()
            .map(|(item, answer)| {
                let (id, existing, error) = match answer {
                    Submitted::Accepted { id } => (Some(id), false, None),
                    Submitted::Existing { id, .. } => (Some(id), *id != item.submission.id, None),
                    Submitted::Refused(error) => (None, false, Some(error)),
                };
                let id = id.map(ToString::to_string);
                serde_json::json!({
                    "line": item.line, "ref": item.name, "id": id, "existing": existing, "error": error,
                })
            })
            .collect();
        serde_json::json!({ "tasks": tasks })
    };
    let ids = || {
        let ids = rows.iter().filter_map(|(_, answer)| match answer {
            Submitted::Accepted { id } | Submitted::Existing { id, .. } => Some(id.to_string()),
            Submitted::Refused(_) => None,
        });
        ids.collect::<Vec<_>>().join("\n")
    };
    output.either(json, ids)?;
    let mut worst = None;
    let mut refused = 0;
    for (item, answer) in &rows {
        if let Submitted::Refused(error) = answer {
            refused += 1;
            if refused <= 10 {
                output::say(&format!("taskd: line {}: {}", item.line, output::clean(&error.message)));
            }
            // What nobody knows the fate of weighs most: the rest can be submitted again as it is.
            if worst.is_none() || error.kind == ApiErrorKind::Unknown {
                worst = Some(error.clone());
            }
        }
    }
    match worst {
        None => Ok(Exit::Ok),
        Some(mut error) => {
            error.message = format!("{refused} of {} tasks were not accepted", rows.len());
            Err(error.into())
        }
    }
}

fn parse(from: impl BufRead) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut from = from;
    for line in 1.. {
        let mut text = Vec::new();
        let mut limited = (&mut from).take(LINE_BYTES_MAX as u64 + 1);
        limited.read_until(b'\n', &mut text).map_err(|error| format!("line {line}: {error}"))?;
        if text.is_empty() {
            break;
        }
        if text.len() > LINE_BYTES_MAX {
            return Err(format!("line {line} has more than {LINE_BYTES_MAX} bytes"));
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if items.len() == LINES_MAX {
            return Err(format!("more than {LINES_MAX} tasks: submit them in several files"));
        }
        let parsed: Line = serde_json::from_slice(&text).map_err(|error| format!("line {line}: {error}"))?;
        items.push(item(line, parsed).map_err(|message| format!("line {line}: {message}"))?);
    }
    if items.is_empty() { Err("there is no task in it".to_owned()) } else { Ok(items) }
}

fn item(number: usize, line: Line) -> Result<Item, String> {
    let payload = payload(&line)?;
    let kind = line.kind.unwrap_or_else(|| "exec".to_owned());
    let mut spec = TaskSpec::new(kind, payload);
    spec.name = line.name;
    spec.priority = line.priority;
    spec.labels = line.labels;
    spec.retries = Retries { max: line.retries, ..Retries::default() };
    if let Some(backoff) = line.retry_backoff {
        spec.retries.backoff_ms = millis(backoff);
    }
    spec.run_timeout_ms = line.run_timeout.map(millis);
    spec.on_lost = line.on_lost;
    spec.idempotency_key = line.idempotency_key;
    let at = line.at.as_deref().map(|at| {
        let wrong = |error| format!("at {at:?}: {error}; use for example 2026-12-01T03:00:00Z");
        humantime::parse_rfc3339_weak(at).map(since_1970).map_err(wrong)
    });
    let locks = line.locks.into_iter().map(|key| Limit { key, max: 1 });
    let limits = line.limits.into_iter().map(|(key, max)| Limit { key, max });
    // Who is not in the file is a task by its id; the others get theirs once all are read.
    let mut after = Vec::new();
    for (name, on) in line.after {
        after.push((name, parse_condition(&on)?));
    }
    let rules = Rules {
        start_at_ms: at.transpose()?,
        delay_ms: line.delay.map(millis),
        queue_timeout_ms: line.queue_timeout.map(millis),
        after: after.iter().map(|(_, on)| Dependency { task: TaskId::from_u128(0), on: *on }).collect(),
        limits: locks.chain(limits).collect(),
        permanent_exit_codes: line.no_retry_on,
        progress_timeout_ms: line.progress_timeout.map(millis),
        placing: placing(line.require, line.prefer, line.avoid, line.spread, line.slots),
    };
    spec.rules = (rules != Rules::default()).then(|| Box::new(rules));
    spec.check().map_err(|error| error.to_string())?;
    let after = after.into_iter().map(|(name, _)| name).collect();
    Ok(Item { line: number, name: line.name_here, after, submission: Submission { id: draw_id(), spec } })
}

fn payload(line: &Line) -> Result<Vec<u8>, String> {
    let exec = line.kind.as_deref().unwrap_or("exec") == "exec";
    match (exec, &line.command, &line.payload) {
        (true, Some(argv), None) if !argv.is_empty() => {
            let exec = ExecPayload {
                argv: argv.clone(),
                env: line.env.clone(),
                cwd: line.cwd.clone(),
                stdin: line.stdin.clone(),
                user: line.user.clone(),
                umask: line.umask.as_deref().map(parse_umask).transpose()?,
                resources: line.resources,
            };
            serde_json::to_vec(&exec).map_err(|error| error.to_string())
        }
        (true, _, _) => Err("a task of kind exec has a \"command\", an array, and no \"payload\"".to_owned()),
        (false, Some(_), _) => Err("a \"command\" is for kind exec: give a \"payload\"".to_owned()),
        (false, None, None) => Ok(Vec::new()),
        (false, None, Some(Value::String(text))) => Ok(text.clone().into_bytes()),
        (false, None, Some(value)) => serde_json::to_vec(value).map_err(|error| error.to_string()),
    }
}

/// Names resolved, and everybody behind what it waits for.
fn in_order(mut items: Vec<Item>) -> Result<Vec<Item>, String> {
    let mut by_name: BTreeMap<String, usize> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        if let Some(name) = &item.name
            && let Some(other) = by_name.insert(name.clone(), index)
        {
            let (line, other) = (item.line, items[other].line);
            return Err(format!("line {line}: \"ref\" {name:?} is line {other}'s already"));
        }
    }
    // How many each waits for in the file, and who waits for each.
    let mut waits = vec![0_usize; items.len()];
    let mut behind: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
    for index in 0..items.len() {
        for (position, name) in items[index].after.clone().into_iter().enumerate() {
            let task = match by_name.get(&name) {
                Some(&other) => {
                    waits[index] += 1;
                    behind[other].push(index);
                    items[other].submission.id
                }
                None => name.parse().map_err(|_| {
                    let line = items[index].line;
                    format!(
                        "line {line}: \"after\" {name:?} is neither a \"ref\" of this file nor a whole task id"
                    )
                })?,
            };
            if let Some(rules) = &mut items[index].submission.spec.rules
                && let Some(dependency) = rules.after.get_mut(position)
            {
                dependency.task = task;
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..items.len()).filter(|&index| waits[index] == 0).collect();
    let mut order = Vec::with_capacity(items.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &next in &behind[index] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.insert(next);
            }
        }
    }
    if let Some(stuck) = (0..items.len()).find(|&index| waits[index] > 0) {
        return Err(format!("line {}: it waits for itself, by way of others", items[stuck].line));
    }
    let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|index| items[index].take()).collect())
}

#[cfg(test)]
mod tests {
    use proto::task::Condition;

    use super::*;

    fn read(text: &str) -> Result<Vec<Item>, String> {
        parse(text.as_bytes()).and_then(in_order)
    }

    #[test]
    fn a_graph_in_any_order_is_put_in_order() {
        let text = r#"
            {"ref": "c", "kind": "noop", "after": {"b": "always", "a": "failure"}}
            {"ref": "b", "kind": "noop", "after": {"a": "success"}, "locks": ["disk"], "limits": {"pool": 4}}

            {"ref": "a", "command": ["true"], "delay": "90s", "retries": 2, "no_retry_on": [2]}
        "#;
        let items = read(text).unwrap();
        let names: Vec<_> = items.iter().map(|item| (item.name.as_deref().unwrap(), item.line)).collect();
        assert_eq!(names, [("a", 5), ("b", 3), ("c", 2)]);
        let (a, b) = (items[0].submission.id, items[1].submission.id);
        let after = &items[2].submission.spec.rules().after;
        let expected =
            [Dependency { task: a, on: Condition::Failure }, Dependency { task: b, on: Condition::Always }];
        assert_eq!(*after, expected);
        let rules = items[0].submission.spec.rules();
        assert_eq!((rules.delay_ms, rules.permanent_exit_codes.as_slice()), (Some(90_000), &[2][..]));
        let limit = |key: &str, max| Limit { key: key.to_owned(), max };
        assert_eq!(items[1].submission.spec.rules().limits, [limit("disk", 1), limit("pool", 4)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let rows = [
            ("", "no task in it"),
            ("{\"kind\": \"noop\"}\n{\"kinds\": 1}", "line 2: unknown field `kinds`"),
            ("{}", "line 1: a task of kind exec has a \"command\""),
            ("{\"kind\": \"noop\", \"after\": {\"x\": \"success\"}}", "neither a \"ref\" of this file nor"),
            ("{\"kind\": \"noop\", \"ref\": \"a\", \"after\": {\"a\": \"always\"}}", "waits for itself"),
            (
                "{\"kind\": \"noop\", \"ref\": \"a\"}\n{\"kind\": \"noop\", \"ref\": \"a\"}",
                "is line 1's already",
            ),
            ("{\"kind\": \"noop\", \"priority\": 500}", "line 1: priority 500"),
            ("{\"kind\": \"noop\", \"after\": {\"a\": \"maybe\"}}", "use success, failure or always"),
            ("{\"kind\": \"noop\", \"at\": \"tomorrow\"}", "use for example 2026"),
        ];
        for (text, expected) in rows {
            let said = read(text).unwrap_err();
            assert!(said.contains(expected), "{text:?}: {said}");
        }
    }
}
