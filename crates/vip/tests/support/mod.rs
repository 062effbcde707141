//! A machine of its own: a network namespace.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

const PREFIX: &str = "viptest";
const SPACES: &str = "/run/netns";

/// A network namespace. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Space {
    pub(crate) name: String,
}

impl Space {
    /// An empty one, in which these lines of `ip -batch` have been carried out. None: there can be none here, and that
    /// has been said.
    pub(crate) fn create(lines: &str) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}", std::process::id());
        let space = Self { name };
        if let Err(why) = run(Command::new("ip").args(["netns", "add", &space.name]), "") {
            testkit::skip(&format!("network namespaces need root: {why}"));
            return None;
        }
        space.ip(lines);
        Some(space)
    }

    /// Carries out lines of `ip -batch`.
    pub(crate) fn ip(&self, lines: &str) {
        run(Command::new("ip").args(["-n", &self.name, "-batch", "-"]), lines).expect("ip");
    }

    /// What one command of `ip` prints.
    pub(crate) fn show(&self, words: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split(' ')), "").expect("ip")
    }

    /// Runs something there, on a thread and a runtime of its own.
    pub(crate) fn enter<T: Send>(&self, what: impl AsyncFnOnce() -> T + Send) -> T {
        let space = File::open(Path::new(SPACES).join(&self.name)).expect("the namespace");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&space, CloneFlags::CLONE_NEWNET).expect("entering the namespace");
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(what())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes what tests left that were killed before they could.
fn sweep() {
    for entry in std::fs::read_dir(SPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let (Some(PREFIX), Some(pid)) = (parts.next(), parts.next()) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

fn remove(name: &str) {
    // It may never have been created; nothing else keeps it from going.
    let _ = run(Command::new("ip").args(["netns", "del", name]), "");
}

/// What a command prints; or else what it complains about.
pub(crate) fn run(command: &mut Command, input: &str) -> Result<String, String> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let fed = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("{}{}", said(&output.stdout), said(&output.stderr)));
    }
    fed.map_err(|error| error.to_string())?;
    Ok(said(&output.stdout))
}
