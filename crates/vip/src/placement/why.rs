//! Why a service is placed as it is, as a sentence.

use proto::NodeId;

use super::board::{Board, How, Row};
use super::{NOBODY, Obstacle, obstacle};

/// Of a node that was ordered to release the service while another could have it.
const LAST: &str = "was ordered to release it a moment ago and comes last";

impl Obstacle {
    /// What keeps the node from it, as people say it after its name.
    pub(crate) fn clause(self) -> &'static str {
        match self {
            Self::Absent => "is not there",
            Self::Unreadable => "is there, but what it says cannot be read",
            Self::Stopping => "is stopping",
            Self::Drained => "is drained",
            Self::Unlabelled => "lacks a label",
            Self::KeptOff => "was ordered to release it a moment ago",
            Self::Unfit => "is not fit",
            Self::DryRun => "only makes a dry run, and others can really hold it",
        }
    }
}

/// What is said of the service at `at`, which got this order.
pub(super) fn sentence(board: &Board<'_>, at: usize, order: &[NodeId]) -> String {
    let row = &board.rows[at];
    if !row.service.enabled {
        return "the configuration says enabled = false".to_owned();
    }
    let Some(head) = row.head else { return nobody(board, row, order) };
    let mut clauses = vec![match row.how {
        How::Ordered => format!("an operator moved it to {head}"),
        How::Stays => stays(row, head),
        How::Chosen if row.fit.len() == 1 => format!("{head} is the only one that is fit"),
        How::Chosen if row.preference(head) < row.service.preferred.len() => format!("{head} is preferred"),
        How::Chosen => format!("{head} is fit"),
    }];
    for node in row.service.preferred.iter().take(row.preference(head)) {
        let but = match obstacle(board.input, row.name, node) {
            Some(obstacle) => obstacle.clause(),
            None if row.standing.put_last.contains(node) => LAST,
            None if row.standing.passed_over.contains(node) => "lost it or gave it up a moment ago",
            None if row.how == How::Ordered => "may have it as well",
            None if board.mates(at, node) > board.mates(at, head) => {
                "has another service of its spread group"
            }
            None if !row.service.failback => "gets it back only by an order, since failback is off",
            None => "may have it as well",
        };
        clauses.push(format!("{node}, preferred, {but}"));
    }
    for node in &row.standing.put_last {
        if node == head {
            if row.how == How::Ordered {
                continue;
            }
            clauses
                .push(format!("{node} was ordered to release it a moment ago, but nobody else can have it"));
        } else if row.eligible.contains(&node) && row.preference(node) >= row.preference(head) {
            clauses.push(format!("{node} {LAST}"));
        }
    }
    if row.head.is_some_and(|head| board.mates(at, head) > 0) {
        clauses.push("another service of its spread group is there as well".to_owned());
    }
    clauses.join("; ")
}

fn stays(row: &Row<'_>, head: &NodeId) -> String {
    let standing = row.standing;
    let incumbent = standing.incumbent();
    if standing.holder.as_ref() == Some(head) {
        format!("{head} has it")
    } else if incumbent != Some(head)
        && incumbent.is_some_and(|node| row.preference(head) < row.preference(node))
    {
        format!("it goes back to {head}")
    } else if incumbent != Some(head) {
        format!("it goes to {head}, where its spread group is not")
    } else if standing.moving {
        format!("it is being moved to {head}")
    } else {
        format!("it is assigned to {head}")
    }
}

fn nobody(board: &Board<'_>, row: &Row<'_>, order: &[NodeId]) -> String {
    let state = |node: &NodeId| obstacle(board.input, row.name, node);
    let known =
        board.input.nodes.keys().chain(order.iter().filter(|node| !board.input.nodes.contains_key(*node)));
    let clauses: Vec<_> = known
        .filter_map(|node| state(node).map(|obstacle| format!("{node} {}", obstacle.clause())))
        .collect();
    if clauses.is_empty() {
        return "no node is there".to_owned();
    }
    format!("{NOBODY}: {}", clauses.join(", "))
}
