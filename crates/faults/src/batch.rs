//! Some faults on one cluster, from its start to its orderly end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::Options;
use crate::history::{self, Timing};
use crate::kind::Deck;
use crate::lab::{HEALTHY, Lab};
use crate::load::Load;
use crate::node::Program;
use crate::noise::Noise;
use crate::report::{Verdict, name};
use crate::round::{self, Outcome};
use crate::sys::{Interrupt, boot_ns};
use crate::trace;

/// The fence of an attempt whose node stays silent (10 s), and what is queued behind it.
const FINAL: Duration = Duration::from_secs(60);
/// An effect every half a second is usual.
const PRAISED: Duration = Duration::from_secs(1);
/// Between two faults: a moment of work.
const PEACE: Duration = Duration::from_millis(300);

/// Some faults on one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) faults: usize,
    pub(crate) timing: Timing,
}

/// Plays a batch. `scratch` is a folder of its own.
pub(crate) fn run(
    batch: &Batch,
    options: &Options,
    program: &Program,
    scratch: &Path,
    noise: &Noise,
    interrupt: &Interrupt,
) -> Result<Verdict> {
    let number = batch.number;
    let dir = scratch.join(number.to_string());
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    let begun = Instant::now();
    let mut verdict = Verdict::default();
    let played = Lab::start(number, &dir, program, batch.timing, interrupt).and_then(|lab| {
        println!(
            "lab {number}: up after {:.1} s; {} faults, T = {:?}, tick {:?}, margin {:?}",
            begun.elapsed().as_secs_f64(),
            batch.faults,
            batch.timing.timeout,
            batch.timing.tick,
            batch.timing.margin
        );
        play(lab, batch, options, noise, &mut verdict)
    });
    if played.is_err() || !verdict.violations().is_empty() || options.keep_logs.is_some() {
        keep(&dir, &options.logs().join(number.to_string()))?;
    }
    // The whole scratch folder goes in the end; this one is large, and there may be many.
    let _ = fs::remove_dir_all(&dir);
    played.map(|()| verdict)
}

fn play(mut lab: Lab, batch: &Batch, options: &Options, noise: &Noise, verdict: &mut Verdict) -> Result<()> {
    let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(batch.number as u64);
    let mut random = StdRng::seed_from_u64(seed);
    let mut deck = Deck::new(options.kinds());
    let mut load = Load::start(&lab.client, &lab.dir, seed)?;
    let mut known = BTreeSet::new();
    for fault in 1..=batch.faults {
        lab.interrupt.sleep(PEACE)?;
        let place = format!("seed {} lab {} fault {fault}", options.seed, batch.number);
        let leader = match lab.healthy(0, HEALTHY)? {
            Ok(health) => health.leader,
            Err(last) => {
                verdict.close(&place, &[format!("not healthy before the fault: {last}")], 0, 0, 0);
                break;
            }
        };
        let plan = deck.deal(lab.timing.timeout, &mut random);
        let begun = Instant::now();
        let outcome = round::play(&mut lab, &plan, leader, noise, &mut known)
            .with_context(|| format!("{place}: {plan:?}"))?;
        println!("{}", line(batch.number, fault, &outcome, begun.elapsed()));
        for violation in &outcome.violations {
            println!("  VIOLATION at {}: {violation}", boot_ns());
        }
        verdict.add(&outcome, &format!("{place} ({}: {})", name(plan.kind), outcome.what));
    }
    finish(lab, &mut load, batch, options, noise, &mut known, verdict)
}

/// Everything acknowledged becomes final, every node stops, nothing is left, and the histories are read once more.
fn finish(
    mut lab: Lab,
    load: &mut Load,
    batch: &Batch,
    options: &Options,
    noise: &Noise,
    known: &mut BTreeSet<String>,
    verdict: &mut Verdict,
) -> Result<()> {
    let mut wrong = Vec::new();
    let (acknowledged, failed) = load.finish();
    let mut tasks = Vec::new();
    let done = lab.interrupt.until(FINAL, || {
        let Some(known) = lab.client.tasks() else { return Ok(None) };
        let unfinished = known.iter().filter(|task| !task.is_final()).count();
        tasks = known;
        Ok((unfinished == 0).then_some(()))
    })?;
    if done.is_none() {
        wrong.push(format!("not every task is final {FINAL:?} after the last fault"));
    }
    wrong.extend(trace::check(&load.trace()?, &acknowledged, &tasks));
    let (net, at_ns, told) = (Arc::clone(&lab.net), boot_ns(), Instant::now());
    for node in lab.nodes.iter().filter(|node| node.runs()) {
        node.signal(Signal::SIGTERM)?;
    }
    for node in lab.nodes.iter_mut().filter(|node| node.runs()) {
        let stopped = node.wait(&net, at_ns, told)?;
        wrong.extend(round::wrong_stop(&node.name, &stopped, noise));
        if !stopped.status.is_some_and(|status| status.success()) {
            wrong.push(format!("{} ended with {:?} in the end", node.name, stopped.status));
        }
        verdict.stop(stopped.took);
    }
    let report = history::check(&lab.histories(), lab.timing);
    wrong.extend(report.violations.iter().map(ToString::to_string).filter(|text| known.insert(text.clone())));
    for violation in &wrong {
        println!("  VIOLATION in the end of lab {}: {violation}", batch.number);
    }
    println!(
        "lab {}: down; {} tasks acknowledged, {} of them succeeded, submissions that failed by exit code: {failed:?}",
        batch.number,
        acknowledged.len(),
        tasks.iter().filter(|task| task.state == "succeeded").count(),
    );
    let place = format!("seed {} lab {}, in the end", options.seed, batch.number);
    verdict.close(&place, &wrong, acknowledged.len() as u64, report.effects, report.epochs);
    Ok(())
}

fn line(lab: usize, fault: usize, outcome: &Outcome, took: Duration) -> String {
    let mut text = format!(
        "lab {lab} #{fault:<3} {:<16} {}: leader back after {:.2} s",
        name(outcome.kind),
        outcome.what,
        outcome.back.as_secs_f64()
    );
    for (node, stopped) in &outcome.stops {
        let how = stopped.status.map_or("killed".to_owned(), |status| status.to_string());
        text += &format!("; {node} stopped after {:.2} s ({how})", stopped.took.as_secs_f64());
    }
    for ended in &outcome.ended {
        text += &format!("; {ended}");
    }
    if outcome.praised > PRAISED {
        text += &format!(
            "; its status said healthy {:.1} s before a leader served",
            outcome.praised.as_secs_f64()
        );
    }
    if let Some(noise) = outcome.noise {
        text += &format!("; late, and this machine lost {:.2} s", noise.as_secs_f64());
    }
    text + &format!(" ({:.1} s)", took.as_secs_f64())
}

/// Copies what people read: not ZooKeeper's own data, nor the output of tasks.
pub(crate) fn keep(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("failed to create {}", to.display()))?;
    for entry in fs::read_dir(from)?.flatten() {
        let (path, file) = (entry.path(), entry.file_name());
        if path.is_file() {
            fs::copy(&path, to.join(&file))?;
        } else if path.join("zoo.cfg").is_file() && path.join("log").is_file() {
            fs::copy(path.join("log"), to.join(format!("{}.log", file.to_string_lossy())))?;
        }
    }
    println!("logs and histories: {}", to.display());
    Ok(())
}
