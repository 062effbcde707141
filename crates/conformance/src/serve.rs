//! A keeper in a process of its own, for tests that kill it and for measuring it.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clock::BootClock;
use keeper::server::{Options, Server};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::task::JoinSet;

/// Serve until the standard input ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Where the data is.
    #[arg(long)]
    data_dir: PathBuf,
    /// Where clients connect. Port 0 takes a free one; the first line of the output says which.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The tick in milliseconds.
    #[arg(long, default_value_t = 2_000)]
    tick_ms: u64,
    /// Changes after which a snapshot is written.
    #[arg(long)]
    snapshot_every: Option<u64>,
}

/// Prints `listening ADDRESS` once clients can connect, and stops in order when the standard input ends: with whoever
/// started it, however that ends.
///
/// # Errors
/// It does not start, fails, or does not stop in order.
pub(crate) fn run(serve: &Serve) -> anyhow::Result<()> {
    let mut options = Options::new(&serve.data_dir, serve.listen);
    options.tick = Duration::from_millis(serve.tick_ms);
    options.snapshot_every_txns = serve.snapshot_every.unwrap_or(options.snapshot_every_txns);
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).context("failed to get randomness")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let server = Server::start(options, BootClock::shared(), seed).await?;
        let mut stdout = std::io::stdout();
        writeln!(stdout, "listening {}", server.address())?;
        stdout.flush()?;
        let mut stdin = JoinSet::new();
        stdin.spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        tokio::select! {
            failure = server.failed() => Err(failure.into()),
            _ = stdin.join_next() => server.stop().await.context("failed to stop in order"),
        }
    });
    // The thread that reads the standard input cannot be interrupted.
    runtime.shutdown_background();
    served
}
