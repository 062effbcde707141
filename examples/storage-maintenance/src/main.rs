//! A storage maintenance daemon: it scrubs volumes and rotates their snapshots.
//!
//! ```text
//! cargo run -p storage-maintenance                                   shows all of it in some seconds, and ends
//! cargo run -p storage-maintenance -- --serve /srv/v1 /srv/v2        a daemon, until SIGTERM or ctrl-c
//! ```
//!
//! | module | what it shows |
//! |---|---|
//! | [`guard`] | fencing tokens: the last line of defence of shared storage |
//! | [`scrub`] | progress, checkpoints, blocking work that can be cancelled |
//! | [`rotate`] | a schedule's task that survives a crash at any point |
//! | [`demo`] | the typed client |

mod demo;
mod guard;
mod rotate;
mod scrub;
mod volume;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use taskd::client::{Client, Schedule, Task};
use taskd::proto::schedule::{Misfire, Overlap};
use taskd::{Config, LastRung, Node, NodeHandle, Wedge};
use tokio::signal::unix::{SignalKind, signal};

use crate::rotate::{Rotate, Rotation};
use crate::scrub::{Scrub, Scrubber};

/// Scrubs volumes and rotates their snapshots. Without options: a demonstration that ends by itself.
#[derive(Debug, Parser)]
struct Args {
    /// Be a daemon, until SIGTERM or ctrl-c, that looks after the volumes
    #[arg(long, requires = "volumes")]
    serve: bool,
    /// Directories to look after; on many nodes, shared storage under the same path
    volumes: Vec<PathBuf>,
    /// The node's name, one for each machine
    #[arg(long, default_value = "n1")]
    node: String,
    /// Where the node listens; `taskd --addr` and other clients talk to it there
    #[arg(long, default_value = "127.0.0.1:10601")]
    listen: SocketAddr,
    /// Where the node keeps its own files
    #[arg(long, default_value = "storage-maintenance.data")]
    data_dir: PathBuf,
    /// The ZooKeeper ensemble that the nodes share [default: one node on its own]
    #[arg(long, value_name = "HOST:PORT,..")]
    zookeeper: Option<String>,
    /// When snapshots are rotated, with seconds in front if need be
    #[arg(long, default_value = "0 * * * *")]
    rotate: String,
    /// When volumes are scrubbed
    #[arg(long, default_value = "30 3 * * SUN")]
    scrub: String,
    /// How many snapshots are kept
    #[arg(long, default_value_t = 24)]
    keep: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if !args.serve {
        return demo::run().await;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    serve(args).await
}

/// A node that knows both kinds of task.
async fn start(config: Config) -> Result<NodeHandle> {
    let builder = Node::builder(config)
        .service(scrub::KIND, Scrubber)
        .service(rotate::KIND, Rotation)
        .last_rung(Arc::new(EndProcess));
    Ok(builder.start().await?)
}

async fn serve(args: Args) -> Result<()> {
    // From here on they do not end the process.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let id = args.node.parse()?;
    let mut config = match &args.zookeeper {
        Some(hosts) => Config::new(id, hosts.as_str()),
        None => Config::embedded(id),
    };
    config.coordination.embedded_listen = "127.0.0.1:0".parse()?;
    config.node.listen = args.listen;
    config.node.data_dir.clone_from(&args.data_dir);
    let mut node = start(config).await?;
    let address = node.address().to_owned();

    let signal = tokio::select! {
        set_up = set_up(&mut node, &address, &args) => match set_up {
            Ok(()) => {
                println!("serving {} volumes on {address}", args.volumes.len());
                tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" }
            }
            Err(error) => {
                node.stop().await;
                return Err(error);
            }
        },
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    println!("{signal}: stopping");
    let report = node.stop().await;
    if !report.is_clean() {
        bail!("the node left something behind: {report:?}");
    }
    println!("stopped after {:?}", report.took);
    Ok(())
}

/// Every node does this: schedules that are there already stay as they are.
async fn set_up(node: &mut NodeHandle, address: &str, args: &Args) -> Result<()> {
    tokio::time::timeout(Duration::from_secs(60), node.ready()).await.context("no leader within a minute")?;
    let client = Client::connect(address.parse()?).await?;
    for volume in &args.volumes {
        let volume = volume.canonicalize().with_context(|| format!("no volume {}", volume.display()))?;
        let name = name_of(&volume);
        let rotate = Task::new(rotate::KIND, &Rotate { volume: volume.clone(), keep: args.keep })?
            .name(format!("rotate {}", volume.display()))
            .lock(lock(&volume))
            .retries(3);
        let rotate = Schedule::new(format!("rotate-{name}").parse()?, &args.rotate, rotate);
        client.put_schedule(rotate.overlap(Overlap::Forbid)).await?;
        let scrub = Task::new(scrub::KIND, &Scrub { volume: volume.clone(), pause_ms: 0 })?
            .name(format!("scrub {}", volume.display()))
            .lock(lock(&volume))
            .priority(-10)
            .retries(10)
            // A disk that hangs is nobody's progress.
            .progress_timeout(Duration::from_secs(600));
        let scrub = Schedule::new(format!("scrub-{name}").parse()?, &args.scrub, scrub);
        // A week's scrub is not worth catching up with after a day.
        let scrub = scrub.overlap(Overlap::Forbid).misfire(Misfire::Skip, Duration::from_secs(24 * 3600));
        client.put_schedule(scrub).await?;
    }
    client.close().await;
    Ok(())
}

/// Everything that writes to a volume holds this.
fn lock(volume: &Path) -> String {
    format!("volume/{}", name_of(volume))
}

/// A name for a volume, in the letters that a schedule's name may have: the end of its path, and a hash of all of it.
fn name_of(volume: &Path) -> String {
    let hash = crc32fast::hash(volume.as_os_str().as_encoded_bytes());
    let last = volume.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let last: String = last.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    format!("{last}-{hash:08x}").trim_start_matches('-').to_owned()
}

/// What is left when the node cannot be ended from inside: whatever it still does must not go on beside what another node
/// has begun meanwhile.
#[derive(Debug)]
struct EndProcess;

impl LastRung for EndProcess {
    fn abandon(&self, wedge: &Wedge) {
        eprintln!("ending the process: {wedge}");
        std::process::abort();
    }
}
