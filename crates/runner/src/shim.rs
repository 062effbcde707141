//! The tiny supervisor of one process task: single-threaded, no async runtime, quick to start.
//!
//! ```text
//! daemon ── shim (own session, holds the deadline, captures output)
//!             └─ init (process 1 of a PID namespace, dies with the shim) ── task ── …      where permitted
//!             └─ task ── …                                   (the shim adopts every orphan)     otherwise
//! ```
//!
//! It outlives the daemon: the deadline is an absolute CLOCK_BOOTTIME instant that a live daemon extends over a
//! socket, and when it passes the tree is killed, whatever became of the daemon.
//!
//! Without a PID namespace, a task's orphans are known by their ancestor, the shim: should that be killed, those that have
//! also cleared their environment cannot be found by anybody.
//!
//! **Invariants.** The record of the exit appears (fsynced, by rename) only when the whole tree is gone. Nothing is
//! executed after the deadline. An end once begun is not taken back by an extension. The writer of output never blocks
//! on what is kept of it.

pub(crate) mod capture;
mod init;
mod ladder;
mod orders;
mod supervise;
mod tree;
pub(crate) mod wire;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// How long before its deadline a tree gets SIGKILL, so that the kill is *complete* by the deadline.
pub(crate) const KILL_ALLOWANCE: std::time::Duration = std::time::Duration::from_millis(500);

/// The hidden subcommand: `args` is what follows it on the command line.
///
/// Returns failure only when not even a record of the failure could be written.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let done = match args.as_slice() {
        [stage] if stage == wire::INIT_STAGE => init::run(),
        [dir] => supervise::run(Path::new(dir)),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "the shim is started by taskd itself, with the directory of an attempt",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("taskd-shim: {error}");
            ExitCode::FAILURE
        }
    }
}
