//! The same random operations go to two servers, and everything that they say is compared.
//!
//! A [`script::Script`] is a list of steps; a step concerns one session and is over before the next one begins, so that there is one order of all
//! writes and zxids agree exactly. Within a burst, requests are pipelined. A [`side::Side`] carries steps out on one server, [`observe`] makes
//! what it says comparable, a [`pair::Pair`] compares, [`random`] thinks up the next step. What two servers disagree about is shortened by
//! [`shrink`] and kept as a [`regression`].
//!
//! # What is left out
//!
//! [`observe`] lists what is not compared. These are never asked, because ZooKeeper 3.8.0 has no one answer, or none that is worth having:
//!
//! - containers, which it deletes when it pleases (the keeper refuses them);
//! - `createTTL` with flags that name no time to live: it logs what it cannot read, and dies;
//! - `check` outside of a multi where it succeeds: it sends nothing, and the client waits for ever (the keeper answers);
//! - creates in a multi whose flags name a time to live: it notices late, and leaves changes that never were for the next requests to see;
//! - anything pipelined behind a `setACL`: it goes by the new ACL or by the old one, as its queues happen to be;
//! - `sync` of a path that is null, which it answers with null (the keeper with an error).
//!
//! How soon a session expires is not compared either, only that it does not expire early.

mod hex;
mod jute;
mod model;
mod observe;
mod pair;
mod random;
mod regression;
mod requests;
mod script;
mod server;
mod shrink;
mod side;
mod tally;

use std::hash::{BuildHasher as _, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use observe::Observed;
use pair::{Divergence, Kinds, Pair};
use random::Generator;
use regression::Regression;
use script::{Script, Step};
use server::Kind;
use tally::Tally;

/// Operations in one script: a divergence is looked for among so many.
const SCRIPT_OPERATIONS: u64 = 3_000;
/// A connection that was silent for so long is pinged; sessions last 20 ticks.
const PING_AFTER: Duration = Duration::from_millis(1_500);
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// How to compare.
#[derive(Args, Debug)]
pub(crate) struct Differential {
    /// Operations to compare.
    #[arg(long, default_value_t = 100_000)]
    ops: u64,
    /// What the operations are drawn from; the same seed gives the same ones. Default: a new one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Whose answers are right.
    #[arg(long, value_enum, default_value_t = Kind::Zookeeper)]
    against: Kind,
    /// Whose answers are judged.
    #[arg(long, value_enum, default_value_t = Kind::Keeper)]
    subject: Kind,
    /// Pairs of servers that are compared side by side.
    #[arg(long, default_value_t = 2)]
    pairs: u32,
    /// Replay what was kept, without ZooKeeper, instead.
    #[arg(long)]
    regressions: bool,
    /// With --regressions: ask ZooKeeper again and keep what it says now.
    #[arg(long, requires = "regressions")]
    record: bool,
    /// Write the first script down, with what the reference said, whether or not the servers agree.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Print every step and what the reference said, as JSON.
    #[arg(long)]
    trace: bool,
    /// Where divergences are kept.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/regressions"))]
    folder: PathBuf,
}

/// Compares, and prints what came of it.
///
/// # Errors
/// The servers disagree, or one of them does not start.
pub(crate) fn run(options: &Differential) -> Result<()> {
    if options.regressions {
        return replay(options);
    }
    let seed = options.seed.unwrap_or_else(fresh_seed);
    let kinds = Kinds { reference: options.against, subject: options.subject };
    if let Some(file) = &options.keep {
        return keep_conversation(options, kinds, seed, file);
    }
    let work = Work { kinds, seed, operations: options.ops, trace: options.trace, ..Work::default() };
    let started = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..options.pairs.max(1)).map(|_| scope.spawn(|| work.run())).collect();
        work.report_until(|| workers.iter().all(|worker| worker.is_finished()), started);
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    let tally = work.tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let found = work.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("{tally}");
    println!(
        "{} operations in {:.1} s ({:.0}/s), {} divergences, seed {seed}",
        tally.operations,
        started.elapsed().as_secs_f64(),
        tally.operations as f64 / started.elapsed().as_secs_f64(),
        found.len(),
    );
    if tally.given_up > 0 {
        println!("{} scripts were given up because the machine stood still", tally.given_up);
    }
    for found in &found {
        keep(found, kinds, &options.folder)?;
    }
    if !found.is_empty() {
        bail!("the servers disagree");
    }
    Ok(())
}

fn fresh_seed() -> u64 {
    // A hasher's keys are drawn afresh each time; short enough to be typed.
    RandomState::new().hash_one(0) % 1_000_000
}

/// What the workers share.
#[derive(Debug)]
struct Work {
    kinds: Kinds,
    seed: u64,
    operations: u64,
    trace: bool,
    done: AtomicU64,
    next: AtomicU32,
    ended: AtomicBool,
    tally: Mutex<Tally>,
    found: Mutex<Vec<Found>>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            kinds: Kinds { reference: Kind::Zookeeper, subject: Kind::Zookeeper },
            seed: 0,
            operations: 0,
            trace: false,
            done: AtomicU64::new(0),
            next: AtomicU32::new(0),
            ended: AtomicBool::new(false),
            tally: Mutex::default(),
            found: Mutex::default(),
        }
    }
}

/// A script that two servers disagree about.
#[derive(Debug)]
struct Found {
    script: Script,
    divergence: Divergence,
}

impl Work {
    /// One pair of servers, script after script.
    fn run(&self) -> Result<()> {
        let mut pair = Pair::start(self.kinds)?;
        while self.done.load(Ordering::Relaxed) < self.operations && !self.ended.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number));
            let (script, tally, divergence) = self.script(&mut pair, seed);
            if tally.given_up > 0 {
                eprintln!("the machine stood still, a script is given up");
                pair = Pair::start(self.kinds)?;
            }
            self.tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner).add(&tally);
            if let Some(divergence) = divergence {
                println!("{divergence}\n  in script {number}: {}", trace(&script.0[divergence.index], &[]));
                let found = Found { script, divergence };
                self.found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(found);
                self.ended.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// One script from its beginning to its end, or to the first divergence.
    fn script(&self, pair: &mut Pair, seed: u64) -> (Script, Tally, Option<Divergence>) {
        let enough = SCRIPT_OPERATIONS.min(self.operations);
        let mut generator = Generator::new(seed);
        let mut script = Script::default();
        let mut tally = Tally::default();
        pair.begin_script();
        let mut ending: Option<std::vec::IntoIter<Step>> = None;
        loop {
            let step = if let Some(steps) = &mut ending {
                let Some(step) = steps.next() else { return (script, tally, None) };
                step
            } else if let Some(slot) = pair.reference.silent_for(PING_AFTER).first() {
                Step::Burst { slot: *slot, calls: Vec::new() }
            } else {
                generator.next(&pair.reference)
            };
            let said = pair.step(&step);
            if self.trace {
                println!("{}", trace(&step, &said.reference));
            }
            let before = tally.operations;
            tally.count(&step, pair.reference.first_xid(), &said.reference);
            self.done.fetch_add(tally.operations - before, Ordering::Relaxed);
            generator.learn(&step, &said.reference, &pair.reference);
            script.0.push(step);
            if !said.agree && (pair.reference.stalled() || pair.subject.stalled()) {
                tally.given_up = 1;
                return (script, tally, None);
            }
            if !said.agree {
                let index = script.0.len() - 1;
                let divergence = Divergence::new(index, &script.0[index], said);
                return (script, tally, Some(divergence));
            }
            if ending.is_none() && tally.operations >= enough {
                ending = Some(pair.remaining().into_iter());
            }
        }
    }

    fn report_until(&self, over: impl Fn() -> bool, started: Instant) {
        let mut reported = Instant::now();
        while !over() {
            std::thread::sleep(Duration::from_millis(50));
            if reported.elapsed() > PROGRESS_EVERY {
                reported = Instant::now();
                let done = self.done.load(Ordering::Relaxed);
                eprintln!("{done} operations after {:.0} s", started.elapsed().as_secs_f64());
            }
        }
    }
}

fn trace(step: &Step, said: &[Observed]) -> String {
    serde_json::json!({ "do": step, "said": said }).to_string()
}

/// Shrinks a divergence and writes it down.
fn keep(found: &Found, kinds: Kinds, folder: &Path) -> Result<()> {
    eprintln!("shrinking {} operations ...", tally::operations(&found.script));
    let signature = &found.divergence.signature;
    let Some(shrunk) = shrink::shrink(kinds, &found.script, signature)? else {
        println!("it does not show on fresh servers: {signature}");
        return Ok(());
    };
    println!("{} operations show it: {}", tally::operations(&shrunk.script), shrunk.divergence);
    let about = format!("{signature} (found by a random run; say here what it is)");
    let said = shrunk.divergence.said.subject;
    let regression = Regression::record(about, &shrunk.script, kinds.reference, Some(said))?;
    let name: String =
        signature.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect();
    let path = folder.join(format!("{}.json", name.replace("--", "-")));
    regression.write(&path)?;
    println!("kept as {}", path.display());
    Ok(())
}

/// Writes down what a random script comes to, so that it can be replayed without ZooKeeper.
fn keep_conversation(options: &Differential, kinds: Kinds, seed: u64, file: &Path) -> Result<()> {
    let work = Work { kinds, seed, operations: options.ops, ..Work::default() };
    let mut pair = Pair::start(kinds)?;
    let (script, tally, divergence) = work.script(&mut pair, seed);
    drop(pair);
    if let Some(divergence) = divergence {
        println!("{divergence}");
    }
    let about = format!("{} random operations, seed {seed}", tally.operations);
    Regression::record(about, &script, kinds.reference, None)?.write(file)
}

fn replay(options: &Differential) -> Result<()> {
    let files = regression::files(&options.folder)?;
    let mut failed = 0;
    for file in &files {
        let regression = Regression::read(file)?;
        if options.record {
            let script = Script(regression.steps.iter().map(|recorded| recorded.step.clone()).collect());
            let keeper = regression.steps.last().and_then(|recorded| recorded.keeper.clone());
            Regression::record(regression.about, &script, options.against, keeper)?.write(file)?;
        } else if let Err(error) = regression.replay(options.subject) {
            failed += 1;
            println!("{}: {}\n  {error:#}", file.display(), regression.about);
        }
    }
    println!("{} regressions, {failed} of them fail", files.len());
    if failed > 0 {
        bail!("the servers disagree");
    }
    Ok(())
}
