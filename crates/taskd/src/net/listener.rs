//! Accepts connections, a bounded number of them.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::hello::Service;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::handshake::{HELLO_BYTES_MAX, Turned, receive, refuse};
use super::{Acceptor, Duplex, Identity, Peer, SharedNetwork, Wire};

/// Pause after a failed accept: what makes it fail (no file descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// At most one line about strangers in this time.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// Bounds of a [`Listener`].
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. One more is told that this is the limit.
    pub connections_max: usize,
    /// Handshakes at a time. One more ends the oldest: an honest one takes milliseconds, so that peers who say nothing
    /// keep nobody out.
    pub handshakes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 4_096, handshakes_max: 1_024 }
    }
}

/// A bound port.
pub struct Listener {
    acceptor: Box<dyn Acceptor>,
    identity: Identity,
    limits: Limits,
    permits: Arc<Semaphore>,
    handshakes: JoinSet<Result<Incoming, (SocketAddr, Turned)>>,
    /// Those under way, oldest first, and some that have ended.
    begun: VecDeque<AbortHandle>,
    complaints: Complaints,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A peer that has been let in.
#[derive(Debug)]
pub struct Incoming {
    /// What it wants.
    pub service: Service,
    /// Who it is.
    pub peer: Peer,
    /// Its connection.
    pub wire: Wire,
    /// Its place among the connections; keep it as long as the connection lives.
    pub permit: OwnedSemaphorePermit,
}

impl Listener {
    /// Listens on `address` as `identity`; port 0 picks a free one.
    ///
    /// # Errors
    /// The address is taken, not ours or not allowed.
    pub async fn bind(
        network: &SharedNetwork,
        address: SocketAddr,
        identity: Identity,
        limits: Limits,
    ) -> io::Result<Self> {
        Ok(Self {
            acceptor: network.bind(address).await?,
            identity,
            limits,
            permits: Arc::new(Semaphore::new(limits.connections_max)),
            handshakes: JoinSet::new(),
            begun: VecDeque::new(),
            complaints: Complaints::default(),
        })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.acceptor.local_addr()
    }

    /// The next peer whose handshake succeeded. Whoever failed it has been dealt with.
    ///
    /// # Cancel safety
    /// A cancelled call loses no connection. Dropping the listener closes those still in their handshake.
    pub async fn accept(&mut self) -> Incoming {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(incoming)) => return incoming,
                    Ok(Err((from, turned))) => self.complaints.turned(from, &turned),
                    Err(error) if error.is_cancelled() => self.complaints.say(|more| {
                        tracing::warn!(more, "ended a handshake that kept others waiting");
                    }),
                    Err(error) => tracing::error!(%error, "a handshake ended abnormally"),
                },
                accepted = self.acceptor.accept() => {
                    match accepted {
                        Ok((stream, from)) => self.begin(stream, from),
                        Err(error) => {
                            self.complaints.say(|more| {
                                tracing::warn!(%error, more, "failed to accept a connection; going on");
                            });
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
    }

    fn begin(&mut self, stream: Box<dyn Duplex>, from: SocketAddr) {
        self.begun.retain(|handshake| !handshake.is_finished());
        while self.begun.len() >= self.limits.handshakes_max.max(1) {
            if let Some(oldest) = self.begun.pop_front() {
                oldest.abort();
            }
        }
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let (identity, limit) = (self.identity.clone(), self.limits.connections_max);
        let handshake = self.handshakes.spawn(async move {
            let mut wire = Wire::new(stream, HELLO_BYTES_MAX);
            let Ok(permit) = permit else {
                let reason =
                    format!("this node has {limit} connections, which is its limit: try another node");
                return Err((from, refuse(&mut wire, reason).await));
            };
            match receive(&mut wire, &identity).await {
                Ok(hello) => Ok(Incoming {
                    service: hello.service,
                    peer: Peer {
                        from: Some(from),
                        node: hello.node,
                        cluster: hello.cluster,
                        version: hello.version,
                    },
                    wire,
                    permit,
                }),
                Err(turned) => Err((from, turned)),
            }
        });
        self.begun.push_back(handshake);
    }
}

/// Log lines that anybody on the network can cause: few of them.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<Instant>,
    withheld: u64,
}

impl Complaints {
    fn turned(&mut self, from: SocketAddr, turned: &Turned) {
        match turned {
            Turned::Silent => tracing::debug!(%from, "a connection came and went without a word"),
            Turned::Stranger(what) => self.say(|more| {
                tracing::warn!(%from, more, "turned a stranger away: {what}");
            }),
            Turned::Refused(reason) => self.say(|more| {
                tracing::warn!(%from, more, "refused a connection: {reason}");
            }),
        }
    }

    /// Calls `line` with the number of lines withheld before it, unless one was written just now.
    fn say(&mut self, line: impl FnOnce(u64)) {
        let now = Instant::now();
        if self.last.is_some_and(|last| now.duration_since(last) < COMPLAINT_PERIOD) {
            self.withheld += 1;
            return;
        }
        self.last = Some(now);
        line(std::mem::take(&mut self.withheld));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_fill_the_log() {
        let mut complaints = Complaints::default();
        let mut lines = Vec::new();
        for _ in 0..5 {
            complaints.say(|more| lines.push(more));
        }
        tokio::time::advance(COMPLAINT_PERIOD).await;
        complaints.say(|more| lines.push(more));
        assert_eq!(lines, [0, 4], "one line, then one that counts the four in between");
    }
}
