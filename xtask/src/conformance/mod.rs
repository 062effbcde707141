//! `cargo xtask conformance`: the keeper judged by what nobody here wrote, kazoo's own tests and Debian's ZooKeeper.

mod kazoo;
mod python;
mod report;
mod skips;

use std::process::Command;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::workspace::{Profile, Workspace};
use crate::{install, shell};

#[derive(Args, Debug)]
pub(crate) struct Judges {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    kazoo: kazoo::Options,
}

#[derive(Subcommand, Debug)]
enum What {
    /// kazoo's own test suite, from PyPI, unmodified
    Kazoo(kazoo::Options),
    /// The same random operations on the keeper and on Debian's ZooKeeper; every answer is compared
    Differential(Passed),
    /// kill -9 of the keeper under load; every acknowledged write is there afterwards
    Crash(Passed),
}

/// Options of the binary `conformance`, which this builds and runs.
#[derive(Args, Debug)]
pub(crate) struct Passed {
    /// Build without optimisation: slower, but nothing is built that the tests have not built
    #[arg(long)]
    dev: bool,
    /// Passed on, such as --ops 100000, --kills 50 or --help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, judges: &Judges) -> Result<()> {
    match &judges.what {
        None => kazoo::run(workspace, &judges.kazoo),
        Some(What::Kazoo(options)) => kazoo::run(workspace, options),
        Some(What::Differential(passed)) => beside_zookeeper(workspace, "differential", passed),
        Some(What::Crash(passed)) => measure(workspace, "crash", passed),
    }
}

/// `cargo xtask bench keeper`: beside Debian's ZooKeeper, in the same run.
pub(crate) fn bench(workspace: &Workspace, passed: &Passed) -> Result<()> {
    beside_zookeeper(workspace, "bench", passed)
}

/// Options with which ZooKeeper is not asked.
const ALONE: [&str; 4] = ["--regressions", "--keeper-only", "--help", "-h"];

fn beside_zookeeper(workspace: &Workspace, what: &str, passed: &Passed) -> Result<()> {
    if !passed.args.iter().any(|arg| ALONE.contains(&arg.as_str())) {
        install::zookeeper()?;
    }
    measure(workspace, what, passed)
}

/// Builds the binary `conformance` and runs one of its commands.
fn measure(workspace: &Workspace, what: &str, passed: &Passed) -> Result<()> {
    let profile = if passed.dev { Profile::Dev } else { Profile::Release };
    let program = workspace.build("conformance", profile)?;
    let mut command = Command::new(program);
    command.current_dir(&workspace.root).arg(what).args(&passed.args);
    shell::run(&format!("conformance {what}"), &mut command)
}
