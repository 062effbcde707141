//! What goes into the election and what comes out of it.

use std::collections::BTreeMap;
use std::time::Duration;

use drill::Drill;
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
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// Whether it may lead at all.
    pub eligible: bool,
    /// How long each candidate further ahead in the line has before it is passed over.
    pub claim_grace: Duration,
    /// From elected to serving.
    pub serve_deadline: Duration,
    /// From resigning to effects ended.
    pub end_deadline: Duration,
    /// How long a better candidate must be there before the leader hands over to it.
    pub hysteresis: Duration,
    /// How long a term may stay suspended.
    pub suspend_max: Duration,
    /// A session that has been disconnected for this long is given up, whatever the client says.
    pub give_up: Duration,
    /// The driver answers every other effect within this time.
    pub answer: Duration,
    /// The driver answers [`Effect::Join`] within this time.
    pub join: Duration,
    /// Between two attempts at something that failed.
    pub retry: Duration,
    /// Between two looks at what nobody reports to us.
    pub refresh: Duration,
    /// How long a leader must have served before earlier failures are forgiven.
    pub forgive_after: Duration,
    /// Spreads the refreshes of many nodes.
    pub seed: u64,
    /// Faults that tests switch on.
    pub drill: Drill,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// On a session.
    Seen(Generation, Seen),
    /// This node can, or cannot, lead.
    Ready(bool),
    /// The dispatcher of this term serves.
    Serving(Epoch),
    /// Everything that this term fenced has ended.
    EffectsEnded(Epoch),
    /// Somebody asks the leader to hand over.
    Handover {
        /// Given back with [`Effect::HandoverDone`].
        ticket: u64,
        /// To whom; otherwise to the next in line.
        to: Option<NodeId>,
    },
    /// A term is to be given up at once, whatever of it is alive: nobody can end that before the process ends.
    GiveUp {
        /// Why.
        reason: String,
    },
    /// The term cannot go on.
    Resign {
        /// For people.
        reason: String,
    },
    /// Leave the cluster.
    Stop,
    /// A deadline may have passed.
    Tick,
}

/// Something that happened on a session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// Answers [`Effect::Join`]: our member node is in place.
    Joined {
        /// Of the member node.
        sequence: u64,
    },
    /// Answers [`Effect::Join`]: it did not come about.
    JoinFailed,
    /// Our member node was lost and is there again.
    Restored {
        /// Of the member node.
        sequence: u64,
    },
    /// The session is connected (again).
    Connected,
    /// The session is out of touch; it may be over or not.
    Disconnected,
    /// The session is over for good.
    Ended,
    /// The watch on `leader`.
    Leader(Option<LeaderSeen>),
    /// A hint that a survey would show something new.
    Stir,
    /// Answers [`Effect::Survey`].
    Surveyed(Box<Survey>),
    /// Answers [`Effect::Survey`]: there is nothing to see.
    SurveyFailed,
    /// Answers [`Effect::Register`].
    Registered,
    /// Answers [`Effect::Register`]: it is not there.
    RegisterFailed,
    /// There are as many candidates as are allowed.
    RegisterRefused,
    /// Answers [`Effect::Withdraw`].
    Withdrawn,
    /// Answers [`Effect::Withdraw`]: it may be there yet.
    WithdrawFailed,
    /// Answers [`Effect::Claim`].
    Claimed {
        /// The term it is.
        epoch: Epoch,
    },
    /// Answers [`Effect::Claim`].
    ClaimFailed {
        /// It may yet be found done, and is undone then.
        unknown: bool,
    },
    /// A probe was committed after the lease had lapsed.
    LeaseHeld {
        /// Whose.
        epoch: Epoch,
    },
    /// No probe was committed in time.
    LeaseLapsed {
        /// Whose.
        epoch: Epoch,
    },
    /// A probe was refused: the authority is gone.
    LeaseLost {
        /// Whose.
        epoch: Epoch,
        /// For people.
        reason: String,
    },
    /// Answers [`Effect::CheckResume`].
    ResumeChecked {
        /// Which term was asked about.
        epoch: Epoch,
        /// `None` if it could not be found out.
        unchanged: Option<bool>,
    },
    /// Answers [`Effect::Release`].
    Released {
        /// Which term is over.
        epoch: Epoch,
    },
    /// Answers [`Effect::Release`]: `leader` may be there yet.
    ReleaseFailed {
        /// Which term was to be over.
        epoch: Epoch,
    },
    /// Answers [`Effect::WriteTerms`].
    TermsWritten {
        /// Otherwise it may have been written or not.
        ok: bool,
    },
}

/// What the driver must do. Each that has an answer gets it within [`Settings::answer`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Close what is left of the session before and join with a new one.
    Join {
        /// Of the new session.
        generation: Generation,
    },
    /// `sync`, then read `epoch`, `leader`, candidates, `priority` and `terms`, in this order.
    Survey,
    /// Create our candidate node.
    Register,
    /// Delete our candidate node.
    Withdraw,
    /// One `multi`: check our candidate, create `leader`, compare-and-set `epoch`.
    Claim {
        /// The version of `epoch` that is compared.
        expect: i32,
    },
    /// The term begins: start its lease from the claim's send instant.
    StartLease {
        /// Which term.
        epoch: Epoch,
    },
    /// Authority is over: flag down at once, no more probes.
    DropLease {
        /// Which term.
        epoch: Epoch,
    },
    /// Read `leader` and `epoch`: are they still this term's, on this session?
    CheckResume {
        /// Which term.
        epoch: Epoch,
    },
    /// Delete `leader`.
    Release {
        /// Which term.
        epoch: Epoch,
        /// And what goes along with it.
        how: Release,
    },
    /// Rewrite `terms`, fenced by `epoch`.
    WriteTerms {
        /// The writer's term.
        epoch: Epoch,
        /// What is written.
        change: TermsChange,
    },
    /// Compare our session's ephemerals with what we know of; remove the rest, restore the member.
    Audit,
    /// Tell whoever asked.
    HandoverDone {
        /// Of [`Event::Handover`].
        ticket: u64,
        /// Who leads now.
        outcome: Result<NodeId, HandoverError>,
    },
    /// Nothing is left but the member node and the session.
    Leave,
}

/// How `leader` is deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Release {
    /// Alone.
    Plain,
    /// With the term remembered as failed.
    Failed {
        /// For people.
        reason: String,
    },
    /// With `epoch` naming `to`, and our own candidate.
    Handover {
        /// Who is meant to claim next.
        to: NodeId,
    },
}

/// A change to `terms`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TermsChange {
    /// This term serves.
    Serving,
    /// Earlier failures of these are forgiven.
    Forgive {
        /// Whose.
        nodes: Vec<NodeId>,
    },
}

/// `leader` as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaderSeen {
    /// What it says.
    pub record: LeaderRecord,
    /// Whether our present session owns it.
    pub mine: bool,
    /// The session that owns it, as text for people.
    pub session: String,
}

/// The state of the election, as read in one go (not atomically: `epoch` comes first, and the claim compares it).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Survey {
    /// The version of `epoch`.
    pub epoch: i32,
    /// Whom `epoch` names.
    pub target: Option<NodeId>,
    /// Who leads.
    pub leader: Option<LeaderSeen>,
    /// Why nobody can lead before a person has acted.
    pub obstacle: Option<String>,
    /// Who stands, in no order.
    pub candidates: Vec<Candidate>,
    /// Those that are not 0; higher leads.
    pub priorities: BTreeMap<NodeId, i32>,
    /// Recent terms, failed ones.
    pub terms: Terms,
}

impl Survey {
    /// Whether a claim may succeed, and should.
    pub fn is_free(&self) -> bool {
        self.leader.is_none() && self.obstacle.is_none()
    }
}

/// A candidate as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Who.
    pub node: NodeId,
    /// Which life of its daemon.
    pub incarnation: Incarnation,
    /// Its member sequence.
    pub sequence: u64,
    /// Whether our present session owns it.
    pub mine: bool,
}

/// Why a handover did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
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
