//! What follows once a service is taken: wait, probe, put, hold, give up.

use std::collections::VecDeque;
use std::time::Duration;

use clock::Instant;
use drill::{Bug, Drill};
use proto::vip::LocalPhase;

use super::core::{Core, Disk, State};
use super::timing::{KERNEL_SLACK, REFRESH_MIN, valid_s};
use super::{Effect, Event, LeaseNow, PutDone, PutEnd, Refused, Taken, Ticket};
use crate::net::Foreign;

/// Between two questions while somebody answers.
const BLOCKED_AGAIN: Duration = Duration::from_secs(1);

/// Questions that could not be asked, until the node counts as unable to.
const PROBE_FAILURES_MAX: u32 = 3;
const PROBE_AGAIN: Duration = Duration::from_millis(250);

/// A question that is never answered; whoever asks answers sooner.
const PROBE_MAX: Duration = Duration::from_secs(5);

/// An answer "nobody" that is older says nothing.
const CLEAR_MAX: Duration = Duration::from_secs(1);

/// A release whose answer never came; whoever writes it answers sooner.
const RELEASE_MAX: Duration = Duration::from_secs(15);
const RELEASE_AGAIN: Duration = Duration::from_millis(100);

/// A lapsed lease that is neither proved anew nor lost.
const LAPSED_MAX: Duration = Duration::from_secs(120);

/// Putting back at once so often within [`FIGHT_SPAN`]; whoever removes them more often meets us once a second.
const FIGHT_MAX: usize = 10;
const FIGHT_SPAN: Duration = Duration::from_secs(10);
const FIGHT_PAUSE: Duration = Duration::from_secs(1);

/// Between two defences against somebody who says that it has an address, and for how long that is shown.
const DEFEND_PAUSE: Duration = Duration::from_secs(1);
const CONFLICT_SHOWN: Duration = Duration::from_secs(10);

/// An expiry that was due, or nearly so, is our own.
const EXPIRY_EARLY: Duration = Duration::from_millis(50);

/// Addresses that were written.
#[derive(Clone, Copy, Debug)]
pub(super) struct There {
    at: Instant,
    valid_s: u32,
}

impl There {
    /// When the kernel has certainly removed them.
    pub(super) fn gone_by(&self) -> Instant {
        self.expires() + KERNEL_SLACK
    }

    fn expires(&self) -> Instant {
        self.at + Duration::from_secs(self.valid_s.into())
    }
}

/// What the network says of the addresses.
#[derive(Clone, Debug)]
enum Asked {
    Not { not_before: Instant },
    Asking { ticket: Ticket, since: Instant },
    Nobody { at: Instant },
    Somebody { again: Instant },
}

/// How far giving up is.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    /// The addresses go.
    Removing,
    /// The coordination service is told, from then on.
    Due { at: Instant },
    /// It is being told.
    Telling { ticket: Ticket, since: Instant },
}

/// A service that this node has taken.
#[derive(Debug)]
pub(super) struct Own {
    term_version: i32,
    /// What is recorded for a successor.
    grace: Duration,
    /// Taken under this assignment.
    mark: i64,
    wait_until: Instant,
    waited: bool,
    lease_held: bool,
    lapsed_since: Option<Instant>,
    asked: Asked,
    probe_failures: u32,
    /// The addresses are here, and are to be.
    up: bool,
    contested: Option<(Foreign, Instant)>,
    defended: Option<Instant>,
    put_backs: VecDeque<Instant>,
    put_back_at: Option<Instant>,
    fighting: bool,
    leaving: Option<Leaving>,
}

impl Own {
    pub(super) fn new(taken: &Taken, mark: i64, drill: &Drill, own_grace: Duration) -> Self {
        // Also after an earlier life of this very node, though its cleaning has removed what that one left. The term names a
        // node, not a machine: a twin or a clone of it, or a container whose former network namespace still exists, may
        // have the addresses where no cleaning looks. And that life may have been waiting itself, for somebody else's.
        // To skip it, the take, the boot, the network namespace and the end of the wait would have to be on disk before
        // each put: another fsync in every takeover, for the sake of restarts after a crash.
        let wait = match taken.wait {
            _ if drill.plants(Bug::NoTakeoverGrace) => Duration::ZERO,
            wait if drill.plants(Bug::OwnGraceOnly) => wait.min(own_grace),
            wait => wait,
        };
        Self {
            term_version: taken.term_version,
            grace: taken.grace,
            mark,
            wait_until: taken.acked + wait,
            waited: wait.is_zero(),
            lease_held: true,
            lapsed_since: None,
            asked: Asked::Not { not_before: taken.acked },
            probe_failures: 0,
            up: false,
            contested: None,
            defended: None,
            put_backs: VecDeque::new(),
            put_back_at: None,
            fighting: false,
            leaving: None,
        }
    }

    pub(super) fn first_words(&self, taken: &Taken) -> String {
        match taken.wait.as_millis() {
            0 => "taken".to_owned(),
            wait => format!(
                "taken from a node that did not release it: waiting {wait} ms until its addresses are certainly gone"
            ),
        }
    }

    pub(super) fn phase(&self, now: Instant) -> LocalPhase {
        if self.leaving.is_some() {
            LocalPhase::Releasing
        } else if self.up && self.lease_held {
            LocalPhase::Held
        } else if matches!(self.asked, Asked::Somebody { .. }) {
            LocalPhase::Blocked
        } else if now < self.wait_until || !self.lease_held {
            LocalPhase::Waiting
        } else {
            LocalPhase::Probing
        }
    }

    /// Whether the addresses may be in the kernel.
    pub(super) fn may_have_them(&self) -> bool {
        self.up && self.lease_held && self.leaving.is_none()
    }

    /// Whether the end of the lease is what a release looks like.
    pub(super) fn is_releasing(&self) -> bool {
        matches!(self.leaving, Some(Leaving::Telling { .. }))
    }

    /// The addresses go, and come back only after the network was asked again.
    fn down(&mut self, now: Instant) {
        self.up = false;
        self.contested = None;
        self.put_back_at = None;
        self.asked = Asked::Not { not_before: now };
    }
}

impl Core {
    fn own(&mut self) -> Option<&mut Own> {
        match &mut self.state {
            State::Own(own) => Some(own),
            State::Idle | State::Taking { .. } => None,
        }
    }

    /// Events that mean something only to one who has taken the service.
    pub(super) fn own_event(&mut self, event: Event, now: Instant) {
        if let Event::Put(done) = event {
            return self.put_done(done, now);
        }
        let there = self.there;
        let Some(own) = self.own() else { return };
        match event {
            Event::Lease(LeaseNow::Held) => own.proved(),
            Event::Lease(LeaseNow::Lapsed) => self.lapsed(now),
            Event::Proved { sent, remaining } => self.proved(sent, remaining, now),
            Event::Probed(ticket, answer) => self.probed(ticket, answer, now),
            Event::Vanished(what) => {
                if let Some(there) = there {
                    self.vanished(&what, "somebody removed", there, now);
                }
            }
            Event::Dropped(what) => {
                if let Some(there) = there {
                    self.vanished(&what, "its interface went down, and the kernel removed", there, now);
                }
            }
            Event::Overwritten(what) => {
                if let Some(there) = there {
                    self.vanished(&what, "somebody changed", there, now);
                }
            }
            Event::Conflict(foreign)
                if own.may_have_them()
                    && own.contested.is_none()
                    && own.defended.is_none_or(|at| now >= at + DEFEND_PAUSE) =>
            {
                own.contested = Some((foreign, now));
            }
            Event::LinkUp if own.may_have_them() => self.effects.push_back(Effect::Announce),
            Event::Redefined if own.leaving.is_none() => {
                // What was written stays on disk until all of it is forgotten.
                own.down(now);
                self.disk = Disk::Clear;
            }
            Event::Released(ticket, answer) => self.released(ticket, &answer, now),
            _ => {}
        }
    }

    fn lapsed(&mut self, now: Instant) {
        let keeps_on = self.plants(Bug::KeepOnWithoutSession);
        let Some(own) = self.own() else { return };
        if !own.lease_held || (keeps_on && own.up) {
            return;
        }
        own.lease_held = false;
        own.lapsed_since = Some(now);
        let was_up = own.up;
        own.down(now);
        if was_up {
            let what = "the lease is not proved in time: the addresses are removed until it is".to_owned();
            self.note = Some(what.clone());
            self.effects.extend([Effect::Hush, Effect::Say(what)]);
        }
    }

    fn proved(&mut self, sent: Instant, remaining: Duration, now: Instant) {
        let there = self.there;
        let Some(own) = self.own() else { return };
        if remaining.is_zero() {
            return;
        }
        own.proved();
        if !own.may_have_them() {
            return;
        }
        let grace = own.grace;
        if let Some((foreign, at)) = own.contested
            && sent >= at
        {
            own.contested = None;
            own.defended = Some(now);
            let said = format!(
                "{} also says that it has {}: this node is proved to hold it, and announces it again; find that machine",
                foreign.mac, foreign.address
            );
            self.note = Some(said.clone());
            self.conflict = Some((foreign, now + CONFLICT_SHOWN));
            self.effects.extend([Effect::Announce, Effect::Say(said)]);
        }
        let next = valid_s(remaining, grace).map(|valid_s| now + Duration::from_secs(valid_s.into()));
        if let (Some(there), Some(next)) = (there, next)
            && next >= there.expires() + REFRESH_MIN
        {
            self.effects.push_back(Effect::Put { grace });
        }
    }

    fn probed(&mut self, ticket: Ticket, answer: Result<Option<Foreign>, String>, now: Instant) {
        let Some(own) = self.own() else { return };
        let Asked::Asking { ticket: asked, .. } = own.asked else { return };
        if asked != ticket {
            return;
        }
        let waiting = now < own.wait_until;
        match answer {
            Ok(None) => {
                own.probe_failures = 0;
                own.asked = Asked::Nobody { at: now };
                if self.conflict.take().is_some() {
                    self.note = None;
                    self.effects
                        .push_back(Effect::Say("nobody else answers for its addresses any more".into()));
                }
            }
            // The one before us may still have them: that is what the wait is for.
            Ok(Some(_)) if waiting => own.asked = Asked::Not { not_before: own.wait_until },
            Ok(Some(foreign)) => {
                own.asked = Asked::Somebody { again: now + BLOCKED_AGAIN };
                let said = format!(
                    "{} answers for {}: it is not taken before that ends; find that machine and take the address away \
                     from it",
                    foreign.mac, foreign.address
                );
                if self.conflict.map(|(known, _)| known) != Some(foreign) {
                    self.effects.push_back(Effect::Say(said.clone()));
                }
                self.note = Some(said);
                self.conflict = Some((foreign, now + BLOCKED_AGAIN + PROBE_MAX));
            }
            Err(why) => {
                own.probe_failures += 1;
                own.asked = Asked::Not { not_before: now + PROBE_AGAIN };
                if own.probe_failures >= PROBE_FAILURES_MAX {
                    self.sore(
                        format!("the network cannot be asked whether its addresses are free: {why}"),
                        now,
                    );
                }
            }
        }
    }

    fn put_done(&mut self, done: PutDone, now: Instant) {
        if let Some((at, valid_s)) = done.there {
            self.there = Some(There { at, valid_s });
        }
        let Some(own) = self.own() else { return };
        match done.end {
            PutEnd::Done => {
                let first = !own.up;
                own.up = true;
                if first {
                    own.put_backs.clear();
                    self.healed();
                    self.note = None;
                    self.effects.extend([Effect::Announce, Effect::Came]);
                }
            }
            PutEnd::OutsideLease => self.lapsed(now),
            PutEnd::Refused(why) => {
                own.down(now);
                self.sore(format!("its addresses cannot be set: {why}"), now);
            }
        }
    }

    fn vanished(&mut self, what: &str, did: &str, there: There, now: Instant) {
        let Some(own) = self.own() else { return };
        if !own.may_have_them() {
            return;
        }
        if now + EXPIRY_EARLY >= there.expires() {
            // Nothing to put back: the lease does not reach so far, or it would have been refreshed.
            own.down(now);
            self.effects.push_back(Effect::Say(format!(
                "{what} has expired: it is set again once the network was asked"
            )));
            return;
        }
        while own.put_backs.front().is_some_and(|at| now.since(*at) > FIGHT_SPAN) {
            own.put_backs.pop_front();
        }
        if own.put_backs.len() < FIGHT_MAX {
            own.put_backs.push_back(now);
            own.fighting = false;
            let grace = own.grace;
            self.effects.extend([
                Effect::Put { grace },
                Effect::Announce,
                Effect::Say(format!("{did} {what}: it was put back and announced")),
            ]);
        } else if own.put_back_at.is_none() {
            own.put_back_at = Some(now + FIGHT_PAUSE);
            if std::mem::replace(&mut own.fighting, true) {
                return;
            }
            let said = format!(
                "something removes {what} again and again: it is put back once a second; find out what manages its \
                 interface (systemd-networkd, NetworkManager) and have it leave the address alone"
            );
            self.note = Some(said.clone());
            self.effects.push_back(Effect::Say(said));
        }
    }

    fn released(&mut self, ticket: Ticket, answer: &Result<(), Refused>, now: Instant) {
        let Some(own) = self.own() else { return };
        match own.leaving {
            Some(Leaving::Telling { ticket: asked, .. }) if asked == ticket => {}
            _ => return,
        }
        match answer {
            Ok(()) => {
                self.effects.push_back(Effect::Say("released".to_owned()));
                self.yielded(now);
            }
            Err(Refused::Stale(_)) => self.yielded(now),
            Err(Refused::Failed(_)) => own.leaving = Some(Leaving::Due { at: now + RELEASE_AGAIN }),
        }
    }

    /// Why the service is to be given up.
    fn reason_to_leave(&self) -> Option<String> {
        let State::Own(own) = &self.state else { return None };
        if self.stopping {
            return Some("this node stops".to_owned());
        }
        if let Some(unfit) = self.unfit() {
            return Some(unfit.to_owned());
        }
        match &self.assigned {
            None => None,
            Some(None) => Some("it is not assigned any more".to_owned()),
            Some(Some(assigned)) if assigned.mark <= own.mark => None,
            Some(Some(assigned)) => match assigned.order.first() {
                Some(node) if *node == self.settings.me => None,
                Some(node) => Some(format!("it is to move to {node}")),
                None => Some("nobody is to have it".to_owned()),
            },
        }
    }

    /// Brings a taken service on.
    pub(super) fn pursue(&mut self, now: Instant) {
        let reason = self.reason_to_leave();
        let State::Own(own) = &mut self.state else { return };
        own.waited |= now >= own.wait_until;
        if let Some(reason) = reason
            && own.leaving.is_none()
        {
            if own.up {
                self.effects.push_back(Effect::Hush);
            }
            own.leaving = Some(Leaving::Removing);
            own.down(now);
            self.effects.push_back(Effect::Say(format!("giving it up: {reason}")));
        }
        if own.leaving.is_some() {
            return self.leave(now);
        }
        if !own.lease_held {
            let since = own.lapsed_since.unwrap_or(now);
            if now >= since + LAPSED_MAX {
                return self.lost("its lease could not be proved for two minutes");
            }
            return self.wake_at(since + LAPSED_MAX);
        }
        if own.up {
            return self.hold(now);
        }
        self.come_up(now);
    }

    /// The addresses are here.
    fn hold(&mut self, now: Instant) {
        let unproved = self.plants(Bug::RefreshUnproved);
        let there = self.there;
        let Some(own) = self.own() else { return };
        let grace = own.grace;
        if let Some(at) = own.put_back_at {
            if now >= at {
                own.put_back_at = None;
                own.put_backs.push_back(now);
                self.effects.extend([Effect::Put { grace }, Effect::Announce]);
            } else {
                self.wake_at(at);
            }
        }
        if unproved && let Some(there) = there {
            if now >= there.at + REFRESH_MIN {
                self.effects.push_back(Effect::Put { grace });
            }
            self.wake_at(now.max(there.at) + REFRESH_MIN);
        }
    }

    /// Records, waits, asks the network; then puts.
    fn come_up(&mut self, now: Instant) {
        if self.disk == Disk::Clear {
            let ticket = self.ticket();
            self.disk = Disk::Writing { ticket, since: now };
            self.effects.push_back(Effect::Record(ticket));
        }
        let (takes, written, ticket) = (self.settings.probe_takes, self.disk == Disk::Written, self.ticket());
        let gone = self.there.is_none();
        let State::Own(own) = &mut self.state else { return };
        let mut ask = false;
        match own.asked {
            // The question may be asked within the wait, so that both end together.
            Asked::Not { not_before } => {
                let due = not_before.max(own.wait_until - takes);
                ask = now >= due;
                self.wake_at(due);
            }
            Asked::Somebody { again } => {
                ask = now >= again;
                self.wake_at(again);
            }
            Asked::Asking { since, .. } => {
                if now >= since + PROBE_MAX {
                    own.asked = Asked::Not { not_before: now };
                }
                self.wake_at(since + PROBE_MAX);
            }
            Asked::Nobody { at } => {
                // Too old an answer: ask again.
                if now > at + CLEAR_MAX {
                    ask = true;
                } else if now >= own.wait_until && written && gone {
                    let grace = own.grace;
                    self.effects.push_back(Effect::Put { grace });
                    return;
                } else {
                    let due = own.wait_until;
                    self.wake_at(if now < due { due } else { at + CLEAR_MAX });
                }
            }
        }
        if ask {
            let State::Own(own) = &mut self.state else { return };
            own.asked = Asked::Asking { ticket, since: now };
            self.effects.push_back(Effect::Probe(ticket));
            self.wake_at(now + PROBE_MAX);
        }
    }

    /// Removes, then releases. The disk is told beside the release: whoever waits for the service does not wait for a
    /// disk. An entry that a crash leaves on it names an address that is gone.
    fn leave(&mut self, now: Instant) {
        let gone = self.there.is_none() || self.plants(Bug::ReleaseBeforeRemoval);
        let disk = self.disk;
        let Some(own) = self.own() else { return };
        match own.leaving {
            Some(Leaving::Removing) if gone => {
                own.leaving = Some(Leaving::Due { at: now });
                if disk == Disk::Written {
                    self.forget(now);
                }
                self.leave(now);
            }
            // Whoever removes them wakes us.
            Some(Leaving::Removing) | None => {}
            Some(Leaving::Due { at }) if now >= at => {
                let (term_version, free) = (own.term_version, own.waited);
                let ticket = self.ticket();
                if let Some(own) = self.own() {
                    own.leaving = Some(Leaving::Telling { ticket, since: now });
                }
                // First, or the probe that finds it gone proves nothing for the other services.
                self.effects.extend([Effect::Unprove, Effect::Release { ticket, term_version, free }]);
                self.wake_at(now + RELEASE_MAX);
            }
            Some(Leaving::Due { at }) => self.wake_at(at),
            Some(Leaving::Telling { since, .. }) if now >= since + RELEASE_MAX => {
                own.leaving = Some(Leaving::Due { at: now });
                self.leave(now);
            }
            Some(Leaving::Telling { since, .. }) => self.wake_at(since + RELEASE_MAX),
        }
    }
}

impl Own {
    fn proved(&mut self) {
        self.lease_held = true;
        self.lapsed_since = None;
    }
}
