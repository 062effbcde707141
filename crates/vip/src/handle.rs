//! The cheap-clone [`Handle`], and the requests that it passes to the owner's loop.

use std::sync::Arc;

use proto::vip::VipOrder;
use tokio::sync::{mpsc, oneshot, watch};

use crate::options::{Control, Facts};
use crate::view::View;

/// Orders that may wait for the loop.
pub(crate) const QUEUE_MAX: usize = 64;

/// What people ask.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) order: VipOrder,
    pub(crate) reply: oneshot::Sender<Result<String, OrderError>>,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Only the leader moves services; the caller has to ask it.
    #[error("this node does not lead")]
    NotLeader,
    /// It makes no sense; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The coordination service did not answer: it was done or not.
    #[error("{0}")]
    Unavailable(String),
    /// This node stops.
    #[error("this node's virtual IPs are being stopped")]
    Ended,
}

/// A way to a node's virtual IPs. It can ask, but neither stop nor outlive them.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) control: watch::Sender<Option<Control>>,
    pub(crate) facts: watch::Sender<Facts>,
    pub(crate) view: watch::Receiver<Arc<View>>,
}

impl Handle {
    /// Hands in the quorum's control session, and the term while this node leads; whenever either changes. None: there is
    /// no session.
    pub fn control(&self, control: Option<Control>) {
        self.control.send_replace(control);
    }

    /// Replaces what the node's own file says.
    pub fn facts(&self, facts: Facts) {
        self.facts.send_if_modified(|known| {
            let changed = *known != facts;
            *known = facts;
            changed
        });
    }

    /// What this node knows, now and as it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Carries out an order; returns what was done, as a sentence. `Move` and `Release` only where this node leads.
    ///
    /// # Errors
    /// See [`OrderError`].
    ///
    /// # Cancel safety
    /// The order is carried out or not; nobody is told.
    pub async fn order(&self, order: VipOrder) -> Result<String, OrderError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request { order, reply }).await.map_err(|_| OrderError::Ended)?;
        answer.await.unwrap_or(Err(OrderError::Ended))
    }

    /// Whether the loop has ended: stopped, or crashed, which nobody else tells.
    pub fn has_ended(&self) -> bool {
        self.requests.is_closed()
    }
}
