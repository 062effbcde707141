//! Each peer in each durability, round by round: latency at a low rate, then throughput in each way of submitting.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::cpu::Snapshot;
use crate::install::Tools;
use crate::options::Options;
use crate::peer::{Fsync, Peer, Run, Way};
use crate::process::{self, Interrupt, Owned};
use crate::report::Row;
use crate::server::Server;
use crate::stamps::{Follower, Window};
use crate::stats;

/// Enough for connections, prepared statements and compiled code.
const WARM_UP: u32 = 500;
/// Tasks a second while latency is measured.
pub(crate) const LOW_RATE: u32 = 100;
/// The slowest that anything here may be.
const TASKS_PER_S_MIN: u32 = 20;
const START_WITHIN: Duration = Duration::from_secs(120);

/// A peer with its durability.
#[derive(Clone, Copy, Debug)]
struct Setup {
    peer: Peer,
    /// What has no Redis has no choice.
    fsync: Option<Fsync>,
}

impl Setup {
    fn durability(self) -> &'static str {
        self.fsync.map_or("fsync each commit", Fsync::durability)
    }
}

/// Measures everything that was asked for. Rounds are interleaved, so that what else the machine does hits all alike.
pub(crate) fn all(options: &Options, tools: &Tools, interrupt: &Interrupt) -> Result<Vec<Row>> {
    let mut setups = Vec::new();
    for peer in options.peers() {
        if peer.wants_redis() {
            setups.extend(options.fsync.iter().map(|fsync| Setup { peer, fsync: Some(*fsync) }));
        } else {
            setups.push(Setup { peer, fsync: None });
        }
    }
    let mut rows: Vec<Vec<Row>> = setups.iter().map(|setup| empty_rows(*setup)).collect();
    for round in 1..=options.rounds() {
        for (setup, rows) in setups.iter().zip(&mut rows) {
            println!("round {round} of {}: {}, {}", options.rounds(), setup.peer.name(), setup.durability());
            let dir = tools.run.join(format!("{round}-{:?}-{:?}", setup.peer, setup.fsync));
            measure(*setup, &dir, options, tools, interrupt, rows)
                .with_context(|| format!("failed to measure {}", setup.peer.name()))?;
            fs::remove_dir_all(&dir).with_context(|| format!("failed to remove {}", dir.display()))?;
        }
    }
    tools.cleanup()?;
    Ok(rows.into_iter().flatten().collect())
}

fn empty_rows(setup: Setup) -> Vec<Row> {
    let row = |way: &Way| Row {
        system: setup.peer.name().to_owned(),
        durability: setup.durability().to_owned(),
        submission: way.label.to_owned(),
        workers: setup.peer.workers(),
        ..Row::default()
    };
    setup.peer.ways().iter().map(row).collect()
}

fn measure(
    setup: Setup,
    dir: &Path,
    options: &Options,
    tools: &Tools,
    interrupt: &Interrupt,
    rows: &mut [Row],
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let mut bench = Bench::start(setup, dir, tools, interrupt)?;
    let latency_tasks = LOW_RATE * options.latency_s();
    let window = bench.submit("rate", latency_tasks)?;
    let start_us = window.start_us()?;
    // One at a time at a low rate, whichever way the many are submitted afterwards: it stands in the first row.
    if let Some(row) = rows.first_mut() {
        row.start_p50_us.extend(stats::percentile(&start_us, 50));
        row.start_p99_us.extend(stats::percentile(&start_us, 99));
    }
    for (way, row) in setup.peer.ways().iter().zip(rows) {
        let (began, before) = (Instant::now(), Snapshot::take()?);
        let window = bench.submit(way.name, options.tasks())?;
        let (after, took) = (Snapshot::take()?, began.elapsed());
        let per_s = window.per_s()?;
        let used = |roots: &[u32]| anyhow::Ok(after.trees_s(roots)? - before.trees_s(roots)?);
        let theirs = used(&bench.pids())?;
        let others = after.busy_s()? - before.busy_s()? - used(&[std::process::id()])?;
        println!("  {}: {per_s:.0} tasks/s", way.label);
        row.per_s.push(per_s);
        row.cpu_us.push(theirs * 1e6 / f64::from(options.tasks()));
        row.others_cores.push((others / took.as_secs_f64()).max(0.0));
    }
    Ok(())
}

/// A server and a worker. The worker ends first.
#[derive(Debug)]
struct Bench<'a> {
    setup: Setup,
    dir: &'a Path,
    tools: &'a Tools,
    interrupt: &'a Interrupt,
    worker: Owned,
    server: Server,
    stamps: Follower,
    /// The number of the next task.
    next: u64,
}

impl<'a> Bench<'a> {
    /// Starts both, and lets some tasks through.
    fn start(setup: Setup, dir: &'a Path, tools: &'a Tools, interrupt: &'a Interrupt) -> Result<Self> {
        let server = match setup.fsync {
            Some(fsync) => Server::redis(tools, dir, fsync, interrupt)?,
            None => Server::postgres(tools, dir, interrupt)?,
        };
        let file = stamps_file(dir);
        let stamps = Follower::create(&file)?;
        let run = Run { url: &server.url, stamps: &file };
        let name = format!("{}'s worker", setup.peer.name());
        let command = setup.peer.worker(tools, &run);
        let worker = Owned::start(&name, command, &dir.join("worker.log"), Signal::SIGTERM)?;
        let mut bench = Self { setup, dir, tools, interrupt, worker, server, stamps, next: 0 };
        bench.submit("single", WARM_UP)?;
        Ok(bench)
    }

    fn pids(&self) -> [u32; 2] {
        [self.worker.pid(), self.server.process.pid()]
    }

    /// Submits so many tasks and waits until all of them have ended.
    fn submit(&mut self, way: &str, count: u32) -> Result<Window> {
        let (first, file) = (self.next, stamps_file(self.dir));
        self.next += u64::from(count);
        let run = Run { url: &self.server.url, stamps: &file };
        let per_s = if way == "rate" { LOW_RATE } else { TASKS_PER_S_MIN };
        let command = self.setup.peer.submitter(self.tools, &run, way, (first, count), per_s);
        let name = format!("{}'s submitter", self.setup.peer.name());
        let submitter = Owned::start(&name, command, &self.dir.join("submitter.log"), Signal::SIGTERM)?;
        let within = START_WITHIN + Duration::from_secs(u64::from(count / TASKS_PER_S_MIN));
        submitter.succeed(within, self.interrupt)?;
        let mut window = Window::new(first, count);
        let ended = process::poll("the end of all tasks", within, self.interrupt, || {
            self.worker.check()?;
            self.server.process.check()?;
            self.stamps.read(&mut window)?;
            Ok(window.all_ended().then_some(()))
        });
        ended.with_context(|| format!("{} of {count} tasks have ended", window.ended()))?;
        Ok(window)
    }
}

fn stamps_file(dir: &Path) -> std::path::PathBuf {
    dir.join("stamps")
}
