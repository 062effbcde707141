//! `taskd vip` and `taskd config`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use proto::NodeId;
use proto::vip::{ServiceName, VipOrder};

use super::Common;

/// Look at virtual IPs, and move them.
///
/// The addresses of a service move together. Which services there are says `taskd config`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With -o json (stable: fields may be added, none is renamed or removed):
  list     {\"revision\", \"services\": [SERVICE…], \"nodes\": [NODE…],
            \"drained\": {NODE: {\"since_ms\", \"why\"}…},
            \"events\": [{\"at_ms\", \"service\", \"what\"}…], \"answered_by\",
            \"notes\": [SENTENCE…]}
  show     SERVICE
  why      {\"service\", \"state\", \"reasons\": [SENTENCE…], \"remedy\"}
  move, release, drain, undrain
           {\"done\": SENTENCE}
  SERVICE  {\"service\", \"state\": \"held\"|\"dry_run\"|\"taking\"|\"blocked\"|
            \"down\"|\"disabled\"|\"unknown\",
            \"vips\": [{\"address\", \"interface\"}…], \"holder\",
            \"since_ms\", \"order\": [NODE…], \"why\", \"trouble\", \"remedy\",
            \"nodes\": {NODE: LOCAL…}}
  LOCAL    {\"unfit\", \"phase\": \"idle\"|\"waiting\"|\"probing\"|\"held\"|
            \"blocked\"|\"releasing\", \"since_ms\", \"note\",
            \"conflict\": {\"address\", \"mac\", \"interface\"} or null}
  NODE     {\"node\", \"incarnation\", \"backend\": \"netlink\"|\"dry_run\",
            \"why_dry\", \"unreadable\", \"stopping\", \"labels\",
            \"services\": {SERVICE: LOCAL…}}
Times are milliseconds since 1970.")]
pub(in crate::cli) struct VipArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: VipCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum VipCommand {
    /// List services: where they stand, who holds them, what is the matter
    List,
    /// Show one service, and where each node stands with it
    Show(Service),
    /// Say why a service is where it is, and what would change it
    Why(Service),
    /// Have a node hold a service now; it stays there until it has to move
    #[command(after_help = "\
Examples:
  taskd vip move iscsi --to n2
  taskd vip move iscsi

A service with failback = true goes back to a better node after its hold-down.
Where the answer is lost (exit code 6), `taskd vip why SERVICE` shows whether it
was done. With --to it may be ordered again; without, it would move once more.")]
    Move(MoveArgs),
    /// Have whoever holds a service give it up, also if nobody else can have it
    #[command(after_help = "\
That node comes last for the service's hold-down: it gets the service back
only if nobody else can have it any more. If no other node can have it when the
order is given, nobody has it for the hold-down: `taskd vip move SERVICE --to
NODE` gives it back at once.")]
    Release(Service),
    /// Have a node hold nothing, for example before it is serviced
    #[command(after_help = "\
Examples:
  taskd vip drain n1 --why 'kernel update'
  taskd vip undrain n1

This returns as soon as it is written down: what the node holds moves to others
then. Reboot it when `taskd vip list` no longer shows it as a holder; where
nobody else can hold a service, `taskd vip why` says so. It stays drained, over
restarts too, until it is undrained. Works without a leader: then successors
take over.")]
    Drain(DrainArgs),
    /// Let a node hold services again
    Undrain(UndrainArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Service {
    /// The service
    #[arg(value_name = "SERVICE")]
    pub(in crate::cli) service: ServiceName,
}

impl Service {
    pub(in crate::cli) fn release(&self) -> VipOrder {
        VipOrder::Release { service: self.service.clone() }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct MoveArgs {
    #[command(flatten)]
    service: Service,
    /// Who is to hold it [default: the next one that can]
    #[arg(long, value_name = "NODE")]
    to: Option<NodeId>,
}

impl MoveArgs {
    pub(in crate::cli) fn order(&self) -> VipOrder {
        VipOrder::Move { service: self.service.service.clone(), to: self.to.clone() }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
    /// For those who wonder later
    #[arg(long, value_name = "TEXT", default_value = "")]
    why: String,
}

impl DrainArgs {
    pub(in crate::cli) fn order(&self) -> VipOrder {
        VipOrder::Drain { node: self.node.clone(), why: self.why.clone() }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct UndrainArgs {
    /// The node
    #[arg(value_name = "NODE")]
    node: NodeId,
}

impl UndrainArgs {
    pub(in crate::cli) fn order(&self) -> VipOrder {
        VipOrder::Undrain { node: self.node.clone() }
    }
}

/// Say which virtual IPs the cluster has, and who is to hold them.
///
/// This configuration is the cluster's: it is kept in the coordination service with a revision, and every node follows
/// the one that was applied last. A node's own file (`taskd serve --config`) is another thing.
#[derive(Debug, Args)]
#[command(after_help = "\
Example of a file:
  [service.iscsi]
  vips = [{ address = \"172.0.20.241/24\", interface = \"storage\" }]
  preferred = [\"n1\", \"n2\"]

  [[service.iscsi.check]]
  tcp = \"127.0.0.1:3260\"

`interface` is an interface's name, or a role that each node maps to one of its
own in [vip.interfaces] of its file.")]
#[command(after_long_help = "\
Example of a file, with every key of a service at its default:
  [service.iscsi]
  vips = [{ address = \"172.0.20.241/24\", interface = \"storage\" }]
  enabled = true            # false: nobody is to have it
  preferred = []            # who should hold it, best first; others follow
  labels = {}               # what a node must have in node.labels
  failback = false          # whether it goes back to a better node by itself
  #spread = \"GROUP\"         # services of a group avoid each other's nodes
  hold_down = \"10s\"         # how long a node that lost it is passed over
  takeover_grace = \"2s\"     # how long a taker waits for one that did not
                            # release it: until its addresses have gone

  [[service.iscsi.check]]   # as many as needed; the carrier is always checked
  tcp = \"127.0.0.1:3260\"    # or: script = [PROGRAM, ARG…], process = NAME,
                            # carrier = INTERFACE; a script runs only on nodes
                            # whose own file says vip.scripts = true
  interval = \"1s\"
  timeout = \"1s\"
  fall = 2                  # failures in a row until the node is unfit
  rise = 2                  # successes in a row until it is fit again

`interface` is an interface's name, or a role that each node maps to one of its
own in [vip.interfaces] of its file.

With -o json (stable: fields may be added, none is renamed or removed):
  check    {\"services\", \"addresses\", \"warnings\": [LINE…]}
  diff     {\"revision\", \"changes\": [LINE…], \"warnings\": [LINE…]}
  apply    {\"revision\", \"changes\": [LINE…], \"warnings\": [LINE…]}
  history  [{\"revision\", \"applied_ms\", \"by\", \"bytes\"}…]
  history --show  {\"revision\", \"applied_ms\", \"by\", \"text\"}")]
pub(in crate::cli) struct ConfigArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigCommand {
    /// Say what is wrong with a file, without asking any node
    Check(CheckArgs),
    /// Show what applying a file would change; exit code 1 if it would change anything, 2 if that cannot be told
    Diff(FileArgs),
    /// Have a file hold for the cluster: changes only what differs, and shows it
    #[command(after_help = "\
Examples:
  taskd config diff vips.toml
  taskd config apply vips.toml
  taskd config apply vips.toml --expect 7
  taskd config history --show 6 > old.toml && taskd config apply old.toml

It is refused, and nothing is changed, if somebody else applied a file after
this command looked at the present one, or after revision REV; and if services
that are configured are not in the file, unless --remove says that they are to
go. A configuration that nobody can read is replaced with --expect any.")]
    Apply(ApplyArgs),
    /// List the revisions that are kept, newest first, or show one
    History(HistoryArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct FileArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckArgs {
    #[command(flatten)]
    pub(in crate::cli) file: FileArgs,
    /// The session timeout of the cluster that it is for (coordination.session_timeout)
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) session_timeout: Duration,
    /// The ensemble's tick (coordination.tick)
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) tick: Duration,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ApplyArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub(in crate::cli) file: PathBuf,
    /// Apply it only over this revision; 0 = only if none was ever applied, `any` = whatever holds, also what cannot be
    /// read
    #[arg(long, value_name = "REV")]
    pub(in crate::cli) expect: Option<Expect>,
    /// Remove services that are configured and not in the file, with their addresses
    #[arg(long)]
    pub(in crate::cli) remove: bool,
}

/// The revision that an apply may replace.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli) enum Expect {
    Any,
    Revision(u64),
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "any" => Ok(Self::Any),
            number => number
                .parse()
                .map(Self::Revision)
                .map_err(|_| "write a revision's number, or `any`".to_owned()),
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct HistoryArgs {
    /// Print the text of this revision
    #[arg(long, value_name = "REV")]
    pub(in crate::cli) show: Option<u64>,
}
