//! Judges what the nodes of one machine wrote down: who had effects when, and whether they were entitled to.
//!
//! Every node of a test build appends facts to a file of its own (`drill::Drill::record`), one a line:
//! `<CLOCK_BOOTTIME in ns> <kind> <key>=<value>…`. All of them ran on one machine, so that their instants compare.
//!
//! ```text
//! epoch 4 of n1   claimed ──probe──probe──▶ sent + T − margin │            authority, as computed here
//!                    effect  effect  effect                   │            each inside of it …
//! epoch 5 of n2                                               claimed …    … and all of them before these
//! ```
//!
//! **Invariant** nothing is taken from a node's own opinion: a lease is what the send instants of its committed probes
//! and [`Timing`] make of it, and a probe counts from when its answer was written down.
//!
//! For that, whoever writes a fact down reads the clock on the safe side of what the fact stands for: *before* it looks
//! whether an effect is allowed, *before* it extends a lease, *after* it has dropped one. Otherwise a thread that is
//! preempted between the two would be taken for a violation.

mod fact;
mod report;
mod rules;
#[cfg(test)]
mod tests;

pub use report::{Gap, Report, Rule, Term, Violation};

use std::time::Duration;

/// The longest that a stop may take.
pub const STOP_MAX: Duration = Duration::from_secs(5);

/// The durations that decide for how long a committed probe entitles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// T: the negotiated session timeout.
    pub timeout: Duration,
    /// How much earlier authority ends.
    pub margin: Duration,
    /// The ensemble's tick.
    pub tick: Duration,
}

impl Timing {
    /// For how long a committed probe entitles, from its sending.
    pub fn term(&self) -> Duration {
        self.timeout.saturating_sub(self.margin)
    }

    /// Within what another node leads, from the end of whatever kept it from doing so.
    pub fn failover(&self) -> Duration {
        self.timeout + self.tick + Duration::from_millis(500)
    }
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It still ran when its history was read.
    Running,
    /// It ended by itself after an orderly stop: whatever it had opened is closed.
    Stopped,
    /// It ended itself because a part of it would not: what it had opened is abandoned.
    GaveUp,
    /// It was killed.
    Killed,
}

impl End {
    /// Whether everything that was opened has to be closed by now.
    fn is_orderly(self) -> bool {
        self == Self::Stopped
    }

    /// Whether it may have been in the middle of a line.
    fn tears(self) -> bool {
        self != Self::Stopped
    }
}

/// The history of one process, from its start to its end.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node's id. A node that was restarted has several lives, each with a file of its own.
    pub node: String,
    /// What it wrote down.
    pub text: String,
    /// How it ended.
    pub end: End,
}

impl Life {
    /// A life as its file has it.
    pub fn new(node: impl Into<String>, text: impl Into<String>, end: End) -> Self {
        Self { node: node.into(), text: text.into(), end }
    }

    /// A life from lines, as `drill::Drill::history` has them.
    pub fn of_lines(node: impl Into<String>, lines: &[String], end: End) -> Self {
        let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        Self::new(node, text, end)
    }
}

/// Merges the histories of one machine and reports everything in them that must not be.
///
/// Of a process that did not stop in an orderly way a last line without an end does not count; any other line that makes
/// no sense is a violation, since a rule could be blind for what it says.
pub fn check(lives: &[Life], timing: Timing) -> Report {
    let mut violations = Vec::new();
    let mut parsed = Vec::new();
    for life in lives {
        let (facts, errors) = fact::parse(life);
        violations.extend(
            errors
                .into_iter()
                .map(|error| Violation { rule: Rule::Malformed, text: format!("{}: {error}", life.node) }),
        );
        parsed.push(rules::Parsed { node: &life.node, end: life.end, facts });
    }
    // The same whatever the order in which the histories were read.
    parsed.sort_by_key(|life| (life.facts.first().map(|(at, _)| *at), life.node));
    let mut report = rules::apply(&parsed, timing);
    violations.append(&mut report.violations);
    Report { violations, ..report }
}
