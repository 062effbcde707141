//! kazoo's own tests, unmodified, against the keeper.
//!
//! Its harness starts the `java` that it finds on the path with a `zoo.cfg`. Ours is a small stand-in that starts
//! `taskd keeper` with what stands in there. The tests come from PyPI; nothing of them is in this repository, but the
//! names of those that do not apply (`xtask/kazoo/skips.txt`). Those are run too, since one that passes should not be
//! skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;

use super::python::Python;
use super::report::{self, Outcome, Report};
use super::skips::{self, Skip};
use crate::install;
use crate::run::cluster::{self, RunDir};
use crate::run::coordinator;
use crate::run::logs;
use crate::run::progress::Bar;
use crate::shell::{self, Interrupt};
use crate::stats;
use crate::workspace::{Profile, Workspace};

const SKIPS: &str = "xtask/kazoo/skips.txt";
const APPLICABLE_PERCENT_MIN: usize = 95;
/// The release whose behaviour the tests may expect.
const ZOOKEEPER_VERSION: &str = "3.8.0";
/// The ports that kazoo's harness uses from its offset on.
const PORTS: u16 = 5;
const COLLECT_WITHIN: Duration = Duration::from_secs(60);
/// A listed test fails soon, or waits for something that never comes.
const LISTED_TEST_WITHIN: u64 = 40;
/// More failures than these are no accident: they are not tried again.
const TRIED_AGAIN_MAX: usize = 5;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// This test connects to ZooKeeper's usual port and counts on it that nobody is there.
const COUNTS_ON_NOBODY: &str = "::test_slow_connect";
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2181);

/// `$1` of the harness's command line is an option, the last argument the configuration.
const STAND_IN: &str = r#"#!/bin/sh
for config; do :; done
value() { sed -n "s/^$1=//p" "$config" | tail -n 1; }
exec "$KEEPER" keeper --data-dir "$(value dataDir)" --listen "127.0.0.1:$(value clientPort)" --tick "$(value tickTime)ms"
"#;

/// Debian's manifest leaves out what ZooKeeper's Netty server needs, which kazoo's harness asks for.
const CLASSPATH: [&str; 5] = [
    coordinator::JAR,
    coordinator::LOGGER,
    "/usr/share/java/netty-codec.jar",
    "/usr/share/java/netty-resolver.jar",
    "/usr/share/java/netty-transport-native-unix-common.jar",
];

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// What to test
    #[arg(long, value_enum, default_value_t = Against::Keeper)]
    against: Against,
    /// Only the tests whose id contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Runs of pytest side by side, each with a server of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    jobs: u16,
    /// The longest that one test may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    test_timeout: u64,
    /// The longest that all of them may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    /// `taskd keeper`
    Keeper,
    /// Debian's ZooKeeper, a single server too: which tests fail there as well
    Zookeeper,
}

pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let list = workspace.root.join(SKIPS);
    let text = fs::read_to_string(&list).with_context(|| format!("failed to read {}", list.display()))?;
    let mut skips = skips::parse(&text).with_context(|| format!("failed to read {}", list.display()))?;
    let python = Python::prepare(workspace)?;
    let runs = workspace.target.join("run");
    cluster::sweep(&runs);
    let dir = RunDir::create(&runs)?;
    let server = Server::prepare(workspace, options.against, dir.path())?;
    interrupt.check()?;

    let suite = Suite { packages: python.packages()?, python, server, dir: dir.path().to_owned() };
    let mut collected = suite.collect()?;
    if let Some(only) = &options.only {
        collected.retain(|id| id.contains(only.as_str()));
        skips.retain(|skip| collected.contains(&skip.id));
    }
    if collected.is_empty() {
        bail!("no test was found");
    }
    if collected.iter().any(|id| id.ends_with(COUNTS_ON_NOBODY))
        && TcpStream::connect_timeout(&NOBODY, Duration::from_secs(1)).is_ok()
    {
        bail!(
            "something listens on {NOBODY}, where kazoo's test_slow_connect counts on nobody: end it first"
        );
    }
    let name = match options.against {
        Against::Keeper => "the keeper",
        Against::Zookeeper => "Debian's ZooKeeper",
    };
    println!("running kazoo {}'s own tests against {name}", suite.python.kazoo_version()?);
    let start = Instant::now();
    let ran = suite.run(options, &collected, &skips, &interrupt);
    cluster::kill_below(dir.path());
    let Ran { outcomes, second_try, logs } = ran?;

    let report =
        Report { collected: &collected, outcomes: &outcomes, skips: &skips, second_try: &second_try };
    println!("{} tests in {}", collected.len(), stats::human(start.elapsed()));
    print!("{}", report.render());
    if options.against == Against::Zookeeper {
        print!("the tests of our list:\n{}", report.render_listed());
    }
    let mut problems: Vec<String> = report.failed().into_iter().map(|id| explain(id, &outcomes)).collect();
    if options.against == Against::Keeper {
        problems.extend(report.stale().into_iter().map(|entry| format!("in {SKIPS} for nothing: {entry}")));
    }
    let (passed, applicable) = report.applicable();
    if passed * 100 < applicable * APPLICABLE_PERCENT_MIN {
        problems.push(format!("less than {APPLICABLE_PERCENT_MIN} % of the applicable tests passed"));
    }
    if problems.is_empty() {
        return Ok(());
    }
    for log in &logs {
        let kept = workspace.target.join("kazoo").join(log.file_name().unwrap_or_default());
        fs::copy(log, &kept).with_context(|| format!("failed to write {}", kept.display()))?;
        println!("what pytest said: {}", kept.display());
    }
    bail!("kazoo's tests did not go as they should:\n  {}", problems.join("\n  "))
}

fn explain(id: &str, outcomes: &BTreeMap<String, Outcome>) -> String {
    match outcomes.get(id) {
        Some(_) => format!("failed: {id}"),
        None => format!("did not end: {id}"),
    }
}

/// How kazoo's harness finds a server.
#[derive(Debug)]
struct Server {
    /// Before everything else on the path.
    path: Option<PathBuf>,
    classpath: String,
    keeper: Option<PathBuf>,
}

impl Server {
    fn prepare(workspace: &Workspace, against: Against, dir: &Path) -> Result<Self> {
        if against == Against::Zookeeper {
            install::zookeeper()?;
            return Ok(Self { path: None, classpath: CLASSPATH.join(":"), keeper: None });
        }
        let keeper = workspace.build_taskd(Profile::Dev)?;
        let bin = dir.join("bin");
        fs::create_dir_all(&bin).with_context(|| format!("failed to create {}", bin.display()))?;
        let java = bin.join("java");
        fs::write(&java, STAND_IN)
            .and_then(|()| fs::set_permissions(&java, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("failed to write {}", java.display()))?;
        // The harness wants one; the stand-in does not.
        Ok(Self { path: Some(bin), classpath: "keeper".to_owned(), keeper: Some(keeper) })
    }
}

/// The tests, where they are, and what they run against.
#[derive(Debug)]
struct Suite {
    python: Python,
    packages: PathBuf,
    server: Server,
    dir: PathBuf,
}

/// What came of it.
struct Ran {
    outcomes: BTreeMap<String, Outcome>,
    second_try: BTreeSet<String>,
    logs: Vec<PathBuf>,
}

/// One pytest.
#[derive(Debug)]
struct Session {
    child: Child,
    log: PathBuf,
    ended: bool,
}

impl Suite {
    fn collect(&self) -> Result<BTreeSet<String>> {
        let mut command = self.python.command();
        command.current_dir(&self.packages).env_remove("PYTEST_ADDOPTS");
        command.args(["-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", "--collect-only", "-q"]);
        command.arg("--rootdir").arg(&self.packages).arg("kazoo/tests");
        let output = shell::output(&mut command, COLLECT_WITHIN)?;
        if !output.status.success() {
            bail!("pytest could not collect kazoo's tests: {}{}", output.stdout, output.stderr);
        }
        Ok(report::collected(&output.stdout))
    }

    /// Runs everything: the selection in `jobs` sessions, the listed tests in one of their own, and once more what
    /// failed.
    fn run(
        &self,
        options: &Options,
        collected: &BTreeSet<String>,
        skips: &[Skip],
        interrupt: &Interrupt,
    ) -> Result<Ran> {
        let listed: Vec<String> =
            skips.iter().map(|skip| skip.id.clone()).filter(|id| collected.contains(id)).collect();
        let selected: BTreeSet<String> =
            collected.iter().filter(|id| !listed.contains(id)).cloned().collect();
        let mut sessions = Vec::new();
        let mut start = |what: &[String], test_timeout: u64| -> Result<()> {
            let name = format!("pytest-{}", sessions.len());
            let mut args = what.to_vec();
            // A file brings all of its tests along.
            if what.iter().any(|what| !what.contains("::")) {
                args.extend(listed.iter().flat_map(|id| ["--deselect".to_owned(), id.clone()]));
            }
            sessions.push(self.start(&name, &args, test_timeout)?);
            Ok(())
        };
        match &options.only {
            None => {
                for share in report::share_out(&selected, usize::from(options.jobs)) {
                    start(&share, options.test_timeout)?;
                }
            }
            Some(_) if selected.is_empty() => {}
            Some(_) => start(&selected.iter().cloned().collect::<Vec<_>>(), options.test_timeout)?,
        }
        if !listed.is_empty() {
            start(&listed, LISTED_TEST_WITHIN)?;
        }
        let deadline = Instant::now() + Duration::from_secs(options.timeout);
        let mut outcomes = watch(&mut sessions, collected.len(), deadline, interrupt)?;
        let mut logs: Vec<PathBuf> = sessions.iter().map(|session| session.log.clone()).collect();

        // Some of them count on timing that a busy machine does not keep; what is wrong is wrong twice.
        let failed: Vec<String> =
            selected.iter().filter(|id| outcomes.get(*id) == Some(&Outcome::Failed)).cloned().collect();
        let mut second_try = BTreeSet::new();
        if !failed.is_empty() && failed.len() <= TRIED_AGAIN_MAX {
            println!("once more, by themselves: {}", failed.join(" "));
            let mut again = vec![self.start("pytest-again", &failed, options.test_timeout)?];
            let second = watch(&mut again, failed.len(), deadline, interrupt)?;
            logs.extend(again.iter().map(|session| session.log.clone()));
            second_try = failed.into_iter().filter(|id| second.get(id) == Some(&Outcome::Passed)).collect();
            outcomes.extend(second_try.iter().map(|id| (id.clone(), Outcome::Passed)));
        }
        Ok(Ran { outcomes, second_try, logs })
    }

    fn start(&self, name: &str, what: &[String], test_timeout: u64) -> Result<Session> {
        let (log, temp) = (self.dir.join(format!("{name}.log")), self.dir.join(name));
        fs::create_dir_all(&temp).with_context(|| format!("failed to create {}", temp.display()))?;
        let output = File::create(&log).with_context(|| format!("failed to create {}", log.display()))?;
        let mut command = cluster::tied_to_us(self.python.program(), Signal::SIGKILL);
        cluster::without_settings(&mut command);
        // Everything that it starts names a file below `temp`, and is found by that.
        command
            .current_dir(&self.packages)
            .args(["-m", "pytest", "-c", "/dev/null", "-p", "no:cacheprovider", "-v", "--tb=short", "-rfEs"])
            .args(["--timeout-method=signal", &format!("--timeout={test_timeout}")])
            .arg("--rootdir")
            .arg(&self.packages)
            .arg("--basetemp")
            .arg(temp.join("pytest"))
            .args(what);
        for unwanted in
            ["PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS", "ZOOKEEPER_PATH", "ZOOKEEPER_JAAS_AUTH"]
        {
            command.env_remove(unwanted);
        }
        if let Some(bin) = &self.server.path {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(bin.clone()).chain(std::env::split_paths(&path));
            command.env("PATH", std::env::join_paths(folders)?);
        }
        if let Some(keeper) = &self.server.keeper {
            command.env("KEEPER", keeper);
        }
        command
            // Its tests then believe this version instead of asking.
            .env("CI", "true")
            .env("ZOOKEEPER_VERSION", ZOOKEEPER_VERSION)
            .env("ZOOKEEPER_CLASSPATH", &self.server.classpath)
            .env("ZOOKEEPER_CLUSTER_SIZE", "1")
            .env("ZOOKEEPER_PORT_OFFSET", coordinator::free_ports(PORTS)?.to_string())
            .env("TMPDIR", &temp)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.spawn().context("failed to start pytest")?;
        Ok(Session { child, log, ended: false })
    }
}

/// Shows how far they are until all have ended, or the time is up; then what is missing has not ended.
fn watch(
    sessions: &mut [Session],
    total: usize,
    deadline: Instant,
    interrupt: &Interrupt,
) -> Result<BTreeMap<String, Outcome>> {
    let mut bar = Bar::new();
    loop {
        for session in sessions.iter_mut().filter(|session| !session.ended) {
            session.ended = session.child.try_wait()?.is_some();
        }
        let mut outcomes = BTreeMap::new();
        for session in sessions.iter() {
            report::outcomes(&String::from_utf8_lossy(&fs::read(&session.log)?), &mut outcomes);
        }
        let failed = outcomes.values().filter(|outcome| **outcome == Outcome::Failed).count();
        bar.show(outcomes.len(), total, &format!("tests, {failed} failed"));
        let late = Instant::now() >= deadline;
        if late || interrupt.is_set() || sessions.iter().all(|session| session.ended) {
            bar.say("");
            for session in sessions.iter_mut() {
                // One that has ended by itself cannot be killed, which is as good.
                let _ = session.child.kill();
                session.child.wait()?;
            }
            interrupt.check()?;
            if late {
                println!("the time is up: what has not ended was killed");
            }
            if outcomes.is_empty() {
                bail!("no test ran:\n{}", logs::tail(&sessions[0].log, 15));
            }
            return Ok(outcomes);
        }
        thread::sleep(LOOK_EVERY);
    }
}
