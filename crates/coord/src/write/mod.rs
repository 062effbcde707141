//! Writes: what they are, and how their fate is found out when the answer is lost.

pub(crate) mod actor;
mod read_back;

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{Ended, LinkState, Stat};

/// Writes that may wait for the actor. A full queue makes callers wait, within their deadline.
const QUEUE_MAX: usize = 256;

/// How a node is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Stays.
    Persistent,
    /// Lives with the session.
    Ephemeral,
    /// Lives with the session; the server appends ten digits to the path.
    EphemeralSequential,
    /// Stays; the server appends ten digits to the path.
    PersistentSequential,
}

/// One step of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Create a node that must not exist.
    Create {
        /// Where; for sequential modes a prefix.
        path: String,
        /// Its content.
        data: Vec<u8>,
        /// How long it lives.
        mode: Mode,
    },
    /// Replace the content of a node that must exist.
    Set {
        /// Which node.
        path: String,
        /// The new content.
        data: Vec<u8>,
        /// The version that it must have; any, if `None`.
        version: Option<i32>,
    },
    /// Delete a node that must exist and have no children.
    Delete {
        /// Which node.
        path: String,
        /// The version that it must have; any, if `None`.
        version: Option<i32>,
    },
    /// Fail the whole write unless a node exists in this version.
    Check {
        /// Which node.
        path: String,
        /// The version that it must have.
        version: i32,
    },
}

impl Op {
    /// The path that it is about; for a sequential create the prefix.
    pub fn path(&self) -> &str {
        match self {
            Self::Create { path, .. }
            | Self::Set { path, .. }
            | Self::Delete { path, .. }
            | Self::Check { path, .. } => path,
        }
    }
}

/// Ops that are done all or none, in one ZooKeeper transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What to do, in this order.
    pub ops: Vec<Op>,
    /// How to see whether it was done.
    pub read_back: ReadBack,
    /// What to do with it when its caller has given up.
    pub undo: Undo,
}

/// How to find out, after `sync` on the same session, whether a write of unknown fate was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// Done if this node is an ephemeral of ours.
    OwnEphemeral {
        /// The node.
        path: String,
    },
    /// Done if a child whose name starts with `prefix` is an ephemeral of ours. The prefix must be unique to the
    /// write.
    OwnSequential {
        /// The parent.
        dir: String,
        /// What the child's name starts with.
        prefix: String,
    },
    /// Done if this node is absent or not ours.
    Gone {
        /// The node.
        path: String,
    },
    /// Done if this node has exactly this content. The content must be unique to the write, or somebody else's is
    /// mistaken for it.
    Data {
        /// The node.
        path: String,
        /// The content.
        data: Vec<u8>,
    },
}

impl ReadBack {
    /// The node that is read.
    pub fn path(&self) -> &str {
        match self {
            Self::OwnEphemeral { path } | Self::Gone { path } | Self::Data { path, .. } => path,
            Self::OwnSequential { dir, .. } => dir,
        }
    }
}

/// What happens to a write that is done after its caller has given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undo {
    /// It stays.
    Keep,
    /// The ephemerals that it created are deleted again; anything else stays.
    DeleteOwn,
}

/// The result of one op, in the order of the ops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Created.
    Created {
        /// The whole path, with its sequence if it has one.
        path: String,
        /// The new node's metadata. After a lost answer it was read later: all zero if the node is gone by then.
        /// All zero also for a persistent node created together with others, which 3.8 does not report.
        stat: Stat,
    },
    /// Written.
    Set {
        /// The node's version now.
        version: i32,
    },
    /// Deleted.
    Deleted,
    /// As demanded.
    Checked,
}

/// A write that was not done, or perhaps not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Nothing of it was done.
    #[error("the write was refused: its step {op} failed because {reason}")]
    Rejected {
        /// Which op, from 0.
        op: usize,
        /// Why.
        reason: Rejection,
    },
    /// Nobody knows yet: the time for it has passed. It is found out and undone behind the scenes.
    #[error("the outcome of the write is not known: ZooKeeper did not answer in time")]
    Unknown,
    /// The session is over: it was done or not, and its ephemerals go with the session.
    #[error("the outcome of the write is not known: {0}")]
    Ended(Ended),
}

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The node to create exists.
    #[error("the node exists already")]
    NodeExists,
    /// The node, or the parent of the node to create, does not exist.
    #[error("there is no such node")]
    NoNode,
    /// The node has another version.
    #[error("the node has another version")]
    BadVersion,
    /// The node to delete has children.
    #[error("the node has children")]
    NotEmpty,
    /// The ACL forbids it.
    #[error("it is not permitted (check coordination.auth against the node's ACL)")]
    NoAuth,
    /// More than ZooKeeper takes in one request.
    #[error("it is larger than ZooKeeper's limit for one request")]
    TooLarge,
    /// Anything else, in the server's or client's words.
    #[error("{0}")]
    Other(String),
}

/// A write on its way to the actor.
pub(crate) struct Request {
    pub(crate) write: Write,
    /// Closed once the caller has given up.
    pub(crate) reply: Reply,
}

pub(crate) type Reply = oneshot::Sender<Result<Done, WriteError>>;

/// A write that was done, on its way to its caller. Dropped on that way, because the caller gave up just then, it goes
/// back to the actor to be undone.
#[derive(Debug)]
pub(crate) struct Done {
    results: Vec<OpResult>,
    /// Where to send it back, if it is to be undone.
    unwanted: Option<mpsc::Sender<Vec<OpResult>>>,
}

impl Done {
    fn accept(mut self) -> Vec<OpResult> {
        self.unwanted = None;
        std::mem::take(&mut self.results)
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let Some(unwanted) = self.unwanted.take() else { return };
        // A closed queue is an ended session, which takes the ephemerals along.
        if let Err(TrySendError::Full(results)) = unwanted.try_send(std::mem::take(&mut self.results)) {
            tracing::error!(?results, "too many writes to undo at once: these stay until the session ends");
        }
    }
}

/// The actor's letter box.
#[derive(Clone, Debug)]
pub(crate) struct Submissions(mpsc::Sender<Request>);

impl Submissions {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Request>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        (Self(sender), receiver)
    }

    /// Queued when this returns, unless the queue is full: so the order is that of the calls, whatever polls the
    /// futures when.
    pub(crate) fn submit(
        &self,
        write: Write,
        within: Duration,
        state: watch::Receiver<LinkState>,
    ) -> impl Future<Output = Result<Vec<OpResult>, WriteError>> + Send + 'static {
        let (reply, answer) = oneshot::channel();
        let queue = self.0.clone();
        let overflow = match queue.try_send(Request { write, reply }) {
            Ok(()) => None,
            Err(TrySendError::Full(request)) => Some(request),
            // The reply goes with the request, so that the answer is known to be lost.
            Err(TrySendError::Closed(_)) => None,
        };
        async move {
            let exchange = async {
                if let Some(request) = overflow {
                    queue.send(request).await.ok()?;
                }
                answer.await.ok()
            };
            match tokio::time::timeout(within, exchange).await {
                Ok(Some(result)) => result.map(Done::accept),
                // The actor is gone, which it only is with its session.
                Ok(None) => Err(WriteError::Ended(state.borrow().ended().unwrap_or(Ended::Closed))),
                Err(_) => match state.borrow().ended() {
                    Some(ended) => Err(WriteError::Ended(ended)),
                    None => Err(WriteError::Unknown),
                },
            }
        }
    }
}
