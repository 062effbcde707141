//! What another leader has written: everything at once, for whoever begins a term, or bit by bit, for whoever may.

use proto::TaskId;

use crate::record::{self, Record, Unreadable};
use crate::storage::Live;

use super::Database;

/// A key's record as it is now, with what it takes up in the log, in bytes; none = it is gone.
pub(crate) type News = (u128, Option<(Record, u64)>);

impl Database {
    /// The database that a replay found.
    pub(crate) fn replay(live: Vec<Live>) -> Result<Self, Unreadable> {
        let records = live.into_iter().map(|Live { key, body, .. }| {
            let record = record::decode(key, &body)?;
            Ok((key, Some((record, body.len() as u64))))
        });
        let mut database = Self::default();
        database.learn(records.collect::<Result<Vec<_>, _>>()?);
        Ok(database)
    }

    /// Takes over what has been written. What this database would write itself is none of it.
    pub(crate) fn learn(&mut self, news: impl IntoIterator<Item = News>) {
        let mut accepted = Vec::new();
        for (key, state) in news {
            let Some((record, bytes)) = state else {
                self.unlearn(key);
                continue;
            };
            match record {
                Record::Meta(meta) => self.meta = meta,
                Record::Task(task) => {
                    let id = task.id;
                    if !self.take_out(id) {
                        accepted.push((task.order, task.submitted_ms));
                    }
                    self.index(task);
                    self.weigh(id, bytes);
                }
                Record::Key(kept) => {
                    self.unload_key(key);
                    self.load_key(key, *kept);
                }
                Record::Schedule(schedule) => {
                    self.schedule_names.insert(schedule.name.clone(), key);
                    self.schedules.insert(key, *schedule);
                }
                Record::Node(node) => self.settings.replay_node(key, *node),
                Record::Pause(pause) => self.settings.replay_pause(*pause),
                Record::Quota(quota) => self.settings.replay_quota(key, *quota),
            }
        }
        accepted.sort_unstable();
        for (_, at_ms) in accepted {
            self.accepted(at_ms);
        }
    }

    fn unlearn(&mut self, key: u128) {
        let id = TaskId::from_u128(key);
        if let Some(name) = self.tasks.get(&id).and_then(|task| task.spec.idempotency_key.clone())
            && self.keys.get(&name) == Some(&id)
        {
            self.keys.remove(&name);
        }
        self.take_out(id);
        self.unload_key(key);
        if let Some(schedule) = self.schedules.remove(&key) {
            self.schedule_names.remove(&schedule.name);
        }
        self.settings.unlearn(key);
    }

    /// Removes a task as if it had never been there, but for its idempotency key. False: it was not.
    fn take_out(&mut self, id: TaskId) -> bool {
        let Some(task) = self.tasks.remove(&id) else { return false };
        self.all.remove(&task.order);
        if let Some(ids) = self.by_state.get_mut(&task.state) {
            ids.remove(&task.order);
        }
        if let Some(at) = task.finished_ms {
            let weight = self.finished.remove(&(at, id)).unwrap_or(0);
            self.finished_bytes = self.finished_bytes.saturating_sub(weight);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use proto::task::TaskState;

    use super::super::tests::task;
    use super::*;
    use crate::config::Retention;
    use crate::storage::Change;

    fn news(changes: &[Change]) -> Vec<News> {
        let news = changes.iter().map(|change| {
            let state = change
                .body
                .as_ref()
                .map(|body| (record::decode(change.key, body).expect("readable"), body.len() as u64));
            (change.key, state)
        });
        news.collect()
    }

    /// Everything that a term looks at, in words.
    fn shown(db: &Database) -> String {
        let by_state: Vec<_> = db.by_state.iter().filter(|(_, ids)| !ids.is_empty()).collect();
        format!(
            "{:?}",
            (
                (&db.tasks, &db.keys, &db.all, by_state, &db.finished, db.finished_bytes),
                (db.newest_ms, &db.kept_keys, &db.kept_by_end, &db.schedules, &db.meta),
                (db.settings.quotas().collect::<Vec<_>>(), db.settings.drains().collect::<Vec<_>>()),
            )
        )
    }

    proptest! {
        /// Told bit by bit, somebody knows in the end what a replay of the whole finds.
        #[test]
        fn bit_by_bit_is_the_whole(acts in prop::collection::vec((0..7u8, 1..9u128, any::<bool>()), 1..80)) {
            let (mut leader, mut standby) = (Database::default(), Database::default());
            let mut log = std::collections::BTreeMap::new();
            let rule = Retention { age: Duration::from_millis(20), ..Retention::default() };
            for (now, (act, id, told)) in (1_u64..).zip(acts) {
                let known = leader.get(TaskId::from_u128(id)).is_some();
                match act {
                    0 if !known => {
                        let mut new = task(id, TaskState::Queued, None);
                        // No two tasks that are there have one key, as submitting has it.
                        new.spec.idempotency_key = (id % 2 == 0).then(|| format!("key-{id}"));
                        new.submitted_ms = now;
                        leader.insert(new);
                    }
                    1 | 2 => drop(leader.change(TaskId::from_u128(id), |task| task.state = TaskState::Running)),
                    3 => drop(leader.change(TaskId::from_u128(id), |task| {
                        task.state = TaskState::Failed;
                        task.finished_ms = Some(now);
                    })),
                    4 => drop(leader.expire(&rule, now, 10)),
                    5 => leader.granted(Duration::from_millis(now)),
                    6 => leader.change_settings(|settings| {
                        let quota = told.then(|| proto::operate::Quota { running: Some(3), ..Default::default() });
                        settings.set_quota(&format!("kind-{id}"), quota);
                    }),
                    _ => {}
                }
                let changes = leader.take_changes();
                for Change { key, revision, body, .. } in &changes {
                    log.insert(*key, (*revision, body.clone()));
                }
                standby.learn(news(&changes));
            }
            let live = log.into_iter().filter_map(|(key, (revision, body))| Some(Live { key, revision, body: body? }));
            let replayed = Database::replay(live.collect()).expect("readable");
            // When the newest was accepted is known for longer than it is there.
            standby.newest_ms = replayed.newest_ms;
            prop_assert_eq!(shown(&standby), shown(&replayed));
        }
    }
}
