//! The end of a membership: the member node, then the session, or neither if that would release what still fences.

use std::sync::Arc;
use std::time::Duration;

use coord::{Lease, Session};
use drill::Bug;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::calls::Calls;
use crate::config::Options;
use crate::driver::Done;
use crate::join;

/// How a quorum ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing of it is left in ZooKeeper.
    Closed,
    /// It had no session to close.
    NoSession,
    /// Nothing keeps the session alive, but ZooKeeper did not confirm its end: it expires by itself.
    Unconfirmed {
        /// What happened.
        why: String,
    },
    /// Effects of a term had not ended in time. The session is left open on purpose, so that it fences them until this
    /// process has ended: end it now.
    Abandoned {
        /// What happened.
        why: String,
    },
}

impl Report {
    /// Whether it ended as it should.
    pub fn is_clean(&self) -> bool {
        matches!(self, Self::Closed | Self::NoSession)
    }
}

/// What the driver still owns when its loop has ended.
pub(crate) struct Remains {
    pub(crate) options: Arc<Options>,
    /// Why the session must not be closed, if something that it fences may be alive.
    pub(crate) keep: Option<String>,
    pub(crate) held: Option<(Session, Calls)>,
    pub(crate) lease: Option<Lease>,
    pub(crate) tasks: JoinSet<Done>,
    pub(crate) watchers: JoinSet<()>,
    pub(crate) hard: Instant,
}

/// Ends it all by `hard`.
pub(crate) async fn leave(remains: Remains) -> Report {
    let Remains { options, keep, held, lease, mut tasks, mut watchers, hard } = remains;
    let keep = keep.filter(|_| !options.coord.drill.plants(Bug::CloseOnAbandon));
    watchers.abort_all();
    // Dropping a lease drops its flag.
    drop(lease);
    let report = match (held, keep) {
        (None, _) => Report::NoSession,
        (Some((session, _)), Some(why)) => {
            session.abandon();
            tracing::error!(
                "quorum: {why}; the session is abandoned and fences them until this process has ended"
            );
            Report::Abandoned { why }
        }
        (Some((session, calls)), None) => {
            let now = options.clock.now();
            options.coord.drill.record(now, || format!("leaving session={}", session.link().session_id()));
            let member = timeout_at(hard, async {
                // Not needed for the end, but others see us go before the session's end is worked off.
                join::delete(&options, &calls.link, &calls.place.path, Vec::new()).await
            });
            let share = remaining(hard) / 2;
            match tokio::time::timeout(share, member).await {
                Ok(Ok(Ok(()))) => tracing::info!(path = %calls.place.path, "left the cluster"),
                other => tracing::debug!(?other, "deleting the member node"),
            }
            drop(calls);
            close(session, remaining(hard)).await
        }
    };
    // A join that was cancelled closes its session itself; what does not end by then is aborted.
    while let Ok(Some(done)) = timeout_at(hard, tasks.join_next()).await {
        if let Ok(Done::Joined(_, Ok(membership))) = done {
            close(membership.session, remaining(hard)).await;
        }
    }
    tasks.abort_all();
    report
}

/// Closes a session and says how it went.
pub(crate) async fn close(session: Session, within: Duration) -> Report {
    // Over for us is not over on the server: a session that was given up lives there until its timeout.
    let over = session.link().state().borrow().ended();
    match session.close(within).await {
        Ok(()) => over.map_or(Report::Closed, |over| Report::Unconfirmed { why: over.to_string() }),
        Err(error) => Report::Unconfirmed { why: error.to_string() },
    }
}

fn remaining(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
