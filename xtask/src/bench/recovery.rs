//! A leader change with very many tasks in the queue: how long it takes, and what they take.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::idle::rss_mib;
use super::tasks::{LOAD_WITHIN, example, json};
use crate::ClusterArgs;
use crate::run::cluster::{Cluster, Plan};
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

const WITHIN: Duration = Duration::from_secs(120);
/// DESIGN section 9, for a million tasks.
const RECOVERY_BAR: Duration = Duration::from_secs(10);
const BYTES_BAR: f64 = 1_024.0;
/// Enough for a million tasks that say little.
const LOG_BYTES: u64 = 1 << 30;

#[derive(Debug, Deserialize)]
struct Filled {
    accepted_per_s: f64,
}

pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, tasks: u32) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let fill = example(workspace, "xtask", "fill")?;
    let plan = Plan { log_bytes_budget: Some(LOG_BYTES), ..args.plan(Profile::Release) };
    let mut cluster = Cluster::start(workspace, &plan, &interrupt)?;
    let measured = measure(&mut cluster, &fill, tasks, &interrupt);
    let stopped = cluster.stop();
    println!("{}", measured?);
    stopped.map(drop)
}

fn measure(
    cluster: &mut Cluster,
    fill: &std::path::Path,
    tasks: u32,
    interrupt: &Interrupt,
) -> Result<String> {
    let addresses: Vec<&str> = cluster.nodes().iter().map(|node| node.address.as_str()).collect();
    println!("submitting {tasks} tasks");
    let mut command = Command::new(fill);
    let filled: Filled = json(command.arg(addresses.join(",")).arg(tasks.to_string()), LOAD_WITHIN)?;
    let before: Vec<f64> = memory(cluster)?;

    println!("handing over");
    let begun = Instant::now();
    cluster.client().handover()?;
    let handover = begun.elapsed();
    let led = leader(cluster, interrupt)?;
    let bytes = (memory(cluster)?[led] - before[led]) * 1_048_576.0 / f64::from(tasks);

    println!("killing the leader");
    let begun = Instant::now();
    cluster.kill_node(led)?;
    let client = cluster.client();
    // The others believe in the one that was killed until its session has ended.
    let another = |serving: bool| {
        let leader = client.status()?.leader.filter(|leader| leader.serving || !serving);
        Ok(leader.filter(|leader| cluster.index_of(&leader.node).is_ok_and(|index| index != led)).map(drop))
    };
    shell::poll("another leader is elected", WITHIN, interrupt, || another(false))?;
    let elected = Instant::now();
    shell::poll("another leader serves", WITHIN, interrupt, || another(true))?;
    let (recovery, killed) = (elected.elapsed(), begun.elapsed());
    let rows = [
        ["", "", "bar"].map(str::to_owned),
        [format!("{tasks} tasks accepted"), format!("{:.0}/s", filled.accepted_per_s), String::new()],
        [
            "graceful handover, until the next one serves".to_owned(),
            stats::human(handover),
            judge(handover, RECOVERY_BAR),
        ],
        ["kill -9, until another one serves".to_owned(), stats::human(killed), String::new()],
        [
            "  of which recovery: from its election until it serves".to_owned(),
            stats::human(recovery),
            judge(recovery, RECOVERY_BAR),
        ],
        [
            "the new leader's memory for each task".to_owned(),
            format!("{bytes:.0} B"),
            format!("{BYTES_BAR:.0} B: {}", if bytes <= BYTES_BAR { "met" } else { "MISSED" }),
        ],
    ];
    let rows: Vec<_> = rows.into_iter().map(|row| row.to_vec()).collect();
    Ok(format!("\n{}", stats::table(&rows)))
}

fn judge(took: Duration, bar: Duration) -> String {
    format!("{}: {}", stats::human(bar), if took <= bar { "met" } else { "MISSED" })
}

fn leader(cluster: &Cluster, interrupt: &Interrupt) -> Result<usize> {
    let client = cluster.client();
    let leader = shell::poll("somebody leads", WITHIN, interrupt, || client.leader())?;
    cluster.index_of(&leader.node)
}

/// Every node's, in MiB.
fn memory(cluster: &Cluster) -> Result<Vec<f64>> {
    (0..cluster.nodes().len())
        .map(|index| rss_mib(cluster.pid(index).context("a node does not run")?))
        .collect()
}
