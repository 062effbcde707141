//! `cargo xtask check`: the gate that every change passes.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::workspace::Workspace;
use crate::{depgraph, install, shell, stats};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Accept the dependency graph as it is now, as the new snapshot
    #[arg(long)]
    bless: bool,
    /// Only these steps
    steps: Vec<Step>,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// rustfmt has nothing to change
    Format,
    /// The crates depend on each other as written down, and as the rules allow
    Graph,
    /// Cargo.lock fits the manifests
    Lock,
    /// No lint, in tests neither
    Clippy,
    /// The docs build without a warning
    Docs,
    /// Each crate compiles by itself
    Alone,
    /// Licences, banned crates, sources, advisories
    Deny,
}

/// How a step that did not fail ended.
#[derive(Debug)]
enum Outcome {
    Passed,
    /// With the reason, and what to do.
    Skipped(String),
}

/// Runs every step, also after one has failed, and names those that failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let steps = if options.steps.is_empty() { Step::value_variants() } else { &options.steps };
    let mut failed = Vec::new();
    for step in steps {
        let name = format!("{step:?}").to_lowercase();
        println!("== {name}");
        let start = Instant::now();
        let passed = |()| Outcome::Passed;
        let done = match step {
            Step::Format => cargo(workspace, &["fmt", "--all", "--check"]).map(passed),
            Step::Graph => depgraph::check(workspace, options.bless).map(passed),
            Step::Lock => lock_file(workspace).map(passed),
            Step::Clippy => clippy(workspace).map(passed),
            Step::Docs => docs(workspace).map(passed),
            Step::Alone => each_alone(workspace).map(passed),
            Step::Deny => deny(workspace),
        };
        match done {
            Ok(Outcome::Passed) => println!("ok: {name} ({})", stats::human(start.elapsed())),
            Ok(Outcome::Skipped(reason)) => println!("skipped: {name}: {reason}"),
            Err(error) => {
                eprintln!("FAILED: {name}: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("check failed: {}", failed.join(", "));
    }
    println!("check passed");
    Ok(())
}

fn cargo(workspace: &Workspace, args: &[&str]) -> Result<()> {
    shell::run(&format!("cargo {}", args.join(" ")), &mut workspace.cargo(args))
}

/// Fails when Cargo.lock lags behind the manifests, which a fresh clone would only notice much later.
fn lock_file(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo(&["metadata", "--locked", "--format-version", "1"]);
    let output = command.output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<()> {
    cargo(workspace, &["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
}

fn docs(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    shell::run("cargo doc", command.env("RUSTDOCFLAGS", "-D warnings"))
}

/// A crate that compiles only because another one turns a feature on is broken for whoever uses it alone. Without its
/// tests, whose dependencies turn on more. Nobody uses those alone, and clippy has compiled them with all the others'.
fn each_alone(workspace: &Workspace) -> Result<()> {
    for package in &workspace.packages {
        let mut command = workspace.cargo(&["check", "--quiet", "--package", &package.name]);
        shell::run(&format!("cargo check --package {}", package.name), &mut command)?;
    }
    Ok(())
}

/// cargo-deny. Advisories come from a repository outside the crate registry, which some places cannot reach: then the
/// rest is checked, and that is said.
fn deny(workspace: &Workspace) -> Result<Outcome> {
    let program = match install::DENY.find(workspace) {
        Some(program) => program,
        None if shell::require_all() => install::DENY.install(workspace)?,
        None => {
            let reason = format!("cargo-deny is not installed; this does it: {}", install::DENY.remedy());
            return Ok(Outcome::Skipped(reason));
        }
    };
    let deny = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(&workspace.root).args(args);
        command
    };
    let mut checks = vec!["check", "bans", "licenses", "sources"];
    if shell::succeeds(deny(&["fetch", "db"]).env("GIT_TERMINAL_PROMPT", "0")) {
        checks.push("advisories");
    } else {
        println!("not checked: advisories (their database cannot be fetched from here)");
    }
    shell::run("cargo deny", &mut deny(&checks))?;
    Ok(Outcome::Passed)
}
