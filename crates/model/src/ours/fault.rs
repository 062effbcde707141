//! What goes wrong.

use election::{Effect, Event, Seen, Standing};

use super::act::Action;
use super::bounds::{Bounds, Kind};
use super::node::{Node, Up};
use super::world::World;

impl World {
    /// Every fault that makes a difference now.
    pub(super) fn faults(&self, bounds: &Bounds, out: &mut Vec<Action>) {
        for kind in &bounds.kinds {
            if *kind == Kind::Outage {
                if self.outage.is_none() {
                    out.push(Action::Fault(Kind::Outage, 0));
                }
                continue;
            }
            for (index, node) in self.nodes.iter().enumerate() {
                if !node.runs() {
                    continue;
                }
                if self.applies(*kind, index, node) {
                    out.push(Action::Fault(*kind, index));
                }
                for at in 0..node.requests.len() {
                    if spoils(*kind, node, at) && node.reaches() && self.outage.is_none() {
                        out.push(Action::Spoil(*kind, index, at));
                    }
                }
            }
        }
    }

    fn applies(&self, kind: Kind, index: usize, node: &Node) -> bool {
        match kind {
            Kind::Crash | Kind::Pause => true,
            Kind::Cut => node.cut.is_none(),
            Kind::Unready => node.ready && node.stopping.is_none(),
            Kind::Unserved => {
                node.requests.iter().any(|request| matches!(request.effect, Effect::Claim { .. }))
            }
            Kind::SlowEnd => Self::holds_term(node) && !node.slow_end,
            Kind::Stop => node.stopping.is_none(),
            Kind::Handover => matches!(node.core.standing(), Standing::Elected(_)),
            Kind::Resign | Kind::Wedge => Self::holds_term(node),
            Kind::Priority => self.zk.priorities.is_empty() && index == 1 && self.outage.is_none(),
            Kind::Outage | Kind::LoseAnswer | Kind::LoseRequest | Kind::LateWrite | Kind::Slow => false,
        }
    }

    pub(super) fn fault(&mut self, kind: Kind, index: usize) {
        (self.faults, self.quiet) = (self.faults - 1, 0);
        match kind {
            Kind::Crash => self.node(index).die(Up::Down),
            Kind::Cut => self.node(index).cut = Some(0),
            Kind::Outage => {
                self.outage = Some(0);
                for index in 0..self.nodes.len() {
                    if self.nodes[index].runs() && self.nodes[index].cut.is_none() {
                        let node = self.node(index);
                        (node.cut, node.noticed) = (Some(0), node.session != 0);
                        if node.noticed {
                            self.seen(index, Seen::Disconnected);
                        }
                    }
                }
            }
            Kind::Pause => self.node(index).paused = true,
            Kind::Unready => {
                let node = self.node(index);
                (node.ready, node.held_back) = (false, true);
                self.step(index, Event::Ready(false));
            }
            Kind::Unserved => self.node(index).unserving = true,
            Kind::SlowEnd => self.node(index).slow_end = true,
            Kind::Stop => {
                self.node(index).stopping = Some(0);
                self.step(index, Event::Stop);
            }
            Kind::Handover => self.step(index, Event::Handover { ticket: 1, to: None }),
            Kind::Resign => self.step(index, Event::Resign { reason: "the log".into() }),
            Kind::Priority => {
                self.zk().priorities.insert(super::zk::name(index), 1);
                self.tell(super::zk::Changed { line: true, leader: false });
            }
            Kind::Wedge => {
                self.node(index).slow_end = true;
                self.step(index, Event::GiveUp { reason: "wedged".into() });
            }
            Kind::LoseAnswer | Kind::LoseRequest | Kind::LateWrite | Kind::Slow => {}
        }
    }

    pub(super) fn spoil(&mut self, kind: Kind, index: usize, at: usize) {
        (self.faults, self.quiet) = (self.faults - 1, 0);
        match kind {
            Kind::LoseAnswer if matches!(self.nodes[index].requests[at].effect, Effect::Join { .. }) => {
                // A session that nobody knows of: it is not heard of, and expires.
                let before = self.nodes[index].session;
                self.execute(index, at);
                (self.node(index).session, self.node(index).watch) = (before, false);
                self.give_up(index, at, false);
            }
            Kind::LoseAnswer => {
                self.execute(index, at);
                self.give_up(index, at, false);
            }
            Kind::LateWrite => self.give_up(index, at, true),
            Kind::Slow => self.node(index).requests[at].slow = true,
            _ => self.give_up(index, at, false),
        }
    }
}

/// Whether this makes a difference to this request.
fn spoils(kind: Kind, node: &Node, at: usize) -> bool {
    let request = &node.requests[at];
    if request.late || request.answer.is_some() || request.slow {
        return false;
    }
    let claims_while_undone = node.undo && matches!(request.effect, Effect::Claim { .. });
    match kind {
        Kind::LoseAnswer => {
            request.writes() && !claims_while_undone || matches!(request.effect, Effect::Join { .. })
        }
        Kind::LoseRequest | Kind::Slow => true,
        Kind::LateWrite => request.writes(),
        _ => false,
    }
}
