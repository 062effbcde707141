//! Project automation: `cargo xtask check|test|run|bench|acceptance|conformance`.
//!
//! Drives taskd the way its users do, through the command line and `-o json`, with real processes on loopback.
//! Everything it starts, it ends: on success, on failure, on Ctrl-C, and (through the parent-death signal) when it is
//! killed itself.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::run::coordinator::{Choice, Kind};

mod acceptance;
mod bench;
mod check;
mod conformance;
mod depgraph;
#[cfg(test)]
mod docs;
mod faults;
mod install;
mod run;
mod shell;
mod stats;
mod test;
mod workspace;

#[derive(Parser, Debug)]
#[command(name = "cargo xtask", about = "Builds, checks, tests, runs and measures taskd")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The gate: format, lints, docs, licences, dependency graph, each crate alone
    Check(check::Options),
    /// Every test, on a fresh machine too
    Test(test::Options),
    /// A local cluster of real processes; Ctrl-C stops it
    Run(RunArgs),
    /// What it costs and what it does per second
    Bench {
        #[command(subcommand)]
        what: bench::What,
    },
    /// Long runs with faults, each with a checker that explains everything it saw
    Acceptance {
        #[command(subcommand)]
        what: acceptance::What,
    },
    /// Hundreds of faults in network namespaces, judged by histories; the model; planted bugs. Needs root
    Faults(faults::Options),
    /// The keeper judged by what others wrote: kazoo's own tests (the default), and Debian's ZooKeeper side by side
    #[command(args_conflicts_with_subcommands = true)]
    Conformance(conformance::Judges),
}

#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Scrub a directory tree as a few hundred tasks, kill the leader half-way, check the result, and end
    #[arg(long)]
    demo: bool,
    /// A shorter demo, for a busy machine
    #[arg(long, requires = "demo")]
    small: bool,
}

/// Which cluster to start.
#[derive(Args, Debug, Clone)]
pub(crate) struct ClusterArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    nodes: u16,
    /// An existing ZooKeeper, as `host:port[,host:port…][/root]`, or `debian` to start Debian's package, instead of a
    /// keeper of its own
    #[arg(long, value_name = "HOSTS")]
    zookeeper: Option<Choice>,
    /// The first node's port; the others follow
    #[arg(long, value_name = "PORT", default_value_t = 10601)]
    base_port: u16,
}

impl ClusterArgs {
    fn plan(&self, profile: workspace::Profile) -> run::cluster::Plan {
        run::cluster::Plan {
            nodes: self.nodes,
            base_port: self.base_port,
            coordination: self.zookeeper.clone().unwrap_or(Choice::Own(Kind::Keeper)),
            profile,
            slots: 4,
            log_bytes_budget: None,
            ready_within: Duration::from_secs(60),
        }
    }
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<shell::Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let workspace = workspace::Workspace::load()?;
    match command {
        Command::Check(options) => check::run(&workspace, &options),
        Command::Test(options) => test::run(&workspace, &options),
        Command::Run(args) if args.demo => {
            run::demo::run(&workspace, &args.cluster.plan(workspace::Profile::Dev), args.small)
        }
        Command::Run(args) => run::interactive(&workspace, &args.cluster.plan(workspace::Profile::Dev)),
        Command::Bench { what } => bench::run(&workspace, &what),
        Command::Acceptance { what } => acceptance::run(&workspace, &what),
        Command::Faults(options) => faults::run(&workspace, &options),
        Command::Conformance(judges) => conformance::run(&workspace, &judges),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn what_the_tests_and_the_measurements_are_told_is_passed_on() {
        use clap::Parser as _;
        for line in [
            "xtask conformance",
            "xtask conformance --against zookeeper --only lock",
            "xtask conformance kazoo --jobs 1",
            "xtask conformance differential --dev --ops 100 --seed 1",
            "xtask bench keeper --json",
            "xtask faults --dev --faults 40 --only node-cut,pair --keep-logs logs",
            "xtask faults --parts model,planted",
            "xtask faults --dev --parts vips --runs 20 --seed 3",
            "xtask bench peers --tasks 200 --quick --only bullmq --fsync always --report peers.md",
            "xtask bench failover --rounds 1",
            "xtask bench recovery --tasks 1000",
            "xtask bench scale --sizes 3,5",
            "xtask bench vip --rounds 2 --only stop,kill-all --report vip.json",
            "xtask run --zookeeper debian --demo --small",
        ] {
            assert!(super::Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
