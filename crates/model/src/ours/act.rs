//! What can happen, and what then becomes of the cluster.

use election::{Effect, Event, Generation, Release, Seen, Standing};

use super::bounds::{Bounds, EXPIRES_MAX, Kind, OUTAGE_MAX};
use super::node::{News, Node, Up};
use super::world::World;
use super::zk::NOW;

/// A step of the cluster. Nodes and requests are named by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time goes on by a unit.
    Pass,
    /// A request is executed.
    Execute(usize, usize),
    /// Its answer arrives.
    Answer(usize, usize),
    /// Both, with nothing in between.
    Call(usize, usize),
    /// The caller gives up; the request may have been executed.
    TimeOut(usize, usize),
    /// The same, and it may yet be.
    TimeOutLate(usize, usize),
    /// A request that nobody waits for is executed.
    ExecuteLate(usize, usize),
    /// It never is.
    DropLate(usize, usize),
    /// A claim that nobody wants is undone.
    Undo(usize),
    /// A deadline of the election has passed.
    Tick(usize),
    /// The watch on `leader` shows what it is now.
    Watch(usize),
    /// The leader hears that the line has changed.
    Stir(usize),
    /// The lease says what it has to say.
    Lease(usize),
    /// The node can lead.
    Ready(usize),
    /// The dispatcher serves.
    Serve(usize),
    /// Everything that the term fenced has ended.
    End(usize),
    /// The client says that it is disconnected.
    Notice(usize),
    /// The network is back.
    Heal(usize),
    /// The client learns that its session is over.
    Ended(usize),
    /// ZooKeeper ends a session.
    Expire(u8),
    /// ZooKeeper has a majority again.
    Return,
    /// The process goes on.
    Resume(usize),
    /// The process is started again.
    Restart(usize),
    /// Something goes wrong with a node, or is asked of it.
    Fault(Kind, usize),
    /// Something goes wrong with a request.
    Spoil(Kind, usize, usize),
}

impl World {
    /// Everything that can happen now. What nothing delays comes first; time goes on when there is none of that.
    pub(super) fn actions(&self, bounds: &Bounds, out: &mut Vec<Action>) {
        for (index, node) in self.nodes.iter().enumerate() {
            self.urgent(bounds, index, node, out);
        }
        for (session, silent) in &self.zk.sessions {
            if *silent >= EXPIRES_MAX {
                out.push(Action::Expire(*session));
            }
        }
        if self.outage.is_some_and(|age| age >= OUTAGE_MAX) {
            out.push(Action::Return);
        }
        if out.is_empty() {
            out.push(Action::Pass);
        }
        for (index, node) in self.nodes.iter().enumerate() {
            self.unhurried(bounds, index, node, out);
        }
        for (session, silent) in &self.zk.sessions {
            if (bounds.expires_min..EXPIRES_MAX).contains(silent) {
                out.push(Action::Expire(*session));
            }
        }
        if self.outage.is_some_and(|age| age < OUTAGE_MAX) {
            out.push(Action::Return);
        }
        if self.faults > 0 {
            self.faults(bounds, out);
        }
    }

    /// What a node does without asking ZooKeeper.
    fn local(&self, index: usize, node: &Node, out: &mut Vec<Action>) {
        if !node.runs() {
            return;
        }
        let lives = self.lives(node);
        if !node.ready && !node.held_back {
            out.push(Action::Ready(index));
        }
        if node.news.is_some() {
            out.push(Action::Lease(index));
        }
        if node.cut.is_some_and(|age| age >= 2) && !node.noticed && node.session != 0 {
            out.push(Action::Notice(index));
        }
        if node.cut.is_none() && !lives && node.session != 0 {
            out.push(Action::Ended(index));
        }
        if node.cut.is_none() && lives {
            if node.watch {
                out.push(Action::Watch(index));
            }
            if node.stir {
                out.push(Action::Stir(index));
            }
        }
        if node.may_serve() {
            out.push(Action::Serve(index));
        }
        if node.may_end() && !node.slow_end {
            out.push(Action::End(index));
        }
        if node.core.deadline().is_some_and(|due| due <= NOW) {
            let mut ticked = node.core.clone();
            // A deadline that cannot be acted on yet does not stop the clock.
            if !ticked.step(Event::Tick, NOW).is_empty() || ticked != node.core {
                out.push(Action::Tick(index));
            }
        }
    }

    fn urgent(&self, bounds: &Bounds, index: usize, node: &Node, out: &mut Vec<Action>) {
        if !node.runs() {
            return;
        }
        self.local(index, node, out);
        let online = node.cut.is_none() && self.lives(node);
        if online && node.undo {
            out.push(Action::Undo(index));
        }
        let blocked = node.requests.iter().any(|request| request.late);
        for (at, request) in node.requests.iter().enumerate() {
            let overdue = request.age >= request.limit();
            if request.late {
                if online && node.requests.len() > 1 {
                    out.extend([Action::ExecuteLate(index, at), Action::DropLate(index, at)]);
                }
            } else if request.answer.is_some() {
                if !request.slow || overdue {
                    out.push(Action::Answer(index, at));
                }
            } else if self.executes(node, at) && !(blocked && request.writes()) {
                if !request.slow || overdue {
                    let splits = bounds.overtaking && request.effect != Effect::Audit;
                    out.push(if splits { Action::Execute(index, at) } else { Action::Call(index, at) });
                }
                if request.slow && overdue && request.effect != Effect::Audit {
                    out.push(Action::TimeOut(index, at));
                    if request.writes() {
                        out.push(Action::TimeOutLate(index, at));
                    }
                }
            } else if overdue && !blocked && request.effect != Effect::Audit {
                out.push(Action::TimeOut(index, at));
                if request.writes() && self.lives(node) {
                    out.push(Action::TimeOutLate(index, at));
                }
            }
        }
    }

    /// Whether a request can be executed now.
    fn executes(&self, node: &Node, at: usize) -> bool {
        let request = &node.requests[at];
        let reaches = node.reaches() && self.outage.is_none();
        match request.effect {
            Effect::Join { .. } => reaches,
            // The write actor undoes first.
            Effect::Claim { .. } if node.undo => false,
            _ => reaches && self.zk.sessions.contains_key(&request.session),
        }
    }

    /// What may happen now or later.
    fn unhurried(&self, bounds: &Bounds, index: usize, node: &Node, out: &mut Vec<Action>) {
        if node.up == Up::Down {
            if self.outage.is_none() {
                out.push(Action::Restart(index));
            }
            return;
        }
        if node.up != Up::Up {
            return;
        }
        if node.paused {
            out.push(Action::Resume(index));
            return;
        }
        if node.cut == Some(0) && !node.noticed && node.session != 0 {
            out.push(Action::Notice(index));
        }
        if node.cut.is_some() && self.outage.is_none() {
            out.push(Action::Heal(index));
        }
        if !node.ready && node.held_back {
            out.push(Action::Ready(index));
        }
        if node.may_end() && node.slow_end {
            out.push(Action::End(index));
        }
        let online = node.reaches() && self.lives(node);
        for (at, request) in node.requests.iter().enumerate() {
            let overdue = request.age >= request.limit();
            if request.late {
                if online && node.requests.len() == 1 {
                    out.extend([Action::ExecuteLate(index, at), Action::DropLate(index, at)]);
                }
            } else if overdue {
            } else if request.answer.is_some() {
                if request.slow {
                    out.push(Action::Answer(index, at));
                }
            } else if request.slow && self.executes(node, at) {
                out.push(Action::Call(index, at));
                if !bounds.overtaking && request.effect != Effect::Audit {
                    out.push(Action::Execute(index, at));
                }
            }
        }
    }

    /// The state after `action`.
    pub(super) fn after(&self, bounds: &Bounds, action: Action) -> Self {
        let mut next = self.clone();
        next.broken = None;
        next.act(bounds, action);
        if !bounds.overtaking {
            next.settle(bounds);
        }
        next
    }

    /// What a node hears and has to do without asking ZooKeeper happens at once, unless answers may be overtaken.
    fn settle(&mut self, bounds: &Bounds) {
        for index in 0..self.nodes.len() {
            let mut local = Vec::new();
            loop {
                if self.nodes[index].groggy {
                    break;
                }
                self.local(index, &self.nodes[index], &mut local);
                let Some(action) = local.drain(..).next() else { break };
                self.act(bounds, action);
            }
        }
    }

    fn act(&mut self, bounds: &Bounds, action: Action) {
        let next = self;
        match action {
            Action::Pass => next.pass(bounds),
            Action::Execute(index, at) => next.execute(index, at),
            Action::Answer(index, at) => next.answer(index, at),
            Action::Call(index, at) => {
                next.execute(index, at);
                next.answer(index, at);
            }
            Action::TimeOut(index, at) => next.give_up(index, at, false),
            Action::TimeOutLate(index, at) => next.give_up(index, at, true),
            Action::ExecuteLate(index, at) => {
                next.quiet = 0;
                next.execute(index, at);
                let request = next.node(index).requests.remove(at);
                next.unwanted(index, request.answer);
            }
            Action::DropLate(index, at) => {
                next.node(index).requests.remove(at);
            }
            Action::Undo(index) => {
                next.node(index).undo = false;
                let session = next.nodes[index].session;
                next.delete_leader_of(session);
            }
            Action::Tick(index) => next.step(index, Event::Tick),
            Action::Watch(index) => {
                next.node(index).watch = false;
                let leader = next.zk.leader_seen(next.nodes[index].session);
                next.seen(index, Seen::Leader(leader));
            }
            Action::Stir(index) => {
                next.node(index).stir = false;
                next.seen(index, Seen::Stir);
            }
            Action::Lease(index) => next.lease_speaks(index),
            Action::Ready(index) => {
                let node = next.node(index);
                let held_back = std::mem::take(&mut node.held_back);
                node.ready = true;
                if held_back {
                    next.quiet = 0;
                }
                next.step(index, Event::Ready(true));
            }
            Action::Serve(index) => {
                next.node(index).reported = true;
                let epoch = next.nodes[index].epoch().unwrap_or_default();
                next.step(index, Event::Serving(epoch));
            }
            Action::End(index) => {
                let epoch = next.nodes[index].epoch().unwrap_or_default();
                let node = next.node(index);
                node.effects = None;
                if std::mem::take(&mut node.slow_end) {
                    next.quiet = 0;
                }
                next.step(index, Event::EffectsEnded(epoch));
            }
            Action::Notice(index) => {
                next.node(index).noticed = true;
                next.seen(index, Seen::Disconnected);
            }
            Action::Heal(index) => next.heal(index),
            Action::Ended(index) => next.seen(index, Seen::Ended),
            Action::Expire(session) => {
                next.quiet = 0;
                let changed = next.zk().end(session);
                next.tell(changed);
            }
            Action::Return => {
                (next.outage, next.quiet) = (None, 0);
                for index in 0..next.nodes.len() {
                    if next.nodes[index].up == Up::Up && next.nodes[index].cut.is_some() {
                        next.heal(index);
                    }
                }
            }
            Action::Resume(index) => {
                let node = next.node(index);
                (node.paused, node.groggy) = (false, true);
                next.quiet = 0;
            }
            Action::Restart(index) => next.restart(bounds, index),
            Action::Fault(kind, index) => next.fault(kind, index),
            Action::Spoil(kind, index, at) => next.spoil(kind, index, at),
        }
    }

    /// ZooKeeper executes a request; the answer is on its way.
    pub(super) fn execute(&mut self, index: usize, at: usize) {
        let request = self.nodes[index].requests[at].clone();
        let answer = match &request.effect {
            Effect::Join { .. } => {
                self.close_before(index, request.session);
                let (session, sequence) = self.zk().open();
                if request.old {
                    // It came when the election had gone on without it: closed again.
                    self.zk().end(session);
                } else {
                    self.node(index).session = session;
                    self.node(index).watch = true;
                }
                Seen::Joined { sequence }
            }
            Effect::Audit => {
                self.audit(index);
                Seen::Stir
            }
            effect => {
                if let Effect::Release { .. } = effect {
                    self.check_release(index, request.session);
                }
                let asker = self.nodes[index].asker(index);
                let asker = super::zk::Asker { session: request.session, ..asker };
                let (seen, changed) = self.zk().execute(asker, effect);
                self.tell(changed);
                seen
            }
        };
        self.node(index).requests[at].answer = Some(answer);
    }

    fn check_release(&mut self, index: usize, session: u8) {
        // A target that is gone is not claimed to be deleted.
        if self.nodes[index].session == session {
            let refused = self.nodes[index].requests.iter().any(|request| match &request.effect {
                Effect::Release { how: Release::Handover { to }, .. } => {
                    !self.zk.candidates.values().any(|candidate| candidate.node == *to)
                }
                _ => false,
            });
            if !refused {
                self.check_fence(session);
            }
        }
    }

    /// A join closes the session before: over on the server, or given up with nothing behind it that it fences.
    fn close_before(&mut self, index: usize, session: u8) {
        let alive = self.zk.leader.as_ref().is_some_and(|(owner, record)| {
            *owner == session && self.nodes[index].effects == Some(record.epoch)
        });
        if alive {
            self.broken = Some(super::FENCE_LAST);
        }
        let changed = self.zk().end(session);
        self.tell(changed);
    }

    /// What our session owns and we do not know of is removed.
    fn audit(&mut self, index: usize) {
        let node = &self.nodes[index];
        let (session, candidate) = (node.session, node.core.may_be_candidate());
        if !candidate && self.zk.candidates.contains_key(&session) {
            self.zk().candidates.remove(&session);
            self.tell(super::zk::Changed { line: true, leader: false });
        }
        if !self.nodes[index].core.may_own_leader() {
            self.delete_leader_of(session);
        }
    }

    fn delete_leader_of(&mut self, session: u8) {
        if self.zk.leader.as_ref().is_some_and(|(owner, _)| *owner == session) {
            self.check_fence(session);
            self.zk().leader = None;
            self.tell(super::zk::Changed { line: false, leader: true });
        }
    }

    /// The answer reaches the election.
    pub(super) fn answer(&mut self, index: usize, at: usize) {
        let request = self.node(index).requests.remove(at);
        let Some(seen) = request.answer else { return };
        if request.effect == Effect::Audit {
            return;
        }
        self.node(index).claim_age = request.age;
        self.deliver(index, request.old, seen);
        if self.nodes[index].up == Up::Up {
            self.node(index).claim_age = 0;
        }
    }

    fn deliver(&mut self, index: usize, old: bool, seen: Seen) {
        self.step(index, Event::Seen(Generation(u64::from(!old)), seen));
    }

    /// The caller gives up on a request, or is told that it failed.
    pub(super) fn give_up(&mut self, index: usize, at: usize, late: bool) {
        let request = self.nodes[index].requests[at].clone();
        let Some(failed) = request.failed() else {
            // An audit is repeated.
            let request = &mut self.node(index).requests[at];
            (request.age, request.slow, request.answer) = (0, true, None);
            return;
        };
        if late {
            let request = &mut self.node(index).requests[at];
            (request.late, request.slow) = (true, false);
        } else {
            self.node(index).requests.remove(at);
            self.unwanted(index, request.answer);
        }
        self.deliver(index, request.old, failed);
    }

    /// A claim that nobody waits for was executed.
    fn unwanted(&mut self, index: usize, answer: Option<Seen>) {
        if matches!(answer, Some(Seen::Claimed { .. })) && self.nodes[index].session != 0 {
            self.node(index).undo = true;
        }
    }

    fn lease_speaks(&mut self, index: usize) {
        let node = self.node(index);
        let (Some(news), Some(lease)) = (node.news.take(), node.lease) else { return };
        let epoch = lease.epoch;
        self.seen(
            index,
            match news {
                News::Held => Seen::LeaseHeld { epoch },
                News::Lapsed => Seen::LeaseLapsed { epoch },
                News::Lost => Seen::LeaseLost { epoch, reason: "the authority is gone".into() },
            },
        );
    }

    /// The network is back, and so is the session, if it lives.
    fn heal(&mut self, index: usize) {
        self.quiet = 0;
        let lives = self.lives(&self.nodes[index]);
        let session = self.nodes[index].session;
        let node = self.node(index);
        node.cut = None;
        let noticed = std::mem::take(&mut node.noticed);
        if !lives {
            return;
        }
        node.watch = true;
        self.zk().sessions.insert(session, 0);
        if !noticed {
            self.seen(index, Seen::Disconnected);
        }
        self.seen(index, Seen::Connected);
    }

    /// The next life removes what the one before has left.
    fn restart(&mut self, bounds: &Bounds, index: usize) {
        self.quiet = 0;
        let (session, life) = (self.nodes[index].session, self.nodes[index].life);
        let changed = self.zk().end(session);
        self.tell(changed);
        let (session, sequence) = self.zk().open();
        *self.node(index) = Node::fresh(bounds, index, life + 1, session, sequence);
    }

    /// Whether this node leads, or may again.
    pub(super) fn holds_term(node: &Node) -> bool {
        matches!(node.core.standing(), Standing::Elected(_) | Standing::Suspended(_))
    }
}
