//! Runs somebody's program: without the daemon's capabilities, in its own process group, with a deadline; and the end of
//! what it said.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::thread::{CapabilitySet, capabilities, clear_ambient_capability_set, set_capabilities};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::time;

/// Of what it said, this much of the end is looked at.
const TAIL_BYTES: usize = 2048;
/// The longest line that is shown, in characters.
const LINE_CHARS_MAX: usize = 200;
/// Read at a time.
const CHUNK_BYTES: usize = 4096;
/// Reads after it has ended: twice what a pipe holds, and no more, since its children may go on writing for ever.
const LAST_READS: usize = 2 * 64 * 1024 / CHUNK_BYTES;

/// Between two looks for children of one that was killed.
const CHILDREN_LOOK: Duration = Duration::from_millis(5);
/// Where nobody collects orphans, dead ones stay for ever and cannot be told from living ones.
const CHILDREN_LOOKS: u32 = 200;

/// How it went.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Why it failed, as a clause; the last line that it printed is part of it.
    pub(crate) result: Result<(), String>,
    /// It was killed, and is not gone yet. Another one must not be started before it is.
    pub(crate) stuck: Option<Group>,
}

/// Runs `argv` until it ends, or until the deadline, when its whole process group is killed.
///
/// # Cancel safety
/// Its process group is killed.
pub(crate) async fn run(argv: &[String], env: &[(&str, &str)], within: Duration) -> Ran {
    let (mut group, mut output) = match start(argv, env) {
        Ok(started) => started,
        Err(error) => return Ran { result: Err(format!("cannot be started: {error}")), stuck: None },
    };
    let mut tail = Tail::default();
    let ended = time::timeout(within, attend(&mut group, &mut output, &mut tail)).await;
    if let Ok(status) = ended {
        return Ran { result: judge(status, &tail), stuck: None };
    }
    group.kill();
    let said = tail.last_line().map(|line| format!(": {line}")).unwrap_or_default();
    let result = Err(format!("took longer than {} ms and was killed{said}", within.as_millis()));
    Ran { result, stuck: Some(group) }
}

fn start(argv: &[String], env: &[(&str, &str)]) -> io::Result<(Group, pipe::Receiver)> {
    let (program, args) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (reader, writer) = io::pipe()?;
    let mut command = std::process::Command::new(program);
    command.args(args).current_dir("/").stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    // The daemon's own configuration, secrets among it, is none of its business.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TASKD_")) {
        command.env_remove(name);
    }
    command.envs(env.iter().copied());
    let mut command = Command::from(command);
    command.process_group(0);
    let child = spawn(&mut command)?;
    let leader = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
    let output = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    Ok((Group { child, leader }, output))
}

/// Starts it from a thread of its own, which has given up the capabilities that a program would inherit: it may not
/// change addresses because the daemon may. They are a thread's own in Linux, so that the daemon keeps them, and can
/// start its guard with them.
fn spawn(command: &mut Command) -> io::Result<Child> {
    let runtime = Handle::current();
    let start = move || {
        let _inside = runtime.enter();
        hand_down_nothing()?;
        command.spawn()
    };
    thread::scope(|scope| {
        let started = thread::Builder::new().name("vip-program".to_owned()).spawn_scoped(scope, start)?;
        started.join().unwrap_or_else(|_| Err(io::Error::other("it crashed")))
    })
}

fn hand_down_nothing() -> io::Result<()> {
    match clear_ambient_capability_set() {
        // A kernel without an ambient set.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let mut own = capabilities(None)?;
    own.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, own)?)
}

/// Reads all along, or a program that says much would wait for ever; not to the end, which its children may keep open.
async fn attend(group: &mut Group, output: &mut pipe::Receiver, tail: &mut Tail) -> io::Result<ExitStatus> {
    let mut buffer = [0; CHUNK_BYTES];
    let mut open = true;
    let status = loop {
        tokio::select! {
            biased;
            status = group.child.wait() => break status,
            readable = output.readable(), if open => {
                open = readable.is_ok() && read(output, &mut buffer, tail);
                // A program that only ever writes must not keep its own end from being seen.
                tokio::task::yield_now().await;
            }
        }
    };
    for _ in 0..LAST_READS {
        match output.try_read(&mut buffer) {
            Ok(count) if count > 0 => tail.push(&buffer[..count]),
            _ => break,
        }
    }
    status
}

/// Whether there may be more.
fn read(output: &pipe::Receiver, buffer: &mut [u8], tail: &mut Tail) -> bool {
    match output.try_read(buffer) {
        Ok(0) => false,
        Ok(count) => {
            tail.push(&buffer[..count]);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn judge(status: io::Result<ExitStatus>, tail: &Tail) -> Result<(), String> {
    let said = || tail.last_line().map(|line| format!(": {line}")).unwrap_or_default();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => match status.code() {
            Some(code) => Err(format!("exited with {code}{}", said())),
            None => Err(format!("ended with {status}{}", said())),
        },
        Err(error) => Err(format!("cannot be collected: {error}")),
    }
}

/// A program and its children. Dropping it kills those that have not moved to another group.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    leader: Option<Pid>,
}

impl Group {
    fn kill(&mut self) {
        // Not after it was collected: the number may be somebody else's by then.
        if let Some(pid) = self.child.id() {
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }

    /// Waits until the program itself is gone, and for its children as long as somebody may be collecting them.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn gone(&mut self) {
        let _ = self.child.wait().await;
        let Some(leader) = self.leader else { return };
        for _ in 0..CHILDREN_LOOKS {
            if killpg(leader, None) == Err(Errno::ESRCH) {
                return;
            }
            time::sleep(CHILDREN_LOOK).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The end of what a program said.
#[derive(Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let surplus = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..surplus);
    }

    /// Fit to be shown: no control characters, not long.
    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
        let shown = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        Some(shown.take(LINE_CHARS_MAX).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, within: Duration) -> Ran {
        run(&["sh", "-c", script].map(str::to_owned), &[("TASKD_VIP_SERVICE", "iscsi")], within).await
    }

    #[tokio::test]
    async fn what_it_says_is_part_of_the_reason() {
        let long = Duration::from_secs(30);
        let rows = [
            ("exit 0", Ok(())),
            (
                "echo not this; echo portal $TASKD_VIP_SERVICE is down >&2; exit 3",
                Err("exited with 3: portal iscsi is down"),
            ),
            ("printf 'a\\033[31mb'; exit 1", Err("exited with 1: a [31mb")),
            // Far more than a pipe holds.
            ("head -c 1000000 /dev/zero; echo; echo end; exit 2", Err("exited with 2: end")),
            ("kill -9 $$", Err("ended with signal: 9 (SIGKILL)")),
            // A child that keeps the pipe open.
            ("sleep 5 & echo bye; exit 4", Err("exited with 4: bye")),
        ];
        for (script, expected) in rows {
            let ran = shell(script, long).await;
            assert_eq!(
                ran.result.as_ref().map_err(String::as_str),
                expected.as_ref().map(|()| &()).map_err(|why| *why),
                "{script}"
            );
        }
        let ran = run(&["/nonexistent".to_owned()], &[], long).await;
        assert!(ran.result.unwrap_err().starts_with("cannot be started"));
    }

    #[tokio::test]
    async fn a_deadline_ends_the_whole_group() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("child");
        let script =
            format!("sleep 1000 & echo $! > {0}.tmp; mv {0}.tmp {0}; echo waiting; wait", file.display());
        let mut ran = shell(&script, Duration::from_millis(1500)).await;
        assert_eq!(ran.result.unwrap_err(), "took longer than 1500 ms and was killed: waiting");
        ran.stuck.take().unwrap().gone().await;
        let child = std::fs::read_to_string(file).unwrap();
        let stat = format!("/proc/{}/stat", child.trim());
        testkit::until("the child is gone", Duration::from_secs(30), async || {
            let gone = std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
            gone.then_some(())
        })
        .await;
    }
}
