//! For how long nothing starts when the leader changes, by every cause; and what an outage of the coordination service
//! does to what runs.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::companion::Companion;
use super::tasks::{SLOTS, example};
use crate::ClusterArgs;
use crate::run::client::Submission;
use crate::run::cluster::{Cluster, Plan};
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

const READY_WITHIN: Duration = Duration::from_secs(60);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Before a mark and after a cause: what came before is over, and what follows is seen.
const CALM: Duration = Duration::from_secs(2);
/// Of a graceful handover, DESIGN section 9.
const HANDOVER_BAR: Duration = Duration::from_millis(50);
/// Of a `kill -9` whose node starts again at once.
const RESTART_BAR: Duration = Duration::from_secs(1);
/// Beyond T + tick, of a `kill -9`.
const KILL_MORE: Duration = Duration::from_millis(500);
/// How long the coordination service is away.
const OUTAGE: Duration = Duration::from_secs(15);
const OUTAGE_TASKS: usize = 8;

/// What `xtask/examples/gaps.rs` answers.
#[derive(Debug, Deserialize)]
struct Seen {
    longest_ms: f64,
    starts: u64,
}

pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, rounds: u32) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let gaps = example(workspace, "xtask", "gaps")?;
    let plan = Plan { slots: SLOTS, ..args.plan(Profile::Release) };
    let mut cluster = Cluster::start(workspace, &plan, &interrupt)?;
    let measured = measure(&mut cluster, &gaps, rounds, &interrupt);
    let stopped = cluster.stop();
    println!("{}", measured?);
    stopped.map(drop)
}

fn measure(
    cluster: &mut Cluster,
    gaps: &std::path::Path,
    rounds: u32,
    interrupt: &Interrupt,
) -> Result<String> {
    let addresses: Vec<&str> = cluster.nodes().iter().map(|node| node.address.as_str()).collect();
    let mut command = Command::new(gaps);
    command.arg(addresses.join(",")).arg(cluster.coordination()).arg(cluster.data_dir("bench"));
    let mut gaps = Companion::start(&mut command, READY_WITHIN, interrupt)?;
    let session = Duration::from_millis(cluster.client().status()?.coordination.session_timeout_ms);
    let mut rows = Vec::new();
    let mut calm = Vec::new();
    let (mut handed, mut killed, mut restarted) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        calm.push(watch(&mut gaps, CALM, interrupt, || Ok(()))?);
        handed.push(watch(&mut gaps, CALM, interrupt, || cluster.client().handover())?);
        let after = session * 2 + CALM;
        let mut index = leader(cluster, interrupt)?;
        killed.push(watch(&mut gaps, after, interrupt, || cluster.kill_node(index))?);
        cluster.start_node(index)?;
        cluster.wait_ready(READY_WITHIN, interrupt)?;
        index = leader(cluster, interrupt)?;
        restarted.push(watch(&mut gaps, after, interrupt, || {
            cluster.kill_node(index)?;
            cluster.start_node(index)
        })?);
        cluster.wait_ready(READY_WITHIN, interrupt)?;
    }
    gaps.end()?;
    // The tick of `coordination.tick`, whose default is half the session timeout's.
    let kill_bar = session + session / 2 + KILL_MORE;
    rows.push(row("nothing happens", &mut calm, None));
    rows.push(row("graceful handover", &mut handed, Some(HANDOVER_BAR)));
    rows.push(row("kill -9 of the leader", &mut killed, Some(kill_bar)));
    rows.push(row("kill -9, and started again at once", &mut restarted, Some(RESTART_BAR)));
    let head = ["longest time without a start", "median", "max", "starts", "bar (of the median)"];
    rows.insert(0, head.map(str::to_owned).to_vec());
    let outage = outage(cluster, interrupt)?;
    Ok(format!("\nsession timeout {}\n{}\n{outage}", stats::human(session), stats::table(&rows)))
}

/// Marks, lets it happen, waits, and asks.
fn watch(
    gaps: &mut Companion,
    after: Duration,
    interrupt: &Interrupt,
    cause: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    shell::pause(CALM, interrupt)?;
    gaps.ask("mark", ANSWER_WITHIN, interrupt)?;
    cause()?;
    shell::pause(after, interrupt)?;
    let answer = gaps.ask("read", ANSWER_WITHIN, interrupt)?;
    serde_json::from_str(&answer).with_context(|| format!("failed to read {answer:?}"))
}

fn leader(cluster: &Cluster, interrupt: &Interrupt) -> Result<usize> {
    let client = cluster.client();
    let leader = shell::poll("somebody leads", ANSWER_WITHIN, interrupt, || client.leader())?;
    cluster.index_of(&leader.node)
}

fn row(what: &str, seen: &mut [Seen], bar: Option<Duration>) -> Vec<String> {
    seen.sort_by(|a, b| a.longest_ms.total_cmp(&b.longest_ms));
    let of = |seen: &Seen| Duration::from_secs_f64(seen.longest_ms / 1e3);
    let median = seen.get(seen.len() / 2).map(of).unwrap_or_default();
    let max = seen.last().map(of).unwrap_or_default();
    let starts: u64 = seen.iter().map(|seen| seen.starts).sum();
    let bar = bar.map_or(String::new(), |bar| {
        format!("{}: {}", stats::human(bar), if median <= bar { "met" } else { "MISSED" })
    });
    vec![what.to_owned(), stats::human(median), stats::human(max), starts.to_string(), bar]
}

/// Tasks that run meanwhile run on: their first attempt is their last.
fn outage(cluster: &mut Cluster, interrupt: &Interrupt) -> Result<String> {
    let client = cluster.client();
    let argv = ["sleep", "45"].map(str::to_owned).to_vec();
    let sleeps: Vec<_> =
        (0..OUTAGE_TASKS).map(|n| Submission { name: format!("outage-{n}"), argv: argv.clone() }).collect();
    println!("the coordination service goes for {} s", OUTAGE.as_secs());
    client.submit_all(&sleeps, ANSWER_WITHIN, interrupt, &|_, _| {})?;
    let ours = |state: &str| -> Result<usize> {
        let tasks = client.tasks()?;
        let ours = tasks.iter().filter(|task| {
            task.spec.name.as_deref().is_some_and(|name| name.starts_with("outage-"))
                && task.state == state
                && task.attempt_count == 1
        });
        Ok(ours.count())
    };
    shell::poll("the tasks run", READY_WITHIN, interrupt, || {
        Ok((ours("running")? == OUTAGE_TASKS).then_some(()))
    })?;
    cluster.coordinator()?.kill()?;
    shell::pause(OUTAGE, interrupt)?;
    cluster.coordinator()?.start(interrupt)?;
    cluster.wait_ready(READY_WITHIN, interrupt)?;
    // A new leader may take a while to hear of each: only what has ended says what became of it.
    let done = shell::poll("the tasks have ended", READY_WITHIN, interrupt, || {
        let over = ["succeeded", "failed", "lost", "dead", "cancelled"];
        let ended = client.tasks()?.into_iter().filter(|task| {
            task.spec.name.as_deref().is_some_and(|name| name.starts_with("outage-"))
                && (over.contains(&task.state.as_str()) || task.attempt_count > 1)
        });
        Ok(if ended.count() == OUTAGE_TASKS { Some(ours("succeeded")?) } else { None })
    })?;
    Ok(format!(
        "{} s without the coordination service: {done} of {OUTAGE_TASKS} running tasks ran on to their end in their first \
         attempt",
        OUTAGE.as_secs()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_judged_by_its_median() {
        let mut seen = [90.0, 30.0, 40.0].map(|longest_ms| Seen { longest_ms, starts: 5 });
        let cells = row("x", &mut seen, Some(HANDOVER_BAR));
        assert_eq!(cells[1..], ["40 ms", "90 ms", "15", "50 ms: met"]);
    }
}
