//! The leader election of D5, sans IO: events in, effects out, no clock of its own, ordered maps only.
//!
//! ```text
//!             claim                 claimed                 serving by its deadline, or else
//! Follower ──────────▶ Claiming ─────────────▶ Elected ─────────────────────────────┐
//!    ▲  ▲                 │                     │    ▲                              │
//!    │  └─────────────────┘        disconnected │    │ same session, same           │ not serving, not ready,
//!    │    refused, unknown          or lapsed   ▼    │ leader owner, same epoch     │ asked, handover, stop
//!    │                                        Suspended                             │
//!    │                                          │ deposed, too long, session over   │
//!    │   effects ended, `leader` deleted        ▼                                   │
//!    └────────────────────────────────────── Resigning ◀────────────────────────────┘
//!                                            (any of them, once asked to stop) ──▶ Left
//! ```
//!
//! [`Election::step`] first takes in what happened, then looks at the whole state and asks for whatever is due
//! (`Election::advance`): nothing depends on an event arriving twice or in a certain order, and a lost one costs a
//! deadline, not the cluster. Each effect that has an answer is outstanding at most once.
//!
//! Whoever drives it (`quorum` in production, a simulated world in the tests here, a model checker in `model`) feeds it
//! what happened, carries out what it asks for, and wakes it at its deadline.
//!
//! **Invariant**: every state but `Left` has a [`Election::deadline`].

#[cfg(feature = "canonical")]
mod canonical;
mod event;
mod look;
mod order;
mod record;
mod resign;
mod seen;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::sync::Arc;

use clock::Instant;
use drill::Bug;
use proto::{Epoch, NodeId};

pub use event::{
    Candidate, Effect, Event, Generation, HandoverError, LeaderSeen, Release, Seen, Settings, Survey,
    TermsChange,
};
pub use order::{HoldDowns, Ranked};
pub use record::{FailedTerm, HoldDown, InvalidUuid, LeaderRecord, MemberUuid, TermRecord, Terms};
pub use resign::{Resignation, Why};

/// The election of one node.
#[derive(Clone, Debug)]
pub struct Election {
    settings: Arc<Settings>,
    generation: Generation,
    session: Session,
    state: State,
    candidacy: Candidacy,
    ready: bool,
    stopping: bool,
    /// The watch on `leader` has said something on this session.
    watched: bool,
    leader: Option<LeaderSeen>,
    /// The highest epoch that was ever seen leading.
    leader_epoch: Option<Epoch>,
    leaderless_since: Option<Instant>,
    survey: Option<Survey>,
    survey_due: Instant,
    survey_pending: Option<Pending>,
    holds: HoldDowns,
    tickets: Vec<Ticket>,
    /// Until when we leave the line to the target of our own handover.
    benched_until: Option<Instant>,
    effects_ended: Option<Epoch>,
    terms_retry: Instant,
    terms_pending: Option<Instant>,
    jitter: u64,
}

/// An effect that was asked for and not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Pending {
    since: Instant,
    until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Session {
    /// None; a join is under way, or is retried.
    Joining {
        pending: Option<Instant>,
        retry_at: Instant,
    },
    Joined {
        sequence: u64,
        disconnected_since: Option<Instant>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Follower,
    Claiming { until: Instant },
    Elected(Tenure),
    Suspended { tenure: Tenure, since: Instant, check: Option<Instant> },
    Resigning(Resignation),
    Left,
}

/// A term that we hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tenure {
    epoch: Epoch,
    serve_by: Instant,
    serving: Option<Instant>,
    /// The serving was written to `terms`.
    recorded: bool,
    lease_held: bool,
    /// Since when a candidate of a higher priority has been there.
    better_since: Option<(NodeId, Instant)>,
}

/// Whether our candidate node is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Candidacy {
    Absent { retry_at: Instant },
    Registering { until: Instant },
    Present { since: Instant, retry_at: Instant },
    Withdrawing { until: Instant },
}

/// Somebody waits for a handover.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ticket {
    ticket: u64,
    to: Option<NodeId>,
    until: Instant,
    /// The term that was given up for it.
    gave_up: Option<Epoch>,
}

/// What the election is, for the role that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Leads nothing, and nothing that it fenced is alive.
    Follower,
    /// Leads, and may act while its lease lasts.
    Elected(Epoch),
    /// Holds a term and must not act: disconnected, or the lease lapsed.
    Suspended(Epoch),
    /// Gives a term up; what it fenced has to end.
    Resigning(Epoch),
}

impl Election {
    /// A node that has just joined: `generation` and the member's `sequence` are those of its first session.
    pub fn new(settings: Settings, generation: Generation, sequence: u64, now: Instant) -> Self {
        Self {
            jitter: settings.seed,
            settings: Arc::new(settings),
            generation,
            session: Session::Joined { sequence, disconnected_since: None },
            state: State::Follower,
            candidacy: Candidacy::Absent { retry_at: now },
            ready: false,
            stopping: false,
            watched: false,
            leader: None,
            leader_epoch: None,
            leaderless_since: None,
            survey: None,
            survey_due: now,
            survey_pending: None,
            holds: HoldDowns::default(),
            tickets: Vec::new(),
            benched_until: None,
            effects_ended: None,
            terms_retry: now,
            terms_pending: None,
        }
    }

    /// Takes in one event. An event of another generation changes nothing.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut out = Vec::new();
        if matches!(self.state, State::Left) {
            return out;
        }
        let mut fresh = false;
        match event {
            Event::Seen(generation, _) if generation != self.generation => return out,
            Event::Seen(_, seen) => fresh = self.seen(seen, now, &mut out),
            Event::Ready(ready) => {
                self.ready = ready;
                self.survey_due = self.survey_due.min(now);
            }
            Event::Serving(epoch) => self.serving(epoch, now),
            Event::EffectsEnded(epoch) => {
                self.effects_ended = self.effects_ended.max(Some(epoch));
            }
            Event::Handover { ticket, to } => self.asked_to_hand_over(ticket, to, now, &mut out),
            Event::Resign { reason } => {
                if let Some(epoch) = self.tenure().map(|tenure| tenure.epoch) {
                    self.resign(epoch, Why::Asked(reason), now, &mut out);
                }
            }
            Event::GiveUp { reason } => self.give_up(reason, now, &mut out),
            Event::Stop => self.stopping = true,
            Event::Tick => {}
        }
        self.advance(now, fresh, &mut out);
        out
    }

    /// When [`Event::Tick`] is due at the latest; none once we have left.
    pub fn deadline(&self) -> Option<Instant> {
        if matches!(self.state, State::Left) {
            return None;
        }
        let mut due = Vec::new();
        match &self.session {
            Session::Joining { pending, retry_at } => due.push(pending.unwrap_or(*retry_at)),
            // Closing a session ends what its ephemerals fence, so that has to end first (invariant 10); until then
            // the resignation's own deadlines count.
            Session::Joined { disconnected_since: Some(since), .. } => {
                if !matches!(&self.state, State::Resigning(resignation) if !resignation.ended) {
                    due.push(*since + self.settings.give_up);
                }
            }
            Session::Joined { disconnected_since: None, .. } => {
                due.push(self.survey_pending.map_or(self.survey_due, |pending| pending.until));
                match self.candidacy {
                    Candidacy::Absent { retry_at } => {
                        if self.wants_candidacy() && self.benched_until.is_none() {
                            due.push(retry_at);
                        }
                    }
                    Candidacy::Present { retry_at, .. } => {
                        if !self.wants_candidacy() {
                            due.push(retry_at);
                        }
                    }
                    Candidacy::Registering { until } | Candidacy::Withdrawing { until } => due.push(until),
                }
            }
        }
        match &self.state {
            State::Follower | State::Left => {}
            State::Claiming { until } => due.push(*until),
            State::Elected(tenure) => {
                if tenure.serving.is_none() {
                    due.push(tenure.serve_by);
                }
                if tenure.serving.is_some() && !tenure.recorded {
                    due.push(self.terms_pending.unwrap_or(self.terms_retry));
                }
            }
            State::Suspended { since, check, .. } => {
                due.push(*since + self.settings.suspend_max);
                due.extend(*check);
            }
            State::Resigning(resignation) => due.push(resignation.deadline()),
        }
        due.extend(self.tickets.iter().map(|ticket| ticket.until));
        due.extend(self.benched_until);
        due.into_iter().min()
    }

    fn tenure(&self) -> Option<&Tenure> {
        match &self.state {
            State::Elected(tenure) | State::Suspended { tenure, .. } => Some(tenure),
            _ => None,
        }
    }

    fn tenure_mut(&mut self) -> Option<&mut Tenure> {
        match &mut self.state {
            State::Elected(tenure) | State::Suspended { tenure, .. } => Some(tenure),
            _ => None,
        }
    }

    fn connected(&self) -> bool {
        matches!(self.session, Session::Joined { disconnected_since: None, .. })
    }

    fn serving(&mut self, epoch: Epoch, now: Instant) {
        if let Some(tenure) = self.tenure_mut().filter(|tenure| tenure.epoch == epoch) {
            tenure.serving.get_or_insert(now);
        }
    }

    fn wants_candidacy(&self) -> bool {
        let able = match &self.state {
            State::Resigning(resignation) => resignation.stays_candidate(),
            _ => true,
        };
        // Whom a person has to help first stands in nobody's way meanwhile: nor in another cluster's, if it is one.
        let barred = self.survey.as_ref().is_some_and(|survey| survey.obstacle.is_some());
        able && !barred && self.ready && self.settings.eligible && !self.stopping
    }

    /// Looks at everything and asks for what is due.
    fn advance(&mut self, now: Instant, fresh: bool, out: &mut Vec<Effect>) {
        self.advance_tickets(now, out);
        self.advance_term(now, fresh, out);
        self.advance_resignation(now, out);
        self.advance_session(now, out);
        self.advance_candidacy(now, out);
        self.advance_survey(now, out);
        if fresh {
            self.maybe_claim(now, out);
        }
        self.maybe_leave(out);
    }

    fn advance_session(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if let Session::Joined { disconnected_since: Some(since), .. } = self.session
            && since + self.settings.give_up <= now
        {
            if let Some(epoch) = self.tenure().map(|tenure| tenure.epoch) {
                self.resign(epoch, Why::SessionLost("the session was given up".into()), now, out);
            }
            if !self.effects_may_live() {
                self.session_over(false, now, out);
            }
        }
        let Session::Joining { pending, retry_at } = &mut self.session else { return };
        if pending.is_some_and(|until| until <= now) {
            *pending = None;
        }
        if pending.is_none() && *retry_at <= now && !self.stopping {
            self.generation.0 += 1;
            *pending = Some(now + self.settings.join);
            out.push(Effect::Join { generation: self.generation });
        } else if pending.is_none() && *retry_at <= now {
            *retry_at = now + self.settings.retry;
        }
    }

    fn advance_candidacy(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.benched_until.is_some_and(|until| until <= now) {
            self.benched_until = None;
        }
        let retry_at = now + self.settings.retry;
        let until = now + self.settings.answer;
        let wanted = self.wants_candidacy();
        match &mut self.candidacy {
            // An answer that never came: the node may be there or not, and both effects cope with either.
            Candidacy::Registering { until } if *until <= now => {
                self.candidacy = Candidacy::Present { since: now, retry_at };
                self.survey_due = now;
            }
            Candidacy::Withdrawing { until } if *until <= now => {
                self.candidacy = Candidacy::Present { since: now, retry_at };
            }
            _ => {}
        }
        if !self.connected() {
            return;
        }
        match self.candidacy {
            Candidacy::Absent { retry_at } if wanted && retry_at <= now && self.benched_until.is_none() => {
                self.candidacy = Candidacy::Registering { until };
                out.push(Effect::Register);
            }
            Candidacy::Present { retry_at, .. } if !wanted && retry_at <= now => {
                self.candidacy = Candidacy::Withdrawing { until };
                out.push(Effect::Withdraw);
            }
            _ => {}
        }
    }

    fn advance_survey(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.survey_pending.is_some_and(|pending| pending.until <= now) {
            self.survey_pending = None;
            self.survey_due = now;
        }
        if self.connected() && self.survey_pending.is_none() && self.survey_due <= now {
            self.survey_pending = Some(Pending { since: now, until: now + self.settings.answer });
            // Whoever asks for a look from here on asks for another one: this one may have missed what they mean.
            self.survey_due = Instant::from_nanos(u64::MAX);
            out.push(Effect::Survey);
        }
    }

    /// Claims only right after a survey: what we act on is as new as can be.
    fn maybe_claim(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let free = matches!(self.state, State::Follower)
            && self.ready
            && !self.stopping
            && self.connected()
            && self.watched
            && self.leader.is_none()
            && matches!(self.candidacy, Candidacy::Present { .. });
        let Some(survey) = self.survey.as_ref().filter(|survey| free && survey.is_free()) else {
            return;
        };
        let expect = survey.epoch;
        let mine = self.line(now).into_iter().enumerate().find(|(_, ranked)| ranked.mine);
        let Some((rank, ranked)) = mine else { return };
        if self.claim_at(rank, &ranked).is_some_and(|turn| turn <= now) {
            self.state = State::Claiming { until: now + self.settings.answer };
            if rank == 0 && self.settings.drill.plants(Bug::ImpliedLeadership) {
                // The seed's rule: whoever comes first leads.
                let implied = Epoch(u64::try_from(expect).unwrap_or_default() + 1);
                return self.claimed(implied, now, out);
            }
            out.push(Effect::Claim { expect });
        }
    }

    fn maybe_leave(&mut self, out: &mut Vec<Effect>) {
        let quiet = matches!(self.state, State::Follower)
            && (matches!(self.candidacy, Candidacy::Absent { .. })
                || matches!(self.session, Session::Joining { .. }));
        if self.stopping && quiet {
            for ticket in self.tickets.drain(..) {
                let outcome = Err(event::HandoverError::Stopped);
                out.push(Effect::HandoverDone { ticket: ticket.ticket, outcome });
            }
            self.state = State::Left;
            out.push(Effect::Leave);
        }
    }
}
