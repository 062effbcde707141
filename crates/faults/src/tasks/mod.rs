//! Thousands of tasks while everything is done to their cluster, and a checker of what came of them.
//!
//! ```text
//!   people (crowd) ── submit, lose replies, cancel, wait ──► n1 n2 n3 ──► tasks' processes
//!        │                                                  ▲ trouble          │
//!        └────────────────► history (facts): one file, in the order of writing ◄
//!                                        │
//!                          jobs ──► check ◄── what taskd says in the end
//! ```
//!
//! The checker ([`check`]) is a function of what was asked for ([`Job`]), of what the processes themselves wrote down, and of
//! what taskd says. It runs on the lab of this crate, so that ZooKeeper is an ensemble of three, of which one can be killed
//! while the others go on, and all of them, while no node is; a keeper could only be killed as a whole.
//!
//! What it excuses: attempts of a task with `requeue-now` and without a key may overlap, since that policy promises no more;
//! and without PID namespaces, a task whose shim *and* daemon are killed is killed by nobody. Here everybody has them.

mod check;
mod crowd;
mod facts;
mod job;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Deserialize;

use crate::history::{self, Timing};
use crate::lab::Lab;
use crate::net;
use crate::node::Program;
use crate::noise::{Noise, lock};
use crate::sys::{self, Interrupt, boot_ns};

use crowd::{Crowd, Shared};
use trouble::Deck;

pub use check::{
    Attempt, Counts, Evidence, Origin, Report, Rule, ScheduleView, Spec, Tick, View, Violation, check,
};
pub use facts::SCRIPT;
pub use job::{Condition, Job, Lost};
pub use trouble::Trouble;

const TIMING: Timing = Timing {
    timeout: Duration::from_secs(2),
    margin: Duration::from_millis(600),
    tick: Duration::from_millis(500),
};
/// No task may take longer than this from the last fault on, beyond what its own job takes and this machine loses.
const STUCK: Duration = Duration::from_secs(30);
/// What the longest chain of jobs takes by itself: delays, pauses between attempts, and the attempts.
const OWN_WORK: Duration = Duration::from_secs(20);
/// After that nothing is waited for any more.
const GIVE_UP: Duration = Duration::from_secs(240);
/// Between two faults, at the most.
const PEACE_MS_MAX: u64 = 3_000;
/// Tasks that are looked at between two faults, the newest first.
const LISTED: &str = "1500";
/// Name, seconds between ticks, and options of each schedule.
const SCHEDULES: [(&str, u64, &[&str]); 3] = [
    ("every-second", 1, &["--misfire", "all"]),
    ("skipping", 2, &["--misfire", "skip", "--misfire-grace", "1s", "--overlap", "forbid"]),
    ("replacing", 2, &["--misfire", "once", "--misfire-grace", "3s", "--overlap", "replace"]),
];

/// What to do.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The daemon, built together with this program
    #[arg(long, value_name = "FILE")]
    pub taskd: PathBuf,
    /// How many tasks
    #[arg(long, default_value_t = 10_000)]
    pub tasks: usize,
    /// What everything that is drawn comes from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Only these faults
    #[arg(long, value_delimiter = ',', value_name = "FAULT,…")]
    pub only: Vec<Trouble>,
    /// Switch something on in every node, as in `plant:early-unlock`: with a planted bug the run has to fail
    #[arg(long, value_name = "SPEC", default_value = "")]
    pub drill: String,
    /// Keep logs and histories here, not only after a violation
    #[arg(long, value_name = "DIR")]
    pub keep_logs: Option<PathBuf>,
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Verdict {
    violations: Vec<String>,
    table: String,
}

impl Verdict {
    /// Everything that must not be.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Everything else, for people.
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// Runs the tasks and judges.
///
/// # Errors
/// The cluster could not be brought up or taken down, or somebody pressed Ctrl-C ([`Interrupted`](crate::Interrupted)).
pub fn run(options: &Options) -> Result<Verdict> {
    let interrupt = Interrupt::install()?;
    net::sweep();
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let dir = base.join(format!("faults-{}", std::process::id()));
    fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
    // Another build in the same folder must not swap the program under the cluster.
    let taskd = dir.join("taskd");
    let copied = fs::copy(&options.taskd, &taskd);
    copied.with_context(|| format!("failed to copy {}", options.taskd.display()))?;
    let config = String::new();
    let program =
        Program { taskd, drill: options.drill.clone(), faketime: None, config, unprivileged: false };
    let played = play(options, &program, &dir, &interrupt);
    let wrong = !played.as_ref().is_ok_and(|verdict| verdict.violations.is_empty());
    if wrong || options.keep_logs.is_some() {
        let ours = || std::env::temp_dir().join(format!("faults-{}-logs", std::process::id()));
        let _ = fs::remove_file(dir.join("taskd"));
        crate::batch::keep(&dir, &options.keep_logs.clone().unwrap_or_else(ours))?;
    }
    if let Err(error) = fs::remove_dir_all(&dir) {
        eprintln!("warning: failed to remove {}: {error}", dir.display());
    }
    played
}

fn play(options: &Options, program: &Program, dir: &Path, interrupt: &Interrupt) -> Result<Verdict> {
    let noise = Noise::start();
    let begun = Instant::now();
    let say = |text: &str| println!("{:>7.1} s  {text}", begun.elapsed().as_secs_f64());
    let mut lab = Lab::start(1, dir, program, TIMING, interrupt)?;
    say("up: three nodes, three ZooKeeper servers");
    let mut crowd = Crowd::start(&lab.client, dir, options.seed, options.tasks)?;
    for (name, every_s, more) in SCHEDULES {
        add_schedule(&lab, &crowd.shared, name, every_s, more)?;
    }
    let mut violations = Vec::new();
    let mut faults: BTreeMap<String, u64> = BTreeMap::new();
    let mut random = StdRng::seed_from_u64(options.seed);
    let mut deck = Deck::new(&options.only);
    while !crowd.shared.is_done() {
        let Some(leader) = leader(&lab, &noise)? else {
            violations.push(format!("nobody led for {STUCK:?} although nothing was the matter"));
            break;
        };
        lab.interrupt.sleep(Duration::from_millis(random.random_range(500..PEACE_MS_MAX)))?;
        list(&lab, &crowd.shared);
        let fault = deck.deal(&mut random);
        let what = fault.play(&mut lab, leader, &mut random)?;
        *faults.entry(fault.name()).or_default() += 1;
        crowd.shared.faults.fetch_add(1, Ordering::Relaxed);
        say(&format!(
            "{}: {what}; {} acknowledged",
            fault.name(),
            crowd.shared.acknowledged.load(Ordering::Relaxed)
        ));
        for node in &mut lab.nodes {
            // The last rung, which a long pause may lead to; its init system starts it again.
            if let Some(status) = node.runs().then(|| node.ended()).transpose()?.flatten() {
                say(&format!("{} had ended ({status}) and is started again", node.name));
                node.start(&lab.net)?;
            }
        }
    }
    let healed_ns = boot_ns();
    say("the last fault is over, and nobody submits any more");
    let drained = drained(&mut lab, &mut crowd, &noise, healed_ns, &mut violations)?;
    say(&format!("everything is over {drained:.1?} after the last fault"));
    let schedules = SCHEDULES.iter().map(|(name, every_s, options)| {
        let all = options.contains(&"all");
        shown(&lab, name).map(|view| ScheduleView { every_s: *every_s, all, ..view })
    });
    let schedules = schedules.collect::<Result<Vec<_>>>()?;
    let (jobs, views) = (crowd.shared.jobs(), crowd.shared.views());
    let history = fs::read_to_string(&crowd.shared.ledger.path)?;
    let report = check(Evidence { jobs: &jobs, history: &history, views: &views, schedules: &schedules });
    violations.extend(report.violations.iter().map(ToString::to_string));
    let led = history::check(&lab.histories(), TIMING);
    violations.extend(led.violations.iter().map(ToString::to_string));
    let count: u64 = faults.values().sum();
    let shared = &crowd.shared;
    let table = format!(
        "seed {}: {report}\nfaults: {faults:?}\n{count} faults, {} epochs, {} replies lost on purpose, calls that failed by exit \
         code: {:?}\nthe last task was over {drained:.1?} after the last fault; {:.0} s in all",
        options.seed,
        led.epochs,
        shared.lost_replies.load(Ordering::Relaxed),
        lock(&shared.failed),
        begun.elapsed().as_secs_f64(),
    );
    if report.acknowledged < options.tasks && violations.is_empty() {
        violations.push(format!("only {} of {} tasks were acknowledged", report.acknowledged, options.tasks));
    }
    Ok(Verdict { violations, table })
}

/// The index of the node that leads, once one does.
fn leader(lab: &Lab, noise: &Noise) -> Result<Option<usize>> {
    let from = boot_ns();
    loop {
        lab.interrupt.check()?;
        let status = lab.client.status(None);
        let led = status.as_ref().and_then(|status| status.leader.as_ref().filter(|leader| leader.serving));
        if let Some(led) = led
            && let Some(index) = lab.nodes.iter().position(|node| node.name == led.node)
        {
            return Ok(Some(index));
        }
        let now = boot_ns();
        if sys::between(from, now) > STUCK + noise.within(from, now) {
            return Ok(None);
        }
        std::thread::sleep(sys::POLL);
    }
}

fn add_schedule(lab: &Lab, shared: &Shared, name: &str, every_s: u64, more: &[&str]) -> Result<()> {
    let cron = if every_s == 1 { "* * * * * *".to_owned() } else { format!("*/{every_s} * * * * *") };
    let (script, history) = (shared.script.to_string_lossy(), shared.ledger.path.to_string_lossy());
    // Some of them are not over when the next tick comes.
    let pulses = if name == "replacing" { "6" } else { "0" };
    let mut args = vec!["schedule", "add", name, "--cron", &cron];
    args.extend(more);
    let mut command = lab.client.command(&lab.client.addresses, &args);
    command.args(["--", "sh"]).args([&*script, &*history, name, pulses, "0", "-"]);
    sys::run(&mut command).map(drop)
}

/// Pauses a schedule, and what it says of itself then.
fn shown(lab: &Lab, name: &str) -> Result<ScheduleView> {
    let mut command = lab.client.command(&lab.client.addresses, &["schedule", "show", name, "-o", "json"]);
    let (_, text) = sys::ask(&mut command, STUCK).context("the schedules cannot be read")?;
    serde_json::from_str(&text).with_context(|| format!("what is this? {text}"))
}

#[derive(Deserialize)]
struct Page {
    tasks: Vec<View>,
}

/// Looks at the newest tasks.
fn list(lab: &Lab, shared: &Shared) {
    let mut command =
        lab.client.command(&lab.client.addresses, &["task", "list", "--limit", LISTED, "-o", "json"]);
    let answer = sys::ask(&mut command, Duration::from_secs(20));
    // A look may meet a moment without a leader; the next one finds the same.
    let page = answer.and_then(|(_, text)| serde_json::from_str::<Page>(&text).ok());
    if let Some(page) = page {
        shared.seen(page.tasks);
    }
}

/// Waits until everything is over; how long that took from the last fault on.
fn drained(
    lab: &mut Lab,
    crowd: &mut Crowd,
    noise: &Noise,
    healed_ns: u64,
    violations: &mut Vec<String>,
) -> Result<Duration> {
    for (name, ..) in SCHEDULES {
        let paused = lab.interrupt.until(GIVE_UP, || {
            let args = ["schedule", "pause", name];
            let mut command = lab.client.command(&lab.client.addresses, &args);
            Ok(sys::ask(&mut command, STUCK).filter(|(code, _)| *code == 0))
        })?;
        if paused.is_none() {
            bail!("schedule {name} cannot be paused");
        }
    }
    let mut late = false;
    loop {
        lab.interrupt.check()?;
        list(lab, &crowd.shared);
        let open = crowd.shared.open();
        for view in &open {
            // Too old for the list.
            let mut command =
                lab.client.command(&lab.client.addresses, &["task", "show", &view.id, "-o", "json"]);
            let answer = sys::ask(&mut command, STUCK).and_then(|(_, text)| serde_json::from_str(&text).ok());
            crowd.shared.seen(answer.into_iter().collect());
        }
        let open = crowd.shared.open();
        let now = boot_ns();
        let took = sys::between(healed_ns, now);
        if open.is_empty() && crowd.is_over() {
            return Ok(took);
        }
        let lost = noise.within(healed_ns, now);
        if !late && took > STUCK + OWN_WORK + lost {
            late = true;
            for view in open.iter().take(10) {
                let args = ["task", "why", &view.id];
                let mut command = lab.client.command(&lab.client.addresses, &args);
                let why = sys::ask(&mut command, STUCK).map(|(_, text)| text).unwrap_or_default();
                let name = view.spec.name.as_deref().unwrap_or_default();
                violations.push(format!(
                    "Stuck: {name} ({}) is {} {took:.0?} after the last fault, in which this machine lost {lost:.0?}: {}",
                    view.id,
                    view.state,
                    why.trim()
                ));
            }
        }
        if took > GIVE_UP + lost {
            crowd.give_up();
            return Ok(took);
        }
        lab.interrupt.sleep(Duration::from_millis(300))?;
    }
}
