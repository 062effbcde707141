//! The history of a run: one file that every task's process and every observer appends to.
//!
//! A line is one `write` to a file that is open for appending: the order of the lines is the order in which they were
//! written, on whichever node. No clock has to be believed; the stamps are for people.

use std::collections::{BTreeMap, BTreeSet};

/// What a task runs: it says when it starts, that it lives, and when it ends. Arguments: the history, its job, so many
/// fifths of a second, how many of its attempts fail, and `stubborn` if it does not heed SIGTERM.
///
/// Nothing is forked for the shortest ones, so that ten thousand of them are cheap. `/proc/uptime` is CLOCK_BOOTTIME.
pub const SCRIPT: &str = r#"#!/bin/sh
export PATH=/usr/local/bin:/usr/bin:/bin
history=$1 job=$2 pulses=$3 fails=$4
[ "$5" = stubborn ] && trap '' TERM
say() { read -r up _ </proc/uptime; echo "$1 $TASKD_TASK_ID $TASKD_ATTEMPT $job $up $TASKD_NODE $2" >>"$history" || exit 9; }
say S
while [ "$pulses" -gt 0 ]; do
    sleep 0.2
    pulses=$((pulses - 1))
    say P
done
code=0
[ "$TASKD_ATTEMPT" -le "$fails" ] && code=7
say E $code
exit $code
"#;

/// What a failing attempt ends with.
pub(super) const FAILS_WITH: i32 = 7;

/// One attempt, by what its own process wrote. Places are lines of the history, from 1.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) task: String,
    pub(super) attempt: u32,
    pub(super) job: String,
    pub(super) node: String,
    /// When it said that it starts: seconds since boot.
    pub(super) at: String,
    pub(super) started: usize,
    /// The last that was heard of it.
    pub(super) heard: usize,
    /// With what it was about to exit.
    pub(super) code: Option<i32>,
}

impl Run {
    /// For people.
    pub(super) fn what(&self) -> String {
        let Self { task, attempt, job, node, at, started, heard, .. } = self;
        format!("attempt {attempt} of {job} ({task}) on {node}, from {at} s, lines {started} to {heard}")
    }
}

/// The history, read.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// By their beginning.
    pub(super) runs: Vec<Run>,
    /// Ids that were acknowledged for each job.
    pub(super) acknowledged: BTreeMap<String, BTreeSet<String>>,
    /// Tasks whose cancelling was acknowledged.
    pub(super) cancelled: BTreeSet<String>,
    /// Where it was first known that a task is over, and how.
    pub(super) over: BTreeMap<String, (usize, String)>,
    /// Attempts that said twice that they start.
    pub(super) twice: Vec<String>,
    /// Lines that make no sense.
    pub(super) malformed: Vec<String>,
}

/// Reads a history. The end of the last line may be missing.
pub(super) fn parse(text: &str) -> Facts {
    let mut facts = Facts::default();
    let mut known: BTreeMap<(String, u32), usize> = BTreeMap::new();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    for (index, line) in text[..whole].lines().enumerate() {
        if take(&mut facts, &mut known, index + 1, line).is_none() {
            facts.malformed.push(format!("line {}: {line:?}", index + 1));
        }
    }
    facts
}

fn take(
    facts: &mut Facts,
    known: &mut BTreeMap<(String, u32), usize>,
    place: usize,
    line: &str,
) -> Option<()> {
    let mut words = line.split_ascii_whitespace();
    let (kind, first, second) = (words.next()?, words.next()?, words.next()?);
    match kind {
        "A" => drop(facts.acknowledged.entry(first.to_owned()).or_default().insert(second.to_owned())),
        "C" | "D" => {
            if kind == "C" {
                facts.cancelled.insert(first.to_owned());
            }
            // A reply that it is being cancelled says nothing about its end.
            if !matches!(second, "cancelling") {
                facts.over.entry(first.to_owned()).or_insert((place, second.to_owned()));
            }
        }
        "S" | "P" | "E" => {
            let attempt = second.parse().ok()?;
            let (job, at, node) = (words.next()?, words.next()?, words.next()?);
            let key = (first.to_owned(), attempt);
            let run = known.get(&key).copied().and_then(|index| facts.runs.get_mut(index));
            match (kind, run) {
                ("S", Some(run)) => {
                    facts.twice.push(format!("{}, and again on {node} at {at} s, line {place}", run.what()));
                }
                ("S", None) => {
                    known.insert(key, facts.runs.len());
                    let (task, job, node, at) =
                        (first.to_owned(), job.to_owned(), node.to_owned(), at.to_owned());
                    facts.runs.push(Run {
                        task,
                        attempt,
                        job,
                        node,
                        at,
                        started: place,
                        heard: place,
                        code: None,
                    });
                }
                (_, Some(run)) => {
                    run.heard = place;
                    if kind == "E" {
                        run.code = Some(words.next()?.parse().ok()?);
                    }
                }
                // It lives and never began.
                (_, None) => return None,
            }
        }
        _ => return None,
    }
    Some(())
}
