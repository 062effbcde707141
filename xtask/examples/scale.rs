//! `scale HOSTS[/ROOT] DIR NODES` for `cargo xtask bench scale`: so many nodes in this one process.
//!
//! It prints `ready` when all have joined and one leads. To `handover` it answers with how long it took until every node
//! knew the new leader, in milliseconds. It ends with its standard input.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use common::{config, connect, orders};
use taskd::{Node, NodeHandle};
use tokio::time::{sleep, timeout};

const START_WITHIN: Duration = Duration::from_secs(240);
const HANDOVER_WITHIN: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [hosts, dir, nodes] = &args[..] else { bail!("usage: scale HOSTS[/ROOT] DIR NODES") };
    let nodes: usize = nodes.parse().context("NODES is a number")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(hosts, Path::new(dir), nodes))
}

async fn run(hosts: &str, dir: &Path, count: usize) -> Result<()> {
    let mut nodes = Vec::new();
    for n in 1..=count {
        let mut config = config(&format!("s{n}"), hosts, data_dir(dir, n))?;
        config.node.slots = Some(1);
        nodes.push(Node::builder(config).start().await?);
    }
    timeout(START_WITHIN, all_ready(&mut nodes)).await.context("not every node got ready")?;
    let mut orders = orders();
    println!("ready");
    while let Some(order) = orders.recv().await {
        match order.as_str() {
            "handover" => println!("{:.1}", handover(&nodes).await?.as_secs_f64() * 1e3),
            other => bail!("what is {other:?}?"),
        }
    }
    let mut stopping = tokio::task::JoinSet::new();
    for node in nodes {
        stopping.spawn(node.stop());
    }
    while let Some(stopped) = stopping.join_next().await {
        stopped?;
    }
    Ok(())
}

fn data_dir(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("s{n}"))
}

async fn all_ready(nodes: &mut [NodeHandle]) {
    for node in nodes {
        node.ready().await;
    }
}

/// Until the node that was told last has seen it.
async fn handover(nodes: &[NodeHandle]) -> Result<Duration> {
    let client = connect(nodes[0].address()).await?;
    let before = client.status().await?.leader.map(|leader| leader.epoch);
    let begun = Instant::now();
    let leader = client.handover(None).await?;
    for node in nodes {
        let of_node = connect(node.address()).await?;
        loop {
            let status = of_node.status().await?;
            // On a busy machine that one may have lost it again.
            if status.leader.is_some_and(|known| known.serving && Some(known.epoch) > before) {
                break;
            }
            if begun.elapsed() > HANDOVER_WITHIN {
                bail!("{} does not know after {HANDOVER_WITHIN:?} that {leader} leads", node.address());
            }
            sleep(LOOK).await;
        }
        of_node.close().await;
    }
    client.close().await;
    Ok(begun.elapsed())
}
