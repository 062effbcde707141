//! Who waits for which task to change.

use std::collections::{BTreeMap, BTreeSet};

use clock::Instant;
use proto::TaskId;
use proto::task::TaskView;

use crate::database::Database;
use crate::record::Page;

/// Calls that may wait at a time.
pub(crate) const WATCHERS_MAX: usize = 10_000;

/// Tasks that one call may wait for.
pub(crate) const WATCHED_MAX: usize = 10_000;

/// Tasks that all calls together may wait for.
const WATCHED_IN_ALL_MAX: usize = 500_000;

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
    watched: usize,
    all: BTreeMap<u64, Watcher<R>>,
    /// With the revision that the caller knows.
    by_task: BTreeMap<TaskId, BTreeMap<u64, u64>>,
    by_time: BTreeSet<(Instant, u64)>,
}

impl<R> Default for Watchers<R> {
    fn default() -> Self {
        Self { next: 0, watched: 0, all: BTreeMap::new(), by_task: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

/// Whether a task is past what its caller knows, final, or gone.
fn is_news_of(db: &Database, id: TaskId, known: u64) -> bool {
    db.get(id).is_none_or(|task| task.revision > known || task.state.is_final())
}

/// Whether one of the tasks is past what its caller knows, final, or gone.
pub(crate) fn is_news(db: &Database, tasks: &[(TaskId, u64)]) -> bool {
    tasks.iter().any(|(id, known)| is_news_of(db, *id, *known))
}

/// The tasks as they stand, without payloads; those that are gone are left out. Where not all of them fit into an
/// answer, those go first of which there is news; who asks again with what it got gets the others.
pub(crate) fn views(db: &Database, tasks: &[(TaskId, u64)]) -> Vec<TaskView> {
    let mut page = Page::default();
    let mut chosen = BTreeMap::new();
    for news in [true, false] {
        for (at, (id, known)) in tasks.iter().enumerate() {
            if let Some(task) = db.get(*id)
                && is_news_of(db, *id, *known) == news
            {
                if !page.fits(task) {
                    return chosen.into_values().collect();
                }
                chosen.insert(at, task.view(false));
            }
        }
    }
    chosen.into_values().collect()
}

impl<R> Watchers<R> {
    /// Whether another call that waits for `tasks` tasks would be too much.
    pub(crate) fn is_full(&self, tasks: usize) -> bool {
        self.all.len() >= WATCHERS_MAX || self.watched + tasks > WATCHED_IN_ALL_MAX
    }

    pub(crate) fn insert(&mut self, tasks: Vec<(TaskId, u64)>, until: Instant, reply: R) {
        let number = self.next;
        self.next += 1;
        self.watched += tasks.len();
        for (id, known) in &tasks {
            let least = self.by_task.entry(*id).or_default().entry(number).or_insert(*known);
            *least = (*least).min(*known);
        }
        self.by_time.insert((until, number));
        self.all.insert(number, Watcher { tasks, until, reply });
    }

    /// Takes out those for which one of the changed tasks is news.
    pub(crate) fn wake(
        &mut self,
        db: &Database,
        changed: impl Iterator<Item = TaskId>,
    ) -> Vec<(Vec<(TaskId, u64)>, R)> {
        if self.all.is_empty() {
            return Vec::new();
        }
        let mut woken = BTreeSet::new();
        for id in changed {
            let waiting = self.by_task.get(&id).into_iter().flatten();
            woken.extend(waiting.filter(|(_, known)| is_news_of(db, id, **known)).map(|(number, _)| *number));
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
        self.watched -= watcher.tasks.len();
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
        let db = Database::default(); // That the tasks are gone is news.
        watchers.insert(vec![(a, 1), (b, 1)], now + Duration::from_secs(1), "both");
        watchers.insert(vec![(b, 1)], now + Duration::from_secs(2), "b");
        watchers.insert(vec![(a, 1)], now + Duration::from_secs(3), "a");
        let names = |woken: Vec<(Vec<(TaskId, u64)>, &'static str)>| {
            woken.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(names(watchers.wake(&db, [b, b].into_iter())), ["both", "b"]);
        assert_eq!(names(watchers.wake(&db, [b].into_iter())), Vec::<&str>::new());
        assert!(watchers.expire(now + Duration::from_secs(2)).is_empty());
        assert_eq!(names(watchers.expire(now + Duration::from_secs(3))), ["a"]);
        assert!(watchers.by_task.is_empty() && watchers.by_time.is_empty() && watchers.watched == 0);
    }
}
