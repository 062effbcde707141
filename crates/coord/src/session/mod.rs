//! One ZooKeeper session: its owner, the link that others call through, and its state.

mod connect;
mod error;
mod follow;
mod link;
mod node;
mod state;

pub use error::{CallError, CallFailure, CloseError, ConnectError};
pub use follow::{ChildrenFollower, NodeFollower};
pub use link::Link;
pub use node::{Generation, Node, SessionId, Stat};
pub use state::{Ended, LinkState};

pub(crate) use link::{another, connected, over};

use std::sync::Arc;
use std::time::Duration;

use clock::SharedClock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zookeeper_client as zk;

use crate::{ClientRuntime, Options};

/// The owner of a session. Not `Clone`: exactly one place decides how it ends.
///
/// Dropping it abandons the session (see [`Session::abandon`]) and says so at error level: a drop must never close
/// a session, because closing releases fences under effects that may still be alive.
#[derive(Debug)]
pub struct Session {
    parts: Option<Parts>,
}

#[derive(Debug)]
struct Parts {
    link: Link,
    /// The monitor and the write actor. They end when `closing` is cancelled or the session has ended.
    tasks: JoinSet<()>,
    closing: CancellationToken,
    /// Ends the client's own tasks, with or without a goodbye to the server.
    release: CancellationToken,
}

impl Session {
    /// Opens a session: one try, which ends within the session timeout. The caller retries inside its own deadline.
    ///
    /// # Errors
    /// Nobody answered, the credentials were refused, or the options are wrong.
    ///
    /// # Cancel safety
    /// Safe: a session that arrives when nobody waits any more is closed.
    pub async fn connect(
        options: &Options,
        runtime: Arc<ClientRuntime>,
        clock: SharedClock,
    ) -> Result<Session, ConnectError> {
        let opened = connect::open(options, &runtime).await?;
        let closing = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let link = link::start(options, clock, &runtime, &opened, &closing, &mut tasks);
        tracing::info!(session = %link.session_id(), timeout = ?link.session_timeout(), "ZooKeeper session opened");
        link.note("open");
        Ok(Session { parts: Some(Parts { link, tasks, closing, release: opened.release }) })
    }

    /// The way to call on this session.
    pub fn link(&self) -> Link {
        match &self.parts {
            Some(parts) => parts.link.clone(),
            None => unreachable!("only close, abandon and drop take the parts, and they consume the session"),
        }
    }

    /// Closes the session: every call on it ends with [`Ended::Closed`], its ephemerals are deleted.
    ///
    /// # Errors
    /// The server did not confirm it `within`: the session then ends on its own after its timeout.
    ///
    /// # Cancel safety
    /// Cancelled, it leaves a session that is closing unobserved.
    pub async fn close(mut self, within: Duration) -> Result<(), CloseError> {
        let Some(parts) = self.parts.take() else { return Ok(()) };
        let Parts { link, mut tasks, closing, release } = parts;
        let session = link.session_id();
        link.note("close");
        // Released whatever happens from here on, a cancelled close included.
        let release = release.drop_guard();
        let state = link.take_client().map(|client| client.state_watcher());
        closing.cancel();
        let closed = tokio::time::timeout(within, async {
            while tasks.join_next().await.is_some() {}
            match state {
                Some(state) => connect::terminated(state).await,
                None => zk::SessionState::Closed,
            }
        });
        let closed = closed.await;
        drop(release);
        match closed {
            Ok(state) => {
                tracing::info!(%session, %state, "ZooKeeper session closed");
                Ok(())
            }
            Err(_) => Err(CloseError { session, within }),
        }
    }

    /// Ends every call on the session but not the session: the client is leaked on purpose and goes on pinging
    /// until the process ends, so that what the session fences stays fenced until then.
    pub fn abandon(mut self) {
        if let Some(parts) = self.parts.take() {
            parts.abandon();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(parts) = self.parts.take() {
            tracing::error!(
                session = %parts.link.session_id(),
                "a session was dropped: it is abandoned and lives until the process ends; close or abandon it"
            );
            parts.abandon();
        }
    }
}

impl Parts {
    fn abandon(self) {
        let Parts { link, tasks, closing, release } = self;
        // This one handle keeps the session open; calls in flight drop theirs when they notice.
        std::mem::forget(link.take_client());
        tracing::warn!(session = %link.session_id(), "ZooKeeper session abandoned");
        link.note("abandon");
        closing.cancel();
        link.publish_closed();
        drop(tasks);
        // `release` is a plain token: dropping it does not cancel it, so the client's thread goes on.
        drop(release);
    }
}
