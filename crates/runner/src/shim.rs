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
//! executed after the deadline. No capability is handed down. An end once begun is not taken back by an extension. The writer of output never blocks
//! on what is kept of it.

pub(crate) mod capture;
mod init;
mod ladder;
mod orders;
mod said;
pub(crate) mod stage;
mod supervise;
mod tree;
pub(crate) mod wire;

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities, clear_ambient_capability_set, set_capabilities};

/// How long before its deadline a tree gets SIGKILL, so that the kill is *complete* by the deadline.
pub(crate) const KILL_ALLOWANCE: std::time::Duration = std::time::Duration::from_millis(500);

/// The hidden subcommand: `args` is what follows it on the command line.
///
/// Returns failure only when not even a record of the failure could be written.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let done = hand_down_nothing().and_then(|()| match args.as_slice() {
        [stage] if stage == wire::INIT_STAGE => init::run(),
        [stage, set, program, args @ ..] if stage == wire::EXEC_STAGE => stage::run(set, program, args),
        [dir] => supervise::run(Path::new(dir)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the shim is started by taskd itself, with the directory of an attempt",
        )),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("taskd-shim: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the daemon may do to the machine's addresses, a task may not: a capability in the ambient set would be inherited
/// by every program that is executed. Called before anything else, while there is one thread.
fn hand_down_nothing() -> io::Result<()> {
    match clear_ambient_capability_set() {
        // A kernel without an ambient set.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let mut own = capabilities(None)?;
    own.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, own)?)
}
