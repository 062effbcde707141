//! `taskd task`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use proto::task::Condition;

use super::{Common, ListArgs, ShowArgs, WorkArgs, parse_prefix};

/// Submit tasks, look at them, wait for them.
///
/// A task is named by its id or by any unique beginning of it (4 digits or more).
#[derive(Debug, Args)]
#[command(after_long_help = JSON_HELP)]
pub(in crate::cli) struct TaskArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: TaskCommand,
}

const JSON_HELP: &str = "\
With -o json (stable: fields may be added, none is renamed or removed):
  submit               {\"id\", \"existing\": bool}
  submit --batch       {\"tasks\": [{\"line\", \"ref\", \"id\", \"existing\",
                       \"error\"}…]}
  list                 {\"tasks\": [TASK…], \"total\": how many there are, or null
                       where a filter would have to look at each of them,
                       \"next\": cursor or null}
  show, cancel, retry  TASK
  show --timeline      {\"id\", \"state\", \"timeline\": [EVENT…],
                       \"gaps\": [SENTENCE…]}
  wait                 [TASK…]
  why                  {\"id\", \"state\", \"reason\", \"remedy\"}
  TASK     {\"id\", \"revision\", \"state\", \"spec\": SPEC, \"submitted_ms\",
            \"finished_ms\", \"not_before_ms\", \"attempt_count\",
            \"attempts\": [ATTEMPT…], \"waits_for\": [{\"task\", \"on\"}…],
            \"note\": why it ended, where no attempt tells,
            \"progress\": {\"percent\", \"message\"} while it runs, or null,
            \"checkpoint\" (text; by show alone)}
  SPEC     {\"kind\", \"payload\" (text), \"name\", \"priority\", \"labels\",
            \"retries\": {\"max\", \"backoff_ms\", \"backoff_ms_max\"},
            \"run_timeout_ms\", \"on_lost\", \"idempotency_key\",
            \"rules\": RULES or null, \"origin\": {\"schedule\", \"tick_ms\",
            \"triggered\": bool} or null}
  RULES    {\"start_at_ms\", \"delay_ms\", \"queue_timeout_ms\",
            \"after\": [{\"task\", \"on\": \"success\"|\"failure\"|\"always\"}…],
            \"limits\": [{\"key\", \"max\"}…], \"permanent_exit_codes\",
            \"progress_timeout_ms\",
            \"placing\": {\"require\": [TERM…], \"prefer\": [TERM…],
            \"spread\", \"slots\"}};
            those that are not set are left out
  ATTEMPT  {\"number\", \"node\", \"incarnation\", \"token\": {\"cluster\", \"epoch\"},
            \"grant\", \"assigned_ms\", \"started_ms\" (by its node's clock),
            \"ended_ms\", \"end\"}
  EVENT    {\"at_ms\", \"clock\": \"leader\"|\"node\", \"what\": \"submitted\"|
            \"scheduled\"|\"blocked\"|\"queued\"|\"assigned\"|\"started\"|
            \"attempt_ended\"|\"backing_off\"|\"cancel_asked\"|\"ended\",
            \"attempt\", \"node\", \"until_ms\", \"detail\"}
Times are milliseconds since 1970.";

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum TaskCommand {
    /// Submit a task; prints its id
    #[command(after_help = "\
Examples:
  taskd task submit -- sha256sum /etc/os-release
  taskd task submit --wait --run-timeout 10m --retries 3 -- scrub /dev/sdb
  taskd task submit --label zone=a --idempotency-key nightly-7 -- backup
  taskd task submit --kind sleep --payload '{\"ms\": 500}'
  taskd task submit --at 2026-12-01T03:00:00Z --lock array-7 -- scrub array-7
  taskd task submit --after 3f2a:failure -- undo-migration
  taskd task submit --require 'disk=ssd' --avoid zone=b --slots 4 -- scrub
  taskd task submit --spread copies -- copy part-7
  taskd task submit --stdin list.txt --memory 512M --open-files 256 -- import
  taskd task submit --progress-timeout 5m --retries 3 -- sh -c '
    i=${TASKD_CHECKPOINT:-0}; while [ $i -lt 100 ]; do copy-part $i; i=$((i+1))
    echo \"{\\\"percent\\\": $i, \\\"checkpoint\\\": $i}\" >&$TASKD_PROGRESS_FD; done'
  taskd task submit --batch tasks.jsonl

A file for --batch has one JSON object per line; \"ref\" names a task for the
\"after\" of others in the same file, in any order:
  {\"ref\": \"copy\", \"command\": [\"copy\", \"a\", \"b\"], \"locks\": [\"disk-b\"]}
  {\"ref\": \"undo\", \"command\": [\"rm\", \"b\"], \"after\": {\"copy\": \"failure\"}}
  {\"kind\": \"sleep\", \"payload\": {\"ms\": 5}, \"after\": {\"copy\": \"success\"},
   \"delay\": \"5m\", \"priority\": 3, \"retries\": 2, \"limits\": {\"pool\": 4}}
All of it is checked before any of it is sent. Other fields: name, labels,
retry_backoff, run_timeout, queue_timeout, at, no_retry_on, on_lost,
idempotency_key, env, cwd, progress_timeout, stdin, user, umask, resources, require, prefer, avoid, spread, slots.

A command says how it gets on by lines like {\"percent\": 40, \"message\": \"..\",
\"checkpoint\": ..} to the descriptor TASKD_PROGRESS_FD; its next attempt finds
the checkpoint in TASKD_CHECKPOINT (docs/protocol.md has all of it).

With --wait the task's output goes to stdout and the exit code is the task's
own: 128+N if signal N ended it, 125 if taskd could not do its part. Ctrl-C
ends the waiting, not the task.")]
    Submit(Box<SubmitArgs>),
    /// List tasks, newest first
    #[command(after_help = "\
Examples:
  taskd task list --state failed,dead,lost --since 1d
  taskd task list --ended-since 2026-12-01T03:00:00Z --node n2
  taskd task list --schedule nightly --limit 10
  taskd task list --name-prefix copy- --label zone=a -o json

All that is given has to apply. With more than --limit, it ends with a cursor
to go on with: --after CURSOR and the same filters. The cursor stays good
while tasks come and go, and through a change of the leader.")]
    List(Box<ListArgs>),
    /// Show one task with its attempts, or what happened to it with --timeline
    Show(ShowArgs),
    /// Say why a task is where it is, and what would change it
    Why(TaskId),
    /// Print a task's output (stdout and stderr as they came)
    Logs(LogsArgs),
    /// Cancel a task; it is cancelled once its processes are gone
    Cancel(TaskId),
    /// Wait until tasks have ended; fails if one ended without success
    Wait(WaitArgs),
    /// Queue a task again that ended without success, with a fresh budget of attempts
    Retry(TaskId),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TaskId {
    /// The task's id, or a unique beginning of it
    #[arg(value_name = "ID", value_parser = parse_prefix)]
    pub(in crate::cli) id: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SubmitArgs {
    #[command(flatten)]
    pub(in crate::cli) work: WorkArgs,
    /// Start it not before this time, for example 2026-12-01T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak, conflicts_with = "delay")]
    pub(in crate::cli) at: Option<std::time::SystemTime>,
    /// Start it once that task has succeeded, or has ended as said; otherwise it is cancelled (repeatable)
    #[arg(long, value_name = "ID[:success|failure|always]", value_parser = parse_after)]
    pub(in crate::cli) after: Vec<(String, Condition)>,
    /// A second submission with the same key returns the first one's task
    #[arg(long, value_name = "KEY")]
    pub(in crate::cli) idempotency_key: Option<String>,
    /// How long to try when no node or no leader answers
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) submit_timeout: Duration,
    /// Wait for the task, stream its output, and exit with its status
    #[arg(long)]
    pub(in crate::cli) wait: bool,
    /// Submit many at once: a file with one JSON object per line, or - for stdin
    #[arg(long, value_name = "FILE|-", conflicts_with_all = [
        "kind", "payload", "name", "priority", "retries", "retry_backoff", "retry_backoff_max", "no_retry_on",
        "run_timeout", "queue_timeout", "progress_timeout", "at", "delay", "after", "locks", "limits", "on_lost", "labels",
        "idempotency_key", "wait", "env", "cwd", "command", "require", "prefer", "avoid", "spread", "slots",
        "stdin", "user", "umask", "memory", "cpu_seconds", "open_files", "processes", "file_size",
    ])]
    pub(in crate::cli) batch: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct LogsArgs {
    #[command(flatten)]
    pub(in crate::cli) task: TaskId,
    /// Go on until the task has ended
    #[arg(short, long)]
    pub(in crate::cli) follow: bool,
    /// Which attempt, from 1 [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(in crate::cli) attempt: Option<u32>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct WaitArgs {
    /// The tasks' ids, or unique beginnings of them
    #[arg(value_name = "ID", required = true, value_parser = parse_prefix)]
    pub(in crate::cli) ids: Vec<String>,
    /// How long to wait [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) timeout: Option<Duration>,
}

fn parse_after(text: &str) -> Result<(String, Condition), String> {
    let (id, on) = text.split_once(':').unwrap_or((text, "success"));
    Ok((parse_prefix(id)?, parse_condition(on)?))
}

pub(in crate::cli) fn parse_condition(text: &str) -> Result<Condition, String> {
    match text {
        "success" => Ok(Condition::Success),
        "failure" => Ok(Condition::Failure),
        "always" => Ok(Condition::Always),
        _ => Err(format!("{text:?} is no way to end: use success, failure or always")),
    }
}
