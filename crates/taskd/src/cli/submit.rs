//! `taskd task submit`.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::PAYLOAD_BYTES_MAX;
use proto::api::{Submission, Submitted};
use proto::task::{
    AttemptEnd, Condition, Dependency, ExecPayload, Limit, Retries, Rules, TaskSpec, TaskState, TaskView,
};
use taskd::client::{Client, draw_id};

use super::args::{SubmitArgs, WorkArgs};
use super::failure::Failure;
use super::follow::{From, follow};
use super::output::{self, Output};
use crate::exit::Exit;

pub(super) async fn run(client: &Client, output: Output, args: &SubmitArgs) -> Result<Exit, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, message);
    if args.wait && output.is_json() {
        return Err(usage(
            "--wait prints the task's output, which has no JSON form: leave one of them out".into(),
        ));
    }
    if let Some(path) = &args.batch {
        return super::batch::run(client, output, path, args.submit_timeout).await;
    }
    let mut spec = spec(args).map_err(usage)?;
    wait_for(client, &mut spec, &args.after).await?;
    let outcome = submit(client, output, args, spec).await;
    if args.wait { outcome.map_err(|failure| failure.ending(Exit::Own)) } else { outcome }
}

async fn submit(client: &Client, output: Output, args: &SubmitArgs, spec: TaskSpec) -> Result<Exit, Failure> {
    let drawn = draw_id();
    let submission = Submission { id: drawn, spec };
    let answer = client.submit_all(vec![submission], args.submit_timeout).await?.into_iter().next();
    let (id, existing) = match answer {
        Some(Submitted::Accepted { id }) => (id, None),
        // Our own, whose first answer was lost.
        Some(Submitted::Existing { id, .. }) if id == drawn => (id, None),
        Some(Submitted::Existing { id, state }) => (id, Some(state)),
        Some(Submitted::Refused(error)) => return Err(error.into()),
        None => return Err(Failure::new(Exit::Unknown, "the node did not say what became of the task")),
    };
    if let Some(state) = existing {
        output::say(&format!("taskd: this key was submitted before, as task {id}, which is {state}"));
    }
    if !args.wait {
        output.either(
            || serde_json::json!({ "id": id.to_string(), "existing": existing.is_some() }),
            || id.to_string(),
        )?;
        if output::progress_is_seen() {
            output::say(&format!("follow it with: taskd task logs -f {}", &id.to_string()[..8]));
        }
        return Ok(Exit::Ok);
    }
    tokio::select! {
        biased;
        _ = tokio::signal::ctrl_c() => {
            output::say(&format!("\ntaskd: task {id} goes on; to end it: taskd task cancel {id}"));
            Ok(Exit::Interrupted)
        }
        ended = follow(client, id, From::FirstAttempt) => {
            let task = ended?;
            let exit = status(&task);
            if task.state != TaskState::Succeeded {
                let end = task.note.clone().or_else(|| task.last_end().map(ToString::to_string));
                let end = end.map(|end| format!(" ({})", output::clean(&end)));
                output::say(&format!("taskd: task {id} {}{}", task.state, end.unwrap_or_default()));
            }
            Ok(exit)
        }
    }
}

/// The exit code that stands for a task's end.
fn status(task: &TaskView) -> Exit {
    match (task.state, task.last_end()) {
        (TaskState::Succeeded, _) => Exit::Ok,
        (TaskState::Failed | TaskState::Dead, Some(AttemptEnd::Exited { code })) => {
            // What a process can end with fits; anything else would be read as something that it is not.
            u8::try_from(*code).ok().filter(|code| *code != 0).map_or(Exit::Own, Exit::Task)
        }
        (TaskState::Failed | TaskState::Dead, Some(AttemptEnd::Signaled { signal })) => {
            u8::try_from(signal.saturating_add(128)).map_or(Exit::Own, Exit::Task)
        }
        _ => Exit::Own,
    }
}

/// Names may be beginnings of ids here; the tasks have to be known already.
async fn wait_for(
    client: &Client,
    spec: &mut TaskSpec,
    after: &[(String, Condition)],
) -> Result<(), Failure> {
    for (id, on) in after {
        let task = client.show(id).await?.id;
        spec.rules.get_or_insert_default().after.push(Dependency { task, on: *on });
    }
    spec.check().map_err(|error| Failure::new(Exit::Usage, error.to_string()))
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn since_1970(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// What was asked for, with every limit checked before anything is sent.
fn spec(args: &SubmitArgs) -> Result<TaskSpec, String> {
    let mut spec = work(&args.work)?;
    if let Some(at) = args.at {
        spec.rules.get_or_insert_default().start_at_ms = Some(since_1970(at));
    }
    spec.idempotency_key.clone_from(&args.idempotency_key);
    spec.check().map_err(|error| error.to_string())?;
    Ok(spec)
}

/// The same of what a task may be that comes again and again.
pub(super) fn work(args: &WorkArgs) -> Result<TaskSpec, String> {
    let mut spec = TaskSpec::new(&args.kind, payload(args)?);
    spec.name.clone_from(&args.name);
    spec.priority = args.priority;
    spec.labels = args.labels();
    spec.retries = Retries { max: args.retries, ..Retries::default() };
    if let Some(backoff) = args.retry_backoff {
        spec.retries.backoff_ms = millis(backoff);
    }
    if let Some(max) = args.retry_backoff_max {
        spec.retries.backoff_ms_max = millis(max);
    }
    let locks = args.locks.iter().map(|key| Limit { key: key.clone(), max: 1 });
    let rules = Rules {
        start_at_ms: None,
        delay_ms: args.delay.map(millis),
        queue_timeout_ms: args.queue_timeout.map(millis),
        after: Vec::new(),
        limits: locks.chain(args.limits.iter().cloned()).collect(),
        permanent_exit_codes: args.no_retry_on.clone(),
        progress_timeout_ms: args.progress_timeout.map(millis),
        placing: args.placing.placing(),
    };
    spec.rules = (rules != Rules::default()).then(|| Box::new(rules));
    spec.run_timeout_ms = args.run_timeout.map(millis);
    spec.on_lost = args.on_lost.into();
    spec.check().map_err(|error| error.to_string())?;
    Ok(spec)
}

fn payload(args: &WorkArgs) -> Result<Vec<u8>, String> {
    if args.kind == "exec" {
        if args.payload.is_some() {
            return Err("a task of kind exec has a command instead of a payload: put it after --".to_owned());
        }
        if args.command.is_empty() {
            return Err("there is no command: put it after --, for example: -- uname -a".to_owned());
        }
        let exec = ExecPayload {
            argv: args.command.clone(),
            env: args.env.iter().cloned().collect(),
            cwd: args.cwd.clone(),
            stdin: args.running.stdin.as_deref().map(stdin).transpose()?,
            user: args.running.user.clone(),
            umask: args.running.umask,
            resources: args.running.resources(),
        };
        return serde_json::to_vec(&exec).map_err(|error| error.to_string());
    }
    if !args.running.is_empty() {
        return Err(format!(
            "--stdin, --user, --umask and limits are for the command of kind exec: give {:?} a --payload",
            args.kind
        ));
    }
    if !args.command.is_empty() || !args.env.is_empty() || args.cwd.is_some() {
        return Err(format!(
            "a command, --env and --cwd are for kind exec: give {:?} a --payload",
            args.kind
        ));
    }
    match args.payload.as_deref() {
        None => Ok(Vec::new()),
        Some("-") => read("stdin", std::io::stdin().lock()),
        Some(text) => match text.strip_prefix('@') {
            Some(path) => match std::fs::File::open(path) {
                Ok(file) => read(path, file),
                Err(error) => Err(format!("the payload cannot be read: {path}: {error}")),
            },
            None => Ok(text.as_bytes().to_vec()),
        },
    }
}

/// What the command is to read.
fn stdin(path: &Path) -> Result<String, String> {
    let name = if path == Path::new("-") { "stdin".into() } else { path.to_string_lossy() };
    let bytes = if path == Path::new("-") {
        read(&name, std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path).map_err(|error| format!("--stdin {name}: {error}"))?;
        read(&name, file)
    }?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return Err(format!(
            "--stdin {name} has more than {PAYLOAD_BYTES_MAX} bytes, the limit: put it on shared storage and pass its path"
        ));
    }
    String::from_utf8(bytes)
        .map_err(|_| format!("--stdin {name} is no text (UTF-8): put it on shared storage and pass its path"))
}

/// No more than what shows that it is too much.
fn read(name: &str, from: impl Read) -> Result<Vec<u8>, String> {
    let mut payload = Vec::new();
    let limit = u64::try_from(PAYLOAD_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    from.take(limit)
        .read_to_end(&mut payload)
        .map_err(|error| format!("the payload cannot be read: {name}: {error}"))?;
    Ok(payload)
}
