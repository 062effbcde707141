//! What is remembered of a task's way beyond its present state.

use serde::{Deserialize, Serialize};

use crate::task::TaskState;

/// A change of a task's state that nothing else of its record tells of: not where an attempt was assigned or ended, nor
/// where the task became final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When: milliseconds since 1970, by the leader's clock.
    pub at_ms: u64,
    /// The state that it came to; where that one is final, the task was retried or turned out otherwise later.
    pub state: TaskState,
    /// Until when it was to wait, likewise; only where it waits for a time.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

/// Every [`Step`] that is remembered, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// The first ones and the newest ones.
    pub steps: Vec<Step>,
    /// How many between them are forgotten.
    #[serde(default)]
    pub forgotten: u32,
}
