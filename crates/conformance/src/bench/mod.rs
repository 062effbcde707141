//! How fast the keeper is beside Debian's ZooKeeper: in the same run, on the same disk, with every change synced before it is
//! acknowledged by both.
//!
//! The two servers are started in turns, each several times, and the medians are compared, because other work on the
//! machine comes and goes. Each is a process of its own; the load comes from threads of this one.

mod load;
mod servers;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use self::load::{Kind, Load};
use self::servers::Subject;
use self::table::Table;

/// Compare speed and size with Debian's ZooKeeper.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// How often each server is started and measured.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each measurement lasts, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Where the servers keep their data, on the disk that counts: beside this program, unless told otherwise, since what
    /// is temporary is often kept in memory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Znodes in memory when its use is measured.
    #[arg(long, default_value_t = 100_000)]
    znodes: usize,
    /// Measure the keeper alone.
    #[arg(long)]
    keeper_only: bool,
    /// Measure only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// Measures and prints the table.
///
/// # Errors
/// A server does not start or answers with an error.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(
        args.rounds > 0 && args.seconds > 0.0,
        "there must be at least one round, and some time for each"
    );
    let mut subjects = vec![Subject::Keeper];
    if !args.keeper_only {
        if let Some(reason) = testkit::missing() {
            anyhow::bail!("ZooKeeper cannot be started: {reason} (or measure with --keeper-only)");
        }
        subjects.push(Subject::ZooKeeper);
    }
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => {
            let program = std::env::current_exe().context("failed to find this program")?;
            program.parent().context("this program is in no directory")?.join("bench")
        }
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let mut table = Table::default();
    for round in 1..=args.rounds {
        for subject in &subjects {
            eprintln!("round {round} of {}: {subject}", args.rounds);
            measure(*subject, args, &dir, &mut table)
                .with_context(|| format!("failed to measure {subject}"))?;
        }
        // Neither always comes first.
        subjects.reverse();
    }
    println!("{}", Subject::ZooKeeper.described());
    println!("{}", Subject::Keeper.described());
    print!("{table}");
    Ok(())
}

fn measure(subject: Subject, args: &Args, dir: &Path, table: &mut Table) -> anyhow::Result<()> {
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let during = Duration::from_secs_f64(args.seconds);
    let load = |name, cost, kind, connections, window| Load { name, cost, kind, connections, window };
    let loads = [
        load("create/s, 1 connection, window 1000", "  processor time each, µs (1)", Kind::Create, 1, 1_000),
        load("create/s, 16 connections, window 64", "  processor time each, µs (16)", Kind::Create, 16, 64),
        load("creates/s in multis of 50, window 20", "  processor time each, µs (multi)", Kind::Multi, 1, 20),
        load("get/s, 1 connection, window 1000", "  processor time each, µs (get, 1)", Kind::Get, 1, 1_000),
        load("get/s, 16 connections, window 64", "  processor time each, µs (get, 16)", Kind::Get, 16, 64),
    ];
    let server = subject.start(dir)?;
    table.add("start to first connect, ms", subject, server.started_within.as_secs_f64() * 1e3, false);
    let warmth = during.min(Duration::from_secs(3));
    for load in loads.iter().filter(|load| wanted(load.name)) {
        // Java compiles what it has seen often.
        load.run(server.address, warmth)?;
        let used = server.cpu_seconds()?;
        let measured = load.run(server.address, during)?;
        let used = server.cpu_seconds()? - used;
        table.add(load.name, subject, measured.per_second(), true);
        // What a busy machine does not distort as it does the rate.
        table.add(load.cost, subject, used / measured.operations() * 1e6, false);
    }
    let single = load("one create at a time", "", Kind::Create, 1, 1);
    if wanted(single.name) {
        let measured = single.run(server.address, during)?;
        table.add("one create at a time, p50 µs", subject, measured.percentile_us(50), false);
        table.add("one create at a time, p99 µs", subject, measured.percentile_us(99), false);
    }
    drop(server);
    if wanted("resident") {
        let server = subject.start(dir)?;
        load::fill(server.address, args.znodes)?;
        table.add("resident with the znodes, MiB", subject, server.resident_mib()?, false);
    }
    Ok(())
}
