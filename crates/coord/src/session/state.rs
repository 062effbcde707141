//! What is known about a session's connection, and the task that finds out.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use clock::{Instant, SharedClock};
use drill::Drill;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zookeeper_client as zk;

use super::SessionId;
use super::link::Slot;

/// Pause between two tries to find out whose session this is.
const RETRY: Duration = Duration::from_millis(100);

/// The state of a session as seen from here. "Disconnected" is not "expired".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected, and known to be the same session as ever.
    Connected {
        /// Since when.
        since: Instant,
        /// Counts the connections: after each new one, watches are re-armed and everything is read again.
        connection: u64,
    },
    /// Not connected, or not yet known to be the same session.
    Disconnected {
        /// Since when.
        since: Instant,
    },
    /// Over, for ever.
    Ended(Ended),
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    /// The server said that it expired, or it was disconnected for so long that it must be given up.
    #[error("the session expired")]
    Expired,
    /// This process closed or abandoned it.
    #[error("the session was closed")]
    Closed,
    /// After a reconnect the client silently had another session: what the old one owned is lost.
    #[error("the session was replaced by another on reconnect")]
    SessionChanged,
    /// The server refused the credentials.
    #[error("the session's credentials were refused")]
    AuthFailed,
}

impl LinkState {
    /// The connection's number, if there is one.
    pub fn connection(self) -> Option<u64> {
        match self {
            Self::Connected { connection, .. } => Some(connection),
            Self::Disconnected { .. } | Self::Ended(_) => None,
        }
    }

    /// Why it is over, if it is.
    pub fn ended(self) -> Option<Ended> {
        match self {
            Self::Ended(ended) => Some(ended),
            Self::Connected { .. } | Self::Disconnected { .. } => None,
        }
    }
}

/// What the monitor needs.
#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) client: zk::StateWatcher,
    pub(super) session: SessionId,
    pub(super) slot: Slot,
    /// A node that lives for a moment after each reconnect, to see who owns it.
    pub(super) mark: String,
    pub(super) acls: zk::Acls<'static>,
    pub(super) clock: SharedClock,
    pub(super) drill: Drill,
    pub(super) state: watch::Sender<LinkState>,
    /// A disconnected client is ended after this long: later it may spin for ever (see `runtime`).
    pub(super) give_up: Duration,
    pub(super) closing: CancellationToken,
    pub(super) release: CancellationToken,
}

impl Monitor {
    /// Runs until the session is over.
    pub(super) async fn run(mut self) {
        let ended = tokio::select! {
            biased;
            () = self.closing.clone().cancelled_owned() => Ended::Closed,
            ended = self.follow() => ended,
        };
        self.publish(LinkState::Ended(ended));
        if ended != Ended::Closed {
            tracing::warn!(session = %self.session, %ended, "ZooKeeper session is over");
            self.slot.take();
            self.release.cancel();
        }
    }

    async fn follow(&mut self) -> Ended {
        let mut state = self.client.peek_state();
        // Lost before this began, it was the first one all the same.
        let mut connection = if state == zk::SessionState::SyncConnected { 1 } else { 2 };
        loop {
            match state {
                zk::SessionState::SyncConnected => {
                    self.publish(LinkState::Connected { since: self.clock.now(), connection });
                    state = self.client.changed().await;
                    connection += 1;
                    // Two changes may arrive as one: another `SyncConnected` is another connection too.
                    if let Some(ended) = terminal(state) {
                        return ended;
                    }
                }
                other => {
                    if let Some(ended) = terminal(other) {
                        return ended;
                    }
                }
            }
            // Held here, the client knows of the loss and the link does not: what is submitted then waits in the client.
            self.drill.record(self.clock.now(), || "reached coord.lost".to_owned());
            self.drill.hold("coord.lost").await;
            self.publish(LinkState::Disconnected { since: self.clock.now() });
            match self.reconnected(state).await {
                Ok(connected) => state = connected,
                Err(ended) => return ended,
            }
        }
    }

    /// Waits for the next connection of the same session.
    async fn reconnected(&mut self, mut state: zk::SessionState) -> Result<zk::SessionState, Ended> {
        let mut give_up = pin!(tokio::time::sleep(self.give_up));
        loop {
            if let Some(ended) = terminal(state) {
                return Err(ended);
            }
            let connected = state == zk::SessionState::SyncConnected;
            let verify = verify(connected, self.slot.get(), &self.mark, self.acls, self.session);
            tokio::select! {
                changed = self.client.changed() => state = changed,
                same = verify => return same.map(|()| state),
                // Not while connected: whose session it is will be known, or the connection lost.
                () = &mut give_up, if !connected => return Err(Ended::Expired),
            }
        }
    }

    fn publish(&self, state: LinkState) {
        tracing::debug!(session = %self.session, ?state, "link");
        // A link that was abandoned has ended already, and ended is for ever.
        self.state.send_if_modified(|current| {
            let open = current.ended().is_none();
            if open {
                *current = state;
            }
            open
        });
    }
}

fn terminal(state: zk::SessionState) -> Option<Ended> {
    match state {
        zk::SessionState::Expired => Some(Ended::Expired),
        zk::SessionState::AuthFailed => Some(Ended::AuthFailed),
        zk::SessionState::Closed => Some(Ended::Closed),
        zk::SessionState::SyncConnected
        | zk::SessionState::Disconnected
        | zk::SessionState::ConnectedReadOnly => None,
    }
}

/// Finds out whose session a new connection is: the client does not tell, and accepts another one silently.
fn verify(
    connected: bool,
    client: Option<zk::Client>,
    mark: &str,
    acls: zk::Acls<'static>,
    session: SessionId,
) -> impl Future<Output = Result<(), Ended>> + Send {
    let mark = mark.to_owned();
    async move {
        let (true, Some(client)) = (connected, client) else { return std::future::pending().await };
        loop {
            match owner(&client, &mark, acls).await {
                Ok(owner) if owner == session => return Ok(()),
                Ok(owner) => {
                    tracing::error!(%session, now = %owner, "the session was replaced on reconnect");
                    return Err(Ended::SessionChanged);
                }
                // Without the skeleton nothing of ours can exist yet.
                Err(zk::Error::NoNode) => return Ok(()),
                Err(zk::Error::NoAuth) => {
                    tracing::warn!(%mark, "not permitted to check whose session this is: check the ACL");
                    return Ok(());
                }
                // The connection is going or gone: the client's next state decides.
                Err(zk::Error::ConnectionLoss) => return std::future::pending().await,
                Err(error) => {
                    tracing::warn!(%error, "failed to find out whose session this is; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// The session that owns what this connection creates. What is created is ephemeral and deleted at once; should the
/// connection be lost in between, the next one finds and deletes it. (One `multi` would be neater, but 3.8 does not
/// report the owner of what a `multi` created: ZOOKEEPER-4026.)
async fn owner(client: &zk::Client, mark: &str, acls: zk::Acls<'static>) -> Result<SessionId, zk::Error> {
    let stat = match client.create(mark, b"", &zk::CreateMode::Ephemeral.with_acls(acls)).await {
        Ok((stat, _)) => stat,
        Err(zk::Error::NodeExists) => {
            client.sync(mark).await?;
            client.check_stat(mark).await?.ok_or(zk::Error::NoNode)?
        }
        Err(error) => return Err(error),
    };
    match client.delete(mark, None).await {
        Ok(()) | Err(zk::Error::NoNode) => Ok(SessionId(stat.ephemeral_owner)),
        Err(error) => Err(error),
    }
}
