//! A daemon in a process of its own, to be killed or stopped.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use runner::PidNamespace;

use crate::common::{Link, Node, Sleeper, attempt, options, sh};

/// The right to run in every hosted daemon.
pub(crate) const FENCE_AFTER: Duration = Duration::from_millis(2_500);

const DIR: &str = "RUNNER_TEST_DIR";
const SCRIPT: &str = "RUNNER_TEST_SCRIPT";
const NAMESPACE: &str = "RUNNER_TEST_NAMESPACE";

/// The process; killed when dropped.
pub(crate) struct Host(Child);

impl Host {
    /// A daemon that runs a task which ignores SIGTERM, as attempt 1.
    pub(crate) async fn start(dir: &Path, sleeper: &Sleeper, mode: PidNamespace) -> Self {
        let host = Self::spawn(dir, sleeper, mode);
        sleeper.runs(2).await;
        host
    }

    /// One that is about to.
    pub(crate) fn spawn(dir: &Path, sleeper: &Sleeper, mode: PidNamespace) -> Self {
        let host = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "host::hosted", "--ignored"])
            .env(DIR, dir)
            .env(SCRIPT, format!("trap '' TERM; setsid {} & {}", sleeper.command(), sleeper.command()))
            .env(NAMESPACE, if mode == PidNamespace::Auto { "auto" } else { "never" })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(host)
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        crate::common::signal(self.0.id().cast_signed(), signal);
    }

    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
#[ignore = "not a test: the body of the processes that other tests kill"]
async fn hosted() {
    let dir = std::env::var_os(DIR).expect("started by another test");
    let script = std::env::var(SCRIPT).unwrap();
    let link = Link::new();
    link.with(|leader| leader.fence_after = FENCE_AFTER);
    let mut options = options(Path::new(&dir), &link, 1);
    if std::env::var(NAMESPACE).unwrap() == "never" {
        options.pid_namespace = PidNamespace::Never;
    }
    let node = Node::boot(options, &link).await;
    node.start(attempt(1), sh(&script)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    node.stop().await;
}
