//! The rows of the members, and what others know better than this node.

use std::collections::BTreeMap;

use dispatcher::RunnerSeen;
use proto::operate::Operations;
use proto::status::{ClusterStatus, Condition, ConditionKind, Health, LeaderStatus, MemberStatus};
use quorum::View;

use super::Identity;
use super::scene::Scene;

/// How a member is shown that does not answer.
pub(super) const UNREACHABLE: &str = "unreachable";

/// What is said of members that share an id.
pub(super) const TWINS: &str = "shares its id with another member";

/// The members as this node has them listed.
pub(super) fn list(identity: &Identity, view: &View) -> Vec<MemberStatus> {
    let mut members: Vec<_> = view.members.iter().collect();
    members.sort_by_key(|member| member.sequence);
    let mut of_that_name = BTreeMap::new();
    for member in &view.members {
        *of_that_name.entry(&member.node).or_insert(0_usize) += 1;
    }
    let rows = (1..).zip(members).map(|(index, member)| {
        let me = member.node == identity.node;
        let leads = view
            .leader
            .as_ref()
            .is_some_and(|leader| leader.node == member.node && leader.incarnation == member.incarnation);
        let role = match (leads, view.candidates.contains(&member.node)) {
            (true, _) => "leader",
            (false, true) => "candidate",
            (false, false) => "member",
        };
        let twins = of_that_name.get(&member.node).is_some_and(|count| *count > 1);
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
            note: twins.then(|| TWINS.to_owned()),
            condition: None,
            heard_ms: None,
        }
    });
    rows.collect()
}

/// The leader as this node knows it.
pub(super) fn leader(view: &View) -> Option<LeaderStatus> {
    let leader = view.leader.as_ref()?;
    let lease_ms = match &view.role {
        quorum::Role::Elected(term) | quorum::Role::Suspended(term) if term.token.epoch == leader.epoch => {
            Some(u64::try_from(term.lease.remaining().as_millis()).unwrap_or(u64::MAX))
        }
        _ => None,
    };
    let listed = view.members.iter().find(|member| member.incarnation == leader.incarnation);
    Some(LeaderStatus {
        node: leader.node.clone(),
        address: leader.address.clone(),
        epoch: leader.epoch,
        sequence: listed.map(|member| member.sequence),
        serving: leader.serving,
        lease_ms,
    })
}

/// Whether who answered leads by its own account; what it remembers of a leadership that it lost does not count.
pub(super) fn leads(theirs: &ClusterStatus) -> bool {
    theirs.health != Health::NoLeader
        && theirs.leader.as_ref().is_some_and(|leader| leader.node == theirs.answered_by)
}

/// Takes the leader's list of members over, except for what the node at `address`, this one, knows of itself.
pub(super) fn adopt(scene: &mut Scene, address: &str, theirs: &ClusterStatus) {
    if !leads(theirs) {
        return;
    }
    let mut members = theirs.members.clone();
    let ours = scene.members.iter().find(|member| member.address == address);
    if let (Some(ours), Some(me)) = (ours, members.iter_mut().find(|member| member.address == address)) {
        me.phase.clone_from(&ours.phase);
        me.condition.clone_from(&ours.condition);
    }
    scene.members = members;
}

/// Takes over what the member at `address` knows best: itself, and the tasks if it leads.
pub(super) fn merge(
    scene: &mut Scene,
    status: &mut ClusterStatus,
    address: &str,
    answer: Option<ClusterStatus>,
) {
    let Some(theirs) = answer else {
        for member in scene.members.iter_mut().filter(|member| member.address == address) {
            UNREACHABLE.clone_into(&mut member.phase);
            member.condition = None;
        }
        return;
    };
    let there = |member: &&mut MemberStatus| member.address == address && member.node == theirs.answered_by;
    for member in scene.members.iter_mut().filter(there) {
        member.condition.clone_from(&theirs.condition);
        let own = theirs.members.iter().find(|own| own.address == address);
        // Who has been started again is listed by its former life, and lists nobody yet.
        member.phase = own.map_or_else(|| "Initializing".to_owned(), |own| own.phase.clone());
    }
    if !leads(&theirs) {
        return;
    }
    if let Some(leader) = &theirs.leader
        && scene.serving.as_ref().is_none_or(|(_, epoch)| *epoch <= leader.epoch)
    {
        scene.serving = Some((leader.node.clone(), leader.epoch));
        let known = status.leader.take().filter(|known| known.epoch == leader.epoch);
        let sequence = known.and_then(|known| known.sequence).or(leader.sequence);
        status.leader = Some(LeaderStatus { sequence, ..leader.clone() });
    }
    if theirs.log.is_some() {
        scene.log = theirs.log;
        scene.fences.clone_from(&theirs.fences);
        scene.paused.clone_from(&theirs.paused);
        scene.drained.clone_from(&theirs.drained);
        status.tasks = theirs.tasks;
    }
    for theirs in theirs.members {
        if let Some(member) = scene.members.iter_mut().find(|member| member.node == theirs.node) {
            member.slots = theirs.slots.or(member.slots);
            member.heard_ms = theirs.heard_ms.or(member.heard_ms);
        }
    }
}

/// Takes over what operators have set, which the leader's own dispatcher knows.
pub(super) fn operated(scene: &mut Scene, operations: Operations) {
    scene.paused = operations.paused;
    let drained = operations.nodes.into_iter().filter_map(|node| Some((node.node, node.drain?)));
    scene.drained = drained.collect();
}

/// Fills in what the leader's own dispatcher knows of a member.
pub(super) fn heard(scene: &mut Scene, seen: RunnerSeen) {
    for member in scene.members.iter_mut().filter(|member| member.node == seen.node) {
        member.slots = Some(seen.slots);
        member.heard_ms = seen.heard.map(super::millis);
    }
}

/// Says what each member is now that everybody has been asked, and puts what is the matter with it in its row.
pub(super) fn finish(scene: &mut Scene) {
    let serving = scene.serving.clone();
    for member in &mut scene.members {
        let kind = member.condition.as_ref().map(|condition| condition.kind);
        let serves = serving.as_ref().is_some_and(|(node, _)| *node == member.node);
        // One that does not answer may lead all the same.
        if member.role == "leader" && !serves && scene.asked && member.phase != UNREACHABLE {
            let elected = kind == Some(ConditionKind::Recovering);
            if elected { "elected" } else { "was leader" }.clone_into(&mut member.role);
        }
        let was = (member.role == "was leader").then(|| "lease gone".to_owned());
        let silent = (member.phase == UNREACHABLE).then(|| "does not answer on its address".to_owned());
        let says = member.condition.as_ref().map(|condition: &Condition| condition.words.clone());
        let parts: Vec<_> = [member.note.take(), was, silent, says].into_iter().flatten().collect();
        member.note = (!parts.is_empty()).then(|| parts.join("; "));
    }
}
