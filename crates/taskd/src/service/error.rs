//! Why a handler did not do what it was asked to.

use std::fmt;

/// Why an attempt failed, for people, and whether another one could fare better.
///
/// Every [`std::error::Error`] becomes one that is worth another attempt, its causes included, so that `?` does.
/// (It is none itself, which is what makes that possible.)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    message: String,
    permanent: bool,
}

impl TaskError {
    /// One that another attempt may not meet: a volume that is busy, a host that does not answer.
    pub fn retryable(what: impl fmt::Display) -> Self {
        Self { message: what.to_string(), permanent: false }
    }

    /// One that every attempt would meet: the task fails for good, whatever retries it has left.
    pub fn permanent(what: impl fmt::Display) -> Self {
        Self { message: what.to_string(), permanent: true }
    }

    /// Whether no other attempt would fare better.
    pub const fn is_permanent(&self) -> bool {
        self.permanent
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for TaskError {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self { message, permanent: false }
    }
}

impl From<TaskError> for runner::WorkError {
    fn from(TaskError { message, permanent }: TaskError) -> Self {
        Self { message, permanent }
    }
}
