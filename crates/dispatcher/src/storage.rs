//! What the dispatcher needs of the fenced task log, as small traits, so that tests and the simulation can bring
//! their own.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use proto::status::LogStatus;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use coord::log::{BodyRef, Change, Live};

pub use crate::standby::HeadStart;

/// Why an append was not taken. Nothing was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The byte budget is used up.
    #[error("the task log's budget is used up")]
    Full,
    /// Too much waits to be written; later it will be taken.
    #[error("too much waits to be written to the task log")]
    Busy,
    /// One change is larger than a segment.
    #[error("a record is larger than a segment of the task log")]
    TooLarge,
    /// The log has stopped or failed.
    #[error("the task log has stopped")]
    Stopped,
}

/// Why the log cannot be relied on any more. What was appended and not committed may or may not have been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Another leader writes the log.
    #[error("another leader has taken over the task log")]
    Deposed,
    /// Anything else, in words.
    #[error("{0}")]
    Broken(String),
}

/// Why a body was not written, read or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFailure {
    /// The byte budget is used up.
    #[error("the task log's budget is used up")]
    Full,
    /// There is no such body, or it is damaged; asking again does not help.
    #[error("the payload is not in the task log any more")]
    Missing,
    /// Anything else, in words.
    #[error("{0}")]
    Broken(String),
}

/// Resolves when everything appended before and by that call is durable.
pub type Commit = BoxFuture<'static, Result<(), Failure>>;

/// The log of one term, open. Calls do not block.
pub trait Log: Debug + Send + Sync {
    /// Queues changes to be written atomically, after everything appended before. Commits resolve in order.
    ///
    /// # Errors
    /// Nothing was queued.
    fn append(&self, changes: Vec<Change>) -> Result<Commit, Refused>;

    /// Bytes that new submissions may still use.
    fn room(&self) -> u64;

    /// Its size, for people.
    fn status(&self) -> LogStatus;

    /// Writes a large payload once, under a name that was never used.
    fn put_body(&self, key: u128, data: Bytes) -> BoxFuture<'static, Result<BodyRef, BodyFailure>>;

    /// Reads it.
    fn get_body(&self, body: BodyRef) -> BoxFuture<'static, Result<Bytes, BodyFailure>>;

    /// Deletes it.
    fn delete_body(&self, body: BodyRef) -> BoxFuture<'static, Result<(), BodyFailure>>;

    /// Deletes the bodies of earlier terms that are not among `referenced`; returns how many.
    fn collect_bodies(&self, referenced: Vec<BodyRef>) -> BoxFuture<'static, Result<usize, BodyFailure>>;

    /// Set once, when the log cannot be relied on any more.
    fn failure(&self) -> watch::Receiver<Option<Failure>>;
}

/// A log that has been replayed and is fenced for this term.
#[derive(Debug)]
pub struct Opened {
    /// The log; its own opening segment has committed.
    pub log: Arc<dyn Log>,
    /// Every live record; none where there was a head start.
    pub live: Vec<Live>,
    /// What was known of the log before, and what is new, if it could be gone on from.
    pub ahead: Option<HeadStart>,
    /// The negotiated session timeout: how long a deposed leader may go on answering heartbeats.
    pub session_timeout: Duration,
}

/// Where the log comes from, and how it is given back.
pub trait Storage: Debug + Send {
    /// Replays the log and fences off earlier terms.
    ///
    /// # Errors
    /// What is in the way. Whatever had been opened is closed again by [`close`](Self::close).
    fn open(&mut self, cancel: CancellationToken) -> BoxFuture<'_, Result<Opened, String>>;

    /// Writes what is queued and closes everything, within `within`.
    ///
    /// # Errors
    /// What could not be closed, in words; it has been abandoned.
    fn close(self: Box<Self>, within: Duration) -> BoxFuture<'static, Result<(), String>>;
}

/// Whether this leader's authority still holds, read at the last moment.
pub trait Authority: Debug + Send + Sync {
    /// Reads the clock now.
    fn holds(&self) -> bool;

    /// The last question before an effect leaves; `kind` (`start`, `answer`, `ack`) names it in the history of a drill.
    fn lets_out(&self, kind: &'static str) -> bool {
        let _ = kind;
        self.holds()
    }
}
