//! `gaps ADDRESSES HOSTS[/ROOT] DIR` for `cargo xtask bench failover`: keeps tasks coming, and tells for how long none was
//! started.
//!
//! It joins the cluster as a node of its own that never leads, and prints `ready`. To each line `mark` it answers `marked`,
//! to each `read` one JSON object about the time since the last mark. It ends with its standard input.

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::{Stamp, accepted, connect, join, orders, stamp_task};
use proto::TaskId;
use proto::api::Submission;
use taskd::client::{Client, draw_id};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// Each has one batch under way: enough that a start follows the other, few enough that the machine has room left.
const CLIENTS: usize = 4;
const BATCH: usize = 4;
const SLOTS: u32 = 64;
const BATCH_WITHIN: Duration = Duration::from_secs(60);
/// After this a batch that was accepted and has not started is a fault.
const START_WITHIN: Duration = Duration::from_secs(90);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addresses, hosts, dir] = &args[..] else { bail!("usage: gaps ADDRESSES HOSTS[/ROOT] DIR") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(addresses, hosts, PathBuf::from(dir)))
}

async fn run(addresses: &str, hosts: &str, dir: PathBuf) -> Result<()> {
    let (stamps, mut started) = mpsc::channel(4_096);
    let node = join(hosts, dir, Some(SLOTS), Stamp(stamps)).await?;
    let (seen, watching) = watch::channel(0_u64);
    let mut clients = JoinSet::new();
    let stop = std::sync::Arc::new(AtomicBool::new(false));
    for _ in 0..CLIENTS {
        let (client, watching) = (connect(addresses).await?, watching.clone());
        let stop = std::sync::Arc::clone(&stop);
        clients.spawn(async move { keep_coming(&client, watching, &stop).await });
    }
    let mut orders = orders();
    let mut since = Since::new(Instant::now());
    println!("ready");
    loop {
        tokio::select! {
            biased;
            Some((_, at)) = started.recv() => {
                since.start(at);
                seen.send_modify(|count| *count += 1);
            }
            order = orders.recv() => match order.as_deref() {
                Some("mark") => {
                    since = Since::new(Instant::now());
                    println!("marked");
                }
                Some("read") => println!("{}", since.read(Instant::now())),
                Some(other) => bail!("what is {other:?}?"),
                None => break,
            },
            Some(ended) = clients.join_next() => {
                ended??;
                bail!("a submitter ended");
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    clients.shutdown().await;
    node.stop().await;
    Ok(())
}

/// Submits a batch whenever as many tasks have started as were submitted here: whose they are does not matter, since all
/// that is looked at is the time without any.
async fn keep_coming(client: &Client, mut watching: watch::Receiver<u64>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let before = *watching.borrow_and_update();
        let batch = (0..BATCH).map(|_| Submission { id: draw_id(), spec: stamp_task() }).collect();
        let submitted = client.submit_all(batch, BATCH_WITHIN).await.context("a batch was not accepted")?;
        let _ids: Vec<TaskId> = submitted.into_iter().map(accepted).collect::<Result<_>>()?;
        let started = watching.wait_for(|count| *count >= before + BATCH as u64);
        tokio::time::timeout(START_WITHIN, started).await.context("accepted tasks did not start")??;
    }
    Ok(())
}

/// What has been seen since the last mark.
struct Since {
    mark: Instant,
    last: Instant,
    longest: Duration,
    starts: u64,
}

impl Since {
    fn new(mark: Instant) -> Self {
        Self { mark, last: mark, longest: Duration::ZERO, starts: 0 }
    }

    fn start(&mut self, at: Instant) {
        if at >= self.mark {
            self.longest = self.longest.max(at.saturating_duration_since(self.last));
            self.last = at;
            self.starts += 1;
        }
    }

    fn read(&self, now: Instant) -> String {
        let longest = self.longest.max(now.saturating_duration_since(self.last));
        let over = now.saturating_duration_since(self.mark);
        format!(
            "{{\"longest_ms\":{:.1},\"starts\":{},\"over_ms\":{:.1}}}",
            longest.as_secs_f64() * 1e3,
            self.starts,
            over.as_secs_f64() * 1e3
        )
    }
}
