//! taskd as its users meet it: the command line, and its stable JSON.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::shell::{self, Interrupt};

/// Longest that a look at the cluster may take.
const LOOK: Duration = Duration::from_secs(10);
/// Longest that a handover may take.
const HANDOVER: Duration = Duration::from_secs(60);
/// How many submissions are under way at once.
const SUBMITTERS: usize = 6;

/// The command line, pointed at some nodes.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    program: PathBuf,
    /// `host:port[,host:port…]`
    addresses: String,
}

/// `taskd cluster status -o json`, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Status {
    pub(crate) health: String,
    pub(crate) summary: String,
    pub(crate) leader: Option<Leader>,
    pub(crate) members: Vec<Member>,
    pub(crate) coordination: Coordination,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node: String,
    pub(crate) address: String,
    pub(crate) epoch: u64,
    pub(crate) serving: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Member {
    pub(crate) node: String,
    pub(crate) address: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Coordination {
    pub(crate) session_timeout_ms: u64,
}

/// A task, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) submitted_ms: u64,
    pub(crate) finished_ms: Option<u64>,
    pub(crate) attempt_count: u32,
    #[serde(default)]
    pub(crate) spec: Spec,
    /// The newest ones, oldest first.
    pub(crate) attempts: Vec<Attempt>,
}

/// What was asked for, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Spec {
    #[serde(default)]
    pub(crate) name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    pub(crate) node: String,
    pub(crate) end: Option<End>,
}

/// How an attempt ended.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum End {
    Exited { code: i32 },
    Signaled { signal: i32 },
    TimedOut,
    Cancelled,
    Lost { reason: String },
    Failed { message: String },
}

impl Task {
    /// Whether nothing will happen to it any more.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running" | "retrying" | "cancelling")
    }
}

#[derive(Deserialize)]
struct Page {
    tasks: Vec<Task>,
}

/// A task to submit.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) name: String,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
}

impl Client {
    /// Talks to whichever of `addresses` answers.
    pub(crate) fn new(program: PathBuf, addresses: &[String]) -> Self {
        Self { program, addresses: addresses.join(",") }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        super::cluster::without_settings(&mut command);
        command.args(args).args(["--addr", &self.addresses]);
        command
    }

    /// The cluster as it is now, healthy or not.
    pub(crate) fn status(&self) -> Result<Status> {
        let output = shell::output(&mut self.command(&["cluster", "status", "-o", "json"]), LOOK)?;
        // 3 = an answer that is not healthy.
        if !matches!(output.status.code(), Some(0 | 3)) {
            bail!("taskd cluster status failed ({}): {}", output.status, output.stderr.trim());
        }
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("failed to read what taskd cluster status printed: {:?}", output.stdout))
    }

    /// Who leads and serves, if anybody.
    pub(crate) fn leader(&self) -> Result<Option<Leader>> {
        Ok(self.status()?.leader.filter(|leader| leader.serving))
    }

    /// Has another node lead, and returns when it does.
    pub(crate) fn handover(&self) -> Result<()> {
        let output = shell::output(&mut self.command(&["cluster", "handover"]), HANDOVER)?;
        if !output.status.success() {
            bail!("taskd cluster handover failed ({}): {}", output.status, output.stderr.trim());
        }
        Ok(())
    }

    /// Submits one task and returns its id, once it is accepted durably.
    pub(crate) fn submit(&self, submission: &Submission, within: Duration) -> Result<String> {
        let patience = format!("{}s", within.as_secs());
        let name = submission.name.as_str();
        let mut command = self.command(&["task", "submit", "--name", name, "--submit-timeout", &patience]);
        command.arg("--").args(&submission.argv);
        let output = shell::output(&mut command, within + LOOK)?;
        let id = output.stdout.trim();
        if !output.status.success() || id.is_empty() {
            bail!("taskd task submit failed ({}): {}", output.status, output.stderr.trim());
        }
        Ok(id.to_owned())
    }

    /// Submits them all, several at once. Calls `accepted` with each (index, id) as soon as it is acknowledged. Stops at
    /// the first failure, or when interrupted.
    pub(crate) fn submit_all(
        &self,
        submissions: &[Submission],
        within: Duration,
        interrupt: &Interrupt,
        accepted: &(dyn Fn(usize, String) + Sync),
    ) -> Result<()> {
        let next = Mutex::new(submissions.iter().enumerate());
        let failure = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..SUBMITTERS {
                scope.spawn(|| {
                    while lock(&failure).is_none() && !interrupt.is_set() {
                        let Some((index, submission)) = lock(&next).next() else { break };
                        match self.submit(submission, within) {
                            Ok(id) => accepted(index, id),
                            Err(error) => *lock(&failure) = Some(error),
                        }
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_default().map_or(Ok(()), Err)
    }

    /// Every task that the cluster knows.
    pub(crate) fn tasks(&self) -> Result<Vec<Task>> {
        let mut command = self.command(&["task", "list", "--limit", "10000", "-o", "json"]);
        let output = shell::output(&mut command, LOOK)?;
        if !output.status.success() {
            bail!("taskd task list failed ({}): {}", output.status, output.stderr.trim());
        }
        let page: Page =
            serde_json::from_str(&output.stdout).context("failed to read what taskd task list printed")?;
        Ok(page.tasks)
    }

    /// Those of `ids` that are not final yet, according to a list of tasks that a leader gave.
    pub(crate) fn unfinished(&self, ids: &BTreeSet<String>) -> Result<BTreeSet<String>> {
        let tasks = self.tasks()?;
        let done: BTreeSet<&str> =
            tasks.iter().filter(|task| task.is_final()).map(|task| task.id.as_str()).collect();
        Ok(ids.iter().filter(|id| !done.contains(id.as_str())).cloned().collect())
    }
}

/// A poisoned lock means that another thread panicked, which the scope reports; its data is still whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_a_task_is_read() {
        let text = r#"{"tasks":[{"id":"0123","revision":4,"spec":{"kind":"exec","payload":[]},"state":"succeeded",
            "submitted_ms":1,"finished_ms":9,"not_before_ms":null,"attempt_count":2,"attempts":[
            {"number":1,"node":"n1","assigned_ms":2,"ended_ms":3,"end":{"lost":{"reason":"the node was stopped"}}},
            {"number":2,"node":"n2","assigned_ms":4,"ended_ms":9,"end":{"exited":{"code":0}}}]}],"total":1}"#;
        let page: Page = serde_json::from_str(text).unwrap();
        let task = &page.tasks[0];
        assert!(task.is_final());
        assert_eq!(task.attempts[0].end, Some(End::Lost { reason: "the node was stopped".to_owned() }));
        assert_eq!(task.attempts[1].end, Some(End::Exited { code: 0 }));
    }
}
