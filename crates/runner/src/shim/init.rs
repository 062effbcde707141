//! Process 1 of a task's PID namespace: starts the task, reaps, and dies with its shim. Its death ends every
//! process in the namespace, and the kernel reports it only once they are all gone.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::sys::{prctl, signal};
use nix::unistd::Pid;

use super::tree;
use super::wire::{InitOrder, InitReport, line};
use crate::attempt::shortened;

/// Speaks over standard input, a socket.
pub(super) fn run() -> io::Result<()> {
    prctl::set_name(c"taskd-init")?;
    prctl::set_pdeathsig(signal::Signal::SIGKILL)?;
    let signals = tree::signals(&[Signal::SIGCHLD])?;
    let mut link = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // A shim that died before the line above never sends the task: that is what Ready is for.
    link.write_all(&line(&InitReport::Ready)?)?;
    let mut orders = BufReader::new(link.try_clone()?);
    let InitOrder::Run(task) = next(&mut orders)? else { return Ok(()) };
    let child = match tree::command(&task).and_then(|mut command| tree::spawn(&mut command)) {
        Ok(child) => Pid::from_raw(child.id().cast_signed()),
        Err(error) => {
            let message = shortened(tree::spawn_failure(&task, &error));
            return link.write_all(&line(&InitReport::Failed { message })?);
        }
    };
    loop {
        if let Some(report) = reap(child)? {
            return link.write_all(&line(&report)?);
        }
        let mut fds =
            [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(link.as_fd(), PollFlags::POLLIN)];
        // Nothing polls readable for what the reader has taken in already.
        let waiting = orders.buffer().is_empty();
        match poll(&mut fds, if waiting { PollTimeout::NONE } else { PollTimeout::ZERO }) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let told = !waiting || fds[1].any().unwrap_or(true);
        while signals.read_signal()?.is_some() {}
        if told {
            match next(&mut orders)? {
                // Everyone in the namespace but this process.
                InitOrder::Terminate => {
                    let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
                }
                InitOrder::Run(_) => return Ok(()),
            }
        }
    }
}

fn reap(child: Pid) -> io::Result<Option<InitReport>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                return Ok(Some(InitReport::Exited { code }));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Ok(Some(InitReport::Signaled { signal: signal as i32 }));
            }
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(None),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The end of the stream is the end of the shim, and so of this process.
fn next(orders: &mut BufReader<UnixStream>) -> io::Result<InitOrder> {
    let mut text = String::new();
    if orders.read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&text)?)
}
