//! What the log needs from a coordination session, so that its logic runs against memory as well.

use std::fmt::Debug;

use bytes::Bytes;
use futures::future::BoxFuture;

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The node's data version must be this.
    Check { path: String, version: i32 },
    /// A persistent node that must not exist yet.
    Create { path: String, data: Bytes },
    /// The node's data, if its version is this.
    Set { path: String, data: Bytes, version: i32 },
    /// A node that must exist.
    Delete { path: String },
}

/// Why a transaction was not, or may not have been, committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was not: this step failed, for this reason.
    Rejected { step: usize, why: Why },
    /// The connection was lost before an answer came: it may have been committed or may still be.
    Lost,
    /// The session ended before an answer came.
    Ended,
}

/// Why a step failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    NodeExists,
    NoNode,
    BadVersion,
    Other(String),
}

/// Why a read failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// No connection, or no answer in time: try again.
    Lost,
    /// The session ended.
    Ended,
    /// The service refused, and would again.
    Refused(String),
}

/// A node's data and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) data: Vec<u8>,
    pub(crate) version: i32,
}

/// How the session is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    Up,
    Down,
    Ended,
}

/// A session with the coordination service.
pub(crate) trait Store: Debug + Send + Sync + 'static {
    /// Names the session in the headers of the segments it writes.
    fn writer(&self) -> u64;

    /// Sends a transaction. Transactions reach the service in the order in which their futures were first polled;
    /// dropping the future takes nothing back.
    fn submit(&self, steps: Vec<Step>) -> BoxFuture<'static, Result<(), Refusal>>;

    /// Makes later reads see what was committed before.
    fn sync(&self, path: &str) -> BoxFuture<'_, Result<(), ReadError>>;

    /// Names of a node's children, in any order; empty if there is no such node.
    fn children(&self, path: &str) -> BoxFuture<'_, Result<Vec<String>, ReadError>>;

    /// A node, if it exists.
    fn get(&self, path: &str) -> BoxFuture<'_, Result<Option<Stored>, ReadError>>;

    /// How the session is connected now.
    fn connection(&self) -> Connection;

    /// Waits until the session is connected (true) or has ended (false). Cancel safe.
    fn up(&self) -> BoxFuture<'static, bool>;

    /// Waits until the session is disconnected or has ended. Cancel safe.
    fn down(&self) -> BoxFuture<'static, ()>;
}
