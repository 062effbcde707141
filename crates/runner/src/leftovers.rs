//! Ending what nobody supervises any more, and knowing that it has ended.
//!
//! What is still under a shim that answers is not left over: it is adopted. Of the rest, first the shim is asked, for it knows its tree best. Who does not answer is killed: the recorded processes, whatever
//! descends from them, and whoever was started with the attempt's directory in its environment, until none is left. A
//! number alone is never killed: its start time must be the recorded one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use proto::AttemptId;

use crate::adopt::Adopted;
use crate::proc;
use crate::shim::wire::{LINE_BYTES_MAX, Order, ProcessId, ShimState, Standing, line};
use crate::store;

/// Environment variable that names an attempt's directory, in its shim and, unless it clears it, in the whole tree.
pub(crate) const MARKER: &str = "TASKD_ATTEMPT_DIR";

/// An attempt whose processes may still exist.
#[derive(Clone, Debug)]
pub(crate) struct Leftover {
    pub(crate) attempt: AttemptId,
    pub(crate) dir: PathBuf,
    marker: Vec<u8>,
    shim: Option<ProcessId>,
    tree: Option<ProcessId>,
}

impl Leftover {
    /// Calls off a start that no shim has read yet, and reads who may be there. Blocking.
    pub(crate) fn take(attempt: AttemptId, dir: PathBuf) -> io::Result<Self> {
        store::absent_is_fine(fs::rename(dir.join(store::START), dir.join(store::CALLED_OFF)))?;
        // Only now: a shim writes its state before it reads the start.
        let state: Option<ShimState> = store::read_whole(&dir.join(store::SHIM_STATE))?;
        // Since another start of the machine, numbers and start times belong to others.
        let state = state.filter(|state| state.boot == proc::boot_id());
        let (shim, tree) = state.map_or((None, None), |state| (Some(state.shim), state.tree));
        let marker = [MARKER.as_bytes(), b"=", dir.as_os_str().as_bytes()].concat();
        Ok(Self { attempt, dir, marker, shim, tree })
    }

    /// The shim, if it lives and says, within `within`, until when its tree may run. Blocking.
    ///
    /// One that is stopped does not answer, nor does one of a release that does not know the question.
    pub(crate) fn standing(&self, within: Duration) -> io::Result<Option<Adopted>> {
        let Some(shim) = self.shim.filter(|shim| proc::is_alive(*shim).unwrap_or(false)) else {
            return Ok(None);
        };
        let until = Instant::now() + within;
        let mut link = connect(&self.dir)?;
        link.set_write_timeout(Some(within))?;
        link.write_all(&line(&Order::Describe)?)?;
        let (mut heard, mut chunk) = (Vec::new(), [0; 4096]);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || heard.len() > LINE_BYTES_MAX {
                return Ok(None);
            }
            link.set_read_timeout(Some(left))?;
            match link.read(&mut chunk)? {
                0 => return Ok(None),
                count => heard.extend_from_slice(&chunk[..count]),
            }
            // Among what it tells everybody.
            let whole = heard.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let mut lines = heard[..whole].split(|byte| *byte == b'\n');
            let standing = lines.find_map(|line| serde_json::from_slice::<Standing>(line).ok());
            if let Some(standing) = standing {
                link.set_nonblocking(true)?;
                let until = clock::Instant::from_nanos(standing.deadline_ns);
                return Ok(Some(Adopted { attempt: self.attempt, shim, link, until }));
            }
        }
    }

    /// Tells the shim, if it listens. Blocking, briefly.
    pub(crate) fn tell(&self, order: &Order) {
        let told = connect(&self.dir).and_then(|mut stream| {
            stream.set_nonblocking(true)?;
            stream.write_all(&line(order)?)
        });
        if let Err(error) = told {
            tracing::debug!(attempt = %self.attempt, %error, "the shim cannot be told");
        }
    }
}

/// Moves the deadline of an attempt's shim, which must hear it. Blocking, briefly.
pub(crate) fn extend(dir: &Path, until: clock::Instant) -> io::Result<()> {
    let mut stream = connect(dir)?;
    stream.set_nonblocking(true)?;
    stream.write_all(&line(&Order::Extend { deadline_ns: until.as_nanos() })?)
}

/// Everyone of these attempts who still runs. Blocking: reads all of `/proc` once.
pub(crate) fn survivors(leftovers: &[Leftover]) -> io::Result<Vec<ProcessId>> {
    let table = proc::table()?;
    let markers: HashSet<&[u8]> = leftovers.iter().map(|leftover| leftover.marker.as_slice()).collect();
    let recorded: HashSet<ProcessId> =
        leftovers.iter().flat_map(|leftover| [leftover.shim, leftover.tree]).flatten().collect();
    let me = std::process::id().cast_signed();
    let mut found = Vec::new();
    for row in table.iter().filter(|row| !row.dead && row.id.pid != me) {
        let ours = recorded.contains(&row.id)
            || proc::environment(row.id.pid)?.split(|byte| *byte == 0).any(|entry| markers.contains(entry));
        if ours {
            found.push(row.id);
        }
    }
    let roots: Vec<i32> = found.iter().map(|id| id.pid).collect();
    found.extend(proc::descendants(&roots, &table));
    found.retain(|id| id.pid != me);
    found.sort_unstable_by_key(|id| (id.pid, id.started));
    found.dedup();
    Ok(found)
}

/// SIGKILL for everyone of these attempts; returns how many there were. Blocking; to be repeated until there is none.
pub(crate) fn kill(leftovers: &[Leftover]) -> io::Result<usize> {
    let survivors = survivors(leftovers)?;
    let shims: HashSet<ProcessId> = leftovers.iter().filter_map(|leftover| leftover.shim).collect();
    for process in victims(&survivors, &shims) {
        if let Err(error) = proc::signal_exactly(process, Signal::SIGKILL) {
            tracing::debug!(pid = process.pid, %error, "cannot be killed");
        }
    }
    Ok(survivors.len())
}

/// The shims come last: even a stopped one still adopts orphans, which can be found below it and nowhere else.
fn victims(survivors: &[ProcessId], shims: &HashSet<ProcessId>) -> Vec<ProcessId> {
    let (shims, others): (Vec<ProcessId>, Vec<ProcessId>) =
        survivors.iter().partition(|process| shims.contains(process));
    if others.is_empty() { shims } else { others }
}

/// Listens in an attempt's directory, however long its path is: a socket's may have 107 bytes.
pub(crate) fn listen(dir: &Path) -> io::Result<UnixListener> {
    let dir = File::open(dir)?;
    UnixListener::bind(short(&dir))
}

/// Reaches the shim of an attempt.
pub(crate) fn connect(dir: &Path) -> io::Result<UnixStream> {
    let dir = File::open(dir)?;
    UnixStream::connect(short(&dir))
}

fn short(dir: &File) -> String {
    format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), store::SOCKET)
}

#[cfg(test)]
mod tests {
    use proto::TaskId;

    use super::*;

    #[test]
    fn records_of_another_start_of_the_machine_name_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let attempt = AttemptId { task: TaskId::from_u128(1), number: 1 };
        let me = proc::identify(std::process::id().cast_signed()).unwrap().unwrap();
        let recorded = || Leftover::take(attempt, dir.path().to_owned()).unwrap().shim;
        for (boot, found) in [(proc::boot_id(), Some(me)), (Some("another".to_owned()), None)] {
            let state = ShimState { boot, shim: me, tree: None };
            store::write(&dir.path().join(store::SHIM_STATE), &state).unwrap();
            assert_eq!(recorded(), found);
        }
        fs::write(dir.path().join(store::SHIM_STATE), "").unwrap();
        assert_eq!(recorded(), None, "a loss of power left it empty");
    }

    #[test]
    fn who_carries_the_directory_is_found_whatever_its_name() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        let mut child = std::process::Command::new("sleep").arg("1000").env(MARKER, &dir).spawn().unwrap();
        let attempt = AttemptId { task: TaskId::from_u128(1), number: 1 };
        let leftover = Leftover::take(attempt, dir).unwrap();
        assert_eq!(kill(std::slice::from_ref(&leftover)).unwrap(), 1);
        assert!(!child.wait().unwrap().success());
        assert_eq!(kill(&[leftover]).unwrap(), 0);
    }

    #[test]
    fn shims_are_killed_last() {
        let [shim, task] = [7, 8].map(|pid| ProcessId { pid, started: 1 });
        let shims = HashSet::from([shim]);
        assert_eq!(victims(&[shim, task], &shims), [task]);
        assert_eq!(victims(&[shim], &shims), [shim]);
    }
}
