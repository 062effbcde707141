//! What befalls the world.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::service::Doc;
use super::world::{NODES, Run, World};
use crate::holder::{Assigned, Event};

impl World {
    /// Something befalls it; what and where is drawn.
    pub(super) fn befall(&mut self) {
        let n = self.rng.random_range(0..NODES);
        match self.rng.random_range(0..100) {
            // The leader writes another order, sometimes without some, sometimes empty.
            0..=14 => self.reassign(),
            15..=16 => {
                self.service.assignment = None;
                self.service.mark += 1;
                self.changed(Doc::Assignment);
            }
            17..=28 => {
                let cut = !self.nodes[n].cut;
                self.cut(n, cut);
            }
            // The process is stopped.
            29..=40 => {
                let until = self.now + self.rng.random_range(100..9000);
                if self.nodes[n].run == Run::Up {
                    self.log(format!("n{n} is paused until {until}"));
                    let node = &mut self.nodes[n];
                    node.paused_until = node.paused_until.max(until);
                }
            }
            41..=49 => self.crash(n, false),
            50..=52 => self.crash(n, true),
            53..=58 => self.core_event(n, Event::Stop),
            59..=68 => {
                let unfit = self.rng.random_bool(0.5).then(|| "a check fails".to_owned());
                self.core_event(n, Event::Fitness(unfit));
            }
            69..=73 => {
                let ms = [1000, 2000, 4000][self.rng.random_range(0..3_usize)];
                self.core_event(n, Event::Grace(Duration::from_millis(ms)));
            }
            74..=79 => {
                // Somebody removes the address by hand.
                if self.kernel_remove(n) {
                    self.log(format!("somebody removes the address of n{n}"));
                    self.core_event(n, Event::Vanished("172.0.20.241".to_owned()));
                }
            }
            80..=83 => {
                let foreign = self.foreign();
                self.foreign_until = self.now + self.rng.random_range(100..5000);
                self.core_event(n, Event::Conflict(foreign));
            }
            84..=86 => {
                self.core_event(n, Event::LinkUp);
            }
            _ => {
                // What a node believes of the others is old, or wrong.
                let able: BTreeSet<_> = (0..NODES)
                    .filter(|_| self.rng.random_bool(0.5))
                    .map(|n| self.nodes[n].name.clone())
                    .collect();
                let drained = self.rng.random_bool(0.1);
                self.core_event(n, Event::Peers { there: able.clone(), able, drained });
            }
        }
    }

    fn reassign(&mut self) {
        let mut order: Vec<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        order.shuffle(&mut self.rng);
        if self.rng.random_bool(0.2) {
            order.truncate(self.rng.random_range(0..3));
        }
        self.assign(order);
    }

    pub(super) fn assign(&mut self, order: Vec<proto::NodeId>) {
        self.service.mark += 1;
        let version = self.service.assignment.as_ref().map_or(0, |assigned| assigned.version + 1);
        self.log(format!("assignment {version}: {order:?}"));
        self.service.assignment = Some(Assigned { version, mark: self.service.mark, order });
        self.changed(Doc::Assignment);
    }

    /// Everything is well from here on.
    pub(super) fn heal(&mut self) {
        self.log("all is well from here on".to_owned());
        self.well = true;
        self.foreign_until = self.now;
        for n in 0..NODES {
            self.cut(n, false);
            self.nodes[n].paused_until = self.nodes[n].paused_until.min(self.now);
            if self.nodes[n].stopping {
                // It comes back as any stopped one does.
                self.crash(n, false);
            }
        }
        let order = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.assign(order);
        for n in 0..NODES {
            self.tell_well(n);
        }
    }

    /// What a node knows when all is well.
    pub(super) fn tell_well(&mut self, n: usize) {
        let able: BTreeSet<_> = self.nodes.iter().map(|node| node.name.clone()).collect();
        self.core_event(n, Event::Fitness(None));
        self.core_event(n, Event::Peers { there: able.clone(), able, drained: false });
    }
}
