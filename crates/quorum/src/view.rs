//! What the outside world sees: values, published by `watch`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::{Link, LinkState, SessionId, Term};
use election::{Generation, Terms};
use proto::{ClusterId, Epoch, FencingToken, Incarnation, NodeId};
use tokio::sync::watch;

use crate::phase::PhaseId;

/// What this node may and must do.
#[derive(Clone, Debug)]
pub enum Role {
    /// Nothing.
    Follower,
    /// It leads: boot the dispatcher, report [`Handle::serving`](crate::Handle::serving) by the deadline.
    Elected(Term),
    /// It may lead again with the same term, or not: start no effect, keep what is needed to go on.
    Suspended(Term),
    /// It does not lead any more: end every effect of this term, then call
    /// [`Handle::effects_ended`](crate::Handle::effects_ended), also if it was never seen as elected.
    Resigning(Term),
}

impl Role {
    /// The term, if there is one.
    pub fn term(&self) -> Option<&Term> {
        match self {
            Self::Follower => None,
            Self::Elected(term) | Self::Suspended(term) | Self::Resigning(term) => Some(term),
        }
    }

    /// The role's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::Elected(_) => "elected",
            Self::Suspended(_) => "suspended",
            Self::Resigning(_) => "resigning",
        }
    }
}

/// Whether a node can lead now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Its runner runs and its dispatcher can boot.
    Ready,
    /// It cannot.
    NotReady {
        /// Why, for people.
        why: String,
    },
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// From its node's name.
    pub sequence: u64,
    /// Its node in ZooKeeper.
    pub path: String,
    /// Who.
    pub node: NodeId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where its RPC listens.
    pub address: String,
    /// For placement.
    pub labels: BTreeMap<String, String>,
    /// Its release.
    pub version: String,
}

/// The leader as `leader` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Who.
    pub node: NodeId,
    /// Where its RPC listens.
    pub address: String,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its member sequence when it claimed.
    pub sequence: u64,
    /// Its term.
    pub epoch: Epoch,
    /// Whether its dispatcher is known to serve. Others learn it within a second or so.
    pub serving: bool,
    /// The session that holds `leader`, in hexadecimal.
    pub session: String,
}

/// A candidate's place in the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Who.
    pub node: NodeId,
    /// Its priority; higher leads.
    pub priority: i32,
    /// Its member sequence; among equals the lowest leads.
    pub sequence: u64,
    /// How much longer it stays out of the line because its last term failed, as of [`View::as_of`].
    pub held_down: Option<Duration>,
    /// While nobody leads: when it may claim, from [`View::as_of`]; zero if it may now.
    pub claims_in: Option<Duration>,
}

/// Why a term of this node does not serve at the moment, and what follows if that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Elected, and the dispatcher is not up yet.
    Recovering {
        /// When the term is given up, and counts as failed.
        by: Instant,
    },
    /// The lease has lapsed or the connection is lost.
    Suspended {
        /// Since when.
        since: Instant,
        /// When the term is given up.
        until: Instant,
    },
    /// The term is given up; what it fenced is being ended.
    Resigning {
        /// Why, as a clause: "it hands over to n2".
        why: String,
        /// Who is to take over, if somebody was named.
        to: Option<NodeId>,
        /// When what it fenced has to have ended; otherwise `leader` is deleted all the same.
        until: Instant,
        /// It had not ended by then.
        overdue: bool,
    },
}

/// A time without a session, after the last one was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessionless {
    /// Since when.
    pub since: Instant,
    /// Tries to join again, the present one included.
    pub tries: u64,
    /// The generation that was the last to live.
    pub(crate) last: Generation,
}

/// The cluster as this node knows it. Followers watch `leader` alone: members, line and priorities are read when the
/// leader changes, about once a minute (the line: every ten seconds by candidates), and on
/// [`Handle::refresh`](crate::Handle::refresh), which whoever shows them calls first.
#[derive(Clone, Debug)]
pub struct View {
    /// When this was put together; durations count from here.
    pub as_of: Instant,
    /// This node.
    pub node: NodeId,
    /// The quorum's phase.
    pub phase: PhaseId,
    /// Counts this node's sessions.
    pub generation: Generation,
    /// The cluster, once known.
    pub cluster: Option<ClusterId>,
    /// The control session.
    pub session: Option<SessionId>,
    /// The way to call on the control session, for ephemerals that are to live and die with this node's membership. None
    /// while there is no session; another session's link once there is another.
    pub control: Option<Link>,
    /// The path of this node's own member node on that session, to be checked in writes that a member alone may do. It
    /// changes without another session where the node was deleted and had to be created again.
    pub member: Option<String>,
    /// As negotiated; as configured before that.
    pub session_timeout: Duration,
    /// The connection to ZooKeeper.
    pub link: LinkState,
    /// What this node may and must do.
    pub role: Role,
    /// What it was told about its own readiness.
    pub readiness: Readiness,
    /// This node's membership.
    pub me: Option<Member>,
    /// In order of their sequences.
    pub members: Vec<Member>,
    /// In order of preference, hold-downs applied.
    pub candidates: Vec<NodeId>,
    /// The same, with the reasons.
    pub line: Vec<Place>,
    /// Nodes that may not claim, and for how much longer.
    pub held_down: Vec<(NodeId, Duration)>,
    /// What was set; every other node's is 0.
    pub priorities: BTreeMap<NodeId, i32>,
    /// Recent and failed terms.
    pub terms: Terms,
    /// Who leads.
    pub leader: Option<Leader>,
    /// Since when this node has known of no leader.
    pub leaderless_since: Option<Instant>,
    /// Since when this node has known of that leader's term.
    pub leader_since: Option<Instant>,
    /// What this node's own term waits for, if it does not serve.
    pub pause: Option<Pause>,
    /// While this node has no session and joins again.
    pub sessionless: Option<Sessionless>,
    /// Why nobody leads or the leader does not serve, in one sentence without a full stop.
    pub why_no_leader: Option<String>,
    /// The highest epoch seen, with or without a leader: the floor for whoever checks tokens. None before the first
    /// look at `epoch`.
    pub seen_token: Option<FencingToken>,
    /// Why no node can lead before a person has acted, and how; nothing waits for itself then.
    pub obstacle: Option<String>,
    /// What this node struggles with, for people.
    pub trouble: Option<String>,
}

/// The publishing end. Every change of phase goes through here, and is said.
#[derive(Clone, Debug)]
pub(crate) struct Publisher(Arc<watch::Sender<Arc<View>>>);

impl Publisher {
    pub(crate) fn new(first: View) -> Self {
        Self(Arc::new(watch::channel(Arc::new(first)).0))
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.0.subscribe()
    }

    pub(crate) fn get(&self) -> Arc<View> {
        self.0.borrow().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut View)) {
        self.0.send_modify(|view| change(Arc::make_mut(view)));
    }

    pub(crate) fn phase(&self, phase: PhaseId, now: Instant) {
        self.update(|view| {
            tracing::info!("quorum state change: {} -> {phase}", view.phase);
            view.phase = phase;
            view.as_of = now;
        });
    }
}
