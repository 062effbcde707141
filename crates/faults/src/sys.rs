//! Processes, time and interruption.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clock::{BootClock, Clock};
use nix::sys::signal::Signal;

/// Between two looks of a loop over a condition.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Now, on the clock that histories are written by: nanoseconds since boot.
pub(crate) fn boot_ns() -> u64 {
    BootClock.now().as_nanos()
}

/// The time from one instant of the boot-time clock to a later one.
pub(crate) fn between(from_ns: u64, to_ns: u64) -> Duration {
    Duration::from_nanos(to_ns.saturating_sub(from_ns))
}

/// Runs a command to its end; what it printed is in the error.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    feed(command, "")
}

/// The same, with something on its standard input.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {command:?}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("failed to wait for {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed ({}): {} {}", output.status, said.trim(), input.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command that may take at most `within`; `None` if it took longer or could not be started.
pub(crate) fn ask(command: &mut Command, within: Duration) -> Option<(i32, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    // Read beside the waiting, or a long answer fills the pipe.
    let reader = thread::spawn(move || std::io::read_to_string(stdout).unwrap_or_default());
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                let text = reader.join().unwrap_or_default();
                return status.code().map(|code| (code, text));
            }
            Ok(None) if begun.elapsed() < within => thread::sleep(Duration::from_millis(5)),
            _ => {
                // It may have ended just now.
                let _ = child.kill();
                let _ = child.wait();
                let _ = reader.join();
                return None;
            }
        }
    }
}

/// Set by SIGINT, SIGTERM and SIGHUP, and by a part that failed so that the others end.
#[derive(Clone, Debug, Default)]
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

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// It was interrupted.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() { Err(Interrupted.into()) } else { Ok(()) }
    }

    /// Sleeps, unless interrupted.
    pub(crate) fn sleep(&self, time: Duration) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.check()?;
            let left = time.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(POLL));
        }
    }

    /// Asks until there is an answer; `None` if there was none `within`.
    pub(crate) fn until<T>(
        &self,
        within: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let begun = Instant::now();
        loop {
            self.check()?;
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if begun.elapsed() >= within {
                return Ok(None);
            }
            thread::sleep(POLL);
        }
    }
}

/// Somebody pressed Ctrl-C.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}
