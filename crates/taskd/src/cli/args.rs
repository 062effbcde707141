//! The command line's grammar and its help.

mod history;
mod operate;
mod placing;
mod running;
mod schedule;
mod vip;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use proto::NodeId;
use proto::task::{Condition, Limit, LostPolicy};
use taskd::client::Addresses;

pub(super) use self::history::{
    DbArgs, DbCommand, DumpArgs, ListArgs, ShowArgs, SnapshotArgs, SnapshotCommand, StoreArgs,
};
pub(super) use self::operate::{
    DrainArgs, NodeArgs, NodeCommand, PauseArgs, QuotaArgs, QuotaCommand, SetQuotaArgs, Tasks,
};
pub(super) use self::placing::{PlacingArgs, placing};
pub(super) use self::running::{RunningArgs, parse_umask};
pub(super) use self::schedule::{AddArgs, ScheduleArgs, ScheduleCommand};
pub(super) use self::vip::{ApplyArgs, CheckArgs, ConfigArgs, ConfigCommand, Expect, VipArgs, VipCommand};

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

/// Submit tasks, look at them, wait for them.
///
/// A task is named by its id or by any unique beginning of it (4 digits or more).
#[derive(Debug, Args)]
#[command(after_long_help = JSON_HELP)]
pub(super) struct TaskArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: TaskCommand,
}

const JSON_HELP: &str = "\
With -o json (stable: fields may be added, none is renamed or removed):
  submit               {\"id\", \"existing\": bool}
  submit --batch       {\"tasks\": [{\"line\", \"ref\", \"id\", \"existing\",
                       \"error\"}…]}
  list                 {\"tasks\": [TASK…], \"total\": how many there are, or null
                       where a filter would have to look at each of them,
                       \"next\": cursor or null}
  show, cancel, retry  TASK
  show --timeline      {\"id\", \"state\", \"timeline\": [EVENT…],
                       \"gaps\": [SENTENCE…]}
  wait                 [TASK…]
  why                  {\"id\", \"state\", \"reason\", \"remedy\"}
  TASK     {\"id\", \"revision\", \"state\", \"spec\": SPEC, \"submitted_ms\",
            \"finished_ms\", \"not_before_ms\", \"attempt_count\",
            \"attempts\": [ATTEMPT…], \"waits_for\": [{\"task\", \"on\"}…],
            \"note\": why it ended, where no attempt tells,
            \"progress\": {\"percent\", \"message\"} while it runs, or null,
            \"checkpoint\" (text; by show alone)}
  SPEC     {\"kind\", \"payload\" (text), \"name\", \"priority\", \"labels\",
            \"retries\": {\"max\", \"backoff_ms\", \"backoff_ms_max\"},
            \"run_timeout_ms\", \"on_lost\", \"idempotency_key\",
            \"rules\": RULES or null, \"origin\": {\"schedule\", \"tick_ms\",
            \"triggered\": bool} or null}
  RULES    {\"start_at_ms\", \"delay_ms\", \"queue_timeout_ms\",
            \"after\": [{\"task\", \"on\": \"success\"|\"failure\"|\"always\"}…],
            \"limits\": [{\"key\", \"max\"}…], \"permanent_exit_codes\",
            \"progress_timeout_ms\",
            \"placing\": {\"require\": [TERM…], \"prefer\": [TERM…],
            \"spread\", \"slots\"}};
            those that are not set are left out
  ATTEMPT  {\"number\", \"node\", \"incarnation\", \"token\": {\"cluster\", \"epoch\"},
            \"grant\", \"assigned_ms\", \"started_ms\" (by its node's clock),
            \"ended_ms\", \"end\"}
  EVENT    {\"at_ms\", \"clock\": \"leader\"|\"node\", \"what\": \"submitted\"|
            \"scheduled\"|\"blocked\"|\"queued\"|\"assigned\"|\"started\"|
            \"attempt_ended\"|\"backing_off\"|\"cancel_asked\"|\"ended\",
            \"attempt\", \"node\", \"until_ms\", \"detail\"}
Times are milliseconds since 1970.";

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// Submit a task; prints its id
    #[command(after_help = "\
Examples:
  taskd task submit -- sha256sum /etc/os-release
  taskd task submit --wait --run-timeout 10m --retries 3 -- scrub /dev/sdb
  taskd task submit --label zone=a --idempotency-key nightly-7 -- backup
  taskd task submit --kind sleep --payload '{\"ms\": 500}'
  taskd task submit --at 2026-12-01T03:00:00Z --lock array-7 -- scrub array-7
  taskd task submit --after 3f2a:failure -- undo-migration
  taskd task submit --require 'disk=ssd' --avoid zone=b --slots 4 -- scrub
  taskd task submit --spread copies -- copy part-7
  taskd task submit --stdin list.txt --memory 512M --open-files 256 -- import
  taskd task submit --progress-timeout 5m --retries 3 -- sh -c '
    i=${TASKD_CHECKPOINT:-0}; while [ $i -lt 100 ]; do copy-part $i; i=$((i+1))
    echo \"{\\\"percent\\\": $i, \\\"checkpoint\\\": $i}\" >&$TASKD_PROGRESS_FD; done'
  taskd task submit --batch tasks.jsonl

A file for --batch has one JSON object per line; \"ref\" names a task for the
\"after\" of others in the same file, in any order:
  {\"ref\": \"copy\", \"command\": [\"copy\", \"a\", \"b\"], \"locks\": [\"disk-b\"]}
  {\"ref\": \"undo\", \"command\": [\"rm\", \"b\"], \"after\": {\"copy\": \"failure\"}}
  {\"kind\": \"sleep\", \"payload\": {\"ms\": 5}, \"after\": {\"copy\": \"success\"},
   \"delay\": \"5m\", \"priority\": 3, \"retries\": 2, \"limits\": {\"pool\": 4}}
All of it is checked before any of it is sent. Other fields: name, labels,
retry_backoff, run_timeout, queue_timeout, at, no_retry_on, on_lost,
idempotency_key, env, cwd, progress_timeout, stdin, user, umask, resources, require, prefer, avoid, spread, slots.

A command says how it gets on by lines like {\"percent\": 40, \"message\": \"..\",
\"checkpoint\": ..} to the descriptor TASKD_PROGRESS_FD; its next attempt finds
the checkpoint in TASKD_CHECKPOINT (docs/protocol.md has all of it).

With --wait the task's output goes to stdout and the exit code is the task's
own: 128+N if signal N ended it, 125 if taskd could not do its part. Ctrl-C
ends the waiting, not the task.")]
    Submit(Box<SubmitArgs>),
    /// List tasks, newest first
    #[command(after_help = "\
Examples:
  taskd task list --state failed,dead,lost --since 1d
  taskd task list --ended-since 2026-12-01T03:00:00Z --node n2
  taskd task list --schedule nightly --limit 10
  taskd task list --name-prefix copy- --label zone=a -o json

All that is given has to apply. With more than --limit, it ends with a cursor
to go on with: --after CURSOR and the same filters. The cursor stays good
while tasks come and go, and through a change of the leader.")]
    List(Box<ListArgs>),
    /// Show one task with its attempts, or what happened to it with --timeline
    Show(ShowArgs),
    /// Say why a task is where it is, and what would change it
    Why(TaskId),
    /// Print a task's output (stdout and stderr as they came)
    Logs(LogsArgs),
    /// Cancel a task; it is cancelled once its processes are gone
    Cancel(TaskId),
    /// Wait until tasks have ended; fails if one ended without success
    Wait(WaitArgs),
    /// Queue a task again that ended without success, with a fresh budget of attempts
    Retry(TaskId),
}

#[derive(Debug, Args)]
pub(super) struct TaskId {
    /// The task's id, or a unique beginning of it
    #[arg(value_name = "ID", value_parser = parse_prefix)]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    #[command(flatten)]
    pub(super) work: WorkArgs,
    /// Start it not before this time, for example 2026-12-01T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_rfc3339_weak, conflicts_with = "delay")]
    pub(super) at: Option<std::time::SystemTime>,
    /// Start it once that task has succeeded, or has ended as said; otherwise it is cancelled (repeatable)
    #[arg(long, value_name = "ID[:success|failure|always]", value_parser = parse_after)]
    pub(super) after: Vec<(String, Condition)>,
    /// A second submission with the same key returns the first one's task
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,
    /// How long to try when no node or no leader answers
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(super) submit_timeout: Duration,
    /// Wait for the task, stream its output, and exit with its status
    #[arg(long)]
    pub(super) wait: bool,
    /// Submit many at once: a file with one JSON object per line, or - for stdin
    #[arg(long, value_name = "FILE|-", conflicts_with_all = [
        "kind", "payload", "name", "priority", "retries", "retry_backoff", "retry_backoff_max", "no_retry_on",
        "run_timeout", "queue_timeout", "progress_timeout", "at", "delay", "after", "locks", "limits", "on_lost", "labels",
        "idempotency_key", "wait", "env", "cwd", "command", "require", "prefer", "avoid", "spread", "slots",
        "stdin", "user", "umask", "memory", "cpu_seconds", "open_files", "processes", "file_size",
    ])]
    pub(super) batch: Option<PathBuf>,
}

/// What a task is, whether it comes once or again and again.
#[derive(Debug, Args)]
pub(super) struct WorkArgs {
    /// Which service runs it: exec, sleep, noop, or one that the nodes register
    #[arg(long, default_value = "exec")]
    pub(super) kind: String,
    /// What the service gets: text, @FILE, or - for stdin. Not for exec, which gets the command
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with = "command")]
    pub(super) payload: Option<String>,
    /// A name, for people
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Higher runs first: -100 to 100
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub(super) priority: i32,
    /// Attempts after the first that failed; one lost with its node is made good up to max(this, 3) times
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(super) retries: u32,
    /// Pause before the first retry; it doubles each time, up to 5m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) retry_backoff: Option<Duration>,
    /// How long one attempt may run, for example 90s or 2h [default: as long as it likes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) run_timeout: Option<Duration>,
    /// Longest pause before a retry [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) retry_backoff_max: Option<Duration>,
    /// Exit codes that no retry would help (comma-separated)
    #[arg(long, value_name = "CODE,…", value_delimiter = ',', allow_negative_numbers = true)]
    pub(super) no_retry_on: Vec<i32>,
    /// Start it not before so long from now
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) delay: Option<Duration>,
    /// How long it may wait for a slot; then it ends as timed_out [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) queue_timeout: Option<Duration>,
    /// How long an attempt may say nothing of its progress (see --help); then it ends as timed_out [default: as long as
    /// it likes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) progress_timeout: Option<Duration>,
    /// Run it only while no other task that names this key runs, whatever its kind and node (repeatable)
    #[arg(long = "lock", value_name = "KEY")]
    pub(super) locks: Vec<String>,
    /// Run it only while fewer than N tasks that name this key run (repeatable)
    #[arg(long = "limit", value_name = "KEY=N", value_parser = parse_limit)]
    pub(super) limits: Vec<Limit>,
    /// What to do when its node is lost: run it elsewhere once its processes are certainly gone, run it elsewhere at
    /// once (for work that may run twice), or give up
    #[arg(long, value_enum, default_value_t = OnLost::Requeue, value_name = "POLICY")]
    pub(super) on_lost: OnLost,
    /// Run it only on nodes with this label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(super) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(super) placing: PlacingArgs,
    /// Add to the command's environment (repeatable)
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(super) env: Vec<(String, String)>,
    /// The command's working directory
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<String>,
    #[command(flatten)]
    pub(super) running: RunningArgs,
    /// The program and its arguments; never a shell string
    #[arg(last = true, value_name = "CMD")]
    pub(super) command: Vec<String>,
}

impl WorkArgs {
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnLost {
    Requeue,
    RequeueNow,
    Fail,
}

impl From<OnLost> for LostPolicy {
    fn from(policy: OnLost) -> Self {
        match policy {
            OnLost::Requeue => Self::Requeue,
            OnLost::RequeueNow => Self::RequeueNow,
            OnLost::Fail => Self::Fail,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    #[command(flatten)]
    pub(super) task: TaskId,
    /// Go on until the task has ended
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Which attempt, from 1 [default: the newest]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) attempt: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct WaitArgs {
    /// The tasks' ids, or unique beginnings of them
    #[arg(value_name = "ID", required = true, value_parser = parse_prefix)]
    pub(super) ids: Vec<String>,
    /// How long to wait [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) timeout: Option<Duration>,
}

/// Look at the cluster, and choose who leads.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With -o json (stable: fields may be added, none is renamed or removed):
  status    {\"health\": \"healthy\"|\"degraded\"|\"no_leader\", \"summary\",
             \"remedy\", \"notes\": [SENTENCE…], \"answered_by\", \"condition\": CONDITION,
             \"cluster\", \"leader\": LEADER, \"members\": [MEMBER…],
             \"coordination\": COORDINATION,
             \"log\": {\"bytes\", \"live_bytes\", \"budget_bytes\", \"segments\"},
             \"tasks\": {STATE: COUNT…},
             \"fences\": [{\"node\", \"attempts\", \"run_again\", \"over_in_ms\"}…]}
  handover  {\"leader\"}
  priority  {\"node\", \"priority\"}
  pause, resume  see taskd node --help
  LEADER    {\"node\", \"address\", \"epoch\", \"sequence\", \"serving\", \"lease_ms\"}
  MEMBER    {\"index\", \"sequence\", \"node\", \"address\", \"role\", \"phase\",
             \"priority\", \"slots\": {\"total\", \"free\"}, \"version\", \"note\",
             \"condition\": CONDITION, \"heard_ms\"}
  CONDITION what a node says of itself if it is not simply running, or null:
             {\"kind\": \"wedged\"|\"stopping\"|\"suspended\"|\"recovering\"|
             \"resigning\"|\"handing_over\"|\"starting\"|\"rejoining\"|
             \"disconnected\"|\"barred\"|\"not_a_candidate\", \"words\", \"remedy\"}
  COORDINATION  {\"hosts\", \"state\", \"for_ms\", \"session\",
                 \"session_timeout_ms\", \"service\": SERVICE or null,
                 \"servers\": [{\"address\", \"state\"}…] while there is no
                 connection}
  SERVICE   {\"kind\": \"embedded_keeper\"|\"keeper\"|\"standalone_zookeeper\"|
             \"ensemble\", \"version\", \"highly_available\": bool}")]
pub(super) struct ClusterArgs {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum ClusterCommand {
    /// Show whether the cluster works, who leads, and every member; exit code 3 if it is not healthy
    Status,
    /// Let another node lead, in an orderly way
    #[command(visible_alias = "switchover")]
    Handover(HandoverArgs),
    /// Set a node's priority for leading; higher leads
    Priority(PriorityArgs),
    /// Start nothing new; what runs goes on, and what is submitted waits
    Pause(PauseArgs),
    /// Start tasks again after a pause
    Resume,
}

#[derive(Debug, Args)]
pub(super) struct HandoverArgs {
    /// Who is to lead [default: the next in line]
    #[arg(long, value_name = "NODE")]
    pub(super) to: Option<NodeId>,
}

#[derive(Debug, Args)]
pub(super) struct PriorityArgs {
    /// Whose
    #[arg(value_name = "NODE")]
    pub(super) node: NodeId,
    /// The priority; 0 unless set
    #[arg(value_name = "N", allow_negative_numbers = true)]
    pub(super) priority: i32,
}

fn parse_after(text: &str) -> Result<(String, Condition), String> {
    let (id, on) = text.split_once(':').unwrap_or((text, "success"));
    Ok((parse_prefix(id)?, parse_condition(on)?))
}

pub(super) fn parse_condition(text: &str) -> Result<Condition, String> {
    match text {
        "success" => Ok(Condition::Success),
        "failure" => Ok(Condition::Failure),
        "always" => Ok(Condition::Always),
        _ => Err(format!("{text:?} is no way to end: use success, failure or always")),
    }
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let wrong = || format!("{text:?} is no limit: use KEY=N, for example uploads=4");
    let (key, max) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok(Limit { key: key.to_owned(), max: max.parse().map_err(|_| wrong())? })
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
