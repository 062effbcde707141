//! What one node knows at one moment, as plain data: everything that the words are made of, and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::LinkState;
use proto::operate::{Drain, Said};
use proto::status::{CoordinationKind, FenceStatus, LogStatus, MemberStatus, ServerStatus};
use proto::{Epoch, NodeId};
use quorum::{Pause, Role, View};

use super::Identity;
use super::memory::Flapping;
use crate::supervisor::published::{Published, Work};

/// The scene, as the node that answers sees it. Spans are as of now.
#[derive(Clone, Debug)]
pub(super) struct Scene {
    pub(super) node: NodeId,
    /// Whether the other members were asked what they see of themselves.
    pub(super) asked: bool,
    pub(super) own: Own,
    pub(super) link: Link,
    /// Who holds `leader`.
    pub(super) leader: Option<Holder>,
    /// The member that leads and serves by its own account, its address, and its term.
    pub(super) serving: Option<(NodeId, Epoch)>,
    pub(super) leaderless_for: Option<Duration>,
    pub(super) line: Vec<InLine>,
    /// Why nobody can lead before a person has acted.
    pub(super) obstacle: Option<String>,
    pub(super) members: Vec<MemberStatus>,
    pub(super) fences: Vec<FenceStatus>,
    /// Nothing new starts, as an operator said.
    pub(super) paused: Option<Said>,
    /// Nodes that get no new tasks, as an operator said.
    pub(super) drained: BTreeMap<NodeId, Drain>,
    pub(super) log: Option<LogStatus>,
    pub(super) flapping: Vec<Flapping>,
    pub(super) vips: Vips,
    pub(super) timing: Timing,
    pub(super) service: Service,
}

/// Virtual IPs, in the words of their own crate.
#[derive(Clone, Debug, Default)]
pub(super) struct Vips {
    /// Services that are down or blocked, and what to do.
    pub(super) troubles: Vec<(String, Option<String>)>,
    pub(super) notes: Vec<String>,
    /// Who is named as the holder of a service, and of which.
    pub(super) holders: Vec<(NodeId, String)>,
}

/// This node.
#[derive(Clone, Debug, Default)]
pub(super) struct Own {
    pub(super) eligible: bool,
    pub(super) busy: Vec<(Work, Duration)>,
    /// Tries to join that have failed, and how the last one did.
    pub(super) joins_failed: u32,
    pub(super) trouble: Option<String>,
    pub(super) ending: Option<EndingFor>,
    pub(super) wedged: Option<WedgedFor>,
    pub(super) term: Option<OwnTerm>,
}

#[derive(Clone, Debug)]
pub(super) struct EndingFor {
    pub(super) since: Duration,
    pub(super) left: Duration,
    pub(super) failure: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct WedgedFor {
    pub(super) component: String,
    pub(super) phase: String,
    pub(super) since: Duration,
    pub(super) left: Duration,
}

/// A term of this node that is not over.
#[derive(Clone, Debug)]
pub(super) struct OwnTerm {
    pub(super) epoch: Epoch,
    pub(super) state: TermState,
}

#[derive(Clone, Debug)]
pub(super) enum TermState {
    Serving,
    /// Until it resigns.
    Recovering {
        left: Duration,
    },
    Suspended {
        since: Duration,
        left: Duration,
    },
    Resigning {
        why: String,
        to: Option<NodeId>,
        left: Duration,
        overdue: bool,
    },
}

/// The connection to the coordination service.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// This node has not joined since it started.
    Never,
    Connected,
    Lost(Duration),
    /// The session is over; this node joins again.
    Over {
        why: String,
        since: Duration,
        tries: u64,
    },
}

/// Who holds `leader`.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) address: String,
    pub(super) epoch: Epoch,
    /// As far as this node knows without asking.
    pub(super) serving: bool,
    /// For how long this node has known of the term.
    pub(super) known_for: Duration,
    /// For how long it has answered no call of this node.
    pub(super) silent_for: Option<Duration>,
}

/// A candidate in its place.
#[derive(Clone, Debug)]
pub(super) struct InLine {
    pub(super) node: NodeId,
    pub(super) held_down: Option<Duration>,
    pub(super) claims_in: Option<Duration>,
    /// How its last terms failed: how many in a row, and why the newest did.
    pub(super) failed: Option<(u32, String)>,
}

#[derive(Clone, Debug)]
pub(super) struct Timing {
    /// As granted; as asked for before that.
    pub(super) session: Duration,
    pub(super) session_asked: Duration,
    pub(super) tick: Duration,
    pub(super) serve: Duration,
}

/// The coordination service.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) embedded: bool,
    pub(super) kind: Option<CoordinationKind>,
    pub(super) hosts: String,
    /// Each server, where it was asked.
    pub(super) servers: Vec<ServerStatus>,
}

impl Scene {
    /// What is known without asking anybody.
    pub(super) fn of(identity: &Identity, published: &Published, now: Instant) -> Self {
        let view = published.view.as_deref();
        let leader = view.and_then(|view| {
            let leader = view.leader.as_ref()?;
            Some(Holder {
                node: leader.node.clone(),
                address: leader.address.clone(),
                epoch: leader.epoch,
                serving: leader.serving,
                known_for: view.leader_since.map(|since| now.since(since)).unwrap_or_default(),
                silent_for: published.memory.silent_for(&leader.address, now),
            })
        });
        let own = own(identity, published, now);
        let serves = |term: &OwnTerm| matches!(term.state, TermState::Serving).then_some(term.epoch);
        Self {
            node: identity.node.clone(),
            asked: false,
            serving: own.term.as_ref().and_then(serves).map(|epoch| (identity.node.clone(), epoch)),
            own,
            link: view.map_or(Link::Never, |view| link(view, now)),
            leader,
            leaderless_for: view.and_then(|view| view.leaderless_since).map(|since| now.since(since)),
            line: view.map_or_else(Vec::new, |view| line(view, now)),
            obstacle: view.and_then(|view| view.obstacle.clone()),
            members: view.map_or_else(Vec::new, |view| super::members::list(identity, view)),
            fences: Vec::new(),
            paused: None,
            drained: BTreeMap::new(),
            log: None,
            flapping: published.memory.flapping(now),
            vips: vips(published),
            timing: Timing {
                session: view.map_or(identity.session_timeout, |view| view.session_timeout),
                session_asked: identity.session_timeout,
                tick: identity.tick,
                serve: identity.serve_deadline,
            },
            service: Service {
                embedded: identity.embedded,
                kind: published.service.as_ref().map(|service| service.kind),
                hosts: published.hosts.clone(),
                servers: Vec::new(),
            },
        }
    }

    /// The member row of `node`.
    pub(super) fn member(&self, node: &NodeId) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.node == *node)
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.link, Link::Connected)
    }
}

fn vips(published: &Published) -> Vips {
    let Some(handle) = &published.vips else { return Vips::default() };
    let view = Arc::clone(&handle.view().borrow());
    if !view.connected {
        // What it knows of services is as old as its session; why it has none is said anyway.
        return Vips::default();
    }
    let leader = published.view.as_ref().and_then(|view| view.leader.as_ref()).map(|leader| &leader.node);
    let (troubles, notes) = vip::troubles(&view, leader);
    let holder = |documents: &vip::Documents| documents.holder.as_ref().map(|holder| holder.node.clone());
    let holders =
        view.services.iter().filter_map(|(name, service)| Some((holder(service)?, name.to_string())));
    Vips { troubles, notes, holders: holders.collect() }
}

fn own(identity: &Identity, published: &Published, now: Instant) -> Own {
    let view = published.view.as_deref();
    let ending = published.ending.as_ref().map(|ending| EndingFor {
        since: now.since(ending.since),
        left: ending.by.since(now),
        failure: ending.failure.clone(),
    });
    let wedged = published.wedged.as_ref().map(|wedged| WedgedFor {
        component: wedged.component.to_string(),
        phase: wedged.phase.to_string(),
        since: now.since(wedged.since),
        left: wedged.ends_at.since(now),
    });
    Own {
        eligible: identity.eligible,
        busy: published.busy.iter().map(|busy| (busy.with, now.since(busy.since))).collect(),
        joins_failed: published.joins_failed,
        trouble: view.and_then(|view| view.trouble.clone()).or_else(|| published.trouble.clone()),
        ending,
        wedged,
        term: view.and_then(|view| term(view, now)),
    }
}

fn term(view: &View, now: Instant) -> Option<OwnTerm> {
    let epoch = view.role.term()?.token.epoch;
    let state = match (&view.pause, &view.role) {
        (Some(Pause::Recovering { by }), _) => TermState::Recovering { left: by.since(now) },
        (Some(Pause::Suspended { since, until }), _) => {
            TermState::Suspended { since: now.since(*since), left: until.since(now) }
        }
        (Some(Pause::Resigning { why, to, until, overdue }), _) => TermState::Resigning {
            why: why.clone(),
            to: to.clone(),
            left: until.since(now),
            overdue: *overdue,
        },
        (None, Role::Elected(term)) if term.lease.holds() => TermState::Serving,
        // It has just lapsed; the election is about to notice.
        (None, Role::Elected(_) | Role::Suspended(_)) => {
            TermState::Suspended { since: Duration::ZERO, left: view.session_timeout }
        }
        // Its effects have ended: nothing is left of it but a name.
        (None, Role::Resigning(_) | Role::Follower) => return None,
    };
    Some(OwnTerm { epoch, state })
}

fn link(view: &View, now: Instant) -> Link {
    let over = |why: String| {
        let (since, tries) =
            view.sessionless.map_or((Duration::ZERO, 1), |gap| (now.since(gap.since), gap.tries));
        Link::Over { why, since, tries }
    };
    match &view.link {
        LinkState::Ended(why) => over(why.to_string()),
        _ if view.sessionless.is_some() => over("the session was given up".to_owned()),
        LinkState::Connected { .. } => Link::Connected,
        LinkState::Disconnected { since } => Link::Lost(now.since(*since)),
    }
}

fn line(view: &View, now: Instant) -> Vec<InLine> {
    let passed = now.since(view.as_of);
    let places = view.line.iter().map(|place| InLine {
        node: place.node.clone(),
        held_down: place.held_down.map(|held| held.saturating_sub(passed)).filter(|held| !held.is_zero()),
        claims_in: place.claims_in.map(|wait| wait.saturating_sub(passed)),
        failed: view.terms.failed.get(&place.node).map(|failed| (failed.count, failed.reason.clone())),
    });
    places.collect()
}
