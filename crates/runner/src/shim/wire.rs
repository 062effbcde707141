//! What the daemon, the shim and its init say to each other, on disk and over sockets: JSON, one value a line.

use std::io;
use std::path::PathBuf;

use proto::AttemptId;
use proto::progress::{Checkpoint, Progress};
use proto::task::AttemptEnd;
use serde::{Deserialize, Serialize};

use super::stage::Stage;

/// Argument that makes a shim the step before its program.
pub(crate) const EXEC_STAGE: &str = "--exec";
/// Argument that makes a shim the init of its PID namespace.
pub(crate) const INIT_STAGE: &str = "--init";
/// Longest line on a socket, in bytes: a payload with room for its encoding.
pub(crate) const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What to execute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: PathBuf,
    /// What it reads from its standard input; nothing if none.
    #[serde(default)]
    pub(crate) stdin: Option<PathBuf>,
    /// What is to be set before it is executed.
    #[serde(default)]
    pub(crate) stage: Stage,
    /// Arguments with which this program becomes a shim.
    #[serde(default)]
    pub(crate) reexec: Vec<String>,
}

/// `start.json`: the daemon's order. Whoever renames it away before the shim has read it has called the start off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StartFile {
    pub(crate) attempt: AttemptId,
    pub(crate) task: Task,
    /// Absolute, CLOCK_BOOTTIME.
    pub(crate) deadline_ns: u64,
    pub(crate) run_timeout_ms: Option<u64>,
    #[serde(default)]
    pub(crate) progress_timeout_ms: Option<u64>,
    pub(crate) grace_ms: u64,
    pub(crate) output_bytes_max: u64,
    pub(crate) pid_namespace: bool,
    /// Arguments with which this program becomes a shim.
    pub(crate) reexec: Vec<String>,
}

/// A process that cannot be confused with a later one of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Field 22 of `/proc/<pid>/stat`: clock ticks since boot.
    pub(crate) started: u64,
}

/// `shim.json`: written before `start.json` is read, and again once the tree exists.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimState {
    /// The start of the machine on which these numbers mean something.
    pub(crate) boot: Option<String>,
    pub(crate) shim: ProcessId,
    /// The init, or the task itself where there is none.
    pub(crate) tree: Option<ProcessId>,
}

/// What a shim is told over its socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Order {
    Extend {
        deadline_ns: u64,
    },
    Terminate {
        grace_ms: u64,
        end: AttemptEnd,
    },
    Kill {
        end: AttemptEnd,
    },
    /// Whoever asks gets a [`Standing`] over the same connection. A former release does not answer.
    Describe,
}

/// What a shim says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Until when its tree may run.
    pub(crate) deadline_ns: u64,
}

/// What a shim tells whoever is connected: the newest of what its task has said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShimReport {
    pub(crate) progress: Progress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint: Option<Checkpoint>,
    /// How many lines there have been.
    pub(crate) count: u64,
}

/// What a shim tells its init.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InitOrder {
    Run(Box<Task>),
    Terminate,
}

/// What an init tells its shim.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InitReport {
    /// It dies with its shim from now on.
    Ready,
    Failed {
        message: String,
    },
    Exited {
        code: i32,
    },
    Signaled {
        signal: i32,
    },
}

/// One value as a line.
pub(crate) fn line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
