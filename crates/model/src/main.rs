//! Explores both models and says what was found.

use std::fmt::Debug;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use model::ours::{Bounds, Kind, Ours, Start};
use model::report::{Report, Steps, explore};
use model::seed::{self, Seed};

/// Explores the seed's design and our own election: every state that can be reached within bounds.
///
/// The exit code is 1 if our election breaks a rule, or if the seed's design keeps its own.
#[derive(Debug, Parser)]
struct Args {
    /// The large bounds: minutes and gigabytes, in a release build.
    #[arg(long)]
    full: bool,
    /// Our election within bounds of one's own: this many faults.
    #[arg(long)]
    faults: Option<u8>,
    /// From three nodes that have just joined, instead of one that has led for a while.
    #[arg(long, requires = "faults")]
    cold: bool,
    /// Answers may be overtaken.
    #[arg(long, requires = "faults")]
    overtaking: bool,
    /// How many nodes, up to 3.
    #[arg(long, requires = "faults")]
    nodes: Option<usize>,
    /// Only these kinds of faults, as in `Cut,Slow`.
    #[arg(long, requires = "faults", value_delimiter = ',')]
    kinds: Vec<String>,
    /// Ask for a serving leader this many units after the last disturbance.
    #[arg(long, requires = "faults")]
    recovery: Option<u8>,
    /// Stop after this many steps.
    #[arg(long)]
    steps_max: Option<usize>,
    /// Threads that explore. With more than one, a path is not always a shortest one.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut good = true;
    if args.faults.is_none() {
        good &= seed_shows(seed::DEADLOCK);
        good &= seed_shows(seed::LEADERLESS);
    }
    for bounds in bounds(&args)? {
        let model = Ours::new(bounds.clone());
        let steps_max = args.steps_max.or(bounds.steps_max);
        let mut report = explore("ours", bounds.to_string(), model, args.threads, steps_max);
        println!("{report}");
        good &= keeps_its_rules(&mut report, model::ours::tell);
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bounds(args: &Args) -> Result<Vec<Bounds>> {
    let Some(faults) = args.faults else {
        return Ok(if args.full { Bounds::full() } else { Bounds::small() });
    };
    let mut bounds = Bounds::new(if args.cold { Start::Cold } else { Start::Warm }, faults);
    bounds.overtaking = args.overtaking;
    bounds.recovery = args.recovery.unwrap_or(bounds.recovery);
    if let Some(nodes) = args.nodes {
        ensure!((1..=3).contains(&nodes), "--nodes is 1, 2 or 3");
        bounds.nodes = nodes;
    }
    if !args.kinds.is_empty() {
        let named = |kind: &Kind| args.kinds.iter().any(|name| *name == format!("{kind:?}"));
        bounds.kinds.retain(named);
        ensure!(bounds.kinds.len() == args.kinds.len(), "--kinds names a kind that there is not");
    }
    Ok(vec![bounds])
}

/// Whether the checker finds in the seed's design what the post-mortem describes.
fn seed_shows(property: &'static str) -> bool {
    let bounds = "3 nodes, one lost connection".to_owned();
    let mut report = explore("seed", bounds, Seed::new(1, 0).only(property), 1, None);
    println!("{report}");
    match report.path(property) {
        Some(path) => println!("the shortest path to where it does not hold:\n{}", seed::tell(&path)),
        None => return false,
    }
    true
}

/// Prints the paths that should not be there.
fn keeps_its_rules<S, A: Debug>(report: &mut Report<S, A>, tell: fn(&Steps<S, A>) -> String) -> bool {
    let broken: Vec<&str> = report.broken().map(|(name, ..)| *name).collect();
    for name in &broken {
        if let Some(path) = report.path(name) {
            println!("{name}: does not hold, by\n{}", tell(&path));
        }
    }
    broken.is_empty()
}
