//! The checker: a function of what was asked for, of what the tasks' own processes wrote down, and of what taskd says.
//!
//! What taskd says is never believed of an attempt's beginning or end: those are the processes' own words. It is needed
//! only for what no process can know, such as that a task was never to run.

mod rules;
#[cfg(test)]
mod tests;
mod ticks;

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde_json::Value;

use super::facts::{self, Facts, Run};
use super::job::Job;

/// A promise that a history can show to be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Every line makes sense.
    Malformed,
    /// What was acknowledged becomes final.
    Lost,
    /// Fenced attempts of one task never run at the same time.
    Overlap,
    /// No attempt starts twice.
    StartedTwice,
    /// No more run under a key than it allows: one under a lock.
    KeyOverfull,
    /// Nothing of a task runs once its end was acknowledged, be it success or a confirmed cancel.
    AfterTheEnd,
    /// A task starts after the end of what it waits for.
    TooEarly,
    /// It runs if, and only if, what it waits for ended as it should.
    Condition,
    /// Nothing is cancelled that nobody cancelled, nothing times out that may take its time.
    Unasked,
    /// One submission, one idempotency key, is one task.
    TwoTasks,
    /// What taskd says of an end is what the process said.
    Untrue,
    /// What ran was assigned.
    Unknown,
    /// Every tick is one task or a reason.
    TickSkipped,
    /// No tick is two tasks.
    TickTwice,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// By what, and what it means.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// A task as taskd shows it, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct View {
    /// Its id.
    pub id: String,
    /// Grows with every change.
    #[serde(default)]
    pub revision: u64,
    /// Where it stands.
    pub state: String,
    /// How many attempts there have been.
    pub attempt_count: u32,
    /// The newest of them.
    pub attempts: Vec<Attempt>,
    /// What was asked for.
    #[serde(default)]
    pub spec: Spec,
}

/// An attempt as taskd shows it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Attempt {
    /// From 1.
    pub number: u32,
    /// How it ended: a word, or an object with a word as its only key.
    #[serde(default)]
    pub end: Value,
}

/// What was asked for, as taskd shows it.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Spec {
    /// The job's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Where it comes from, if nobody submitted it.
    #[serde(default)]
    pub origin: Option<Origin>,
}

/// Where a schedule's task comes from.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Origin {
    /// The schedule.
    pub schedule: String,
    /// Its tick, in milliseconds since 1970.
    pub tick_ms: u64,
    /// It is none of the ticks.
    #[serde(default)]
    pub triggered: bool,
}

impl Attempt {
    /// With what its process is said to have exited.
    fn code(&self) -> Option<i64> {
        self.end.get("exited")?.get("code")?.as_i64()
    }
}

impl View {
    /// Whether nothing will happen to it any more.
    pub fn is_final(&self) -> bool {
        matches!(&*self.state, "succeeded" | "failed" | "cancelled" | "timed_out" | "lost" | "dead")
    }
}

/// A schedule as taskd shows it once it is paused.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ScheduleView {
    /// Its name, which is its tasks' job as well.
    pub name: String,
    /// When it was added: milliseconds since 1970.
    pub created_ms: u64,
    /// The newest tick that was decided.
    #[serde(default)]
    pub last: Option<Tick>,
    /// What became of its ticks.
    pub counts: Counts,
    /// Between two of its ticks, in seconds. Divides a minute.
    #[serde(skip)]
    pub every_s: u64,
    /// No tick of it may be skipped, for whatever reason.
    #[serde(skip)]
    pub all: bool,
}

/// A tick that was decided.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Tick {
    /// When it was due: milliseconds since 1970.
    pub at_ms: u64,
}

/// What became of a schedule's ticks.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Counts {
    /// Tasks.
    pub tasks: u64,
    /// Skipped, since the one before was not final.
    pub overlapped: u64,
    /// Skipped, since they were too late.
    pub missed: u64,
}

/// Everything that is known of a run.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// What was asked for.
    pub jobs: &'a [Job],
    /// What the processes and the observers wrote.
    pub history: &'a str,
    /// The last that taskd said of each task.
    pub views: &'a [View],
    /// Schedules, all of them paused.
    pub schedules: &'a [ScheduleView],
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Everything that must not be.
    pub violations: Vec<Violation>,
    /// Tasks that were acknowledged.
    pub acknowledged: usize,
    /// Tasks by their final state, ticks included.
    pub states: BTreeMap<String, usize>,
    /// Attempts whose process said that it starts.
    pub runs: usize,
    /// Of those, such that never came to their end.
    pub cut_short: usize,
    /// Of those, such that came to their end, and taskd says something else of them: their node or shim was killed.
    pub unheard: usize,
    /// Ticks that became tasks, that were skipped for an overlap, and that were missed.
    pub ticks: (u64, u64, u64),
    /// Attempts of tasks that may overlap, and did: `requeue-now` promises no fence.
    pub unfenced: usize,
}

impl Report {
    /// Whether a rule was broken.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ticks, overlapped, missed) = self.ticks;
        writeln!(
            f,
            "{} tasks acknowledged, {} attempts ran: {} were cut short, {} ended unheard; {} unfenced attempts overlapped",
            self.acknowledged, self.runs, self.cut_short, self.unheard, self.unfenced
        )?;
        writeln!(f, "ticks: {ticks} tasks, {overlapped} skipped since they overlapped, {missed} missed")?;
        writeln!(f, "states: {:?}", self.states)?;
        write!(f, "{} violations", self.violations.len())?;
        self.violations.iter().take(30).try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

/// Everything, with what is needed to find one's way in it.
struct Case<'a> {
    evidence: Evidence<'a>,
    facts: Facts,
    jobs: BTreeMap<&'a str, &'a Job>,
    views: BTreeMap<&'a str, &'a View>,
    /// Of each task, by their beginning.
    runs: BTreeMap<&'a str, Vec<&'a Run>>,
    found: Vec<Violation>,
}

impl Case<'_> {
    fn found(&mut self, rule: Rule, text: String) {
        self.found.push(Violation { rule, text });
    }
}

/// Applies every rule.
pub fn check(evidence: Evidence<'_>) -> Report {
    let facts = facts::parse(evidence.history);
    let mut runs: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    let all = facts.runs.clone();
    for run in &all {
        runs.entry(&run.task).or_default().push(run);
    }
    let jobs = evidence.jobs.iter().map(|job| (&*job.name, job)).collect();
    let mut views: BTreeMap<&str, &View> = BTreeMap::new();
    for view in evidence.views {
        let known = views.entry(&view.id).or_insert(view);
        if view.revision >= known.revision {
            *known = view;
        }
    }
    let mut case = Case { evidence, facts, jobs, views, runs, found: Vec::new() };
    let mut report = Report { runs: all.len(), ..Report::default() };
    rules::apply(&mut case, &mut report);
    report.ticks = ticks::apply(&mut case);
    report.acknowledged = case.facts.acknowledged.values().map(|ids| ids.len()).sum();
    for view in case.views.values() {
        *report.states.entry(view.state.clone()).or_default() += 1;
    }
    report.violations = case.found;
    report
}
