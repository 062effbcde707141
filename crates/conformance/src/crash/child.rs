//! The server as a process of its own, to be killed.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// A server that takes longer to start, or to stop, is stuck.
const PATIENCE: Duration = Duration::from_secs(60);
const SIGKILL: i32 = 9;

/// A running server. Killed when dropped; it also ends when this process does, because its standard input does.
#[derive(Debug)]
pub(super) struct Process(Child);

/// How servers are run.
#[derive(Debug)]
pub(super) struct Recipe<'a> {
    pub(super) data: &'a Path,
    pub(super) log: &'a Path,
    pub(super) tick_ms: u64,
    pub(super) snapshot_every: u64,
}

impl Process {
    /// Starts this program as a server; it may not be listening yet.
    pub(super) fn spawn(recipe: &Recipe<'_>) -> anyhow::Result<Self> {
        let log = File::options().create(true).append(true).open(recipe.log)?;
        // Not by its name: a build may replace the file while this runs.
        let child = Command::new("/proc/self/exe")
            .arg("serve")
            .arg("--data-dir")
            .arg(recipe.data)
            .args(["--tick-ms", &recipe.tick_ms.to_string()])
            .args(["--snapshot-every", &recipe.snapshot_every.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("failed to start a server")?;
        Ok(Self(child))
    }

    /// Waits until it listens, and says where.
    pub(super) fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let stdout = self.0.stdout.take().context("the address was asked for twice")?;
        std::thread::scope(|scope| {
            let (line, lines) = channel();
            scope.spawn(move || {
                let mut text = String::new();
                // A server that ends says so by its status.
                let _ = BufReader::new(stdout).read_line(&mut text);
                let _ = line.send(text);
            });
            let text = match lines.recv_timeout(PATIENCE) {
                Ok(text) => text,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    self.0.kill()?;
                    bail!("the server does not listen within {PATIENCE:?}")
                }
            };
            match text.trim().strip_prefix("listening ") {
                Some(address) => Ok(address.parse()?),
                None => bail!("the server did not start: {}", self.0.wait()?),
            }
        })
    }

    /// `kill -9`, and waits until it is gone.
    pub(super) fn kill(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("the server ended by itself: {status}");
        }
        self.0.kill()?;
        let status = self.0.wait()?;
        ensure!(status.signal() == Some(SIGKILL), "the server ended by itself: {status}");
        Ok(())
    }

    /// Asks it to stop and waits for it.
    pub(super) fn stop(mut self) -> anyhow::Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        ensure!(status.success(), "the server did not stop in order: {status}");
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended in most cases; nothing is left to do about an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
