//! Thousands of tasks through the deaths of the leader, of a runner and of the coordination service.
//!
//! Act one: the coordination service alone (a keeper, or ZooKeeper) is killed and restarted, which must kill no task. Act
//! two, while the rest is being submitted: the leader is killed and restarted, another node is killed and stays away, and
//! the coordination service is restarted once more. Each node dies while it runs something that outlives the failover.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ClusterArgs;
use crate::run::client::{Client, Submission, Task, lock};
use crate::run::cluster::{self, Cluster};
use crate::run::progress::Bar;
use crate::run::trace::{self, Trace};
use crate::shell::{self, Interrupt, Interrupted};
use crate::stats;
use crate::workspace::{Profile, Workspace};

const DOWN: Duration = Duration::from_secs(10);
/// A submission waits while nobody leads.
const SUBMIT_WITHIN: Duration = Duration::from_secs(90);
/// The session expires, another node claims, recovers and serves.
const FAILOVER_WITHIN: Duration = Duration::from_secs(30);
/// The fence of the node that stays away (30 s) and the work that is left.
const FINISH_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Fifths of a second: long enough to live through the restart.
const LONG: u32 = 100;
const LONG_TASKS: usize = 8;
/// Long enough to be still running when the node of a killed daemon comes back.
const MIDDLING: u32 = 60;
const MIDDLING_NAME: &str = "middling";
const MIDDLING_EVERY: std::ops::RangeInclusive<usize> = 10..=40;
/// For such a task to run on the node that is killed next.
const BUSY_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, tasks: u32) -> Result<()> {
    if args.nodes < 3 {
        bail!("one node is killed and one stays away: use --nodes 3 or more");
    }
    let interrupt = Interrupt::install()?;
    let mut cluster = Cluster::start(workspace, &args.plan(Profile::Dev), &interrupt)?;
    cluster.coordinator()?;
    println!("{}", cluster.coordination_line());
    let start = Instant::now();
    let played = play(&mut cluster, tasks as usize, start, &interrupt);
    if played.as_ref().is_err_and(|error| !error.is::<Interrupted>()) {
        cluster.keep_files();
    }
    let stopped = cluster.stop();
    println!("{}", played?);
    print!("{}", stopped?);
    println!("chaos: passed in {}", stats::human(start.elapsed()));
    Ok(())
}

fn play(cluster: &mut Cluster, total: usize, start: Instant, interrupt: &Interrupt) -> Result<String> {
    let trace = Trace::create(cluster.dir())?;
    let say = |text: &str| println!("{:>7.1} s  {text}", start.elapsed().as_secs_f64());
    let acknowledged: Mutex<BTreeSet<String>> = Mutex::default();
    let accepted = |_, id| {
        lock(&acknowledged).insert(id);
    };
    let every = (total / 50).clamp(*MIDDLING_EVERY.start(), *MIDDLING_EVERY.end());
    let submission = |n: usize| {
        let (kind, pulses) = match n {
            ..LONG_TASKS => ("long", LONG),
            _ if n.is_multiple_of(every) => (MIDDLING_NAME, MIDDLING),
            _ => ("short", 1 + n as u32 % 4),
        };
        Submission { name: format!("{kind}-{n}"), argv: trace.argv(pulses, None) }
    };
    let mut bar = Bar::new();

    let first: Vec<_> = (0..total / 5).map(submission).collect();
    cluster.client().submit_all(&first, SUBMIT_WITHIN, interrupt, &accepted)?;
    let name = cluster.coordinator_name();
    say(&format!("{} tasks accepted; the {name} is killed for {DOWN:?}", first.len()));
    restart_coordinator(cluster, interrupt)?;
    say(&format!("the {name} is back"));
    let ids = lock(&acknowledged).clone();
    wait_final(&cluster.client(), &ids, &mut bar, interrupt)?;
    let again: Vec<String> = cluster
        .client()
        .tasks()?
        .into_iter()
        .filter(|task| task.attempt_count != 1 || task.state != "succeeded")
        .map(|task| format!("{} {} after {} attempts", task.id, task.state, task.attempt_count))
        .collect();
    if !again.is_empty() {
        bail!("the restart of the {name} alone cost attempts:\n  {}", again.join("\n  "));
    }
    say(&format!("each of them succeeded with its first attempt: the restart of the {name} killed nothing"));

    let rest: Vec<_> = (first.len()..total).map(submission).collect();
    let client = cluster.client();
    let (faults, submitted) = thread::scope(|scope| {
        let submitter = scope.spawn(|| client.submit_all(&rest, SUBMIT_WITHIN, interrupt, &accepted));
        let faults = faults(cluster, &say, interrupt);
        if faults.is_err() {
            interrupt.set();
        }
        (faults, submitter.join().unwrap_or_else(|_| bail!("the submitter panicked")))
    });
    let away = faults?;
    submitted?;
    say("everything is submitted");
    let ids = lock(&acknowledged).clone();
    let alive = cluster.client_of(|node| node.name != away);
    wait_final(&alive, &ids, &mut bar, interrupt)?;
    say("everything is final");

    let (runs, tasks) = (trace.read()?, alive.tasks()?);
    let mut findings = trace::check(&runs, &tasks, &ids);
    let left = cluster::processes_below(&cluster.data_dir(&away));
    if !left.is_empty() {
        findings.violations.push(format!("{} processes of {away}'s tasks outlived their fence", left.len()));
    }
    let unsuccessful = tasks.iter().filter(|task| task.state != "succeeded").count();
    if ids.len() != total || unsuccessful > 0 {
        findings
            .violations
            .push(format!("{} acknowledged of {total}, {unsuccessful} without success", ids.len()));
    }
    let attempts: u32 = tasks.iter().map(|task| task.attempt_count).sum();
    let report = format!(
        "\n{total} tasks acknowledged and final, {attempts} attempts assigned, {} of them ran; {} cut short, {} ended \
         unheard\n{} violations",
        runs.len(),
        findings.cut_short,
        findings.unheard,
        findings.violations.len()
    );
    if findings.violations.is_empty() {
        return Ok(report);
    }
    let shown: Vec<_> = findings.violations.iter().take(30).cloned().collect();
    bail!("{report}:\n  {}", shown.join("\n  "))
}

/// Act two. Returns the node that stays away.
fn faults(cluster: &mut Cluster, say: &impl Fn(&str), interrupt: &Interrupt) -> Result<String> {
    let old = cluster.client().leader()?.context("nobody leads before the faults")?;
    let index = cluster.index_of(&old.node)?;
    wait_busy(&cluster.client(), &old.node, interrupt)?;
    cluster.kill_node(index)?;
    say(&format!("kill -9 of {}, the leader of epoch {}", old.node, old.epoch));
    let survivors = cluster.client_of(|node| node.name != old.node);
    let leads = |status: &crate::run::client::Status| {
        status.leader.as_ref().is_some_and(|leader| leader.serving && leader.epoch > old.epoch)
    };
    let status = cluster.wait_status("another leader", &survivors, FAILOVER_WITHIN, interrupt, leads)?;
    let new = status.leader.context("a leader that was just there")?;
    say(&format!("{} leads and serves, epoch {}", new.node, new.epoch));
    cluster.start_node(index)?;
    let nodes = cluster.nodes().len();
    let all = cluster.client();
    cluster.wait_status("the return of the old leader", &all, FAILOVER_WITHIN, interrupt, |status| {
        status.members.len() == nodes && status.leader.as_ref().is_some_and(|leader| leader.serving)
    })?;
    say(&format!("{} is back", old.node));

    let leader = cluster.client().leader()?.context("nobody leads")?.node;
    let away =
        cluster.nodes().iter().map(|node| &node.name).find(|name| **name != leader && **name != old.node);
    let away = away.context("no node is left to stay away")?.clone();
    wait_busy(&cluster.client(), &away, interrupt)?;
    cluster.kill_node(cluster.index_of(&away)?)?;
    say(&format!("kill -9 of {away}, which stays away"));

    restart_coordinator(cluster, interrupt)?;
    say(&format!("the {} was down for {DOWN:?} and is back", cluster.coordinator_name()));
    Ok(away)
}

/// Waits until the node runs a task that will not have ended by itself before anybody notices the node's death.
fn wait_busy(client: &Client, node: &str, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    let middling = |task: &Task| {
        let name = task.spec.name.as_deref().unwrap_or_default();
        let last = task.attempts.last();
        name.starts_with(MIDDLING_NAME) && last.is_some_and(|last| last.node == node && last.end.is_none())
    };
    while start.elapsed() < BUSY_WITHIN {
        interrupt.check()?;
        // A look may meet a moment without a leader.
        if client.tasks().is_ok_and(|tasks| tasks.iter().any(middling)) {
            return Ok(());
        }
        thread::sleep(shell::POLL);
    }
    bail!("{node} ran nothing worth killing within {BUSY_WITHIN:?}")
}

fn restart_coordinator(cluster: &mut Cluster, interrupt: &Interrupt) -> Result<()> {
    cluster.coordinator()?.kill()?;
    let down = Instant::now();
    while down.elapsed() < DOWN {
        interrupt.check()?;
        thread::sleep(shell::POLL);
    }
    cluster.coordinator()?.start(interrupt)
}

fn wait_final(client: &Client, ids: &BTreeSet<String>, bar: &mut Bar, interrupt: &Interrupt) -> Result<()> {
    let start = Instant::now();
    loop {
        interrupt.check()?;
        // A look may meet a moment without a leader.
        let looked = client.unfinished(ids);
        if let Ok(unfinished) = &looked {
            bar.show(ids.len() - unfinished.len(), ids.len(), "final");
            if unfinished.is_empty() {
                bar.say("");
                return Ok(());
            }
        }
        if start.elapsed() > FINISH_WITHIN {
            let unfinished = looked.context("the cluster does not answer")?;
            let some: Vec<_> = unfinished.iter().take(10).cloned().collect();
            bail!(
                "{} tasks are not final after {FINISH_WITHIN:?}, such as {}",
                unfinished.len(),
                some.join(" ")
            );
        }
        thread::sleep(LOOK_EVERY);
    }
}
