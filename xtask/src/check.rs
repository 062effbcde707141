//! `cargo xtask check`: the gate that every change passes.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::workspace::Workspace;
use crate::{depgraph, install, shell, stats};

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Accept the dependency graph as it is now, as the new snapshot
    #[arg(long)]
    bless: bool,
}

/// Runs every step, also after one has failed, and names those that failed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    type Step<'a> = (&'a str, Box<dyn Fn() -> Result<()> + 'a>);
    let steps: [Step<'_>; 7] = [
        ("format", Box::new(|| cargo(workspace, &["fmt", "--all", "--check"]))),
        ("dependency graph", Box::new(|| depgraph::check(workspace, options.bless))),
        ("lock file", Box::new(|| lock_file(workspace))),
        ("clippy", Box::new(|| clippy(workspace))),
        ("docs", Box::new(|| docs(workspace))),
        ("each crate alone", Box::new(|| each_alone(workspace))),
        ("licences, bans, sources", Box::new(|| deny(workspace))),
    ];
    let mut failed = Vec::new();
    for (name, step) in steps {
        println!("== {name}");
        let start = Instant::now();
        match step() {
            Ok(()) => println!("ok: {name} ({})", stats::human(start.elapsed())),
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

/// A crate that compiles only because another one turns a feature on is broken for whoever uses it alone. First
/// without its tests, whose dependencies turn on more, then with them.
fn each_alone(workspace: &Workspace) -> Result<()> {
    for package in &workspace.packages {
        for targets in [&[][..], &["--all-targets"]] {
            let mut command = workspace.cargo(&["check", "--quiet", "--package", &package.name]);
            shell::run(&format!("cargo check --package {}", package.name), command.args(targets))?;
        }
    }
    Ok(())
}

/// cargo-deny. Advisories come from a repository outside the crate registry, which some places cannot reach: then the
/// rest is checked, and that is said.
fn deny(workspace: &Workspace) -> Result<()> {
    let program = match install::DENY.find(workspace) {
        Some(program) => program,
        None if shell::require_all() => install::DENY.install(workspace)?,
        None => {
            println!("skipped: cargo-deny is not installed; this does it: {}", install::DENY.remedy());
            return Ok(());
        }
    };
    let deny = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(&workspace.root).args(args);
        command
    };
    let fetched = shell::succeeds(deny(&["fetch", "db"]).env("GIT_TERMINAL_PROMPT", "0"));
    if fetched {
        return shell::run("cargo deny", &mut deny(&["check"]));
    }
    println!("not checked: advisories (their database cannot be fetched from here)");
    shell::run("cargo deny", &mut deny(&["check", "bans", "licenses", "sources"]))
}
