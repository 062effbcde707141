//! `taskd node`, `taskd quota`, and pausing the cluster.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use proto::NodeId;
use proto::operate::Quota;

use super::Common;

/// Look at nodes, and take their work away.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With -o json (stable: fields may be added, none is renamed or removed):
  list      {\"paused\": SAID or null, \"nodes\": [NODE…]}
  show      NODE
  drain, undrain, taskd cluster pause, resume
            {\"changed\": bool, \"now\": {\"paused\": SAID or null,
             \"nodes\": [NODE…], \"quotas\": [see taskd quota --help]}}
  NODE      {\"node\", \"state\": \"ready\"|\"draining\"|\"drained\"|\"stopping\"|
             \"silent\"|\"gone\", \"drain\": {\"said\": SAID, \"deadline_ms\"} or null,
             \"slots\", \"used\", \"attempts\", \"labels\", \"kinds\", \"address\",
             \"heard_ms\"}
  SAID      {\"by\", \"reason\", \"at_ms\"}
Times are milliseconds since 1970; heard_ms is how long ago.")]
pub(in crate::cli) struct NodeArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum NodeCommand {
    /// List nodes: what they run, and whether they take work
    List,
    /// Show one node
    Show(NodeName),
    /// Give a node no new tasks, and end or await what it runs
    #[command(after_help = "\
Examples:
  taskd node drain n2 --reason 'new disks'          # what runs there may end
  taskd node drain n2 --deadline 10m                # for 10 minutes, then it moves
  taskd node drain n2 --tasks requeue               # it moves at once
  taskd node list                                   # draining, then drained
  taskd node undrain n2

It holds until it is taken back, whoever leads and however often the node is
restarted. What is still running at the deadline is ended as by a cancel
(SIGTERM, a grace, SIGKILL) and queued again once it is gone; that is no
failed attempt. Tasks submitted with --on-lost fail end as lost instead.
Drained again, a node gets the new deadline and reason.

The node stays a member and may lead: see taskd cluster handover. Its virtual
IPs stay too: taskd vip drain moves those.")]
    Drain(DrainArgs),
    /// Let a node take tasks again
    Undrain(NodeName),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NodeName {
    /// Which node
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeId,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// Which node
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeId,
    /// How long what runs there may go on; then it is ended and runs elsewhere [default: to its end]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) deadline: Option<Duration>,
    /// What becomes of what runs there: it may end by itself, or it is ended at once and runs elsewhere
    #[arg(long, value_enum, default_value_t = Tasks::Wait, value_name = "POLICY")]
    pub(in crate::cli) tasks: Tasks,
    /// Why, for whoever looks at the cluster
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
    /// Also if the cluster does not know this node at the moment
    #[arg(long)]
    pub(in crate::cli) absent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Tasks {
    Wait,
    Requeue,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  taskd cluster pause --reason 'storage maintenance until 14:00'
  taskd cluster status
  taskd cluster resume

What runs goes on. Submissions are accepted and wait, and so do the ticks of
schedules; queue timeouts pass meanwhile. It holds until it is taken back,
whoever leads. Virtual IPs are not touched.")]
pub(in crate::cli) struct PauseArgs {
    /// Why, for whoever looks at the cluster
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) reason: Option<String>,
}

/// Say how much of a kind of task there may be.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With -o json (stable: fields may be added, none is renamed or removed):
  list      {\"quotas\": [{\"kind\", \"quota\": {\"running\", \"per_node\", \"queued\",
             \"bytes\"}, \"running\", \"queued\", \"bytes\"}…]}
  set, remove  as taskd node drain")]
pub(in crate::cli) struct QuotaArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: QuotaCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum QuotaCommand {
    /// List quotas, and what of them is used
    List,
    /// Limit a kind; what is not given stays as it is
    #[command(after_help = "\
Examples:
  taskd quota set exec --running 20 --per-node 4
  taskd quota set scrub --queued 1000 --bytes 64MiB
  taskd quota remove scrub

What may not run yet waits. What may not be queued is refused, with the
quota's name; ticks of schedules wait until there is room.")]
    Set(SetQuotaArgs),
    /// Limit a kind no more
    Remove(KindName),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct KindName {
    /// Which kind: exec, sleep, noop, or one that the nodes register
    #[arg(value_name = "KIND")]
    pub(in crate::cli) kind: String,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true, args = ["running", "per_node", "queued", "bytes"])]
pub(in crate::cli) struct SetQuotaArgs {
    /// Which kind: exec, sleep, noop, or one that the nodes register
    #[arg(value_name = "KIND")]
    pub(in crate::cli) kind: String,
    /// Attempts that may run at a time in the whole cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    running: Option<u32>,
    /// Attempts that may run at a time on one node
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    per_node: Option<u32>,
    /// Tasks that may wait; more are refused
    #[arg(long, value_name = "N")]
    queued: Option<u64>,
    /// Bytes of payload of tasks that wait or run, for example 64MiB; more are refused
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    bytes: Option<u64>,
}

impl SetQuotaArgs {
    pub(in crate::cli) fn quota(&self) -> Quota {
        let Self { kind: _, running, per_node, queued, bytes } = self;
        Quota { running: *running, per_node: *per_node, queued: *queued, bytes: *bytes }
    }
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of bytes: use for example 4096, 64KiB, 64MiB or 1GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (count, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_with_their_unit() {
        let rows = [("0", Some(0)), ("64KiB", Some(65_536)), ("1GiB", Some(1 << 30)), ("12B", Some(12))];
        for (text, bytes) in rows {
            assert_eq!(parse_bytes(text).ok(), bytes, "{text}");
        }
        for bad in ["", "KiB", "-1", "5MB", "99999999999GiB", "1.5KiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }
}
