//! Machines that are network namespaces, on a bridge that is one, too: nothing touches this machine's own network.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys;

/// What the names of all namespaces begin with; then come this process's id, the lab's number and the host.
const PREFIX: &str = "faults";
const SPACES: &str = "/run/netns";

/// A network of hosts. Dropping it kills what runs there and removes it.
#[derive(Debug)]
pub(crate) struct Net {
    prefix: String,
    hosts: Vec<(String, Ipv4Addr)>,
}

impl Net {
    /// Creates the bridge and every host with its address.
    pub(crate) fn create(lab: usize, hosts: &[(String, Ipv4Addr)]) -> Result<Self> {
        let prefix = format!("{PREFIX}-{}-{lab}", std::process::id());
        let mut net = Self { prefix, hosts: Vec::new() };
        let bridge = net.space("net");
        // Remembered before it exists, so that what a failure leaves is removed.
        net.hosts.push(("net".to_owned(), Ipv4Addr::UNSPECIFIED));
        ip(&["netns", "add", &bridge])?;
        batch(&bridge, "link set lo up\nlink add br0 type bridge\nlink set br0 up\n")?;
        for (host, address) in hosts {
            net.hosts.push((host.clone(), *address));
            let space = net.space(host);
            ip(&["netns", "add", &space])?;
            ip(&[
                "link", "add", "name", host, "netns", &bridge, "type", "veth", "peer", "name", "eth0",
                "netns", &space,
            ])?;
            batch(&bridge, &format!("link set {host} master br0\nlink set {host} up\n"))?;
            batch(&space, "link set lo up\nlink set eth0 up\n")?;
            batch(&space, &format!("address add {address}/24 dev eth0\n"))?;
            net.nft(
                host,
                "add table inet faults\n\
                 add chain inet faults in { type filter hook input priority 0; }\n\
                 add chain inet faults out { type filter hook output priority 0; }\n",
            )?;
        }
        Ok(net)
    }

    fn space(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// A command that runs on a host, and dies when the thread that starts it does.
    pub(crate) fn command(&self, host: &str, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        // Each of these becomes the next, in one process.
        command.args(["netns", "exec", &self.space(host), "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(program.as_ref());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TASKD_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Does something in a thread of its own that is on that host.
    pub(crate) fn on<T: Send>(&self, host: &str, what: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new(SPACES).join(self.space(host));
        let space = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                setns(&space, CloneFlags::CLONE_NEWNET).context("failed to enter a network namespace")?;
                Ok(what())
            });
            inside.join().map_err(|_| anyhow!("a thread panicked"))?
        })
    }

    /// Gives a host a second interface, `eth1`, on a bridge of its own that is created with the first of them. Its port
    /// there has the host's name with an `s` behind it.
    pub(crate) fn second(&self, host: &str, mac: &str, address: Ipv4Addr) -> Result<()> {
        let (bridge, space) = (self.space("net"), self.space(host));
        if ip(&["-n", &bridge, "link", "show", "br1"]).is_err() {
            batch(&bridge, "link add br1 type bridge\nlink set br1 up\n")?;
        }
        let port = format!("{host}s");
        ip(&[
            "link", "add", "name", &port, "netns", &bridge, "type", "veth", "peer", "name", "eth1", "netns",
            &space,
        ])?;
        batch(&bridge, &format!("link set {port} master br1\nlink set {port} up\n"))?;
        batch(
            &space,
            &format!("link set eth1 address {mac}\nlink set eth1 up\naddress add {address}/24 dev eth1\n"),
        )
    }

    /// Runs lines of `ip -batch` on a host; `net` is the one with the bridges.
    pub(crate) fn ip(&self, host: &str, lines: &str) -> Result<()> {
        batch(&self.space(host), lines)
    }

    /// Runs rules of nftables on a host.
    pub(crate) fn nft(&self, host: &str, rules: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host), "nft", "-f", "-"]);
        sys::feed(&mut command, rules).map(drop)
    }

    /// Adds rules to the chains `in` and `out`.
    pub(crate) fn filter(&self, host: &str, rules: &[(&str, &str)]) -> Result<()> {
        let rules: String =
            rules.iter().map(|(chain, rule)| format!("add rule inet faults {chain} {rule}\n")).collect();
        self.nft(host, &rules)
    }

    /// Takes all of a host's rules away again.
    pub(crate) fn pass(&self, host: &str) -> Result<()> {
        self.nft(host, "flush table inet faults\n")
    }

    /// Removes the only route that a host has, or adds it again.
    pub(crate) fn route(&self, host: &str, there: bool) -> Result<()> {
        let what = if there { "replace" } else { "del" };
        batch(&self.space(host), &format!("route {what} 10.99.0.0/24 dev eth0\n"))
    }

    /// The processes on a host.
    pub(crate) fn pids(&self, host: &str) -> Vec<i32> {
        pids(&self.space(host))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for (host, _) in &self.hosts {
            remove(&self.space(host));
        }
    }
}

/// Removes what runs left that were killed before they could clean up.
pub(crate) fn sweep() {
    for entry in std::fs::read_dir(SPACES).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        let (Some(PREFIX), Some(pid)) = (parts.next(), parts.next()) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

fn remove(space: &str) {
    for pid in pids(space) {
        // One that has just ended by itself is as good.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // It may never have been created; nothing else keeps it from going.
    let _ = ip(&["netns", "del", space]);
}

fn pids(space: &str) -> Vec<i32> {
    let listed = ip(&["netns", "pids", space]).unwrap_or_default();
    listed.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn ip(args: &[&str]) -> Result<String> {
    sys::run(Command::new("ip").args(args))
}

fn batch(space: &str, lines: &str) -> Result<()> {
    sys::feed(Command::new("ip").args(["-n", space, "-batch", "-"]), lines).map(drop)
}
