//! Who waits for which task to change.

use std::collections::{BTreeMap, BTreeSet};

use clock::Instant;
use proto::TaskId;
use proto::task::TaskView;

use crate::database::Database;

/// Calls that may wait at a time.
pub(crate) const WATCHERS_MAX: usize = 10_000;

/// Tasks that one call may wait for.
pub(crate) const WATCHED_MAX: usize = 10_000;

#[derive(Debug)]
struct Watcher<R> {
    /// Each with the revision that its caller knows.
    tasks: Vec<(TaskId, u64)>,
    until: Instant,
    reply: R,
}

/// Waiting calls and where their replies go.
#[derive(Debug)]
pub(crate) struct Watchers<R> {
    next: u64,
    all: BTreeMap<u64, Watcher<R>>,
    by_task: BTreeMap<TaskId, BTreeSet<u64>>,
    by_time: BTreeSet<(Instant, u64)>,
}

impl<R> Default for Watchers<R> {
    fn default() -> Self {
        Self { next: 0, all: BTreeMap::new(), by_task: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

/// Whether one of the tasks is past what its caller knows, final, or gone.
pub(crate) fn is_news(db: &Database, tasks: &[(TaskId, u64)]) -> bool {
    tasks
        .iter()
        .any(|(id, known)| db.get(*id).is_none_or(|task| task.revision > *known || task.state.is_final()))
}

/// The tasks as they stand, without payloads; those that are gone are left out.
pub(crate) fn views(db: &Database, tasks: &[(TaskId, u64)]) -> Vec<TaskView> {
    tasks.iter().filter_map(|(id, _)| db.get(*id)).map(|task| task.view(false)).collect()
}

impl<R> Watchers<R> {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn insert(&mut self, tasks: Vec<(TaskId, u64)>, until: Instant, reply: R) {
        let number = self.next;
        self.next += 1;
        for (id, _) in &tasks {
            self.by_task.entry(*id).or_default().insert(number);
        }
        self.by_time.insert((until, number));
        self.all.insert(number, Watcher { tasks, until, reply });
    }

    /// Takes out those that wait for one of the changed tasks.
    pub(crate) fn wake(&mut self, changed: impl Iterator<Item = TaskId>) -> Vec<(Vec<(TaskId, u64)>, R)> {
        if self.all.is_empty() {
            return Vec::new();
        }
        let mut woken = BTreeSet::new();
        for id in changed {
            woken.extend(self.by_task.get(&id).into_iter().flatten().copied());
        }
        woken.into_iter().filter_map(|number| self.take(number)).collect()
    }

    /// Takes out those whose patience has ended.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<(Vec<(TaskId, u64)>, R)> {
        let mut expired = Vec::new();
        while let Some(&(until, number)) = self.by_time.first()
            && until <= now
        {
            expired.extend(self.take(number));
        }
        expired
    }

    fn take(&mut self, number: u64) -> Option<(Vec<(TaskId, u64)>, R)> {
        let watcher = self.all.remove(&number)?;
        self.by_time.remove(&(watcher.until, number));
        for (id, _) in &watcher.tasks {
            if let Some(numbers) = self.by_task.get_mut(id) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_task.remove(id);
                }
            }
        }
        Some((watcher.tasks, watcher.reply))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn watchers_are_woken_once_and_leave_nothing() {
        let (a, b) = (TaskId::from_u128(1), TaskId::from_u128(2));
        let now = Instant::default();
        let mut watchers = Watchers::default();
        watchers.insert(vec![(a, 1), (b, 1)], now + Duration::from_secs(1), "both");
        watchers.insert(vec![(b, 1)], now + Duration::from_secs(2), "b");
        watchers.insert(vec![(a, 1)], now + Duration::from_secs(3), "a");
        let names = |woken: Vec<(Vec<(TaskId, u64)>, &'static str)>| {
            woken.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(watchers.wake([b, b].into_iter())), ["both", "b"]);
        assert_eq!(names(watchers.wake([b].into_iter())), Vec::<&str>::new());
        assert!(watchers.expire(now + Duration::from_secs(2)).is_empty());
        assert_eq!(names(watchers.expire(now + Duration::from_secs(3))), ["a"]);
        assert!(watchers.by_task.is_empty() && watchers.by_time.is_empty() && watchers.len() == 0);
    }
}
