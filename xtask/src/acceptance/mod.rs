//! `cargo xtask acceptance`: long runs with faults, each with a checker that explains everything it saw.

mod chaos;
mod stop_anytime;

use anyhow::Result;
use clap::Subcommand;

use crate::ClusterArgs;
use crate::workspace::Workspace;

#[derive(Subcommand, Debug)]
pub(crate) enum What {
    /// Tasks that write down what they see, while the leader, a runner and the coordination service are killed
    Chaos {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How many tasks
        #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(50..=9_000))]
        tasks: u32,
    },
    /// SIGTERM at random moments, with the coordination service there, gone, silent and inside: it always ends in time
    StopAnytime {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How many times
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// For the moments; the same one gives the same moments
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

pub(crate) fn run(workspace: &Workspace, what: &What) -> Result<()> {
    match what {
        What::Chaos { cluster, tasks } => chaos::run(workspace, cluster, *tasks),
        What::StopAnytime { cluster, rounds, seed } => stop_anytime::run(workspace, cluster, *rounds, *seed),
    }
}
