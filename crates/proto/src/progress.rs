//! What an attempt says of itself while it runs: how far it is, and where a next one could go on.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::AttemptId;

/// Largest checkpoint, in bytes.
pub const CHECKPOINT_BYTES_MAX: usize = 4 * 1024;
/// Longest message, in bytes; longer ones are cut.
pub const MESSAGE_BYTES_MAX: usize = 256;

/// How far an attempt is, by its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// For people, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Progress {
    /// Within the limits, whatever was handed in: more than 100 percent counts as 100, a message is cut to
    /// [`MESSAGE_BYTES_MAX`] and to its first line.
    pub fn new(percent: Option<u8>, message: Option<&str>) -> Self {
        let message = message.and_then(|text| text.lines().next()).map(|line| {
            let mut line = line.trim().to_owned();
            line.truncate(line.floor_char_boundary(MESSAGE_BYTES_MAX));
            line
        });
        Self {
            percent: percent.map(|percent| percent.min(100)),
            message: message.filter(|line| !line.is_empty()),
        }
    }

    /// Whether it says nothing.
    pub const fn is_empty(&self) -> bool {
        self.percent.is_none() && self.message.is_none()
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.percent, &self.message) {
            (Some(percent), Some(message)) => write!(f, "{percent} % {message}"),
            (Some(percent), None) => write!(f, "{percent} %"),
            (None, Some(message)) => f.write_str(message),
            (None, None) => Ok(()),
        }
    }
}

/// What its task's next attempt gets, if there is one: at most [`CHECKPOINT_BYTES_MAX`] bytes that mean something to the
/// task alone.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Checkpoint(#[serde(with = "serde_bytes")] Vec<u8>);

impl Checkpoint {
    /// These bytes.
    ///
    /// # Errors
    /// They are too many.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, CheckpointTooLarge> {
        let bytes = bytes.into();
        if bytes.len() > CHECKPOINT_BYTES_MAX {
            Err(CheckpointTooLarge { bytes: bytes.len() })
        } else {
            Ok(Self(bytes))
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({} bytes)", self.0.len())
    }
}

/// A checkpoint is refused; the one before holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the checkpoint has {bytes} bytes, the limit is {CHECKPOINT_BYTES_MAX}: keep the data on shared storage and save where it is"
)]
pub struct CheckpointTooLarge {
    /// Its size.
    pub bytes: usize,
}

/// The newest that an attempt has said of itself, as its runner tells the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptReport {
    /// The attempt.
    pub attempt: AttemptId,
    /// How far it is.
    #[serde(default)]
    pub progress: Progress,
    /// Where a next attempt could go on; none = nothing new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_attempts_say_is_bounded() {
        let long = format!("{}\u{e4}\nsecond", "x".repeat(MESSAGE_BYTES_MAX - 1));
        let progress = Progress::new(Some(140), Some(&long));
        assert_eq!(progress.percent, Some(100));
        assert_eq!(progress.message.map(|message| message.len()), Some(MESSAGE_BYTES_MAX - 1));
        assert!(Progress::new(None, Some("  \n")).is_empty());
        assert_eq!(Progress::new(Some(7), Some("7 of 100 files")).to_string(), "7 % 7 of 100 files");
        assert!(Checkpoint::new(vec![0; CHECKPOINT_BYTES_MAX]).is_ok());
        let refused = Checkpoint::new(vec![0; CHECKPOINT_BYTES_MAX + 1]).unwrap_err();
        assert!(refused.to_string().contains("4097 bytes"));
    }
}
