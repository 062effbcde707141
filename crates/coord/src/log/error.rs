//! What can go wrong, by operation.

use std::time::Duration;

/// The log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict themselves.
    #[error("invalid log options: {0}")]
    Options(&'static str),
    /// Another term has begun: this one must not write.
    #[error("another term has begun since this one was elected")]
    Deposed,
    /// The term was over before its first segment was written.
    #[error("the term was given up before its log was open")]
    LeaseOver,
    /// The data session ended.
    #[error("the data session ended while the log was being opened")]
    SessionEnded,
    /// The log cannot be trusted, and says why and what to do.
    #[error(
        "the task log at {path} is damaged: {why}. Nothing was changed. Restore the ensemble from a backup, \
             or give up the tasks: stop every node and delete {path}"
    )]
    Corrupt {
        /// Where.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The service refused something, and would again.
    #[error("the coordination service refused to open the log at {path}: {why}")]
    Refused {
        /// Where.
        path: String,
        /// Its answer.
        why: String,
    },
    /// It took too long.
    #[error("the log at {path} was not open within {within:?}: is the ensemble connected and keeping up?")]
    Timeout {
        /// Where.
        path: String,
        /// How long was tried.
        within: Duration,
    },
}

/// A change that was not taken. Nothing of the call was written or ever will be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// The byte budget is used up.
    #[error(
        "the task log is full: {used_bytes} of {budget_bytes} bytes; finish or cancel tasks, or raise the budget"
    )]
    Full {
        /// Bytes of segments, bodies and what is queued.
        used_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// More is queued than may be.
    #[error("{queued_bytes} bytes already wait to be written to the task log; try again shortly")]
    QueueFull {
        /// What waits.
        queued_bytes: usize,
    },
    /// One call's changes must fit into one segment.
    #[error("{bytes} bytes of changes do not fit into one segment of at most {bytes_max} bytes")]
    TooLarge {
        /// The changes, encoded.
        bytes: usize,
        /// What fits.
        bytes_max: usize,
    },
    /// The log is stopping or has failed; [`LogHandle::failure`](super::LogHandle::failure) says which.
    #[error("the task log takes no more changes")]
    Stopped,
}

/// An append that was taken and not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Not written, and never will be: another term has begun.
    #[error("not written: another term has begun")]
    Deposed,
    /// Not written, and never will be: the log stopped or failed first.
    #[error("not written: the log stopped first")]
    Stopped,
    /// Perhaps written, perhaps not, perhaps later: only the next replay knows.
    #[error("it is not known whether it was written")]
    Unknown,
}

/// Why the log came to its end by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogFailure {
    /// Another term has begun.
    #[error("another term has begun")]
    Deposed,
    /// The term's lease was given up while something was to be written.
    #[error("the term was given up")]
    LeaseOver,
    /// The data session ended.
    #[error("the data session ended")]
    SessionEnded,
    /// The service holds, or answers, what it cannot.
    #[error("the log is not what this term wrote: {0}")]
    Corrupt(String),
}

/// The log did not stop as it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Not everything was confirmed in time; those commits say so themselves.
    #[error("{segments} segments were not confirmed and {appends} appends not sent within {within:?}")]
    Unflushed {
        /// Segments sent and not confirmed.
        segments: usize,
        /// Appends that were still queued.
        appends: usize,
        /// The time there was.
        within: Duration,
    },
    /// It had failed before.
    #[error("the log had failed: {0}")]
    Failed(LogFailure),
}

/// A body could not be written, read or deleted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The byte budget is used up.
    #[error("no room for a body of {bytes} bytes: the task log uses {used_bytes} of {budget_bytes}")]
    Full {
        /// The body's.
        bytes: u64,
        /// Bytes of segments, bodies and what is queued.
        used_bytes: u64,
        /// The budget.
        budget_bytes: u64,
    },
    /// Longer than a body may be.
    #[error("a body of {bytes} bytes is longer than {bytes_max}")]
    TooLarge {
        /// The body's.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// A part is not there.
    #[error("body {0} is not there (any more)")]
    Missing(String),
    /// What is stored is not what was written.
    #[error("body {0} is damaged")]
    Corrupt(String),
    /// Another term has begun.
    #[error("another term has begun")]
    Deposed,
    /// The data session ended.
    #[error("the data session ended")]
    SessionEnded,
    /// Not known to be done within the time there was; a body left behind is collected later.
    #[error("not done within {0:?}")]
    Timeout(Duration),
    /// The service refused it, and would again.
    #[error("the coordination service refused: {0}")]
    Refused(String),
}
