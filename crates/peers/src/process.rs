//! Processes that end when we do, and waiting with a deadline.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// How long a loop over a condition sleeps between two looks.
const POLL: Duration = Duration::from_millis(10);
/// How long a process has for an orderly end.
const STOP_WITHIN: Duration = Duration::from_secs(10);
const SETPRIV: &str = "/usr/bin/setpriv";

/// Set by SIGINT, SIGTERM and SIGHUP.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on those signals no longer end this process.
    pub(crate) fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signal_hook::flag::register(signal as i32, Arc::clone(&flag))
                .with_context(|| format!("failed to install a handler for {signal}"))?;
        }
        Ok(Self(flag))
    }

    #[cfg(test)]
    pub(crate) fn after(set: bool) -> Self {
        Self(Arc::new(AtomicBool::new(set)))
    }

    /// Fails with [`Interrupted`] once one has come.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Interrupted.into()) } else { Ok(()) }
    }
}

/// The person pressed Ctrl-C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Looks again and again until `ready` says something, the time is up, or the person interrupts.
pub(crate) fn poll<T>(
    what: &str,
    within: Duration,
    interrupt: &Interrupt,
    mut ready: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        interrupt.check()?;
        if let Some(found) = ready()? {
            return Ok(found);
        }
        if start.elapsed() >= within {
            bail!("{what} did not happen within {within:?}");
        }
        thread::sleep(POLL);
    }
}

/// A command in a process group of its own, which gets `signal` when the thread that starts it ends: also after a
/// `kill -9`. `user` is whom it runs as, if not as us.
pub(crate) fn tied(program: impl AsRef<OsStr>, signal: Signal, user: Option<&str>) -> Command {
    let mut command = if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        if let Some(user) = user {
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        }
        command.args(["--pdeathsig", signal.as_str(), "--"]).arg(program);
        command
    } else if let Some(user) = user {
        let mut command = Command::new("runuser");
        command.args(["-u", user, "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0).stdin(Stdio::null());
    command
}

/// A process of ours. Dropping it ends it and whatever is left of its group.
#[derive(Debug)]
pub(crate) struct Owned {
    name: String,
    child: Child,
    log: PathBuf,
    stop_with: Signal,
    ended: bool,
}

impl Owned {
    /// Starts a command from [`tied`]; its output is appended to `log`. `stop_with` asks it for an orderly end.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path, stop_with: Signal) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("failed to open {}", log.display()))?;
        let child = command.stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("failed to start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), stop_with, ended: false })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the last lines of its log, when it has ended although nobody told it to.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("failed to wait for a child")? {
            None => Ok(()),
            Some(status) => {
                self.ended = true;
                bail!("{} ended ({status}):\n{}", self.name, tail(&self.log, 15))
            }
        }
    }

    /// Waits until it has ended by itself, and well.
    pub(crate) fn succeed(mut self, within: Duration, interrupt: &Interrupt) -> Result<()> {
        let what = format!("the end of {}", self.name);
        let status: ExitStatus = poll(&what, within, interrupt, || Ok(self.child.try_wait()?))
            .with_context(|| format!("its last words:\n{}", tail(&self.log, 15)))?;
        self.ended = true;
        if !status.success() {
            bail!(
                "{} failed ({status}); its log {} ends:\n{}",
                self.name,
                self.log.display(),
                tail(&self.log, 15)
            );
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let group = Pid::from_raw(i32::try_from(self.child.id()).context("a process id that is not one")?);
        if !self.ended {
            kill(group, self.stop_with).with_context(|| format!("failed to stop {}", self.name))?;
            let start = Instant::now();
            while self.child.try_wait()?.is_none() {
                if start.elapsed() > STOP_WITHIN {
                    self.child.kill().with_context(|| format!("failed to kill {}", self.name))?;
                    self.child.wait()?;
                    break;
                }
                thread::sleep(POLL);
            }
            self.ended = true;
        }
        // What it started and did not wait for; mostly there is nobody left.
        let _ = killpg(group, Signal::SIGKILL);
        Ok(())
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// The last lines of a log, indented.
fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    let last: Vec<String> =
        all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}")).collect();
    if last.is_empty() { "  (it said nothing)".to_owned() } else { last.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_started_ends_with_its_owner_children_included() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut command = tied("sh", Signal::SIGKILL, None);
        command.args(["-c", "sleep 300 & echo $!; exec sleep 300"]);
        let owned = Owned::start("a sleeper", command, &log, Signal::SIGTERM).unwrap();
        let within = Duration::from_secs(30);
        let never = Interrupt::after(false);
        let inner = poll("its child's number", within, &never, || {
            let text = fs::read_to_string(&log)?;
            Ok(text.strip_suffix('\n').map(|line| line.parse::<i32>().unwrap()))
        })
        .unwrap();
        let outer = i32::try_from(owned.pid()).unwrap();
        drop(owned);
        for pid in [inner, outer] {
            let gone = || {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                // Nobody may have waited for it yet.
                Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
            };
            poll("its end", within, &never, gone).unwrap();
        }
    }

    #[test]
    fn a_failure_brings_the_last_words_and_an_interrupt_ends_the_wait() {
        let dir = tempfile::tempdir().unwrap();
        let start = |script: &str| {
            let mut command = tied("sh", Signal::SIGKILL, None);
            command.args(["-c", script]);
            Owned::start("it", command, &dir.path().join("log"), Signal::SIGTERM).unwrap()
        };
        let within = Duration::from_secs(30);
        let failed = start("echo no such thing; exit 3").succeed(within, &Interrupt::after(false));
        let failed = format!("{:#}", failed.unwrap_err());
        assert!(failed.contains("no such thing") && failed.contains('3'), "{failed}");
        let interrupted = start("sleep 300").succeed(within, &Interrupt::after(true)).unwrap_err();
        assert!(interrupted.is::<Interrupted>(), "{interrupted:#}");
    }
}
