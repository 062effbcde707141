//! What goes into the election and what comes out of it.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Epoch, Incarnation, NodeId};

use crate::record::{LeaderRecord, Terms};

/// One session of this node, counted from 1. Whatever is learned or done through a session carries its
/// generation, so that a late answer of an old one changes nothing (invariant 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// How the election behaves.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// This node.
    pub(crate) node: NodeId,
    /// Whether it may lead at all.
    pub(crate) eligible: bool,
    /// How long each candidate further ahead in the line has before it is passed over.
    pub(crate) claim_grace: Duration,
    /// From elected to serving.
    pub(crate) serve_deadline: Duration,
    /// From resigning to effects ended.
    pub(crate) end_deadline: Duration,
    /// How long a better candidate must be there before the leader hands over to it.
    pub(crate) hysteresis: Duration,
    /// How long a term may stay suspended.
    pub(crate) suspend_max: Duration,
    /// A session that has been disconnected for this long is given up, whatever the client says.
    pub(crate) give_up: Duration,
    /// The driver answers every other effect within this time.
    pub(crate) answer: Duration,
    /// The driver answers [`Effect::Join`] within this time.
    pub(crate) join: Duration,
    /// Between two attempts at something that failed.
    pub(crate) retry: Duration,
    /// Between two looks at what nobody reports to us.
    pub(crate) refresh: Duration,
    /// How long a leader must have served before earlier failures are forgiven.
    pub(crate) forgive_after: Duration,
    /// Spreads the refreshes of many nodes.
    pub(crate) seed: u64,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// On a session.
    Seen(Generation, Seen),
    /// This node can, or cannot, lead.
    Ready(bool),
    /// The dispatcher of this term serves.
    Serving(Epoch),
    /// Everything that this term fenced has ended.
    EffectsEnded(Epoch),
    /// Somebody asks the leader to hand over.
    Handover { ticket: u64, to: Option<NodeId> },
    /// The term cannot go on.
    Resign { reason: String },
    /// Leave the cluster.
    Stop,
    /// A deadline may have passed.
    Tick,
}

/// Something that happened on a session.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// Answers [`Effect::Join`]: our member node is in place.
    Joined {
        sequence: u64,
    },
    JoinFailed,
    /// Our member node was lost and is there again.
    Restored {
        sequence: u64,
    },
    Connected,
    Disconnected,
    /// The session is over for good.
    Ended,
    /// The watch on `leader`.
    Leader(Option<LeaderSeen>),
    /// A hint that a survey would show something new.
    Stir,
    /// Answers [`Effect::Survey`].
    Surveyed(Box<Survey>),
    SurveyFailed,
    /// Answers [`Effect::Register`].
    Registered,
    RegisterFailed,
    /// There are as many candidates as are allowed.
    RegisterRefused,
    /// Answers [`Effect::Withdraw`].
    Withdrawn,
    WithdrawFailed,
    /// Answers [`Effect::Claim`].
    Claimed {
        epoch: Epoch,
    },
    /// `unknown`: it may yet be found done, and is undone then.
    ClaimFailed {
        unknown: bool,
    },
    LeaseHeld {
        epoch: Epoch,
    },
    LeaseLapsed {
        epoch: Epoch,
    },
    LeaseLost {
        epoch: Epoch,
        reason: String,
    },
    /// Answers [`Effect::CheckResume`]; `None` if it could not be found out.
    ResumeChecked {
        epoch: Epoch,
        unchanged: Option<bool>,
    },
    /// Answers [`Effect::Release`].
    Released {
        epoch: Epoch,
    },
    ReleaseFailed {
        epoch: Epoch,
    },
    /// Answers [`Effect::WriteTerms`].
    TermsWritten {
        ok: bool,
    },
}

/// What the driver must do. Each that has an answer gets it within [`Settings::answer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Close what is left of the session before and join with a new one.
    Join { generation: Generation },
    /// `sync`, then read `epoch`, `leader`, candidates, `priority` and `terms`, in this order.
    Survey,
    /// Create our candidate node.
    Register,
    /// Delete our candidate node.
    Withdraw,
    /// One `multi`: check our candidate, create `leader`, compare-and-set `epoch`.
    Claim { expect: i32 },
    /// The term begins: start its lease from the claim's send instant.
    StartLease { epoch: Epoch },
    /// Authority is over: flag down at once, no more probes.
    DropLease { epoch: Epoch },
    /// Read `leader` and `epoch`: are they still this term's, on this session?
    CheckResume { epoch: Epoch },
    /// Delete `leader`.
    Release { epoch: Epoch, how: Release },
    /// Rewrite `terms`, fenced by `epoch`.
    WriteTerms { epoch: Epoch, change: TermsChange },
    /// Compare our session's ephemerals with what we know of; remove the rest, restore the member.
    Audit,
    /// Tell whoever asked.
    HandoverDone { ticket: u64, outcome: Result<NodeId, HandoverError> },
    /// Nothing is left but the member node and the session.
    Leave,
}

/// How `leader` is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// Alone.
    Plain,
    /// With the term remembered as failed.
    Failed { reason: String },
    /// With `epoch` naming `to`, and our own candidate.
    Handover { to: NodeId },
}

/// A change to `terms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TermsChange {
    /// This term serves.
    Serving,
    /// Earlier failures of these are forgiven.
    Forgive { nodes: Vec<NodeId> },
}

/// `leader` as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LeaderSeen {
    pub(crate) record: LeaderRecord,
    /// Whether our present session owns it.
    pub(crate) mine: bool,
    /// The session that owns it, as text for people.
    pub(crate) session: String,
}

/// The state of the election, as read in one go (not atomically: `epoch` comes first, and the claim compares it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// The version of `epoch`.
    pub(crate) epoch: i32,
    /// Whom `epoch` names.
    pub(crate) target: Option<NodeId>,
    pub(crate) leader: Option<LeaderSeen>,
    /// Why nobody can lead before a person has acted.
    pub(crate) obstacle: Option<String>,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) priorities: BTreeMap<NodeId, i32>,
    pub(crate) terms: Terms,
}

impl Survey {
    /// Whether a claim may succeed, and should.
    pub(crate) fn is_free(&self) -> bool {
        self.leader.is_none() && self.obstacle.is_none()
    }
}

/// A candidate as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Its member sequence.
    pub(crate) sequence: u64,
    /// Whether our present session owns it.
    pub(crate) mine: bool,
}

/// Why a handover did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Only the leader can hand over.
    #[error("this node does not lead{}", .leader.as_ref().map(|node| format!("; {node} does")).unwrap_or_default())]
    NotLeading {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Leadership is there already.
    #[error("{0} leads already")]
    AlreadyLeads(NodeId),
    /// The named node is no candidate.
    #[error("{node} cannot take over: {why}")]
    NotACandidate {
        /// The node.
        node: NodeId,
        /// What is the matter.
        why: String,
    },
    /// Nobody is there to take over.
    #[error("no other node is ready to lead")]
    NobodyReady,
    /// Another handover is under way.
    #[error("a handover is already under way")]
    Busy,
    /// Nobody took over within the time allowed.
    #[error(
        "leadership was given up, but nobody was seen to take it in time; `taskd cluster status` says why"
    )]
    TimedOut,
    /// This node's quorum has stopped.
    #[error("this node is stopping")]
    Stopped,
}
