//! What is known of a service, and whose turn it is.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use clock::Instant;
use drill::{Bug, Drill};
use proto::NodeId;
use proto::vip::LocalPhase;

use super::own::{Own, There};
use super::{Assigned, Effect, Event, LeaseNow, Refused, Session, Taken, Ticket, Tickets};
use crate::net::Foreign;
use crate::store::Term;

/// How much longer the k-th in line waits for each one before it that could take the service.
const TURN: Duration = Duration::from_millis(300);

/// After a refused take; doubled up to the second one.
const TAKE_AGAIN: Duration = Duration::from_millis(50);
const TAKE_AGAIN_MAX: Duration = Duration::from_secs(1);

/// For so long after its own session began, a node leaves a service to those before it in line also if they are not there:
/// after an outage of the coordination service all come back at about the same time, and the first would take everything.
const RETURN: Duration = Duration::from_secs(2);

/// How long whoever gave a service up leaves it to those before it in line.
const YIELD: Duration = Duration::from_secs(2);

/// The answer to a take never came; whoever carries it out answers sooner.
const TAKE_MAX: Duration = Duration::from_secs(30);

/// How long a holder of our own session stays that nobody here knows of: the writes that could explain it have ended.
const ORPHAN: Duration = Duration::from_secs(3);

/// What the node could not do, it does not try again for so long; doubled up to the second one.
const SORE: Duration = Duration::from_secs(5);
const SORE_MAX: Duration = Duration::from_secs(60);

/// A disk that has not answered for so long cannot be counted on: the service is somebody else's to have.
const DISK_MAX: Duration = Duration::from_secs(3);

/// For how long whoever has released a service is known not to want it back, without its saying so.
const JUST_LEFT: Duration = Duration::from_secs(2);

/// Between two tries to remove addresses.
const REMOVE_AGAIN: Duration = Duration::from_millis(100);

/// What does not change while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) me: NodeId,
    /// How long a probe without an answer takes.
    pub(crate) probe_takes: Duration,
    pub(crate) tickets: Tickets,
    pub(crate) drill: Drill,
}

/// Who holds the service.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HolderSeen {
    Unknown,
    /// Since then.
    Nobody(Instant),
    Somebody {
        ours: bool,
        since: Instant,
    },
}

/// Where the node stands.
#[derive(Debug)]
pub(super) enum State {
    Idle,
    Taking { ticket: Ticket, since: Instant, mark: i64 },
    Own(Box<Own>),
}

/// Whether the addresses are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disk {
    Clear,
    Writing { ticket: Ticket, since: Instant },
    Written,
    Clearing { ticket: Ticket, since: Instant },
}

impl Disk {
    fn writes(&self, asked: Ticket) -> bool {
        matches!(self, Self::Writing { ticket, .. } if *ticket == asked)
    }

    fn clears(&self, asked: Ticket) -> bool {
        matches!(self, Self::Clearing { ticket, .. } if *ticket == asked)
    }
}

/// One node's part in one service.
#[derive(Debug)]
pub(crate) struct Core {
    pub(super) settings: Settings,
    pub(super) grace: Duration,
    session: Option<Session>,
    session_since: Instant,
    /// The inner is none where there is no assignment; the outer while that is not known.
    pub(super) assigned: Option<Option<Assigned>>,
    assigned_since: Instant,
    holder: HolderSeen,
    /// When another one was seen to leave it, in this session.
    left: Option<Instant>,
    term: Option<(i32, Term)>,
    there_are: BTreeSet<NodeId>,
    /// None while it is not known: then everybody before us counts as able.
    able: Option<BTreeSet<NodeId>>,
    drained: bool,
    unfit: Option<String>,
    /// Something could not be done here: not again before then.
    sore: Option<(Instant, String)>,
    sore_next: Duration,
    pub(super) stopping: bool,
    /// When it last had, or was about to have, the service.
    busy_until: Instant,
    take_not_before: Instant,
    take_again: Duration,
    yielded: Option<(i64, Instant)>,
    pub(super) state: State,
    /// The addresses may be in the kernel.
    pub(super) there: Option<There>,
    remove_not_before: Instant,
    remove_failed: bool,
    pub(super) disk: Disk,
    pub(super) wake: Option<Instant>,
    pub(super) effects: VecDeque<Effect>,
    /// Who else answers for an address, until when that is shown.
    pub(super) conflict: Option<(Foreign, Instant)>,
    /// What people should know.
    pub(super) note: Option<String>,
}

impl Core {
    /// Knows nothing and holds nothing.
    pub(crate) fn new(settings: Settings, grace: Duration) -> Self {
        let never = Instant::default();
        Self {
            settings,
            grace,
            session: None,
            session_since: never,
            assigned: None,
            assigned_since: never,
            holder: HolderSeen::Unknown,
            left: None,
            term: None,
            there_are: BTreeSet::new(),
            able: None,
            drained: false,
            unfit: None,
            sore: None,
            sore_next: SORE,
            stopping: false,
            busy_until: never,
            take_not_before: never,
            take_again: TAKE_AGAIN,
            yielded: None,
            state: State::Idle,
            there: None,
            remove_not_before: never,
            remove_failed: false,
            disk: Disk::Clear,
            wake: None,
            effects: VecDeque::new(),
            conflict: None,
            note: None,
        }
    }

    /// Takes an event in; what is to be done about it, in this order.
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        if !matches!(self.state, State::Idle) {
            self.busy_until = now;
        }
        self.hear(event, now);
        self.settle(now);
        self.effects.drain(..).collect()
    }

    /// When to bring it [`Event::Tick`] at the latest.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// What the node does.
    pub(crate) fn phase(&self, now: Instant) -> LocalPhase {
        match &self.state {
            State::Own(own) => own.phase(now),
            State::Idle | State::Taking { .. } if self.there.is_some() => LocalPhase::Releasing,
            State::Idle | State::Taking { .. } => LocalPhase::Idle,
        }
    }

    /// Whether the addresses are to be announced: they are here, by all that this core knows.
    pub(crate) fn may_announce(&self) -> bool {
        self.there.is_some() && matches!(&self.state, State::Own(own) if own.may_have_them())
    }

    /// Whether the answer to this take is waited for.
    pub(crate) fn awaits(&self, take: Ticket) -> bool {
        matches!(self.state, State::Taking { ticket, .. } if ticket == take)
    }

    /// Why this node cannot hold the service.
    pub(crate) fn unfit(&self) -> Option<&str> {
        self.unfit.as_deref().or(self.sore.as_ref().map(|(_, why)| why.as_str()))
    }

    /// Who else answers for an address.
    pub(crate) fn conflict(&self) -> Option<Foreign> {
        self.conflict.map(|(foreign, _)| foreign)
    }

    /// What people should know.
    pub(crate) fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether nothing of it is left: no address, no holder, nothing on disk.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.state, State::Idle) && self.there.is_none() && self.disk == Disk::Clear
    }

    fn hear(&mut self, event: Event, now: Instant) {
        match event {
            Event::Session(session) => self.session(session, now),
            Event::Assigned(assigned) => {
                self.assigned = Some(assigned);
                self.assigned_since = now;
                self.take_again = TAKE_AGAIN;
                // What was refused was refused under the one before.
                self.take_not_before = now;
            }
            Event::Holder(holder) => {
                if holder.is_none() && matches!(self.holder, HolderSeen::Somebody { ours: false, .. }) {
                    self.left = Some(now);
                }
                self.holder = match (holder, &self.holder) {
                    (None, HolderSeen::Nobody(since)) => HolderSeen::Nobody(*since),
                    (None, _) => HolderSeen::Nobody(now),
                    (Some((_, ours)), HolderSeen::Somebody { ours: before, since }) if ours == *before => {
                        HolderSeen::Somebody { ours, since: *since }
                    }
                    (Some((_, ours)), _) => HolderSeen::Somebody { ours, since: now },
                };
            }
            Event::Term(term) => self.term = term,
            Event::Peers { there, able, drained } => {
                (self.there_are, self.able) = (there, Some(able));
                self.drained = drained;
            }
            Event::Fitness(unfit) => self.unfit = unfit,
            Event::Grace(grace) => self.grace = grace,
            Event::Taken(ticket, answer) => self.taken(ticket, answer, now),
            Event::Recorded(ticket, answer) if self.disk.writes(ticket) => match answer {
                Ok(()) => self.disk = Disk::Written,
                Err(why) => {
                    // It may be there in part: it has to be taken off again.
                    self.disk = Disk::Written;
                    self.sore(format!("the local database of addresses cannot be written: {why}"), now);
                }
            },
            Event::Forgotten(ticket) if self.disk.clears(ticket) => self.disk = Disk::Clear,
            Event::Removed(answer) => match answer {
                Ok(()) => {
                    self.there = None;
                    self.effects.push_back(Effect::Went);
                    self.remove_not_before = now;
                    self.remove_failed = false;
                }
                Err(why) if !std::mem::replace(&mut self.remove_failed, true) => {
                    self.effects.push_back(Effect::Say(format!(
                        "the addresses cannot be removed, which is tried again until the kernel has done it: {why}"
                    )));
                }
                Err(_) => {}
            },
            Event::Lease(LeaseNow::Lost(why)) if !self.plants(Bug::KeepOnWithoutSession) => {
                if matches!(self.state, State::Own(_)) {
                    self.lost(&why);
                }
            }
            Event::Stop => self.stopping = true,
            Event::Tick | Event::Recorded(..) | Event::Forgotten(_) => {}
            event => self.own_event(event, now),
        }
    }

    fn session(&mut self, session: Option<Session>, now: Instant) {
        if session == self.session {
            return;
        }
        (self.session, self.session_since) = (session, now);
        self.assigned = None;
        self.holder = HolderSeen::Unknown;
        self.left = None;
        self.term = None;
        // What was heard on the old session says nothing of who is there now.
        self.there_are.clear();
        self.able = None;
        if self.plants(Bug::KeepOnWithoutSession) {
            return;
        }
        match self.state {
            State::Own(_) => self.lost("the session with the coordination service is over"),
            // Whatever becomes of it goes with its session.
            State::Taking { .. } => self.state = State::Idle,
            State::Idle => {}
        }
    }

    fn taken(&mut self, ticket: Ticket, answer: Result<Taken, Refused>, now: Instant) {
        let State::Taking { ticket: asked, mark, .. } = self.state else { return };
        if asked != ticket {
            return;
        }
        match answer {
            Ok(taken) => {
                self.take_again = TAKE_AGAIN;
                let own = Own::new(&taken, mark, &self.settings.drill, self.grace);
                self.effects.push_back(Effect::Say(own.first_words(&taken)));
                self.effects.push_back(Effect::Prove(taken));
                self.state = State::Own(Box::new(own));
            }
            Err(_) if self.assigned.iter().flatten().any(|assigned| assigned.mark > mark) => {
                // Whoever wrote the new one was quicker with it than the refusal.
                self.state = State::Idle;
            }
            Err(_) => self.take_later(now),
        }
    }

    fn take_later(&mut self, now: Instant) {
        self.state = State::Idle;
        self.take_not_before = now + self.take_again;
        self.take_again = (self.take_again * 2).min(TAKE_AGAIN_MAX);
    }

    /// What was taken is somebody else's to have now: the addresses go at once, and nothing is written.
    pub(super) fn lost(&mut self, why: &str) {
        let quiet = matches!(&self.state, State::Own(own) if own.is_releasing());
        if !quiet {
            self.effects.push_back(Effect::Say(format!("the service is not this node's any more: {why}")));
        }
        self.end_of_own();
    }

    /// The end of whatever follows a take.
    pub(super) fn end_of_own(&mut self) {
        self.effects.extend([Effect::Unprove, Effect::Hush]);
        self.state = State::Idle;
        self.conflict = None;
        self.note = None;
    }

    /// It was released, or left: those before in line come first for a while.
    pub(super) fn yielded(&mut self, now: Instant) {
        self.end_of_own();
        self.yielded = self.assigned.iter().flatten().map(|assigned| (assigned.mark, now + YIELD)).next();
    }

    /// This node cannot do its part.
    pub(super) fn sore(&mut self, why: String, now: Instant) {
        self.effects.push_back(Effect::Say(why.clone()));
        self.sore = Some((now + self.sore_next, why));
        self.sore_next = (self.sore_next * 2).min(SORE_MAX);
    }

    /// What was sore has worked.
    pub(super) fn healed(&mut self) {
        self.sore_next = SORE;
    }

    pub(super) fn plants(&self, bug: Bug) -> bool {
        self.settings.drill.plants(bug)
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.settings.tickets.next()
    }

    /// Be woken at `at`. What is due already is done by then, or waits for an answer.
    pub(super) fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Brings everything on that is due.
    fn settle(&mut self, now: Instant) {
        self.wake = None;
        if self.sore.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.sore = None;
        }
        if let Disk::Writing { since, .. } | Disk::Clearing { since, .. } = self.disk {
            let late = since + DISK_MAX;
            if now < late {
                self.wake_at(late);
            } else if self.sore.is_none() {
                self.sore(
                    "the local database of addresses does not answer: look at this node's disk".into(),
                    now,
                );
            }
        }
        if let Some((until, _)) = self.sore {
            self.wake_at(until);
        }
        if self.conflict.is_some_and(|(_, until)| until <= now) {
            self.conflict = None;
            self.note = None;
        }
        if let Some((_, until)) = self.conflict {
            self.wake_at(until);
        }
        // First, since it decides what is allowed to be there.
        match self.state {
            State::Idle => self.consider(now),
            State::Taking { since, .. } if now >= since + TAKE_MAX => self.take_later(now),
            State::Taking { since, .. } => self.wake_at(since + TAKE_MAX),
            State::Own(_) => self.pursue(now),
        }
        self.remove_what_must_go(now);
        self.tidy(now);
    }

    /// Removes addresses that this node may not have, again and again until they are gone.
    fn remove_what_must_go(&mut self, now: Instant) {
        let Some(there) = self.there else { return };
        if matches!(&self.state, State::Own(own) if own.may_have_them()) {
            return;
        }
        if now >= there.gone_by() {
            // The kernel has done it.
            self.there = None;
            self.effects.push_back(Effect::Went);
            self.wake_at(now);
        } else if now >= self.remove_not_before {
            self.remove_not_before = now + REMOVE_AGAIN;
            self.effects.push_back(Effect::Remove);
            self.wake_at(self.remove_not_before);
        } else {
            self.wake_at(self.remove_not_before);
        }
    }

    /// Takes off the disk what is not there and not wanted.
    fn tidy(&mut self, now: Instant) {
        if matches!(self.state, State::Idle) && self.there.is_none() && self.disk == Disk::Written {
            self.forget(now);
        }
    }

    pub(super) fn forget(&mut self, now: Instant) {
        let ticket = self.ticket();
        self.disk = Disk::Clearing { ticket, since: now };
        self.wake_at(now + DISK_MAX);
        self.effects.push_back(Effect::Forget(ticket));
    }

    /// Takes the service if nobody has it and it is this node's turn.
    fn consider(&mut self, now: Instant) {
        self.leave_orphan(now);
        if self.session.is_none()
            || self.stopping
            || self.drained
            || self.unfit().is_some()
            || self.there.is_some()
            || !matches!(self.disk, Disk::Clear)
        {
            return;
        }
        let (HolderSeen::Nobody(gone), Some(Some(assigned))) = (&self.holder, &self.assigned) else { return };
        let Some(place) = assigned.order.iter().position(|node| *node == self.settings.me) else { return };
        // Whoever has just released it does not want its turn, which is known before its report says so. Not for long, and
        // not against a newer assignment: whoever released it last may well be the one that is to have it again.
        let lately = |left: Instant| left >= self.assigned_since && now < left + JUST_LEFT;
        let gave_it_up = match &self.term {
            Some((_, Term::Free { node, .. })) if self.left.is_some_and(lately) => node.as_ref(),
            _ => None,
        };
        let is_able = |node: &NodeId| {
            gave_it_up != Some(node) && self.able.as_ref().is_none_or(|able| able.contains(node))
        };
        let overtakes = assigned.order.iter().take(place).any(is_able);
        let mut due = self.take_not_before.max(*gone);
        let turn = TURN * u32::try_from(place).unwrap_or(u32::MAX);
        if assigned.order.iter().take(place).any(|node| !self.there_are.contains(node)) {
            due = due.max(self.session_since + RETURN + turn);
        }
        if overtakes {
            due = due.max(self.assigned_since.max(*gone) + turn);
            if let Some((mark, until)) = self.yielded
                && mark == assigned.mark
            {
                due = due.max(until);
            }
        }
        if now < due {
            self.wake_at(due);
            return;
        }
        let (version, mark, grace) = (assigned.version, assigned.mark, self.grace);
        let ticket = self.ticket();
        self.state = State::Taking { ticket, since: now, mark };
        self.wake_at(now + TAKE_MAX);
        self.effects.push_back(Effect::Take { ticket, version, grace });
    }

    /// A holder of our own session that we do not know of (a take whose answer was lost and whose undoing failed) would
    /// stay for as long as the session does.
    fn leave_orphan(&mut self, now: Instant) {
        let HolderSeen::Somebody { ours: true, since } = self.holder else { return };
        if self.there.is_some() {
            return; // It fences what is still to be removed.
        }
        // What was just released may still be seen.
        let due = since.max(self.busy_until) + ORPHAN;
        if now < due {
            self.wake_at(due);
            return;
        }
        // Whose it is, its session says; what the term says of it somebody may have edited. It is not touched: whoever takes
        // next waits as long as it wants.
        let term_version = self.term.as_ref().map_or(-1, |(version, _)| *version);
        let ticket = self.ticket();
        self.holder = HolderSeen::Somebody { ours: true, since: now };
        self.wake_at(now + ORPHAN);
        self.effects.push_back(Effect::Say("giving up a take that nobody asked for".to_owned()));
        self.effects.push_back(Effect::Release { ticket, term_version, free: false });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a node's name")
    }

    const fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A core of n2, which follows n1, whose session began at 0.
    fn second_in_line(there: &[&str], able: &[&str]) -> Core {
        let settings = Settings {
            me: node("n2"),
            probe_takes: Duration::from_millis(80),
            tickets: Tickets::default(),
            drill: Drill::none(),
        };
        let mut core = Core::new(settings, Duration::from_secs(2));
        let order = vec![node("n1"), node("n2")];
        let [there, able] = [there, able].map(|names| names.iter().map(|name| node(name)).collect());
        for event in [
            Event::Session(Some(1)),
            Event::Assigned(Some(Assigned { version: 0, mark: 7, order })),
            Event::Peers { there, able, drained: false },
            Event::Fitness(None),
        ] {
            assert_eq!(core.step(event, at(0)), []);
        }
        core
    }

    /// When it takes the service, which nobody has from `gone` on.
    fn takes(mut core: Core, gone: u64) -> u64 {
        let mut effects = core.step(Event::Holder(None), at(gone));
        let mut now = gone;
        while effects.is_empty() {
            now = core.wake().expect("it waits for its time").as_nanos() / 1_000_000;
            assert!(now < 60_000, "it never takes it");
            effects = core.step(Event::Tick, at(now));
        }
        assert!(matches!(effects[..], [Effect::Take { version: 0, .. }]), "{effects:?}");
        now
    }

    #[test]
    fn whoever_is_gone_is_followed_at_once_but_not_by_one_that_has_just_come() {
        let (both, alone) = (["n1", "n2"], ["n2"]);
        assert_eq!(takes(second_in_line(&alone, &alone), 5_000), 5_000, "n1 is gone");
        assert_eq!(takes(second_in_line(&both, &both), 5_000), 5_300, "n1 has its turn first");
        assert_eq!(takes(second_in_line(&alone, &alone), 100), 2_300, "n1 may be about to come back too");
        assert_eq!(takes(second_in_line(&both, &alone), 100), 100, "n1 is back and cannot take it");
    }

    #[test]
    fn what_was_known_of_the_others_ends_with_the_session() {
        let mut core = second_in_line(&["n1", "n2"], &["n1", "n2"]);
        let order = vec![node("n1"), node("n2")];
        core.step(Event::Session(Some(2)), at(10_000));
        core.step(Event::Assigned(Some(Assigned { version: 0, mark: 7, order })), at(10_000));
        assert_eq!(takes(core, 10_000), 12_300, "n1 may be about to come back too");
    }

    #[test]
    fn a_disk_that_hangs_gives_the_service_to_somebody_else() {
        let mut core = second_in_line(&["n2"], &["n2"]);
        let effects = core.step(Event::Holder(None), at(10_000));
        let [Effect::Take { ticket, .. }] = effects[..] else { panic!("{effects:?}") };
        let taken = Taken {
            take: uuid::Uuid::from_u128(1),
            sent: at(10_000),
            acked: at(10_000),
            term_version: 3,
            wait: Duration::ZERO,
            grace: Duration::from_secs(2),
        };
        let mut effects = core.step(Event::Taken(ticket, Ok(taken)), at(10_000));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Record(_))), "{effects:?}");
        while !effects.iter().any(|effect| matches!(effect, Effect::Release { .. })) {
            let now = core.wake().expect("it does not wait for ever").as_nanos() / 1_000_000;
            assert!(now < 20_000, "it goes on waiting for the disk");
            effects = core.step(Event::Tick, at(now));
            assert!(!effects.iter().any(|effect| matches!(effect, Effect::Put { .. })), "{effects:?}");
        }
        assert!(core.unfit().is_some_and(|why| why.contains("disk")), "{:?}", core.unfit());
    }
}
