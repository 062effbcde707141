//! How many tasks of a kind wait, and how large their payloads are: counted for those kinds alone that have a quota, so
//! that the others pay nothing for it.

use std::collections::BTreeMap;

use proto::task::TaskState;

use crate::record::Task;

/// What there is of a kind, or of one task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Tasks that wait, whatever for.
    pub(crate) queued: u64,
    /// Bytes of payload of those that are not final.
    pub(crate) bytes: u64,
}

/// By kind.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    kinds: BTreeMap<String, Used>,
}

impl Usage {
    /// Counts these kinds from now on, and all tasks that there are of them.
    pub(crate) fn recount<'a>(
        &mut self,
        kinds: impl Iterator<Item = &'a str>,
        tasks: impl Iterator<Item = &'a Task>,
    ) {
        self.kinds = kinds.map(|kind| (kind.to_owned(), Used::default())).collect();
        if self.kinds.is_empty() {
            return;
        }
        for task in tasks {
            self.reweigh(task, Used::default());
        }
    }

    pub(crate) fn of(&self, kind: &str) -> Used {
        self.kinds.get(kind).copied().unwrap_or_default()
    }

    /// What a task counts for before it changes.
    pub(crate) fn before(&self, task: &Task) -> Used {
        if self.kinds.is_empty() { Used::default() } else { weigh(task) }
    }

    /// A task has changed that counted for `before`.
    pub(crate) fn reweigh(&mut self, task: &Task, before: Used) {
        if self.kinds.is_empty() {
            return;
        }
        if let Some(used) = self.kinds.get_mut(&task.spec.kind) {
            let after = weigh(task);
            used.queued = (used.queued + after.queued).saturating_sub(before.queued);
            used.bytes = (used.bytes + after.bytes).saturating_sub(before.bytes);
        }
    }
}

fn weigh(task: &Task) -> Used {
    if task.state.is_final() {
        return Used::default();
    }
    let runs = matches!(task.state, TaskState::Running | TaskState::Cancelling);
    let bytes = task.body.as_ref().map_or(task.spec.payload.len() as u64, |body| body.bytes());
    Used { queued: u64::from(!runs), bytes }
}
