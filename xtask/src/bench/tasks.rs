//! Throughput and latency of durable tasks, next to what the same coordination service does raw in the same
//! run: a keeper by default, Debian's ZooKeeper with `--zookeeper debian`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::ClusterArgs;
use crate::run::cluster::{Cluster, Plan};
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

const RAW_WITHIN: Duration = Duration::from_secs(180);
pub(super) const LOAD_WITHIN: Duration = Duration::from_secs(600);
/// Attempts that a node runs at a time. With few, a round trip per handful of tasks is what is measured.
pub(super) const SLOTS: u32 = 64;
/// The bar of this stage: a fifth of (multi ÷ 3), and 4 × the raw p50.
const RATE_BAR: f64 = 0.2;
const LATENCY_BAR: f64 = 4.0;

/// What `crates/coord/examples/raw.rs` prints.
#[derive(Debug, Deserialize)]
struct Raw {
    single_p50_us: f64,
    single_per_s: f64,
    pipelined_per_s: f64,
    multi_creates_per_s: f64,
}

/// What `xtask/examples/load.rs` prints.
#[derive(Debug, Deserialize)]
pub(super) struct Load {
    tasks: u64,
    pub(super) tasks_per_s: f64,
    accepted_p50_us: f64,
    pub(super) started_p50_us: f64,
    pub(super) started_p99_us: f64,
    finished_p50_us: f64,
}

pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, tasks: u32) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let (raw, load) = (example(workspace, "coord", "raw")?, example(workspace, "xtask", "load")?);
    let plan = Plan { slots: SLOTS, ..args.plan(Profile::Release) };
    let mut cluster = Cluster::start(workspace, &plan, &interrupt)?;
    let measured = measure(&cluster, &raw, &load, tasks);
    let stopped = cluster.stop();
    println!("{}", measured?);
    stopped.map(drop)
}

/// Builds a package's example and says where it is.
pub(super) fn example(workspace: &Workspace, package: &str, name: &str) -> Result<PathBuf> {
    let args = ["build", "--release", "--package", package, "--example", name];
    shell::run(&format!("build the example {name}"), &mut workspace.cargo(&args))?;
    Ok(workspace.target.join("release/examples").join(name))
}

fn measure(cluster: &Cluster, raw: &Path, load: &Path, tasks: u32) -> Result<String> {
    let hosts = cluster.coordination().split('/').next().unwrap_or_default();
    let name = cluster.coordinator_name();
    println!("measuring the raw writes of the {name}");
    let raw: Raw = json(Command::new(raw).arg(hosts), RAW_WITHIN)?;
    println!("running {tasks} tasks");
    let load: Load = json(&mut load_command(cluster, load, tasks), LOAD_WITHIN)?;
    Ok(render(name, &raw, &load, cluster.nodes().len()))
}

/// The load program on this cluster.
pub(super) fn load_command(cluster: &Cluster, load: &Path, tasks: u32) -> Command {
    let addresses: Vec<&str> = cluster.nodes().iter().map(|node| node.address.as_str()).collect();
    let mut command = Command::new(load);
    command.arg(addresses.join(",")).arg(tasks.to_string());
    command.arg(cluster.coordination()).arg(cluster.data_dir("bench"));
    command
}

/// Runs a program that prints one JSON object on its last line.
pub(super) fn json<T: serde::de::DeserializeOwned>(command: &mut Command, within: Duration) -> Result<T> {
    let output = shell::output(command, within)?;
    if !output.status.success() {
        bail!("{command:?} failed ({}): {}", output.status, output.stderr.trim());
    }
    let line = output.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("failed to read what {command:?} printed: {line:?}"))
}

fn render(name: &str, raw: &Raw, load: &Load, nodes: usize) -> String {
    let micros = |us: f64| stats::human(Duration::from_secs_f64(us / 1e6));
    let rate = |per_s: f64| format!("{per_s:.0}/s");
    let per_multi = load.tasks_per_s / (raw.multi_creates_per_s / 3.0);
    let per_create = load.started_p50_us / raw.single_p50_us;
    let verdict = |met: bool| if met { "met" } else { "MISSED" }.to_owned();
    let rows = [
        [
            &format!("{name}: single creates, one at a time"),
            &rate(raw.single_per_s),
            &micros(raw.single_p50_us),
            "",
        ],
        [&format!("{name}: single creates, pipelined"), &rate(raw.pipelined_per_s), "", ""],
        [&format!("{name}: creates in multi of 50"), &rate(raw.multi_creates_per_s), "", ""],
        [
            &format!("taskd: {} durable noop tasks, {nodes} nodes of {SLOTS} slots", load.tasks),
            &rate(load.tasks_per_s),
            "",
            &format!("{per_multi:.2} x (multi / 3): {}", verdict(per_multi >= RATE_BAR)),
        ],
        ["taskd: submit to accepted", "", &micros(load.accepted_p50_us), ""],
        [
            "taskd: submit to start",
            "",
            &micros(load.started_p50_us),
            &format!("{per_create:.2} x single create: {}", verdict(per_create <= LATENCY_BAR)),
        ],
        ["taskd: submit to start, p99", "", &micros(load.started_p99_us), ""],
        ["taskd: submit to known as finished", "", &micros(load.finished_p50_us), ""],
    ]
    .map(|row| row.map(str::to_owned).to_vec());
    let head = ["", "rate", "p50", "ratio (bar: 0.20, 4.00)"].map(str::to_owned).to_vec();
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    format!("\n{}", stats::table(&rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_raw_figures() {
        let raw = Raw {
            single_p50_us: 500.0,
            single_per_s: 2e3,
            pipelined_per_s: 1e4,
            multi_creates_per_s: 60_000.0,
        };
        let load = Load {
            tasks: 100,
            tasks_per_s: 10_000.0,
            accepted_p50_us: 1_000.0,
            started_p50_us: 2_500.0,
            started_p99_us: 9_000.0,
            finished_p50_us: 4_000.0,
        };
        let text = render("keeper", &raw, &load, 3);
        assert!(text.contains("0.50 x (multi / 3): met"), "{text}");
        assert!(text.contains("5.00 x single create: MISSED"), "{text}");
    }
}
