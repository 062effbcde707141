//! `cargo xtask bench`: what an idle cluster costs, and how many durable tasks a second one does; virtual IPs
//! beside keepalived's, and tasks beside other people's queues; what a change of the leader costs, with a full queue and
//! with a hundred nodes.

mod companion;
mod failover;
mod idle;
mod peers;
mod recovery;
mod scale;
mod tasks;

use anyhow::Result;
use clap::Subcommand;

use crate::ClusterArgs;
use crate::conformance;
use crate::faults::vips;
use crate::workspace::Workspace;

#[derive(Subcommand, Debug)]
pub(crate) enum What {
    /// CPU, memory and coordination writes of nodes that have nothing to do
    Idle {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How long to look
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
        seconds: u64,
    },
    /// Durable tasks a second and submit-to-start latency, beside the same coordination service's raw writes
    Tasks {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How many tasks in the run that measures throughput
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
        tasks: u32,
    },
    /// For how long nothing starts when the leader changes: handed over, killed, killed and started again; and what 15 s
    /// without the coordination service do to tasks that run
    Failover {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How often each
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
    },
    /// A leader change with a million tasks in the queue, and the memory that they take
    Recovery {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// How many tasks wait
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=1_000_000))]
        tasks: u32,
    },
    /// What a leader change costs the coordination service, with more and more nodes (of one process)
    Scale {
        /// How many nodes, one measurement each
        #[arg(long, default_value = "10,50,100", value_delimiter = ',', value_name = "N,…",
              value_parser = clap::value_parser!(u16).range(2..=500))]
        sizes: Vec<u16>,
    },
    /// Tasks beside Celery, BullMQ and graphile-worker, which it installs
    Peers {
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        options: peers::Options,
    },
    /// The keeper beside Debian's ZooKeeper: writes a second, latency, memory, start
    Keeper(conformance::Passed),
    /// Virtual IPs beside keepalived: what a client and the network see while everything happens to the holder
    Vip(vips::Bench),
}

pub(crate) fn run(workspace: &Workspace, what: &What) -> Result<()> {
    match what {
        What::Idle { cluster, seconds } => idle::run(workspace, cluster, *seconds),
        What::Tasks { cluster, tasks } => tasks::run(workspace, cluster, *tasks),
        What::Failover { cluster, rounds } => failover::run(workspace, cluster, *rounds),
        What::Recovery { cluster, tasks } => recovery::run(workspace, cluster, *tasks),
        What::Scale { sizes } => scale::run(workspace, sizes),
        What::Peers { cluster, options } => peers::run(workspace, cluster, options),
        What::Keeper(passed) => conformance::bench(workspace, passed),
        What::Vip(options) => vips::bench(workspace, options),
    }
}
