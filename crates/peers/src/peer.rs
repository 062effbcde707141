//! The peers: how each is started, submitted to, and made durable.

use std::num::NonZero;
use std::path::Path;
use std::process::Command;
use std::thread;

use clap::ValueEnum;
use nix::sys::signal::Signal;

use crate::install::Tools;
use crate::process;

/// What taskd is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// With Redis as broker and result store
    Celery,
    /// With Redis
    Bullmq,
    /// With PostgreSQL
    Graphile,
}

/// When Redis makes sure that what it took is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fsync {
    /// Its default: memory, and a snapshot every 60 s or more
    Never,
    /// An append-only file, forced to the disk once a second
    Everysec,
    /// An append-only file, forced to the disk before the answer
    Always,
}

impl Fsync {
    pub(crate) fn durability(self) -> &'static str {
        match self {
            Self::Never => "memory (snapshots)",
            Self::Everysec => "fsync each second",
            Self::Always => "fsync each write",
        }
    }
}

/// A way of submitting many tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// What the scripts call it.
    pub(crate) name: &'static str,
    pub(crate) label: &'static str,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::Celery, Self::Bullmq, Self::Graphile];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Celery => "Celery",
            Self::Bullmq => "BullMQ",
            Self::Graphile => "graphile-worker",
        }
    }

    pub(crate) fn wants_redis(self) -> bool {
        self != Self::Graphile
    }

    /// How tasks are submitted; always by four submitters at a time.
    pub(crate) fn ways(self) -> &'static [Way] {
        match self {
            Self::Celery => &[
                Way { name: "single", label: "one by one, no results" },
                Way { name: "kept", label: "one by one, results kept" },
            ],
            Self::Bullmq | Self::Graphile => {
                &[Way { name: "batch", label: "batches of 500" }, Way { name: "single", label: "one by one" }]
            }
        }
    }

    /// Attempts at a time. Celery's is its default, a process for each core.
    fn concurrency(self) -> usize {
        match self {
            Self::Celery => thread::available_parallelism().map_or(1, NonZero::get),
            Self::Bullmq => 64,
            Self::Graphile => 24,
        }
    }

    pub(crate) fn workers(self) -> String {
        let at_a_time = self.concurrency();
        match self {
            Self::Celery => format!("{at_a_time} processes"),
            Self::Bullmq | Self::Graphile => format!("1 process, {at_a_time} at a time"),
        }
    }

    pub(crate) fn worker(self, tools: &Tools, run: &Run<'_>) -> Command {
        let concurrency = self.concurrency().to_string();
        let mut command = match self {
            Self::Celery => {
                let mut command = self.program(tools);
                command.args(["-m", "celery", "-A", "celery_noop", "worker", "--loglevel", "WARNING"]);
                // What talks to other workers; there are none.
                command.args(["--without-gossip", "--without-mingle", "--concurrency", &concurrency]);
                command
            }
            Self::Bullmq | Self::Graphile => {
                let mut command = self.program(tools);
                command.arg(self.script(tools)).args(["worker", &concurrency]);
                command
            }
        };
        run.told(&mut command, tools);
        command
    }

    /// Submits `count` tasks, numbered from `first`; `per_s` belongs to the way `rate`.
    pub(crate) fn submitter(
        self,
        tools: &Tools,
        run: &Run<'_>,
        way: &str,
        (first, count): (u64, u32),
        per_s: u32,
    ) -> Command {
        let mut command = self.program(tools);
        command.arg(self.script(tools));
        if self != Self::Celery {
            command.arg("submit");
        }
        command.arg(way).args([first.to_string(), count.to_string(), per_s.to_string()]);
        run.told(&mut command, tools);
        command
    }

    fn program(self, tools: &Tools) -> Command {
        let program = if self == Self::Celery { &tools.python } else { &tools.node };
        process::tied(program, Signal::SIGTERM, None)
    }

    fn script(self, tools: &Tools) -> std::path::PathBuf {
        tools.scripts.join(match self {
            Self::Celery => "celery_noop.py",
            Self::Bullmq => "bullmq.mjs",
            Self::Graphile => "graphile.mjs",
        })
    }
}

/// What a worker and its submitters share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) url: &'a str,
    pub(crate) stamps: &'a Path,
}

impl Run<'_> {
    fn told(self, command: &mut Command, tools: &Tools) {
        command.current_dir(&tools.scripts).env("PEERS_URL", self.url).env("PEERS_STAMPS", self.stamps);
        // graphile-worker says a line for each job otherwise, and both are faster without a developer's help.
        command.env("NO_LOG_SUCCESS", "1").env("NODE_ENV", "production").env("PYTHONDONTWRITEBYTECODE", "1");
    }
}
