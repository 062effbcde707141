//! Taking in what a session shows.

use std::time::Duration;

use clock::Instant;
use proto::Epoch;

use super::{
    Candidacy, Effect, Election, LeaderSeen, Resignation, Seen, Session, Settings, State, Survey, Tenure, Why,
};

impl Election {
    /// Takes in what a session shows. Returns whether it was a fresh survey.
    pub(super) fn seen(&mut self, seen: Seen, now: Instant, out: &mut Vec<Effect>) -> bool {
        let retry_at = now + self.settings.retry;
        match seen {
            Seen::Joined { sequence } => {
                self.session = Session::Joined { sequence, disconnected_since: None };
                self.survey_due = now;
            }
            Seen::JoinFailed => self.session = Session::Joining { pending: None, retry_at },
            Seen::Connected => self.reconnected(now, out),
            Seen::Disconnected => self.disconnected(now),
            // While joining there is none to end.
            Seen::Ended if self.sequence().is_some() => self.session_over(true, now, out),
            Seen::Ended => {}
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

    pub(super) fn disconnected(&mut self, now: Instant) {
        if let Session::Joined { disconnected_since, .. } = &mut self.session {
            disconnected_since.get_or_insert(now);
        }
        self.suspend(now);
    }

    /// The same session is back. What was asked for while it was away may have been lost, and what we know may be old.
    pub(super) fn reconnected(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Session::Joined { disconnected_since, .. } = &mut self.session else { return };
        if disconnected_since.take().is_some() {
            self.survey_due = now;
            out.push(Effect::Audit);
        }
    }

    pub(super) fn suspend(&mut self, now: Instant) {
        if let State::Elected(tenure) = &self.state {
            self.state = State::Suspended { tenure: tenure.clone(), since: now, check: None };
        }
    }

    pub(super) fn lease(&mut self, epoch: Epoch, held: bool, now: Instant) {
        let Some(tenure) = self.tenure_mut().filter(|tenure| tenure.epoch == epoch) else { return };
        tenure.lease_held = held;
        if !held {
            self.suspend(now);
        }
    }

    /// What the watch on `leader`, or a newer survey, says.
    pub(super) fn leader_is(&mut self, leader: Option<LeaderSeen>, now: Instant, out: &mut Vec<Effect>) {
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

    pub(super) fn surveyed(&mut self, survey: Survey, now: Instant, out: &mut Vec<Effect>) {
        let started = self.survey_pending.take().map_or(now, |pending| pending.since);
        self.holds.learn(&survey.terms, now);
        // Normally the watch has said it before. Epochs tell whether the survey is the newer of the two: nobody leads
        // twice in one epoch, and `epoch` was read before `leader`.
        let watched = self.leader.as_ref().map(|leader| leader.record.epoch);
        match (&survey.leader, watched) {
            // Nobody leads where a person has to help first, and where the ensemble is another one no epoch tells when
            // that was seen: whom the watch has missed coming and going would lead here for ever. Who does lead after
            // all, the next survey shows.
            _ if survey.obstacle.is_some() => {
                self.leader_epoch = None;
                self.leader_is(None, now, out);
            }
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
            // One that found an obstacle did not look.
            && survey.obstacle.is_none()
            && !survey.candidates.iter().any(|candidate| candidate.mine)
        {
            self.candidacy = Candidacy::Absent { retry_at: now };
        }
        self.survey = Some(survey);
        self.survey_due = self.survey_due.min(now + self.survey_pause(now));
    }

    /// How long until the next look, if nothing is reported before.
    pub(super) fn survey_pause(&mut self, now: Instant) -> Duration {
        let Settings { claim_grace, .. } = *self.settings;
        // Whoever does not stand as a candidate only shows it: the leader's watch and a refresh tell in time.
        let stands = matches!(self.candidacy, Candidacy::Present { .. });
        let refresh = self.settings.refresh * if stands { 1 } else { 6 };
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

    pub(super) fn claimed(&mut self, epoch: Epoch, now: Instant, out: &mut Vec<Effect>) {
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

    pub(super) fn resume_checked(
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
    pub(super) fn session_over(&mut self, dead: bool, now: Instant, out: &mut Vec<Effect>) {
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
}
