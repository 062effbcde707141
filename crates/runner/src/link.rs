//! The way to the leader, as the runner needs it.

use std::fmt::Debug;

use futures::future::BoxFuture;
use proto::AttemptId;
use proto::leader::{Heartbeat, HeartbeatReply, NotLeading, OutcomeReport};

/// Reaches whoever leads. Calls may come while an earlier one is under way, and are dropped when they take too long.
pub trait LeaderLink: Debug + Send + Sync {
    /// Passes on a sign of life.
    fn heartbeat(&self, beat: Heartbeat) -> BoxFuture<'_, Result<HeartbeatReply, LinkError>>;

    /// Passes on ends; returns those that are committed.
    fn outcomes(&self, report: OutcomeReport) -> BoxFuture<'_, Result<Vec<AttemptId>, LinkError>>;

    /// Resolves when another leader may be there: the runner beats at once.
    fn changed(&self) -> BoxFuture<'_, ()>;
}

/// Why the leader gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Nobody leads, as far as this node knows.
    #[error("there is no leader")]
    NoLeader,
    /// The node that was asked does not lead.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// It could not be reached, or gave no answer in time.
    #[error("the leader cannot be reached: {0}")]
    Unreachable(String),
}
