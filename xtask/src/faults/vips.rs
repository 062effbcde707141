//! `cargo xtask faults --parts vips` and `cargo xtask bench vip`: virtual IPs on a network of namespaces, seen from
//! outside; the latter beside keepalived, which is measured by the same observer in the same session.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use super::{Options, lab};
use crate::install;
use crate::workspace::{Profile, Workspace};

/// What `cargo xtask bench vip` is told.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// How often each scenario is played on each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// What everything that is drawn comes from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these scenarios; the program lists them when it does not know one
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO,…")]
    only: Vec<String>,
    /// Build without optimisation
    #[arg(long)]
    dev: bool,
    /// Write the figures as JSON into this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Keep logs in this folder, not only after a violation
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

/// Everything that can happen to a holder, in random order.
pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let mut command = program(workspace, options.profile())?;
    command.args(["--runs", &options.runs.to_string(), "--seed", &options.seed.to_string()]);
    passed(&mut command, &options.only, options.keep_logs.as_ref())?;
    lab(workspace, &mut command)
}

/// keepalived with two adverts, and taskd with two timings of ZooKeeper; prints both beside each other.
pub(crate) fn bench(workspace: &Workspace, options: &Bench) -> Result<()> {
    if let Err(error) = install::keepalived() {
        println!("not installed: {error:#}");
    }
    let mut command = program(workspace, if options.dev { Profile::Dev } else { Profile::Release })?;
    command.args(["--compare", &options.rounds.to_string(), "--seed", &options.seed.to_string()]);
    if let Some(file) = &options.report {
        command.arg("--report").arg(std::path::absolute(file)?);
    }
    passed(&mut command, &options.only, options.keep_logs.as_ref())?;
    lab(workspace, &mut command)
}

fn program(workspace: &Workspace, profile: Profile) -> Result<Command> {
    // Where this cannot be done the program itself says what is missing, and whether that may be.
    if let Err(error) = install::network_lab() {
        println!("not installed: {error:#}");
    }
    let programs = workspace.build_together(&["faults", "taskd"], profile)?;
    let [faults, taskd] = &programs[..] else { bail!("cargo built something else") };
    let mut command = Command::new(faults);
    command.args(["vips", "--taskd"]).arg(taskd);
    Ok(command)
}

fn passed(command: &mut Command, only: &[String], logs: Option<&PathBuf>) -> Result<()> {
    if !only.is_empty() {
        command.args(["--only", &only.join(",")]);
    }
    if let Some(dir) = logs {
        command.arg("--keep-logs").arg(std::path::absolute(dir)?);
    }
    Ok(())
}
