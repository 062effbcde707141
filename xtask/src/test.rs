//! `cargo xtask test`: every test, on a fresh machine too.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::workspace::Workspace;
use crate::{install, shell};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Passed on to the test runner, such as the name of a test
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// Installs what is missing, then runs the doctests and, last, so that its summary closes the run, everything else.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    // Tests that need it look for it themselves, and say that they are skipped.
    match install::zookeeper() {
        Ok(()) => {}
        Err(error) if shell::require_all() => return Err(error.context("the tests need ZooKeeper here")),
        Err(error) => println!("skipped: the tests against a real ZooKeeper: {error:#}"),
    }
    let nextest = nextest(workspace)?;
    if options.args.is_empty() {
        shell::run("doctests", &mut workspace.cargo(&["test", "--quiet", "--workspace", "--doc"]))?;
    }
    let mut command = match nextest {
        Some(program) => {
            let mut command = Command::new(program);
            command.current_dir(&workspace.root).args(["nextest", "run", "--workspace"]);
            command.args(["--profile", if shell::require_all() { "ci" } else { "default" }]);
            command
        }
        None => workspace.cargo(&["test", "--workspace", "--lib", "--bins", "--tests"]),
    };
    shell::run("tests", command.args(&options.args))
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
