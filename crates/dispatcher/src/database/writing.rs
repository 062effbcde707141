//! What has yet to be written to the log.

use proto::TaskId;

use super::Database;
use crate::record::{self, META_KEY};
use crate::storage::Change;

impl Database {
    /// Whether something has yet to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
            || !self.buried.is_empty()
            || !self.keys_dirty.is_empty()
            || !self.keys_buried.is_empty()
            || self.meta_dirty
            || !self.schedules_dirty.is_empty()
            || !self.schedules_buried.is_empty()
            || self.settings.is_dirty()
    }

    /// Tasks that changed since the last [`take_changes`](Self::take_changes).
    pub(crate) fn changed(&self) -> impl Iterator<Item = TaskId> {
        self.dirty.iter().copied().chain(self.buried.iter().map(|(id, _)| *id))
    }

    /// What has yet to be written. Records are absolute, so the order does not matter, but for one thing: of what does
    /// not fit into one append a beginning may survive, and no schedule may be further than the tasks of its ticks. So
    /// schedules come last.
    pub(crate) fn take_changes(&mut self) -> Vec<Change> {
        // Admission was decided before: from here on everything must get through, or tasks could not end.
        let change = |key, revision, body| Change { key, revision, body, urgent: true };
        let mut changes = Vec::with_capacity(self.dirty.len() + self.buried.len() + 1);
        if std::mem::take(&mut self.meta_dirty) {
            changes.push(change(META_KEY, self.meta.revision, Some(record::encode(&self.meta))));
        }
        changes.extend(self.settings.take_changes());
        for id in std::mem::take(&mut self.dirty) {
            if let Some(task) = self.tasks.get(&id) {
                let body = record::encode(task);
                let (bytes, is_final) = (body.len() as u64, task.finished_ms.is_some());
                changes.push(change(id.as_u128(), task.revision, Some(body)));
                if is_final {
                    self.weigh(id, bytes);
                }
            }
        }
        // Before the tasks that they are the keys of go, or a beginning could know of neither.
        for key in std::mem::take(&mut self.keys_dirty) {
            if let Some(kept) = self.kept_keys.get(&key) {
                changes.push(change(key, kept.revision, Some(record::encode_kind(record::KEY, kept))));
            }
        }
        for (key, revision) in self.keys_buried.drain(..) {
            if !self.kept_keys.contains_key(&key) {
                changes.push(change(key, revision, None));
            }
        }
        for (id, revision) in self.buried.drain(..) {
            changes.push(change(id.as_u128(), revision, None));
        }
        // One that was removed may have been added anew since.
        for (key, revision) in self.schedules_buried.drain(..) {
            if !self.schedules.contains_key(&key) {
                changes.push(change(key, revision, None));
            }
        }
        for key in std::mem::take(&mut self.schedules_dirty) {
            if let Some(schedule) = self.schedules.get(&key) {
                let body = record::encode_schedule(schedule);
                changes.push(change(key, schedule.revision, Some(body)));
            }
        }
        changes
    }
}
