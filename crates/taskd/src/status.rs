//! `cluster status`: what is the matter, in words first.
//!
//! Every node can answer. It describes what it sees itself ([`local`], pure), asks the other members what they see
//! of themselves, and takes the task figures from the leader if one answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::LinkState;
use futures::StreamExt;
use futures::stream;
use proto::NodeId;
use proto::api::Via;
use proto::status::{
    ClusterStatus, CoordinationKind, CoordinationStatus, Health, LeaderStatus, MemberStatus, Slots,
};
use quorum::{Role, View};

use crate::supervisor::published::{Board, Published};
use crate::wiring::Parts;

/// How long one member may take to describe itself.
const MEMBER_WITHIN: Duration = Duration::from_millis(700);

/// Members asked at a time.
const MEMBERS_AT_ONCE: usize = 16;

/// How a member is shown that does not answer.
const UNREACHABLE: &str = "unreachable";

/// What a claim takes beyond session timeout and tick.
const EXPIRY_SLACK: Duration = Duration::from_millis(500);

/// What does not change while a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) root: String,
    pub(crate) embedded: bool,
    pub(crate) session_timeout: Duration,
    pub(crate) tick: Duration,
}

/// The cluster as this node sees it, completed by its peers.
pub(crate) async fn collect(parts: &Arc<Parts>, board: &Board, via: Via) -> ClusterStatus {
    let published = board.snapshot();
    let mut status = local(&parts.identity, &published, parts.clock.now());
    if let Some((_, dispatcher)) = &published.dispatcher {
        if let Some((log, tasks)) = dispatcher.stats().await {
            status.log = Some(log);
            status.tasks = tasks.into_iter().collect();
        }
        for (node, total, free) in dispatcher.capacities().await {
            if let Some(member) = status.members.iter_mut().find(|member| member.node == node) {
                member.slots = Some(Slots { total, free });
            }
        }
    }
    if via == Via::Client {
        if let Some(quorum) = &published.quorum {
            quorum.refresh();
        }
        // A follower lists the members only now and then; the leader watches them.
        let leader = status.leader.as_ref().filter(|leader| leader.node != parts.node);
        let leader = leader.map(|leader| leader.address.clone());
        if let Some(address) = &leader {
            let answer = within_reach(parts, address).await;
            if let Some(theirs) = &answer {
                adopt_members(&mut status, &parts.address, theirs);
            }
            merge(&mut status, address, answer);
        }
        let others: Vec<_> = status
            .members
            .iter()
            .filter(|member| member.node != parts.node && Some(&member.address) != leader.as_ref())
            .map(|member| member.address.clone())
            .collect();
        let answers: Vec<_> = stream::iter(others)
            .map(|address| async move {
                let answer = within_reach(parts, &address).await;
                (address, answer)
            })
            .buffer_unordered(MEMBERS_AT_ONCE)
            .collect()
            .await;
        for (address, answer) in answers {
            merge(&mut status, &address, answer);
        }
        judge_leader(&mut status, &parts.identity, published.view.as_deref());
        judge_members(&mut status);
    }
    status
}

/// A leader that does not answer leads nobody, whatever its session still says.
fn judge_leader(status: &mut ClusterStatus, identity: &Identity, view: Option<&View>) {
    let Some(leader) = status.leader.as_mut() else { return };
    let silent =
        status.members.iter().any(|member| member.node == leader.node && member.phase == UNREACHABLE);
    if !silent || leader.node == identity.node {
        return;
    }
    leader.serving = false;
    let next = view
        .and_then(|view| view.candidates.iter().find(|candidate| **candidate != leader.node))
        .map_or_else(|| "no other node is ready to lead".to_owned(), |next| format!("{next} takes over"));
    status.summary = format!(
        "NO LEADER: {} (epoch {}) does not answer; {next} once its session has expired, at most {} after its end",
        leader.node,
        leader.epoch,
        seconds(identity.session_timeout + identity.tick + EXPIRY_SLACK)
    );
    status.health = Health::NoLeader;
    status.remedy = Some(format!(
        "wait; if this stays, {} is cut off from this node but not from ZooKeeper: check the network between them",
        leader.address
    ));
}

/// What the member at `address` says, if it answers in time.
async fn within_reach(parts: &Parts, address: &str) -> Option<ClusterStatus> {
    tokio::time::timeout(MEMBER_WITHIN, ask(parts, address)).await.ok().flatten()
}

/// Takes the leader's list of members over, except for what the node at `address`, this one, knows of itself.
fn adopt_members(status: &mut ClusterStatus, address: &str, theirs: &ClusterStatus) {
    if !leads(theirs) {
        return;
    }
    let mut members = theirs.members.clone();
    let ours = status.members.iter().find(|member| member.address == address);
    if let (Some(ours), Some(me)) = (ours, members.iter_mut().find(|member| member.address == address)) {
        me.phase.clone_from(&ours.phase);
    }
    let count = |list: &[MemberStatus]| format!(", {} member{}", list.len(), plural(list.len()));
    status.summary = status.summary.replace(&count(&status.members), &count(&members));
    status.members = members;
}

/// Whether who answered leads by its own account; what it remembers of a leadership that it lost does not count.
fn leads(theirs: &ClusterStatus) -> bool {
    theirs.health != Health::NoLeader
        && theirs.leader.as_ref().is_some_and(|leader| leader.node == theirs.answered_by)
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

async fn ask(parts: &Parts, address: &str) -> Option<ClusterStatus> {
    let client = parts.peers.api(address).await.ok()?;
    let mut context = tarpc::context::current();
    context.deadline = std::time::Instant::now() + MEMBER_WITHIN;
    client.status(context, Via::Peer).await.ok()?.ok()
}

/// Takes over what the member at `address` knows best: itself, and the tasks if it leads.
fn merge(status: &mut ClusterStatus, address: &str, answer: Option<ClusterStatus>) {
    let Some(member) = status.members.iter_mut().find(|member| member.address == address) else { return };
    let Some(theirs) = answer else {
        UNREACHABLE.clone_into(&mut member.phase);
        member.note = Some("does not answer on its address".to_owned());
        return;
    };
    if let Some(own) =
        theirs.members.iter().find(|own| own.node == theirs.answered_by && own.node == member.node)
    {
        // Its note is from its own list of members, which may be old.
        member.phase.clone_from(&own.phase);
    }
    if !leads(&theirs) {
        return;
    }
    if theirs.log.is_some() {
        status.log = theirs.log;
        status.tasks = theirs.tasks;
    }
    if let (Some(ours), Some(their_leader)) = (&mut status.leader, theirs.leader)
        && ours.epoch == their_leader.epoch
    {
        *ours = LeaderStatus { sequence: ours.sequence.or(their_leader.sequence), ..their_leader };
        if ours.serving && status.health == Health::NoLeader {
            status.health = Health::Healthy;
            status.summary.clone_from(&theirs.summary);
            status.remedy = None;
        }
    }
    for theirs in theirs.members {
        if let Some(member) = status.members.iter_mut().find(|member| member.node == theirs.node) {
            member.slots = theirs.slots.or(member.slots);
        }
    }
}

/// A healthy cluster with an unreachable or struggling member is degraded.
fn judge_members(status: &mut ClusterStatus) {
    if status.health != Health::Healthy {
        return;
    }
    let troubled: Vec<_> = status
        .members
        .iter()
        .filter(|member| member.note.is_some())
        .map(|member| format!("{} {}", member.node, member.note.as_deref().unwrap_or_default()))
        .collect();
    if !troubled.is_empty() {
        status.health = Health::Degraded;
        status.summary =
            format!("{}; but {}", status.summary.replacen("HEALTHY", "DEGRADED", 1), troubled.join("; "));
        status.remedy =
            Some("look at that node's log; if the machine is gone, its tasks move by themselves".to_owned());
    }
}

/// The cluster as one node sees it, without asking anybody.
pub(crate) fn local(identity: &Identity, published: &Published, now: Instant) -> ClusterStatus {
    let view = published.view.as_deref();
    let leader = view.and_then(leader_status);
    let serving = leader.as_ref().is_some_and(|leader| leader.serving);
    let connected = view.is_some_and(|view| matches!(view.link, LinkState::Connected { .. }));
    let members = view.map_or_else(Vec::new, |view| members(identity, view));
    let (health, summary, remedy) = match &leader {
        Some(leader) if serving && connected => (
            Health::Healthy,
            format!(
                "HEALTHY: {} leads (epoch {}), {} member{}",
                leader.node,
                leader.epoch,
                members.len(),
                plural(members.len())
            ),
            None,
        ),
        _ => (Health::NoLeader, why_no_leader(published, now), remedy(published, identity)),
    };
    ClusterStatus {
        health,
        summary,
        remedy,
        answered_by: identity.node.clone(),
        cluster: view.and_then(|view| view.cluster),
        leader,
        members,
        coordination: coordination(identity, published, now),
        log: None,
        tasks: BTreeMap::new(),
    }
}

fn leader_status(view: &View) -> Option<LeaderStatus> {
    let leader = view.leader.as_ref()?;
    let lease_ms = match &view.role {
        Role::Elected(term) | Role::Suspended(term) if term.token.epoch == leader.epoch => {
            Some(u64::try_from(term.lease.remaining().as_millis()).unwrap_or(u64::MAX))
        }
        _ => None,
    };
    Some(LeaderStatus {
        node: leader.node.clone(),
        address: leader.address.clone(),
        epoch: leader.epoch,
        sequence: view.members.iter().find(|member| member.node == leader.node).map(|member| member.sequence),
        serving: leader.serving,
        lease_ms,
    })
}

fn members(identity: &Identity, view: &View) -> Vec<MemberStatus> {
    let mut members: Vec<_> = view.members.iter().collect();
    members.sort_by_key(|member| member.sequence);
    (1..)
        .zip(members)
        .map(|(index, member)| {
            let leads = view.leader.as_ref().is_some_and(|leader| leader.node == member.node);
            let role = if leads {
                "leader"
            } else if view.candidates.contains(&member.node) {
                "candidate"
            } else {
                "member"
            };
            let me = member.node == identity.node;
            let twins = view.members.iter().filter(|other| other.node == member.node).count() > 1;
            MemberStatus {
                index,
                sequence: member.sequence,
                node: member.node.clone(),
                address: member.address.clone(),
                role: role.to_owned(),
                phase: if me { view.phase.to_string() } else { "unknown".to_owned() },
                priority: view.priorities.get(&member.node).copied().unwrap_or(0),
                slots: None,
                version: member.version.clone(),
                note: note(view, me, twins),
            }
        })
        .collect()
}

/// What is the matter with a member, as far as this node can tell without asking it.
fn note(view: &View, me: bool, twins: bool) -> Option<String> {
    if twins {
        return Some(
            "shares its id with another member: start one of them with its own --node-id".to_owned(),
        );
    }
    // Beside a leader that serves it means that the two do not agree on which ensemble, or how much of it, this is.
    view.obstacle.as_ref().filter(|_| me).map(|obstacle| format!("takes no part: {obstacle}"))
}

fn coordination(identity: &Identity, published: &Published, now: Instant) -> CoordinationStatus {
    let view = published.view.as_deref();
    let (state, since) = match view.map(|view| &view.link) {
        Some(LinkState::Connected { since, .. }) => ("connected", Some(*since)),
        Some(LinkState::Disconnected { since }) => ("disconnected", Some(*since)),
        Some(LinkState::Ended(_)) => ("expired", None),
        None => ("disconnected", None),
    };
    CoordinationStatus {
        hosts: format!("{}{}", published.hosts, identity.root),
        state: state.to_owned(),
        for_ms: since.map_or(0, |since| u64::try_from(now.since(since).as_millis()).unwrap_or(u64::MAX)),
        session: view.and_then(|view| view.session).map(|session| session.to_string()),
        session_timeout_ms: u64::try_from(
            view.map_or(identity.session_timeout, |view| view.session_timeout).as_millis(),
        )
        .unwrap_or(u64::MAX),
        service: published.service.clone(),
    }
}

/// Seconds with one decimal, as people read them.
fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// Why nobody serves as leader, for how long, and who is next. A sentence without a full stop.
pub(crate) fn why_no_leader(published: &Published, now: Instant) -> String {
    let Some(view) = published.view.as_deref() else {
        return match &published.trouble {
            Some(trouble) => format!("NO LEADER known here: this node has not joined the cluster: {trouble}"),
            None => format!("NO LEADER known here: this node is {}", published.stage_or("starting")),
        };
    };
    let span =
        view.leaderless_since.map_or_else(String::new, |since| format!(" for {}", seconds(now.since(since))));
    // Above all why joining again is refused: nothing else would say it.
    let trouble = view.trouble.as_ref().map_or_else(String::new, |trouble| format!("; {trouble}"));
    match &view.link {
        LinkState::Disconnected { since } => format!(
            "NO LEADER known here{span}: this node has had no connection to ZooKeeper for {}{trouble}",
            seconds(now.since(*since))
        ),
        LinkState::Ended(ended) => {
            format!(
                "NO LEADER known here{span}: this node's session has ended ({ended}); it joins again{trouble}"
            )
        }
        LinkState::Connected { .. } => {
            let why = view.why_no_leader.as_deref().unwrap_or("a leader has just appeared");
            format!("NO LEADER{span}: {why}")
        }
    }
}

fn remedy(published: &Published, identity: &Identity) -> Option<String> {
    let keeper = published.service.as_ref().is_some_and(|service| service.kind == CoordinationKind::Keeper);
    let coordination = || {
        if identity.embedded {
            "look at this node's log: it runs the coordination service itself".to_owned()
        } else if keeper {
            format!("see that the keeper runs at {}: `taskd keeper` on its data directory", published.hosts)
        } else {
            format!("check that ZooKeeper answers at {}: echo srvr | nc HOST PORT", published.hosts)
        }
    };
    let Some(view) = published.view.as_deref() else { return Some(coordination()) };
    match &view.link {
        // The sentence itself says what to do.
        LinkState::Connected { .. } if view.obstacle.is_some() => None,
        LinkState::Connected { .. } if view.candidates.is_empty() => {
            Some("start more nodes, or look at their logs: a node is ready once its runner runs".to_owned())
        }
        LinkState::Connected { .. } => Some("wait: a node takes over by itself".to_owned()),
        LinkState::Disconnected { .. } | LinkState::Ended(_) => Some(coordination()),
    }
}
