//! `taskd schedule`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use proto::schedule::{Misfire, Overlap, ScheduleName, ScheduleOrder};

use super::{Common, WorkArgs};

/// Run tasks again and again, at the ticks of cron expressions.
///
/// Every tick is one task, whichever node leads when it comes and however often the leader changes.
#[derive(Debug, Args)]
#[command(after_long_help = "\
With -o json (stable: fields may be added, none is renamed or removed):
  list      {\"schedules\": [SCHEDULE…]}
  show      SCHEDULE
  add, pause, resume, remove
            {\"changed\": bool, \"schedule\": SCHEDULE}
  trigger   {\"task\": its id, \"schedule\": SCHEDULE}
  SCHEDULE  {\"name\", \"id\", \"revision\", \"spec\": SPEC, \"paused\": bool,
             \"created_ms\", \"last\": {\"at_ms\", \"end\": END} or null,
             \"last_state\": that tick's task's state or null,
             \"next_ms\": [the next ticks; in a list only one],
             \"counts\": {\"tasks\", \"overlapped\", \"missed\"},
             \"trouble\": SENTENCE or null}
  SPEC      {\"cron\", \"zone\", \"misfire\": \"skip\"|\"once\"|\"all\",
             \"misfire_grace_ms\", \"overlap\": \"allow\"|\"forbid\"|\"replace\",
             \"task\": as a task's \"spec\": see taskd task --help}
  END       {\"task\": ID}, {\"overlapped\": ID of the task that was not final},
             or \"missed\"
Times are milliseconds since 1970.")]
pub(in crate::cli) struct ScheduleArgs {
    #[command(flatten)]
    pub(in crate::cli) common: Common,
    #[command(subcommand)]
    pub(in crate::cli) command: ScheduleCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ScheduleCommand {
    /// Add a schedule; that it is there already, with the same content, is fine
    #[command(after_help = "\
Examples:
  taskd schedule add nightly --cron '30 3 * * *' --tz Europe/Vilnius -- backup
  taskd schedule add scrub --cron '0 2 * * SUN' --overlap forbid --label raid=yes -- scrub
  taskd schedule add poll --cron '*/10 * * * * *' --misfire skip --kind http --payload @poll.json

EXPR is MINUTE HOUR DAY MONTH WEEKDAY, with seconds in front if need be:
lists (1,15), ranges (MON-FRI), steps (*/7: at 0, 7, … 56 of each hour), L
for a month's last day, FRI#2 for its second Friday; or @hourly, @daily,
@weekly, @monthly, @yearly. With both a DAY and a WEEKDAY, either will do.

Where the clock skips an hour, a fixed time in it comes once, at the first
instant after it; where an hour comes twice, a fixed time in it comes once.
Steps come as often as there are minutes or hours.

A tick that comes late by no more than the grace, since the leader was being
replaced for example, runs all the same. Older ones were missed, and --misfire
says what becomes of them. With `all`, at most 10,000 in a row are made good,
the oldest first; what was missed beyond that is skipped. If the clock goes
back, no tick comes again. A tick for which the queue has no room waits;
pause and --replace give such ticks up.

A schedule keeps its command or payload in at most 4 KiB: put more on shared
storage and pass its path. Each task is called NAME@TICK unless --name says
otherwise. There may be 10,000 schedules.")]
    Add(Box<AddArgs>),
    /// List schedules by name
    List,
    /// Show one schedule: its next ticks, its last one and what became of it
    Show(Name),
    /// Let no tick do anything until it is resumed; what runs goes on
    Pause(Name),
    /// Let ticks count again; those that came meanwhile were not missed, and are not made good
    Resume(Name),
    /// Forget a schedule; its tasks go on
    Remove(Name),
    /// Run its task now, once, also while it is paused; prints the task's id
    #[command(after_help = "\
It is none of the schedule's ticks: it holds up none of them, and --overlap does
not look at it. Where two must not run at a time, give the schedule a --lock.")]
    Trigger(Name),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct AddArgs {
    /// Its name: 1 to 63 of a-z, 0-9 and '-'
    #[arg(value_name = "NAME")]
    pub(in crate::cli) schedule: ScheduleName,
    /// When, for example '30 3 * * *'
    #[arg(long, value_name = "EXPR")]
    pub(in crate::cli) cron: String,
    /// In which time zone, for example Europe/Vilnius
    #[arg(long = "tz", value_name = "ZONE", default_value = "UTC")]
    pub(in crate::cli) zone: String,
    /// What becomes of ticks that were missed: nothing, the newest runs, or every one does
    #[arg(long, value_enum, default_value_t = MisfireArg::Once, value_name = "POLICY")]
    pub(in crate::cli) misfire: MisfireArg,
    /// How late a tick may be before it counts as missed
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(in crate::cli) misfire_grace: Duration,
    /// What becomes of a tick while the task of the one before has not ended: it runs beside it, is skipped, or has that
    /// one cancelled and runs once it is gone
    #[arg(long, value_enum, default_value_t = OverlapArg::Allow, value_name = "POLICY")]
    pub(in crate::cli) overlap: OverlapArg,
    /// Have this one instead of another of that name; no tick comes twice
    #[arg(long)]
    pub(in crate::cli) replace: bool,
    #[command(flatten)]
    pub(in crate::cli) work: WorkArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum MisfireArg {
    Skip,
    Once,
    All,
}

impl From<MisfireArg> for Misfire {
    fn from(policy: MisfireArg) -> Self {
        match policy {
            MisfireArg::Skip => Self::Skip,
            MisfireArg::Once => Self::Once,
            MisfireArg::All => Self::All,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum OverlapArg {
    Allow,
    Forbid,
    Replace,
}

impl From<OverlapArg> for Overlap {
    fn from(policy: OverlapArg) -> Self {
        match policy {
            OverlapArg::Allow => Self::Allow,
            OverlapArg::Forbid => Self::Forbid,
            OverlapArg::Replace => Self::Replace,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Name {
    /// The schedule
    #[arg(value_name = "NAME")]
    pub(in crate::cli) name: ScheduleName,
}

impl Name {
    pub(in crate::cli) fn pause(&self) -> ScheduleOrder {
        ScheduleOrder::Pause(self.name.clone())
    }

    pub(in crate::cli) fn resume(&self) -> ScheduleOrder {
        ScheduleOrder::Resume(self.name.clone())
    }

    pub(in crate::cli) fn remove(&self) -> ScheduleOrder {
        ScheduleOrder::Remove(self.name.clone())
    }
}
