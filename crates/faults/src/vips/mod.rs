//! Virtual IPs: who answers for them, seen from outside, while everything is done to whoever holds them.
//!
//! ```text
//!        ┌───────────── bridge: coordination ─────────────┐
//!     z1 z2 z3  ZooKeeper      n1 n2 n3  taskd serve     people
//!                              └─┬──┬──┬── bridge: the virtual IPs ──┬────────┬───────┐
//!                        (or two of keepalived)                   client   watch   alien
//! ```
//!
//! The observer (`observer`) shares nothing with what it judges: a client on a machine of its own asks the addresses
//! every 5 ms, and a responder on each node says who it is; another machine asks every 20 ms with ARP who has them and
//! notes every hardware address that answers; and the nodes' address tables are read every 5 ms. In each run
//!
//! - no two nodes ever have an address, whether both are heard or not;
//! - a client's gap, and the time until the addresses are gone, are within what the design (D8) promises (`scenario`), except for
//!   what this machine itself lost in that time;
//! - a service that nothing was done to does not notice;
//! - no black hole follows the healing, nobody takes back what another has, and nothing is left behind.
//!
//! keepalived is measured by the same observer on the same kind of network, and judged by nothing.

mod acts;
mod addresses;
mod arp;
mod cluster;
mod ground;
mod keepalived;
mod observer;
mod page;
mod play;
mod record;
mod report;
mod scenario;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::history::Timing;
use crate::net;
use crate::noise::Noise;
use crate::sys::{self, Interrupt};

use cluster::Cluster;
use ground::{Ground, VIPS};
use keepalived::Pair;
use observer::Observer;
use play::{Outcome, Side};

pub use report::Verdict;
pub use scenario::Scenario;

/// For how long a fault lasts after another has taken over, at the most.
const HOLD_MS_MAX: u64 = 700;
/// keepalived's adverts that are compared.
const ADVERTS: [Duration; 2] = [Duration::from_secs(1), Duration::from_millis(50)];

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The daemon; without it only keepalived is measured
    #[arg(long, value_name = "FILE")]
    pub taskd: Option<PathBuf>,
    /// How many runs of taskd
    #[arg(long, default_value_t = 100)]
    pub runs: usize,
    /// What everything that is drawn comes from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only these scenarios
    #[arg(long, value_delimiter = ',', value_name = "SCENARIO,…")]
    pub only: Vec<Scenario>,
    /// Measure keepalived as well, and of taskd what both have: each scenario so many times on each side, one after
    /// another
    #[arg(long, value_name = "ROUNDS", conflicts_with = "runs")]
    pub compare: Option<usize>,
    /// Write the figures as JSON into this file
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Keep logs here, not only after a violation
    #[arg(long, value_name = "DIR")]
    pub keep_logs: Option<PathBuf>,
}

impl Options {
    fn logs(&self) -> PathBuf {
        let ours = || std::env::temp_dir().join(format!("faults-{}-logs", std::process::id()));
        self.keep_logs.clone().unwrap_or_else(ours)
    }

    /// Of `all`, those that are asked for.
    fn chosen(&self, all: &[Scenario]) -> Vec<Scenario> {
        all.iter().copied().filter(|one| self.only.is_empty() || self.only.contains(one)).collect()
    }
}

/// Why this machine cannot do it, if it cannot.
pub fn missing(options: &Options) -> Option<String> {
    let there = |program: &str, arg: &str| sys::run(Command::new(program).arg(arg)).is_ok();
    let needed = [("chrt", "--version", "util-linux"), ("keepalived", "--version", "keepalived")];
    let needed = &needed[..1 + usize::from(options.compare.is_some())];
    let missing = needed.iter().find(|(program, arg, _)| !there(program, arg));
    let missing =
        missing.map(|(program, _, package)| format!("{program} is missing: apt-get install {package}"));
    crate::missing().or(missing)
}

/// Those with ZooKeeper's defaults, and those of an ensemble that is set up for virtual IPs.
const DEFAULT: Timing = Timing {
    timeout: Duration::from_secs(4),
    margin: Duration::from_millis(2_100),
    tick: Duration::from_secs(2),
};
const QUICK: Timing = Timing {
    timeout: Duration::from_secs(2),
    margin: Duration::from_millis(600),
    tick: Duration::from_millis(500),
};

/// One network and what runs on it.
#[derive(Clone, Debug)]
struct Stage {
    number: usize,
    side: Sided,
    scenarios: Vec<Scenario>,
}

#[derive(Clone, Copy, Debug)]
enum Sided {
    Taskd(Timing),
    Keepalived(Duration),
}

/// What all stages share.
struct Bench<'a> {
    options: &'a Options,
    scratch: PathBuf,
    taskd: PathBuf,
    noise: Noise,
    interrupt: Interrupt,
}

/// Plays all runs.
///
/// # Errors
/// A network or a cluster could not be brought up or taken down, or somebody pressed Ctrl-C
/// ([`Interrupted`](crate::Interrupted)).
pub fn run(options: &Options) -> Result<Verdict> {
    let interrupt = Interrupt::install()?;
    net::sweep();
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let scratch = base.join(format!("faults-{}", std::process::id()));
    fs::create_dir_all(&scratch).with_context(|| format!("failed to create {}", scratch.display()))?;
    let bench = Bench { options, taskd: scratch.join("taskd"), scratch, noise: Noise::start(), interrupt };
    if let Some(taskd) = &options.taskd {
        // Another build in the same folder must not swap the program under the clusters.
        fs::copy(taskd, &bench.taskd).with_context(|| format!("failed to copy {}", taskd.display()))?;
    }
    let done = bench.stages();
    if let Err(error) = fs::remove_dir_all(&bench.scratch) {
        eprintln!("warning: failed to remove {}: {error}", bench.scratch.display());
    }
    let verdict = done?;
    if let Some(file) = &options.report {
        fs::write(file, verdict.json()?).with_context(|| format!("failed to write {}", file.display()))?;
    }
    Ok(verdict)
}

/// Splits the runs into stages; those of a row are played at the same time.
fn stages(options: &Options) -> Vec<Vec<Stage>> {
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut deal = |kinds: &[Scenario], count: usize| {
        let mut dealt = Vec::new();
        while !kinds.is_empty() && dealt.len() < count {
            let mut round = kinds.to_vec();
            round.shuffle(&mut random);
            dealt.extend(round);
        }
        dealt.truncate(count);
        dealt
    };
    let mut number = 0;
    let mut stage = |side, scenarios| {
        number += 1;
        Stage { number, side, scenarios }
    };
    let Some(rounds) = options.compare else {
        let kinds = options.chosen(Scenario::value_variants());
        let all = deal(&kinds, if options.taskd.is_some() { options.runs } else { 0 });
        // Those with the longer timeouts take longer: a third, so that both end at about the same time.
        let (slow, quick) = all.split_at(all.len().div_ceil(3));
        return vec![vec![
            stage(Sided::Taskd(QUICK), quick.to_vec()),
            stage(Sided::Taskd(DEFAULT), slow.to_vec()),
        ]];
    };
    let kinds = options.chosen(&Scenario::COMPARED);
    let ours = [DEFAULT, QUICK].map(Sided::Taskd).into_iter().filter(|_| options.taskd.is_some());
    let sides = ADVERTS.map(Sided::Keepalived).into_iter().chain(ours);
    sides.map(|side| vec![stage(side, deal(&kinds, kinds.len() * rounds))]).collect()
}

impl Bench<'_> {
    fn stages(&self) -> Result<Verdict> {
        let mut verdict = Verdict::default();
        for together in stages(self.options) {
            let playing = together.iter().filter(|stage| !stage.scenarios.is_empty());
            let done: Vec<Result<Verdict>> = thread::scope(|scope| {
                // The processes of a cluster end with the thread that started them.
                let threads: Vec<_> = playing
                    .map(|stage| {
                        scope.spawn(|| {
                            // The others end, too.
                            self.stage(stage).inspect_err(|_| self.interrupt.set())
                        })
                    })
                    .collect();
                let join = |thread: thread::ScopedJoinHandle<'_, _>| {
                    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
                };
                threads.into_iter().map(join).collect()
            });
            // What went wrong first, not that the others were interrupted by it.
            let (failed, done): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_err);
            let mut failed: Vec<_> = failed.into_iter().filter_map(Result::err).collect();
            failed.sort_by_key(|error| error.is::<sys::Interrupted>());
            if let Some(first) = failed.into_iter().next() {
                return Err(first);
            }
            done.into_iter().flatten().for_each(|part| verdict.merge(part));
        }
        Ok(verdict)
    }

    fn stage(&self, stage: &Stage) -> Result<Verdict> {
        let dir = self.scratch.join(stage.number.to_string());
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let mut verdict = Verdict::default();
        let played = match stage.side {
            Sided::Taskd(timing) => self.taskd(stage, timing, &dir, &mut verdict),
            Sided::Keepalived(advert) => self.keepalived(stage, advert, &dir, &mut verdict),
        };
        if played.is_err() || !verdict.violations().is_empty() || self.options.keep_logs.is_some() {
            crate::batch::keep(&dir, &self.options.logs().join(stage.number.to_string()))?;
        }
        played.map(|()| verdict)
    }

    fn keepalived(&self, stage: &Stage, advert: Duration, dir: &Path, verdict: &mut Verdict) -> Result<()> {
        let ground = Ground::create(stage.number, 2, 0)?;
        let eyes = Observer::start(&ground)?;
        let mut pair = Pair::start(ground, dir, advert, &self.interrupt)?;
        self.runs(stage, &mut pair, &eyes, verdict, |_, _, _| Ok(()))
    }

    fn taskd(&self, stage: &Stage, timing: Timing, dir: &Path, verdict: &mut Verdict) -> Result<()> {
        let begun = Instant::now();
        let ground = Ground::create(stage.number, 3, 3)?;
        let eyes = Observer::start(&ground)?;
        let mut cluster = Cluster::start(ground, dir, &self.taskd, timing, &self.interrupt)?;
        let (name, mut lengths) = (cluster.name(), cluster.log_lengths());
        println!("{name}: up after {:.1} s; {} runs", begun.elapsed().as_secs_f64(), stage.scenarios.len());
        let logs = self.options.logs().join(stage.number.to_string());
        self.runs(stage, &mut cluster, &eyes, verdict, |cluster: &mut Cluster, run, outcome| {
            if !outcome.violations.is_empty() {
                let file = logs.join(format!("run-{run}-{}.log", outcome.scenario.name()));
                fs::create_dir_all(&logs)?;
                let text = format!("{}\n{}", outcome.violations.join("\n"), cluster.logged_since(&lengths));
                fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
                println!("  what the nodes said: {}", file.display());
            }
            lengths = cluster.log_lengths();
            Ok(())
        })?;
        let mut wrong = cluster.stop_everything()?;
        wrong.extend(left_behind(cluster.ground())?);
        for text in &wrong {
            println!("  VIOLATION in the end of {name}: {text}");
        }
        verdict.close(&name, wrong);
        Ok(())
    }

    fn runs<S: Side>(
        &self,
        stage: &Stage,
        side: &mut S,
        eyes: &Observer,
        verdict: &mut Verdict,
        mut after: impl FnMut(&mut S, usize, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let seed = self.options.seed.wrapping_mul(1_000_003).wrapping_add(stage.number as u64);
        let mut random = StdRng::seed_from_u64(seed);
        let name = side.name();
        for (run, scenario) in (1..).zip(&stage.scenarios) {
            self.interrupt.check()?;
            let begun = Instant::now();
            let hold = Duration::from_millis(random.random_range(0..HOLD_MS_MAX));
            self.interrupt.sleep(Duration::from_millis(random.random_range(0..300)))?;
            let outcome = play::play(side, *scenario, eyes, hold, &self.noise)?;
            println!("{} ({:.1} s)", line(&name, run, &outcome), begun.elapsed().as_secs_f64());
            after(side, run, &outcome)?;
            verdict.add(
                &name,
                &format!("seed {} {name} run {run} {}", self.options.seed, scenario.name()),
                outcome,
            );
        }
        Ok(())
    }
}

/// Addresses that nobody holds any more and that are still there.
fn left_behind(ground: &Ground) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (name, _) in &ground.nodes {
        let there: BTreeSet<_> = addresses::Tables::open(&ground.net, name)?.read()?;
        left.extend(
            VIPS.iter().filter(|vip| there.contains(vip)).map(|vip| format!("{vip} is left on {name}")),
        );
    }
    Ok(left)
}

fn line(side: &str, run: usize, outcome: &Outcome) -> String {
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
    let mut text =
        format!("{side} #{run:<3} {:<18} {}: gap {}", outcome.scenario.name(), outcome.what, ms(outcome.gap));
    for (what, time) in [("switched", outcome.switch), ("gone", outcome.gone), ("back", outcome.back)] {
        if let Some(time) = time {
            text += &format!(", {what} after {}", ms(time));
        }
    }
    for (what, time) in
        [("DUAL", outcome.dual), ("OVERLAP", outcome.overlap), ("black hole", outcome.black_hole)]
    {
        if !time.is_zero() {
            text += &format!(", {what} {}", ms(time));
        }
    }
    if let Some(lost) = outcome.excused {
        text += &format!("; late, and this machine lost {}", ms(lost));
    }
    for violation in &outcome.violations {
        text += &format!("\n  VIOLATION: {violation}\n ");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn dealt(line: &str) -> Vec<Vec<Stage>> {
        stages(&Line::parse_from(line.split(' ')).options)
    }

    #[test]
    fn every_scenario_is_dealt_before_any_again_and_the_same_seed_deals_the_same() {
        let stages = dealt("vips --taskd x --runs 30 --seed 7");
        let mut all: Vec<_> = stages[0].iter().flat_map(|stage| stage.scenarios.clone()).collect();
        assert_eq!((stages.len(), stages[0].len(), all.len()), (1, 2, 30));
        all.sort();
        let twice: Vec<_> = Scenario::value_variants().iter().flat_map(|one| [*one, *one]).collect();
        assert_eq!(all, twice);
        assert_eq!(format!("{stages:?}"), format!("{:?}", dealt("vips --taskd x --runs 30 --seed 7")));
    }

    #[test]
    fn a_comparison_plays_the_same_on_every_side() {
        let stages = dealt("vips --taskd x --compare 2 --only stop,foreign,kill-all");
        let sorted = |stage: &Stage| {
            let mut scenarios = stage.scenarios.clone();
            scenarios.sort();
            scenarios
        };
        assert_eq!(stages.len(), 4, "one after another: they share two processors");
        for together in stages {
            use Scenario::{KillAll, Stop};
            assert_eq!(together.iter().map(sorted).collect::<Vec<_>>(), [vec![Stop, Stop, KillAll, KillAll]]);
        }
        assert_eq!(dealt("vips --compare 1").len(), 2, "keepalived alone");
    }
}
