//! The servers that are compared.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use clock::BootClock;
use tempfile::TempDir;
use testkit::{Zoo, ZooKeeper};
use tokio::runtime::Runtime;

/// The unit of session time on both servers: short, so that an expiry does not take long, yet with sessions of up to twenty ticks, which a machine
/// that stands still for a moment does not lose.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// What can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The keeper, in this process.
    #[value(alias = "self")]
    Keeper,
    /// Debian's ZooKeeper, as a child process.
    Zookeeper,
}

/// A server with its data in a temporary directory; both are gone when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    what: What,
    runtime: Runtime,
}

#[derive(Debug)]
enum What {
    Keeper {
        /// `None` only while it is started again.
        server: Option<keeper::server::Server>,
        dir: TempDir,
    },
    ZooKeeper(ZooKeeper),
}

impl Server {
    /// Starts a fresh server and waits until it serves.
    pub(super) fn start(kind: Kind) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match kind {
            Kind::Keeper => {
                let dir = tempfile::Builder::new().prefix("keeper-").tempdir()?;
                let server = runtime.block_on(keeper(&dir, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))?;
                let address = server.address();
                Ok(Self { address, what: What::Keeper { server: Some(server), dir }, runtime })
            }
            Kind::Zookeeper => {
                let server = runtime.block_on(ZooKeeper::start_with(Zoo { tick: TICK, ..Zoo::default() }));
                let address = server.hosts().parse().context("ZooKeeper's address")?;
                Ok(Self { address, what: What::ZooKeeper(server), runtime })
            }
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it politely and starts it again with the same data.
    pub(super) fn restart(&mut self) -> Result<()> {
        match &mut self.what {
            What::ZooKeeper(server) => self.runtime.block_on(async {
                server.stop().await;
                server.start_again().await;
            }),
            What::Keeper { server, dir } => self.runtime.block_on(async {
                if let Some(server) = server.take() {
                    server.stop().await?;
                }
                *server = Some(keeper(dir, self.address).await?);
                anyhow::Ok(())
            })?,
        }
        Ok(())
    }
}

async fn keeper(dir: &TempDir, address: SocketAddr) -> Result<keeper::server::Server> {
    let mut options = keeper::server::Options::new(dir.path(), address);
    options.tick = TICK;
    // Often enough that a restart reads one.
    options.snapshot_every_txns = 10_000;
    // No run depends on the passwords that are drawn from this.
    let seed = [7; 32];
    keeper::server::Server::start(options, BootClock::shared(), seed)
        .await
        .context("the keeper does not start")
}
