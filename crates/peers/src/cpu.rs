//! Processor time from /proc: of a process with everything below it, and of the whole machine.

use std::collections::{HashMap, HashSet};
use std::fs;

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time of whole process trees at one moment, in ticks.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// By process: its parent, and what it and those of its children that it waited for have used.
    processes: HashMap<u32, (u32, u64)>,
    /// What the machine was busy for.
    busy: u64,
}

impl Snapshot {
    pub(crate) fn take() -> Result<Self> {
        let mut processes = HashMap::new();
        for entry in fs::read_dir("/proc").context("failed to read /proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // One that has just ended is in what its parent has waited for.
            if let Ok(stat) = fs::read_to_string(entry.path().join("stat"))
                && let Some(used) = parse_stat(&stat)
            {
                processes.insert(pid, used);
            }
        }
        let stat = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
        Ok(Self { processes, busy: parse_busy(&stat).context("/proc/stat has no line for all processors")? })
    }

    /// Seconds that these processes and their descendants have used.
    pub(crate) fn trees_s(&self, roots: &[u32]) -> Result<f64> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for (pid, (parent, _)) in &self.processes {
            children.entry(*parent).or_default().push(*pid);
        }
        let (mut seen, mut todo, mut ticks) = (HashSet::new(), roots.to_vec(), 0);
        while let Some(pid) = todo.pop() {
            if seen.insert(pid) {
                ticks += self.processes.get(&pid).map_or(0, |(_, used)| *used);
                todo.extend(children.get(&pid).into_iter().flatten());
            }
        }
        seconds(ticks)
    }

    /// Seconds that all processors together were busy for since the machine started.
    pub(crate) fn busy_s(&self) -> Result<f64> {
        seconds(self.busy)
    }
}

fn seconds(ticks: u64) -> Result<f64> {
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the clock's ticks per second are unknown")?;
    Ok(ticks as f64 / per_second as f64)
}

/// Parent (field 4 of proc_pid_stat(5)), and user and system time with that of children waited for (14 to 17). The
/// second field may hold spaces, and ends with the last parenthesis.
fn parse_stat(stat: &str) -> Option<(u32, u64)> {
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    let parent = fields.get(1)?.parse().ok()?;
    let mut ticks = 0;
    for field in fields.get(11..15)? {
        ticks += field.parse::<u64>().ok()?;
    }
    Some((parent, ticks))
}

/// Everything but idle and waiting for a disk (fields 4 and 5), and guests, who are in user time already.
fn parse_busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    Some(fields.get(..3)?.iter().sum::<u64>() + fields.get(5..8)?.iter().sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_a_strange_name() {
        let stat = "7 (a ) b) S 3 7 7 0 -1 4194560 1 0 0 0 30 12 5 2 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(stat), Some((3, 49)));
        assert_eq!(parse_stat("7 (a) S 1"), None);
    }

    #[test]
    fn busy_leaves_out_idle_disk_and_guests() {
        assert_eq!(parse_busy("cpu  1 2 4 1000 1000 8 16 32 500 500\ncpu0 1 1 1\n"), Some(63));
        assert_eq!(parse_busy("intr 5\n"), None);
    }

    #[test]
    fn a_tree_is_its_root_and_everything_below() {
        let processes = HashMap::from([(1, (0, 1)), (2, (1, 10)), (3, (2, 100)), (4, (1, 1_000))]);
        let snapshot = Snapshot { processes, busy: 0 };
        let per_tick = seconds(1).unwrap();
        for (roots, ticks) in [(vec![2], 110.0), (vec![2, 3], 110.0), (vec![1], 1_111.0), (vec![9], 0.0)] {
            assert!((snapshot.trees_s(&roots).unwrap() - ticks * per_tick).abs() < 1e-9, "{roots:?}");
        }
    }
}
