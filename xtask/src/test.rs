//! `cargo xtask test`: every test, on a fresh machine too.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::run::coordinator;
use crate::workspace::Workspace;
use crate::{install, shell};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Also on real ZooKeeper ensembles, in a pass of their own; installs the package. In CI this is so anyway
    #[arg(long)]
    zookeeper: bool,
    /// Passed on to the test runner, such as the name of a test
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Installs what is missing, then runs the doctests, the pass on real ensembles if it is wanted, and last, so that its
/// summary closes the run, everything on the keeper, which needs neither Java nor ZooKeeper.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let on_ensembles = options.zookeeper || shell::require_all();
    if on_ensembles {
        install::zookeeper().context("the tests need ZooKeeper here")?;
    } else if !coordinator::zookeeper_installed() {
        // They look for it themselves, and say that they are skipped.
        println!(
            "skipped: the tests about ZooKeeper itself, which is not installed; `cargo xtask test --zookeeper`"
        );
    }
    let nextest = nextest(workspace)?;
    if options.args.is_empty() {
        shell::run("doctests", &mut workspace.cargo(&["test", "--quiet", "--workspace", "--doc"]))?;
    }
    let on_zookeeper = if on_ensembles {
        let nextest = nextest.as_ref().context("the pass on real ensembles needs cargo-nextest")?;
        // What fails here is no reason to know nothing of the rest.
        shell::run("the tests on ZooKeeper", &mut ensembles(workspace, nextest, &options.args))
    } else {
        Ok(())
    };
    let mut command = match nextest {
        Some(program) => {
            let mut command = Command::new(program);
            command.current_dir(&workspace.root).args(["nextest", "run", "--workspace"]);
            command.args(["--profile", if shell::require_all() { "ci" } else { "default" }]);
            command
        }
        None => workspace.cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]),
    };
    let on_the_keeper = shell::run("the tests", command.args(&options.args));
    match (on_zookeeper, on_the_keeper) {
        (Err(first), Err(second)) => bail!("{first}; {second}"),
        (first, second) => first.and(second),
    }
}

/// The tests that need a coordination service, on one real ensemble that they share and on ensembles of their own.
fn ensembles(workspace: &Workspace, nextest: &Path, args: &[String]) -> Command {
    println!("the tests on real ZooKeeper ensembles");
    let mut command =
        workspace.cargo(&["run", "--quiet", "--package", "testkit", "--example", "ensemble", "--"]);
    // Which ones is the profile's to say. Named as packages, they would be built with other features than the whole
    // workspace, and everything below them once more for the next pass.
    command.arg(nextest).args(["nextest", "run", "--workspace", "--profile", "zookeeper"]);
    if !args.is_empty() {
        // What was asked for may be among the others.
        command.arg("--no-tests=pass").args(args);
    }
    command
}

/// cargo-nextest, which gives each test a process and a time limit. Without it `cargo test` has to do.
fn nextest(workspace: &Workspace) -> Result<Option<PathBuf>> {
    match install::NEXTEST.ensure(workspace) {
        Ok(program) => Ok(Some(program)),
        Err(error) if shell::require_all() => Err(error.context("the tests need cargo-nextest here")),
        Err(error) => {
            println!("using cargo test, without time limits: {error:#}; {}", install::NEXTEST.remedy());
            Ok(None)
        }
    }
}
