//! Processes as `/proc` shows them. A number alone never identifies one: it may have been given out again.
//!
//! Whoever asks wants to know who is *gone*. A look that failed (no file descriptor was left, say) is therefore an error
//! and never an empty answer.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::Signal;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

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
pub(crate) fn identify(pid: i32) -> io::Result<Option<ProcessId>> {
    Ok(row(Path::new("/proc"), pid)?.map(|row| row.id))
}

/// Whether this very process still executes anything.
pub(crate) fn is_alive(id: ProcessId) -> io::Result<bool> {
    Ok(row(Path::new("/proc"), id.pid)?.is_some_and(|row| row.id == id && !row.dead))
}

/// Something that polls readable once this very process has ended. None if it has already, or where the kernel has no such
/// thing.
pub(crate) fn pin(id: ProcessId) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = rustix::process::Pid::from_raw(id.pid) else { return Ok(None) };
    let pinned = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::NOSYS) => return Ok(None),
        pinned => pinned?,
    };
    // Whoever it is that is pinned, it is the one that was meant only if that one is there.
    Ok(is_alive(id)?.then_some(pinned))
}

/// Tells this start of the machine from every other; none where the system hides it.
pub(crate) fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim_end().to_owned())
}

/// Every process of this machine that may be seen.
pub(crate) fn table() -> io::Result<Vec<Row>> {
    table_in(Path::new("/proc"))
}

fn table_in(proc: &Path) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(proc)? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            rows.extend(row(proc, pid)?);
        }
    }
    Ok(rows)
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

/// The environment with which the process was started: `NAME=value`, each followed by a zero. Empty for a process that is
/// gone, and for another user's.
pub(crate) fn environment(pid: i32) -> io::Result<Vec<u8>> {
    match fs::read(format!("/proc/{pid}/environ")) {
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(Vec::new()),
        read => read,
    }
}

/// Signals this very process, or nobody if its number belongs to somebody else by now.
pub(crate) fn signal_exactly(id: ProcessId, signal: Signal) -> io::Result<()> {
    let Some(pid) = rustix::process::Pid::from_raw(id.pid) else { return Ok(()) };
    // It pins whoever has the number now, so that nothing can come between the look and the signal.
    let pinned = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        // Kernels before 5.3.
        Err(rustix::io::Errno::NOSYS) => None,
        pinned => Some(pinned?),
    };
    if row(Path::new("/proc"), id.pid)?.is_none_or(|row| row.id != id) {
        return Ok(());
    }
    let sent = match (pinned, rustix::process::Signal::from_named_raw(signal as i32)) {
        (Some(pinned), Some(signal)) => pidfd_send_signal(&pinned, signal).map_err(io::Error::from),
        _ => nix::sys::signal::kill(nix::unistd::Pid::from_raw(id.pid), signal).map_err(io::Error::from),
    };
    match sent {
        Err(error) if is_gone(&error) => Ok(()),
        sent => sent,
    }
}

fn row(proc: &Path, pid: i32) -> io::Result<Option<Row>> {
    match fs::read(proc.join(pid.to_string()).join("stat")) {
        // The name in it may be any bytes.
        Ok(stat) => match parse(pid, &String::from_utf8_lossy(&stat)) {
            Some(row) => Ok(Some(row)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, format!("cannot read the stat of {pid}"))),
        },
        // Another user's, where /proc hides those (hidepid). It could not be ended either.
        Err(error) if is_gone(&error) || error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// The second field is a name in parentheses that may itself contain anything.
fn parse(pid: i32, stat: &str) -> Option<Row> {
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let exited = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    // Field 20, and the parent was field 4.
    let threads: u32 = fields.nth(15)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    // A process whose first thread has ended looks like a zombie while its other threads run on.
    Some(Row { id: ProcessId { pid, started }, parent, dead: exited && threads <= 1 })
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
    fn a_process_without_its_first_thread_is_not_dead() {
        for (threads, dead) in [(1, true), (2, false)] {
            let stat = format!("7 (a) Z 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 {threads} 0 42 0 0 0 0");
            let row = parse(7, &stat).unwrap();
            assert_eq!((row.id.started, row.dead), (42, dead));
        }
    }

    #[test]
    fn a_look_that_fails_shows_nobody_gone() {
        let proc = tempfile::tempdir().unwrap();
        fs::create_dir(proc.path().join("7")).unwrap();
        assert!(table_in(proc.path()).unwrap().is_empty(), "7 went while the table was read");
        let stat = proc.path().join("7/stat");
        fs::write(&stat, b"7 (\xff) S 3 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 42 0 0 0 0").unwrap();
        assert_eq!(table_in(proc.path()).unwrap().len(), 1, "names are bytes");
        fs::remove_file(&stat).unwrap();
        fs::create_dir(&stat).unwrap();
        assert!(table_in(proc.path()).is_err());
        assert!(table_in(&proc.path().join("absent")).is_err());
    }

    #[test]
    fn a_recycled_number_is_somebody_else() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = identify(child.id().cast_signed()).unwrap().unwrap();
        signal_exactly(ProcessId { started: id.started + 1, ..id }, Signal::SIGKILL).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        signal_exactly(id, Signal::SIGKILL).unwrap();
        assert!(!child.wait().unwrap().success());
        signal_exactly(id, Signal::SIGKILL).unwrap();
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
