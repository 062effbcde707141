//! Kernels, and what may never be seen in them.

use std::net::{IpAddr, Ipv4Addr};

use rand::RngExt;

use super::world::*;
use crate::net::{Foreign, Mac};
use crate::store::Term;

impl World {
    pub(super) fn kernel_put(&mut self, n: usize, valid_s: u32) {
        let token = self.id();
        let wait = u64::from(valid_s) * 1000 + self.rng.random_range(0..1000);
        let worst = self.now + u64::from(valid_s) * 1000 + 1000;
        self.nodes[n].kernel = Some(There { token, gone_by: worst });
        self.counts.puts += 1;
        self.log(format!("n{n} puts the address for {valid_s} s"));
        self.after(wait, Happens::KernelLooks { n, token });
        if let Some((acked, wait)) = self.nodes[n].wait
            && self.now < acked + wait
        {
            self.violated(format!(
                "n{n} did not wait: taken at {acked}, {wait} ms to wait, put at {}",
                self.now
            ));
        }
    }

    /// Nobody else has it. An address that was written too late and is removed by the very next instruction does not
    /// count: see `pen`.
    pub(super) fn look_for_two(&mut self, n: usize) {
        let has = |n: &usize| self.nodes[*n].kernel.is_some();
        if let Some(other) = (0..NODES).find(|other| *other != n && has(other) && has(&n)) {
            self.violated(format!("two kernels have the address: n{n} and n{other}"));
        }
    }

    pub(super) fn kernel_remove(&mut self, n: usize) -> bool {
        self.nodes[n].kernel.take().is_some()
    }

    /// Addresses of running processes without a lease; and lifetimes that reach beyond what a successor waits.
    pub(super) fn look_for_strays(&mut self) {
        for n in 0..NODES {
            let inside = !self.remaining(n).is_zero();
            let (now, paused) = (self.now, self.is_paused(n));
            let node = &mut self.nodes[n];
            if node.kernel.is_none() || inside || paused || node.run == Run::Down {
                node.astray = None;
            } else {
                let since = *node.astray.get_or_insert(now);
                if now > since + REMOVED_WITHIN_MS {
                    self.violated(format!(
                        "n{n} runs and has had the address outside of its lease since {since}"
                    ));
                }
            }
            let Term::Held { grace, .. } = &self.service.term.1 else { continue };
            let grace = u64::try_from(grace.as_millis()).unwrap_or(0);
            let node = &self.nodes[n];
            if let (Some(there), Some(hold), false) = (node.kernel, &node.hold, paused)
                && hold.term_version == self.service.term.0
                && hold.held
                && there.gone_by > hold.until + grace
            {
                let by = hold.until + grace;
                self.violated(format!("the kernel may keep it at n{n} until {}, beyond {by}", there.gone_by));
            }
        }
    }

    pub(super) fn foreign(&self) -> Foreign {
        let address = IpAddr::V4(Ipv4Addr::new(172, 0, 20, 241));
        Foreign { address, mac: Mac([2, 0, 0, 0, 0, 9]) }
    }
}
