//! taskd's side: three nodes with two services between them, and three ZooKeeper servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ground::{FIRST, Ground, INTERFACE, PEOPLE, SECOND, VIPS};
use super::observer::Observer;
use super::page::Page;
use super::play::STEADY;
use super::scenario::GRACE;
use crate::history::Timing;
use crate::load::Client;
use crate::net::Net;
use crate::node::{self, Node, Program, Stopped};
use crate::sys::{self, Interrupt};
use crate::zookeeper::{self, Server};

/// The services' names; [`FIRST`] and [`SECOND`] are their addresses.
pub(crate) const SERVICES: [&str; 2] = ["iscsi", "management"];
/// A busy machine takes its time.
const WHOLE: Duration = Duration::from_secs(60);
/// Between two questions to the command line.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// For one command.
const PATIENCE: Duration = Duration::from_secs(10);
/// Its own promise, and what a busy machine adds to starting and reaping a process.
const STOP_MAX: Duration = Duration::from_millis(5_500);
/// What every node is told of virtual IPs; which there are is the cluster's.
const NODE_CONFIG: &str = "[vip]\nbackend = \"netlink\"\n";

/// Which of the two services the cluster's configuration has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Services {
    Both,
    /// The first one is there, but nobody is to hold it.
    FirstDisabled,
    OnlySecond,
}

impl Services {
    /// Opposite preferences. A hold-down that is over when the next fault comes.
    fn text(self) -> String {
        let list = |mask: u32| {
            let chosen = (0..VIPS.len()).filter(|vip| mask & (1 << vip) != 0).map(|vip| VIPS[vip]);
            let entry = |vip: std::net::IpAddr| {
                let prefix = if vip.is_ipv4() { 24 } else { 64 };
                format!("{{ address = \"{vip}/{prefix}\", interface = \"{INTERFACE}\" }}")
            };
            chosen.map(entry).collect::<Vec<_>>().join(", ")
        };
        let service = |index: usize, mask: u32, preferred: &str, more: &str| {
            format!(
                "[service.{}]\nvips = [{}]\npreferred = [{preferred}]\nhold_down = \"500ms\"\ntakeover_grace = \"{}ms\"\n{more}\n",
                SERVICES[index],
                list(mask),
                GRACE.as_millis(),
            )
        };
        let second = service(1, SECOND, "\"n2\", \"n1\"", "");
        let disabled = if self == Self::FirstDisabled { "enabled = false\n" } else { "" };
        match self {
            Self::OnlySecond => second,
            Self::Both | Self::FirstDisabled => service(0, FIRST, "\"n1\", \"n2\"", disabled) + &second,
        }
    }

    pub(crate) fn mask(self) -> u32 {
        if self == Self::Both { FIRST | SECOND } else { SECOND }
    }
}

/// A running cluster. Dropping it kills everything and removes the network.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) dir: PathBuf,
    pub(crate) timing: Timing,
    pub(crate) nodes: Vec<Node>,
    pub(crate) servers: Vec<Server>,
    pub(crate) client: Client,
    pub(crate) interrupt: Interrupt,
    pub(crate) services: Services,
    // After the processes.
    pub(crate) ground: Ground,
}

impl Cluster {
    /// Starts everything and applies the configuration; does not wait until somebody holds the addresses.
    pub(crate) fn start(
        ground: Ground,
        dir: &Path,
        taskd: &Path,
        timing: Timing,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let program = Program {
            taskd: taskd.to_owned(),
            drill: String::new(),
            faketime: None,
            config: NODE_CONFIG.to_owned(),
            // Real addresses need no more.
            unprivileged: true,
        };
        let mut servers: Vec<Server> = (1..=ground.servers.len())
            .map(|id| Server::prepare(dir, id, &ground.servers, timing.tick, 4))
            .collect::<Result<_>>()?;
        for server in &mut servers {
            server.start(&ground.net)?;
        }
        let connect: Vec<_> =
            servers.iter().map(|server| format!("{}:{}", server.address, zookeeper::PORT)).collect();
        let connect = connect.join(",");
        let nodes: Vec<Node> = ground
            .nodes
            .iter()
            .map(|(name, address)| Node::prepare(dir, &program, name, *address, &connect, timing))
            .collect::<Result<_>>()?;
        let client = Client {
            net: ground.net.clone(),
            taskd: program.taskd.clone(),
            host: PEOPLE.to_owned(),
            addresses: nodes.iter().map(|node| format!("{}:{}", node.address, node::PORT)).collect(),
        };
        let (dir, interrupt) = (dir.to_owned(), interrupt.clone());
        let services = Services::Both;
        let mut cluster = Self { dir, timing, nodes, servers, client, interrupt, services, ground };
        cluster.serving()?;
        let net = cluster.ground.net.clone();
        for node in &mut cluster.nodes {
            node.start(&net)?;
        }
        cluster.apply(Services::Both)?;
        Ok(cluster)
    }

    /// Waits until every ZooKeeper server serves.
    pub(crate) fn serving(&self) -> Result<()> {
        zookeeper::serving(&self.ground.net, PEOPLE, &self.servers, &self.interrupt)
    }

    pub(crate) fn net(&self) -> &Net {
        &self.ground.net
    }

    /// Gives the cluster another configuration, through whichever node answers.
    pub(crate) fn apply(&mut self, services: Services) -> Result<()> {
        let file = self.dir.join("services.toml");
        fs::write(&file, services.text())?;
        let file = file.to_string_lossy().into_owned();
        self.order(&["config", "apply", "--remove", &file])?;
        self.services = services;
        Ok(())
    }

    /// Has a node hold a service.
    pub(crate) fn r#move(&self, service: usize, node: usize) -> Result<()> {
        let name = &self.nodes[node].name;
        self.order(&["vip", "move", SERVICES[service], "--to", name])
    }

    /// Runs a command of the command line, again and again until it succeeds.
    fn order(&self, args: &[&str]) -> Result<()> {
        let mut last = String::new();
        let done = self.interrupt.until(WHOLE, || {
            let mut command = self.command(args);
            // The last words are for people.
            let done = sys::run(&mut command);
            Ok(done.map_err(|error| last = format!("{error:#}")).ok())
        })?;
        if done.is_none() {
            bail!("taskd {} failed for {WHOLE:?}: {last}", args.join(" "));
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        self.client.command(&self.client.addresses, args)
    }

    /// What people see, through whichever node answers.
    pub(crate) fn page(&self) -> Option<Page> {
        self.page_of(&self.client.addresses)
    }

    /// What the first of these that answers knows.
    pub(crate) fn page_of(&self, addresses: &[String]) -> Option<Page> {
        let (_, text) =
            sys::ask(&mut self.client.command(addresses, &["vip", "list", "-o", "json"]), PATIENCE)?;
        serde_json::from_str(&text).ok()
    }

    /// Waits until every node runs and may hold everything, and each service is held by one node and answers.
    pub(crate) fn whole(&mut self, eyes: &Observer) -> Result<Result<(), String>> {
        let (interrupt, mask) = (self.interrupt.clone(), self.services.mask());
        let mut last = String::from("nobody answered");
        let mut asked: Option<Instant> = None;
        let whole = interrupt.until(WHOLE, || {
            for node in &mut self.nodes {
                if let Some(status) = node.ended()? {
                    bail!("{} ended by itself ({status})", node.name);
                }
            }
            if let Some(trouble) = unheard(eyes, mask) {
                last = trouble;
                return Ok(None);
            }
            if asked.is_some_and(|at| at.elapsed() < ASK_EVERY) {
                return Ok(None);
            }
            let page = self.page();
            asked = Some(Instant::now());
            let Some(page) = page else { return Ok(None) };
            Ok(match page.trouble(&self.ground.node_names(), mask == (FIRST | SECOND)) {
                Some(trouble) => {
                    last = trouble;
                    None
                }
                None => Some(()),
            })
        })?;
        if whole.is_none()
            && let Some(page) = self.page()
        {
            last += &format!("; {}", page.words());
        }
        Ok(whole.ok_or(last))
    }

    /// Every process of a node; the daemon is one of them.
    fn pids(&self, node: usize) -> Vec<i32> {
        self.net().pids(&self.nodes[node].name)
    }

    /// SIGSTOP or SIGCONT for everything on a node.
    pub(crate) fn signal_all(&self, node: usize, signal: Signal) {
        for pid in self.pids(node) {
            // One that has just ended by itself is as good.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// `kill -9` of everything on a node, so that nobody of them sees another's end.
    pub(crate) fn kill_all(&mut self, node: usize) -> Result<()> {
        self.signal_all(node, Signal::SIGSTOP);
        self.signal_all(node, Signal::SIGKILL);
        self.nodes[node].kill()
    }

    /// SIGTERM, and what is wrong with how it ended.
    pub(crate) fn stop(&mut self, node: usize) -> Result<Vec<String>> {
        let net = self.ground.net.clone();
        let stopped = self.nodes[node].stop(&net)?;
        Ok(wrong_stop(&self.nodes[node].name, &stopped))
    }

    pub(crate) fn start_node(&mut self, node: usize) -> Result<()> {
        let net = self.ground.net.clone();
        self.nodes[node].start(&net)
    }

    /// Kills every ZooKeeper server.
    pub(crate) fn kill_servers(&mut self) -> Result<()> {
        // All of them before one is waited for.
        for server in &self.servers {
            server.signal(Signal::SIGKILL)?;
        }
        self.servers.iter_mut().try_for_each(Server::kill)
    }

    pub(crate) fn start_servers(&mut self) -> Result<()> {
        let net = self.ground.net.clone();
        self.servers.iter_mut().try_for_each(|server| server.start(&net))
    }

    /// How long the nodes' logs are now.
    pub(crate) fn log_lengths(&self) -> Vec<u64> {
        let length = |node: &Node| fs::metadata(self.log(node)).map_or(0, |meta| meta.len());
        self.nodes.iter().map(length).collect()
    }

    /// What the nodes have logged since they were that long.
    pub(crate) fn logged_since(&self, lengths: &[u64]) -> String {
        let since = |(node, length): (&Node, &u64)| {
            let text = fs::read(self.log(node)).unwrap_or_default();
            let from = usize::try_from(*length).unwrap_or(usize::MAX).min(text.len());
            format!("== {}\n{}", node.name, String::from_utf8_lossy(&text[from..]))
        };
        self.nodes.iter().zip(lengths).map(since).collect()
    }

    fn log(&self, node: &Node) -> PathBuf {
        self.dir.join(format!("{}.log", node.name))
    }

    /// Stops every node at the same time; what is wrong with how they ended.
    pub(crate) fn stop_everything(&mut self) -> Result<Vec<String>> {
        let (net, begun, at_ns) = (self.ground.net.clone(), Instant::now(), sys::boot_ns());
        for node in &self.nodes {
            node.signal(Signal::SIGTERM).context("in the end")?;
        }
        let mut wrong = Vec::new();
        for node in &mut self.nodes {
            let stopped = node.wait(&net, at_ns, begun)?;
            wrong.extend(wrong_stop(&node.name, &stopped));
        }
        Ok(wrong)
    }
}

/// Which of these addresses does not steadily answer, or is not on exactly one node.
fn unheard(eyes: &Observer, mask: u32) -> Option<String> {
    let chosen = (0..VIPS.len()).filter(|vip| mask & (1 << vip) != 0);
    for vip in chosen {
        let owners = eyes.owners(vip);
        if owners.len() != 1 {
            return Some(format!("{} is on {owners:?}", VIPS[vip]));
        }
        if super::ground::ASKED.contains(&vip) && eyes.steady(vip, STEADY).is_none() {
            return Some(format!("{} does not steadily answer", VIPS[vip]));
        }
    }
    None
}

fn wrong_stop(name: &str, stopped: &Stopped) -> Vec<String> {
    let mut wrong = Vec::new();
    if stopped.took > STOP_MAX {
        wrong.push(format!("{name} took {:.2?} to stop", stopped.took));
    }
    if !stopped.status.is_some_and(|status| status.success()) {
        wrong.push(format!("{name} ended with {:?}", stopped.status));
    }
    if !stopped.left.is_empty() {
        wrong.push(format!("{name} left processes: {}", stopped.left.join(", ")));
    }
    wrong
}
