//! What tasks wait for beside a slot: their time, other tasks, locks and limits; and how long they may.
//!
//! A task that has ended releases those that wait for it in the commit that records its end, or in the next ones where
//! they are many. What a leader had not come to, the next one finds: a blocked task's record names what it still waits for.

use std::time::Duration;

use proto::task::{Dependency, Limit, TaskState};
use proto::{AttemptId, TaskId};

use crate::core::{Core, Now, finish};
use crate::queue::{Need, Place};
use crate::record::Task;
use crate::timers::Timer;

/// Waiting tasks that are told of an end in one turn, so that it stays short; the rest follow in the next ones.
const TOLD_MAX: usize = 2_048;

/// The end of a task, to be told to one that waits for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News {
    to: TaskId,
    of: TaskId,
    /// How it ended; none if nobody knows any more.
    end: Option<TaskState>,
}

/// Where a task that was just accepted, or is blocked no more, stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) state: TaskState,
    pub(crate) not_before_ms: Option<u64>,
    pub(crate) waits_for: Vec<Dependency>,
    pub(crate) note: Option<Box<str>>,
}

impl Task {
    /// When it may start at the earliest, in milliseconds since 1970, if it was given a time.
    pub(crate) fn start_ms(&self) -> Option<u64> {
        let rules = self.spec.rules();
        let delayed = rules.delay_ms.map(|delay| self.submitted_ms.saturating_add(delay));
        rules.start_at_ms.max(delayed)
    }

    /// How many of a node's slots it takes.
    pub(crate) fn slots(&self) -> u32 {
        self.spec.rules().placing.as_deref().map_or(1, |placing| placing.slots)
    }

    /// By which key its attempts are spread over the nodes.
    pub(crate) fn spread(&self) -> Option<&str> {
        self.spec.rules().placing.as_deref().and_then(|placing| placing.spread.as_deref())
    }

    /// Since when it waits for a slot, in milliseconds since 1970. Does not change while it does.
    fn waits_since_ms(&self) -> u64 {
        self.not_before_ms.unwrap_or(self.submitted_ms).max(self.start_ms().unwrap_or(0))
    }
}

impl Core {
    /// Its place among all that wait for a slot. It does not change while it waits.
    pub(crate) fn place(&self, task: &Task) -> Place {
        Place::new(task.spec.priority, task.waits_since_ms(), self.settings.priority_ageing, task.order)
    }

    /// The first dependency that nobody knows, if there is one.
    pub(crate) fn unknown_dependency(&self, after: &[Dependency]) -> Option<TaskId> {
        after.iter().map(|dependency| dependency.task).find(|id| self.db.get(*id).is_none())
    }

    /// Where a task stands that starts to wait for `after`, and for its time.
    pub(crate) fn standing(&self, now: Now, start_ms: Option<u64>, after: &[Dependency]) -> Standing {
        let mut waits_for = Vec::new();
        for dependency in after {
            match self.db.get(dependency.task).map(|task| task.state) {
                Some(state) if !state.is_final() => waits_for.push(*dependency),
                end if is_met(*dependency, end) => {}
                end => {
                    return Standing {
                        state: TaskState::Cancelled,
                        not_before_ms: None,
                        waits_for: Vec::new(),
                        note: Some(unmet(*dependency, end).into()),
                    };
                }
            }
        }
        let later = start_ms.filter(|ms| *ms > now.wall_ms);
        let state = match (waits_for.is_empty(), later) {
            (false, _) => TaskState::Blocked,
            (true, Some(_)) => TaskState::Scheduled,
            (true, None) => TaskState::Queued,
        };
        Standing { state, not_before_ms: later, waits_for, note: None }
    }

    /// Lets a task wait for whatever its state says.
    pub(crate) fn await_start(&mut self, now: Now, id: TaskId) {
        let Some(task) = self.db.get(id) else { return };
        match task.state {
            TaskState::Blocked => {
                for dependency in &task.waits_for {
                    self.dependents.entry(dependency.task).or_default().insert(id);
                }
            }
            TaskState::Scheduled => {
                let left = task.not_before_ms.unwrap_or(0).saturating_sub(now.wall_ms);
                // The wall clock may have jumped: no delay is longer than what was asked for.
                let left = task.spec.rules().delay_ms.map_or(left, |delay| left.min(delay));
                if left == 0 {
                    // Its time has come while nobody led.
                    self.db.change(id, |task| task.state = TaskState::Queued);
                }
                self.wait(id, now, Duration::from_millis(left));
            }
            TaskState::Queued => self.enqueue(now, id),
            _ => {}
        }
    }

    /// After a replay: what a blocked task waits for may have ended, or be forgotten, without its having been told.
    pub(crate) fn recover_blocked(&mut self, id: TaskId) {
        let Some(task) = self.db.get(id) else { return };
        for dependency in &task.waits_for {
            match self.db.get(dependency.task).map(|task| task.state) {
                Some(state) if !state.is_final() => {
                    self.dependents.entry(dependency.task).or_default().insert(id);
                }
                end => self.news.push_back(News { to: id, of: dependency.task, end }),
            }
        }
    }

    /// Whether somebody has yet to be told of an end. Until then what has ended must not be forgotten: the next leader
    /// would not know how it did.
    pub(crate) fn owes_news(&self) -> bool {
        !self.news.is_empty() || self.db.has_ended()
    }

    /// Tells those that wait for them of tasks that have ended.
    pub(crate) fn tell_dependents(&mut self, now: Now) {
        for _ in 0..TOLD_MAX {
            for (of, end) in self.db.take_ended() {
                let dependents = self.dependents.remove(&of).unwrap_or_default();
                self.news.extend(dependents.into_iter().map(|to| News { to, of, end: Some(end) }));
            }
            let Some(news) = self.news.pop_front() else { return };
            self.told(now, news);
        }
    }

    fn told(&mut self, now: Now, News { to, of, end }: News) {
        let Some(task) = self.db.get(to).filter(|task| task.state == TaskState::Blocked) else { return };
        let unmet_one = task.waits_for.iter().find(|it| it.task == of && !is_met(**it, end)).copied();
        let start_ms = task.start_ms();
        if let Some(dependency) = unmet_one {
            self.unwait(to);
            self.db.change(to, |task| {
                finish(task, TaskState::Cancelled, now.wall_ms);
                task.note = Some(unmet(dependency, end).into());
            });
            return;
        }
        self.db.change(to, |task| {
            task.waits_for.retain(|dependency| dependency.task != of);
            if task.waits_for.is_empty() {
                let later = start_ms.filter(|ms| *ms > now.wall_ms);
                task.state = if later.is_some() { TaskState::Scheduled } else { TaskState::Queued };
                // Since when it could have started counts for how long it may wait.
                task.not_before_ms = Some(later.unwrap_or(now.wall_ms));
            }
        });
        if self.db.get(to).is_some_and(|task| task.state != TaskState::Blocked) {
            self.await_start(now, to);
        }
    }

    /// Forgets that a blocked task waits for others.
    pub(crate) fn unblock(&mut self, id: TaskId) {
        let Some(task) = self.db.get(id) else { return };
        for dependency in &task.waits_for {
            if let Some(waiting) = self.dependents.get_mut(&dependency.task) {
                waiting.remove(&id);
                if waiting.is_empty() {
                    self.dependents.remove(&dependency.task);
                }
            }
        }
    }

    /// A key under which as many attempts may run as such a task allows, its kind's quota being one of them.
    pub(crate) fn exhausted(&self, need: &Need) -> Option<Limit> {
        let full =
            |limit: &&Limit| self.held.get(&limit.key).is_some_and(|held| held.len() >= limit.max as usize);
        need.limits.iter().find(full).cloned().or_else(|| self.kind_exhausted(&need.kind))
    }

    /// An attempt may run from here on, under its task's keys; returns them.
    pub(crate) fn hold_keys(&mut self, attempt: AttemptId) -> Vec<String> {
        let limits = self.db.get(attempt.task).map(|task| task.spec.rules().limits.as_slice());
        let keys: Vec<String> = limits.unwrap_or_default().iter().map(|limit| limit.key.clone()).collect();
        for key in &keys {
            self.held.entry(key.clone()).or_default().insert(attempt);
        }
        keys
    }

    /// Nothing of the attempt runs or ever will: its places are free.
    pub(crate) fn give_back(&mut self, attempt: AttemptId, keys: &[String]) {
        for key in keys {
            if let Some(held) = self.held.get_mut(key) {
                held.remove(&attempt);
                if held.is_empty() {
                    self.held.remove(key);
                }
            }
            self.dispatch_due |= self.queue.give_back(key);
        }
    }

    /// Sees to it that a task that waits for its first slot does so no longer than it may.
    pub(crate) fn watch_wait(&mut self, now: Now, id: TaskId) {
        let Some(task) = self.db.get(id).filter(|task| task.has_not_run()) else { return };
        let Some(timeout) = task.spec.rules().queue_timeout_ms else { return };
        let waited = now.wall_ms.saturating_sub(task.waits_since_ms());
        let left = timeout.saturating_sub(waited);
        let at = now.at + Duration::from_millis(left);
        if let Some(before) = self.impatient.insert(id, at) {
            self.timers.remove(&(before, Timer::Impatient(id)));
        }
        self.timers.insert((at, Timer::Impatient(id)));
    }

    /// It waits for its first slot no more.
    pub(crate) fn unwatch_wait(&mut self, id: TaskId) {
        if let Some(at) = self.impatient.remove(&id) {
            self.timers.remove(&(at, Timer::Impatient(id)));
        }
    }

    /// It has waited for too long.
    pub(crate) fn waited_too_long(&mut self, now: Now, id: TaskId) {
        self.impatient.remove(&id);
        let Some(task) = self.db.get(id).filter(|task| task.state == TaskState::Queued) else { return };
        let timeout = Duration::from_millis(task.spec.rules().queue_timeout_ms.unwrap_or(0));
        let note = format!("it waited for a slot for {timeout:?}, its queue timeout");
        self.unwait(id);
        self.db.change(id, |task| {
            finish(task, TaskState::TimedOut, now.wall_ms);
            task.note = Some(note.into());
        });
    }
}

fn is_met(dependency: Dependency, end: Option<TaskState>) -> bool {
    match end {
        Some(end) => dependency.on.is_met_by(end),
        // It has ended, and nobody knows how.
        None => dependency.on == proto::task::Condition::Always,
    }
}

fn unmet(dependency: Dependency, end: Option<TaskState>) -> String {
    let Dependency { task, on } = dependency;
    match end {
        Some(end) => format!("it was to start once task {task} {on}, and that is {end}"),
        None => format!("it was to start once task {task} {on}, and that is no longer remembered"),
    }
}
