//! The cheap-clone [`Handle`], and the requests that it passes to the owner's loop.

use std::sync::Arc;

use coord::WriteError;
use proto::vip::VipOrder;
use tokio::sync::{mpsc, oneshot, watch};

use crate::options::{Control, Facts};
use crate::store::{ReadError, StoreError};
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
    /// It could not be tried; nothing was changed.
    #[error("{0}")]
    NotDone(String),
    /// Its end was not seen: it was done, or is done yet, or not.
    #[error("{0}")]
    Unknown(String),
    /// This node stops; nothing was changed.
    #[error("this node's virtual IPs are being stopped")]
    Ended,
}

impl From<&StoreError> for OrderError {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Read(ReadError::Call(_)) => {
                Self::NotDone(format!("nothing was changed: {error}. Look: taskd cluster status"))
            }
            StoreError::Write { source: WriteError::Unknown | WriteError::Ended(_), .. } => {
                Self::Unknown(format!("{error}. Look: taskd vip list"))
            }
            StoreError::Read(ReadError::Garbage(_))
            | StoreError::Write { .. }
            | StoreError::Contended { .. }
            | StoreError::TooLarge { .. }
            | StoreError::TooMany { .. }
            | StoreError::NotOurs { .. } => Self::Refused(error.to_string()),
        }
    }
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
        answer.await.unwrap_or_else(|_| {
            let what = "this node's virtual IPs were stopped meanwhile; whether it was done is not known. Look: taskd vip list";
            Err(OrderError::Unknown(what.to_owned()))
        })
    }

    /// Whether the loop has ended: stopped, or crashed, which nobody else tells.
    pub fn has_ended(&self) -> bool {
        self.requests.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use coord::{CallError, CallFailure, Ended, Rejection};

    use super::*;
    use crate::store::Garbage;

    /// "Nothing was changed" is said only where that is certain, and "not known" only where it is not.
    #[test]
    fn what_is_known_of_an_order_whose_write_failed() {
        let write = |source| StoreError::Write { what: "drain n1".to_owned(), source };
        let failure = CallFailure::Ended(Ended::Expired);
        let call = CallError { operation: "read", path: "/vip/drain".to_owned(), failure };
        let garbage = Garbage { path: "/vip/drain".to_owned(), reason: "no JSON".to_owned() };
        let not_done = |error: OrderError| matches!(error, OrderError::NotDone(_));
        let unknown = |error: OrderError| matches!(error, OrderError::Unknown(_));
        let refused = |error: OrderError| matches!(error, OrderError::Refused(_));
        let of = |error: StoreError| OrderError::from(&error);
        assert!(not_done(of(StoreError::Read(ReadError::Call(call)))));
        assert!(unknown(of(write(WriteError::Unknown))));
        assert!(unknown(of(write(WriteError::Ended(Ended::Expired)))));
        assert!(refused(of(write(WriteError::Rejected { op: 0, reason: Rejection::NoNode }))));
        assert!(refused(of(StoreError::Read(ReadError::Garbage(garbage)))));
        assert!(refused(of(StoreError::Contended { path: "/vip/drain".to_owned() })));
    }
}
