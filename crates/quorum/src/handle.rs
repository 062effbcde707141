//! The way to ask and tell a quorum from outside. Nothing here waits for a component.

use std::sync::Arc;
use std::time::Duration;

use election::HandoverError;
use proto::{Epoch, NodeId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::PriorityError;
use crate::view::{Publisher, Readiness, View};

/// Requests that may wait for the driver.
const REQUESTS_MAX: usize = 64;

/// A quorum from outside; cheap to clone, valid in every phase. Requests made before the quorum runs wait for it.
#[derive(Clone, Debug)]
pub struct Handle {
    view: watch::Receiver<Arc<View>>,
    local: Arc<watch::Sender<Local>>,
    requests: mpsc::Sender<Request>,
    /// How long a request may take in all.
    patience: Duration,
}

/// What the supervisor has said. A state, not messages: the driver sees the newest, nothing queues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    pub(crate) readiness: Readiness,
    /// Why whatever term there is has to go at once, and none may come, as long as this is said.
    pub(crate) given_up: Option<String>,
    pub(crate) serving: Option<Epoch>,
    pub(crate) ended: Option<Epoch>,
    /// Counted, so that the same reason twice is two requests.
    pub(crate) resign: Option<(u64, String)>,
    /// Why the session must not be closed.
    pub(crate) keep: Option<String>,
}

impl Local {
    /// Whether this node can lead.
    pub(crate) fn readiness(&self) -> Readiness {
        match &self.given_up {
            Some(why) => Readiness::NotReady { why: why.clone() },
            None => self.readiness.clone(),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Request {
    Handover { to: Option<NodeId>, reply: oneshot::Sender<Result<NodeId, HandoverError>> },
    SetPriority { node: NodeId, priority: i32, reply: oneshot::Sender<Result<(), PriorityError>> },
    Refresh,
}

/// The driver's ends.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) local: watch::Receiver<Local>,
    pub(crate) requests: mpsc::Receiver<Request>,
}

impl Handle {
    pub(crate) fn new(publisher: &Publisher, patience: Duration) -> (Self, Inbox) {
        let readiness = Readiness::NotReady { why: "the node is starting".into() };
        let first = Local { readiness, given_up: None, serving: None, ended: None, resign: None, keep: None };
        let (local, inbox_local) = watch::channel(first);
        let (requests, inbox_requests) = mpsc::channel(REQUESTS_MAX);
        let handle = Self { view: publisher.subscribe(), local: Arc::new(local), requests, patience };
        (handle, Inbox { local: inbox_local, requests: inbox_requests })
    }

    /// The cluster as this node knows it, now and as it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Whether nobody works behind this handle any more. Before a stop was asked for it must not be: then the driver
    /// has died, and its session, which is abandoned, fences what nobody controls until the process ends.
    pub fn has_ended(&self) -> bool {
        self.requests.is_closed()
    }

    /// Says whether this node can lead. One that cannot leaves the line, and a leader resigns.
    pub fn set_ready(&self, readiness: Readiness) {
        self.tell(|local| local.readiness = readiness);
    }

    /// Gives up the term, if there is one, at once, and stands for none until [`take_back`](Self::take_back): something
    /// blocks a thread, so that nobody can end the term's effects. `leader` is deleted while they may be alive; *the
    /// caller has dropped the lease flag before*.
    pub fn give_up(&self, why: impl Into<String>) {
        let why = why.into();
        self.tell(|local| local.given_up = Some(why));
    }

    /// What [`give_up`](Self::give_up) was said for is over.
    pub fn take_back(&self) {
        self.tell(|local| local.given_up = None);
    }

    /// Says that the dispatcher of `epoch` serves.
    pub fn serving(&self, epoch: Epoch) {
        self.tell(|local| local.serving = local.serving.max(Some(epoch)));
    }

    /// Says that everything that `epoch` fenced has ended: from then on its `leader` may be deleted early.
    pub fn effects_ended(&self, epoch: Epoch) {
        self.tell(|local| local.ended = local.ended.max(Some(epoch)));
    }

    /// Asks to give up a term that cannot go on. It is remembered as failed.
    pub fn request_resign(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.tell(|local| {
            let count = local.resign.as_ref().map_or(0, |(count, _)| *count);
            local.resign = Some((count + 1, reason));
        });
    }

    /// Has the stop abandon the session instead of closing it: something that it fences could not be ended, a term or not.
    /// Leadership is given up all the same.
    pub fn keep_session(&self, why: impl Into<String>) {
        let why = why.into();
        self.tell(|local| local.keep = Some(why));
    }

    /// Hands leadership over, to `to` or to the next in line. Returns who was seen leading afterwards.
    ///
    /// # Errors
    ///
    /// See [`HandoverError`]: refused, or nobody took over in time.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the request back.
    pub async fn handover(&self, to: Option<NodeId>) -> Result<NodeId, HandoverError> {
        let exchange = async {
            let (reply, answer) = oneshot::channel();
            self.requests.send(Request::Handover { to, reply }).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(answer) => answer.unwrap_or(Err(HandoverError::Stopped)),
            Err(_) => Err(HandoverError::TimedOut),
        }
    }

    /// Sets a node's priority for leading. A ready candidate of a higher priority than the leader's takes over in an
    /// orderly way after a while.
    ///
    /// # Errors
    ///
    /// See [`PriorityError`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the request back.
    pub async fn set_priority(&self, node: NodeId, priority: i32) -> Result<(), PriorityError> {
        let exchange = async {
            let (reply, answer) = oneshot::channel();
            self.requests.send(Request::SetPriority { node, priority, reply }).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(answer) => answer.unwrap_or(Err(PriorityError::Stopped)),
            Err(_) => Err(PriorityError::Unknown("no answer in time".into())),
        }
    }

    /// Asks for members, line and priorities to be read again soon; the view shows them when they are there.
    pub fn refresh(&self) {
        // A full queue has requests in it that lead to a refresh, or a driver that reads nothing any more.
        let _ = self.requests.try_send(Request::Refresh);
    }

    fn tell(&self, change: impl FnOnce(&mut Local)) {
        self.local.send_if_modified(|local| {
            let before = local.clone();
            change(local);
            *local != before
        });
    }
}
