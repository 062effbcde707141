//! What to write now, and what later.

use clock::Instant;
use proto::Epoch;
use proto::vip::ServiceName;

use super::{Effect, Known, Memory, Pending, Placer, RETURNING, SETTLE, World};
use crate::placement::{Input, Placement, obstacle, place};
use crate::store::{Assignment, GRACE_MAX, Term};

/// Writes effects down.
struct Pen<'e> {
    now: Instant,
    revision: u64,
    epoch: Epoch,
    effects: &'e mut Vec<Effect>,
}

/// When another order may be written.
enum When {
    Now,
    /// Once this has been so for [`SETTLE`].
    Since(Instant),
    /// The same, but not before the second.
    NotBefore(Instant, Instant),
}

impl Placer {
    pub(super) fn decide(&mut self, now: Instant, world: &World<'_>, effects: &mut Vec<Effect>) {
        let standings = self.standings(now, world);
        let input =
            Input { config: world.config, nodes: world.nodes, drained: world.drained, standings: &standings };
        let mut wanted = place(&input);
        let nothing = Known::default();
        let mut wakes = Vec::new();
        let began = self.began.unwrap_or(now);
        let mut pen = Pen { now, revision: world.revision, epoch: self.epoch, effects };
        for (name, memory) in &mut self.memories {
            if memory.pending.is_some() || memory.not_before.is_some() {
                continue;
            }
            let known = world.services.get(name).unwrap_or(&nothing);
            let Some(placement) = wanted.remove(name) else {
                if !world.services.contains_key(name) {
                    continue;
                }
                wakes.extend(memory.retire(name, known, &mut pen));
                continue;
            };
            let when = memory.when((began, now), &input, name, known, &placement);
            match when {
                None => memory.wanted_since = None,
                Some(When::Since(since)) if now < since + SETTLE => wakes.push(since + SETTLE),
                Some(When::NotBefore(since, at)) if now < (since + SETTLE).max(at) => {
                    wakes.push((since + SETTLE).max(at));
                }
                Some(_) => memory.assign(name, placement, &mut pen),
            }
        }
        for wake in wakes {
            self.wake_at(wake);
        }
    }
}

impl Memory {
    fn assign(&mut self, name: &ServiceName, placement: Placement, pen: &mut Pen<'_>) {
        let Placement { order, why } = placement;
        let Pen { now, revision, epoch, .. } = *pen;
        self.pending = Some(Pending { since: now, version: None });
        self.wanted_since = None;
        pen.effects.push(Effect::Assign(Assignment { service: name.clone(), order, revision, epoch, why }));
    }

    /// When what is wanted may be written; none if it stands already.
    fn when(
        &mut self,
        (began, now): (Instant, Instant),
        input: &Input<'_>,
        name: &ServiceName,
        known: &Known,
        wanted: &Placement,
    ) -> Option<When> {
        let Some(assigned) = &known.assignment else {
            // Its nodes have not all looked at it yet, and whoever did first need not be the best.
            let looked =
                |report: &proto::vip::NodeReport| report.stopping || report.services.contains_key(name);
            let all = !input.nodes.is_empty() && input.nodes.values().all(looked);
            let since = *self.wanted_since.get_or_insert(now);
            return Some(if all { When::Now } else { When::Since(since) });
        };
        if known.term.is_none() {
            // Somebody deleted it; without it nobody can take.
            return Some(When::Now);
        }
        let stands = &assigned.document;
        if stands.order == wanted.order && stands.why == wanted.why {
            return None;
        }
        let since = *self.wanted_since.get_or_insert(now);
        let first = wanted.order.first();
        if stands.order.first() == first {
            // Only who follows, or why: not in the middle of a succession.
            return Some(When::Since(self.unsure_since.map_or(since, |unsure| unsure.max(since))));
        }
        if self.wish.as_ref().and_then(super::Wish::target) == first {
            return Some(When::Now);
        }
        let holder = known.holder();
        let leave_alone = self.unsure_since.filter(|_| {
            first.is_some()
                && holder != first
                && stands
                    .order
                    .iter()
                    .any(|node| Some(node) != holder && obstacle(input, name, node).is_none())
        });
        Some(match leave_alone {
            None => When::Now,
            Some(since) if self.found_vacant => When::NotBefore(since, began + RETURNING),
            Some(since) => When::Since(since),
        })
    }

    /// The end of a service that is configured no more; returns when to look again.
    fn retire(&mut self, name: &ServiceName, known: &Known, pen: &mut Pen<'_>) -> Option<Instant> {
        if known.assignment.is_some() && !known.order().is_empty() {
            let why = "it is configured no more".to_owned();
            self.assign(name, Placement { order: Vec::new(), why }, pen);
            return None;
        }
        let since = self.unheld_since?;
        let grace = known.term.as_ref().map_or(GRACE_MAX, Term::wait);
        if pen.now < since + grace {
            return Some(since + grace);
        }
        self.pending = Some(Pending { since: pen.now, version: None });
        pen.effects.push(Effect::Remove { service: name.clone(), waited: !grace.is_zero() });
        None
    }
}
