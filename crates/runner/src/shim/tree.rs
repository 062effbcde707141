//! The processes of one task: how they are started, signalled, and known to be gone.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use proto::task::AttemptEnd;

use super::wire::{EXEC_STAGE, INIT_STAGE, InitOrder, InitReport, ProcessId, StartFile, Task, line};
use crate::proc;

/// A started tree.
#[derive(Debug)]
pub(super) struct Tree {
    /// The init, or the task itself.
    root: Pid,
    /// Present with a PID namespace.
    link: Option<UnixStream>,
    /// How the task itself ended.
    ended: Option<AttemptEnd>,
    gone: bool,
}

impl Tree {
    /// Starts the task with `output` for its standard output and error.
    pub(super) fn start(
        task: &Task,
        start: &StartFile,
        output: impl Fn() -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        if start.pid_namespace && unshare(CloneFlags::CLONE_NEWPID).is_ok() {
            Self::in_namespace(task, start, output)
        } else {
            Self::in_group(task, output)
        }
    }

    fn in_namespace(
        task: &Task,
        start: &StartFile,
        output: impl Fn() -> io::Result<OwnedFd>,
    ) -> io::Result<Self> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // The child's own /proc/self/exe: right even if the file was replaced by an upgrade.
        let mut init = Command::new("/proc/self/exe");
        init.arg0("taskd-init")
            .args(&start.reexec)
            .arg(INIT_STAGE)
            .stdin(OwnedFd::from(theirs))
            .stdout(output()?)
            .stderr(output()?);
        let init = spawn(&mut init)?;
        let mut byte_by_byte = Vec::new();
        while byte_by_byte.last() != Some(&b'\n') {
            let mut byte = [0];
            ours.read_exact(&mut byte)?;
            byte_by_byte.push(byte[0]);
        }
        ours.write_all(&line(&InitOrder::Run(Box::new(task.clone())))?)?;
        Ok(Self { root: Pid::from_raw(init.id().cast_signed()), link: Some(ours), ended: None, gone: false })
    }

    fn in_group(task: &Task, output: impl Fn() -> io::Result<OwnedFd>) -> io::Result<Self> {
        prctl::set_child_subreaper(true)?;
        let spawned =
            command(task).and_then(|mut command| spawn(command.stdout(output()?).stderr(output()?)));
        match spawned {
            Ok(child) => Ok(Self {
                root: Pid::from_raw(child.id().cast_signed()),
                link: None,
                ended: None,
                gone: false,
            }),
            Err(error) => Err(io::Error::new(error.kind(), spawn_failure(task, &error))),
        }
    }

    /// For the record: the process whose end is the tree's.
    pub(super) fn root(&self) -> Option<ProcessId> {
        proc::identify(self.root.as_raw()).ok().flatten()
    }

    /// SIGTERM for all.
    pub(super) fn terminate(&mut self) {
        match &mut self.link {
            Some(link) => {
                let _ = line(&InitOrder::Terminate).and_then(|order| link.write_all(&order));
            }
            None => self.signal_all(Signal::SIGTERM),
        }
    }

    /// SIGKILL for all; to be repeated until [`is_gone`](Self::is_gone).
    pub(super) fn kill(&self) {
        match self.link {
            Some(_) => {
                let _ = kill(self.root, Signal::SIGKILL);
            }
            None => self.signal_all(Signal::SIGKILL),
        }
    }

    /// Whether [`kill`](Self::kill) must be repeated: nobody else ends processes that are born meanwhile.
    pub(super) fn kill_again(&self) -> bool {
        self.link.is_none()
    }

    fn signal_all(&self, signal: Signal) {
        // As the subreaper this process is the ancestor of whatever the task ever started, double forks included.
        match proc::table() {
            Ok(table) => {
                for process in proc::descendants(&[std::process::id().cast_signed()], &table) {
                    let _ = proc::signal_exactly(process, signal);
                }
            }
            // Only the leader's end would free the number of its group.
            Err(_) if self.ended.is_none() => drop(killpg(self.root, signal)),
            Err(_) => {}
        }
    }

    /// Collects the dead.
    pub(super) fn reap(&mut self) -> io::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.root => {
                    self.root_ended(AttemptEnd::Exited { code })
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.root => {
                    self.root_ended(AttemptEnd::Signaled { signal: signal as i32 });
                }
                Ok(WaitStatus::StillAlive) => return Ok(()),
                Err(nix::Error::ECHILD) => {
                    self.gone = true;
                    return Ok(());
                }
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn root_ended(&mut self, end: AttemptEnd) {
        let Some(link) = &mut self.link else {
            self.ended = Some(end);
            return;
        };
        // The init has ended, so its last words are in the socket and its end of it is closed.
        let last = BufReader::new(link).lines().map_while(Result::ok).last();
        self.ended = Some(match last.and_then(|text| serde_json::from_str(&text).ok()) {
            Some(InitReport::Exited { code }) => AttemptEnd::Exited { code },
            Some(InitReport::Signaled { signal }) => AttemptEnd::Signaled { signal },
            Some(InitReport::Failed { message }) => AttemptEnd::Failed { message },
            Some(InitReport::Ready) | None => end,
        });
    }

    /// How the task itself ended, once it has; others of the tree may be left.
    pub(super) fn ended(&self) -> Option<&AttemptEnd> {
        self.ended.as_ref()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }
}

/// The task's command, in its own process group.
pub(super) fn command(task: &Task) -> io::Result<Command> {
    let mut command = if task.stage.is_needed() {
        // The child's own /proc/self/exe: right even if the file was replaced by an upgrade.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("taskd-exec")
            .args(&task.reexec)
            .arg(EXEC_STAGE)
            .arg(serde_json::to_string(&task.stage)?);
        command.args(&task.argv);
        command
    } else {
        let mut command = Command::new(task.argv.first().map_or("", String::as_str));
        command.args(task.argv.iter().skip(1));
        command
    };
    let stdin = task.stdin.as_ref().map(File::open).transpose()?;
    command
        .envs(task.env.iter().map(|(key, value)| (key, value)))
        .current_dir(&task.cwd)
        .process_group(0)
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from));
    Ok(command)
}

/// Why the step before the program did not get to it, if it did not.
pub(super) fn unfit(task: &Task) -> Option<String> {
    let said =
        task.stage.is_needed().then(|| std::fs::read_to_string(&task.stage.unfit)).and_then(Result::ok);
    said.filter(|said| !said.is_empty())
}

/// Why a task could not be executed, for people.
pub(super) fn spawn_failure(task: &Task, error: &io::Error) -> String {
    // What comes after it is what a person needs to read.
    let program = task.argv.first().map_or("", |program| &program[..program.floor_char_boundary(256)]);
    if task.cwd.is_dir() {
        format!("cannot execute {program:?}: {error}")
    } else {
        format!("cannot execute {program:?}: its working directory {} is not there", task.cwd.display())
    }
}

/// Executes `command` with no signal blocked. A program inherits the mask, and one that this process polls for would
/// never reach it: a task would not hear SIGTERM. Whoever calls this reaps once afterwards, because a SIGCHLD may go
/// by meanwhile.
pub(super) fn spawn(command: &mut Command) -> io::Result<Child> {
    let polled = SigSet::all().thread_swap_mask(SigmaskHow::SIG_UNBLOCK)?;
    let spawned = command.spawn();
    polled.thread_set_mask()?;
    spawned
}

/// Turns `wanted` from interruptions into something to poll.
pub(super) fn signals(wanted: &[Signal]) -> io::Result<SignalFd> {
    // Where the daemon's own parent ignored it, the kernel would reap the children unseen. With any handler it does not, and
    // programs that are executed do not inherit one.
    signal_hook::flag::register(Signal::SIGCHLD as i32, Arc::default())?;
    let set: SigSet = wanted.iter().copied().collect();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}
