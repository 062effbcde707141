//! What is done to a cluster of taskd, and undone.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::arp::{Asker, written};
use super::cluster::{Cluster, SERVICES, Services};
use super::ground::{ASKED, FIRST, FOREIGN, Ground, INTERFACE, SECOND, VIPS};
use super::observer::Observer;
use super::play::{Played, STEADY, Side, taken_over};
use super::scenario::{Bounds, Scenario};
use crate::sys::{Interrupt, boot_ns};

/// Nothing takes longer, or it is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// For a thing that ought not to happen.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

impl Side for Cluster {
    fn name(&self) -> String {
        format!("taskd, T = {:?}", self.timing.timeout)
    }

    fn ground(&self) -> &Ground {
        &self.ground
    }

    fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn bounds(&self, scenario: Scenario) -> Option<Bounds> {
        Some(scenario.bounds(self.timing))
    }

    fn services(&self) -> usize {
        SERVICES.len()
    }

    fn settle(&mut self, eyes: &Observer) -> Result<Result<(), String>> {
        self.whole(eyes)
    }

    fn play(&mut self, scenario: Scenario, eyes: &Observer, hold: Duration) -> Result<Played> {
        if scenario == Scenario::Opposite {
            self.r#move(0, 0)?;
            self.r#move(1, 1)?;
            let there = || {
                let now = ASKED.map(|vip| eyes.steady(vip, STEADY));
                Ok((now == [Some(0), Some(1)]).then_some(()))
            };
            let moved = self.interrupt.until(PATIENCE, there)?;
            moved.context("the services did not go where they were told to")?;
        }
        let victim = taken_over(eyes, &self.interrupt, None, PATIENCE)?.context("nobody answers")?;
        let both = eyes.steady(ASKED[1], STEADY).is_none_or(|node| node == victim);
        let what = self.nodes[victim].name.clone();
        let mut played = Played { what, victim, both, fault_ns: boot_ns(), ..Played::default() };
        match scenario {
            Scenario::ZookeeperGone => self.zookeeper_gone(eyes, hold, &mut played)?,
            Scenario::RemovedWhileDown => self.removed_while_down(eyes, hold, &mut played)?,
            Scenario::AddressRemoved => self.address_removed(hold, &mut played)?,
            Scenario::Foreign => self.foreign(eyes, hold, &mut played)?,
            Scenario::Restart => {
                self.kill_all(victim)?;
                played.gone_from_ns = Some(boot_ns());
                self.start_node(victim)?;
                self.back(eyes, &mut played)?;
                self.interrupt.sleep(hold)?;
                played.healed_ns = boot_ns();
            }
            _ => self.lost(scenario, eyes, hold, &mut played)?,
        }
        Ok(played)
    }
}

impl Cluster {
    /// The holder is lost in some way, another takes over, the holder comes back.
    fn lost(
        &mut self,
        scenario: Scenario,
        eyes: &Observer,
        hold: Duration,
        played: &mut Played,
    ) -> Result<()> {
        let victim = played.victim;
        match scenario {
            Scenario::Stop | Scenario::Opposite => played.wrong.extend(self.stop(victim)?),
            Scenario::KillDaemon => self.nodes[victim].kill()?,
            Scenario::KillAll => self.kill_all(victim)?,
            Scenario::PauseDaemon => self.nodes[victim].signal(Signal::SIGSTOP)?,
            Scenario::PauseAll => self.signal_all(victim, Signal::SIGSTOP),
            Scenario::LinkDown => self.ground.link(victim, false)?,
            Scenario::CarrierLoss => self.ground.carrier(victim, false)?,
            Scenario::Partition => self.ground.isolate(victim, true)?,
            _ => self.ground.cut_coordination(victim, true)?,
        }
        let taker = taken_over(eyes, &self.interrupt, Some(victim), PATIENCE)?;
        if taker.is_none() {
            played.wrong.push(format!("nobody else steadily answers after {PATIENCE:?}"));
        }
        self.interrupt.sleep(hold)?;
        played.healed_ns = boot_ns();
        match scenario {
            Scenario::PauseDaemon => self.nodes[victim].signal(Signal::SIGCONT)?,
            Scenario::PauseAll => self.signal_all(victim, Signal::SIGCONT),
            Scenario::LinkDown => self.ground.link(victim, true)?,
            Scenario::CarrierLoss => self.ground.carrier(victim, true)?,
            Scenario::Partition => self.ground.isolate(victim, false)?,
            Scenario::CutCoordination => self.ground.cut_coordination(victim, false)?,
            _ => self.start_node(victim)?,
        }
        // It is fit again, and what it had is not taken back.
        if let Err(last) = self.whole(eyes)? {
            played.wrong.push(format!("not whole after the healing: {last}"));
        }
        self.interrupt.sleep(LONG_ENOUGH)?;
        let now = eyes.steady(ASKED[0], STEADY);
        if now != taker {
            played.wrong.push(format!("it did not stay with {taker:?}: {now:?} has it now"));
        }
        Ok(())
    }

    /// Waits until anybody answers for the first service again.
    fn back(&self, eyes: &Observer, played: &mut Played) -> Result<()> {
        // The gap has begun by the time this looks, or there is none.
        self.interrupt.sleep(STEADY)?;
        if taken_over(eyes, &self.interrupt, None, PATIENCE)?.is_none() {
            played.wrong.push(format!("nobody answers after {PATIENCE:?}"));
        }
        Ok(())
    }

    fn zookeeper_gone(&mut self, eyes: &Observer, hold: Duration, played: &mut Played) -> Result<()> {
        played.both = true;
        self.kill_servers()?;
        let gone = self.interrupt.until(PATIENCE, || Ok(eyes.nowhere(FIRST | SECOND).then_some(())))?;
        if gone.is_none() {
            played.wrong.push(format!("addresses are there {PATIENCE:?} after ZooKeeper went"));
        }
        self.interrupt.sleep(hold)?;
        self.start_servers()?;
        self.serving()?;
        played.healed_ns = boot_ns();
        self.back(eyes, played)
    }

    fn removed_while_down(&mut self, eyes: &Observer, hold: Duration, played: &mut Played) -> Result<()> {
        let victim = played.victim;
        self.kill_all(victim)?;
        self.apply(Services::OnlySecond)?;
        played.gone_from_ns = Some(boot_ns());
        self.start_node(victim)?;
        if let Err(last) = self.whole(eyes)? {
            played.wrong.push(format!("not whole without the service: {last}"));
        }
        self.interrupt.sleep(hold + LONG_ENOUGH)?;
        if !eyes.nowhere(FIRST) {
            played.wrong.push("a service that is not configured has addresses".to_owned());
        }
        played.healed_ns = boot_ns();
        self.apply(Services::Both)?;
        self.back(eyes, played)
    }

    fn address_removed(&self, hold: Duration, played: &mut Played) -> Result<()> {
        let (host, chosen) =
            (&self.nodes[played.victim].name, (0..VIPS.len()).filter(|vip| FIRST & (1 << vip) != 0));
        let line = |vip: usize| {
            let prefix = if VIPS[vip].is_ipv4() { 24 } else { 64 };
            format!("address del {}/{prefix} dev {INTERFACE}\n", VIPS[vip])
        };
        self.net().ip(host, &chosen.map(line).collect::<String>())?;
        self.interrupt.sleep(hold.max(LONG_ENOUGH))?;
        played.healed_ns = boot_ns();
        Ok(())
    }

    /// First a machine that only says that it has the address of a holder; then one that has it before anybody takes it.
    fn foreign(&mut self, eyes: &Observer, hold: Duration, played: &mut Played) -> Result<()> {
        let std::net::IpAddr::V4(address) = VIPS[ASKED[0]] else { return Ok(()) };
        let alien = written(Ground::foreign_mac());
        Asker::open(self.net(), FOREIGN, INTERFACE)?.claim(address)?;
        // One committed probe decides, then the holder says that it is here; until then clients believe the liar.
        let period = (self.timing.timeout / 6).min(self.timing.tick / 2);
        let defended = period + Duration::from_millis(250);
        self.interrupt.sleep(defended.max(LONG_ENOUGH) * 2)?;
        let gap = eyes.record()?.longest(ASKED[0], played.fault_ns, boot_ns());
        if gap > defended {
            played.wrong.push(format!("a claim was believed for {gap:.3?}, bound {defended:.3?}"));
        }
        let told = |page: &super::page::Page| page.events.iter().any(|event| event.what.contains(&alien));
        let holder = &self.client.addresses[played.victim..=played.victim];
        let page = self.page_of(holder);
        if !page.is_some_and(|page| told(&page)) {
            played.wrong.push(format!("no event of the holder names {alien}, which claimed its address"));
        }

        self.apply(Services::FirstDisabled)?;
        let gone = self.interrupt.until(PATIENCE, || Ok(eyes.nowhere(FIRST).then_some(())))?;
        if gone.is_none() {
            played.wrong.push("a disabled service keeps its addresses".to_owned());
        }
        self.net().ip(FOREIGN, &format!("address add {address}/24 dev {INTERFACE}\n"))?;
        self.apply(Services::Both)?;
        let blocked = self.interrupt.until(PATIENCE, || {
            let page = self.page();
            Ok(page.filter(|page| {
                let told = page
                    .service(SERVICES[0])
                    .is_some_and(|one| one.state == "blocked" && one.remedy.is_some());
                told && page.conflict(SERVICES[0]) == Some(&alien)
            }))
        })?;
        if blocked.is_none() {
            let said = self.page().and_then(|page| page.service(SERVICES[0]).cloned());
            played.wrong.push(format!("nobody says that {alien} blocks it: {said:?}"));
        }
        self.interrupt.sleep(hold + LONG_ENOUGH)?;
        if !eyes.nowhere(FIRST) {
            played.wrong.push("an address was taken that somebody foreign has".to_owned());
        }
        self.net().ip(FOREIGN, &format!("address del {address}/24 dev {INTERFACE}\n"))?;
        played.healed_ns = boot_ns();
        self.back(eyes, played)
    }
}
