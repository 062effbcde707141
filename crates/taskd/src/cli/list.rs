//! `taskd task list`: page after page until there are as many as were asked for.

use proto::task::TaskView;
use taskd::client::Client;

use super::args::ListArgs;
use super::failure::Failure;
use super::output::{self, Output, Tone, ago, json, table, title};
use crate::exit::Exit;

pub(super) async fn run(client: &Client, output: Output, args: &ListArgs) -> Result<Exit, Failure> {
    let limit = args.limit as usize;
    let mut tasks: Vec<TaskView> = Vec::new();
    let mut next = args.after.clone();
    let total = loop {
        let page = client.list(args.filter(tasks.len(), next.take())).await?;
        tasks.extend(page.tasks);
        next = page.next;
        if next.is_none() || tasks.len() >= limit {
            break page.total;
        }
    };
    let text = || {
        let rows: Vec<_> = tasks.iter().map(row).collect();
        table(&["ID", "STATE", "NODE", "ATTEMPTS", "PRIORITY", "AGE", "TASK"], &rows)
    };
    let structured = || serde_json::json!({ "tasks": tasks.iter().map(json).collect::<Vec<_>>(), "total": total, "next": next });
    output.either(structured, text)?;
    if let (false, Some(next)) = (output.is_json(), &next) {
        let shown = match total {
            Some(total) => format!("{} of {total} tasks", tasks.len()),
            None => format!("{} tasks", tasks.len()),
        };
        output::say(&format!("{shown}; more with --limit, or the next ones with --after {next}"));
    }
    Ok(Exit::Ok)
}

/// Its state, with how far it is.
fn standing(task: &TaskView) -> String {
    match task.progress.as_ref().and_then(|progress| progress.percent) {
        Some(percent) => format!("{} {percent}%", task.state),
        None => task.state.to_string(),
    }
}

fn row(task: &TaskView) -> (Tone, Vec<String>) {
    let node = task.attempts.last().map_or_else(|| "-".to_owned(), |attempt| attempt.node.to_string());
    let cells = vec![
        task.id.to_string(),
        standing(task),
        node,
        task.attempt_count.to_string(),
        task.spec.priority.to_string(),
        ago(task.submitted_ms),
        title(task),
    ];
    (Tone::of(task.state), cells)
}
