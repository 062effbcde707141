//! The rules about tasks, each on its own.

use std::collections::{BTreeMap, BTreeSet};

use super::super::facts::{FAILS_WITH, Run};
use super::super::job::{Condition, Job, Lost};
use super::{Case, Report, Rule, View};

pub(super) fn apply(case: &mut Case<'_>, report: &mut Report) {
    for text in std::mem::take(&mut case.facts.malformed) {
        case.found(Rule::Malformed, text);
    }
    for text in std::mem::take(&mut case.facts.twice) {
        case.found(Rule::StartedTwice, text);
    }
    lost(case);
    overlaps(case, report);
    keys(case);
    after_the_end(case);
    two_tasks(case);
    for (id, view) in case.views.clone() {
        truth(case, id, view, report);
    }
    unknown(case);
    for job in case.evidence.jobs {
        dependencies(case, job);
    }
}

impl<'a> Case<'a> {
    /// The task of a job: as acknowledged, or as found among what taskd knows.
    fn task_of(&self, job: &str) -> Option<&'a View> {
        let ids = self.facts.acknowledged.get(job)?;
        ids.iter().find_map(|id| self.views.get(&**id).copied())
    }

    fn runs_of(&self, id: &str) -> Vec<&'a Run> {
        self.runs.get(id).cloned().unwrap_or_default()
    }

    /// What was asked of a task by what its processes call themselves.
    fn job_of(&self, run: &Run) -> Option<&'a Job> {
        self.jobs.get(&*run.job).copied()
    }
}

fn lost(case: &mut Case<'_>) {
    let mut wrong = Vec::new();
    for (job, ids) in &case.facts.acknowledged {
        for id in ids {
            match case.views.get(&**id) {
                None => wrong.push(format!("{job} was acknowledged as {id}, and nobody knows it")),
                Some(view) if !view.is_final() => {
                    wrong.push(format!("{job} ({id}) was acknowledged, and is {} in the end", view.state));
                }
                Some(_) => {}
            }
        }
    }
    for text in wrong {
        case.found(Rule::Lost, text);
    }
}

/// Attempts of one task that ran at the same time.
fn overlaps(case: &mut Case<'_>, report: &mut Report) {
    let mut wrong = Vec::new();
    for runs in case.runs.values() {
        for pair in runs.windows(2) {
            let [first, second] = pair else { continue };
            if second.started > first.heard {
                continue;
            }
            if case.job_of(first).is_some_and(|job| job.lost == Lost::RequeueNow && job.limits.is_empty()) {
                report.unfenced += 1;
            } else {
                wrong.push(format!("{} ran beside {}", second.what(), first.what()));
            }
        }
    }
    for text in wrong {
        case.found(Rule::Overlap, text);
    }
}

/// More than a key allows.
fn keys(case: &mut Case<'_>) {
    let mut by_key: BTreeMap<&str, (u32, Vec<&Run>)> = BTreeMap::new();
    for runs in case.runs.values() {
        for run in runs {
            for (key, max) in case.job_of(run).map(|job| &job.limits[..]).unwrap_or_default() {
                by_key.entry(key).or_insert((*max, Vec::new())).1.push(run);
            }
        }
    }
    let mut wrong = Vec::new();
    for (key, (max, mut runs)) in by_key {
        runs.sort_by_key(|run| run.started);
        let mut holders: Vec<&Run> = Vec::new();
        for run in runs {
            holders.retain(|holder| holder.heard > run.started);
            if holders.len() >= max as usize {
                let others: Vec<_> = holders.iter().map(|holder| holder.what()).collect();
                wrong.push(format!(
                    "{} ran under {key}, which allows {max}, beside {}",
                    run.what(),
                    others.join("; ")
                ));
            }
            holders.push(run);
        }
    }
    for text in wrong {
        case.found(Rule::KeyOverfull, text);
    }
}

/// What ran although its task's end had been acknowledged.
fn after_the_end(case: &mut Case<'_>) {
    let mut wrong = Vec::new();
    for (id, (place, state)) in &case.facts.over {
        for run in case.runs.get(&**id).map(Vec::as_slice).unwrap_or_default() {
            let unfenced = case.job_of(run).is_some_and(|job| job.lost == Lost::RequeueNow);
            // One that was given up may go on; a new one may not begin.
            if run.started > *place || (run.heard > *place && !unfenced) {
                wrong.push(format!("it was known in line {place} that the task is {state}; {}", run.what()));
            }
        }
    }
    for text in wrong {
        case.found(Rule::AfterTheEnd, text);
    }
}

fn two_tasks(case: &mut Case<'_>) {
    let mut tasks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for run in case.runs.values().flatten() {
        tasks.entry(&run.job).or_default().insert(&run.task);
    }
    for view in case.views.values() {
        if let Some(name) = &view.spec.name {
            tasks.entry(name).or_default().insert(&view.id);
        }
    }
    for (job, ids) in &case.facts.acknowledged {
        tasks.entry(job).or_default().extend(ids.iter().map(|id| &**id));
    }
    let doubled = tasks.iter().filter(|(job, ids)| case.jobs.contains_key(*job) && ids.len() > 1);
    let doubled: Vec<_> =
        doubled.map(|(job, ids)| format!("{job} was submitted once and is {ids:?}")).collect();
    for text in doubled {
        case.found(Rule::TwoTasks, text);
    }
}

/// What taskd says of ends beside what the processes said.
fn truth(case: &mut Case<'_>, id: &str, view: &View, report: &mut Report) {
    let runs: BTreeMap<u32, &Run> = case.runs_of(id).into_iter().map(|run| (run.attempt, run)).collect();
    let name = view.spec.name.as_deref().unwrap_or_default();
    for attempt in &view.attempts {
        let said = runs.get(&attempt.number).and_then(|run| run.code);
        match attempt.code() {
            Some(code) if said.map(i64::from) != Some(code) => {
                let text = format!(
                    "attempt {} of {name} ({id}) is said to have exited with {code}; its process said {said:?}",
                    attempt.number
                );
                case.found(Rule::Untrue, text);
            }
            None if said.is_some() => report.unheard += 1,
            _ => {}
        }
    }
    report.cut_short += runs.values().filter(|run| run.code.is_none()).count();
    let ended_well = runs.values().any(|run| run.code == Some(0));
    match &*view.state {
        "succeeded" if !ended_well => {
            case.found(
                Rule::Untrue,
                format!("{name} ({id}) is said to have succeeded; no attempt of it did"),
            );
        }
        "failed" | "dead" if !view.attempts.iter().any(|attempt| !attempt.end.is_null()) => {
            case.found(
                Rule::Untrue,
                format!("{name} ({id}) is {} without an attempt that ended", view.state),
            );
        }
        "failed" if !runs.values().any(|run| run.code == Some(FAILS_WITH)) && !ended_otherwise(view) => {
            case.found(Rule::Untrue, format!("{name} ({id}) is said to have failed; no attempt of it did"));
        }
        "timed_out" if case.jobs.get(name).is_some_and(|job| job.run_timeout_ms.is_none()) => {
            case.found(Rule::Unasked, format!("{name} ({id}) timed out, and may take as long as it likes"));
        }
        "lost" if case.jobs.get(name).is_some_and(|job| job.lost != Lost::Fail) => {
            case.found(Rule::Unasked, format!("{name} ({id}) is lost, and was to be run again"));
        }
        _ => {}
    }
}

/// An attempt that a signal ended, or that could not be run, fails without a word.
fn ended_otherwise(view: &View) -> bool {
    view.attempts
        .iter()
        .any(|attempt| attempt.end.get("signaled").is_some() || attempt.end.get("failed").is_some())
}

/// What ran and was never assigned.
fn unknown(case: &mut Case<'_>) {
    let mut wrong = Vec::new();
    for (id, runs) in &case.runs {
        let Some(view) = case.views.get(id) else {
            // Nobody heard of its acceptance, and it was not among those that were looked at.
            continue;
        };
        for run in runs.iter().filter(|run| run.attempt > view.attempt_count) {
            wrong.push(format!("{}: there were {} attempts", run.what(), view.attempt_count));
        }
    }
    for text in wrong {
        case.found(Rule::Unknown, text);
    }
}

/// Whether a job ran when, and only when, it was to.
fn dependencies(case: &mut Case<'_>, job: &Job) {
    let Some(view) = case.task_of(&job.name).filter(|view| view.is_final()) else { return };
    let first = case.runs_of(&view.id).first().map(|run| run.started);
    let mut unmet = None;
    for (parent, on) in &job.after {
        let Some(other) = case.task_of(parent).filter(|other| other.is_final()) else { continue };
        let met = match on {
            Condition::Success => other.state == "succeeded",
            Condition::Failure => other.state != "succeeded",
            Condition::Always => true,
        };
        if !met {
            unmet = Some(format!("{parent} ({}) is {}, which is not {on:?}", other.id, other.state));
        }
        let runs = case.runs_of(&other.id);
        let fenced = case.jobs.get(&**parent).is_none_or(|job| job.lost != Lost::RequeueNow);
        let counts = runs.iter().filter(|run| fenced || run.attempt == other.attempt_count);
        if let (Some(first), Some(last)) = (first, counts.max_by_key(|run| run.heard))
            && first < last.heard
        {
            let text = format!(
                "{} ({}) started in line {first}, before the end of {}",
                job.name,
                view.id,
                last.what()
            );
            case.found(Rule::TooEarly, text);
        }
    }
    let asked = case.facts.cancelled.contains(&view.id) || job.cancel_after_ms.is_some();
    match unmet {
        Some(why) if view.state != "cancelled" || (first.is_some() && !asked) => {
            let ran = if first.is_some() { "ran" } else { "did not run" };
            let text = format!("{} ({}) {ran} and is {}, although {why}", job.name, view.id, view.state);
            case.found(Rule::Condition, text);
        }
        None if view.state == "cancelled" && !asked => {
            let rule = if job.after.is_empty() { Rule::Unasked } else { Rule::Condition };
            case.found(
                rule,
                format!("{} ({}) is cancelled, and there is no reason for it", job.name, view.id),
            );
        }
        _ => {}
    }
}
