//! Debian's ZooKeeper as child processes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{ports, until};

const JAR: &str = "/usr/share/java/zookeeper.jar";
const LOGGER: &str = "/usr/share/java/slf4j-simple.jar";
const MAIN: &str = "org.apache.zookeeper.server.quorum.QuorumPeerMain";

/// A JVM on a busy machine takes its time.
const STARTED: Duration = Duration::from_secs(60);
const STOPPED: Duration = Duration::from_secs(20);

/// Starts a server, tells its process id, and kills it when its standard input ends: with us, however we end.
const WARDEN: &str = r#""$@" </dev/null >>"$LOG" 2>&1 & echo $!; read -r _; kill -KILL $! 2>/dev/null; wait"#;

/// Why ZooKeeper cannot be started here, if it cannot.
pub fn missing() -> Option<String> {
    if !Path::new(JAR).exists() {
        return Some(format!("{JAR} is missing: apt-get install zookeeper"));
    }
    let java = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("java").exists()));
    (!java).then(|| "java is missing: apt-get install default-jre-headless".to_owned())
}

/// How to start a server.
#[derive(Clone, Copy, Debug)]
pub struct Zoo {
    /// `tickTime`: sessions may last 2 to 20 of them.
    pub tick: Duration,
    /// The address that clients connect to.
    pub address: Ipv4Addr,
}

impl Default for Zoo {
    /// A tick of 500 ms: sessions of 1 to 10 s; on 127.0.0.1.
    fn default() -> Self {
        Self { tick: Duration::from_millis(500), address: Ipv4Addr::LOCALHOST }
    }
}

/// One server, on a loopback port unless told otherwise, with its data in a temporary directory. It is killed when this
/// is dropped, and when this process ends.
#[derive(Debug)]
pub struct ZooKeeper {
    dir: TempDir,
    address: SocketAddrV4,
    process: Option<Process>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    warden: Child,
}

impl ZooKeeper {
    /// Starts a standalone server with the defaults and waits until it serves.
    ///
    /// # Panics
    /// It does not serve within a minute.
    pub async fn start() -> Self {
        Self::start_with(Zoo::default()).await
    }

    /// Starts a standalone server and waits until it serves.
    ///
    /// # Panics
    /// It does not serve within a minute.
    pub async fn start_with(zoo: Zoo) -> Self {
        let mut tries = 0;
        loop {
            let [port] = ports::free(zoo.address);
            let mut server = Self::prepare(zoo, port, "", None);
            server.spawn().await;
            tries += 1;
            match server.serving().await {
                Ok(()) => return server,
                // Somebody may have taken the port meanwhile.
                Err(log) if tries < 3 => eprintln!("ZooKeeper ended, trying another port: {log}"),
                Err(log) => panic!("ZooKeeper ended: {log}"),
            }
        }
    }

    /// Starts an ensemble with the defaults and waits until each of its servers serves.
    ///
    /// # Panics
    /// They do not serve within a minute.
    pub async fn start_ensemble(servers: usize) -> Ensemble {
        Ensemble::start(servers).await
    }

    fn prepare(zoo: Zoo, port: u16, peers: &str, id: Option<usize>) -> Self {
        let dir = tempfile::Builder::new().prefix("zookeeper-").tempdir().expect("a temporary directory");
        let config = format!(
            "tickTime={}\ndataDir={}\nclientPort={port}\nclientPortAddress={}\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\ninitLimit=20\nsyncLimit=4\n{peers}",
            zoo.tick.as_millis(),
            dir.path().display(),
            zoo.address,
        );
        std::fs::write(dir.path().join("zoo.cfg"), config).expect("the configuration can be written");
        if let Some(id) = id {
            std::fs::write(dir.path().join("myid"), id.to_string()).expect("the id can be written");
        }
        Self { dir, address: SocketAddrV4::new(zoo.address, port), process: None }
    }

    /// The connect string of this server.
    pub fn hosts(&self) -> String {
        self.address.to_string()
    }

    /// What the server has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Starts it after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port with the same data.
    ///
    /// # Panics
    /// It runs already, or does not serve within a minute.
    pub async fn start_again(&mut self) {
        self.spawn().await;
        if let Err(log) = self.serving().await {
            panic!("ZooKeeper ended: {log}");
        }
    }

    async fn spawn(&mut self) {
        assert!(self.process.is_none(), "the server runs already");
        let mut warden = Command::new("sh")
            .args(["-c", WARDEN, "sh", "java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .args(["-Dzookeeper.jmx.log4j.disable=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"])
            .args(["-cp", &format!("{JAR}:{LOGGER}"), MAIN])
            .arg(self.dir.path().join("zoo.cfg"))
            .env("LOG", self.log_path())
            .env_remove("JAVA_TOOL_OPTIONS")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh can be started");
        let stdout = warden.stdout.take().expect("stdout is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await.expect("the server's process id can be read");
        let pid = Pid::from_raw(line.trim().parse().expect("the first line is a process id"));
        self.process = Some(Process { pid, warden });
    }

    /// Waits until it serves; its log, if it ends instead.
    async fn serving(&self) -> Result<(), String> {
        until("ZooKeeper serves", STARTED, async || {
            if !self.runs() {
                return Some(Err(self.log()));
            }
            self.ask("srvr").await.is_some_and(|answer| answer.contains("Mode: ")).then_some(Ok(()))
        })
        .await
    }

    /// The answer to a four-letter word, if the server gives one within a second.
    pub async fn ask(&self, word: &str) -> Option<String> {
        crate::ask(self.address.into(), word).await
    }

    /// Ends it with SIGTERM and waits.
    ///
    /// # Panics
    /// It does not end.
    pub async fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let stopped = until("ZooKeeper stops", STOPPED, async || (!self.runs()).then_some(()));
        stopped.await;
        self.reap().await;
    }

    /// Ends it with SIGKILL and waits.
    ///
    /// # Panics
    /// It does not run.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.reap().await;
    }

    async fn reap(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        drop(process.warden.stdin.take());
        tokio::time::timeout(STOPPED, process.warden.wait())
            .await
            .expect("it ends")
            .expect("it can be waited for");
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    ///
    /// # Panics
    /// It does not run.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// It does not run.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        match kill(process.pid, signal) {
            // The warden has not waited for it, so the id is still its own.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("failed to signal ZooKeeper: {error}"),
        }
    }

    fn runs(&self) -> bool {
        let Some(process) = &self.process else { return false };
        // "pid (name) state …": a zombie has ended.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid));
        stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with('Z'))
    }
}

impl Drop for ZooKeeper {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // The warden reaps it as soon as its standard input ends, which is when this value is gone.
            let _ = kill(process.pid, Signal::SIGKILL);
        }
    }
}

/// Several servers that elect a leader.
#[derive(Debug)]
pub struct Ensemble {
    /// The servers, in the order of their ids, which start at 1.
    pub servers: Vec<ZooKeeper>,
}

impl Ensemble {
    /// Starts `servers` servers and waits until each of them serves.
    ///
    /// # Panics
    /// They do not within a minute.
    pub async fn start(servers: usize) -> Self {
        Self::start_with(Zoo::default(), servers).await
    }

    /// As [`Ensemble::start`], with settings.
    ///
    /// # Panics
    /// They do not serve within a minute.
    pub async fn start_with(zoo: Zoo, servers: usize) -> Self {
        let ports: Vec<[u16; 3]> = (0..servers).map(|_| ports::free(Ipv4Addr::LOCALHOST)).collect();
        let peers: String = ports
            .iter()
            .enumerate()
            .map(|(index, [_, peer, election])| format!("server.{}=127.0.0.1:{peer}:{election}\n", index + 1))
            .collect();
        let mut started = Vec::with_capacity(servers);
        for (index, [port, ..]) in ports.iter().enumerate() {
            let mut server = ZooKeeper::prepare(zoo, *port, &peers, Some(index + 1));
            server.spawn().await;
            started.push(server);
        }
        let ensemble = Self { servers: started };
        ensemble.serving().await;
        ensemble
    }

    /// The connect string of all servers.
    pub fn hosts(&self) -> String {
        self.servers.iter().map(ZooKeeper::hosts).collect::<Vec<_>>().join(",")
    }

    /// Starts all servers after [`stop`](Self::stop) or [`kill`](Self::kill).
    ///
    /// # Panics
    /// They do not serve within a minute.
    pub async fn start_again(&mut self) {
        // None serves before a majority is there.
        for server in &mut self.servers {
            server.spawn().await;
        }
        self.serving().await;
    }

    /// Ends all servers with SIGTERM and waits.
    ///
    /// # Panics
    /// One does not end.
    pub async fn stop(&mut self) {
        // All at once: no majority goes on in between.
        for server in &self.servers {
            server.signal(Signal::SIGTERM);
        }
        for server in &mut self.servers {
            server.stop().await;
        }
    }

    /// Ends all servers with SIGKILL and waits.
    ///
    /// # Panics
    /// One does not run.
    pub async fn kill(&mut self) {
        for server in &self.servers {
            server.signal(Signal::SIGKILL);
        }
        for server in &mut self.servers {
            server.reap().await;
        }
    }

    /// SIGSTOP for all servers: connections stay open, nothing is answered.
    ///
    /// # Panics
    /// One does not run.
    pub fn pause(&self) {
        self.servers.iter().for_each(ZooKeeper::pause);
    }

    /// SIGCONT for all servers.
    ///
    /// # Panics
    /// One does not run.
    pub fn resume(&self) {
        self.servers.iter().for_each(ZooKeeper::resume);
    }

    async fn serving(&self) {
        for server in &self.servers {
            if let Err(log) = server.serving().await {
                panic!("ZooKeeper ended: {log}");
            }
        }
    }

    /// The index in `servers` of the one that leads now.
    ///
    /// # Panics
    /// None leads within a minute.
    pub async fn leader(&self) -> usize {
        until("the ensemble has a leader", STARTED, async || {
            for (index, server) in self.servers.iter().enumerate() {
                if server.runs()
                    && server.ask("srvr").await.is_some_and(|answer| answer.contains("Mode: leader"))
                {
                    return Some(index);
                }
            }
            None
        })
        .await
    }
}
