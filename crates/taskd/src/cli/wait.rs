//! `taskd task wait`.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use proto::TaskId;
use proto::task::{TaskState, TaskView};
use taskd::client::{CALL_DEADLINE, Client};
use tokio::time::Instant;

use super::args::WaitArgs;
use super::failure::Failure;
use super::follow::is_transient;
use super::output::{self, Output, Tone, json, line, pretty};
use crate::exit::Exit;

/// How long one call waits for news.
const POLL: Duration = Duration::from_secs(10);
/// The same where somebody sees how far they are, which is no news.
const POLL_SEEN: Duration = Duration::from_secs(1);
/// How long the cluster may be without an answer: several failovers.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pause after a call that was not answered.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) async fn run(client: &Client, output: Output, args: &WaitArgs) -> Result<Exit, Failure> {
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut tasks: BTreeMap<TaskId, TaskView> = BTreeMap::new();
    for id in &args.ids {
        let task = client.show(id).await?;
        tasks.insert(task.id, task);
    }
    let bar = ProgressBar::new(tasks.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} ended  {elapsed}  {msg}") {
        bar.set_style(style);
    }
    let poll = if output::progress_is_seen() { POLL_SEEN } else { POLL };
    let mut told: Vec<TaskId> = Vec::new();
    let mut answered = Instant::now();
    loop {
        tell(output, &bar, &tasks, &mut told)?;
        let open: Vec<_> =
            tasks.values().filter(|t| !t.state.is_final()).map(|t| (t.id, t.revision)).collect();
        if open.is_empty() {
            break;
        }
        let left =
            deadline.map_or(poll, |deadline| deadline.saturating_duration_since(Instant::now()).min(poll));
        if left.is_zero() {
            bar.finish_and_clear();
            return Err(Failure::new(
                Exit::Failure,
                format!("{} of {} tasks have not ended", open.len(), tasks.len()),
            ));
        }
        match client.watch(open, left).await {
            Ok(views) => {
                answered = Instant::now();
                tasks.extend(views.into_iter().map(|view| (view.id, view)));
            }
            Err(error) if is_transient(&error) && answered.elapsed() < PATIENCE + POLL + CALL_DEADLINE => {
                tokio::time::sleep(PAUSE.min(left)).await;
            }
            Err(error) => {
                bar.finish_and_clear();
                return Err(error.into());
            }
        }
    }
    bar.finish_and_clear();
    if output.is_json() {
        line(&pretty(&json(&tasks.values().collect::<Vec<_>>())))?;
    }
    let well = tasks.values().all(|task| task.state == TaskState::Succeeded);
    Ok(if well { Exit::Ok } else { Exit::Failure })
}

/// Says which tasks have ended since the last time.
fn tell(
    output: Output,
    bar: &ProgressBar,
    tasks: &BTreeMap<TaskId, TaskView>,
    told: &mut Vec<TaskId>,
) -> std::io::Result<()> {
    let ended: Vec<_> =
        tasks.values().filter(|task| task.state.is_final() && !told.contains(&task.id)).collect();
    for task in ended {
        told.push(task.id);
        bar.set_position(told.len() as u64);
        if !output.is_json() {
            let end = task.last_end().filter(|_| task.state != TaskState::Succeeded);
            let end = end.map(|end| format!("  {}", output::clean(&end.to_string()))).unwrap_or_default();
            let text = format!("{}  {}{end}", task.id, task.state);
            bar.suspend(|| line(&Tone::of(task.state).paint(&text)))?;
        }
    }
    let running = tasks.values().filter(|task| task.state == TaskState::Running).count();
    bar.set_message(format!("{running} running{}", furthest(tasks)));
    Ok(())
}

/// What one of them says of itself; the one that is least far, if there are several.
fn furthest(tasks: &BTreeMap<TaskId, TaskView>) -> String {
    let speaking = tasks.values().filter_map(|task| Some((task, task.progress.as_ref()?)));
    match speaking.min_by_key(|(_, progress)| progress.percent.unwrap_or(0)) {
        Some((_, progress)) if tasks.len() == 1 => format!(": {}", output::clean(&progress.to_string())),
        Some((task, progress)) => {
            let id = task.id.to_string();
            format!(", {} at {}", &id[..8], output::clean(&progress.to_string()))
        }
        None => String::new(),
    }
}
