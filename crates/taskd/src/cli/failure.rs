//! Why a command failed: how the process ends and what it says.

use std::io;

use proto::api::{ApiError, ApiErrorKind};
use taskd::client::CallError;

use crate::exit::Exit;

/// A failed command.
#[derive(Debug)]
pub(super) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// The same, but ending with `exit`; a reader that has gone stays what it is.
    pub(super) fn ending(self, exit: Exit) -> Self {
        match self.exit {
            Exit::BrokenPipe | Exit::Usage => self,
            _ => Self { exit, ..self },
        }
    }

    /// The same, ending with `instead` where it would end with `taken`, which means something else there.
    pub(super) fn not_ending(self, taken: Exit, instead: Exit) -> Self {
        Self { exit: if self.exit == taken { instead } else { self.exit }, ..self }
    }

    /// Says where to look, if it is not known whether it was done, and the message does not say it: a command, and after a
    /// comma or semicolon what to know of it.
    pub(super) fn look(mut self, command: &str) -> Self {
        let (to_run, _) = command.split_once([';', ',']).unwrap_or((command, ""));
        if self.exit == Exit::Unknown && !self.message.contains(to_run) {
            self.message.push_str(&format!(". Look: {command}"));
        }
        self
    }

    /// Tells the person, and how the process ends.
    pub(super) fn report(self) -> Exit {
        if !self.message.is_empty() {
            super::output::say(&format!("taskd: {}", self.message));
        }
        self.exit
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Api(error) => error.into(),
            CallError::Unreachable(_) => Self::new(Exit::Unavailable, error.to_string()),
            CallError::NoAnswer { .. } => Self::new(Exit::Unknown, error.to_string()),
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match error.kind {
            ApiErrorKind::Invalid => Exit::Usage,
            ApiErrorKind::NotFound | ApiErrorKind::Ambiguous => Exit::NotFound,
            ApiErrorKind::NoLeader => Exit::Unavailable,
            ApiErrorKind::Unknown => Exit::Unknown,
            ApiErrorKind::Conflict | ApiErrorKind::Full | ApiErrorKind::Internal => Exit::Failure,
        };
        Self::new(exit, error.message)
    }
}

/// Only writing to stdout fails with this.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::new(Exit::BrokenPipe, "")
        } else {
            Self::new(Exit::Failure, format!("stdout cannot be written: {error}"))
        }
    }
}
