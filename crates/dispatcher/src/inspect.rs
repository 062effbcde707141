//! Records of the task log for people, who look at it without a dispatcher.

use std::time::Duration;

use proto::task::TaskState;
use serde::{Serialize, Serializer};

use crate::record::{self, Record};
use crate::storage::BodyRef;

/// A record. It serialises as the log has it, by the names of its fields.
#[derive(Debug)]
pub struct Inspected(Record);

/// Reads the record of `key`.
///
/// # Errors
/// It is damaged, or of a later release; in words.
pub fn inspect(key: u128, bytes: &[u8]) -> Result<Inspected, String> {
    record::decode(key, bytes).map(Inspected).map_err(|error| {
        let mut words = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            words.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        words
    })
}

impl Inspected {
    /// What it is of: `task`, `schedule`, ….
    pub const fn kind(&self) -> &'static str {
        match &self.0 {
            Record::Meta(_) => "meta",
            Record::Task(_) => "task",
            Record::Schedule(_) => "schedule",
            Record::Node(_) => record::NODE,
            Record::Pause(_) => record::PAUSE,
            Record::Quota(_) => record::QUOTA,
            Record::Key(_) => record::KEY,
        }
    }

    /// Where the task stands, if it is one.
    pub fn state(&self) -> Option<TaskState> {
        match &self.0 {
            Record::Task(task) => Some(task.state),
            _ => None,
        }
    }

    /// The longest right to run that was ever granted, extensions included, if this is where that is written.
    pub fn fence(&self) -> Option<Duration> {
        match &self.0 {
            Record::Meta(meta) => Some(meta.longest()),
            _ => None,
        }
    }

    /// Where its payload is, if it is a task's that is kept apart.
    pub fn body(&self) -> Option<&BodyRef> {
        match &self.0 {
            Record::Task(task) => task.body.as_ref(),
            _ => None,
        }
    }
}

impl Serialize for Inspected {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Record::Meta(meta) => meta.serialize(to),
            Record::Task(task) => task.serialize(to),
            Record::Schedule(schedule) => schedule.serialize(to),
            Record::Node(node) => node.serialize(to),
            Record::Pause(pause) => pause.serialize(to),
            Record::Quota(quota) => quota.serialize(to),
            Record::Key(key) => key.serialize(to),
        }
    }
}
