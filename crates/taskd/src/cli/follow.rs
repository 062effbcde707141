//! The output of a task, as it comes: `taskd task logs` and `taskd task submit --wait`.

use std::time::Duration;

use proto::api::ApiErrorKind;
use proto::task::{AttemptEnd, TaskView};
use proto::{NodeId, TaskId};
use taskd::client::{CallError, Client};
use tokio::time::Instant;

use super::args::LogsArgs;
use super::failure::Failure;
use super::output::{self, Output, raw};
use crate::exit::Exit;

/// Output asked for at a time.
const CHUNK_BYTES: u32 = 256 * 1024;
/// Pause between looks at a task that writes.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
/// Pause between looks at one that has been quiet.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the cluster may be without an answer: several failovers.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the last output of a task that has ended may take to appear.
const TAIL_WITHIN: Duration = Duration::from_secs(5);

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// All that the task ever wrote.
    FirstAttempt,
    /// What its newest attempt wrote.
    NewestAttempt,
    /// This one alone.
    Only(u32),
}

pub(super) async fn logs(client: &Client, output: Output, args: &LogsArgs) -> Result<Exit, Failure> {
    if output.is_json() {
        return Err(Failure::new(Exit::Usage, "output is bytes and has no JSON form: leave -o json out"));
    }
    let id = &args.task.id;
    if args.follow {
        let task = client.show(id).await?;
        let from = args.attempt.map_or(From::NewestAttempt, From::Only);
        follow(client, task.id, from).await?;
        return Ok(Exit::Ok);
    }
    let mut offset = 0;
    loop {
        let chunk = client.output(id, args.attempt.unwrap_or(0), offset, CHUNK_BYTES).await?;
        note_gap(offset, chunk.offset);
        offset = chunk.offset + chunk.bytes.len() as u64;
        raw(&chunk.bytes)?;
        if chunk.complete || chunk.bytes.is_empty() {
            return Ok(Exit::Ok);
        }
    }
}

/// What has been printed of which attempt.
struct Printed {
    attempt: u32,
    offset: u64,
    complete: bool,
}

/// Prints a task's output until it has ended and all of it is printed. Answers that stay away are waited for, because
/// the cluster may be choosing another leader.
pub(super) async fn follow(client: &Client, task: TaskId, from: From) -> Result<TaskView, Failure> {
    let mut printed = Printed { attempt: 0, offset: 0, complete: false };
    let (mut revision, mut pause) = (0, PAUSE_FIRST);
    let mut silent_since = None;
    let mut final_since = None;
    let mut said = None;
    loop {
        let view = match client.watch(vec![(task, revision)], pause).await {
            Ok(views) => views.into_iter().next().ok_or_else(|| gone(task))?,
            Err(error) if is_transient(&error) => {
                let since = *silent_since.get_or_insert_with(|| {
                    output::say("taskd: the cluster does not answer; still waiting");
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(error.into());
                }
                tokio::time::sleep(PAUSE_MAX).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if silent_since.take().is_some() {
            output::say("taskd: the cluster answers again");
        }
        revision = view.revision;
        if output::progress_is_seen() && said != view.progress {
            if let Some(progress) = &view.progress {
                output::say(&format!("taskd: {}", output::clean(&progress.to_string())));
            }
            said.clone_from(&view.progress);
        }
        if printed.attempt == 0 {
            printed.attempt = match from {
                From::FirstAttempt => view.attempt_count.min(1),
                From::NewestAttempt => view.attempt_count,
                From::Only(attempt) => attempt,
            };
        }
        let wrote = printed.attempt > 0 && print_more(client, &view, &mut printed).await?;
        let last = matches!(from, From::Only(_)) || printed.attempt >= view.attempt_count;
        if printed.complete && !last {
            printed = Printed { attempt: printed.attempt + 1, offset: 0, complete: false };
            continue;
        }
        if view.state.is_final() {
            let since = *final_since.get_or_insert_with(Instant::now);
            if printed.attempt == 0 || printed.complete {
                return Ok(view);
            }
            if since.elapsed() > TAIL_WITHIN {
                let node = node_of(&view, printed.attempt).map(|node| format!(" from {node}"));
                output::say(&format!(
                    "taskd: the rest of the output of attempt {} cannot be read{}",
                    printed.attempt,
                    node.unwrap_or_default()
                ));
                return Ok(view);
            }
            // A final task is answered for at once.
            tokio::time::sleep(pause).await;
        }
        pause = if wrote { PAUSE_FIRST } else { (pause * 2).min(PAUSE_MAX) };
    }
}

/// Prints what there is by now; whether there was anything.
async fn print_more(client: &Client, view: &TaskView, printed: &mut Printed) -> Result<bool, Failure> {
    let mut wrote = false;
    while !printed.complete {
        match client.output(&view.id.to_string(), printed.attempt, printed.offset, CHUNK_BYTES).await {
            Ok(chunk) => {
                note_gap(printed.offset, chunk.offset);
                printed.offset = chunk.offset + chunk.bytes.len() as u64;
                printed.complete = chunk.complete;
                raw(&chunk.bytes)?;
                if chunk.bytes.is_empty() {
                    break;
                }
                wrote = true;
            }
            Err(error) => {
                let end =
                    view.attempts.iter().find(|a| a.number == printed.attempt).and_then(|a| a.end.as_ref());
                let never_ran = matches!(end, Some(AttemptEnd::Failed { .. }));
                if never_ran && error.kind() == Some(ApiErrorKind::NotFound) {
                    // What could not be run has no output to wait for.
                    printed.complete = true;
                } else if end.is_some() && printed.attempt < view.attempt_count {
                    // An attempt that another one followed will not write any more; the node that has it may be gone.
                    output::say(&format!("taskd: the output of attempt {}: {error}", printed.attempt));
                    printed.complete = true;
                }
                break;
            }
        }
    }
    Ok(wrote)
}

fn note_gap(asked: u64, got: u64) {
    if got > asked {
        output::say(&format!("taskd: {} of older output were dropped here", output::bytes(got - asked)));
    }
}

fn node_of(view: &TaskView, attempt: u32) -> Option<&NodeId> {
    view.attempts.iter().find(|a| a.number == attempt).map(|a| &a.node)
}

fn gone(task: TaskId) -> Failure {
    Failure::new(Exit::NotFound, format!("task {task} is not remembered any more"))
}

/// Whether another node, or this one later, may answer.
pub(super) fn is_transient(error: &CallError) -> bool {
    match error.kind() {
        Some(kind) => matches!(kind, ApiErrorKind::NoLeader | ApiErrorKind::Unknown | ApiErrorKind::Internal),
        None => true,
    }
}
