//! SIGTERM at random moments of a node's life: it ends within its promise, and says so with its exit code.

use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::os::unix::process::ExitStatusExt;

use crate::ClusterArgs;
use crate::run::client::Submission;
use crate::run::cluster::Cluster;
use crate::run::coordinator;
use crate::run::logs;
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

/// What a node promises.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// The moments lie within this time of the start; a node is up and leads after about one second.
const MOMENTS_WITHIN_MS: u64 = 3_000;
/// Before this the program may not have got to its signal handlers; then the signal itself ends it.
const HANDLERS_WITHIN: Duration = Duration::from_millis(300);

/// What the node finds.
#[derive(Clone, Copy, Debug)]
enum Scene {
    /// The coordination service is there.
    Reachable,
    /// Nobody listens on its port.
    Refused,
    /// Somebody listens there and never says a word.
    Silent,
    /// It is there, and a command runs that ignores SIGTERM.
    Working,
    /// It is a keeper inside the node.
    Embedded,
}

const SCENES: [Scene; 5] = [Scene::Reachable, Scene::Refused, Scene::Silent, Scene::Working, Scene::Embedded];

pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, rounds: u32, seed: u64) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut plan = args.plan(Profile::Dev);
    // Another one for the keeper inside: a node stays with the cluster that it has met.
    plan.nodes = 2;
    let mut cluster = Cluster::prepare(workspace, &plan, &interrupt)?;
    refuses_planted_faults(&cluster)?;
    let refused = format!("127.0.0.1:{}", coordinator::free_port()?);
    // Connections are accepted by the kernel and answered by nobody.
    let silent_listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let silent = silent_listener.local_addr()?.to_string();
    let mut random = Random(seed);
    let mut slowest = Duration::ZERO;
    let mut broken = Vec::new();
    for round in 0..rounds {
        let scene = SCENES[round as usize % SCENES.len()];
        let coordination = match scene {
            Scene::Refused => Some(refused.clone()),
            Scene::Silent => Some(silent.clone()),
            Scene::Reachable | Scene::Working => Some(cluster.coordination().to_owned()),
            Scene::Embedded => None,
        };
        let moment = Duration::from_millis(random.next() % MOMENTS_WITHIN_MS);
        let stopped = one(&cluster, scene, coordination.as_deref(), moment, &interrupt)?;
        println!(
            "{scene:<10} SIGTERM after {:>5} ms: ended after {} ({})",
            moment.as_millis(),
            stats::human(stopped.took),
            stopped.status,
            scene = format!("{scene:?}")
        );
        slowest = slowest.max(stopped.took);
        if stopped.killed || !right(stopped.status, moment) {
            broken.push(format!("{scene:?} after {moment:?}: {} after {:?}", stopped.status, stopped.took));
        }
    }
    if !broken.is_empty() {
        cluster.keep_files();
    }
    cluster.stop()?;
    drop(silent_listener);
    if !broken.is_empty() {
        bail!("{} of {rounds} stops went wrong:\n  {}", broken.len(), broken.join("\n  "));
    }
    println!("stop-anytime: {rounds} of {rounds} ended in time, the slowest after {}", stats::human(slowest));
    Ok(())
}

/// This is the build that people run: it has no faults to switch on, and says so instead of going on without them.
fn refuses_planted_faults(cluster: &Cluster) -> Result<()> {
    let mut command = cluster.serve_command(0, Some(cluster.coordination()))?;
    let mut child = command.env("TASKD_DRILL", "plant:no-lease").spawn().context("failed to start taskd")?;
    let ended = shell::wait(&mut child, STOP_WITHIN);
    child.kill()?;
    child.wait()?;
    let log = logs::tail(&cluster.log(&cluster.nodes()[0].name), 15);
    if ended?.is_none_or(|status| status.success()) || !log.contains("no faults to switch on") {
        bail!("a product build took TASKD_DRILL for something:\n{log}");
    }
    Ok(())
}

/// Starts the node, waits for the moment, and tells it to stop.
fn one(
    cluster: &Cluster,
    scene: Scene,
    coordination: Option<&str>,
    moment: Duration,
    interrupt: &Interrupt,
) -> Result<shell::Stopped> {
    let index = usize::from(coordination.is_none());
    let mut child = cluster.serve_command(index, coordination)?.spawn().context("failed to start taskd")?;
    let result = || -> Result<shell::Stopped> {
        if matches!(scene, Scene::Working) {
            stubborn_task(cluster, interrupt)?;
        }
        let start = Instant::now();
        while start.elapsed() < moment {
            interrupt.check()?;
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(status) = child.try_wait()? {
            bail!(
                "the node ended by itself ({status}):\n{}",
                logs::tail(&cluster.log(&cluster.nodes()[index].name), 15)
            );
        }
        shell::stop(&mut child, STOP_WITHIN)
    }();
    if result.is_err() {
        child.kill()?;
        child.wait()?;
    }
    result
}

/// Waits until the node leads, and has it run a command that does not want to end.
fn stubborn_task(cluster: &Cluster, interrupt: &Interrupt) -> Result<()> {
    let client = cluster.client();
    let marker = cluster.dir().join("stubborn");
    if marker.exists() {
        std::fs::remove_file(&marker)?;
    }
    shell::poll("a leader", Duration::from_secs(30), interrupt, || Ok(client.leader().ok().flatten()))?;
    let script = "trap '' TERM; : >\"$0\"; while :; do sleep 0.1; done";
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).into_iter();
    let argv = argv.chain([marker.to_string_lossy().into_owned()]).collect();
    client.submit(&Submission { name: "stubborn".to_owned(), argv }, Duration::from_secs(30))?;
    shell::poll("the start of the task", Duration::from_secs(30), interrupt, || {
        Ok(marker.exists().then_some(()))
    })
}

/// Stopped as told is success; so is the signal's own end of a program that had hardly begun.
fn right(status: ExitStatus, moment: Duration) -> bool {
    status.success() || (moment < HANDLERS_WITHIN && status.signal() == Some(Signal::SIGTERM as i32))
}

/// SplitMix64, so that a seed tells the whole run.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_success_is_right_once_the_handlers_are_there() {
        let (success, failure, term) = (0, 1 << 8, 15);
        let rows = [
            (success, 0, true),
            (success, 2_000, true),
            (failure, 0, false),
            (term, 10, true),
            (term, 2_000, false),
        ];
        for (raw, moment_ms, expected) in rows {
            let status = ExitStatus::from_raw(raw);
            assert_eq!(
                right(status, Duration::from_millis(moment_ms)),
                expected,
                "{status} after {moment_ms} ms"
            );
        }
    }
}
