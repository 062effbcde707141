//! Terms: from serving to handing over, resigning and what is left of a term afterwards.

use clock::Instant;
use drill::Bug;
use proto::{Epoch, NodeId};

use super::event::{Effect, HandoverError, Release, TermsChange};
use super::{Candidacy, Election, Ranked, State, Ticket};

/// Why a term ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// Not by its deadline.
    NotServing,
    /// The node is no longer ready to lead.
    NotReady,
    /// By [`Event::Resign`](crate::Event::Resign).
    Asked(String),
    /// By [`Event::GiveUp`](crate::Event::GiveUp).
    GivenUp(String),
    /// They ended before anybody had asked for it.
    EffectsEnded,
    /// Somebody else is to lead.
    Handover {
        /// Who.
        to: NodeId,
    },
    /// `leader` or `epoch` is not ours any more.
    Deposed(String),
    /// Longer than a session lasts.
    SuspendedTooLong,
    /// Expired, or given up.
    SessionLost(String),
    /// The node leaves.
    Stopping,
}

impl Why {
    /// Whether the authority is gone already, so that nothing may wait for anything.
    fn at_once(&self) -> bool {
        matches!(self, Self::GivenUp(_) | Self::Deposed(_) | Self::SuspendedTooLong | Self::SessionLost(_))
    }

    fn release(&self) -> Release {
        match self {
            Self::NotServing | Self::Asked(_) | Self::GivenUp(_) => {
                Release::Failed { reason: self.to_string() }
            }
            Self::Handover { to } => Release::Handover { to: to.clone() },
            _ => Release::Plain,
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotServing => f.write_str("it did not come to serve by its deadline"),
            Self::NotReady => f.write_str("it is no longer ready to lead"),
            Self::Asked(reason)
            | Self::GivenUp(reason)
            | Self::Deposed(reason)
            | Self::SessionLost(reason) => f.write_str(reason),
            Self::EffectsEnded => f.write_str("its effects were ended"),
            Self::Handover { to } => write!(f, "it hands over to {to}"),
            Self::SuspendedTooLong => f.write_str("it was suspended for too long"),
            Self::Stopping => f.write_str("the node is stopping"),
        }
    }
}

/// A term that is being given up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Resignation {
    /// Which.
    pub epoch: Epoch,
    /// Why.
    pub why: Why,
    /// Everything that the term fenced has ended.
    pub ended: bool,
    /// It had not by `until`. Then the lease flag is down, `leader` alone is deleted, and the node stays out of the
    /// line until its effects have ended.
    pub overdue: bool,
    /// When they have to have ended.
    pub until: Instant,
    lease_dropped: bool,
    /// The session that owned `leader` is over, or `leader` is deleted.
    leader_gone: bool,
    releasing: Option<Instant>,
    retry_at: Instant,
    plain: bool,
}

impl Resignation {
    fn new(epoch: Epoch, why: Why, until: Instant, now: Instant) -> Self {
        Self {
            epoch,
            why,
            ended: false,
            overdue: false,
            until,
            lease_dropped: false,
            leader_gone: false,
            releasing: None,
            retry_at: now,
            plain: false,
        }
    }

    /// Of a term that nobody was told of.
    pub(super) fn without_effects(epoch: Epoch, until: Instant) -> Self {
        let mut it = Self::new(epoch, Why::Stopping, until, Instant::default());
        it.ended = true;
        it.lease_dropped = true;
        it.plain = true;
        it
    }

    pub(super) fn session_gone(&mut self) {
        self.leader_gone = true;
        self.releasing = None;
    }

    /// The first failure may be due to what came along with the deletion (a target that died); the next tries are alone.
    pub(super) fn release_failed(&mut self, retry_at: Instant) {
        self.releasing = None;
        self.plain = true;
        self.retry_at = retry_at;
    }

    pub(super) fn stays_candidate(&self) -> bool {
        !self.overdue && !matches!(self.why, Why::NotReady | Why::Stopping)
    }

    #[cfg(feature = "canonical")]
    pub(super) fn instants(&mut self) -> impl Iterator<Item = &mut Instant> {
        [&mut self.until, &mut self.retry_at].into_iter().chain(&mut self.releasing)
    }

    pub(super) fn deadline(&self) -> Instant {
        match (self.releasing, self.ended || self.overdue) {
            (Some(until), _) => until,
            (None, true) => self.retry_at,
            (None, false) => self.until,
        }
    }
}

impl Election {
    /// Gives up the present term, unless that is under way.
    pub(super) fn resign(&mut self, epoch: Epoch, why: Why, now: Instant, out: &mut Vec<Effect>) {
        if self.tenure().is_none_or(|tenure| tenure.epoch != epoch) {
            return;
        }
        let mut resignation = Resignation::new(epoch, why, now + self.settings.end_deadline, now);
        if resignation.why.at_once() {
            resignation.lease_dropped = true;
            out.push(Effect::DropLease { epoch });
        }
        self.state = State::Resigning(resignation);
    }

    /// Gives up whatever term there is, also one that is being given up in good order. Nothing waits for its effects: the
    /// lease flag goes down and `leader` is deleted, which is all that may be deleted while they may live.
    pub(super) fn give_up(&mut self, reason: String, now: Instant, out: &mut Vec<Effect>) {
        if let Some(epoch) = self.tenure().map(|tenure| tenure.epoch) {
            self.resign(epoch, Why::GivenUp(reason.clone()), now, out);
        }
        if let State::Resigning(resignation) = &mut self.state
            && !resignation.ended
        {
            (resignation.why, resignation.overdue) = (Why::GivenUp(reason), true);
        }
    }

    /// Terms that we hold: suspended, served, handed over in time.
    pub(super) fn advance_term(&mut self, now: Instant, fresh: bool, out: &mut Vec<Effect>) {
        if let State::Claiming { until } = self.state
            && until <= now
        {
            // An answer that never came; the audit finds what may have become of it.
            self.state = State::Follower;
            self.survey_due = now;
            out.push(Effect::Audit);
        }
        let Some(tenure) = self.tenure() else { return };
        let (epoch, serving, serve_by) = (tenure.epoch, tenure.serving, tenure.serve_by);
        if self.effects_ended >= Some(epoch) {
            return self.resign(epoch, Why::EffectsEnded, now, out);
        }
        if self.stopping {
            return self.resign(epoch, Why::Stopping, now, out);
        }
        if !self.ready {
            return self.resign(epoch, Why::NotReady, now, out);
        }
        let connected = self.connected();
        if let State::Suspended { tenure, since, check } = &mut self.state {
            if *since + self.settings.suspend_max <= now {
                return self.resign(epoch, Why::SuspendedTooLong, now, out);
            }
            if check.is_some_and(|until| until <= now) {
                *check = None;
            }
            if connected && tenure.lease_held && check.is_none() {
                *check = Some(now + self.settings.answer);
                out.push(Effect::CheckResume { epoch });
            }
            return;
        }
        if serving.is_none() && serve_by <= now {
            return self.resign(epoch, Why::NotServing, now, out);
        }
        self.record_term(now, out);
        if fresh {
            self.hand_over_if_asked(epoch, now, out);
            self.yield_to_better(now, out);
        }
    }

    /// Says in `terms` that this term serves, and after a good while that earlier failures are forgiven.
    fn record_term(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.terms_pending.is_some_and(|until| until <= now) {
            self.terms_pending = None;
        }
        if self.terms_pending.is_some() || self.terms_retry > now {
            return;
        }
        let Some(tenure) = self.tenure() else { return };
        let Some(serving) = tenure.serving else { return };
        let epoch = tenure.epoch;
        let change = if !tenure.recorded {
            TermsChange::Serving
        } else if serving + self.settings.forgive_after <= now
            && let Some(nodes) = self.forgivable()
        {
            TermsChange::Forgive { nodes }
        } else {
            return;
        };
        self.terms_pending = Some(now + self.settings.answer);
        out.push(Effect::WriteTerms { epoch, change });
    }

    /// Whose failures do not matter any more: our own, since we serve, and those of nodes that left the line since.
    fn forgivable(&self) -> Option<Vec<NodeId>> {
        let survey = self.survey.as_ref()?;
        let stands = |node: &NodeId| survey.candidates.iter().any(|candidate| candidate.node == *node);
        let forgiven = |node: &&NodeId| **node == self.settings.node || !stands(node);
        let nodes: Vec<NodeId> = survey.terms.failed.keys().filter(forgiven).cloned().collect();
        (!nodes.is_empty()).then_some(nodes)
    }

    pub(super) fn asked_to_hand_over(
        &mut self,
        ticket: u64,
        to: Option<NodeId>,
        now: Instant,
        out: &mut Vec<Effect>,
    ) {
        let refusal = if self.stopping {
            Some(HandoverError::Stopped)
        } else if !matches!(self.state, State::Elected(_)) {
            let leader = self.leader.as_ref().filter(|leader| !leader.mine);
            Some(HandoverError::NotLeading { leader: leader.map(|leader| leader.record.node.clone()) })
        } else if to.as_ref() == Some(&self.settings.node) {
            Some(HandoverError::AlreadyLeads(self.settings.node.clone()))
        } else if !self.tickets.is_empty() {
            Some(HandoverError::Busy)
        } else {
            None
        };
        if let Some(error) = refusal {
            out.push(Effect::HandoverDone { ticket, outcome: Err(error) });
            return;
        }
        let until = now + self.settings.end_deadline + self.settings.answer.saturating_mul(2);
        self.tickets.push(Ticket { ticket, to, until, gave_up: None });
        self.survey_due = now;
    }

    pub(super) fn advance_tickets(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.tickets.retain(|ticket| {
            let late = ticket.until <= now;
            if late {
                let outcome = Err(HandoverError::TimedOut);
                out.push(Effect::HandoverDone { ticket: ticket.ticket, outcome });
            }
            !late
        });
    }

    /// Decides on a fresh survey to whom the term goes, for whoever asked.
    fn hand_over_if_asked(&mut self, epoch: Epoch, now: Instant, out: &mut Vec<Effect>) {
        let Some(index) = self.tickets.iter().position(|ticket| ticket.gave_up.is_none()) else { return };
        let line = self.line(now);
        let mut others = line.iter().filter(|ranked| ranked.node != self.settings.node);
        let outcome = match &self.tickets[index].to {
            None => others
                .find(|ranked| ranked.held_until.is_none())
                .map(|ranked| ranked.node.clone())
                .ok_or(HandoverError::NobodyReady),
            Some(node) => match others.find(|ranked| ranked.node == *node) {
                None => Err(HandoverError::NotACandidate {
                    node: node.clone(),
                    why: "it is not a candidate, so it is down, not ready or not eligible".into(),
                }),
                Some(Ranked { held_until: Some(until), .. }) => Err(HandoverError::NotACandidate {
                    node: node.clone(),
                    why: format!(
                        "its last term failed, and it is held down for another {} s",
                        until.since(now).as_secs() + 1
                    ),
                }),
                Some(ranked) => Ok(ranked.node.clone()),
            },
        };
        match outcome {
            Ok(to) => {
                self.tickets[index].gave_up = Some(epoch);
                self.resign(epoch, Why::Handover { to }, now, out);
            }
            Err(error) => {
                let ticket = self.tickets.remove(index).ticket;
                out.push(Effect::HandoverDone { ticket, outcome: Err(error) });
            }
        }
    }

    /// A candidate of a higher priority that has been ready for a while takes over, once we have served for as long.
    fn yield_to_better(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let (hysteresis, retry) = (self.settings.hysteresis, self.settings.retry);
        let line = self.line(now);
        let priority = |survey: &super::Survey| survey.priorities.get(&self.settings.node).copied();
        let own = self.survey.as_ref().and_then(priority).unwrap_or_default();
        // Not to one whose last term failed in this very life: as often as it were asked, it would fail again, and
        // nobody else would lead meanwhile. A restart, a handover command, or our end gives it another chance.
        let failed = |other: &Ranked| {
            let terms = self.survey.as_ref().map(|survey| &survey.terms.failed);
            terms
                .and_then(|failed| failed.get(&other.node))
                .is_some_and(|failed| failed.incarnation == other.incarnation)
        };
        let better = line
            .into_iter()
            .find(|other| {
                other.node != self.settings.node
                    && other.priority > own
                    && other.held_until.is_none()
                    && !failed(other)
            })
            .map(|other| other.node);
        let Some(tenure) = self.tenure_mut() else { return };
        tenure.better_since = match (better, tenure.better_since.take()) {
            (Some(node), Some((known, since))) if known == node => Some((node, since)),
            (Some(node), _) => Some((node, now)),
            (None, _) => None,
        };
        let Some(tenure) = self.tenure_mut() else { return };
        let Some((to, since)) = tenure.better_since.clone() else { return };
        let (epoch, serving) = (tenure.epoch, tenure.serving);
        let due = since.max(serving.unwrap_or(now)) + hysteresis;
        if serving.is_some() && due <= now {
            self.resign(epoch, Why::Handover { to }, now, out);
        } else {
            // It is acted on when it is seen again.
            self.survey_due = self.survey_due.min(due.max(now + retry));
        }
    }

    pub(super) fn advance_resignation(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let connected = self.connected();
        let (answer, retry) = (self.settings.answer, self.settings.retry);
        let State::Resigning(resignation) = &mut self.state else { return };
        let epoch = resignation.epoch;
        resignation.ended |= self.effects_ended >= Some(epoch);
        if !resignation.ended && resignation.until <= now {
            resignation.overdue = true;
        }
        let early = self.settings.drill.plants(Bug::EarlyDelete);
        if !resignation.ended && !resignation.overdue && !early {
            return;
        }
        if !resignation.lease_dropped {
            resignation.lease_dropped = true;
            out.push(Effect::DropLease { epoch });
        }
        if resignation.releasing.is_some_and(|until| until <= now) {
            resignation.release_failed(now);
        }
        if !resignation.leader_gone && resignation.releasing.is_none() && resignation.retry_at <= now {
            if connected {
                resignation.releasing = Some(now + answer);
                let how = if resignation.plain {
                    Release::Plain
                } else if !resignation.ended && !matches!(resignation.why, Why::GivenUp(_)) {
                    let reason =
                        format!("{}, and its effects did not end by their deadline", resignation.why);
                    Release::Failed { reason }
                } else {
                    resignation.why.release()
                };
                out.push(Effect::Release { epoch, how });
            } else {
                resignation.retry_at = now + retry;
            }
        } else if resignation.leader_gone && !resignation.ended && resignation.retry_at <= now {
            resignation.retry_at = now + retry;
        }
        if resignation.leader_gone && resignation.ended {
            self.state = State::Follower;
            self.survey_due = now;
        }
    }

    /// `leader` is gone, or is not ours any more.
    pub(super) fn released(&mut self, epoch: Epoch, now: Instant) {
        let State::Resigning(resignation) = &mut self.state else { return };
        if resignation.epoch != epoch {
            return;
        }
        let handed_over = matches!(resignation.why, Why::Handover { .. }) && !resignation.plain;
        resignation.leader_gone = true;
        resignation.releasing = None;
        if handed_over {
            // Our candidate went along with `leader`; the target gets its head start.
            self.candidacy = Candidacy::Absent { retry_at: now };
            self.benched_until = Some(now + self.settings.claim_grace.saturating_mul(2));
        }
    }
}
