//! What a task is.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use proto::task::{Limit, LostPolicy};

use super::{PlacingArgs, RunningArgs, parse_pair};

/// What a task is, whether it comes once or again and again.
#[derive(Debug, Args)]
pub(in crate::cli) struct WorkArgs {
    /// Which service runs it: exec, sleep, noop, or one that the nodes register
    #[arg(long, default_value = "exec")]
    pub(in crate::cli) kind: String,
    /// What the service gets: text, @FILE, or - for stdin. Not for exec, which gets the command
    #[arg(long, value_name = "JSON|@FILE|-", conflicts_with = "command")]
    pub(in crate::cli) payload: Option<String>,
    /// A name, for people
    #[arg(long)]
    pub(in crate::cli) name: Option<String>,
    /// Higher runs first: -100 to 100
    #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-100..=100))]
    pub(in crate::cli) priority: i32,
    /// Attempts after the first that failed; one lost with its node is made good up to max(this, 3) times
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub(in crate::cli) retries: u32,
    /// Pause before the first retry; it doubles each time, up to 5m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) retry_backoff: Option<Duration>,
    /// How long one attempt may run, for example 90s or 2h [default: as long as it likes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) run_timeout: Option<Duration>,
    /// Longest pause before a retry [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) retry_backoff_max: Option<Duration>,
    /// Exit codes that no retry would help (comma-separated)
    #[arg(long, value_name = "CODE,…", value_delimiter = ',', allow_negative_numbers = true)]
    pub(in crate::cli) no_retry_on: Vec<i32>,
    /// Start it not before so long from now
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) delay: Option<Duration>,
    /// How long it may wait for a slot; then it ends as timed_out [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) queue_timeout: Option<Duration>,
    /// How long an attempt may say nothing of its progress (see --help); then it ends as timed_out [default: as long as
    /// it likes]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(in crate::cli) progress_timeout: Option<Duration>,
    /// Run it only while no other task that names this key runs, whatever its kind and node (repeatable)
    #[arg(long = "lock", value_name = "KEY")]
    pub(in crate::cli) locks: Vec<String>,
    /// Run it only while fewer than N tasks that name this key run (repeatable)
    #[arg(long = "limit", value_name = "KEY=N", value_parser = parse_limit)]
    pub(in crate::cli) limits: Vec<Limit>,
    /// What to do when its node is lost: run it elsewhere once its processes are certainly gone, run it elsewhere at
    /// once (for work that may run twice), or give up
    #[arg(long, value_enum, default_value_t = OnLost::Requeue, value_name = "POLICY")]
    pub(in crate::cli) on_lost: OnLost,
    /// Run it only on nodes with this label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_pair)]
    pub(in crate::cli) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(in crate::cli) placing: PlacingArgs,
    /// Add to the command's environment (repeatable)
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub(in crate::cli) env: Vec<(String, String)>,
    /// The command's working directory
    #[arg(long, value_name = "DIR")]
    pub(in crate::cli) cwd: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) running: RunningArgs,
    /// The program and its arguments; never a shell string
    #[arg(last = true, value_name = "CMD")]
    pub(in crate::cli) command: Vec<String>,
}

impl WorkArgs {
    pub(in crate::cli) fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().cloned().collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum OnLost {
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

fn parse_limit(text: &str) -> Result<Limit, String> {
    let wrong = || format!("{text:?} is no limit: use KEY=N, for example uploads=4");
    let (key, max) = text.rsplit_once('=').ok_or_else(wrong)?;
    Ok(Limit { key: key.to_owned(), max: max.parse().map_err(|_| wrong())? })
}
