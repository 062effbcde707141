//! Running other programs, and being interrupted.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a loop over a condition sleeps between two looks.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// The cargo that started us, or the one on the path.
pub(crate) fn cargo() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// Whether a missing tool or service is a failure rather than a reason to skip: in CI, or when asked for.
pub(crate) fn require_all() -> bool {
    let set = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    set("CI", "true") || set("TASKD_REQUIRE_ALL", "1")
}

/// Runs a command whose output the person sees.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to start {what}: {command:?}"))?;
    if !status.success() {
        bail!("{what} failed ({status})");
    }
    Ok(())
}

/// Whether a command can be started and succeeds; its output goes nowhere.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What a command that ended in time left.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command and collects its output; kills it when it takes longer than `within`.
pub(crate) fn output(command: &mut Command, within: Duration) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {command:?}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let stdout = scope.spawn(|| slurp(stdout));
        let stderr = scope.spawn(|| slurp(stderr));
        let ended = wait(&mut child, within)?;
        if ended.is_none() {
            child.kill().context("failed to kill a command that took too long")?;
            child.wait()?;
        }
        let text = |reader: thread::ScopedJoinHandle<'_, String>| reader.join().unwrap_or_default();
        let (stdout, stderr) = (text(stdout), text(stderr));
        match ended {
            Some(status) => Ok(Output { status, stdout, stderr }),
            None => bail!("{command:?} took longer than {within:?}: {}", stderr.trim()),
        }
    })
}

fn slurp(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What could be read before an error is still worth showing.
        let _ = pipe.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Waits for a child, at most `within`.
pub(crate) fn wait(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("failed to wait for a child")? {
            return Ok(Some(status));
        }
        if start.elapsed() >= within {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(5).min(within));
    }
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn signal(child: &Child, signal: Signal) -> Result<()> {
    kill(pid(child)?, signal).with_context(|| format!("failed to send {signal} to process {}", child.id()))
}

/// The child's process id.
pub(crate) fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).context("a process id that is not one")?))
}

/// SIGTERM, then SIGKILL if the child is still there after `within`. Says how long it took and how it ended.
pub(crate) fn stop(child: &mut Child, within: Duration) -> Result<Stopped> {
    let start = Instant::now();
    if let Some(status) = child.try_wait()? {
        return Ok(Stopped { took: Duration::ZERO, status, killed: false });
    }
    signal(child, Signal::SIGTERM)?;
    if let Some(status) = wait(child, within)? {
        return Ok(Stopped { took: start.elapsed(), status, killed: false });
    }
    child.kill().context("failed to kill a child")?;
    Ok(Stopped { status: child.wait()?, took: start.elapsed(), killed: true })
}

/// How a child ended that was told to.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) took: Duration,
    pub(crate) status: ExitStatus,
    /// It did not end by itself.
    pub(crate) killed: bool,
}

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

    /// One that never comes by itself.
    #[cfg(test)]
    pub(crate) fn never() -> Self {
        Self(Arc::default())
    }

    /// Behaves as if one had come, so that threads that watch it end.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether one has come.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails with [`Interrupted`] once one has come.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() { Err(Interrupted.into()) } else { Ok(()) }
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

/// Waits so long, unless the person interrupts.
pub(crate) fn pause(duration: Duration, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < duration {
        interrupt.check()?;
        thread::sleep(POLL.min(duration));
    }
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_hangs_is_ended() {
        let start = Instant::now();
        let error = output(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_child_that_ignores_sigterm_is_killed_and_that_is_said() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0; 5];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        assert!(stop(&mut child, Duration::from_millis(200)).unwrap().killed);
        let mut polite = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!stop(&mut polite, Duration::from_secs(10)).unwrap().killed);
    }
}
