//! `cargo xtask faults`: the incident, in all its forms, on a cluster of real processes in network namespaces; then the
//! model of the election, and the bugs that are planted to see whether anybody notices.

mod planted;
mod tasks;
pub(crate) mod vips;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::install;
use crate::shell;
use crate::workspace::{Profile, Workspace};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// How many faults
    #[arg(long, default_value_t = 500)]
    faults: usize,
    /// What everything that is drawn comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Build without optimisation, and only inject faults: the rest is among the tests
    #[arg(long)]
    dev: bool,
    /// How many runs about virtual IPs
    #[arg(long, default_value_t = 100)]
    runs: usize,
    /// How many tasks with `--parts tasks`
    #[arg(long, default_value_t = 10_000)]
    tasks: usize,
    /// With `--parts tasks`: switch something on in every node, as in `plant:early-unlock`; the run has to fail then
    #[arg(long, value_name = "SPEC")]
    drill: Option<String>,
    /// Only these kinds, or with `--parts vips` scenarios; the program lists them when it does not know one
    #[arg(long, value_delimiter = ',', value_name = "KIND,…")]
    only: Vec<String>,
    /// Clusters at a time
    #[arg(long, default_value_t = 2)]
    labs: usize,
    /// How many clusters have ZooKeeper's default timing, T = 4 s and tick 2 s; the others have 2 s and 500 ms
    #[arg(long, default_value_t = 1)]
    default_timing: usize,
    /// Keep logs and histories in this folder, not only after a violation
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
    /// Only these parts [default: all; with --dev or --only: network]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,…")]
    parts: Vec<Part>,
    /// The same as `--parts planted`: which test finds which planted bug, and in how many seconds
    #[arg(long, conflicts_with = "parts")]
    planted: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Real processes in network namespaces
    Network,
    /// The same with virtual IPs, seen by an observer outside
    Vips,
    /// Thousands of tasks with retries, graphs, locks, schedules and cancels, while everything is done to their cluster
    Tasks,
    /// Every state that the election can reach, within large bounds
    Model,
    /// Planted bugs, each of which has to be found
    Planted,
}

impl Options {
    fn parts(&self) -> &[Part] {
        match &self.parts[..] {
            _ if self.planted => &[Part::Planted],
            [] if self.dev || !self.only.is_empty() => &[Part::Network],
            [] => Part::value_variants(),
            parts => parts,
        }
    }

    fn profile(&self) -> Profile {
        if self.dev { Profile::Dev } else { Profile::Release }
    }
}

/// Runs every part, also after one has failed, and names those that failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut failed = Vec::new();
    for part in options.parts() {
        println!("== {}", format!("{part:?}").to_lowercase());
        let done = match part {
            Part::Network => network(workspace, options),
            Part::Vips => vips::run(workspace, options),
            Part::Tasks => tasks::run(workspace, options),
            Part::Model => model(workspace, options),
            Part::Planted => planted::run(workspace),
        };
        if let Err(error) = done {
            // Nobody wants the rest after Ctrl-C; the program itself has cleaned up.
            if error.is::<shell::Interrupted>() {
                return Err(error);
            }
            eprintln!("FAILED: {error:#}");
            failed.push(format!("{part:?}").to_lowercase());
        }
    }
    if !failed.is_empty() {
        bail!("faults failed: {}", failed.join(", "));
    }
    Ok(())
}

/// How the program ends when somebody presses Ctrl-C.
const INTERRUPTED: i32 = 130;

fn network(workspace: &Workspace, options: &Options) -> Result<()> {
    // Where this cannot be done the program itself says what is missing, and whether that may be.
    if let Err(error) = install::network_lab() {
        println!("not installed: {error:#}");
    }
    // Together, which arms taskd: its processes write down what they do.
    let programs = workspace.build_together(&["faults", "taskd"], options.profile())?;
    let [faults, taskd] = &programs[..] else { bail!("cargo built something else") };
    let mut command = Command::new(faults);
    command.arg("--taskd").arg(taskd);
    command.args(["--faults", &options.faults.to_string(), "--seed", &options.seed.to_string()]);
    command.args(["--labs", &options.labs.to_string()]);
    command.args(["--default-timing", &options.default_timing.to_string()]);
    if !options.only.is_empty() {
        command.args(["--only", &options.only.join(",")]);
    }
    if let Some(dir) = &options.keep_logs {
        command.arg("--keep-logs").arg(std::path::absolute(dir)?);
    }
    lab(workspace, &mut command)
}

/// Runs the program with the networks.
fn lab(workspace: &Workspace, command: &mut Command) -> Result<()> {
    command.current_dir(&workspace.root);
    if shell::require_all() {
        command.env("TASKD_REQUIRE_ALL", "1");
    }
    // It hears Ctrl-C as well and takes its networks down, which has to be waited for.
    let interrupt = shell::Interrupt::install()?;
    let status = command.status().with_context(|| format!("failed to start {command:?}"))?;
    if status.code() == Some(INTERRUPTED) {
        interrupt.set();
    }
    interrupt.check()?;
    if !status.success() {
        bail!("the faults left violations, or could not be injected ({status})");
    }
    Ok(())
}

/// The model at its large bounds; the tests have the small ones.
fn model(workspace: &Workspace, options: &Options) -> Result<()> {
    let program = workspace.build("model", options.profile())?;
    shell::run("the model", Command::new(program).current_dir(&workspace.root).arg("--full"))
}
