//! The election, sans IO: events in, effects out, no clock of its own, ordered maps only.
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
//! ([`Election::advance`]): nothing depends on an event arriving twice or in a certain order, and a lost one costs a
//! deadline, not the cluster. Each effect that has an answer is outstanding at most once.
//!
//! **Invariant**: every state but `Left` has a [`Election::deadline`].

pub(crate) mod event;
mod order;
mod resign;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::Duration;

use clock::Instant;
use proto::{Epoch, NodeId};

pub(crate) use event::{Effect, Event, Generation, LeaderSeen, Seen, Settings, Survey};
pub(crate) use order::{HoldDowns, Ranked};
pub(crate) use resign::{Resignation, Why};

/// The election of one node.
#[derive(Debug)]
pub(crate) struct Election {
    settings: Settings,
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
#[derive(Clone, Copy, Debug)]
struct Pending {
    since: Instant,
    until: Instant,
}

#[derive(Debug)]
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

#[derive(Debug)]
enum State {
    Follower,
    Claiming { until: Instant },
    Elected(Tenure),
    Suspended { tenure: Tenure, since: Instant, check: Option<Instant> },
    Resigning(Resignation),
    Left,
}

/// A term that we hold.
#[derive(Clone, Debug)]
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
#[derive(Debug)]
enum Candidacy {
    Absent { retry_at: Instant },
    Registering { until: Instant },
    Present { since: Instant, retry_at: Instant },
    Withdrawing { until: Instant },
}

/// Somebody waits for a handover.
#[derive(Debug)]
struct Ticket {
    ticket: u64,
    to: Option<NodeId>,
    until: Instant,
    /// The term that was given up for it.
    gave_up: Option<Epoch>,
}

/// What the election is, for the role that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Follower,
    Elected(Epoch),
    Suspended(Epoch),
    Resigning(Epoch),
}

impl Election {
    /// A node that has just joined: `generation` and the member's `sequence` are those of its first session.
    pub(crate) fn new(settings: Settings, generation: Generation, sequence: u64, now: Instant) -> Self {
        Self {
            jitter: settings.seed,
            settings,
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
    pub(crate) fn step(&mut self, event: Event, now: Instant) -> Vec<Effect> {
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
            Event::Stop => self.stopping = true,
            Event::Tick => {}
        }
        self.advance(now, fresh, &mut out);
        out
    }

    /// When [`Event::Tick`] is due at the latest; none once we have left.
    pub(crate) fn deadline(&self) -> Option<Instant> {
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

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    pub(crate) fn standing(&self) -> Standing {
        match &self.state {
            State::Elected(tenure) => Standing::Elected(tenure.epoch),
            State::Suspended { tenure, .. } => Standing::Suspended(tenure.epoch),
            State::Resigning(resignation) if !resignation.ended => Standing::Resigning(resignation.epoch),
            State::Resigning(_) | State::Follower | State::Claiming { .. } | State::Left => {
                Standing::Follower
            }
        }
    }

    pub(crate) fn leader(&self) -> Option<&LeaderSeen> {
        self.leader.as_ref()
    }

    /// Whether the present leader is known to serve.
    pub(crate) fn leader_serves(&self) -> bool {
        let Some(leader) = &self.leader else { return false };
        let ours = self
            .tenure()
            .is_some_and(|tenure| tenure.epoch == leader.record.epoch && tenure.serving.is_some());
        ours || self.survey.as_ref().is_some_and(|survey| survey.terms.serves(leader.record.epoch))
    }

    pub(crate) fn leaderless_since(&self) -> Option<Instant> {
        self.leaderless_since
    }

    pub(crate) fn survey(&self) -> Option<&Survey> {
        self.survey.as_ref()
    }

    pub(crate) fn sequence(&self) -> Option<u64> {
        match self.session {
            Session::Joined { sequence, .. } => Some(sequence),
            Session::Joining { .. } => None,
        }
    }

    pub(crate) fn holds(&self) -> &HoldDowns {
        &self.holds
    }

    /// The line as last read, with today's hold-downs.
    pub(crate) fn line(&self, now: Instant) -> Vec<Ranked> {
        self.survey.as_ref().map(|survey| order::line(survey, &self.holds, now)).unwrap_or_default()
    }

    /// When whoever stands at `rank` may claim, while there is no leader.
    pub(crate) fn claim_at(&self, rank: usize, ranked: &Ranked) -> Option<Instant> {
        self.leaderless_since.map(|since| order::claim_at(since, self.settings.claim_grace, rank, ranked))
    }

    /// Why we are giving up a term, if we are.
    pub(crate) fn resigning(&self) -> Option<&Resignation> {
        match &self.state {
            State::Resigning(resignation) => Some(resignation),
            _ => None,
        }
    }

    /// Whether `leader` may be ours: then the session must not be closed before it is deleted.
    pub(crate) fn may_own_leader(&self) -> bool {
        !matches!(self.state, State::Follower | State::Left)
    }

    /// Whether our candidate node may be there: one that is found although it should not be is nobody's.
    pub(crate) fn may_be_candidate(&self) -> bool {
        !matches!(self.candidacy, Candidacy::Absent { .. })
    }

    /// Whether effects of a term may still be alive.
    pub(crate) fn effects_may_live(&self) -> bool {
        match &self.state {
            State::Elected(_) | State::Suspended { .. } => true,
            State::Resigning(resignation) => !resignation.ended,
            State::Follower | State::Claiming { .. } | State::Left => false,
        }
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

    /// Takes in what a session shows. Returns whether it was a fresh survey.
    fn seen(&mut self, seen: Seen, now: Instant, out: &mut Vec<Effect>) -> bool {
        let retry_at = now + self.settings.retry;
        match seen {
            Seen::Joined { sequence } => {
                self.session = Session::Joined { sequence, disconnected_since: None };
                self.survey_due = now;
            }
            Seen::JoinFailed => self.session = Session::Joining { pending: None, retry_at },
            Seen::Connected => self.reconnected(now, out),
            Seen::Disconnected => self.disconnected(now),
            Seen::Ended => self.session_over(true, now, out),
            Seen::Leader(leader) => {
                self.watched = true;
                self.leader_is(leader, now, out);
                self.survey_due = now;
            }
            Seen::Stir => self.survey_due = now,
            Seen::Surveyed(survey) => {
                self.surveyed(*survey, now, out);
                return true;
            }
            Seen::SurveyFailed => {
                self.survey_pending = None;
                self.survey_due = retry_at;
            }
            Seen::Registered => {
                self.candidacy = Candidacy::Present { since: now, retry_at: now };
                self.survey_due = now;
            }
            Seen::Restored { sequence: now_ours } => {
                if let Session::Joined { sequence, .. } = &mut self.session {
                    *sequence = now_ours;
                }
            }
            Seen::RegisterRefused => {
                self.candidacy = Candidacy::Absent { retry_at: now + self.settings.refresh };
            }
            Seen::RegisterFailed => self.candidacy = Candidacy::Absent { retry_at },
            Seen::Withdrawn => self.candidacy = Candidacy::Absent { retry_at: now },
            Seen::WithdrawFailed => self.candidacy = Candidacy::Present { since: now, retry_at },
            Seen::Claimed { epoch } => self.claimed(epoch, now, out),
            Seen::ClaimFailed { unknown } => {
                if matches!(self.state, State::Claiming { .. }) {
                    self.state = State::Follower;
                    self.survey_due = now;
                    if unknown {
                        out.push(Effect::Audit);
                    }
                }
            }
            Seen::LeaseHeld { epoch } => self.lease(epoch, true, now),
            Seen::LeaseLapsed { epoch } => self.lease(epoch, false, now),
            Seen::LeaseLost { epoch, reason } => {
                if self.tenure().is_some_and(|tenure| tenure.epoch == epoch) {
                    self.resign(epoch, Why::Deposed(reason), now, out);
                }
            }
            Seen::ResumeChecked { epoch, unchanged } => self.resume_checked(epoch, unchanged, now, out),
            Seen::Released { epoch } => self.released(epoch, now),
            Seen::ReleaseFailed { epoch } => {
                if let State::Resigning(resignation) = &mut self.state
                    && resignation.epoch == epoch
                {
                    resignation.release_failed(retry_at);
                }
            }
            Seen::TermsWritten { ok } => {
                self.terms_pending = None;
                self.terms_retry = now + self.settings.retry;
                if ok {
                    self.survey_due = now;
                    if let Some(tenure) = self.tenure_mut() {
                        tenure.recorded = tenure.serving.is_some();
                    }
                }
            }
        }
        false
    }

    fn disconnected(&mut self, now: Instant) {
        if let Session::Joined { disconnected_since, .. } = &mut self.session {
            disconnected_since.get_or_insert(now);
        }
        self.suspend(now);
    }

    /// The same session is back. What was asked for while it was away may have been lost, and what we know may be old.
    fn reconnected(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Session::Joined { disconnected_since, .. } = &mut self.session else { return };
        if disconnected_since.take().is_some() {
            self.survey_due = now;
            out.push(Effect::Audit);
        }
    }

    fn suspend(&mut self, now: Instant) {
        if let State::Elected(tenure) = &self.state {
            self.state = State::Suspended { tenure: tenure.clone(), since: now, check: None };
        }
    }

    fn lease(&mut self, epoch: Epoch, held: bool, now: Instant) {
        let Some(tenure) = self.tenure_mut().filter(|tenure| tenure.epoch == epoch) else { return };
        tenure.lease_held = held;
        if !held {
            self.suspend(now);
        }
    }

    /// What the watch on `leader`, or a newer survey, says.
    fn leader_is(&mut self, leader: Option<LeaderSeen>, now: Instant, out: &mut Vec<Effect>) {
        if let Some(leader) = &leader {
            let epoch = leader.record.epoch;
            self.leader_epoch = self.leader_epoch.max(Some(epoch));
            self.leaderless_since = None;
            self.benched_until = None;
            if let Some(mine) = self.tenure().map(|tenure| tenure.epoch)
                && epoch > mine
            {
                let by = &leader.record.node;
                self.resign(mine, Why::Deposed(format!("{by} leads in epoch {epoch}")), now, out);
            }
            self.tickets.retain(|ticket| {
                let over = ticket.gave_up.is_some_and(|gave_up| epoch > gave_up);
                if over {
                    let outcome = Ok(leader.record.node.clone());
                    out.push(Effect::HandoverDone { ticket: ticket.ticket, outcome });
                }
                !over
            });
        } else {
            self.leaderless_since.get_or_insert(now);
        }
        self.leader = leader;
    }

    fn surveyed(&mut self, survey: Survey, now: Instant, out: &mut Vec<Effect>) {
        let started = self.survey_pending.take().map_or(now, |pending| pending.since);
        self.holds.learn(&survey.terms, now);
        // Normally the watch has said it before. Epochs tell whether the survey is the newer of the two: nobody leads
        // twice in one epoch, and `epoch` was read before `leader`.
        let watched = self.leader.as_ref().map(|leader| leader.record.epoch);
        match (&survey.leader, watched) {
            (Some(found), _) if Some(found.record.epoch) > self.leader_epoch => {
                self.leader_is(Some(found.clone()), now, out);
            }
            (None, Some(epoch)) if u64::try_from(survey.epoch).is_ok_and(|version| version >= epoch.0) => {
                self.leader_is(None, now, out);
            }
            (None, None) if self.leaderless_since.is_none() => self.leader_is(None, now, out),
            _ => {}
        }
        if let Candidacy::Present { since, .. } = self.candidacy
            && since < started
            && !survey.candidates.iter().any(|candidate| candidate.mine)
        {
            self.candidacy = Candidacy::Absent { retry_at: now };
        }
        self.survey = Some(survey);
        self.survey_due = now + self.survey_pause(now);
    }

    /// How long until the next look, if nothing is reported before.
    fn survey_pause(&mut self, now: Instant) -> Duration {
        let Settings { claim_grace, refresh, .. } = self.settings;
        let impatient = if self.leader.is_none() {
            let mine = self.line(now).into_iter().enumerate().find(|(_, ranked)| ranked.mine);
            let turn = mine.and_then(|(rank, ranked)| self.claim_at(rank, &ranked));
            // After the own turn has come, each look is a chance to claim: not faster than the grace.
            turn.filter(|turn| *turn > now).map_or(claim_grace, |turn| turn.since(now).min(claim_grace))
        } else if !self.leader_serves() || !self.tickets.is_empty() {
            claim_grace
        } else {
            // xorshift; 0 is its fixed point.
            self.jitter = self.jitter.max(1);
            self.jitter ^= self.jitter << 13;
            self.jitter ^= self.jitter >> 7;
            self.jitter ^= self.jitter << 17;
            refresh.mul_f64(0.75 + (self.jitter % 1_000) as f64 / 2_000.0)
        };
        impatient.max(Duration::from_millis(1)).min(refresh.mul_f64(1.25))
    }

    fn claimed(&mut self, epoch: Epoch, now: Instant, out: &mut Vec<Effect>) {
        let expected = matches!(self.state, State::Claiming { .. });
        if !expected && !matches!(self.state, State::Follower) {
            return;
        }
        let tenure = Tenure {
            epoch,
            serve_by: now + self.settings.serve_deadline,
            serving: None,
            recorded: false,
            lease_held: true,
            better_since: None,
        };
        if expected && self.ready && !self.stopping {
            out.push(Effect::StartLease { epoch });
            self.state = State::Elected(tenure);
            if !self.connected() {
                self.suspend(now);
            }
        } else {
            // Nobody has been told of this term, so it has no effects to end.
            self.state = State::Resigning(Resignation::without_effects(epoch, now + self.settings.answer));
        }
    }

    fn resume_checked(
        &mut self,
        checked: Epoch,
        unchanged: Option<bool>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let connected = self.connected();
        let State::Suspended { tenure, since, check } = &mut self.state else { return };
        if tenure.epoch != checked || check.take().is_none() {
            return;
        }
        match unchanged {
            Some(true) if tenure.lease_held && connected => {
                // The time spent suspended does not count against the dispatcher, which could do nothing in it.
                let mut tenure = tenure.clone();
                tenure.serve_by = tenure.serve_by + now.since(*since);
                self.state = State::Elected(tenure);
            }
            Some(false) => {
                let why = Why::Deposed("`leader` or `epoch` changed while the term was suspended".into());
                self.resign(checked, why, now, out);
            }
            // Asked again once the lease is held.
            Some(true) => {}
            None => *check = Some(now + self.settings.retry),
        }
    }

    /// The session is over. `dead`: the server says so; otherwise we give it up, and the driver closes it.
    fn session_over(&mut self, dead: bool, now: Instant, out: &mut Vec<Effect>) {
        if let Some(epoch) = self.tenure().map(|tenure| tenure.epoch) {
            let why = if dead { "the session expired" } else { "the session was given up" };
            self.resign(epoch, Why::SessionLost(why.into()), now, out);
        }
        match &mut self.state {
            State::Claiming { .. } => self.state = State::Follower,
            State::Resigning(resignation) => resignation.session_gone(),
            _ => {}
        }
        self.session = Session::Joining { pending: None, retry_at: now };
        self.candidacy = Candidacy::Absent { retry_at: now };
        self.survey_pending = None;
        self.terms_pending = None;
        self.watched = false;
    }

    fn wants_candidacy(&self) -> bool {
        let able = match &self.state {
            State::Resigning(resignation) => resignation.stays_candidate(),
            _ => true,
        };
        able && self.ready && self.settings.eligible && !self.stopping
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
        let Some(survey) = self.survey.as_ref().filter(|survey| free && survey.leader.is_none()) else {
            return;
        };
        let expect = survey.epoch;
        let mine = self.line(now).into_iter().enumerate().find(|(_, ranked)| ranked.mine);
        let Some((rank, ranked)) = mine else { return };
        if self.claim_at(rank, &ranked).is_some_and(|turn| turn <= now) {
            self.state = State::Claiming { until: now + self.settings.answer };
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
