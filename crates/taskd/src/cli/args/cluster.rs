//! `taskd cluster`.

use clap::{Args, Subcommand};
use proto::NodeId;

use super::{Common, PauseArgs};

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
pub(in crate::cli) struct ClusterArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ClusterCommand {
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
pub(in crate::cli) struct HandoverArgs {
    /// Who is to lead [default: the next in line]
    #[arg(long, value_name = "NODE")]
    pub(in crate::cli) to: Option<NodeId>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PriorityArgs {
    /// Whose
    #[arg(value_name = "NODE")]
    pub(in crate::cli) node: NodeId,
    /// The priority; 0 unless set
    #[arg(value_name = "N", allow_negative_numbers = true)]
    pub(in crate::cli) priority: i32,
}
