//! Every tick is one task, or a reason.

use std::collections::{BTreeMap, BTreeSet};

use super::{Case, Rule, ScheduleView};

/// What became of all ticks: tasks, overlapped, missed.
pub(super) fn apply(case: &mut Case<'_>) -> (u64, u64, u64) {
    let mut sums = (0, 0, 0);
    for schedule in case.evidence.schedules {
        let counts = schedule.counts;
        sums.0 += counts.tasks;
        sums.1 += counts.overlapped;
        sums.2 += counts.missed;
        one(case, schedule);
    }
    sums
}

fn one(case: &mut Case<'_>, schedule: &ScheduleView) {
    let (name, counts) = (&schedule.name, schedule.counts);
    let mut ticks: BTreeMap<u64, &str> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let mut twice = Vec::new();
    for (id, view) in &case.views {
        let Some(origin) = view.spec.origin.as_ref().filter(|origin| origin.schedule == *name) else {
            continue;
        };
        known.insert(*id);
        if origin.triggered {
            continue;
        }
        if let Some(other) = ticks.insert(origin.tick_ms, id) {
            twice.push(format!("the tick {} of {name} is {other} and {id}", origin.tick_ms));
        }
    }
    for text in twice {
        case.found(Rule::TickTwice, text);
    }
    let step = schedule.every_s * 1_000;
    let first = (schedule.created_ms / step + 1) * step;
    let last = schedule.last.as_ref().map_or(first.saturating_sub(step), |last| last.at_ms);
    let expected = (last + step).saturating_sub(first) / step;
    let decided = counts.tasks + counts.overlapped + counts.missed;
    if decided != expected {
        let text = format!(
            "{name} had {expected} ticks from {first} to {last}, and gives account of {decided}: {counts:?}"
        );
        case.found(Rule::TickSkipped, text);
    }
    if schedule.all && counts.tasks != expected {
        let text = format!("{name} was to make good every one of {expected} ticks: {counts:?}");
        case.found(Rule::TickSkipped, text);
    }
    let there = ticks.len() as u64;
    if there < counts.tasks {
        let absent = (0..expected).map(|n| first + n * step).filter(|tick| !ticks.contains_key(tick)).take(5);
        let absent: Vec<_> = absent.collect();
        let text = format!(
            "{name} says that {} ticks became tasks; there are {there}, and none of {absent:?}",
            counts.tasks
        );
        case.found(Rule::TickSkipped, text);
    } else if there > counts.tasks {
        let text = format!("{name} says that {} ticks became tasks, and there are {there}", counts.tasks);
        case.found(Rule::TickTwice, text);
    }
    let strange: Vec<_> =
        ticks.keys().filter(|tick| **tick % step != 0 || **tick < first || **tick > last).copied().collect();
    if !strange.is_empty() {
        case.found(Rule::TickTwice, format!("{name} has tasks of what is no tick of it: {strange:?}"));
    }
    // Whatever ran in its name.
    let ran: BTreeSet<&str> =
        case.facts.runs.iter().filter(|run| run.job == *name).map(|run| run.task.as_str()).collect();
    let unknown: Vec<String> = ran.difference(&known).take(5).map(|id| (*id).to_owned()).collect();
    if !unknown.is_empty() {
        case.found(Rule::TickTwice, format!("tasks ran for {name} that nobody knows: {unknown:?}"));
    }
}
