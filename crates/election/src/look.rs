//! What the election knows, for the driver and the view.

use clock::Instant;

use super::{
    Candidacy, Election, Generation, HoldDowns, LeaderSeen, Ranked, Resignation, Session, Standing, State,
    Survey, order,
};

impl Election {
    /// The present session's, or that of the join under way.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What it is now.
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::Elected(tenure) => Standing::Elected(tenure.epoch),
            State::Suspended { tenure, .. } => Standing::Suspended(tenure.epoch),
            State::Resigning(resignation) if !resignation.ended => Standing::Resigning(resignation.epoch),
            State::Resigning(_) | State::Follower | State::Claiming { .. } | State::Left => {
                Standing::Follower
            }
        }
    }

    /// Who leads, as last seen.
    pub fn leader(&self) -> Option<&LeaderSeen> {
        self.leader.as_ref()
    }

    /// Whether the present leader is known to serve.
    pub fn leader_serves(&self) -> bool {
        let Some(leader) = &self.leader else { return false };
        let ours = self
            .tenure()
            .is_some_and(|tenure| tenure.epoch == leader.record.epoch && tenure.serving.is_some());
        ours || self.survey.as_ref().is_some_and(|survey| survey.terms.serves(leader.record.epoch))
    }

    /// Since when nobody was seen to lead.
    pub fn leaderless_since(&self) -> Option<Instant> {
        self.leaderless_since
    }

    /// The line as last read.
    pub fn survey(&self) -> Option<&Survey> {
        self.survey.as_ref()
    }

    /// Of our member node, while there is a session.
    pub fn sequence(&self) -> Option<u64> {
        match self.session {
            Session::Joined { sequence, .. } => Some(sequence),
            Session::Joining { .. } => None,
        }
    }

    /// Who is held down.
    pub fn holds(&self) -> &HoldDowns {
        &self.holds
    }

    /// The line as last read, with today's hold-downs.
    pub fn line(&self, now: Instant) -> Vec<Ranked> {
        self.survey.as_ref().map(|survey| order::line(survey, &self.holds, now)).unwrap_or_default()
    }

    /// When whoever stands at `rank` may claim, while there is no leader.
    pub fn claim_at(&self, rank: usize, ranked: &Ranked) -> Option<Instant> {
        self.leaderless_since.map(|since| order::claim_at(since, self.settings.claim_grace, rank, ranked))
    }

    /// By when a term of ours that does not serve yet has to.
    pub fn serve_by(&self) -> Option<Instant> {
        match &self.state {
            State::Elected(tenure) => tenure.serving.is_none().then_some(tenure.serve_by),
            _ => None,
        }
    }

    /// Since when a term of ours is suspended, and until when it may be.
    pub fn suspended(&self) -> Option<(Instant, Instant)> {
        match &self.state {
            State::Suspended { since, .. } => Some((*since, *since + self.settings.suspend_max)),
            _ => None,
        }
    }

    /// Why we are giving up a term, if we are.
    pub fn resigning(&self) -> Option<&Resignation> {
        match &self.state {
            State::Resigning(resignation) => Some(resignation),
            _ => None,
        }
    }

    /// Whether `leader` may be ours: then the session must not be closed before it is deleted.
    pub fn may_own_leader(&self) -> bool {
        !matches!(self.state, State::Follower | State::Left)
    }

    /// Whether our candidate node may be there: one that is found although it should not be is nobody's.
    pub fn may_be_candidate(&self) -> bool {
        !matches!(self.candidacy, Candidacy::Absent { .. })
    }

    /// Whether effects of a term may still be alive.
    pub fn effects_may_live(&self) -> bool {
        match &self.state {
            State::Elected(_) | State::Suspended { .. } => true,
            State::Resigning(resignation) => !resignation.ended,
            State::Follower | State::Claiming { .. } | State::Left => false,
        }
    }
}
