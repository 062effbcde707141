//! Programs of this node that hear of a take after it, and of a release after it.
//!
//! They are never in the way of the addresses: nobody waits for them. Those of one service run one after the other, in
//! order; a program that hangs is killed after [`WITHIN`], with its process group.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use proto::vip::ServiceName;
use pulse::Pulse;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time;

use crate::config::Hooks;
use crate::program;

/// How long a program may take.
pub const WITHIN: Duration = Duration::from_secs(10);
/// How many may wait for one service.
pub const QUEUE_MAX: usize = 16;
/// How many failures may wait to be heard.
const FAILURES_MAX: usize = 64;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The addresses are here, and announced.
    Take,
    /// They are gone.
    Release,
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Self::Take => "take",
            Self::Release => "release",
        }
    }
}

/// A program that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For which service it was run.
    pub service: ServiceName,
    /// What happened, as a sentence.
    pub what: String,
}

/// Runs them.
#[derive(Debug)]
pub struct HookRunner {
    programs: Hooks,
    queues: BTreeMap<ServiceName, mpsc::Sender<Vec<String>>>,
    tasks: JoinSet<()>,
    failures: mpsc::Sender<Failure>,
    pulse: Pulse,
}

impl HookRunner {
    /// A runner of these programs, and where their failures are heard; what nobody hears is only logged.
    pub fn new(programs: Hooks, pulse: Pulse) -> (Self, mpsc::Receiver<Failure>) {
        let (failures, heard) = mpsc::channel(FAILURES_MAX);
        (Self { programs, queues: BTreeMap::new(), tasks: JoinSet::new(), failures, pulse }, heard)
    }

    /// Replaces the programs, for what happens from now on.
    pub fn configure(&mut self, programs: Hooks) {
        self.programs = programs;
    }

    /// Has the program of that moment run, if there is one. Does not wait. Call it inside a runtime.
    pub fn run(&mut self, service: &ServiceName, moment: Moment, addresses: &[IpNet]) {
        let Some(argv) = self.argv(service, moment, addresses) else { return };
        while self.tasks.try_join_next().is_some() {}
        let (tasks, failures, pulse) = (&mut self.tasks, &self.failures, &self.pulse);
        let queue = self.queues.entry(service.clone()).or_insert_with(|| {
            let (queue, waiting) = mpsc::channel(QUEUE_MAX);
            tasks.spawn(pulse.watch("a service's hooks", work(service.clone(), waiting, failures.clone())));
            queue
        });
        if let Err(error) = queue.try_send(argv) {
            let what = format!(
                "{} is not run: {QUEUE_MAX} hooks of this service wait already",
                shown(&error.into_inner())
            );
            tell(&self.failures, Failure { service: service.clone(), what });
        }
    }

    /// What [`run`](Self::run) would run, for who only says so.
    pub fn would_run(&self, service: &ServiceName, moment: Moment, addresses: &[IpNet]) -> Option<String> {
        self.argv(service, moment, addresses).map(|argv| shown(&argv))
    }

    fn argv(&self, service: &ServiceName, moment: Moment, addresses: &[IpNet]) -> Option<Vec<String>> {
        let program = match moment {
            Moment::Take => &self.programs.on_take,
            Moment::Release => &self.programs.on_release,
        };
        let program = program.as_ref()?;
        let mut argv = vec![program.display().to_string(), moment.word().to_owned(), service.to_string()];
        argv.extend(addresses.iter().map(|address| address.addr().to_string()));
        Some(argv)
    }

    /// Forgets services that are not configured any more; what waits for them still runs.
    pub fn retain(&mut self, keep: impl Fn(&ServiceName) -> bool) {
        self.queues.retain(|service, _| keep(service));
    }

    /// Waits for those that run and wait, and kills what is left then. Whether all were done.
    ///
    /// # Cancel safety
    /// What still runs is killed.
    pub async fn finish(mut self, within: Duration) -> bool {
        self.queues.clear();
        let joined = async { while self.tasks.join_next().await.is_some() {} };
        let all = time::timeout(within, joined).await.is_ok();
        self.tasks.shutdown().await;
        all
    }
}

async fn work(
    service: ServiceName,
    mut waiting: mpsc::Receiver<Vec<String>>,
    failures: mpsc::Sender<Failure>,
) {
    while let Some(argv) = waiting.recv().await {
        let ran = program::run(&argv, &[], WITHIN).await;
        if let Err(why) = ran.result {
            let what = format!("{} {why}", shown(&argv));
            tell(&failures, Failure { service: service.clone(), what });
        }
        if let Some(mut stuck) = ran.stuck {
            stuck.gone().await;
        }
    }
}

fn shown(argv: &[String]) -> String {
    format!("the hook `{}`", argv.join(" "))
}

fn tell(failures: &mpsc::Sender<Failure>, failure: Failure) {
    tracing::warn!(service = %failure.service, "{}", failure.what);
    // Whoever does not listen has it in the log.
    let _ = failures.try_send(failure);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn service(name: &str) -> ServiceName {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn one_after_the_other_within_a_service_and_failures_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        // The first one is still at work when the second is asked for.
        let text = format!("echo begin $* >> {0}; sleep 0.2; echo end $1 >> {0}", log.display());
        let on_take = script(dir.path(), "take", &text);
        let on_release = script(dir.path(), "release", &format!("{text}; echo no target >&2; exit 7"));
        let hooks = Hooks { on_take: Some(on_take), on_release: Some(on_release.clone()) };
        let (mut runner, mut failures) = HookRunner::new(hooks, Pulse::default());
        let addresses = ["172.0.20.241/24", "fd00::241/64"].map(|address| address.parse().unwrap());
        runner.run(&service("iscsi"), Moment::Take, &addresses);
        runner.run(&service("iscsi"), Moment::Release, &addresses);
        assert!(runner.finish(SOON).await);
        assert_eq!(
            fs::read_to_string(log).unwrap(),
            "begin take iscsi 172.0.20.241 fd00::241\nend take\nbegin release iscsi 172.0.20.241 fd00::241\nend release\n"
        );
        let what = failures.recv().await.unwrap().what;
        let expected = format!(
            "the hook `{} release iscsi 172.0.20.241 fd00::241` exited with 7: no target",
            on_release.display()
        );
        assert_eq!((what, failures.recv().await), (expected, None));
    }

    #[tokio::test]
    async fn one_that_hangs_keeps_no_other_service_waiting_and_its_queue_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("[ $2 = hangs ] && sleep 1000; touch {}/done", dir.path().display());
        let hooks = Hooks { on_take: Some(script(dir.path(), "take", &text)), on_release: None };
        let (mut runner, mut failures) = HookRunner::new(hooks, Pulse::default());
        for _ in 0..QUEUE_MAX + 2 {
            runner.run(&service("hangs"), Moment::Take, &[]);
        }
        runner.run(&service("other"), Moment::Take, &[]);
        runner.run(&service("other"), Moment::Release, &[]);
        testkit::until("the other one", SOON, async || dir.path().join("done").exists().then_some(())).await;
        assert!(failures.recv().await.unwrap().what.contains("is not run"));
        assert!(!runner.finish(Duration::from_millis(10)).await, "and it does not keep the daemon");
    }
}
