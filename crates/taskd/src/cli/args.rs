//! The command line's grammar and its help.

mod cluster;
mod history;
mod operate;
mod placing;
mod running;
mod schedule;
mod task;
mod vip;
mod work;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use taskd::client::Addresses;

pub(super) use self::cluster::{ClusterArgs, ClusterCommand, HandoverArgs, PriorityArgs};
pub(super) use self::history::{
    DbArgs, DbCommand, DumpArgs, ListArgs, ShowArgs, SnapshotArgs, SnapshotCommand, StoreArgs,
};
pub(super) use self::operate::{
    DrainArgs, NodeArgs, NodeCommand, PauseArgs, QuotaArgs, QuotaCommand, SetQuotaArgs, Tasks,
};
pub(super) use self::placing::{PlacingArgs, placing};
pub(super) use self::running::{RunningArgs, parse_umask};
pub(super) use self::schedule::{AddArgs, ScheduleArgs, ScheduleCommand};
pub(super) use self::task::{LogsArgs, SubmitArgs, TaskArgs, TaskCommand, TaskId, WaitArgs, parse_condition};
pub(super) use self::vip::{ApplyArgs, CheckArgs, ConfigArgs, ConfigCommand, Expect, VipArgs, VipCommand};
pub(super) use self::work::WorkArgs;

use crate::exit;

const EXAMPLES: &str = "\
Examples:
  taskd serve --config /etc/taskd/taskd.toml
  taskd serve --embedded --allow-exec     # one machine, nothing else needed
  taskd task submit --wait -- sha256sum /etc/os-release
  taskd task list --state failed
  taskd schedule add nightly --cron '30 3 * * *' -- backup
  taskd task logs -f 3f2a
  taskd cluster status
  taskd config apply vips.toml
  taskd vip list

";

/// Durable tasks and virtual IPs for a cluster of nodes: tasks run once, and an address is on one node.
#[derive(Debug, Parser)]
#[command(name = "taskd", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "`taskd --help` explains the exit codes and shows examples.")]
#[command(after_long_help = format!("{EXAMPLES}{}", exit::HELP))]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node
    #[command(after_help = "\
Examples:
  taskd serve --embedded --allow-exec
  taskd serve --node-id n1 --coordination zk1:2181,zk2:2181/taskd

With --embedded the node runs its own coordination service: everything on one
machine, and not highly available. For more, start a ZooKeeper ensemble and
name it with --coordination instead; nothing else of the configuration
changes. Tasks do not move along: let the queue run empty, and start with an
empty data directory.

Every key of the file can be set in the environment too, as
TASKD_<SECTION>__<KEY>, for example TASKD_EXEC__ALLOW=true. Flags win over
the environment, which wins over the file. SIGTERM and SIGINT stop the node.

SIGHUP has it read the file again: [vip] interfaces, on_take, on_release and
scripts, and node.labels as far as virtual IPs look at them. What else has
changed, it says, holds from its next start on; a file with a mistake changes
nothing.

Virtual IPs need CAP_NET_ADMIN and CAP_NET_RAW, and no root. Without them the
node makes a dry run: it takes part and says what it would do.")]
    Serve(ServeArgs),
    /// Run a coordination service for one machine: a ZooKeeper-protocol server that needs no Java
    #[command(after_help = "\
Examples:
  taskd keeper
  taskd keeper --data-dir ./keeper --listen 127.0.0.1:2182
  taskd serve --coordination 127.0.0.1:2181

It is one server on one machine, and not highly available: while it is down,
nobody leads and nothing new starts; what runs goes on until its fence. For
more, start a ZooKeeper ensemble and let the nodes use it: nothing but their
hosts (--coordination) changes. (Tasks do not move along: let the queue run
empty, and start with empty data directories.) ZooKeeper's clients and tools
work with it; reconfig, quotas, SASL, containers and TTLs are refused.

Nothing is encrypted. Beyond 127.0.0.1 everybody who reaches the port can
read and change what ACLs do not protect, so listen there only on a trusted
network.

What it has acknowledged is on the disk. SIGTERM and SIGINT stop it; a second
one ends it at once, and loses nothing that was acknowledged.")]
    Keeper(KeeperArgs),
    /// Submit tasks, look at them, wait for them
    Task(TaskArgs),
    /// Run tasks again and again, at the ticks of cron expressions
    Schedule(ScheduleArgs),
    /// Look at the cluster, and choose who leads
    Cluster(ClusterArgs),
    /// Look at nodes, and take their work away
    Node(NodeArgs),
    /// Say how much of a kind of task there may be
    Quota(QuotaArgs),
    /// Look at virtual IPs, and move them
    Vip(VipArgs),
    /// Say which virtual IPs the cluster has, and who is to hold them
    Config(ConfigArgs),
    /// Look at the task log in the coordination service, past every node
    Db(DbArgs),
    /// Save the state of a cluster to a file, and bring it back
    Snapshot(SnapshotArgs),
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Read the configuration from this file (etc/taskd.toml documents every key)
    #[arg(long, value_name = "FILE", env = "TASKD_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// This node's name, unique in the cluster [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub(super) node_id: Option<String>,
    /// Where to listen [default: 127.0.0.1:10601]
    #[arg(long, value_name = "IP:PORT")]
    pub(super) listen: Option<String>,
    /// ZooKeeper's servers, and the node under which everything lives [default root: /taskd]
    #[arg(long, value_name = "HOSTS[/ROOT]")]
    pub(super) coordination: Option<String>,
    /// Run the coordination service in this node, on 127.0.0.1:2181: one machine, not highly available
    #[arg(long, conflicts_with = "coordination")]
    pub(super) embedded: bool,
    /// Where to keep identity and output [default: /var/lib/taskd, or ~/.local/state/taskd if that is not yours]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Run tasks of the kind exec: any command, as this user, for whoever reaches this node's port
    #[arg(long)]
    pub(super) allow_exec: bool,
    /// What a stop (SIGTERM) does with the tasks that run here: `leave` them to the next start, for an upgrade;
    /// `drain`: wait for them; `kill` them, so that they run elsewhere at once [default: kill]
    #[arg(long, value_name = "leave|drain|kill", value_parser = ["leave", "drain", "kill"])]
    pub(super) on_stop: Option<String>,
    /// Show the configuration that would be used, and end
    #[arg(long)]
    pub(super) print_config: bool,
}

#[derive(Debug, Args)]
pub(super) struct KeeperArgs {
    /// Where to keep the data [default: keeper in /var/lib/taskd, or in ~/.local/state/taskd if that is not yours]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Where to listen; beyond loopback only with --insecure
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:2181")]
    pub(super) listen: SocketAddr,
    /// Nothing is encrypted: say that the network is trusted
    #[arg(long)]
    pub(super) insecure: bool,
    /// The unit of session timeouts, which may be 2 to 20 of it; the nodes' coordination.tick says the same
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(super) tick: Duration,
    /// Connections that clients may open to it
    #[arg(long, value_name = "N", default_value_t = 4_096)]
    pub(super) connections_max: usize,
    /// How log lines look, on stderr
    #[arg(long, value_enum, default_value_t = Lines::Human, value_name = "FORMAT", env = "TASKD_LOG__FORMAT")]
    pub(super) log_format: Lines,
    /// error, warn, info, debug, trace, or directives such as info,keeper=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "TASKD_LOG__LEVEL")]
    pub(super) log_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Lines {
    /// For eyes
    Human,
    /// One object a line
    Json,
}

/// What every command that talks to a node takes.
#[derive(Debug, Args)]
pub(super) struct Common {
    /// Nodes to ask; the first that answers is used
    #[arg(
        long,
        global = true,
        env = "TASKD_ADDR",
        value_name = "ADDR[,ADDR…]",
        default_value = "127.0.0.1:10601"
    )]
    pub(super) addr: Addresses,
    /// How to print: `table` for eyes, `json` (stable) for scripts
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(super) output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For eyes
    Table,
    /// Stable, for scripts
    Json,
}

/// Ids are shown without hyphens; with them they mean the same.
fn parse_prefix(text: &str) -> Result<String, String> {
    let digits: String = text.chars().filter(|c| *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    if (4..=32).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(digits)
    } else {
        Err("a task's id is 32 hexadecimal digits; its first 4 or more will do if they are unique".to_owned())
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("use KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn prefixes() {
        assert_eq!(parse_prefix("0123-ABcd"), Ok("0123abcd".to_owned()));
        for bad in ["", "abc", "xyzw", &"0".repeat(33)] {
            assert!(parse_prefix(bad).is_err(), "{bad:?}");
        }
    }
}
