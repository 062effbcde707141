//! Schedules among what is remembered.

use proto::schedule::ScheduleName;

use super::Database;
use crate::record::{self, Schedule, Task, schedule_key};

impl Database {
    pub(crate) fn schedule(&self, name: &ScheduleName) -> Option<&Schedule> {
        self.schedule_names.get(name).and_then(|key| self.schedules.get(key))
    }

    pub(crate) fn schedule_at(&self, key: u128) -> Option<&Schedule> {
        self.schedules.get(&key)
    }

    pub(crate) fn schedule_keys(&self) -> Vec<u128> {
        self.schedules.keys().copied().collect()
    }

    pub(crate) fn schedules_len(&self) -> usize {
        self.schedules.len()
    }

    /// By name, from behind `after` on.
    pub(crate) fn schedules_after(&self, after: Option<&ScheduleName>) -> impl Iterator<Item = &Schedule> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        let keys = self.schedule_names.range::<ScheduleName, _>((from, Unbounded));
        keys.filter_map(|(_, key)| self.schedules.get(key))
    }

    /// The schedule and the tick that a task is of, if its schedule does not know of it: the beginning of a group of changes
    /// survived that was to end with the schedule's.
    pub(crate) fn undecided_tick(&self, task: &Task) -> Option<(u128, u64)> {
        let origin = task.spec.origin.as_deref().filter(|origin| !origin.triggered)?;
        let schedule = self.schedule(&origin.schedule)?;
        let undecided = origin.tick_ms > schedule.progress.until_ms;
        let its_own = || record::tick_task(schedule.id, origin.tick_ms) == task.id;
        (undecided && its_own()).then(|| (schedule.key(), origin.tick_ms))
    }

    /// Adds a schedule; its first revision is given here.
    pub(crate) fn insert_schedule(&mut self, mut schedule: Schedule) {
        let key = schedule_key(&schedule.name);
        schedule.revision = schedule.revision.max(self.revision_first);
        self.schedule_names.insert(schedule.name.clone(), key);
        self.schedules.insert(key, schedule);
        self.schedules_dirty.insert(key);
    }

    /// Changes a schedule, if there is one.
    pub(crate) fn change_schedule(&mut self, key: u128, change: impl FnOnce(&mut Schedule)) {
        if let Some(schedule) = self.schedules.get_mut(&key) {
            change(schedule);
            schedule.revision += 1;
            self.schedules_dirty.insert(key);
        }
    }

    pub(crate) fn remove_schedule(&mut self, key: u128) {
        let Some(schedule) = self.schedules.remove(&key) else { return };
        self.schedule_names.remove(&schedule.name);
        self.schedules_dirty.remove(&key);
        self.schedules_buried.push((key, schedule.revision + 1));
        self.revision_first = self.revision_first.max(schedule.revision + 2);
    }
}
