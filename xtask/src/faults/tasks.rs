//! `cargo xtask faults --parts tasks`: thousands of tasks while everything is done to their cluster, and a checker of what
//! came of them.

use std::process::Command;

use anyhow::{Result, bail};

use super::{Options, lab};
use crate::install;
use crate::workspace::Workspace;

pub(super) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    // Where this cannot be done the program itself says what is missing, and whether that may be.
    if let Err(error) = install::network_lab() {
        println!("not installed: {error:#}");
    }
    // Together, which arms taskd: a bug can be planted in it.
    let programs = workspace.build_together(&["faults", "taskd"], options.profile())?;
    let [faults, taskd] = &programs[..] else { bail!("cargo built something else") };
    let mut command = Command::new(faults);
    command.args(["tasks", "--taskd"]).arg(taskd);
    command.args(["--tasks", &options.tasks.to_string(), "--seed", &options.seed.to_string()]);
    if let Some(drill) = &options.drill {
        command.args(["--drill", drill]);
    }
    if !options.only.is_empty() {
        command.args(["--only", &options.only.join(",")]);
    }
    if let Some(dir) = &options.keep_logs {
        command.arg("--keep-logs").arg(std::path::absolute(dir)?);
    }
    lab(workspace, &mut command)
}
