//! Every task and schedule, in memory, with the indices that lookups need, and what of it has yet to be written to the log.

mod learn;
mod listing;
mod retention;
mod schedules;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::api::{ApiError, ApiErrorKind};
use proto::progress::Progress;
use proto::schedule::ScheduleName;
use proto::task::TaskState;
use proto::{AttemptId, Epoch, NodeId, TaskId};

use crate::operations::{Settings, Usage, Used};
use crate::record::{self, Key, Meta, Schedule, Task};

/// Digits of a prefix that may be looked up.
const PREFIX_DIGITS_MIN: usize = 4;

/// From how many tasks on their memory is given back by a thread of its own.
const MANY: usize = 20_000;

/// All tasks.
#[derive(Debug, Default)]
pub(crate) struct Database {
    /// Boxed: a node of the map has room for eleven, and is two thirds full.
    tasks: BTreeMap<TaskId, Box<Task>>,
    keys: BTreeMap<String, TaskId>,
    /// By order of submission.
    all: BTreeMap<u64, TaskId>,
    by_state: BTreeMap<TaskState, BTreeMap<u64, TaskId>>,
    /// By end; with what each takes up in the log, in bytes, as soon as it is written there.
    finished: BTreeMap<(u64, TaskId), u64>,
    finished_bytes: u64,
    /// When the newest was accepted, and by how much one was ever accepted before an older one, by the leaders' clocks.
    newest_ms: u64,
    disorder_ms: u64,
    /// Idempotency keys of tasks that are forgotten, by the keys of their records.
    kept_keys: BTreeMap<u128, Key>,
    kept_by_end: BTreeSet<(u64, u128)>,
    keys_dirty: BTreeSet<u128>,
    keys_buried: Vec<(u128, u64)>,
    /// The present time: milliseconds since 1970.
    wall_ms: AtomicU64,
    /// Became final since the last [`take_ended`](Self::take_ended).
    ended: Vec<(TaskId, TaskState)>,
    order_next: u64,
    /// Revisions of new tasks begin here.
    revision_first: u64,
    dirty: BTreeSet<TaskId>,
    buried: Vec<(TaskId, u64)>,
    /// By the keys of their records.
    schedules: BTreeMap<u128, Schedule>,
    schedule_names: BTreeMap<ScheduleName, u128>,
    schedules_dirty: BTreeSet<u128>,
    schedules_buried: Vec<(u128, u64)>,
    /// What operators have set.
    settings: Settings,
    /// Of kinds with a quota.
    usage: Usage,
    meta: Meta,
    meta_dirty: bool,
}

impl Database {
    /// The newest task so far was accepted then.
    fn accepted(&mut self, at_ms: u64) {
        self.disorder_ms = self.disorder_ms.max(self.newest_ms.saturating_sub(at_ms));
        self.newest_ms = self.newest_ms.max(at_ms);
    }

    /// Tells it the time, to be written down beside what changes.
    pub(crate) fn set_wall(&self, wall_ms: u64) {
        self.wall_ms.store(wall_ms, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id).map(|task| &**task)
    }

    /// Notes how far a task's attempt is, in memory alone.
    pub(crate) fn note_progress(&mut self, id: TaskId, progress: Progress) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.progress = (!progress.is_empty()).then(|| Box::new(progress));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values().map(|task| &**task)
    }

    pub(crate) fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Records that runners are granted rights as long as this; never shrinks.
    pub(crate) fn granted(&mut self, fence_after: Duration) {
        let ms = u64::try_from(fence_after.as_millis()).unwrap_or(u64::MAX);
        if fence_after > self.meta.usual() {
            self.meta.change(|usual, _| *usual = ms);
            self.meta_dirty = true;
        }
    }

    /// Records that this node's runner is granted more than is usual.
    pub(crate) fn extend(&mut self, node: &NodeId, right: Duration) {
        let ms = u64::try_from(right.as_millis()).unwrap_or(u64::MAX);
        if self.meta.extended().all(|(known, granted)| known != node || granted < right) {
            self.meta.change(|_, extended| {
                extended.insert(node.clone(), ms);
            });
            self.meta_dirty = true;
        }
    }

    /// That is over.
    pub(crate) fn end_extension(&mut self, node: &NodeId) {
        if self.meta.extended().any(|(known, _)| known == node) {
            self.meta.change(|_, extended| {
                extended.remove(node);
            });
            self.meta_dirty = true;
        }
    }

    /// A term begins. The log skips what is older than what it holds under the same key, tombstones included, and
    /// nobody knows which tombstones of earlier terms it still holds: new tasks are newer than all of them, so that an
    /// id that was forgotten and is submitted again is not lost.
    pub(crate) fn begin(&mut self, term: Epoch) {
        self.revision_first = self.revision_first.max(term.0 << 32);
        self.settings.begin(term);
    }

    /// What operators have set.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes what operators have set.
    pub(crate) fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
    }

    /// Counts anew what kinds with a quota use.
    pub(crate) fn recount_usage(&mut self) {
        self.usage
            .recount(self.settings.quotas().map(|(kind, _)| kind), self.tasks.values().map(|task| &**task));
    }

    /// What there is of a kind that has a quota.
    pub(crate) fn used(&self, kind: &str) -> Used {
        self.usage.of(kind)
    }

    /// Adds a task; its place in the order and its first revision are given here.
    pub(crate) fn insert(&mut self, mut task: Task) {
        task.order = self.order_next;
        task.revision = task.revision.max(self.revision_first);
        task.begin_steps();
        self.accepted(task.submitted_ms);
        if let Some(key) = &task.spec.idempotency_key {
            self.free_key(record::key_key(key));
        }
        self.dirty.insert(task.id);
        self.index(Box::new(task));
    }

    fn index(&mut self, task: Box<Task>) {
        self.order_next = self.order_next.max(task.order + 1);
        self.all.insert(task.order, task.id);
        self.by_state.entry(task.state).or_default().insert(task.order, task.id);
        if let Some(key) = &task.spec.idempotency_key {
            // One whose time is over is that of a newer task too.
            let older = |id: &TaskId| self.tasks.get(id).is_none_or(|other| other.order < task.order);
            if self.keys.get(key).is_none_or(older) {
                self.keys.insert(key.clone(), task.id);
            }
        }
        if let Some(at) = task.finished_ms {
            self.finished.insert((at, task.id), 0);
        }
        self.usage.reweigh(&task, Used::default());
        self.tasks.insert(task.id, task);
    }

    /// Changes a task; none if there is no such task.
    pub(crate) fn change<R>(&mut self, id: TaskId, change: impl FnOnce(&mut Task) -> R) -> Option<R> {
        let task = self.tasks.get_mut(&id)?;
        let (state, finished) = (task.state, task.finished_ms);
        let used = self.usage.before(task);
        let result = change(task);
        self.usage.reweigh(task, used);
        task.revision += 1;
        if task.state != state {
            task.step(state, finished, self.wall_ms.load(Ordering::Relaxed));
            if let Some(ids) = self.by_state.get_mut(&state) {
                ids.remove(&task.order);
            }
            self.by_state.entry(task.state).or_default().insert(task.order, id);
        }
        if task.finished_ms != finished {
            let weight = finished.and_then(|at| self.finished.remove(&(at, id)));
            self.finished_bytes = self.finished_bytes.saturating_sub(weight.unwrap_or(0));
            if let Some(at) = task.finished_ms {
                self.finished.insert((at, id), 0);
                self.ended.push((id, task.state));
            }
        }
        self.dirty.insert(id);
        Some(result)
    }

    /// Notes when an attempt's process was started, as its runner reports with its end.
    pub(crate) fn note_start(&mut self, attempt: AttemptId, started_ms: Option<u64>) {
        if let (Some(task), Some(ms)) = (self.tasks.get_mut(&attempt.task), started_ms) {
            task.note_start(attempt.number, ms);
        }
    }

    /// Whether something became final since the last [`take_ended`](Self::take_ended).
    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// What became final lately, and how; some of it may be queued again since, or be forgotten.
    pub(crate) fn take_ended(&mut self) -> Vec<(TaskId, TaskState)> {
        take(&mut self.ended)
    }

    /// Tasks by state, those without any left out.
    pub(crate) fn counts(&self) -> Vec<(TaskState, u64)> {
        let counts = self.by_state.iter().map(|(state, ids)| (*state, ids.len() as u64));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Tasks that are not final.
    pub(crate) fn open_len(&self) -> usize {
        self.tasks.len() - self.finished.len()
    }

    /// The only task whose id begins with `prefix`.
    pub(crate) fn find(&self, prefix: &str) -> Result<&Task, ApiError> {
        let digits: String = prefix.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
        if digits.len() < PREFIX_DIGITS_MIN
            || digits.len() > 32
            || !digits.bytes().all(|b| b.is_ascii_hexdigit())
        {
            let shown: String = prefix.chars().take(80).collect();
            return Err(ApiError::new(
                ApiErrorKind::Invalid,
                format!("{shown:?} is not a task id: use 4 to 32 hexadecimal digits"),
            ));
        }
        let bits = u128::from_str_radix(&digits, 16).unwrap_or(0);
        let free = 4 * (32 - digits.len() as u32);
        let first = bits << free;
        let last = first | u128::MAX.checked_shr(128 - free).unwrap_or(0);
        let mut range = self.tasks.range(TaskId::from_u128(first)..=TaskId::from_u128(last));
        match (range.next(), range.next()) {
            (None, _) => Err(ApiError::new(
                ApiErrorKind::NotFound,
                format!(
                    "there is no task {digits}, or none any more: finished ones are forgotten by tasks.retention_*; see \
                     taskd task list"
                ),
            )),
            (Some((_, task)), None) => Ok(task),
            (Some((first, _)), Some((second, _))) => Err(ApiError::new(
                ApiErrorKind::Ambiguous,
                format!("{digits} fits several tasks, {first} and {second} among them: give more digits"),
            )),
        }
    }
}

/// Names an attempt.
pub(crate) const fn attempt_id(task: TaskId, number: u32) -> AttemptId {
    AttemptId { task, number }
}

impl Drop for Database {
    /// To free a million tasks takes more than a second. Whoever drops them does it in the middle of something: of the end
    /// of a term, which others wait for, or of a poll that would be taken for a hang.
    fn drop(&mut self) {
        if self.tasks.len() < MANY {
            return;
        }
        let (tasks, keys, all) = (take(&mut self.tasks), take(&mut self.keys), take(&mut self.all));
        let (by_state, finished) = (take(&mut self.by_state), take(&mut self.finished));
        let kept = (take(&mut self.kept_keys), take(&mut self.kept_by_end));
        let freed = move || drop((tasks, keys, all, by_state, finished, kept));
        // Nobody has to wait for it: it holds nothing but memory. Without a thread it is done here.
        drop(std::thread::Builder::new().name("taskd-free".to_owned()).spawn(freed));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proto::api::ListFilter;
    use proto::task::TaskSpec;

    use super::*;
    use crate::config::Retention;
    use crate::storage::Live;

    /// What the next leader finds.
    pub(super) fn replayed(database: &mut Database) -> Database {
        for id in database.tasks.keys().copied().collect::<Vec<_>>() {
            database.dirty.insert(id);
        }
        database.keys_dirty.extend(database.kept_keys.keys().copied());
        let changes = database.take_changes();
        let live = changes
            .into_iter()
            .filter_map(|c| Some(Live { key: c.key, revision: c.revision, body: c.body? }));
        Database::replay(live.collect()).expect("readable")
    }

    pub(crate) fn task(id: u128, state: TaskState, finished_ms: Option<u64>) -> Task {
        Task {
            id: TaskId::from_u128(id),
            revision: 1,
            order: 0,
            spec: TaskSpec::new("noop", vec![1, 2]),
            body: None,
            state,
            submitted_ms: 1,
            finished_ms,
            not_before_ms: None,
            attempt_count: 0,
            failed: 0,
            lost: 0,
            attempts: vec![],
            waits_for: vec![],
            checkpoint: None,
            progress: None,
            note: None,
            history: None,
        }
    }

    #[test]
    fn prefixes_find_one_task_or_say_why_not() {
        let mut database = Database::default();
        for id in [0x1234_5678 << 96, 0x1234_9999 << 96, 0xffff_0000 << 96, 7] {
            database.insert(task(id, TaskState::Queued, None));
        }
        let find = |prefix: &str| database.find(prefix).map(|task| task.id.as_u128()).map_err(|e| e.kind);
        assert_eq!(find("1234"), Err(ApiErrorKind::Ambiguous));
        assert_eq!(find("12345"), Ok(0x1234_5678 << 96));
        assert_eq!(find("FFFF-0"), Ok(0xffff_0000 << 96));
        assert_eq!(find("00000000000000000000000000000007"), Ok(7));
        assert_eq!(find("aaaa"), Err(ApiErrorKind::NotFound));
        for bad in ["123", "", "12x4", "-----", &"0".repeat(33)] {
            assert_eq!(find(bad), Err(ApiErrorKind::Invalid), "{bad:?}");
        }
    }

    #[test]
    fn a_replay_of_what_was_written_is_the_same_database() {
        let mut database = Database::default();
        database.granted(Duration::from_secs(30));
        for id in 1..=5 {
            database.insert(task(id, TaskState::Queued, None));
        }
        database.change(TaskId::from_u128(3), |task| {
            task.state = TaskState::Failed;
            task.finished_ms = Some(9);
        });
        database.change(TaskId::from_u128(4), |task| {
            task.state = TaskState::Succeeded;
            task.finished_ms = Some(4);
        });
        let day = Retention { age: Duration::from_millis(1), ..Retention::default() };
        assert!(database.expire(&day, 6, 10).is_empty());
        let changes = database.take_changes();
        assert!(!database.is_dirty());
        let buried: Vec<_> = changes.iter().filter(|c| c.body.is_none()).map(|c| c.key).collect();
        assert_eq!(buried, [4], "it ended before the limit");
        let live = changes
            .into_iter()
            .filter_map(|c| Some(Live { key: c.key, revision: c.revision, body: c.body? }));
        let replayed = Database::replay(live.collect()).expect("readable");
        assert_eq!(replayed.meta(), database.meta());
        assert!(replayed.iter().eq(database.iter()));
        assert_eq!(replayed.counts(), [(TaskState::Queued, 4 - 1), (TaskState::Failed, 1)]);
        let filter = ListFilter { limit: Some(2), ..ListFilter::default() };
        let page = replayed.list(&filter).expect("listed").page;
        assert_eq!(page.tasks.iter().map(|t| t.id.as_u128()).collect::<Vec<_>>(), [5, 3]);
        assert_eq!(page.total, Some(4));
        assert!(page.tasks[0].spec.payload.is_empty(), "lists come without payloads");
    }

    #[test]
    fn a_forgotten_id_that_comes_back_is_newer_than_its_tombstone() {
        let mut database = Database::default();
        database.begin(Epoch(1));
        let mut newest = 0;
        for term in [1, 1, 2] {
            if term == 2 {
                // The next leader replays the log, and its tombstones are not among what lives.
                database = Database::replay(vec![]).expect("readable");
                database.begin(Epoch(term));
            }
            database.insert(task(7, TaskState::Queued, None));
            for _ in 0..9 {
                database.change(TaskId::from_u128(7), |task| task.finished_ms = Some(1));
            }
            for _ in 0..2 {
                let change = database.take_changes().pop().expect("something changed");
                assert!(change.revision > newest, "the log would skip {change:?} after {newest}");
                newest = change.revision;
                database.expire(&Retention { count: 0, ..Retention::default() }, 0, 9);
            }
            database.take_changes();
        }
    }

    #[test]
    fn damage_and_newer_formats_are_named() {
        let live = |body: Vec<u8>| vec![Live { key: 1, revision: 1, body: body.into() }];
        let error = Database::replay(live(vec![0xc1])).expect_err("damaged").to_string();
        assert!(error.contains("damaged"), "{error}");
        let newer = rmp_serde::to_vec_named(&std::collections::BTreeMap::from([("v", 3)])).expect("encodes");
        let error = Database::replay(live(newer)).expect_err("newer").to_string();
        assert!(error.contains("upgrade this node"), "{error}");
    }
}
