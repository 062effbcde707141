//! How often which request came to which result, so that a reader sees that the space is covered.

use std::collections::BTreeMap;
use std::fmt;

use super::observe::{Answer, Observed, replies};
use super::script::{Script, Step};

/// Requests by their name and the code of their reply; `None` is a connection that was closed instead.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    counts: BTreeMap<&'static str, BTreeMap<Option<i32>, u64>>,
    /// Watch events by their type.
    events: BTreeMap<i32, u64>,
    steps: BTreeMap<&'static str, u64>,
    pub(super) operations: u64,
    /// Scripts that were given up because the machine stood still for so long that a session may have ended by itself.
    pub(super) given_up: u64,
}

impl Tally {
    pub(super) fn count(&mut self, step: &Step, first_xid: i32, observed: &[Observed]) {
        for seen in observed {
            if let Observed::Event { kind, .. } = seen {
                *self.events.entry(*kind).or_default() += 1;
            }
        }
        let Step::Burst { calls, .. } = step else {
            self.operations += 1;
            *self.steps.entry(name(step)).or_default() += 1;
            return;
        };
        for (call, reply) in replies(calls, first_xid, observed) {
            self.operations += 1;
            // A multi that fails does so in its parts.
            let code = reply.map(|(err, answer)| match answer {
                Answer::Multi(parts) if err == 0 => {
                    parts.iter().find(|part| part.err != 0).map_or(0, |part| part.err)
                }
                _ => err,
            });
            *self.counts.entry(call.name()).or_default().entry(code).or_default() += 1;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, codes) in &other.counts {
            for (code, count) in codes {
                *self.counts.entry(name).or_default().entry(*code).or_default() += count;
            }
        }
        for (kind, count) in &other.events {
            *self.events.entry(*kind).or_default() += count;
        }
        for (step, count) in &other.steps {
            *self.steps.entry(step).or_default() += count;
        }
        self.operations += other.operations;
        self.given_up += other.given_up;
    }
}

/// The request in the first column; then its codes, the most frequent first.
impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, codes) in &self.counts {
            let total: u64 = codes.values().sum();
            let mut codes: Vec<_> = codes.iter().collect();
            codes.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let codes: Vec<String> = codes
                .into_iter()
                .map(|(code, count)| match code {
                    Some(0) => format!("ok {count}"),
                    Some(code) => format!("{code}: {count}"),
                    None => format!("no reply: {count}"),
                })
                .collect();
            writeln!(out, "{name:>20} {total:>8}  {}", codes.join("  "))?;
        }
        let counted = |counts: &mut dyn Iterator<Item = (String, u64)>| {
            counts.map(|(what, count)| format!("{what}: {count}")).collect::<Vec<_>>().join("  ")
        };
        let steps = counted(&mut self.steps.iter().map(|(step, count)| ((*step).to_owned(), *count)));
        writeln!(out, "{:>20} {:>8}  {steps}", "sessions", self.steps.values().sum::<u64>())?;
        let events = counted(&mut self.events.iter().map(|(kind, count)| (format!("type {kind}"), *count)));
        writeln!(out, "{:>20} {:>8}  {events}", "events", self.events.values().sum::<u64>())
    }
}

fn name(step: &Step) -> &'static str {
    match step {
        Step::Open { .. } => "opened",
        Step::Resume { .. } => "resumed",
        Step::Burst { .. } => "bursts",
        Step::Cut { .. } => "cut",
        Step::Expire { .. } => "expired",
        Step::Hello { .. } => "no hello",
        Step::Restart => "restarts",
    }
}

/// Operations in a script: requests, and steps that are none.
pub(super) fn operations(script: &Script) -> usize {
    let count = |step: &Step| match step {
        Step::Burst { calls, .. } => calls.len(),
        _ => 1,
    };
    script.0.iter().map(count).sum()
}
