//! What is forgotten, and when: finished tasks by age, number and bytes; idempotency keys by a rule of their own.
//!
//! A key is taken as long as its task has not ended, and for [`Retention::idempotency_age`] after that, whether the task
//! itself is still remembered or not. Then it makes a new task, even if the old one is still there to look at.

use std::ops::Bound::{Excluded, Unbounded};
use std::sync::atomic::Ordering;

use proto::TaskId;
use proto::task::TaskState;

use super::Database;
use crate::config::Retention;
use crate::record::{Key, Task, key_key};
use crate::storage::BodyRef;

impl Database {
    /// The task that was accepted under a key, and where it stands, unless it ended so long ago that the key is free.
    pub(crate) fn by_key(&self, key: &str, retention: &Retention) -> Option<(TaskId, TaskState)> {
        let free_before =
            self.wall_ms.load(Ordering::Relaxed).saturating_sub(millis(retention.idempotency_age));
        let taken = |ended: Option<u64>| ended.is_none_or(|at| at >= free_before);
        let task = self.keys.get(key).and_then(|id| self.tasks.get(id));
        if let Some(task) = task {
            return taken(task.finished_ms).then_some((task.id, task.state));
        }
        let kept = self.kept_keys.get(&key_key(key)).filter(|kept| taken(Some(kept.finished_ms)))?;
        Some((kept.task, kept.state))
    }

    /// Whether a record under that key is an idempotency key's.
    pub(crate) fn is_kept_key(&self, key: u128) -> bool {
        self.kept_keys.contains_key(&key)
    }

    /// What remembered finished tasks take up in the log, in bytes, their large payloads included.
    #[cfg(test)]
    pub(crate) fn finished_bytes(&self) -> u64 {
        self.finished_bytes
    }

    /// Forgets finished tasks beyond what may be kept, and keys likewise, at most `limit` of each; returns the bodies that
    /// nobody refers to any more. A task of which something may still run is kept: the next leader would know neither of
    /// that nor of the locks that it has.
    pub(crate) fn expire(&mut self, retention: &Retention, now_ms: u64, limit: usize) -> Vec<BodyRef> {
        let before_ms = now_ms.saturating_sub(millis(retention.age));
        let key_before_ms = now_ms.saturating_sub(millis(retention.idempotency_age));
        let mut bodies = Vec::new();
        let mut after = None;
        for _ in 0..limit {
            let range = after.map_or((Unbounded, Unbounded), |seen| (Excluded(seen), Unbounded));
            let Some((&(at, id), &bytes)) = self.finished.range(range).next() else { break };
            let fits = self.finished.len() <= retention.count && self.finished_bytes <= retention.bytes;
            if fits && at >= before_ms {
                break;
            }
            let runs = |task: &Task| task.attempts.iter().any(|attempt| attempt.end.is_none());
            if self.get(id).is_some_and(runs) {
                after = Some((at, id));
                continue;
            }
            self.finished.remove(&(at, id));
            self.finished_bytes = self.finished_bytes.saturating_sub(bytes);
            let Some(task) = self.tasks.remove(&id) else { continue };
            self.all.remove(&task.order);
            if let Some(ids) = self.by_state.get_mut(&task.state) {
                ids.remove(&task.order);
            }
            self.dirty.remove(&id);
            self.buried.push((id, task.revision + 1));
            self.revision_first = self.revision_first.max(task.revision + 2);
            bodies.extend(task.body);
            if let Some(key) = task.spec.idempotency_key
                && self.keys.get(&key) == Some(&id)
            {
                self.keys.remove(&key);
                if at >= key_before_ms && retention.idempotency_count > 0 {
                    let revision = self.revision_first;
                    self.keep_key(Key { key, task: id, state: task.state, finished_ms: at, revision });
                }
            }
        }
        for _ in 0..limit {
            let Some(&(at, key)) = self.kept_by_end.first() else { break };
            if at >= key_before_ms && self.kept_by_end.len() <= retention.idempotency_count {
                break;
            }
            self.free_key(key);
        }
        bodies
    }

    /// Remembers a key whose task is about to be forgotten.
    fn keep_key(&mut self, kept: Key) {
        let key = key_key(&kept.key);
        self.free_key(key);
        let kept = Key { revision: kept.revision.max(self.revision_first), ..kept };
        self.keys_dirty.insert(key);
        self.load_key(key, kept);
    }

    /// Takes note of a key that is remembered without its task.
    pub(super) fn load_key(&mut self, key: u128, kept: Key) {
        self.kept_by_end.insert((kept.finished_ms, key));
        self.kept_keys.insert(key, kept);
    }

    /// As if it had never been remembered.
    pub(super) fn unload_key(&mut self, key: u128) {
        if let Some(kept) = self.kept_keys.remove(&key) {
            self.kept_by_end.remove(&(kept.finished_ms, key));
        }
    }

    /// Forgets such a key.
    pub(super) fn free_key(&mut self, key: u128) {
        let Some(kept) = self.kept_keys.remove(&key) else { return };
        self.kept_by_end.remove(&(kept.finished_ms, key));
        self.keys_dirty.remove(&key);
        self.keys_buried.push((key, kept.revision + 1));
        self.revision_first = self.revision_first.max(kept.revision + 2);
    }

    /// What a finished task takes up is known once it is written down.
    pub(super) fn weigh(&mut self, id: TaskId, bytes: u64) {
        let Some(task) = self.tasks.get(&id) else { return };
        let Some(at) = task.finished_ms else { return };
        let bytes = bytes + task.body.as_ref().map_or(0, BodyRef::bytes);
        if let Some(weight) = self.finished.get_mut(&(at, id)) {
            self.finished_bytes = self.finished_bytes.saturating_sub(*weight) + bytes;
            *weight = bytes;
        }
    }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{replayed, task};
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn keyed(db: &mut Database, id: u128, key: &str, ended_ms: u64) {
        let mut task = task(id, TaskState::Succeeded, Some(ended_ms));
        task.spec.idempotency_key = Some(key.to_owned());
        db.insert(task);
    }

    fn hours(tasks: u64, keys: u64) -> Retention {
        let hour = |count| Duration::from_secs(3_600 * count);
        Retention { age: hour(tasks), idempotency_age: hour(keys), ..Retention::default() }
    }

    #[test]
    fn finished_tasks_are_bounded_by_their_bytes() {
        let mut db = Database::default();
        for n in 1..=100 {
            let mut task = task(n, TaskState::Succeeded, Some(n as u64));
            task.spec.payload = vec![7; 1_000];
            db.insert(task);
        }
        let running = task(1_000, TaskState::Queued, None);
        db.insert(running);
        let written: usize =
            db.take_changes().iter().filter_map(|change| change.body.as_ref()).map(|b| b.len()).sum();
        let weight = db.finished_bytes();
        assert!(weight > 100_000 && weight < written as u64, "{weight} of {written}");
        assert_eq!(
            replayed(&mut many_again(&db)).finished_bytes(),
            weight,
            "and so it is for the next leader"
        );
        let retention = Retention { bytes: weight / 2, ..hours(u64::MAX >> 20, 1) };
        db.expire(&retention, 0, usize::MAX);
        assert!(db.finished_bytes() <= weight / 2 && db.finished_bytes() > weight / 2 - 1_200);
        assert_eq!(db.iter().filter(|task| task.state.is_final()).count(), 50, "the oldest go");
        assert_eq!(db.open_len(), 1);
    }

    /// The same tasks, to be written again.
    fn many_again(db: &Database) -> Database {
        let mut again = Database::default();
        for task in db.iter() {
            again.insert(task.clone());
        }
        again
    }

    #[test]
    fn a_key_outlives_its_task_and_is_free_when_its_own_time_is_over() {
        let mut db = Database::default();
        let (first, second) = (TaskId::from_u128(1), TaskId::from_u128(2));
        keyed(&mut db, 1, "nightly", HOUR_MS);
        let rule = hours(1, 5);
        let at = |db: &mut Database, hour: u64| {
            db.set_wall(hour * HOUR_MS);
            db.expire(&rule, hour * HOUR_MS, usize::MAX);
            // Whatever it is, the next leader finds the same.
            *db = replayed(db);
            db.set_wall(hour * HOUR_MS);
            (db.get(first).is_some(), db.by_key("nightly", &rule).map(|(id, _)| id))
        };
        assert_eq!(at(&mut db, 2), (true, Some(first)));
        assert_eq!(at(&mut db, 3), (false, Some(first)), "the task is forgotten, its key is not");
        assert_eq!(at(&mut db, 6), (false, Some(first)));
        assert_eq!(at(&mut db, 7), (false, None));
        // The other way round: the task is there to look at, and its key makes a new one.
        let rule = hours(9, 1);
        keyed(&mut db, 2, "nightly", 8 * HOUR_MS);
        db.set_wall(10 * HOUR_MS);
        assert_eq!(db.by_key("nightly", &rule), None);
        keyed(&mut db, 1, "nightly", 10 * HOUR_MS);
        // By age, not by id: the newer one has the key, also after a replay.
        let again = replayed(&mut db);
        for db in [&db, &again] {
            db.set_wall(10 * HOUR_MS);
            assert!(db.get(second).is_some());
            assert_eq!(db.by_key("nightly", &rule).map(|(id, _)| id), Some(first));
        }
    }

    #[test]
    fn keys_are_bounded() {
        let mut db = Database::default();
        for n in 1..=20 {
            keyed(&mut db, n, &format!("key-{n}"), n as u64);
        }
        let rule = Retention { count: 0, idempotency_count: 5, ..hours(1, 1) };
        db.expire(&rule, 30, usize::MAX);
        db.expire(&rule, 30, usize::MAX);
        assert_eq!(db.kept_keys.len(), 5);
        assert!(
            db.by_key("key-16", &rule).is_some() && db.by_key("key-15", &rule).is_none(),
            "the oldest go"
        );
        // A new task takes its key back from the forgotten one's.
        keyed(&mut db, 99, "key-20", 31);
        assert_eq!(db.by_key("key-20", &rule).map(|(id, _)| id.as_u128()), Some(99));
        assert_eq!(replayed(&mut db).kept_keys.len(), 4);
    }
}
