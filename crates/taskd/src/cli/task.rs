//! `taskd task show`, `why`, `cancel` and `retry`.

use proto::task::{Attempt, TaskState, TaskView};
use taskd::client::Client;

use super::args::{ShowArgs, TaskId};
use super::failure::Failure;
use super::output::{self, Output, Tone, ago, date, fields, json, span, table};
use super::timeline::Timeline;
use crate::exit::Exit;

pub(super) async fn show(client: &Client, output: Output, args: &ShowArgs) -> Result<Exit, Failure> {
    let task = client.show(&args.task.id).await?;
    if args.timeline {
        let timeline = Timeline::of(&task);
        output.either(|| json(&timeline), || timeline.text())?;
        return Ok(Exit::Ok);
    }
    output.either(|| json(&task), || describe(&task))?;
    Ok(Exit::Ok)
}

fn describe(task: &TaskView) -> String {
    let spec = &task.spec;
    let mut rows = vec![
        ("id", task.id.to_string()),
        ("state", task.state.to_string()),
        ("kind", spec.kind.clone()),
        ("payload", payload(&spec.payload)),
        ("priority", spec.priority.to_string()),
        ("retries", spec.retries.max.to_string()),
        ("on lost", spec.on_lost.to_string()),
        ("submitted", format!("{} ({} ago)", date(task.submitted_ms), ago(task.submitted_ms))),
    ];
    if let Some(progress) = &task.progress {
        rows.insert(2, ("progress", progress.to_string()));
    }
    if let Some(checkpoint) = &task.checkpoint {
        rows.push(("checkpoint", payload(checkpoint.as_bytes())));
    }
    if let Some(name) = &spec.name {
        rows.insert(1, ("name", name.clone()));
    }
    if let Some(origin) = &spec.origin {
        let (how, at) = (if origin.triggered { "triggered at" } else { "tick of" }, date(origin.tick_ms));
        rows.push(("schedule", format!("{}, {how} {at}", origin.schedule)));
    }
    if let Some(ms) = spec.run_timeout_ms {
        rows.push(("run timeout", span(ms)));
    }
    if !spec.labels.is_empty() {
        let labels: Vec<_> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        rows.push(("labels", labels.join(", ")));
    }
    if let Some(key) = &spec.idempotency_key {
        rows.push(("idempotency key", key.clone()));
    }
    if let Some(ms) = task.finished_ms {
        rows.push((
            "finished",
            format!("{} (after {})", date(ms), span(ms.saturating_sub(task.submitted_ms))),
        ));
    }
    rows.extend(rules(task));
    let waits = matches!(task.state, TaskState::Scheduled | TaskState::Retrying);
    if let Some(ms) = task.not_before_ms.filter(|_| waits) {
        rows.push(("next attempt", format!("in {}", span(ms.saturating_sub(output::now_ms())))));
    }
    let mut text = fields(&rows);
    if !task.attempts.is_empty() {
        let attempts: Vec<_> = task.attempts.iter().map(attempt).collect();
        text.push_str("\n\n");
        text.push_str(&table(&["ATTEMPT", "NODE", "EPOCH", "ASSIGNED", "TOOK", "END"], &attempts));
    }
    text
}

/// When it may start, and what ends it early.
fn rules(task: &TaskView) -> Vec<(&'static str, String)> {
    let rules = task.spec.rules();
    let mut rows = Vec::new();
    for dependency in &rules.after {
        let open = if task.waits_for.contains(dependency) { ", which is awaited" } else { "" };
        rows.push(("after", format!("task {} {}{open}", dependency.task, dependency.on)));
    }
    for limit in &rules.limits {
        match limit.max {
            1 => rows.push(("lock", limit.key.clone())),
            max => rows.push(("limit", format!("{}={max}", limit.key))),
        }
    }
    if let Some(ms) = rules.start_at_ms {
        rows.push(("not before", date(ms)));
    }
    if let Some(ms) = rules.delay_ms {
        rows.push(("delay", span(ms)));
    }
    if let Some(ms) = rules.progress_timeout_ms {
        rows.push(("progress timeout", span(ms)));
    }
    if let Some(ms) = rules.queue_timeout_ms {
        rows.push(("queue timeout", span(ms)));
    }
    if !rules.permanent_exit_codes.is_empty() {
        let codes: Vec<_> = rules.permanent_exit_codes.iter().map(ToString::to_string).collect();
        rows.push(("no retry on", format!("exit {}", codes.join(", "))));
    }
    if let Some(note) = &task.note {
        rows.push(("ended because", output::clean(note).to_string()));
    }
    rows
}

fn attempt(attempt: &Attempt) -> (Tone, Vec<String>) {
    let ended_ms = attempt.ended_ms.unwrap_or_else(output::now_ms);
    let tone = match &attempt.end {
        None => Tone::Busy,
        Some(end) if end.is_success() => Tone::Good,
        Some(_) => Tone::Bad,
    };
    let cells = vec![
        attempt.number.to_string(),
        attempt.node.to_string(),
        attempt.token.epoch.to_string(),
        date(attempt.assigned_ms),
        span(ended_ms.saturating_sub(attempt.assigned_ms)),
        attempt.end.as_ref().map_or_else(|| "running".to_owned(), ToString::to_string),
    ];
    (tone, cells)
}

fn payload(payload: &[u8]) -> String {
    const CHARS_MAX: usize = 200;
    match std::str::from_utf8(payload) {
        Ok("") => "-".to_owned(),
        Ok(text) if text.chars().count() <= CHARS_MAX => text.to_owned(),
        Ok(text) => {
            let beginning: String = text.chars().take(CHARS_MAX).collect();
            format!("{beginning}… ({}; see -o json)", output::bytes(payload.len() as u64))
        }
        Err(_) => format!("{} that are no text", output::bytes(payload.len() as u64)),
    }
}

pub(super) async fn why(client: &Client, output: Output, args: &TaskId) -> Result<Exit, Failure> {
    let why = client.why(&args.id).await?;
    let text = || {
        let mut text =
            format!("{}: {}", Tone::of(why.state).paint(why.state.as_str()), output::clean(&why.reason));
        if let Some(remedy) = &why.remedy {
            text.push_str(&format!("\nto change it: {}", output::clean(remedy)));
        }
        text
    };
    output.either(|| json(&why), text)?;
    Ok(Exit::Ok)
}

pub(super) async fn cancel(client: &Client, output: Output, args: &TaskId) -> Result<Exit, Failure> {
    let task = client.cancel(&args.id).await?;
    changed(output, &task)?;
    if task.state == TaskState::Cancelling && output::progress_is_seen() {
        output::say("its processes are being ended; it is cancelled once they are gone");
    }
    Ok(Exit::Ok)
}

pub(super) async fn retry(client: &Client, output: Output, args: &TaskId) -> Result<Exit, Failure> {
    let task = client.retry(&args.id).await?;
    changed(output, &task)?;
    Ok(Exit::Ok)
}

fn changed(output: Output, task: &TaskView) -> std::io::Result<()> {
    output
        .either(|| json(task), || format!("{}  {}", task.id, Tone::of(task.state).paint(task.state.as_str())))
}
