//! Debian's keepalived on the same bench: two nodes, what a careful person would write into its configuration, and no
//! coordination service.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::ground::{ASKED, Ground, INTERFACE, VIPS};
use super::observer::Observer;
use super::play::{Played, STEADY, Side, taken_over};
use super::scenario::{Bounds, Scenario};
use crate::sys::{Interrupt, boot_ns};

/// It has to hear nothing for three adverts, and then some.
const WHOLE: Duration = Duration::from_secs(30);
const TAKEN: Duration = Duration::from_secs(20);
/// How long two may answer before the person comes who ends it.
const PERSON: Duration = Duration::from_secs(2);

/// The pair. Dropping it kills both.
#[derive(Debug)]
pub(crate) struct Pair {
    ground: Ground,
    dir: PathBuf,
    advert: Duration,
    processes: Vec<Option<Child>>,
    interrupt: Interrupt,
}

impl Pair {
    pub(crate) fn start(ground: Ground, dir: &Path, advert: Duration, interrupt: &Interrupt) -> Result<Self> {
        let count = ground.nodes.len();
        let mut pair = Self {
            ground,
            dir: dir.to_owned(),
            advert,
            processes: (0..count).map(|_| None).collect(),
            interrupt: interrupt.clone(),
        };
        for node in 0..count {
            fs::write(pair.file(node, "conf"), pair.config(node))?;
            pair.launch(node)?;
        }
        Ok(pair)
    }

    fn file(&self, node: usize, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.ground.nodes[node].0))
    }

    /// Equal nodes that keep what they have, as taskd's do. Fractions of a second need version 3 of the protocol.
    fn config(&self, node: usize) -> String {
        let version = if self.advert.subsec_nanos() == 0 { 2 } else { 3 };
        format!(
            "global_defs {{\n  router_id {name}\n  vrrp_version {version}\n}}\n\
             vrrp_instance one {{\n  state BACKUP\n  nopreempt\n  interface {INTERFACE}\n  virtual_router_id 51\n  \
             priority {priority}\n  advert_int {advert}\n  virtual_ipaddress {{\n    {vip}/24 dev {INTERFACE}\n  }}\n}}\n",
            name = self.ground.nodes[node].0,
            priority = 150 - 10 * node,
            advert = self.advert.as_secs_f64(),
            vip = VIPS[ASKED[0]],
        )
    }

    fn launch(&mut self, node: usize) -> Result<()> {
        let name = self.ground.nodes[node].0.clone();
        let log = File::options().create(true).append(true).open(self.file(node, "log"))?;
        let mut command = self.ground.net.command(&name, "keepalived");
        command.args(["--dont-fork", "--vrrp", "--log-console", "--log-detail"]);
        command.arg("--use-file").arg(self.file(node, "conf"));
        command.arg("--pid").arg(self.file(node, "pid")).arg("--vrrp_pid").arg(self.file(node, "vrrp.pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("failed to start keepalived")?;
        self.processes[node] = Some(child);
        Ok(())
    }

    /// `kill -9` of everything on a node.
    fn kill(&mut self, node: usize) -> Result<()> {
        for pid in self.ground.net.pids(&self.ground.nodes[node].0) {
            // One that has just ended by itself is as good.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if let Some(mut child) = self.processes[node].take() {
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM to the parent, which tells the rest; waits for its end.
    fn stop(&mut self, node: usize) -> Result<()> {
        let Some(mut child) = self.processes[node].take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > TAKEN {
                child.kill()?;
                child.wait()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn start_again(&mut self, node: usize) -> Result<()> {
        // The files of one that was killed would keep the next from starting.
        for what in ["pid", "vrrp.pid"] {
            let _ = fs::remove_file(self.file(node, what));
        }
        self.launch(node)
    }
}

impl Side for Pair {
    fn name(&self) -> String {
        format!("keepalived, advert {} s", self.advert.as_secs_f64())
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }

    fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn bounds(&self, _: Scenario) -> Option<Bounds> {
        None
    }

    fn services(&self) -> usize {
        1
    }

    fn settle(&mut self, eyes: &Observer) -> Result<Result<(), String>> {
        let vip = ASKED[0];
        let whole = || Ok((eyes.steady(vip, STEADY).is_some() && eyes.owners(vip).len() == 1).then_some(()));
        // A backup that has just started listens for three adverts before it would take over.
        self.interrupt.sleep(self.advert * 4)?;
        let whole = self.interrupt.until(WHOLE, whole)?;
        Ok(whole.ok_or_else(|| {
            format!("owners {:?}, answered by {:?}", eyes.owners(vip), eyes.steady(vip, STEADY))
        }))
    }

    fn play(&mut self, scenario: Scenario, eyes: &Observer, hold: Duration) -> Result<Played> {
        // Black holes of the run before may come late.
        let victim = taken_over(eyes, &self.interrupt, None, WHOLE)?.context("nobody answers")?;
        let mut played = Played {
            what: self.ground.nodes[victim].0.clone(),
            victim,
            fault_ns: boot_ns(),
            ..Played::default()
        };
        match scenario {
            Scenario::Stop => self.stop(victim)?,
            Scenario::LinkDown => self.ground.link(victim, false)?,
            Scenario::CarrierLoss => self.ground.carrier(victim, false)?,
            Scenario::Partition => self.ground.isolate(victim, true)?,
            Scenario::Restart => {
                self.kill(victim)?;
                played.gone_from_ns = Some(boot_ns());
                self.start_again(victim)?;
                self.interrupt.sleep(self.advert * 4 + hold)?;
            }
            _ => self.kill(victim)?,
        }
        if scenario != Scenario::Restart {
            let taken = taken_over(eyes, &self.interrupt, Some(victim), TAKEN)?;
            if taken.is_none() {
                played.wrong.push(format!("nobody else steadily answers after {TAKEN:?}"));
            }
            self.interrupt.sleep(hold)?;
        }
        if scenario == Scenario::KillAll {
            self.interrupt.sleep(PERSON)?;
            let vip = VIPS[ASKED[0]];
            // Gone already, if the kernel or a person was quicker; there is nothing else to be done.
            let _ = self
                .ground
                .net
                .ip(&self.ground.nodes[victim].0, &format!("address del {vip}/24 dev {INTERFACE}\n"));
        }
        played.healed_ns = boot_ns();
        match scenario {
            Scenario::LinkDown => self.ground.link(victim, true)?,
            Scenario::CarrierLoss => self.ground.carrier(victim, true)?,
            Scenario::Partition => self.ground.isolate(victim, false)?,
            Scenario::Restart => {}
            _ => self.start_again(victim)?,
        }
        Ok(played)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for node in 0..self.processes.len() {
            // Its host goes with it, and what is left there.
            let _ = self.kill(node);
        }
    }
}
