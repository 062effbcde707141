//! What the leader remembers of what it saw: since when, and until when.

use std::time::Duration;

use clock::Instant;
use proto::vip::{LocalPhase, ServiceName};

use super::{Known, MOVE_MAX, Memory, Pending, Placer, RETRY, WRITE_MAX, World};
use crate::placement::{self, Input, Obstacle, Standing};
use crate::store::Removal;

impl Placer {
    /// Brings the memories up to what is known now.
    pub(super) fn watch(&mut self, now: Instant, world: &World<'_>) {
        let known = |name: &ServiceName| {
            world.config.services.contains_key(name) || world.services.contains_key(name)
        };
        // A wish is answered even if the service goes away under it.
        self.memories.retain(|name, memory| known(name) || memory.wish.is_some());
        for name in world.config.services.keys().chain(world.services.keys()) {
            self.memories.entry(name.clone()).or_default();
        }
        if self.began.is_none() {
            self.began = Some(now);
            self.inherit(now, world);
        }
        let standings = Default::default();
        let input =
            Input { config: world.config, nodes: world.nodes, drained: world.drained, standings: &standings };
        let nothing = Known::default();
        let mut wakes = Vec::new();
        for (name, memory) in &mut self.memories {
            let known = world.services.get(name).unwrap_or(&nothing);
            memory.note_holder(now, world, name, known);
            let ailing = known.holder().is_none_or(|holder| leaves_by_itself(&input, name, holder));
            memory.unsure_since = ailing.then(|| memory.unsure_since.unwrap_or(now));
            memory.unheld_since = known.holder().is_none().then(|| memory.unheld_since.unwrap_or(now));
            memory.found_vacant &= known.holder().is_none();
            memory.note_move(now, known);
            memory.passed_over.retain(|_, until| *until > now);
            memory.put_last.retain(|_, until| *until > now);
            memory.kept_off.retain(|_, until| *until > now);
            wakes.extend(memory.passed_over.values().copied());
            wakes.extend(memory.put_last.values().chain(memory.kept_off.values()).copied());
            wakes.extend(memory.moving_since.map(|(_, since)| since + MOVE_MAX).filter(|at| *at > now));
            memory.note_write(now, known);
            wakes.extend(memory.pending.as_ref().map(|pending| pending.since + WRITE_MAX));
            wakes.extend(memory.not_before);
            wakes.extend(memory.wish.as_ref().map(|wish| wish.until));
        }
        for wake in wakes {
            self.wake_at(wake);
        }
    }

    /// The hold-downs of the leader before: by what the nodes say, who gave a service up lately, or has just come. Clocks
    /// that are apart make one shorter or longer, and never longer than it is configured.
    fn inherit(&mut self, now: Instant, world: &World<'_>) {
        for (name, service) in &world.config.services {
            let Some(known) = world.services.get(name) else { continue };
            let Some(memory) = self.memories.get_mut(name) else { continue };
            memory.found_vacant = known.holder().is_none();
            for (node, report) in world.nodes {
                let idle = report.services.get(name).filter(|local| local.phase == LocalPhase::Idle);
                let Some(idle) = idle.filter(|_| known.holder() != Some(node)) else { continue };
                let age = Duration::from_millis(world.wall_ms.saturating_sub(idle.since_ms));
                // One that is yet to take what it was given has nothing behind it.
                if known.order().first() != Some(node) && age < service.hold_down {
                    memory.passed_over.insert(node.clone(), now + (service.hold_down - age));
                }
            }
        }
    }

    /// The answer to a write.
    pub(super) fn wrote(&mut self, now: Instant, service: &ServiceName, version: Option<i32>) {
        let Some(memory) = self.memories.get_mut(service) else { return };
        match version {
            Some(version) => memory.pending = Some(Pending { since: now, version: Some(version) }),
            None => {
                memory.pending = None;
                memory.not_before = Some(now + RETRY);
            }
        }
    }

    /// The answer to a removal.
    pub(super) fn removed(&mut self, now: Instant, service: &ServiceName, removal: Option<Removal>) {
        let Some(memory) = self.memories.get_mut(service) else { return };
        memory.pending = None;
        // Also when it is done: until the followers show it.
        let _ = removal;
        memory.not_before = Some(now + RETRY);
    }

    /// Where each configured service stands, for the placement.
    pub(super) fn standings(
        &self,
        now: Instant,
        world: &World<'_>,
    ) -> std::collections::BTreeMap<ServiceName, Standing> {
        let nothing = Known::default();
        let standing = |(name, memory): (&ServiceName, &Memory)| {
            let known = world.services.get(name).unwrap_or(&nothing);
            let standing = Standing {
                holder: known.holder().cloned(),
                order: known.order().to_vec(),
                moving: memory.moving_since.is_some_and(|(_, since)| now < since + MOVE_MAX),
                passed_over: super::still(&memory.passed_over),
                put_last: super::still(&memory.put_last),
                kept_off: super::still(&memory.kept_off),
                move_to: memory.wish.as_ref().and_then(super::Wish::target).cloned(),
            };
            (name.clone(), standing)
        };
        self.memories.iter().map(standing).collect()
    }
}

impl Memory {
    /// Whoever lost or gave up the service is passed over for a while.
    fn note_holder(&mut self, now: Instant, world: &World<'_>, name: &ServiceName, known: &Known) {
        if self.holder.as_ref() == known.holder() {
            return;
        }
        let hold_down =
            world.config.services.get(name).map_or_else(Default::default, |service| service.hold_down);
        if let Some(before) = self.holder.take() {
            self.passed_over.insert(before, now + hold_down);
        }
        self.holder = known.holder().cloned();
        if let Some(holder) = &self.holder {
            self.passed_over.remove(holder);
            self.put_last.remove(holder);
        }
    }

    /// Since when the holder is to give it up to another.
    fn note_move(&mut self, now: Instant, known: &Known) {
        let under_way = known.assignment.as_ref().filter(|assigned| {
            let first = assigned.document.order.first();
            first.is_some() && known.holder().is_some() && known.holder() != first && !known.taken_since()
        });
        self.moving_since = under_way.map(|assigned| match self.moving_since {
            Some((version, since)) if version == assigned.version => (version, since),
            _ => (assigned.version, now),
        });
    }

    fn note_write(&mut self, now: Instant, known: &Known) {
        let seen = |pending: &Pending| {
            let version = known.assignment.as_ref().map(|assigned| assigned.version);
            pending.version.is_some_and(|wanted| version.is_some_and(|version| version >= wanted))
        };
        if self.pending.as_ref().is_some_and(|pending| seen(pending) || now >= pending.since + WRITE_MAX) {
            self.pending = None;
        }
        if self.not_before.is_some_and(|at| now >= at) {
            self.not_before = None;
        }
    }
}

/// Whether a holder gives the service up without being told, so that its successors take it.
fn leaves_by_itself(input: &Input<'_>, name: &ServiceName, holder: &proto::NodeId) -> bool {
    let obstacle = placement::obstacle(input, name, holder);
    matches!(obstacle, Some(Obstacle::Absent | Obstacle::Unreadable | Obstacle::Stopping | Obstacle::Unfit))
}
