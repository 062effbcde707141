//! The coordination service of a local cluster: a keeper of our own by default, Debian's ZooKeeper when asked for. Each
//! is one process with its folder and its port on loopback, so that it can be killed and started without any node.

use std::convert::Infallible;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::run::cluster;
use crate::shell::{self, Interrupt};

/// Debian's server; its manifest names the other jars that it needs.
pub(crate) const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Sends its log to standard error.
pub(crate) const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
/// With 2 s a session times out after 4 s at the earliest.
const TICK_MS: u32 = 2_000;
/// Enough for the log's segments, which ZooKeeper keeps in memory up to three times.
const HEAP: &str = "-Xmx512m";

/// Whether Debian's ZooKeeper could be started here.
pub(crate) fn zookeeper_installed() -> bool {
    Path::new(JAR).exists() && shell::succeeds(Command::new("java").arg("-version"))
}

/// What coordinates a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A service of the cluster's own.
    Own(Kind),
    /// Somebody's ZooKeeper, as `host:port[,host:port…][/root]`.
    Hosts(String),
}

/// A coordination service that can be started here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `taskd keeper`.
    Keeper,
    /// Debian's package, standalone.
    ZooKeeper,
}

impl Kind {
    /// As people call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::ZooKeeper => "ZooKeeper",
        }
    }
}

impl FromStr for Choice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        // No host of a single word needs to be reachable: without a port it is nobody's ZooKeeper.
        Ok(if text == "debian" { Self::Own(Kind::ZooKeeper) } else { Self::Hosts(text.to_owned()) })
    }
}

/// The server process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Coordinator {
    kind: Kind,
    /// The taskd that is a keeper.
    taskd: PathBuf,
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Coordinator {
    /// Prepares one that keeps its data under `dir`; does not start it.
    pub(crate) fn prepare(kind: Kind, taskd: &Path, dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let port = free_port()?;
        if kind == Kind::ZooKeeper {
            let config = dir.join("zoo.cfg");
            fs::write(&config, zoo_cfg(&dir, port))
                .with_context(|| format!("failed to write {}", config.display()))?;
        }
        Ok(Self { kind, taskd: taskd.to_owned(), dir, port, child: None })
    }

    /// Which it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// As people call it.
    pub(crate) fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its log goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Starts it, on the data that it left, and waits until it answers.
    pub(crate) fn start(&mut self, interrupt: &Interrupt) -> Result<()> {
        let log =
            File::options().create(true).append(true).open(self.log()).context("failed to open its log")?;
        let mut command = match self.kind {
            Kind::Keeper => self.keeper(),
            Kind::ZooKeeper => self.zookeeper(),
        };
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let name = self.name();
        self.child = Some(command.spawn().with_context(|| format!("failed to start the {name}"))?);
        shell::poll(&format!("an answer from the {name}"), Duration::from_secs(30), interrupt, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("the {name} ended ({}):\n{}", status?, super::logs::tail(&self.log(), 15));
            }
            // ZooKeeper says imok to ruok before it serves.
            Ok(zxid(&self.address()).ok().map(drop))
        })
    }

    fn keeper(&self) -> Command {
        let mut command = cluster::tied_to_us(&self.taskd, Signal::SIGTERM);
        cluster::without_settings(&mut command);
        command.arg("keeper").arg("--data-dir").arg(self.dir.join("data"));
        command.args(["--listen", &self.address(), "--tick", &format!("{TICK_MS}ms")]);
        command
    }

    fn zookeeper(&self) -> Command {
        let mut command = cluster::tied_to_us("java", Signal::SIGKILL);
        command
            .args(["-Xms64m", HEAP, "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=info"])
            .args(["-cp", &format!("{JAR}:{LOGGER}"), "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(self.dir.join("zoo.cfg"));
        command
    }

    /// Ends it as a pulled plug would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().with_context(|| format!("failed to kill the {}", self.name()))?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends it in an orderly way.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take()
            && shell::stop(&mut child, Duration::from_secs(5))?.killed
        {
            eprintln!("warning: the {} did not end within 5 s of SIGTERM and was killed", self.name());
        }
        Ok(())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("warning: {error:#}");
        }
    }
}

fn zoo_cfg(dir: &Path, port: u16) -> String {
    format!(
        "tickTime={TICK_MS}\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n\
         maxClientCnxns=0\n4lw.commands.whitelist=srvr\n",
        dir.join("data").display()
    )
}

/// A port on loopback that nobody listens on just now.
pub(crate) fn free_port() -> Result<u16> {
    free_ports(1)
}

/// The first of `count` such ports in a row. They lie below those that the kernel hands out by itself, so that no
/// client's outgoing connection takes one while its server is down.
pub(crate) fn free_ports(count: u16) -> Result<u16> {
    for tries in 0..100 {
        let first = 12_000 + u16::try_from(RandomState::new().hash_one(tries) % 20_000)?;
        let taken =
            (first..first + count).any(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err());
        if !taken {
            return Ok(first);
        }
    }
    bail!("found no free port on 127.0.0.1 in 100 tries")
}

/// One of the four-letter words.
pub(crate) fn ask(address: &str, word: &str) -> Result<String> {
    let address = address.to_socket_addrs().ok().and_then(|mut found| found.next());
    let address = address.context("the coordination service's address cannot be resolved")?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(word.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The number of the last write, which grows by one with each.
pub(crate) fn zxid(address: &str) -> Result<u64> {
    parse_zxid(&ask(address, "srvr")?)
}

/// The number of requests that it has received.
pub(crate) fn received(address: &str) -> Result<u64> {
    let srvr = ask(address, "srvr")?;
    let line = srvr.lines().find_map(|line| line.strip_prefix("Received: "));
    let digits = line.with_context(|| format!("the answer to srvr has no count: {srvr:?}"))?;
    digits.trim().parse().with_context(|| format!("{digits:?} is not a count"))
}

fn parse_zxid(srvr: &str) -> Result<u64> {
    let line = srvr.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
    let digits = line.with_context(|| format!("the answer to srvr has no zxid: {srvr:?}"))?;
    u64::from_str_radix(digits.trim(), 16).with_context(|| format!("{digits:?} is not a zxid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zxid_is_read() {
        assert_eq!(parse_zxid("Outstanding: 0\nZxid: 0x1a\nMode: standalone\n").unwrap(), 26);
        assert!(parse_zxid("This ZooKeeper instance is not currently serving requests\n").is_err());
    }

    #[test]
    fn a_choice_is_debians_or_somebodys() {
        assert_eq!("debian".parse(), Ok(Choice::Own(Kind::ZooKeeper)));
        assert_eq!("zk1:2181/a".parse(), Ok(Choice::Hosts("zk1:2181/a".to_owned())));
    }

    #[test]
    fn zookeeper_starts_stops_and_keeps_its_data() {
        assert!(
            zookeeper_installed() || !shell::require_all(),
            "ZooKeeper is missing: {}",
            crate::install::ZOOKEEPER_REMEDY
        );
        if !zookeeper_installed() {
            println!("skipped: no ZooKeeper here");
            return;
        }
        let dir = cluster::RunDir::create(&std::env::temp_dir()).unwrap();
        let interrupt = Interrupt::never();
        let mut server =
            Coordinator::prepare(Kind::ZooKeeper, Path::new("taskd"), dir.path().join("zookeeper")).unwrap();
        server.start(&interrupt).unwrap();
        assert_eq!(zxid(&server.address()).unwrap(), 0);
        server.stop().unwrap();
        assert!(zxid(&server.address()).is_err());
        server.start(&interrupt).unwrap();
        server.kill().unwrap();
        assert!(zxid(&server.address()).is_err());
    }
}
