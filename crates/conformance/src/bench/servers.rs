//! The two servers as processes.

use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

use super::load;

const CLASSPATH: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-simple.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
/// The heap that ZooKeeper's own start script gives a server; everything else is Java's default.
const HEAP: &str = "-Xmx1000m";

const LOG: &str = "server.log";
const STARTED: Duration = Duration::from_secs(60);

/// Starts a server, tells its process id, and kills it when its standard input ends: with us, however we end.
const GUARD: &str = r#""$@" </dev/null >>"$LOG" 2>&1 & echo $!; read -r _; kill -KILL $! 2>/dev/null; wait"#;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    ZooKeeper,
    Keeper,
}

impl Display for Subject {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::ZooKeeper => "ZooKeeper",
            Self::Keeper => "keeper",
        })
    }
}

/// A server that runs; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    subject: Subject,
    /// The keeper, or the guard of the JVM.
    child: Child,
    /// The process of the server itself.
    pid: u32,
    pub(super) address: SocketAddr,
    /// From the start of its process to the answer to the first connect request.
    pub(super) started_within: Duration,
    dir: TempDir,
}

impl Subject {
    /// How it is started.
    pub(super) fn described(self) -> String {
        match self {
            Self::ZooKeeper => {
                format!("ZooKeeper: Debian's 3.8.0, standalone, java {HEAP}, forceSync as by default")
            }
            Self::Keeper => "keeper: this program's `serve` with its defaults".to_owned(),
        }
    }

    /// Starts it on an empty directory below `parent` and waits until it has taken a session.
    pub(super) fn start(self, parent: &Path) -> anyhow::Result<Running> {
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?;
        let address = free_address()?;
        let mut command = match self {
            Self::ZooKeeper => zookeeper(dir.path(), address)?,
            Self::Keeper => keeper(dir.path(), address)?,
        };
        let began = Instant::now();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let pid = child.id();
        let mut running = Running { subject: self, child, pid, address, started_within: Duration::ZERO, dir };
        if self == Self::ZooKeeper {
            running.pid = running.first_line()?.parse().context("the guard says no process id")?;
        }
        while !load::connects(address) {
            if began.elapsed() > STARTED || !running.runs() {
                bail!("{self} does not serve: {}", fs::read_to_string(running.log()).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        running.started_within = began.elapsed();
        Ok(running)
    }
}

fn zookeeper(dir: &Path, address: SocketAddr) -> anyhow::Result<Command> {
    let config = format!(
        "tickTime=2000\ndataDir={}\nclientPort={}\nclientPortAddress={}\nmaxClientCnxns=0\nadmin.enableServer=false\n",
        dir.join("data").display(),
        address.port(),
        address.ip(),
    );
    fs::write(dir.join("zoo.cfg"), config)?;
    let mut command = Command::new("sh");
    command.args(["-c", GUARD, "sh", "java", HEAP, "-Dzookeeper.jmx.log4j.disable=true"]);
    command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", CLASSPATH, MAIN]);
    command.arg(dir.join("zoo.cfg")).env("LOG", dir.join(LOG)).env_remove("JAVA_TOOL_OPTIONS");
    Ok(command)
}

fn keeper(dir: &Path, address: SocketAddr) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve").arg("--data-dir").arg(dir.join("data")).args(["--listen", &address.to_string()]);
    command.stderr(fs::File::create(dir.join(LOG))?);
    Ok(command)
}

/// One that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

impl Running {
    /// What it has in memory now, in MiB.
    pub(super) fn resident_mib(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")?;
        Ok(kib / 1024.0)
    }

    /// The processor time that it has used so far, in seconds, all its threads together.
    pub(super) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields = stat.rsplit(") ").next().unwrap_or_default();
        // utime and stime are the 14th and 15th, in hundredths of a second on every Linux.
        let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>()?;
        Ok(ticks / 100.0)
    }

    fn first_line(&mut self) -> anyhow::Result<String> {
        let stdout = self.child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    fn runs(&self) -> bool {
        // "pid (name) state …": a zombie has ended.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with('Z'))
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join(LOG)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The guard kills the JVM and reaps it as soon as its standard input ends.
        drop(self.child.stdin.take());
        if self.subject == Subject::Keeper {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}
