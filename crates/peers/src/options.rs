//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::peer::{Fsync, Peer};

/// Celery, BullMQ and graphile-worker on the no-op tasks that taskd is measured with.
#[derive(Clone, Debug, Parser)]
#[command(name = "peers")]
pub(crate) struct Options {
    /// Where everything is installed and runs; a user without privileges must be able to reach it (PostgreSQL is run
    /// by one)
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    pub(crate) dir: PathBuf,
    /// How many tasks in each run that measures throughput [default: 20000; with --quick 2000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    tasks: Option<u32>,
    /// How often everything is measured; the table has the medians and what was seen around them [default: 3; with
    /// --quick 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// One round of few tasks, and latency for 2 s instead of 10: to see that everything works
    #[arg(long)]
    quick: bool,
    /// Install what is missing, and that is all
    #[arg(long)]
    pub(crate) install_only: bool,
    /// Only these
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PEER,…")]
    only: Vec<Peer>,
    /// When Redis makes sure that what it took is on the disk
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["never", "always"])]
    pub(crate) fsync: Vec<Fsync>,
    /// What to compare with: a JSON file of rows, as the harness of taskd writes it
    #[arg(long, value_name = "FILE")]
    pub(crate) beside: Option<PathBuf>,
    /// Write the table, the machine, the versions and the durability as markdown into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

impl Options {
    pub(crate) fn tasks(&self) -> u32 {
        self.tasks.unwrap_or(if self.quick { 2_000 } else { 20_000 })
    }

    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How long tasks come in at a low rate.
    pub(crate) fn latency_s(&self) -> u32 {
        if self.quick { 2 } else { 10 }
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        if self.only.is_empty() { Peer::ALL.to_vec() } else { self.only.clone() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Options::command().debug_assert();
    }
}
