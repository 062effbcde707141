//! The cheap-clone [`Handle`] on a runner, and the requests that it passes to the owner's loop.

use std::time::Duration;

use proto::runner::{Inventory, OutputChunk, Presence, Refusal, StartBatch, StartReply};
use proto::{AttemptId, FencingToken, Grant, Incarnation};
use tokio::sync::{mpsc, oneshot, watch};

use crate::phase::PhaseId;
use crate::server::Server;

/// Requests that may wait for the loop.
pub(crate) const QUEUE_MAX: usize = 256;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a leader asks.
#[derive(Debug)]
pub(crate) enum Request {
    Start { batch: StartBatch, reply: Reply<Vec<StartReply>> },
    Cancel { token: FencingToken, attempts: Vec<AttemptId>, reply: Reply<Vec<Presence>> },
    Confirm { token: FencingToken, attempts: Vec<AttemptId>, reply: Reply<Vec<Presence>> },
    Inventory { token: FencingToken, reply: Reply<Inventory> },
    Output { attempt: AttemptId, offset: u64, bytes_max: u32, reply: Reply<OutputChunk> },
}

/// Whether a runner prepares for its end, while everything around it still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    No,
    /// It takes no more work.
    Drain,
    /// Nor then; and what runs needs more time than usual, because nobody will be there to ask for it.
    Leave {
        more: Duration,
    },
}

/// Where a runner stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its phase.
    pub phase: PhaseId,
    /// How many attempts may run at a time.
    pub slots: u32,
    /// How many do.
    pub running: u32,
    /// How many more would be taken now.
    pub free: u32,
    /// Ends that no leader has acknowledged.
    pub unacknowledged: usize,
    /// The grant that it holds; without one it starts nothing.
    pub grant: Option<Grant>,
    /// The highest token seen.
    pub floor: Option<FencingToken>,
    /// Earlier lives on this machine, whose leftovers are all ended.
    pub ended_incarnations: Vec<Incarnation>,
    /// A leader has answered the question for more time that [`Handle::prepare_to_leave`] has it ask.
    pub extended: bool,
}

/// A way to a runner. It can ask, but neither stop nor outlive it: after the stop every request is refused.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) observed: watch::Sender<Option<FencingToken>>,
    pub(crate) closing: watch::Sender<Closing>,
    pub(crate) status: watch::Receiver<Status>,
}

impl Handle {
    /// The service for leaders, to be served on each of their connections.
    pub fn server(&self) -> Server {
        Server::new(self.requests.clone())
    }

    /// The coordination service's highest epoch. Before the first one nothing is accepted and nothing reported; a lower one
    /// changes nothing.
    pub fn observe(&self, token: FencingToken) {
        // The loop sees only the last: a lower one must not hide a higher one from it.
        self.observed.send_if_modified(|seen| {
            let known = seen.is_some_and(|seen| seen.cluster == token.cluster && seen.epoch >= token.epoch);
            if !known {
                *seen = Some(token);
            }
            !known
        });
    }

    /// It takes no more work from now on; what runs goes on.
    pub fn close(&self) {
        self.closing.send_if_modified(|closing| {
            let news = *closing == Closing::No;
            if news {
                *closing = Closing::Drain;
            }
            news
        });
    }

    /// The same, for a stop that [leaves](crate::Runner::leave) what runs to a successor: a leader is asked for a right
    /// to run that is longer than usual by `more`, which [`Status::extended`] shows.
    pub fn prepare_to_leave(&self, more: Duration) {
        self.closing.send_if_modified(|closing| {
            let known = matches!(closing, Closing::Leave { .. });
            if !known {
                *closing = Closing::Leave { more };
            }
            !known
        });
    }

    /// Whether the loop has ended: stopped, or crashed, which nobody else tells. Every request is refused from then on.
    pub fn has_ended(&self) -> bool {
        self.requests.is_closed()
    }

    /// Where the runner stands, and changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}
