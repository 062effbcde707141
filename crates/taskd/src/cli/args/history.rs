//! `taskd task list`, `taskd task show`, and what reads the coordination service itself: `taskd db`, `taskd snapshot`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use proto::NodeId;
use proto::api::ListFilter;
use proto::schedule::ScheduleName;
use proto::task::TaskState;

use super::{Format, TaskId, parse_pair};

/// What of a list one request asks for.
const PAGE: u32 = 1_000;

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    /// Only tasks in one of these states: scheduled, blocked, queued, running, retrying, cancelling, succeeded, failed,
    /// cancelled, timed_out, lost, dead (comma-separated, repeatable)
    #[arg(long = "state", value_name = "STATE,…", value_delimiter = ',')]
    pub(in crate::cli) states: Vec<TaskState>,
    /// Only tasks of this kind
    #[arg(long)]
    pub(in crate::cli) kind: Option<String>,
    /// Only tasks with this in their name
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) name: Option<String>,
    /// Only tasks whose name begins with this
    #[arg(long, value_name = "TEXT")]
    pub(in crate::cli) name_prefix: Option<String>,
    /// Only tasks of which an attempt was given to this node
    #[arg(long, value_name = "NODE")]
    pub(in crate::cli) node: Option<NodeId>,
    /// Only tasks that ask for this label (repeatable: for all of them)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(in crate::cli) labels: Vec<(String, String)>,
    /// Only tasks of this schedule
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) schedule: Option<ScheduleName>,
    /// Only tasks that were submitted then or later: a time, or how long ago
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_when)]
    pub(in crate::cli) since: Option<u64>,
    /// Only tasks that were submitted before
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_when)]
    pub(in crate::cli) until: Option<u64>,
    /// Only tasks that ended then or later; the latest end comes first
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_when)]
    pub(in crate::cli) ended_since: Option<u64>,
    /// Only tasks that ended before; the latest end comes first
    #[arg(long, value_name = "TIME|DURATION", value_parser = parse_when)]
    pub(in crate::cli) ended_until: Option<u64>,
    /// Go on where an earlier list ended: what it gave as `next`; with the same filters
    #[arg(long, value_name = "CURSOR")]
    pub(in crate::cli) after: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(in crate::cli) limit: u32,
}

impl ListArgs {
    /// What to ask for with `found` tasks at hand, from behind `after` on.
    pub(in crate::cli) fn filter(&self, found: usize, after: Option<String>) -> ListFilter {
        let left = self.limit.saturating_sub(u32::try_from(found).unwrap_or(u32::MAX));
        ListFilter {
            // A node of the release before this one knows of one state alone.
            state: match self.states.as_slice() {
                [one] => Some(*one),
                _ => None,
            },
            states: self.states.clone(),
            kind: self.kind.clone(),
            name: self.name.clone(),
            name_prefix: self.name_prefix.clone(),
            node: self.node.clone(),
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
            schedule: self.schedule.clone(),
            since_ms: self.since,
            until_ms: self.until,
            ended_since_ms: self.ended_since,
            ended_until_ms: self.ended_until,
            after,
            limit: Some(left.min(PAGE)),
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    #[command(flatten)]
    pub(in crate::cli) task: TaskId,
    /// What happened to it, in order
    #[arg(long)]
    pub(in crate::cli) timeline: bool,
}

/// Where the coordination service is; what uses this talks to no node.
#[derive(Debug, Args)]
pub(in crate::cli) struct StoreArgs {
    /// ZooKeeper's servers, and the node under which everything lives [default: what --config says, or
    /// 127.0.0.1:2181/taskd]
    #[arg(long, global = true, value_name = "HOSTS[/ROOT]")]
    pub(in crate::cli) coordination: Option<String>,
    /// Take them, and the credentials, from a node's configuration file
    #[arg(long, global = true, value_name = "FILE", env = "TASKD_CONFIG")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// How to print: `table` for eyes, `json` (stable) for scripts
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(in crate::cli) output: Format,
}

/// Look at the task log in the coordination service, past every node.
///
/// It works without a leader and without any node, reads, and writes nothing.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  taskd db stats --config /etc/taskd/taskd.toml
  taskd db verify --coordination zk1:2181,zk2:2181/taskd
  taskd db dump | jq 'select(.kind == \"task\" and .live) | .record.state'

With -o json (stable: fields may be added, none is renamed or removed):
  stats     {\"segments\", \"first\", \"tail\", \"bytes\", \"live_bytes\", \"epoch\",
             \"records\": {KIND: live ones…}, \"tombstones\", \"dead_records\",
             \"tasks\": {STATE: COUNT…}, \"bodies\": {\"count\", \"bytes\",
             \"unreferenced\", \"unreferenced_bytes\"}}
  verify    {\"sound\": bool, \"segments\", \"records\",
             \"problems\": [SENTENCE…], \"notes\": [SENTENCE…]}
  dump      always one object a line:
            {\"segment\", \"epoch\", \"writer\", \"oldest\", \"bytes\",
             \"written_ms\", \"records\"}, then for each record of it
            {\"segment\", \"key\", \"revision\", \"kind\", \"live\": bool,
             \"record\"}; kind is \"gone\" where the key was deleted, and
            \"unreadable\" with an \"error\" where it cannot be decoded")]
pub(in crate::cli) struct DbArgs {
    #[command(flatten)]
    pub(in crate::cli) store: StoreArgs,
    #[command(subcommand)]
    pub(in crate::cli) command: DbCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DbCommand {
    /// Print every record of every segment, one JSON object a line
    Dump(DumpArgs),
    /// Check that it can be replayed and that nothing it refers to is missing; exit code 1 if not
    Verify,
    /// Show how large it is, how much of that still counts, and what is in it
    Stats,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DumpArgs {
    /// Only this segment
    #[arg(long, value_name = "N")]
    pub(in crate::cli) segment: Option<u64>,
    /// Only what still counts
    #[arg(long)]
    pub(in crate::cli) live: bool,
}

/// Save the state of a cluster to a file, and bring it back.
///
/// A snapshot has the tasks, schedules and orders of the task log, large payloads, the priorities and the configuration of
/// virtual IPs. It has no output of tasks, which is on the nodes' disks, and nothing of who is a member or leads.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  taskd snapshot save /backup/taskd-monday --config /etc/taskd/taskd.toml
  taskd snapshot inspect /backup/taskd-monday
  taskd snapshot restore /backup/taskd-monday --coordination zk1:2181/taskd

`save` works at any time, with or without a leader, and needs no node. The
file is readable by its owner alone: it has every payload.

`restore` wants an empty root, or --force and no living member. What it makes
is another cluster, with a uuid of its own: no attempt of the old one can be
taken for one of the new. So every node starts with an empty data directory
(move the old one aside); one that still belongs to the old cluster says so
and does not join. What was running when the snapshot was saved counts as
lost with its node: after the fence it runs again, or ends as lost with
--on-lost fail. Stop the old cluster first: nothing keeps the two from
running the same tasks. What a killed daemon leaves running goes on until its
fence (tasks.fence_after), and the snapshot may not know of it: over the old
root --force waits for that, into another root you do. For a node with coordination.embedded, stop it, run
`taskd keeper --data-dir DATA_DIR/keeper` meanwhile, and restore into that.

With -o json (stable: fields may be added, none is renamed or removed):
  save, inspect  {\"file\", \"bytes\", \"format\", \"saved_ms\", \"by\", \"root\",
                  \"cluster\", \"epoch\", \"nodes\", \"segments\", \"bodies\",
                  \"tasks\": {STATE: COUNT…}, \"records\": {KIND: COUNT…}}
  restore        {\"cluster\", \"restored_from\", \"epoch\", \"nodes\"}")]
pub(in crate::cli) struct SnapshotArgs {
    #[command(flatten)]
    pub(in crate::cli) store: StoreArgs,
    #[command(subcommand)]
    pub(in crate::cli) command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum SnapshotCommand {
    /// Write the cluster's state to a new file
    Save(SnapshotFile),
    /// Check a file and say what is in it; asks nobody
    Inspect(SnapshotFile),
    /// Make a cluster with the state of a file
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SnapshotFile {
    /// The file
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct RestoreArgs {
    #[command(flatten)]
    pub(in crate::cli) file: SnapshotFile,
    /// Delete what is under the root now. Refused as long as a member lives; then it waits until what the nodes of the
    /// cluster that was there may still run has lost its right to
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// With --force: do not wait, since every node was stopped and none of its tasks runs
    #[arg(long, requires = "force")]
    pub(in crate::cli) stopped: bool,
}

/// A time, or how long ago it was, as milliseconds since 1970.
fn parse_when(text: &str) -> Result<u64, String> {
    let time = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let wrong =
        || format!("{text:?} is no time: use 2026-12-01T03:00:00Z, or how long ago, such as 2h or 7d");
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).ok_or_else(wrong)?;
    u64::try_from(Duration::as_millis(&since)).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_times_or_ages() {
        assert_eq!(parse_when("2026-12-01T03:00:00Z"), Ok(1_796_094_000_000));
        assert_eq!(parse_when("2026-12-01 03:00:00"), Ok(1_796_094_000_000));
        let now = parse_when("0s").expect("now");
        let hour = parse_when("1h").expect("an hour ago");
        assert!((3_599_000..=3_601_000).contains(&(now - hour)), "{now} {hour}");
        for bad in ["", "yesterday", "90000000000000000s"] {
            assert!(parse_when(bad).is_err(), "{bad:?}");
        }
    }
}
