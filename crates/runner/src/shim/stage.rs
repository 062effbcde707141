//! The last step before a task's program, where it needs one: limits, user and mask are set in its own process, then the
//! program takes its place.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, umask};
use proto::task::ResourceLimits;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// What to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stage {
    /// User and group; no others.
    #[serde(default)]
    pub(crate) identity: Option<(u32, u32)>,
    #[serde(default)]
    pub(crate) umask: Option<u32>,
    #[serde(default)]
    pub(crate) resources: ResourceLimits,
    /// The `cgroup.procs` to join.
    #[serde(default)]
    pub(crate) join: Option<PathBuf>,
    /// Where to say that the program cannot be executed.
    #[serde(default)]
    pub(crate) unfit: PathBuf,
}

impl Stage {
    /// Whether there is anything to do.
    pub(crate) fn is_needed(&self) -> bool {
        Self { unfit: PathBuf::new(), ..self.clone() } != Self::default()
    }
}

/// Becomes the program; returns only if it cannot.
pub(super) fn run(stage: &OsString, program: &OsString, args: &[OsString]) -> io::Result<()> {
    let stage: Stage = serde_json::from_str(&stage.to_string_lossy())?;
    // Before the rights to it are gone.
    let mut unfit = File::create(&stage.unfit)?;
    let error = match become_it(&stage, program, args) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    unfit.write_all(error.as_bytes())?;
    Err(io::Error::other(error))
}

fn become_it(
    stage: &Stage,
    program: &OsString,
    args: &[OsString],
) -> Result<std::convert::Infallible, String> {
    if let Some(procs) = &stage.join {
        join(procs).map_err(|error| format!("cannot join {}: {error}", procs.display()))?;
    }
    for (resource, name, limit) in limits(&stage.resources) {
        if let Some(limit) = limit {
            set(resource, limit).map_err(|error| format!("cannot limit its {name} to {limit}: {error}"))?;
        }
    }
    if let Some(mask) = stage.umask {
        umask(Mode::from_bits_truncate(mask));
    }
    let mut command = Command::new(program);
    command.args(args);
    if let Some((user, group)) = stage.identity {
        // Its other groups are dropped along.
        command.uid(user).gid(group);
    }
    let error = command.exec();
    let program = program.to_string_lossy();
    Err(format!("cannot execute {:?}: {error}", &program[..program.floor_char_boundary(256)]))
}

/// Whoever this process becomes or starts is in that group.
pub(super) fn join(procs: &Path) -> io::Result<()> {
    File::options().write(true).open(procs)?.write_all(b"0")
}

fn limits(resources: &ResourceLimits) -> [(Resource, &'static str, Option<u64>); 5] {
    let ResourceLimits { memory_bytes, cpu_seconds, open_files, processes, file_bytes } = *resources;
    [
        (Resource::As, "memory", memory_bytes),
        (Resource::Cpu, "processor time", cpu_seconds),
        (Resource::Nofile, "open files", open_files),
        (Resource::Nproc, "processes", processes),
        (Resource::Fsize, "file size", file_bytes),
    ]
}

/// Both limits, so that it cannot be lifted again; never above what holds here already.
fn set(resource: Resource, limit: u64) -> io::Result<()> {
    let limit = getrlimit(resource).maximum.map_or(limit, |maximum| limit.min(maximum));
    // A second more until SIGKILL, for whoever handles SIGXCPU.
    let maximum = if resource == Resource::Cpu { limit.saturating_add(1) } else { limit };
    let maximum = getrlimit(resource).maximum.map_or(maximum, |present| maximum.min(present));
    Ok(setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(maximum) })?)
}
