//! Following a node: one-shot watches, armed again after each event, and after each reconnect `sync` and read again.
//!
//! A watch that fires says only that something changed; what a follower reports is what it then reads. Changes that
//! come faster than the reads are reported as one.

use std::fmt;
use std::time::Duration;

use drill::Bug;
use futures::future::BoxFuture;
use tokio::sync::watch;
use zookeeper_client as zk;

use super::link::connected;
use super::{CallError, CallFailure, Ended, Link, LinkState, Node, Stat};

/// Pause after a read that failed although the session is there.
const RETRY: Duration = Duration::from_millis(500);

/// Follows one node's data, creation and deletion.
#[derive(Debug)]
pub struct NodeFollower {
    core: Core,
    seen: Option<Option<Node>>,
}

impl NodeFollower {
    pub(super) fn new(link: Link, path: String) -> Self {
        Self { core: Core::new(link, path), seen: None }
    }

    /// The path that is followed.
    pub fn path(&self) -> &str {
        &self.core.path
    }

    /// The first call: the node as it is, `None` if there is none. Later ones: the next state that differs.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancel safety
    /// Safe: no change is lost.
    pub async fn next(&mut self) -> Result<Option<Node>, Ended> {
        loop {
            self.core.due().await?;
            let node = match self.core.read().await? {
                Some(node) => node,
                None => continue,
            };
            // The transaction tells a node that was deleted and created again with the same content.
            let mark = |node: &Option<Node>| node.as_ref().map(|node| (node.stat.czxid, node.stat.mzxid));
            if self.seen.as_ref().map(mark) != Some(mark(&node)) {
                self.seen = Some(node.clone());
                return Ok(node);
            }
        }
    }
}

/// Follows the names of one node's children.
#[derive(Debug)]
pub struct ChildrenFollower {
    core: Core,
    seen: Option<i64>,
}

impl ChildrenFollower {
    pub(super) fn new(link: Link, path: String) -> Self {
        Self { core: Core::new(link, path), seen: None }
    }

    /// The path that is followed.
    pub fn path(&self) -> &str {
        &self.core.path
    }

    /// The first call: the children's names, sorted; none if there is no such node. Later ones: the names after the
    /// next change, also where a child was deleted and created again under the same name.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancel safety
    /// Safe: no change is lost.
    pub async fn next(&mut self) -> Result<Vec<String>, Ended> {
        loop {
            self.core.due().await?;
            let Some((names, changed_by)) = self.core.list().await? else { continue };
            if self.seen != Some(changed_by) {
                self.seen = Some(changed_by);
                return Ok(names);
            }
        }
    }
}

struct Core {
    link: Link,
    path: String,
    state: watch::Receiver<LinkState>,
    /// The connection on which everything since has been seen: another one means `sync` first.
    synced: Option<u64>,
    armed: Option<BoxFuture<'static, ()>>,
    /// Whether an event has come, for the bug that forgets to arm again.
    deaf: bool,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("path", &self.path)
            .field("armed", &self.armed.is_some())
            .finish_non_exhaustive()
    }
}

impl Core {
    fn new(link: Link, path: String) -> Self {
        let state = link.state();
        Self { link, path, state, synced: None, armed: None, deaf: false }
    }

    /// Returns when there is a reason to read: the first time, the watch fired, or another connection.
    async fn due(&mut self) -> Result<(), Ended> {
        loop {
            let connection = connected(&mut self.state).await?;
            // With the bug planted, a watch that was lost with its connection is not noticed either.
            let forgets = self.link.drill().plants(Bug::WatchNotRearmed) && self.synced.is_some();
            if self.synced != Some(connection) && !forgets {
                self.armed = None;
                return Ok(());
            }
            let Some(armed) = &mut self.armed else { return Ok(()) };
            tokio::select! {
                () = armed => {
                    self.armed = None;
                    self.deaf = self.link.drill().plants(Bug::WatchNotRearmed);
                    return Ok(());
                }
                // An error means that the session is gone, which the next turn sees.
                _ = self.state.changed() => {}
            }
        }
    }

    /// Brings the server up to date after a reconnect; `false` if that failed for now.
    async fn synced(&mut self) -> Result<bool, Ended> {
        let connection = connected(&mut self.state).await?;
        if self.synced == Some(connection) {
            return Ok(true);
        }
        let synced = self.link.sync(&self.path).await;
        let done = self.settle(synced).await?.is_some();
        if done {
            self.synced = Some(connection);
        }
        Ok(done)
    }

    /// `None`: try again.
    async fn settle<T>(&mut self, answer: Result<T, CallError>) -> Result<Option<T>, Ended> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(CallError { failure: CallFailure::Ended(ended), .. }) => Err(ended),
            Err(error @ CallError { failure: CallFailure::Deadline(_), .. }) => {
                tracing::debug!(%error, "following: trying again");
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(%error, "following: trying again");
                tokio::time::sleep(RETRY).await;
                Ok(None)
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Option<Node>>, Ended> {
        if !self.synced().await? {
            return Ok(None);
        }
        let answer = self.link.call("follow", &self.path, |client, path| async move {
            loop {
                match client.get_and_watch_data(&path).await {
                    Ok((data, stat, watcher)) => {
                        return Ok((Some(Node { data, stat: stat.into() }), watcher));
                    }
                    Err(zk::Error::NoNode) => {}
                    Err(error) => return Err(error),
                }
                if let (None, watcher) = client.check_and_watch_stat(&path).await? {
                    return Ok((None, watcher));
                }
            }
        });
        let answer = answer.await;
        Ok(self.settle(answer).await?.map(|(node, watcher)| {
            self.arm(watcher);
            node
        }))
    }

    async fn list(&mut self) -> Result<Option<(Vec<String>, i64)>, Ended> {
        if !self.synced().await? {
            return Ok(None);
        }
        let answer = self.link.call("follow the children of", &self.path, |client, path| async move {
            loop {
                match client.get_and_watch_children(&path).await {
                    Ok((mut names, stat, watcher)) => {
                        names.sort_unstable();
                        return Ok((names, Stat::from(stat).pzxid, watcher));
                    }
                    Err(zk::Error::NoNode) => {}
                    Err(error) => return Err(error),
                }
                if let (None, watcher) = client.check_and_watch_stat(&path).await? {
                    return Ok((Vec::new(), 0, watcher));
                }
            }
        });
        let answer = answer.await;
        Ok(self.settle(answer).await?.map(|(names, changed_by, watcher)| {
            self.arm(watcher);
            (names, changed_by)
        }))
    }

    fn arm(&mut self, watcher: zk::OneshotWatcher) {
        if self.deaf {
            self.armed = Some(Box::pin(std::future::pending()));
            return;
        }
        // The event says less than the read that follows; dropping the future takes the watch back.
        self.armed = Some(Box::pin(async move {
            watcher.changed().await;
        }));
    }
}
