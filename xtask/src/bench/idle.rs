//! An idle cluster: CPU and memory per node, writes per second in the coordination service.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

use crate::ClusterArgs;
use crate::run::cluster::Cluster;
use crate::run::coordinator;
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

/// For what a start leaves to be done.
const SETTLE: Duration = Duration::from_secs(5);

pub(crate) fn run(workspace: &Workspace, args: &ClusterArgs, seconds: u64) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let mut cluster = Cluster::start(workspace, &args.plan(Profile::Release), &interrupt)?;
    let measured = measure(&cluster, Duration::from_secs(seconds), &interrupt);
    let stopped = cluster.stop();
    println!("{}", measured?);
    stopped.map(drop)
}

fn measure(cluster: &Cluster, window: Duration, interrupt: &Interrupt) -> Result<String> {
    shell::pause(SETTLE, interrupt)?;
    let leader = cluster.client().leader()?.context("nobody leads")?;
    let hosts = cluster.coordination().split(['/', ',']).next().unwrap_or_default().to_owned();
    let pids: Vec<u32> = (0..cluster.nodes().len()).filter_map(|index| cluster.pid(index)).collect();
    let busy = || pids.iter().map(|pid| cpu_time(*pid)).collect::<Result<Vec<_>>>();

    println!("looking at an idle cluster for {} s", window.as_secs());
    let (start, before, writes_before) = (Instant::now(), busy()?, coordinator::zxid(&hosts)?);
    shell::pause(window, interrupt)?;
    let (after, writes_after, took) = (busy()?, coordinator::zxid(&hosts)?, start.elapsed().as_secs_f64());

    let mut rows = vec![["node", "CPU % of a core", "RSS MiB"].map(str::to_owned).to_vec()];
    for (index, node) in cluster.nodes().iter().enumerate() {
        let cpu = (after[index] - before[index]).as_secs_f64() / took * 100.0;
        let name =
            if node.name == leader.node { format!("{} (leader)", node.name) } else { node.name.clone() };
        rows.push(vec![name, format!("{cpu:.2}"), format!("{:.1}", rss_mib(pids[index])?)]);
    }
    let writes = writes_after.saturating_sub(writes_before) as f64 / took;
    Ok(format!(
        "\n{}\nwrites in the {}: {writes:.2} a second (a leader's lease probes are 1.5)",
        stats::table(&rows),
        cluster.coordinator_name()
    ))
}

/// User and system time that a process has used.
fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let ticks = parse_ticks(&text).with_context(|| format!("{path} is not as expected: {text:?}"))?;
    seconds(ticks)
}

/// User and system time of all processes that this one has started and that still run.
pub(super) fn children_cpu_time() -> Result<Duration> {
    let us = std::process::id().to_string();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
        // Others come and go.
        if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
            && parent(&stat) == Some(us.as_str())
        {
            ticks += parse_ticks(&stat).with_context(|| format!("{stat:?} is not as expected"))?;
        }
    }
    seconds(ticks)
}

fn seconds(ticks: u64) -> Result<Duration> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the clock's ticks per second are unknown")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Field 4 of proc_pid_stat(5).
fn parent(stat: &str) -> Option<&str> {
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)
}

/// Fields 14 and 15 of proc_pid_stat(5); the second field may hold spaces, and ends with the last parenthesis.
fn parse_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

pub(super) fn rss_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib = line.trim().trim_end_matches(" kB").parse::<f64>();
    kib.map(|kib| kib / 1024.0).with_context(|| format!("{path} has no VmRSS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_strange_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse_ticks(stat), Some(42));
        assert_eq!(parent(stat), Some("1"));
        assert_eq!(parse_ticks("7"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let pid = std::process::id();
        assert!(rss_mib(pid).unwrap() > 0.1);
        cpu_time(pid).unwrap();
    }
}
