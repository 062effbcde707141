//! Real nodes on loopback in front of a coordination service, and the command line that talks to them.
#![expect(dead_code, reason = "each test file is a crate of its own and uses part of this")]

pub(crate) mod node;
pub(crate) use node::{Node, NodeConfig, taskd};

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use testkit::{Coordinator, Proxy, until};

/// What the testkit's tick of 500 ms allows: a leader that is killed is replaced within 3 s.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Nodes `n1`, `n2`, … and their coordination service. The processes are killed when it is dropped, also by a panic, which
/// shows their logs.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    /// None if a node has its own.
    coordinator: Option<Coordinator>,
    pub(crate) dir: TempDir,
}

impl Cluster {
    /// Starts `count` nodes and waits until the cluster is healthy.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, |_| ()).await
    }

    /// The same, with the configuration of each node changed.
    pub(crate) async fn start_with(count: usize, change: impl Fn(&mut NodeConfig)) -> Self {
        Self::prepare(count, change).await.started().await
    }

    /// Configured, but no node is started.
    pub(crate) async fn prepare(count: usize, change: impl Fn(&mut NodeConfig)) -> Self {
        Self::configured(testkit::coordinator().await, count, change)
    }

    /// The same, with a coordination service that the test may stop.
    pub(crate) async fn prepare_own(count: usize) -> Self {
        Self::prepare_own_with(count, |_| ()).await
    }

    /// The same, with the configuration of each node changed.
    pub(crate) async fn prepare_own_with(count: usize, change: impl Fn(&mut NodeConfig)) -> Self {
        Self::configured(testkit::own_coordinator().await, count, change)
    }

    /// The same as [`prepare`](Self::prepare), each node behind a proxy of its own, in their order.
    pub(crate) async fn behind_proxies(count: usize, change: impl Fn(&mut NodeConfig)) -> (Self, Vec<Proxy>) {
        let coordinator = testkit::coordinator().await;
        let mut proxies = Vec::new();
        for _ in 0..count {
            proxies.push(Proxy::start(coordinator.hosts()).await);
        }
        let nth = std::cell::Cell::new(0);
        let cluster = Self::configured(coordinator, count, |config| {
            let hosts = proxies[nth.replace(nth.get() + 1)].hosts();
            let server = hosts.split('/').next().unwrap();
            config.set("coordination.hosts", &format!("{server:?}"));
            change(config);
        });
        (cluster, proxies)
    }

    /// One node that runs its own coordination service; not started.
    pub(crate) fn embedded(change: impl Fn(&mut NodeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = free_addresses(1).remove(0);
        let mut config = NodeConfig::embedded("n1", &address, &dir.path().join("n1"));
        change(&mut config);
        let nodes = vec![Node::new(config, dir.path())];
        Self { nodes, coordinator: None, dir }
    }

    pub(crate) fn coordinator(&self) -> &Coordinator {
        self.coordinator.as_ref().unwrap()
    }

    pub(crate) fn coordinator_mut(&mut self) -> &mut Coordinator {
        self.coordinator.as_mut().unwrap()
    }

    /// Starts every node and waits until the cluster is healthy.
    pub(crate) async fn started(mut self) -> Self {
        for node in &mut self.nodes {
            node.spawn();
        }
        self.healthy(self.nodes.len()).await;
        self
    }

    fn configured(coordinator: Coordinator, count: usize, change: impl Fn(&mut NodeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut nodes = Vec::new();
        for (index, address) in free_addresses(count).into_iter().enumerate() {
            let id = format!("n{}", index + 1);
            let mut config = NodeConfig::new(&id, &address, &coordinator.hosts(), &dir.path().join(&id));
            change(&mut config);
            nodes.push(Node::new(config, dir.path()));
        }
        Self { nodes, coordinator: Some(coordinator), dir }
    }

    /// Waits until a leader serves and sees `members` members, all of them well, as every running node sees it.
    pub(crate) async fn healthy(&self, members: usize) -> Value {
        let mut status = Value::Null;
        for node in self.nodes.iter().filter(|node| node.runs()) {
            let well = tokio::time::timeout(SOON, async {
                loop {
                    status = node.status().await.unwrap_or_default();
                    let listed = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
                    // The leader gives work to whom it has heard of.
                    let heard_of = listed.iter().all(|member| !member["slots"].is_null());
                    if status["health"] == "healthy" && listed.len() == members && heard_of {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
            let well = well.await.is_ok();
            assert!(well, "{} does not see a healthy cluster of {members}: {status:#}", node.id);
        }
        status
    }

    pub(crate) fn node(&self, id: &str) -> &Node {
        self.nodes.iter().find(|node| node.id == id).unwrap()
    }

    pub(crate) fn node_mut(&mut self, id: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.id == id).unwrap()
    }

    /// Name and epoch of the node that serves as leader, as `asked` sees it, once there is one.
    pub(crate) async fn leader(&self, asked: &Node) -> (String, u64) {
        until("a leader serves", SOON, async || {
            let status = asked.status().await?;
            let leader = &status["leader"];
            (leader["serving"] == true && status["health"] != "no_leader")
                .then(|| (leader["node"].as_str().unwrap().to_owned(), leader["epoch"].as_u64().unwrap()))
        })
        .await
    }

    /// The addresses of all nodes, as `--addr` wants them.
    pub(crate) fn addresses(&self) -> String {
        self.nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>().join(",")
    }

    /// The same, those of `first` first.
    pub(crate) fn addresses_from(&self, first: &str) -> String {
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.id != first);
        nodes.iter().map(|node| node.address.clone()).collect::<Vec<_>>().join(",")
    }

    /// Runs `taskd` against all nodes: `cli(&["task", "list"])`.
    pub(crate) async fn cli(&self, args: &[&str]) -> Ran {
        run_at(&self.addresses(), args).await
    }

    /// Submits a task that must be accepted, and returns its id.
    pub(crate) async fn submit(&self, args: &[&str]) -> String {
        let ran = self.cli(&[&["task", "submit"], args].concat()).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.stdout.trim().to_owned()
    }

    /// The task as `task show -o json` prints it.
    pub(crate) async fn task(&self, id: &str) -> Value {
        let ran = self.cli(&["task", "show", id, "-o", "json"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    }

    /// Waits until the task is in one of the `states` and returns it.
    pub(crate) async fn reaches(&self, id: &str, states: &[&str]) -> Value {
        let mut last = Value::Null;
        let reached = tokio::time::timeout(SOON, async {
            loop {
                let ran = self.cli(&["task", "show", id, "-o", "json"]).await;
                if ran.code == 0 {
                    last = ran.json();
                    if states.contains(&last["state"].as_str().unwrap()) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(reached.await.is_ok(), "task {id} never was {states:?}: {last:#}");
        last
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                node.show_log();
            }
        }
    }
}

/// Addresses that are free and stay so: the loopback address is this process's own.
pub(crate) fn free_addresses(count: usize) -> Vec<String> {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let own = Ipv4Addr::new(127, 64 | high, middle, low);
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind((own, 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON: {error}: {self:?}"))
    }

    /// Checks exit code and what stderr says.
    pub(crate) fn refused(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for text in says {
            assert!(self.stderr.contains(text), "should say {text:?}: {self:?}");
        }
    }
}

/// Runs `taskd GROUP --addr ADDRESS ARGS…`.
pub(crate) async fn run_at(address: &str, args: &[&str]) -> Ran {
    run(&[&args[..1], &["--addr", address], &args[1..]].concat()).await
}

/// Runs `taskd ARGS…`.
pub(crate) async fn run(args: &[&str]) -> Ran {
    let started = std::time::Instant::now();
    let output = tokio::process::Command::from(taskd(args)).kill_on_drop(true).output();
    let done = tokio::time::timeout(Duration::from_secs(60), output).await;
    let done = done.unwrap_or_else(|_| panic!("taskd {args:?} hangs")).unwrap();
    Ran {
        code: done.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        took: started.elapsed(),
    }
}

/// The processes whose command line has `text` in it, with their command lines.
pub(crate) fn processes_with(text: &str) -> Vec<(i32, String)> {
    let own = i32::try_from(std::process::id()).unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(cmdline) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
        if pid != own && cmdline.contains(text) {
            found.push((pid, cmdline));
        }
    }
    found
}

/// Waits until no process has `text` in its command line.
pub(crate) async fn none_left(text: &str, within: Duration) {
    until(&format!("every process with {text:?} is gone"), within, async || {
        processes_with(text).is_empty().then_some(())
    })
    .await;
}

/// The lines of a file that tasks append to.
pub(crate) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
