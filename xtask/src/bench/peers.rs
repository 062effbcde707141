//! Durable tasks beside Celery, BullMQ and graphile-worker, on the same machine in the same session. taskd is measured
//! here, with the load of `bench tasks`; the others by `crates/peers`, which installs them and prints the table.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

use super::{idle, tasks};
use crate::ClusterArgs;
use crate::run::cluster::{Cluster, Plan};
use crate::run::coordinator::{Choice, Kind};
use crate::shell::{self, Interrupt};
use crate::workspace::{Profile, Workspace};

/// Single tasks a second while latency is measured, as for the peers.
const LOW_RATE: u32 = 100;
/// Comes with the run for latency, which measures throughput as well; nobody looks at that.
const TASKS_MIN: u32 = 100;

/// What is passed on to the peers, and what taskd is measured with.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How many tasks in each run that measures throughput [default: 20000; with --quick 2000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    tasks: Option<u32>,
    /// How often everything is measured [default: 3; with --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// One round of few tasks: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Only these
    #[arg(long, value_delimiter = ',', value_name = "PEER,…", value_parser = ["celery", "bullmq", "graphile"])]
    only: Vec<String>,
    /// When Redis makes sure that what it took is on the disk [default: never,always]
    #[arg(long, value_delimiter = ',', value_name = "WHEN,…", value_parser = ["never", "everysec", "always"])]
    fsync: Vec<String>,
    /// Write the table, the machine, the versions and the durability as markdown into this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// taskd on a keeper and on Debian's ZooKeeper, or on what was chosen; then the peers.
pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, options: &Options) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let peers = workspace.build("peers", Profile::Release)?;
    let load = tasks::example(workspace, "xtask", "load")?;
    let dir = workspace.target.join("peers");
    let program = || -> Result<Command> {
        let mut command = Command::new(&peers);
        command.arg("--dir").arg(&dir);
        options.passed(&mut command)?;
        Ok(command)
    };
    // First: what is missing is to be said before minutes are spent.
    let installed = shell::run("the installation of the peers", program()?.arg("--install-only"));
    interrupt.check()?;
    installed?;
    let choices = match &args.zookeeper {
        Some(choice) => vec![choice.clone()],
        None => vec![Choice::Own(Kind::ZooKeeper), Choice::Own(Kind::Keeper)],
    };
    let mut rows = Vec::new();
    for coordination in choices {
        let plan = Plan { slots: tasks::SLOTS, coordination, ..args.plan(Profile::Release) };
        let mut cluster = Cluster::start(workspace, &plan, &interrupt)?;
        let row = measure(&cluster, &load, options, &interrupt);
        let stopped = cluster.stop();
        rows.push(row?);
        stopped?;
    }
    let beside = dir.join("taskd.json");
    std::fs::write(&beside, Value::from(rows).to_string())
        .with_context(|| format!("failed to write {}", beside.display()))?;
    let ran = shell::run("the comparison with the peers", program()?.arg("--beside").arg(&beside));
    interrupt.check()?;
    ran
}

impl Options {
    fn tasks(&self) -> u32 {
        self.tasks.unwrap_or(if self.quick { 2_000 } else { 20_000 })
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    fn singles(&self) -> u32 {
        LOW_RATE * if self.quick { 2 } else { 10 }
    }

    fn passed(&self, command: &mut Command) -> Result<()> {
        command.args(["--tasks", &self.tasks().to_string(), "--rounds", &self.rounds().to_string()]);
        if self.quick {
            command.arg("--quick");
        }
        for (name, values) in [("--only", &self.only), ("--fsync", &self.fsync)] {
            if !values.is_empty() {
                command.args([name, &values.join(",")]);
            }
        }
        if let Some(file) = &self.report {
            command.arg("--report").arg(std::path::absolute(file)?);
        }
        Ok(())
    }
}

/// A row as `crates/peers` reads it: a value for each round.
fn measure(cluster: &Cluster, load: &Path, options: &Options, interrupt: &Interrupt) -> Result<Value> {
    let (tasks, name, nodes) = (options.tasks(), cluster.coordinator_name(), cluster.nodes().len());
    let (mut per_s, mut p50, mut p99, mut cpu) = (vec![], vec![], vec![], vec![]);
    for round in 1..=options.rounds() {
        interrupt.check()?;
        println!("round {round} of {}: taskd on the {name}", options.rounds());
        let singles = |count: u32, tasks: u32| {
            let mut command = tasks::load_command(cluster, load, tasks);
            command.args([count.to_string(), LOW_RATE.to_string()]);
            tasks::json::<tasks::Load>(&mut command, tasks::LOAD_WITHIN)
        };
        let latency = singles(options.singles(), TASKS_MIN)?;
        p50.push(latency.started_p50_us);
        p99.push(latency.started_p99_us);
        let before = idle::children_cpu_time()?;
        let many = singles(1, tasks)?;
        let used = idle::children_cpu_time()?.saturating_sub(before);
        println!("  batches of 500: {:.0} tasks/s", many.tasks_per_s);
        per_s.push(many.tasks_per_s);
        cpu.push(used.as_secs_f64() * 1e6 / f64::from(tasks));
    }
    Ok(json!({
        "system": format!("taskd ({name})"),
        "durability": "fsync each commit",
        "submission": "batches of 500",
        "workers": format!("{nodes} nodes, {} at a time each", tasks::SLOTS),
        "per_s": per_s,
        "start_p50_us": p50,
        "start_p99_us": p99,
        "cpu_us": cpu,
    }))
}
