//! A standalone ZooKeeper of our own: Debian's jars, a folder, a port on loopback.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::run::cluster;
use crate::shell::{self, Interrupt};

/// The server; its manifest names the other jars that it needs.
pub(crate) const JAR: &str = "/usr/share/java/zookeeper.jar";
/// Sends its log to standard error.
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
/// With 2 s a session times out after 4 s at the earliest.
const TICK_MS: u32 = 2_000;
/// Enough for the log's segments, which ZooKeeper keeps in memory up to three times.
const HEAP: &str = "-Xmx512m";

/// Whether it could be started here.
pub(crate) fn installed() -> bool {
    Path::new(JAR).exists() && shell::succeeds(Command::new("java").arg("-version"))
}

/// The server process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct ZooKeeper {
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl ZooKeeper {
    /// Prepares one that keeps its data under `dir`; does not start it.
    pub(crate) fn prepare(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("failed to create {}", dir.display()))?;
        let port = cluster::free_port()?;
        let config = dir.join("zoo.cfg");
        fs::write(&config, zoo_cfg(&dir, port))
            .with_context(|| format!("failed to write {}", config.display()))?;
        Ok(Self { dir, port, child: None })
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where its log goes.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("zookeeper.log")
    }

    /// Starts it, on the data that it left, and waits until it answers.
    pub(crate) fn start(&mut self, interrupt: &Interrupt) -> Result<()> {
        let log =
            File::options().create(true).append(true).open(self.log()).context("failed to open its log")?;
        let mut command = cluster::tied_to_us("java", Signal::SIGKILL);
        command
            .args(["-Xms64m", HEAP, "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=info"])
            .args(["-cp", &format!("{JAR}:{LOGGER}"), "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(self.dir.join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.child = Some(command.spawn().context("failed to start java")?);
        shell::poll("an answer from ZooKeeper", Duration::from_secs(30), interrupt, || {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                bail!("ZooKeeper ended ({}):\n{}", status?, super::logs::tail(&self.log(), 15));
            }
            // It says imok to ruok before it serves.
            Ok(zxid(&self.address()).ok().map(drop))
        })
    }

    /// Ends it as a pulled plug would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("failed to kill ZooKeeper")?;
            child.wait()?;
        }
        Ok(())
    }

    /// Ends it in an orderly way.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take()
            && shell::stop(&mut child, Duration::from_secs(5))?.killed
        {
            eprintln!("warning: ZooKeeper did not end within 5 s of SIGTERM and was killed");
        }
        Ok(())
    }
}

impl Drop for ZooKeeper {
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

/// One of ZooKeeper's four-letter words.
pub(crate) fn ask(address: &str, word: &str) -> Result<String> {
    let address = address.to_socket_addrs().ok().and_then(|mut found| found.next());
    let address = address.context("ZooKeeper's address cannot be resolved")?;
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

fn parse_zxid(srvr: &str) -> Result<u64> {
    let line = srvr.lines().find_map(|line| line.strip_prefix("Zxid: 0x"));
    let digits = line.with_context(|| format!("ZooKeeper's answer to srvr has no zxid: {srvr:?}"))?;
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
    fn zookeeper_starts_stops_and_keeps_its_data() {
        assert!(
            installed() || !shell::require_all(),
            "ZooKeeper is missing: {}",
            crate::install::ZOOKEEPER_REMEDY
        );
        if !installed() {
            println!("skipped: no ZooKeeper here");
            return;
        }
        let dir = cluster::RunDir::create(&std::env::temp_dir()).unwrap();
        let interrupt = Interrupt::never();
        let mut server = ZooKeeper::prepare(dir.path().join("zookeeper")).unwrap();
        server.start(&interrupt).unwrap();
        assert_eq!(zxid(&server.address()).unwrap(), 0);
        server.stop().unwrap();
        assert!(zxid(&server.address()).is_err());
        server.start(&interrupt).unwrap();
        server.kill().unwrap();
        assert!(zxid(&server.address()).is_err());
    }
}
