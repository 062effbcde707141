//! N taskd processes and their coordination service on loopback: started, killed, restarted, and always cleaned up.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::{Client, Status};
use super::coordinator::{Choice, Coordinator, Kind};
use super::logs::{self, Follower};
use crate::install;
use crate::shell::{self, Interrupt};
use crate::workspace::{Profile, Workspace};

/// A node's own promise is 5 s; after this it is killed, loudly.
const STOP_WITHIN: Duration = Duration::from_secs(6);

/// Which cluster to start.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: u16,
    pub(crate) base_port: u16,
    pub(crate) coordination: Choice,
    pub(crate) profile: Profile,
    /// Attempts that a node runs at a time.
    pub(crate) slots: u32,
    /// Bytes that the live task log may take, where the default is not enough.
    pub(crate) log_bytes_budget: Option<u64>,
    pub(crate) ready_within: Duration,
}

/// A folder of this run's own. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    keep: bool,
}

impl RunDir {
    /// Creates `BASE/PID-N`.
    pub(crate) fn create(base: &Path) -> Result<Self> {
        fs::create_dir_all(base).with_context(|| format!("failed to create {}", base.display()))?;
        for n in 0..1_000 {
            let path = base.join(format!("{}-{n}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self { path, keep: false }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("failed to create {}", path.display()));
                }
            }
        }
        bail!("{} is full of folders of earlier runs: remove it", base.display())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("kept until the next run: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("warning: failed to remove {}: {error}", self.path.display());
        }
    }
}

/// One node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: String,
    child: Option<Child>,
}

/// The running cluster. Dropping it kills what still runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    program: PathBuf,
    nodes: Vec<Node>,
    /// Hosts and root.
    coordination: String,
    coordinator: Option<Coordinator>,
    // Last, so that everything in it has ended when it is removed.
    dir: RunDir,
}

impl Cluster {
    /// Builds taskd, starts everything and waits until every node is a member and a leader serves.
    pub(crate) fn start(workspace: &Workspace, plan: &Plan, interrupt: &Interrupt) -> Result<Self> {
        let mut cluster = Self::prepare(workspace, plan, interrupt)?;
        let start = || -> Result<()> {
            for index in 0..cluster.nodes.len() {
                cluster.start_node(index)?;
            }
            cluster.wait_ready(plan.ready_within, interrupt)
        }();
        match start {
            Ok(()) => Ok(cluster),
            Err(error) if interrupt.is_set() => {
                // A node that was hardly there yet ends by the signal itself, which is no news here.
                let _ = cluster.stop();
                cluster.dir.keep = false;
                Err(error)
            }
            Err(error) => {
                cluster.keep_files();
                Err(error)
            }
        }
    }

    /// Builds taskd and starts the coordination service, but no node yet.
    pub(crate) fn prepare(workspace: &Workspace, plan: &Plan, interrupt: &Interrupt) -> Result<Self> {
        let ports: Vec<u16> = (0..plan.nodes).map(|n| plan.base_port.saturating_add(n)).collect();
        for port in &ports {
            if TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err() {
                bail!(
                    "port {port} on 127.0.0.1 is taken, maybe by another cluster: stop that, or use --base-port"
                );
            }
        }
        if plan.coordination == Choice::Own(Kind::ZooKeeper) {
            install::zookeeper()?;
        }
        let built = workspace.build_taskd(plan.profile);
        // Ctrl-C ends cargo too, which is not what the person wants to read about.
        interrupt.check()?;
        let program = built?;
        let runs = workspace.target.join("run");
        sweep(&runs);
        let dir = RunDir::create(&runs)?;
        let (coordinator, coordination) = match &plan.coordination {
            Choice::Hosts(hosts) => (None, hosts.clone()),
            Choice::Own(kind) => {
                let folder = dir.path().join(kind.name().to_lowercase());
                let mut server = Coordinator::prepare(*kind, &program, folder)?;
                server.start(interrupt)?;
                let address = server.address();
                (Some(server), address)
            }
        };
        let mut nodes = Vec::new();
        for (port, n) in ports.into_iter().zip(1..) {
            let name = format!("n{n}");
            fs::write(dir.path().join(format!("{name}.toml")), node_config(plan))
                .context("failed to write a node's file")?;
            nodes.push(Node { name, address: format!("127.0.0.1:{port}"), child: None });
        }
        Ok(Self { program, nodes, coordination, coordinator, dir })
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// This run's folder.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// From now on the run's folder outlives it.
    pub(crate) fn keep_files(&mut self) {
        self.dir.keep = true;
    }

    /// The coordination service's hosts (and root).
    pub(crate) fn coordination(&self) -> &str {
        &self.coordination
    }

    /// Our own coordination service, if it is.
    pub(crate) fn coordinator(&mut self) -> Result<&mut Coordinator> {
        self.coordinator.as_mut().context(
            "this kills the coordination service, so it needs one of its own: leave out --zookeeper, or use \
             --zookeeper debian",
        )
    }

    /// What people call the coordination service.
    pub(crate) fn coordinator_name(&self) -> &'static str {
        self.coordinator.as_ref().map_or(Kind::ZooKeeper, Coordinator::kind).name()
    }

    /// What coordinates this cluster, and what that means.
    pub(crate) fn coordination_line(&self) -> String {
        let hosts = &self.coordination;
        match self.coordinator.as_ref().map(Coordinator::kind) {
            Some(Kind::Keeper) => {
                format!("coordination: the keeper at {hosts}: one machine, not highly available")
            }
            Some(Kind::ZooKeeper) => format!(
                "coordination: Debian's ZooKeeper at {hosts}, a single server: one machine, not highly available"
            ),
            None => format!("coordination: ZooKeeper at {hosts}"),
        }
    }

    /// A client of every node.
    pub(crate) fn client(&self) -> Client {
        self.client_of(|_| true)
    }

    /// A client of those nodes that `wanted` picks.
    pub(crate) fn client_of(&self, wanted: impl Fn(&Node) -> bool) -> Client {
        let addresses: Vec<String> =
            self.nodes.iter().filter(|node| wanted(node)).map(|node| node.address.clone()).collect();
        Client::new(self.program.clone(), &addresses)
    }

    pub(crate) fn index_of(&self, name: &str) -> Result<usize> {
        let found = self.nodes.iter().position(|node| node.name == name);
        found.with_context(|| format!("{name} is not one of this cluster's nodes"))
    }

    /// The command that starts a node on these coordination hosts; without any it has a keeper inside.
    pub(crate) fn serve_command(&self, index: usize, coordination: Option<&str>) -> Result<Command> {
        let node = self.nodes.get(index).context("no such node")?;
        let log = File::options().create(true).append(true).open(self.log(&node.name))?;
        let mut command = tied_to_us(&self.program, Signal::SIGTERM);
        without_settings(&mut command);
        command
            .arg("serve")
            .arg("--config")
            .arg(self.dir.path().join(format!("{}.toml", node.name)))
            .args(["--node-id", &node.name, "--listen", &node.address])
            .arg("--data-dir")
            .arg(self.data_dir(&node.name))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        match coordination {
            Some(hosts) => command.args(["--coordination", hosts]),
            None => command.arg("--embedded").env("TASKD_COORDINATION__EMBEDDED_LISTEN", "127.0.0.1:0"),
        };
        Ok(command)
    }

    /// Starts a node that does not run.
    pub(crate) fn start_node(&mut self, index: usize) -> Result<()> {
        let mut command = self.serve_command(index, Some(&self.coordination))?;
        let child = command.spawn().with_context(|| format!("failed to start {}", self.program.display()))?;
        self.nodes[index].child = Some(child);
        Ok(())
    }

    /// `kill -9` of a node's daemon.
    pub(crate) fn kill_node(&mut self, index: usize) -> Result<()> {
        let node = self.nodes.get_mut(index).context("no such node")?;
        let mut child = node.child.take().with_context(|| format!("{} does not run", node.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// A node's process.
    pub(crate) fn pid(&self, index: usize) -> Option<u32> {
        self.nodes.get(index)?.child.as_ref().map(Child::id)
    }

    /// Waits until every started node is a member, a leader serves, and all is well.
    pub(crate) fn wait_ready(&mut self, within: Duration, interrupt: &Interrupt) -> Result<()> {
        let client = self.client();
        let mut last = String::from("no node answered");
        let ready = shell::poll("a healthy cluster", within, interrupt, || {
            if let Some((name, status)) = self.ended()?.into_iter().next() {
                bail!("{name} ended ({status}) before it was ready:\n{}", logs::tail(&self.log(&name), 15));
            }
            let started = self.nodes.iter().filter(|node| node.child.is_some()).count();
            match client.status() {
                Ok(status) if status.health == "healthy" && status.members.len() >= started => Ok(Some(())),
                Ok(status) => {
                    last = format!("{} ({} of {started} members)", status.summary, status.members.len());
                    Ok(None)
                }
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        ready.with_context(|| format!("the cluster did not get ready; last seen: {last}"))
    }

    /// Nodes that have ended although nobody told them to; each is named once.
    pub(crate) fn ended(&mut self) -> Result<Vec<(String, ExitStatus)>> {
        let mut ended = Vec::new();
        for node in &mut self.nodes {
            if let Some(child) = &mut node.child
                && let Some(status) = child.try_wait()?
            {
                node.child = None;
                ended.push((node.name.clone(), status));
            }
        }
        Ok(ended)
    }

    /// Who leads, where the nodes are, and what to type next.
    pub(crate) fn welcome(&self) -> Result<String> {
        let status = self.client().status()?;
        let mut text = format!("\n{}\n{}\n", status.summary, self.coordination_line());
        for member in &status.members {
            let leads = status.leader.as_ref().is_some_and(|leader| leader.node == member.node);
            let _ = writeln!(
                text,
                "  {}  {}{}",
                member.node,
                member.address,
                if leads { "  leader" } else { "" }
            );
        }
        let bin = self.program.parent().unwrap_or(Path::new("."));
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.address.as_str()).collect();
        let _ = write!(
            text,
            "\nTry, in another terminal:\n  export PATH={}:$PATH TASKD_ADDR={}\n  taskd cluster status\n  \
             taskd task submit --wait -- sha256sum /etc/os-release\n  taskd task list\n\nCtrl-C stops everything.\n\n",
            bin.display(),
            addresses.join(",")
        );
        Ok(text)
    }

    /// Follows the logs of the keeper and of every node.
    pub(crate) fn follower(&self) -> Follower {
        let nodes = self.nodes.iter().map(|node| (node.name.clone(), self.log(&node.name)));
        // ZooKeeper talks a lot, and not about this cluster.
        let keeper = self.coordinator.iter().filter(|server| server.kind() == Kind::Keeper);
        let keeper = keeper.map(|server| (server.name().to_owned(), server.log()));
        Follower::new(keeper.chain(nodes), logs::colours())
    }

    /// Waits until the members are exactly as expected by `accept`.
    pub(crate) fn wait_status(
        &self,
        what: &str,
        client: &Client,
        within: Duration,
        interrupt: &Interrupt,
        mut accept: impl FnMut(&Status) -> bool,
    ) -> Result<Status> {
        shell::poll(what, within, interrupt, || Ok(client.status().ok().filter(|status| accept(status))))
    }

    /// Ends all nodes at once, then the coordination service, and looks for anything that was left. Says how it went; fails when
    /// something had to be killed.
    pub(crate) fn stop(&mut self) -> Result<String> {
        let mut report = String::new();
        let mut dead = Vec::new();
        let mut unclean = Vec::new();
        let start = Instant::now();
        for node in &self.nodes {
            if let Some(child) = &node.child {
                // One that has just ended by itself is reported below.
                let _ = shell::signal(child, Signal::SIGTERM);
            }
        }
        for node in &mut self.nodes {
            let name = &node.name;
            let Some(mut child) = node.child.take() else {
                dead.push(name.clone());
                continue;
            };
            match shell::wait(&mut child, STOP_WITHIN.saturating_sub(start.elapsed()))? {
                Some(status) => {
                    let _ = writeln!(
                        report,
                        "{name} stopped after {:.2} s ({status})",
                        start.elapsed().as_secs_f64()
                    );
                    if !status.success() {
                        unclean.push(format!("{name} ended with {status}"));
                    }
                }
                None => {
                    child.kill()?;
                    child.wait()?;
                    unclean.push(format!("{name} did not stop within {STOP_WITHIN:?} and was killed"));
                }
            }
        }
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.stop()?;
            let _ = writeln!(report, "{} stopped", coordinator.name());
        }
        for name in dead {
            // Its shims outlive a killed daemon on purpose, until their own deadline.
            for process in kill_below(&self.data_dir(&name)) {
                let _ = writeln!(
                    report,
                    "killed: process {} ({}) of {name}, whose daemon had ended",
                    process.pid, process.command
                );
            }
        }
        for process in kill_below(self.dir.path()) {
            unclean.push(format!("left behind and killed: process {} ({})", process.pid, process.command));
        }
        if !unclean.is_empty() {
            self.keep_files();
            bail!("{report}the cluster did not stop cleanly:\n  {}", unclean.join("\n  "));
        }
        Ok(report)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        self.coordinator = None;
        kill_below(self.dir.path());
    }
}

/// What a local cluster needs beyond the flags: it may run commands, and leaves the machine's addresses alone.
fn node_config(plan: &Plan) -> String {
    let tasks = plan.log_bytes_budget.map(|bytes| format!("[tasks]\nlog_bytes_budget = {bytes}\n\n"));
    format!(
        "[node]\nslots = {}\n\n[exec]\nallow = true\n\n{}[vip]\nbackend = \"dry-run\"\n",
        plan.slots,
        tasks.unwrap_or_default()
    )
}

/// A process that belongs to a run.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) command: String,
}

/// The processes that work in `dir` or name it in their command line, ourselves apart.
pub(crate) fn processes_below(dir: &Path) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let needle = dir.to_string_lossy();
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let command = fs::read(entry.path().join("cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ").trim_end().to_owned();
            let works_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
            let ours = pid != std::process::id().cast_signed() && (works_there || command.contains(&*needle));
            ours.then_some(Process { pid, command })
        })
        .collect()
}

/// A command whose process is sent `signal` when we die, however we die, and that Ctrl-C does not reach: we stop it in
/// order. Start it from the main thread: the kernel goes by the thread that started it.
pub(crate) fn tied_to_us(program: impl AsRef<std::ffi::OsStr>, signal: Signal) -> Command {
    let setpriv = Path::new("/usr/bin/setpriv");
    let mut command = if setpriv.exists() {
        let mut command = Command::new(setpriv);
        command.args(["--pdeathsig", signal.as_str(), "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.process_group(0);
    command
}

/// Takes the caller's `TASKD_…` settings away: they are meant for the caller's own taskd.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TASKD_") {
            command.env_remove(name);
        }
    }
}

/// Removes what runs left that are over: those that failed, and those that were killed before they could clean up.
pub(crate) fn sweep(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !pid.is_empty() && !Path::new("/proc").join(pid).exists() {
            kill_below(&entry.path());
            // It is in nobody's way, and the next run tries again.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Kills every process of a run, and says which there were.
pub(crate) fn kill_below(dir: &Path) -> Vec<Process> {
    let found = processes_below(dir);
    for process in &found {
        // One that has just ended by itself is as good.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_run_are_found_and_the_folder_goes() {
        let dir = RunDir::create(&std::env::temp_dir()).unwrap();
        let mut child =
            tied_to_us("sleep", Signal::SIGKILL).arg("60").current_dir(dir.path()).spawn().unwrap();
        let pid = child.id().cast_signed();
        // setpriv becomes sleep in the same process.
        let found = shell::poll("the process", Duration::from_secs(10), &Interrupt::never(), || {
            Ok(processes_below(dir.path()).into_iter().find(|process| process.command == "sleep 60"))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap().pid, pid);
        assert!(processes_below(dir.path()).is_empty());
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
    }
}
