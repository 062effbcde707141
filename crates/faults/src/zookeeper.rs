//! Three of Debian's ZooKeeper servers, one per host.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::net::Net;
use crate::sys::Interrupt;

/// Debian's server; its manifest names the other jars that it needs.
pub(crate) const JAR: &str = "/usr/share/java/zookeeper.jar";
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
/// Where clients connect; each server has a network of its own.
pub(crate) const PORT: u16 = 2281;
/// A JVM on a busy machine takes its time.
const STARTED: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_millis(400);

/// What a server is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Leader,
    Follower,
}

/// One server. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) address: Ipv4Addr,
    dir: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Writes its configuration; starts nothing. `peers` are all servers, in the order of their ids.
    pub(crate) fn prepare(
        dir: &Path,
        id: usize,
        peers: &[(String, Ipv4Addr)],
        tick: Duration,
        sync_limit: u32,
    ) -> Result<Self> {
        let (host, address) = peers.get(id - 1).context("a server without an address")?.clone();
        let dir = dir.join(&host);
        fs::create_dir_all(&dir)?;
        let servers: String =
            (1..).zip(peers).map(|(id, (_, at))| format!("server.{id}={at}:2888:3888\n")).collect();
        let config = format!(
            "tickTime={}\ndataDir={}\nclientPort={PORT}\nclientPortAddress={address}\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\ninitLimit=20\nsyncLimit={sync_limit}\n{servers}",
            tick.as_millis(),
            dir.display(),
        );
        fs::write(dir.join("zoo.cfg"), config)?;
        fs::write(dir.join("myid"), id.to_string())?;
        Ok(Self { host, address, dir, child: None })
    }

    /// Starts it, on what data it has; does not wait.
    pub(crate) fn start(&mut self, net: &Net) -> Result<()> {
        if self.child.is_some() {
            bail!("{} runs already", self.host);
        }
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let child = net
            .command(&self.host, "java")
            .args(["-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"])
            .args(["-Dzookeeper.jmx.log4j.disable=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])
            .args(["-Dorg.slf4j.simpleLogger.showDateTime=true"])
            .args(["-cp", &format!("{JAR}:{LOGGER}"), MAIN])
            .arg(self.dir.join("zoo.cfg"))
            .env_remove("JAVA_TOOL_OPTIONS")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("failed to start ZooKeeper")?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.host))?;
        kill(Pid::from_raw(child.id().cast_signed()), signal)
            .with_context(|| format!("failed to send {signal} to {}", self.host))
    }

    /// `kill -9`, if it runs.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The end of its log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its host goes with it, and what is left there.
        let _ = self.kill();
    }
}

/// What each server says it is now; `None` does not answer, or does not serve. Asked from the host `from`.
pub(crate) fn roles(net: &Net, from: &str, servers: &[Ipv4Addr]) -> Result<Vec<Option<Role>>> {
    let said = srvr(net, from, servers)?;
    Ok(said.iter().map(|answer| role(answer.as_deref()?)).collect())
}

/// The epoch in which ZooKeeper is led now, by what the server that leads says; `None` if nobody says so.
pub(crate) fn epoch(net: &Net, from: &str, servers: &[Ipv4Addr]) -> Option<u64> {
    let said = srvr(net, from, servers).ok()?;
    let led = said.iter().flatten().filter(|answer| role(answer) == Some(Role::Leader));
    led.filter_map(|answer| epoch_of(answer)).max()
}

/// What each server answers to `srvr`.
fn srvr(net: &Net, from: &str, servers: &[Ipv4Addr]) -> Result<Vec<Option<String>>> {
    net.on(from, || {
        // Each has its own time: a stopped one must not hide the others. Threads inherit the namespace.
        thread::scope(|scope| {
            let asked: Vec<_> = servers.iter().map(|address| scope.spawn(|| ask(*address))).collect();
            asked.into_iter().map(|asked| asked.join().unwrap_or_default()).collect()
        })
    })
}

fn ask(address: Ipv4Addr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((address, PORT)), ANSWER).ok()?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.write_all(b"srvr").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn role(answer: &str) -> Option<Role> {
    match answer.split_once("Mode: ")?.1.split_whitespace().next()? {
        "leader" => Some(Role::Leader),
        "follower" => Some(Role::Follower),
        _ => None,
    }
}

/// The high half of the transaction id, which each election makes one more.
fn epoch_of(answer: &str) -> Option<u64> {
    let zxid = answer.split_once("Zxid: 0x")?.1.split_whitespace().next()?;
    u64::from_str_radix(zxid, 16).ok().map(|zxid| zxid >> 32)
}

/// Waits until every server serves.
pub(crate) fn serving(net: &Net, from: &str, servers: &[Server], interrupt: &Interrupt) -> Result<()> {
    let addresses: Vec<Ipv4Addr> = servers.iter().map(|server| server.address).collect();
    let all = interrupt.until(STARTED, || {
        let roles = roles(net, from, &addresses)?;
        let led = roles.iter().filter(|role| **role == Some(Role::Leader)).count() == 1;
        Ok((led && roles.iter().all(Option::is_some)).then_some(()))
    })?;
    if all.is_none() {
        let said: Vec<_> =
            servers.iter().map(|server| format!("{}: {}", server.host, server.last_words())).collect();
        bail!("ZooKeeper does not serve after {STARTED:?}:\n{}", said.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_and_epoch_are_read_from_what_srvr_says() {
        let said =
            "Zookeeper version: 3.8.0\nOutstanding: 0\nZxid: 0x1a00000007\nMode: leader\nNode count: 5\n";
        assert_eq!((role(said), epoch_of(said)), (Some(Role::Leader), Some(0x1a)));
        let said = "This ZooKeeper instance is not currently serving requests\n";
        assert_eq!((role(said), epoch_of(said)), (None, None));
    }
}
