//! Processes as `/proc` shows them. A number alone never identifies one: it may have been given out again.

use std::collections::{HashMap, HashSet};
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::shim::wire::ProcessId;

/// One line of the process table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) id: ProcessId,
    pub(crate) parent: i32,
    /// A zombie runs nothing any more.
    pub(crate) dead: bool,
}

/// The process that has this number now.
pub(crate) fn identify(pid: i32) -> Option<ProcessId> {
    row(pid).map(|row| row.id)
}

/// Whether exactly this process still runs.
pub(crate) fn is_alive(id: ProcessId) -> bool {
    row(id.pid).is_some_and(|row| row.id == id && !row.dead)
}

/// Every process of this machine that may be seen.
pub(crate) fn table() -> Vec<Row> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| row(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

/// The live processes below `roots`, which are not included.
pub(crate) fn descendants(roots: &[i32], table: &[Row]) -> Vec<ProcessId> {
    let mut children: HashMap<i32, Vec<&Row>> = HashMap::new();
    for row in table {
        children.entry(row.parent).or_default().push(row);
    }
    let (mut work, mut seen, mut found) = (roots.to_vec(), HashSet::new(), Vec::new());
    while let Some(pid) = work.pop() {
        for row in children.get(&pid).into_iter().flatten().filter(|row| seen.insert(row.id)) {
            work.push(row.id.pid);
            if !row.dead {
                found.push(row.id);
            }
        }
    }
    found
}

/// Whether the process was started with `variable` (`NAME=value`) in its environment.
pub(crate) fn carries(pid: i32, variable: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes()))
}

/// SIGKILL, unless the number belongs to somebody else by now.
pub(crate) fn kill_exactly(id: ProcessId) {
    if is_alive(id) {
        let _ = kill(Pid::from_raw(id.pid), Signal::SIGKILL);
    }
}

fn row(pid: i32) -> Option<Row> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The second field is a name in parentheses that may itself contain anything.
fn parse(pid: i32, stat: &str) -> Option<Row> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    // Field 22, and the parent was field 4.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Row { id: ProcessId { pid, started }, parent, dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_hostile_names() {
        let stat = "7 (a) Z (b) S 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 424242 1000 10 1 1";
        let row = parse(7, stat).unwrap();
        assert_eq!((row.parent, row.id.started, row.dead), (3, 424_242, false));
        assert!(parse(7, "7 (x").is_none());
    }

    #[test]
    fn a_recycled_number_is_somebody_else() {
        let me = identify(std::process::id().cast_signed()).unwrap();
        assert!(is_alive(me));
        assert!(!is_alive(ProcessId { started: me.started + 1, ..me }));
    }

    #[test]
    fn descendants_of_descendants_without_the_dead() {
        let row = |pid, parent, dead| Row { id: ProcessId { pid, started: 1 }, parent, dead };
        let table = [row(2, 1, false), row(3, 2, true), row(4, 3, false), row(5, 1, false), row(1, 1, false)];
        let mut pids: Vec<_> = descendants(&[2], &table).iter().map(|id| id.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [4]);
    }
}
