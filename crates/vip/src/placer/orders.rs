//! What operators order, and what they are told.

use clock::Instant;
use proto::NodeId;
use proto::vip::ServiceName;

use super::{Effect, Goal, Known, ORDER_MAX, ORDERS_MAX, Order, OrderId, Placer, SETTLE, Wish, World};
use crate::handle::OrderError;
use crate::placement::{Input, Obstacle, Standing, obstacle, place};

impl Wish {
    /// Where the service is to go.
    pub(super) fn target(&self) -> Option<&NodeId> {
        match &self.goal {
            Goal::Holds(node) => Some(node),
            Goal::Gone(_) => None,
        }
    }
}

impl Placer {
    /// Takes an order; it is looked at once everything has been seen.
    pub(super) fn ordered(&mut self, now: Instant, id: OrderId, order: Order, effects: &mut Vec<Effect>) {
        if self.early.len() >= ORDERS_MAX {
            let busy = OrderError::NotDone("too many orders are waiting".to_owned());
            effects.push(Effect::Answer(id, Err(busy)));
            return;
        }
        self.early.push((id, order, now + ORDER_MAX));
    }

    /// Tells those who have waited long enough for this node to know anything.
    pub(super) fn expire_early(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let (late, early): (Vec<_>, Vec<_>) = self.early.drain(..).partition(|(_, _, until)| now >= *until);
        for (id, ..) in late {
            let what = "this node leads, but has not read yet how things stand";
            effects.push(Effect::Answer(id, Err(OrderError::NotDone(what.to_owned()))));
        }
        for until in early.iter().map(|(_, _, until)| *until) {
            self.wake_at(until);
        }
        self.early = early;
    }

    /// Tells those whose order is under way, while nothing is known any more.
    pub(super) fn expire_wishes(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let mut wake = None;
        for (name, memory) in &mut self.memories {
            if let Some(late) = memory.wish.take_if(|wish| now >= wish.until) {
                let what = format!("it is not known what became of it: see taskd vip why {name}");
                effects.push(Effect::Answer(late.id, Err(OrderError::Unknown(what))));
            }
            wake = wake.into_iter().chain(memory.wish.as_ref().map(|wish| wish.until)).min();
        }
        if let Some(at) = wake {
            self.wake_at(at);
        }
    }

    /// Starts what is ordered, and answers what has ended.
    pub(super) fn take_orders(&mut self, now: Instant, world: &World<'_>, effects: &mut Vec<Effect>) {
        for (id, order, _) in std::mem::take(&mut self.early) {
            let accepted = match order {
                Order::Move(service, to) => {
                    self.order_move(world, now, &service, to).map(|goal| (service, goal))
                }
                Order::Release(service) => {
                    self.order_release(world, now, &service).map(|goal| (service, Ok(goal)))
                }
            };
            match accepted {
                Err(error) => effects.push(Effect::Answer(id, Err(OrderError::Refused(error)))),
                Ok((_, Err(done))) => effects.push(Effect::Answer(id, Ok(done))),
                Ok((service, Ok(goal))) => {
                    let until = now + ORDER_MAX;
                    let memory = self.memories.entry(service).or_default();
                    if let Some(older) = memory.wish.replace(Wish { id, until, goal }) {
                        let what = "a later order for the same service took its place".to_owned();
                        effects.push(Effect::Answer(older.id, Err(OrderError::Refused(what))));
                    }
                    self.wake_at(until);
                }
            }
        }
        let wished = self.memories.iter().filter(|(_, memory)| memory.wish.is_some());
        let names: Vec<ServiceName> = wished.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.review(now, world, &name, effects);
        }
    }

    fn configured<'a>(&self, world: &World<'a>, service: &ServiceName) -> Result<Option<&'a NodeId>, String> {
        match world.config.services.get(service) {
            None => Err(format!("there is no service {service}: see taskd vip list")),
            Some(known) if !known.enabled => {
                Err(format!("{service} is not enabled: set enabled = true in the configuration and apply it"))
            }
            Some(_) => Ok(world.services.get(service).and_then(Known::holder)),
        }
    }

    /// The goal of a move; the inner error says that it is reached already. A node that is named may have the service also
    /// if it was ordered to release it a moment ago.
    fn order_move(
        &mut self,
        world: &World<'_>,
        now: Instant,
        service: &ServiceName,
        to: Option<NodeId>,
    ) -> Result<Result<Goal, String>, String> {
        let holder = self.configured(world, service)?;
        let mut standings = self.standings(now, world);
        if let Some(target) = &to {
            let input = Input {
                config: world.config,
                nodes: world.nodes,
                drained: world.drained,
                standings: &standings,
            };
            let kept_off = obstacle(&input, service, target) == Some(Obstacle::KeptOff);
            if let Some(memory) = self.memories.get_mut(service) {
                memory.put_last.remove(target);
                if kept_off {
                    memory.kept_off.remove(target);
                }
                standings = self.standings(now, world);
            }
        }
        let target = match to {
            Some(target) if holder == Some(&target) => {
                return Ok(Err(format!("{target} has {service} already")));
            }
            Some(target) => target,
            None => {
                // As if whoever has it could not.
                let input = Input {
                    config: world.config,
                    nodes: world.nodes,
                    drained: world.drained,
                    standings: &standings,
                };
                let incumbent = standings.get(service).and_then(Standing::incumbent);
                let leaving = incumbent.filter(|node| obstacle(&input, service, node).is_none()).cloned();
                let standing = standings.entry(service.clone()).or_default();
                standing.move_to = None;
                standing.kept_off.extend(leaving.clone());
                let input = Input {
                    config: world.config,
                    nodes: world.nodes,
                    drained: world.drained,
                    standings: &standings,
                };
                let placement = place(&input).remove(service).unwrap_or_default();
                let fit = placement.order.into_iter().find(|node| obstacle(&input, service, node).is_none());
                let nobody = || {
                    let others = world.nodes.keys().filter(|node| leaving.as_ref() != Some(*node));
                    let why = others.filter_map(|node| {
                        let obstacle = obstacle(&input, service, node)?;
                        Some(format!("{node} {}", details(world, service, node, obstacle)))
                    });
                    let why: Vec<_> = why.collect();
                    let why =
                        if why.is_empty() { "no other node is there".to_owned() } else { why.join(", ") };
                    let but = leaving.as_ref().map(|node| format!(" but {node}")).unwrap_or_default();
                    format!("nobody{but} can have {service}: {why}")
                };
                fit.ok_or_else(nobody)?
            }
        };
        let input =
            Input { config: world.config, nodes: world.nodes, drained: world.drained, standings: &standings };
        match obstacle(&input, service, &target) {
            Some(obstacle) => {
                let why = details(world, service, &target, obstacle);
                Err(format!("{service} cannot go to {target}: it {why}"))
            }
            None => Ok(Ok(Goal::Holds(target))),
        }
    }

    fn order_release(
        &mut self,
        world: &World<'_>,
        now: Instant,
        service: &ServiceName,
    ) -> Result<Goal, String> {
        let Some(holder) = self.configured(world, service)?.cloned() else {
            return Err(format!("nobody has {service}"));
        };
        let hold_down =
            world.config.services.get(service).map_or(SETTLE, |service| service.hold_down.max(SETTLE));
        let standings = self.standings(now, world);
        let input =
            Input { config: world.config, nodes: world.nodes, drained: world.drained, standings: &standings };
        let mut others = world.nodes.keys().filter(|node| **node != holder);
        let another_can = others.any(|node| obstacle(&input, service, node).is_none());
        let memory = self.memories.entry(service.clone()).or_default();
        // That nobody has it then is what was ordered; that nobody has it later, since the others fail, is not.
        let until = if another_can { &mut memory.put_last } else { &mut memory.kept_off };
        until.insert(holder.clone(), now + hold_down);
        self.wake_at(now + hold_down);
        Ok(Goal::Gone(holder))
    }

    /// Answers the service's order if it has come to its end.
    fn review(&mut self, now: Instant, world: &World<'_>, name: &ServiceName, effects: &mut Vec<Effect>) {
        let standings = self.standings(now, world);
        let Some(memory) = self.memories.get_mut(name) else { return };
        let Some(wish) = &memory.wish else { return };
        let holder = world.services.get(name).and_then(Known::holder);
        let input =
            Input { config: world.config, nodes: world.nodes, drained: world.drained, standings: &standings };
        let late = now >= wish.until;
        let answer = match &wish.goal {
            _ if !world.config.services.get(name).is_some_and(|service| service.enabled) => {
                Some(Err(OrderError::Refused(format!("{name} is configured or enabled no more"))))
            }
            Goal::Holds(target) if holder == Some(target) => Some(Ok(format!("{target} has {name}"))),
            Goal::Holds(target) => match obstacle(&input, name, target) {
                Some(obstacle) => {
                    let why = details(world, name, target, obstacle);
                    let what = format!("{name} does not go to {target}: it {why}");
                    Some(Err(OrderError::Refused(what)))
                }
                None if late => {
                    let seconds = ORDER_MAX.as_secs();
                    let what = match holder {
                        Some(holder) => {
                            format!(
                                "{name} is assigned to {target}, but {holder} has not given it up within {seconds} s"
                            )
                        }
                        None => format!(
                            "{name} is assigned to {target}, which has not taken it within {seconds} s"
                        ),
                    };
                    Some(Err(OrderError::Unknown(format!("{what}: see taskd vip why {name}"))))
                }
                None => None,
            },
            Goal::Gone(node) if holder != Some(node) => Some(Ok(match holder {
                Some(holder) => format!("{node} has given {name} up, and {holder} has it"),
                None => format!("{node} has given {name} up"),
            })),
            Goal::Gone(node) if late => {
                let what = format!("{node} has not given {name} up within {} s", ORDER_MAX.as_secs());
                Some(Err(OrderError::Unknown(format!("{what}: see taskd vip why {name}"))))
            }
            Goal::Gone(_) => None,
        };
        if let Some(answer) = answer
            && let Some(wish) = memory.wish.take()
        {
            effects.push(Effect::Answer(wish.id, answer));
        }
    }
}

/// What keeps a node from a service, with what the node itself says, or what would change it.
fn details(world: &World<'_>, service: &ServiceName, node: &NodeId, obstacle: Obstacle) -> String {
    let clause = obstacle.clause();
    let says = world.nodes.get(node).map(|report| report.services.get(service));
    match (obstacle, says) {
        (Obstacle::Unfit, Some(Some(local))) => match &local.unfit {
            Some(why) => format!("{clause}: {why}"),
            None => clause.to_owned(),
        },
        (Obstacle::Unfit, Some(None)) => "has not looked at the service yet: try again".to_owned(),
        (Obstacle::Drained, _) => format!("{clause}: taskd vip undrain {node}"),
        _ => clause.to_owned(),
    }
}
