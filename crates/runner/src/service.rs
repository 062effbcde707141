//! What a task does: task services behind one trait, the built-in ones among them.

mod builtin;
mod exec;
mod inside;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use proto::progress::Checkpoint;
use proto::task::ResourceLimits;
use proto::{AttemptId, FencingToken, NodeId};
use tokio_util::sync::CancellationToken;

pub use builtin::{Noop, Sleep};
pub use exec::{Exec, ExecPolicy};
pub use inside::{Hold, Holds, Reports, Right, Said, WorkError};

/// Executes tasks of one kind.
pub trait TaskService: fmt::Debug + Send + Sync {
    /// Makes the work of one attempt out of its payload. Called on the owner's loop: it decides, does nothing yet, and
    /// must not block.
    ///
    /// # Errors
    /// When this payload can never run here.
    fn prepare(&self, task: Task) -> Result<Work, Unfit>;
}

/// One attempt at a task, as its service sees it.
#[derive(Clone, Debug)]
pub struct Task {
    /// The attempt.
    pub attempt: AttemptId,
    /// The authority under which it was started. Work on shared storage shows it, with the attempt, to whatever guards that.
    pub token: FencingToken,
    /// Where it runs.
    pub node: NodeId,
    /// What the user handed in.
    pub payload: Vec<u8>,
    /// Fires when the attempt is to end; after a grace the work is dropped at its next await point.
    pub cancelled: CancellationToken,
    /// How long it may run from its beginning.
    pub run_timeout: Option<Duration>,
    /// Until when its node may run it, by what is known so far.
    pub right: Right,
    /// Where an earlier attempt has left off, by its own words.
    pub checkpoint: Option<Checkpoint>,
    /// Takes what it says of itself.
    pub reports: Reports,
    /// Keeps it from counting as ended while anything of it may still run.
    pub holds: Holds,
}

/// The work of one attempt.
pub enum Work {
    /// A process tree under a shim.
    Process(Process),
    /// A future on the daemon's own runtime. It has to watch [`Task::cancelled`]. What it returns is kept as the attempt's
    /// output, on this node's disk.
    ///
    /// It must not block: a single poll of a second costs the node its leadership, one of four seconds is taken for a
    /// hang, and the node calls its last rung. What computes or reads files for long belongs into
    /// `tokio::task::spawn_blocking`, with a [`Hold`] inside: dropping the future does not end such a thread.
    InProcess(BoxFuture<'static, Result<Vec<u8>, WorkError>>),
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => f.debug_tuple("Process").field(process).finish(),
            Self::InProcess(_) => f.write_str("InProcess(..)"),
        }
    }
}

/// A command to execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Program and arguments, at least the program.
    pub argv: Vec<String>,
    /// Added to the daemon's own environment, of which `TASKD_*` is withheld.
    pub env: BTreeMap<String, String>,
    /// Working directory; an empty one of the attempt's own if none.
    pub cwd: Option<PathBuf>,
    /// What it reads from its standard input; nothing if none.
    pub stdin: Option<String>,
    /// As whom it runs, a name or a number; as the daemon's own user if none. Whoever prepares it has checked that it may.
    pub user: Option<String>,
    /// Its file mode creation mask; the daemon's if none.
    pub umask: Option<u32>,
    /// What each of its processes may use.
    pub resources: ResourceLimits,
}

/// Why a payload can never run here, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// The services of a node, by kind.
#[derive(Clone, Debug, Default)]
pub struct Services(BTreeMap<String, Arc<dyn TaskService>>);

impl Services {
    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// `noop`, `sleep`, and `exec` unless the policy is off.
    pub fn built_in(exec: ExecPolicy) -> Self {
        let services = Self::none().with("noop", Noop).with("sleep", Sleep);
        if exec == ExecPolicy::Off { services } else { services.with("exec", Exec::new(exec)) }
    }

    /// Adds a service, or replaces the one of the same kind.
    #[must_use]
    pub fn with(mut self, kind: impl Into<String>, service: impl TaskService + 'static) -> Self {
        self.0.insert(kind.into(), Arc::new(service));
        self
    }

    /// The kinds, in order.
    pub fn kinds(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    pub(crate) fn get(&self, kind: &str) -> Result<&Arc<dyn TaskService>, Unfit> {
        self.0.get(kind).ok_or_else(|| {
            let remedy = if kind == "exec" { "; its configuration does not allow exec" } else { "" };
            Unfit(format!("this node has no service for kind {kind:?}{remedy}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_that_are_allowed() {
        assert_eq!(Services::built_in(ExecPolicy::Off).kinds(), ["noop", "sleep"]);
        let all = Services::built_in(ExecPolicy::Any);
        assert_eq!(all.kinds(), ["exec", "noop", "sleep"]);
        assert!(Services::none().get("exec").unwrap_err().to_string().contains("does not allow exec"));
    }
}
