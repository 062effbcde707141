//! One node: its election, and what stands in for the driver and the supervisor around it.

use election::{Effect, Election, Generation, Seen, Standing};
use proto::Epoch;

use super::bounds::{Bounds, CALL, JOIN};
use super::zk::{Asker, NOW, SessionId};

/// Whether the process is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Up {
    /// It is.
    Up,
    /// It died.
    Down,
    /// It left in order.
    Left,
}

/// The lease of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Of which term.
    pub epoch: Epoch,
    /// Units until it ends, without another probe.
    pub left: u8,
    /// It ended, and the election was, or is being, told.
    pub lapsed: bool,
}

/// What the lease has to say to the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// A probe was committed after a lapse.
    Held,
    /// None was, in time.
    Lapsed,
    /// One was refused.
    Lost,
}

/// An effect of the election under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    /// What was asked for.
    pub effect: Effect,
    /// On which session; for a join, the one before.
    pub session: SessionId,
    /// For how many units.
    pub age: u8,
    /// It takes its time.
    pub slow: bool,
    /// It was executed, and this is the answer.
    pub answer: Option<Seen>,
    /// The caller has given up; it may be executed or not.
    pub late: bool,
    /// Of a session that has been replaced since.
    pub old: bool,
}

impl Request {
    /// How long a call for it may take.
    pub(super) fn limit(&self) -> u8 {
        if matches!(self.effect, Effect::Join { .. }) { JOIN } else { CALL }
    }

    /// Whether it changes anything.
    pub(super) fn writes(&self) -> bool {
        !matches!(
            self.effect,
            Effect::Survey | Effect::CheckResume { .. } | Effect::Audit | Effect::Join { .. }
        )
    }

    /// What the driver answers when a call fails; nothing for an audit, which it repeats.
    pub(super) fn failed(&self) -> Option<Seen> {
        Some(match &self.effect {
            Effect::Join { .. } => Seen::JoinFailed,
            Effect::Survey => Seen::SurveyFailed,
            // It may come to be there: what is believed absent, nobody would ever withdraw.
            Effect::Register => Seen::Registered,
            Effect::Withdraw => Seen::WithdrawFailed,
            Effect::Claim { .. } => Seen::ClaimFailed { unknown: true },
            Effect::CheckResume { epoch } => Seen::ResumeChecked { epoch: *epoch, unchanged: None },
            Effect::Release { epoch, .. } => Seen::ReleaseFailed { epoch: *epoch },
            Effect::WriteTerms { .. } => Seen::TermsWritten { ok: false },
            _ => return None,
        })
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Node {
    /// The election, as in production.
    pub core: Election,
    /// Its process.
    pub up: Up,
    /// Which life of it.
    pub life: u8,
    /// Its session; 0: none, it joins.
    pub session: SessionId,
    /// Since how many units its network is gone.
    pub cut: Option<u8>,
    /// The election knows that it is disconnected.
    pub noticed: bool,
    /// The process does not run, and does not know.
    pub paused: bool,
    /// It has just gone on: what it finds waiting comes in any order.
    pub groggy: bool,
    /// What the supervisor has said.
    pub ready: bool,
    /// It will say that it is ready only when somebody lets it.
    pub held_back: bool,
    /// In the order in which they were asked for.
    pub requests: Vec<Request>,
    /// The watch on `leader` has something to say.
    pub watch: bool,
    /// A hint that a survey would show something new.
    pub stir: bool,
    /// While the term has one.
    pub lease: Option<Lease>,
    /// What it has to say.
    pub news: Option<News>,
    /// Of which term effects may be alive.
    pub effects: Option<Epoch>,
    /// The dispatcher has said that it serves.
    pub reported: bool,
    /// It never will, in this term.
    pub unserving: bool,
    /// What the term fenced takes longer to end than it may.
    pub slow_end: bool,
    /// What the election was before this step.
    pub last: Standing,
    /// How old the claim is that was just answered.
    pub claim_age: u8,
    /// For how long it has been elected without serving.
    pub unserved: u8,
    /// Since when it has been asked to leave.
    pub stopping: Option<u8>,
    /// A claim that nobody wants was executed: it is being undone.
    pub undo: bool,
}

impl Node {
    /// A process that has just joined.
    pub(super) fn fresh(bounds: &Bounds, index: usize, life: u8, session: SessionId, sequence: u64) -> Self {
        Self {
            core: Election::new(bounds.settings(index), Generation(1), sequence, NOW),
            up: Up::Up,
            life,
            session,
            cut: None,
            noticed: false,
            paused: false,
            groggy: false,
            ready: false,
            held_back: false,
            requests: Vec::new(),
            watch: true,
            stir: false,
            lease: None,
            news: None,
            effects: None,
            reported: false,
            unserving: false,
            slow_end: false,
            last: Standing::Follower,
            claim_age: 0,
            unserved: 0,
            stopping: None,
            undo: false,
        }
    }

    /// Whether it takes steps.
    pub fn runs(&self) -> bool {
        self.up == Up::Up && !self.paused
    }

    /// Whether its requests reach ZooKeeper.
    pub fn reaches(&self) -> bool {
        self.runs() && self.cut.is_none()
    }

    /// Whether the lease flag is up.
    pub fn inside_lease(&self) -> bool {
        self.up == Up::Up && self.lease.is_some_and(|lease| lease.left > 0)
    }

    /// The term that it holds, however it stands.
    pub fn epoch(&self) -> Option<Epoch> {
        match self.core.standing() {
            Standing::Follower => None,
            Standing::Elected(epoch) | Standing::Suspended(epoch) | Standing::Resigning(epoch) => Some(epoch),
        }
    }

    /// Whether the supervisor has something to say: that it serves.
    pub(super) fn may_serve(&self) -> bool {
        let elected = matches!(self.core.standing(), Standing::Elected(_));
        self.runs() && elected && self.effects.is_some() && !self.reported && !self.unserving
    }

    /// Likewise: that everything has ended.
    pub(super) fn may_end(&self) -> bool {
        self.runs() && matches!(self.core.standing(), Standing::Resigning(_))
    }

    /// Nothing is wrong with it.
    pub(super) fn is_healthy(&self) -> bool {
        let well = self.ready && !self.unserving && !self.slow_end;
        self.reaches() && well && self.stopping.is_none()
    }

    pub(super) fn asker(&self, node: usize) -> Asker {
        let sequence = self.core.sequence().unwrap_or_default();
        Asker { node, session: self.session, life: self.life, sequence }
    }

    /// Dies, with all that it held.
    pub(super) fn die(&mut self, up: Up) {
        self.up = up;
        self.cut = None;
        self.requests.clear();
        (self.lease, self.news, self.effects) = (None, None, None);
        (self.watch, self.stir, self.undo, self.paused, self.groggy) = (false, false, false, false, false);
        (self.slow_end, self.unserving, self.reported, self.ready) = (false, false, false, false);
        (self.held_back, self.noticed, self.unserved, self.claim_age) = (false, false, 0, 0);
        self.stopping = None;
    }
}
