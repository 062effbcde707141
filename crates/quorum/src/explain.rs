//! What the election knows, put into a [`View`]: above all why nobody leads.

use std::time::Duration;

use clock::Instant;
use election::{Election, Generation, Why};

use crate::view::{Leader, Pause, Place, Readiness, Sessionless, View};

/// Takes over what the election knows.
pub(crate) fn fill(view: &mut View, election: &Election, now: Instant) {
    let line = election.line(now);
    let places = line.iter().enumerate().map(|(rank, ranked)| Place {
        node: ranked.node.clone(),
        priority: ranked.priority,
        sequence: ranked.sequence,
        held_down: ranked.held_until.map(|until| until.since(now)),
        claims_in: election.claim_at(rank, ranked).map(|at| at.since(now)),
    });
    view.as_of = now;
    view.generation = election.generation();
    view.line = places.collect();
    view.candidates = line.into_iter().map(|ranked| ranked.node).collect();
    view.held_down =
        election.holds().active(now).map(|(node, until)| (node.clone(), until.since(now))).collect();
    if let Some(survey) = election.survey() {
        view.priorities.clone_from(&survey.priorities);
        view.terms.clone_from(&survey.terms);
        view.obstacle.clone_from(&survey.obstacle);
    }
    let term = |view: &View| view.leader.as_ref().map(|leader| leader.epoch);
    let before = term(view);
    view.leader = election.leader().map(|leader| Leader {
        node: leader.record.node.clone(),
        address: leader.record.address.clone(),
        incarnation: leader.record.incarnation,
        sequence: leader.record.sequence,
        epoch: leader.record.epoch,
        serving: election.leader_serves(),
        session: leader.session.clone(),
    });
    view.leader_since = match term(view) {
        None => None,
        known if known == before => view.leader_since.or(Some(now)),
        Some(_) => Some(now),
    };
    view.leaderless_since = election.leaderless_since();
    view.pause = pause(election);
    view.sessionless = match view.sessionless {
        _ if election.sequence().is_some() => None,
        Some(known) => {
            let tries = election.generation().0.saturating_sub(known.last.0);
            Some(Sessionless { tries, ..known })
        }
        // The first try begins as soon as the session is over.
        None => Some(Sessionless {
            since: now,
            tries: 1,
            last: Generation(election.generation().0.saturating_sub(1)),
        }),
    };
    view.why_no_leader = why(view, election, now);
}

fn pause(election: &Election) -> Option<Pause> {
    if let Some(by) = election.serve_by() {
        return Some(Pause::Recovering { by });
    }
    if let Some((since, until)) = election.suspended() {
        return Some(Pause::Suspended { since, until });
    }
    let resignation = election.resigning().filter(|resignation| !resignation.ended)?;
    let to = match &resignation.why {
        Why::Handover { to } => Some(to.clone()),
        _ => None,
    };
    Some(Pause::Resigning {
        why: resignation.why.to_string(),
        to,
        until: resignation.until,
        overdue: resignation.overdue,
    })
}

fn why(view: &View, election: &Election, now: Instant) -> Option<String> {
    if let Some(leader) = &view.leader {
        let waits = format!("{} was elected in epoch {} and does not serve yet", leader.node, leader.epoch);
        return (!leader.serving).then_some(waits);
    }
    if let Some(resignation) = election.resigning().filter(|resignation| !resignation.ended) {
        return Some(format!(
            "this node gave up epoch {} because {}, and its effects have not ended{}",
            resignation.epoch,
            resignation.why,
            if resignation.overdue { " by their deadline" } else { " yet" }
        ));
    }
    if election.sequence().is_none() {
        return Some("this node has no session with ZooKeeper, so it does not know who leads".into());
    }
    if !view.link_is_connected() {
        return Some("this node is disconnected from ZooKeeper, so it does not know who leads".into());
    }
    if let Some(obstacle) = &view.obstacle {
        return Some(obstacle.clone());
    }
    let Some(first) = view.line.first() else {
        return Some(match &view.readiness {
            Readiness::NotReady { why } => {
                format!("no node is ready to lead; {} is not because {why}", view.node)
            }
            Readiness::Ready => "no node stands as a candidate yet".into(),
        });
    };
    let whose = &first.node;
    if let Some(held) = first.held_down {
        let failed = view.terms.failed.get(whose);
        let reason = failed.map(|failed| format!(" (epoch {}: {})", failed.epoch, failed.reason));
        return Some(format!(
            "{whose} is first in line, but its last term failed{}; it may claim in {}",
            reason.unwrap_or_default(),
            seconds(held)
        ));
    }
    let next = view.line.get(1).and_then(|next| Some((&next.node, next.claims_in?)));
    Some(match next {
        Some((next, wait)) if wait > Duration::ZERO => {
            format!("{whose} is first in line and has not claimed; {next} may in {}", seconds(wait))
        }
        Some((next, _)) => format!("{whose} is first in line and has not claimed; {next} may by now, too"),
        None => format!("{whose}, the only candidate, has not claimed for {}", seconds(idle(view, now))),
    })
}

fn idle(view: &View, now: Instant) -> Duration {
    view.leaderless_since.map(|since| now.since(since)).unwrap_or_default()
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

impl View {
    fn link_is_connected(&self) -> bool {
        self.link.connection().is_some()
    }
}

/// Says what the seed's log said: leader and its sequence, own member index, priorities, role.
pub(crate) fn log_changes(before: &View, after: &View) {
    let role = |view: &View| (view.role.name(), view.role.term().map(|term| term.token.epoch));
    if role(before) != role(after) {
        let epoch = after.role.term().or(before.role.term()).map(|term| term.token.epoch);
        let epoch = epoch.map(|epoch| format!(" (epoch {epoch})")).unwrap_or_default();
        tracing::info!("role change: {} -> {}{epoch}", before.role.name(), after.role.name());
    }
    let who = |view: &View| view.leader.as_ref().map(|leader| (leader.epoch, leader.incarnation));
    if who(before) != who(after) {
        match &after.leader {
            Some(leader) => tracing::info!(
                node = %leader.node, epoch = %leader.epoch, session = leader.session,
                "leader is {}. seq is {}", leader.address, leader.sequence
            ),
            None => tracing::info!("leader is gone"),
        }
    }
    let index = |view: &View| {
        let me = view.me.as_ref()?.sequence;
        view.members.iter().position(|member| member.sequence == me)
    };
    if index(before) != index(after)
        && let Some(index) = index(after)
    {
        tracing::info!("[MEMBER IDX]: {} of {}", index + 1, after.members.len());
    }
    if before.priorities != after.priorities {
        let list: Vec<String> =
            after.priorities.iter().map(|(node, priority)| format!("{node}={priority}")).collect();
        tracing::info!("priority config: {}", list.join(" "));
    }
    if before.obstacle != after.obstacle {
        match &after.obstacle {
            Some(obstacle) => tracing::error!("nobody can lead: {obstacle}"),
            None => tracing::info!("what kept everybody from leading is gone"),
        }
    }
    if before.trouble != after.trouble
        && let Some(trouble) = &after.trouble
    {
        tracing::warn!("quorum: {trouble}");
    }
}
