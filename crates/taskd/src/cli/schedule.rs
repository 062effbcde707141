//! `taskd schedule`.

use proto::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, ScheduleSpec, ScheduleView, TickEnd};
use proto::task::ExecPayload;
use serde_json::json;
use taskd::client::{Client, draw_id, draw_schedule_id};

use super::args::AddArgs;
use super::failure::Failure;
use super::output::{self, Output, Tone, ago, date, fields, json, span, table};
use super::submit::{millis, work};
use crate::exit::Exit;

pub(super) async fn add(client: &Client, output: Output, args: &AddArgs) -> Result<Exit, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    let spec = ScheduleSpec {
        cron: args.cron.clone(),
        zone: args.zone.clone(),
        misfire: args.misfire.into(),
        misfire_grace_ms: millis(args.misfire_grace),
        overlap: args.overlap.into(),
        task: work(&args.work).map_err(usage)?,
    };
    spec.check().map_err(|error| usage(error.to_string()))?;
    let order = ScheduleOrder::Add {
        name: args.schedule.clone(),
        id: draw_schedule_id(),
        spec: Box::new(spec),
        replace: args.replace,
    };
    self::order(client, output, order).await
}

pub(super) async fn order(client: &Client, output: Output, order: ScheduleOrder) -> Result<Exit, Failure> {
    let (did, had) = match &order {
        ScheduleOrder::Add { replace: true, .. } => ("is there, with this content", "is like that already"),
        ScheduleOrder::Add { .. } => ("is added", "is there already, with the same content"),
        ScheduleOrder::Pause(_) => ("is paused", "was paused before"),
        ScheduleOrder::Resume(_) => ("goes on", "was not paused"),
        ScheduleOrder::Remove(_) => ("is removed; tasks of it that there are go on", "was not there"),
        ScheduleOrder::Trigger { .. } => ("was triggered", "was triggered before"),
    };
    let removed = matches!(order, ScheduleOrder::Remove(_));
    let ScheduleDone { changed, schedule, .. } = client.schedule_order(order).await?;
    let text = || {
        let next = schedule.next_ms.first().filter(|_| !removed);
        let next = next.map_or_else(String::new, |next| format!("; its next tick: {}", date(*next)));
        format!("schedule {} {}{next}", schedule.name, if changed { did } else { had })
    };
    output.either(|| json!({ "changed": changed, "schedule": json(&schedule) }), text)?;
    Ok(Exit::Ok)
}

pub(super) async fn trigger(client: &Client, output: Output, name: &ScheduleName) -> Result<Exit, Failure> {
    let task = draw_id();
    let done = client.schedule_order(ScheduleOrder::Trigger { name: name.clone(), task }).await?;
    output.either(
        || json!({ "task": task.to_string(), "schedule": json(&done.schedule) }),
        || task.to_string(),
    )?;
    if output::progress_is_seen() {
        output::say(&format!("follow it with: taskd task logs -f {}", &task.to_string()[..8]));
    }
    Ok(Exit::Ok)
}

pub(super) async fn list(client: &Client, output: Output) -> Result<Exit, Failure> {
    let schedules = client.schedules().await?;
    let text = || {
        if schedules.is_empty() {
            return "there are no schedules: see taskd schedule add --help".to_owned();
        }
        let rows: Vec<_> = schedules.iter().map(row).collect();
        table(&["NAME", "CRON", "ZONE", "NEXT", "LAST", "BECAME", "TASKS", "SKIPPED"], &rows)
    };
    output.either(|| json!({ "schedules": json(&schedules) }), text)?;
    Ok(Exit::Ok)
}

fn row(schedule: &ScheduleView) -> (Tone, Vec<String>) {
    let ScheduleView { name, spec, counts, .. } = schedule;
    let last = schedule.last.map_or_else(|| "-".to_owned(), |tick| format!("{} ago", ago(tick.at_ms)));
    let cells = vec![
        name.to_string(),
        spec.cron.clone(),
        spec.zone.clone(),
        next(schedule),
        last,
        became(schedule),
        counts.tasks.to_string(),
        (counts.overlapped + counts.missed).to_string(),
    ];
    let tone = match (&schedule.trouble, schedule.last_state) {
        (Some(_), _) => Tone::Bad,
        (None, Some(state)) if !schedule.paused => Tone::of(state),
        (None, _) => Tone::Plain,
    };
    (tone, cells)
}

fn next(schedule: &ScheduleView) -> String {
    match schedule.next_ms.first() {
        _ if schedule.paused => "paused".to_owned(),
        Some(next) => format!("in {}", span(next.saturating_sub(output::now_ms()))),
        None => "never".to_owned(),
    }
}

/// What became of the last tick, in a word.
fn became(schedule: &ScheduleView) -> String {
    match schedule.last.map(|tick| tick.end) {
        None => "-".to_owned(),
        Some(TickEnd::Task(_)) => {
            schedule.last_state.map_or_else(|| "forgotten".to_owned(), |state| state.to_string())
        }
        Some(TickEnd::Overlapped(_)) => "overlapped".to_owned(),
        Some(TickEnd::Missed) => "missed".to_owned(),
    }
}

pub(super) async fn show(client: &Client, output: Output, name: &ScheduleName) -> Result<Exit, Failure> {
    let schedule = client.schedule(name).await?;
    output.either(|| json(&schedule), || describe(&schedule))?;
    Ok(Exit::Ok)
}

fn describe(schedule: &ScheduleView) -> String {
    let ScheduleView { spec, counts, .. } = schedule;
    let task = &spec.task;
    let does = match serde_json::from_slice::<ExecPayload>(&task.payload) {
        Ok(payload) if task.kind == "exec" => payload.argv.join(" "),
        _ => format!("{} {}", task.kind, String::from_utf8_lossy(&task.payload)),
    };
    let mut rows = vec![
        ("name", schedule.name.to_string()),
        ("cron", format!("{} in {}", spec.cron, spec.zone)),
        ("runs", does),
        ("missed ticks", format!("{} (late by more than {})", spec.misfire, span(spec.misfire_grace_ms))),
        ("overlaps", spec.overlap.to_string()),
        ("added", format!("{} ({} ago)", date(schedule.created_ms), ago(schedule.created_ms))),
    ];
    if let Some(trouble) = &schedule.trouble {
        rows.push(("trouble", trouble.clone()));
    }
    if let Some(tick) = schedule.last {
        let end = match tick.end {
            TickEnd::Task(task) => format!("task {task}, which is {}", became(schedule)),
            TickEnd::Overlapped(task) => format!("skipped, since task {task} of a tick before was not final"),
            TickEnd::Missed => "skipped, since nobody could act on it in time".to_owned(),
        };
        rows.push(("last tick", date(tick.at_ms)));
        rows.push(("became", end));
    }
    let overlapped = format!("{} skipped since they overlapped", counts.overlapped);
    rows.push(("ticks", format!("{} tasks, {overlapped}, {} missed", counts.tasks, counts.missed)));
    if schedule.paused {
        rows.push(("next ticks", format!("none: it is paused; taskd schedule resume {}", schedule.name)));
    }
    let now = output::now_ms();
    for (index, next) in schedule.next_ms.iter().enumerate() {
        let what = if index == 0 { "next ticks" } else { "" };
        rows.push((what, format!("{} (in {})", date(*next), span(next.saturating_sub(now)))));
    }
    fields(&rows)
}
