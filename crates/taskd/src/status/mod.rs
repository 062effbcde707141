//! `cluster status`: what is the matter, since when, what happens next by itself, and what to do; in words first.
//!
//! Every node can answer. It describes what it sees itself ([`scene`]), asks the other members what they say of
//! themselves ([`members`]), takes the task figures from the leader if one answers, asks the servers of the coordination
//! service if it has no connection, and then decides ([`judge`]). Only this file waits for anybody; the words
//! ([`words`], [`judge`]) are pure, and each of them stands in `snapshots/`.

mod judge;
mod members;
mod memory;
mod scene;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use coord::LinkState;
use futures::StreamExt;
use futures::stream;
use proto::NodeId;
use proto::api::Via;
use proto::status::{ClusterStatus, CoordinationStatus, Health, ServerStatus};

use self::judge::judge;
pub(crate) use self::memory::Memory;
use self::scene::Scene;
use crate::config::Config;
use crate::coordination;
use crate::supervisor::published::{Board, Published};
use crate::wiring::Parts;

/// How long one member may take to describe itself.
const MEMBER_WITHIN: Duration = Duration::from_millis(700);

/// Members asked at a time.
const MEMBERS_AT_ONCE: usize = 16;

/// How long all of them may take together: of a thousand, half of which are gone, most are shown as listed.
const MEMBERS_WITHIN: Duration = Duration::from_secs(2);

/// How long the dispatcher beside us may take when another member asks: less than that one waits, so that it hears the
/// rest also when the dispatcher hangs, which is when it matters.
const FIGURES_WITHIN: Duration = Duration::from_millis(400);

/// What does not change while a node runs.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    node: NodeId,
    root: String,
    embedded: bool,
    eligible: bool,
    session_timeout: Duration,
    tick: Duration,
    serve_deadline: Duration,
}

impl Identity {
    /// That of a node with this configuration.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            node: config.node.id.clone(),
            root: config.coordination.root.clone(),
            embedded: config.coordination.embedded,
            eligible: config.node.eligible,
            session_timeout: config.coordination.session_timeout,
            tick: config.coordination.tick,
            serve_deadline: config.election.serve_deadline,
        }
    }
}

/// The cluster as this node sees it, completed by its peers.
pub(crate) async fn collect(parts: &Arc<Parts>, board: &Board, via: Via) -> ClusterStatus {
    let published = board.snapshot();
    let now = parts.clock.now();
    let mut scene = Scene::of(&parts.identity, &published, now);
    let mut status = frame(&parts.identity, &published, now);
    if let Some((_, dispatcher)) = &published.dispatcher {
        let all = async {
            tokio::join!(
                dispatcher.stats(),
                dispatcher.capacities(),
                dispatcher.fences(),
                dispatcher.operations()
            )
        };
        let within = if via == Via::Peer { FIGURES_WITHIN } else { MEMBERS_WITHIN };
        if let Ok((stats, seen, fences, operations)) = tokio::time::timeout(within, all).await {
            if let Some((log, tasks)) = stats {
                scene.log = Some(log);
                status.tasks = tasks.into_iter().collect();
            }
            for seen in seen {
                members::heard(&mut scene, seen);
            }
            scene.fences = fences;
            if let Ok(operations) = operations {
                members::operated(&mut scene, operations);
            }
        }
    }
    if via == Via::Client {
        if let Some(quorum) = &published.quorum {
            quorum.refresh();
        }
        let ((), servers) =
            tokio::join!(ask_members(parts, &mut scene, &mut status), ask_servers(parts, &published));
        scene.service.servers = servers;
    }
    complete(status, scene)
}

/// Asks the leader first, since a follower lists the members only now and then, and the leader watches them; then
/// everybody else.
async fn ask_members(parts: &Arc<Parts>, scene: &mut Scene, status: &mut ClusterStatus) {
    // By address: a twin has this node's id, and knows better what it does.
    let leader = scene.leader.as_ref().filter(|leader| leader.address != parts.address);
    let leader = leader.map(|leader| leader.address.clone());
    if let Some(address) = &leader {
        let answer = within_reach(parts, address).await;
        if let Some(theirs) = &answer {
            members::adopt(scene, &parts.address, theirs);
        }
        members::merge(scene, status, address, answer);
    }
    let mut others: Vec<_> = scene
        .members
        .iter()
        .filter(|member| member.address != parts.address && Some(&member.address) != leader.as_ref())
        .map(|member| member.address.clone())
        .collect();
    others.sort_unstable();
    others.dedup();
    let answers: Vec<_> = stream::iter(others)
        .map(|address| async move {
            let answer = within_reach(parts, &address).await;
            (address, answer)
        })
        .buffer_unordered(MEMBERS_AT_ONCE)
        .take_until(tokio::time::sleep(MEMBERS_WITHIN))
        .collect()
        .await;
    for (address, answer) in answers {
        members::merge(scene, status, &address, answer);
    }
    scene.asked = true;
}

/// Where this node has no connection, or nothing commits on it, each server is asked what it does.
async fn ask_servers(parts: &Parts, published: &Published) -> Vec<ServerStatus> {
    let fine = published.view.as_ref().is_some_and(|view| {
        matches!(view.link, LinkState::Connected { .. })
            && view.sessionless.is_none()
            && !matches!(view.pause, Some(quorum::Pause::Suspended { .. }))
    });
    if fine || published.hosts.is_empty() {
        return Vec::new();
    }
    coordination::servers(&parts.network, &published.hosts).await
}

/// What the member at `address` says, if it answers in time.
async fn within_reach(parts: &Parts, address: &str) -> Option<ClusterStatus> {
    tokio::time::timeout(MEMBER_WITHIN, ask(parts, address)).await.ok().flatten()
}

async fn ask(parts: &Parts, address: &str) -> Option<ClusterStatus> {
    let client = parts.peers.api(address).await.ok()?;
    let mut context = tarpc::context::current();
    context.deadline = std::time::Instant::now() + MEMBER_WITHIN;
    client.status(context, Via::Peer).await.ok()?.ok()
}

/// Why nobody serves as leader as far as this node knows without asking, for those that needed one.
pub(crate) fn why_no_leader(identity: &Identity, published: &Published, now: Instant) -> String {
    let verdict = judge(&Scene::of(identity, published, now));
    match verdict.health {
        Health::NoLeader => verdict.summary,
        // It has come to serve in this moment.
        Health::Healthy | Health::Degraded => "a leader has just appeared".to_owned(),
    }
}

/// Decides, and fills in what is shown.
fn complete(mut status: ClusterStatus, mut scene: Scene) -> ClusterStatus {
    status.condition = words::own_condition(&scene);
    if let Some(me) = scene.members.iter_mut().find(|member| member.node == scene.node) {
        me.condition.clone_from(&status.condition);
    }
    let verdict = judge(&scene);
    members::finish(&mut scene);
    (status.health, status.summary) = (verdict.health, verdict.summary);
    (status.remedy, status.notes) = (verdict.remedy, verdict.notes);
    if let Some(leader) = &mut status.leader {
        leader.serving = verdict.health != Health::NoLeader
            && scene.serving.as_ref().is_none_or(|(node, _)| *node == leader.node);
    }
    status.coordination.servers = scene.service.servers;
    (status.members, status.fences, status.log) = (scene.members, scene.fences, scene.log);
    (status.paused, status.drained) = (scene.paused, scene.drained);
    status
}

/// Everything that is not part of the scene.
fn frame(identity: &Identity, published: &Published, now: Instant) -> ClusterStatus {
    let view = published.view.as_deref();
    ClusterStatus {
        health: Health::NoLeader,
        summary: String::new(),
        remedy: None,
        notes: Vec::new(),
        answered_by: identity.node.clone(),
        condition: None,
        cluster: view.and_then(|view| view.cluster),
        leader: view.and_then(members::leader),
        members: Vec::new(),
        coordination: coordination_now(identity, published, now),
        log: None,
        tasks: BTreeMap::new(),
        fences: Vec::new(),
        paused: None,
        drained: BTreeMap::new(),
    }
}

fn coordination_now(identity: &Identity, published: &Published, now: Instant) -> CoordinationStatus {
    let view = published.view.as_deref();
    let (state, since) = match view.map(|view| &view.link) {
        Some(LinkState::Connected { since, .. }) => ("connected", Some(*since)),
        Some(LinkState::Disconnected { since }) => ("disconnected", Some(*since)),
        Some(LinkState::Ended(_)) => ("expired", view.and_then(|view| view.sessionless).map(|gap| gap.since)),
        None => ("disconnected", published.busy.first().map(|busy| busy.since)),
    };
    CoordinationStatus {
        hosts: format!("{}{}", published.hosts, identity.root),
        state: state.to_owned(),
        for_ms: since.map_or(0, |since| millis(now.since(since))),
        session: view.and_then(|view| view.session).map(|session| session.to_string()),
        session_timeout_ms: millis(view.map_or(identity.session_timeout, |view| view.session_timeout)),
        servers: Vec::new(),
        service: published.service.clone(),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
