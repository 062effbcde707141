//! Tasks that follow what others change, and report it with the generation of their session.

use coord::{Lease, LeaseState, Link, LinkState};
use election::{Generation, Seen};
use proto::Epoch;
use pulse::Pulse;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::calls::{Calls, leader_seen};

/// What a watcher reports.
#[derive(Debug)]
pub(crate) enum Report {
    Seen(Generation, Seen),
    /// The set of members may have changed.
    Members(Generation),
}

/// Where watchers report to. Bounded: a slow driver slows them, and each reports the newest state anyway.
pub(crate) type Reports = mpsc::Sender<Report>;

/// What every node follows: its link and `leader`.
pub(crate) fn follow(tasks: &mut JoinSet<()>, calls: &Calls, generation: Generation, reports: &Reports) {
    let link = follow_link(calls.link.clone(), generation, reports.clone());
    tasks.spawn(calls.options.pulse.watch("the watch on its link", link));
    let (pulse, calls, reports) = (&calls.options.pulse, calls.clone(), reports.clone());
    let leader = async move {
        let ours = calls.link.session_id();
        let mut leader = calls.link.follow_node(calls.layout.leader());
        while let Ok(node) = leader.next().await {
            // Why one names no leader is for the survey to say, which comes next.
            let seen = Seen::Leader(node.and_then(|node| leader_seen(&node, ours).ok()));
            if reports.send(Report::Seen(generation, seen)).await.is_err() {
                return;
            }
        }
    };
    tasks.spawn(pulse.watch("the watch on the leader", leader));
}

/// What the leader follows besides: candidates, priorities, members.
pub(crate) fn follow_as_leader(
    tasks: &mut JoinSet<()>,
    calls: &Calls,
    generation: Generation,
    reports: &Reports,
) {
    let (layout, link, pulse) = (&calls.layout, &calls.link, &calls.options.pulse);
    let stir = move || Report::Seen(generation, Seen::Stir);
    let mut candidates = link.follow_children(layout.candidates());
    let to = reports.clone();
    let candidates = async move { while candidates.next().await.is_ok() && to.send(stir()).await.is_ok() {} };
    tasks.spawn(pulse.watch("the watch on the candidates", candidates));
    tracing::info!("watch priority_path: {}", layout.priority());
    let mut priority = link.follow_node(layout.priority());
    let to = reports.clone();
    let priority = async move { while priority.next().await.is_ok() && to.send(stir()).await.is_ok() {} };
    tasks.spawn(pulse.watch("the watch on the priorities", priority));
    let mut members = link.follow_children(layout.members());
    let to = reports.clone();
    let members = async move {
        while members.next().await.is_ok() && to.send(Report::Members(generation)).await.is_ok() {}
    };
    tasks.spawn(pulse.watch("the watch on the members", members));
}

pub(crate) fn follow_lease(
    tasks: &mut JoinSet<()>,
    pulse: &Pulse,
    lease: &Lease,
    (epoch, generation): (Epoch, Generation),
    reports: &Reports,
) {
    let (mut states, reports) = (lease.states(), reports.clone());
    let states = async move {
        loop {
            let state = states.borrow_and_update().clone();
            let last = matches!(state, LeaseState::Lost { .. });
            let seen = match state {
                LeaseState::Held => Seen::LeaseHeld { epoch },
                LeaseState::Lapsed => Seen::LeaseLapsed { epoch },
                LeaseState::Lost { reason } => Seen::LeaseLost { epoch, reason },
            };
            if reports.send(Report::Seen(generation, seen)).await.is_err() || last {
                return;
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    };
    tasks.spawn(pulse.watch("the watch on its lease", states));
}

async fn follow_link(link: Link, generation: Generation, reports: Reports) {
    let mut states = link.state();
    let mut known = Some(1);
    loop {
        let state = *states.borrow_and_update();
        let seen = match state {
            LinkState::Connected { connection, .. } if known == Some(connection) => vec![],
            // A watch shows the newest state only: another connection means that there was a gap.
            LinkState::Connected { connection, .. } => {
                let gap = known.replace(connection).is_some();
                let gap = gap.then_some(Seen::Disconnected);
                gap.into_iter().chain([Seen::Connected]).collect()
            }
            LinkState::Disconnected { .. } => {
                known = None;
                vec![Seen::Disconnected]
            }
            LinkState::Ended(_) => vec![Seen::Ended],
        };
        for seen in seen {
            if reports.send(Report::Seen(generation, seen)).await.is_err() {
                return;
            }
        }
        if state.ended().is_some() || states.changed().await.is_err() {
            return;
        }
    }
}
