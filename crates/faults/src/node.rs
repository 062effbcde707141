//! One `taskd serve` process, on a host of its own, in life after life.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::history::{End, Life, Timing};
use crate::net::Net;
use crate::sys::{self, Interrupt};
use crate::zookeeper;

pub(crate) const PORT: u16 = 10601;
/// A node's own promise is 5 s. After this it is killed, and that is a violation, too.
const STOP_MAX: Duration = Duration::from_secs(15);
/// For the kernel to be done with the processes of one that has ended.
const GONE: Duration = Duration::from_millis(500);

/// A user without rights, and what it is given.
const NOBODY: u32 = 65_534;
const NOBODY_TEXT: &str = "65534";
const RIGHTS: &str = "-all,+net_admin,+net_raw";

/// How a node ended that was told to.
#[derive(Clone, Debug)]
pub(crate) struct Stopped {
    pub(crate) took: Duration,
    /// When it was told, on the boot-time clock.
    pub(crate) at_ns: u64,
    /// `None`: it had to be killed.
    pub(crate) status: Option<ExitStatus>,
    /// Processes that it left.
    pub(crate) left: Vec<String>,
}

/// What every node runs.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) taskd: PathBuf,
    /// What is switched on in it, as in [`drill::SPEC_VAR`].
    pub(crate) drill: String,
    /// The library that sets its wall clock off, if anybody is to.
    pub(crate) faketime: Option<PathBuf>,
    /// More sections of its configuration.
    pub(crate) config: String,
    /// As nobody with no rights but those over its own network, and without a history.
    pub(crate) unprivileged: bool,
}

/// A node. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    program: Program,
    dir: PathBuf,
    /// The file that says by how much its wall clock is off.
    wall: PathBuf,
    /// How each life but the present one ended.
    ends: Vec<End>,
    child: Option<Child>,
}

impl Node {
    /// Writes its configuration; starts nothing.
    pub(crate) fn prepare(
        dir: &Path,
        program: &Program,
        name: &str,
        address: Ipv4Addr,
        hosts: &str,
        timing: Timing,
    ) -> Result<Self> {
        let config = format!(
            "[node]\nid = \"{name}\"\nlisten = \"{address}:{PORT}\"\ninsecure = true\ndata_dir = {data:?}\nslots = 8\n\
             [coordination]\nhosts = \"{hosts}\"\nroot = \"/taskd\"\nsession_timeout = \"{timeout}ms\"\n\
             tick = \"{tick}ms\"\nmargin = \"{margin}ms\"\n\
             [election]\nhold_down = \"1s\"\n\
             [exec]\nallow = true\n\
             [tasks]\nfence_after = \"10s\"\nheartbeat = \"500ms\"\nkill_grace = \"500ms\"\nretention_count = 60000\n\
             [log]\nlevel = \"info\"\n{more}",
            more = program.config,
            data = dir.join(name),
            timeout = timing.timeout.as_millis(),
            tick = timing.tick.as_millis(),
            margin = timing.margin.as_millis(),
        );
        fs::write(dir.join(format!("{name}.toml")), config)?;
        let wall = dir.join(format!("{name}.wall"));
        fs::write(&wall, "+0\n")?;
        if program.unprivileged {
            let data = dir.join(name);
            fs::create_dir_all(&data)?;
            std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
        }
        let (name, program, dir) = (name.to_owned(), program.clone(), dir.to_owned());
        Ok(Self { name, address, program, dir, wall, ends: Vec::new(), child: None })
    }

    /// Starts its next life.
    pub(crate) fn start(&mut self, net: &Net) -> Result<()> {
        let log =
            File::options().create(true).append(true).open(self.dir.join(format!("{}.log", self.name)))?;
        let mut command = if self.program.unprivileged {
            let mut command = net.command(&self.name, "setpriv");
            command.args([
                "--reuid",
                NOBODY_TEXT,
                "--regid",
                NOBODY_TEXT,
                "--clear-groups",
                "--inh-caps",
                RIGHTS,
            ]);
            // Once more, since a change of the user takes it away.
            command.args(["--ambient-caps", RIGHTS, "--bounding-set", RIGHTS, "--pdeathsig", "KILL", "--"]);
            command.arg(&self.program.taskd);
            command
        } else {
            let mut command = net.command(&self.name, &self.program.taskd);
            command.env(drill::HISTORY_VAR, self.history_path(self.ends.len()));
            command
        };
        command
            .args(["serve", "--config"])
            .arg(self.dir.join(format!("{}.toml", self.name)))
            .env(drill::SPEC_VAR, &self.program.drill)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if let Some(faketime) = &self.program.faketime {
            command.env("LD_PRELOAD", faketime).env("FAKETIME_TIMESTAMP_FILE", &self.wall);
            // Only the wall clock, and at once.
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
        }
        let child =
            command.spawn().with_context(|| format!("failed to start {}", self.program.taskd.display()))?;
        self.child = Some(child);
        Ok(())
    }

    fn history_path(&self, life: usize) -> PathBuf {
        self.dir.join(format!("{}.{life}.history", self.name))
    }

    /// What it wrote down in each of its lives.
    pub(crate) fn histories(&self) -> Vec<Life> {
        let running = self.child.iter().map(|_| End::Running);
        let life = |(life, end)| {
            let text = fs::read_to_string(self.history_path(life)).unwrap_or_default();
            Life::new(&*self.name, text, end)
        };
        self.ends.iter().copied().chain(running).enumerate().map(life).collect()
    }

    /// The epoch and the instant of the last effect that it had in its present life.
    pub(crate) fn last_effect(&self) -> Option<(u64, u64)> {
        self.child.as_ref()?;
        let text = fs::read_to_string(self.history_path(self.ends.len())).ok()?;
        let line = text.lines().rfind(|line| line.contains(" effect epoch="))?;
        let (at_ns, rest) = line.split_once(" effect epoch=")?;
        Some((rest.split(' ').next()?.parse().ok()?, at_ns.parse().ok()?))
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> Result<i32> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        Ok(child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()?), signal)
            .with_context(|| format!("failed to send {signal} to {}", self.name))
    }

    /// `kill -9`; its tasks' supervisors live on, as they should.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            self.ends.push(End::Killed);
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// How it ended by itself, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let status = child.try_wait()?;
        if let Some(status) = status {
            self.child = None;
            self.ends.push(if status.success() { End::Stopped } else { End::GaveUp });
        }
        Ok(status)
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(&mut self, net: &Net) -> Result<Stopped> {
        let (at_ns, begun) = (sys::boot_ns(), Instant::now());
        self.signal(Signal::SIGTERM)?;
        self.wait(net, at_ns, begun)
    }

    /// Waits for the end of one that was told at `at_ns`.
    pub(crate) fn wait(&mut self, net: &Net, at_ns: u64, begun: Instant) -> Result<Stopped> {
        let mut child = self.child.take().context("a node that does not run")?;
        let mut status = child.try_wait()?;
        while status.is_none() && begun.elapsed() < STOP_MAX {
            std::thread::sleep(Duration::from_millis(2));
            status = child.try_wait()?;
        }
        let took = begun.elapsed();
        self.ends.push(match status {
            None => End::Killed,
            Some(status) if status.success() => End::Stopped,
            Some(_) => End::GaveUp,
        });
        if status.is_none() {
            child.kill()?;
            child.wait()?;
        }
        let begun = Instant::now();
        let mut left = net.pids(&self.name);
        while !left.is_empty() && begun.elapsed() < GONE {
            std::thread::sleep(Duration::from_millis(10));
            left = net.pids(&self.name);
        }
        Ok(Stopped { took, at_ns, status, left: left.into_iter().map(name_of).collect() })
    }

    /// Sets its wall clock off by so many seconds.
    pub(crate) fn step_wall(&self, by_s: i64) -> Result<()> {
        // In one step, so that nobody reads half of it.
        let new = self.wall.with_extension("new");
        fs::write(&new, format!("{by_s:+}\n"))?;
        fs::rename(&new, &self.wall)?;
        Ok(())
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // After "pid (name) " come the state (0) and, at 11 and 12, time in user and kernel mode.
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        // USER_HZ, which is 100 on every Linux.
        Ok(ticks as f64 / 100.0)
    }

    /// The ZooKeeper servers that it has a connection to.
    pub(crate) fn servers(&self) -> Result<BTreeSet<Ipv4Addr>> {
        // Its own network's table.
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", self.pid()?))?;
        Ok(table.lines().filter_map(established).collect())
    }

    /// Waits until all of its connections to ZooKeeper are to this server.
    pub(crate) fn settles_on(
        &self,
        server: Ipv4Addr,
        within: Duration,
        interrupt: &Interrupt,
    ) -> Result<bool> {
        let settled =
            interrupt.until(within, || Ok((self.servers()? == BTreeSet::from([server])).then_some(())))?;
        Ok(settled.is_some())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Its host goes with it, and what is left there.
        let _ = self.kill();
    }
}

/// The remote address of a line of `/proc/net/tcp`, if it is an established connection to a ZooKeeper server.
fn established(line: &str) -> Option<Ipv4Addr> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (remote, state) = (fields.get(2)?, fields.get(3)?);
    let (address, port) = remote.split_once(':')?;
    if *state != "01" || u16::from_str_radix(port, 16).ok()? != zookeeper::PORT {
        return None;
    }
    // In the machine's own byte order.
    Some(Ipv4Addr::from(u32::from_str_radix(address, 16).ok()?.to_ne_bytes()))
}

fn name_of(pid: i32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("{pid} ({})", String::from_utf8_lossy(&command).replace('\0', " ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn established_connections_to_zookeeper_are_found() {
        // 0x08e9 is 2281; 0b 00 63 0a backwards is 10.99.0.11 on a little-endian machine.
        let address = format!("{:08X}", u32::from_ne_bytes([10, 99, 0, 11]));
        let line = |port: &str, state: &str| {
            format!("   0: 0100007F:9C40 {address}:{port} {state} 00000000:00000000")
        };
        assert_eq!(established(&line("08E9", "01")), Some(Ipv4Addr::new(10, 99, 0, 11)));
        assert_eq!(established(&line("08E9", "02")), None, "it is connecting");
        assert_eq!(established(&line("2969", "01")), None, "that is a node");
        assert_eq!(established("  sl  local_address rem_address   st tx_queue rx_queue"), None);
    }
}
