//! The same core at another time: what a model checker needs to see that it was here before.
//!
//! A core never looks at the time itself, only at differences: to [`Election::step`]'s `now`, and those only up to the
//! span that some rule asks about. So all instants may be moved together, and what lies further back than any rule looks
//! may be moved closer. [`Election::canonical`] does both, and drops the jitter, which only spreads refreshes.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use clock::Instant;

use super::{Candidacy, Election, Generation, Session, State};

/// A point from which all instants are counted.
struct Frame {
    now: Instant,
    to: Instant,
}

impl Frame {
    /// `instant` as seen from `to`, if nobody looks back further than `span`.
    fn keep(&self, instant: &mut Instant, span: Duration) {
        if *instant == Instant::from_nanos(u64::MAX) {
            return;
        }
        *instant = if *instant >= self.now {
            self.to + instant.since(self.now)
        } else {
            self.to - self.now.since(*instant).min(span)
        };
    }

    /// For a deadline: once it has passed, it does not matter since when.
    fn due(&self, instant: &mut Instant) {
        self.keep(instant, Duration::ZERO);
    }
}

impl Election {
    /// Moves this core from `now` to `to`. It behaves at `to` as it would have at `now`, apart from jitter, as long as
    /// no line has more than `line_max` candidates; its generation becomes 1, and older ones have to become 0.
    pub fn canonical(&mut self, now: Instant, to: Instant, line_max: u32) {
        let frame = Frame { now, to };
        let settings = self.settings.clone();
        let unit = Duration::from_nanos(1);
        self.generation = Generation(1);
        self.jitter = settings.seed;
        match &mut self.session {
            Session::Joining { pending, retry_at } => {
                pending.iter_mut().for_each(|until| frame.due(until));
                frame.due(retry_at);
            }
            Session::Joined { disconnected_since, .. } => {
                disconnected_since.iter_mut().for_each(|since| frame.keep(since, settings.give_up));
            }
        }
        // Serving is looked back at by the rule that yields, and by the one that forgives.
        let served = settings.forgive_after.max(settings.hysteresis);
        match &mut self.state {
            State::Follower | State::Left => {}
            State::Claiming { until } => frame.due(until),
            State::Elected(tenure) | State::Suspended { tenure, .. } => {
                frame.due(&mut tenure.serve_by);
                tenure.serving.iter_mut().for_each(|since| frame.keep(since, served));
                if let Some((_, since)) = &mut tenure.better_since {
                    frame.keep(since, settings.hysteresis);
                }
            }
            State::Resigning(resignation) => {
                resignation.instants().for_each(|instant| frame.due(instant));
            }
        }
        if let State::Suspended { since, check, .. } = &mut self.state {
            frame.keep(since, settings.suspend_max);
            check.iter_mut().for_each(|until| frame.due(until));
        }
        // A candidacy's age matters only in comparison with the survey's under way.
        let surveying = settings.answer + unit;
        match &mut self.candidacy {
            Candidacy::Absent { retry_at } => frame.due(retry_at),
            Candidacy::Registering { until } | Candidacy::Withdrawing { until } => frame.due(until),
            Candidacy::Present { since, retry_at } => {
                let span = if self.survey_pending.is_some() { surveying + unit } else { unit };
                frame.keep(since, span);
                frame.due(retry_at);
            }
        }
        if let Some(pending) = &mut self.survey_pending {
            frame.keep(&mut pending.since, surveying);
            frame.due(&mut pending.until);
        }
        if let Some(since) = &mut self.leaderless_since {
            frame.keep(since, settings.claim_grace * line_max);
        }
        frame.due(&mut self.survey_due);
        self.holds.instants().for_each(|until| frame.due(until));
        self.tickets.iter_mut().for_each(|ticket| frame.due(&mut ticket.until));
        self.benched_until.iter_mut().for_each(|until| frame.due(until));
        frame.due(&mut self.terms_retry);
        self.terms_pending.iter_mut().for_each(|until| frame.due(until));
    }

    /// Everything but the settings, which never change.
    #[expect(clippy::type_complexity, reason = "a list of all fields, so that a new one cannot be forgotten")]
    fn key(
        &self,
    ) -> (
        (&Generation, &Session, &State, &Candidacy, bool, bool, bool),
        (&Option<super::LeaderSeen>, Option<proto::Epoch>, Option<Instant>, &Option<super::Survey>),
        (Instant, Option<super::Pending>, &super::HoldDowns, &[super::Ticket], Option<Instant>),
        (Option<proto::Epoch>, Instant, Option<Instant>, u64),
    ) {
        let Self {
            settings: _,
            generation,
            session,
            state,
            candidacy,
            ready,
            stopping,
            watched,
            leader,
            leader_epoch,
            leaderless_since,
            survey,
            survey_due,
            survey_pending,
            holds,
            tickets,
            benched_until,
            effects_ended,
            terms_retry,
            terms_pending,
            jitter,
        } = self;
        (
            (generation, session, state, candidacy, *ready, *stopping, *watched),
            (leader, *leader_epoch, *leaderless_since, survey),
            (*survey_due, *survey_pending, holds, tickets, *benched_until),
            (*effects_ended, *terms_retry, *terms_pending, *jitter),
        )
    }
}

/// Of two cores with the same settings.
impl PartialEq for Election {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Election {}

impl Hash for Election {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key().hash(hasher);
    }
}
