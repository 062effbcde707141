//! What time does: pauses end, attempts run for too long, silent runners are given up, old tasks are forgotten.

use std::time::Duration;

use clock::Instant;
use proto::task::TaskState;
use proto::{AttemptId, TaskId};

use crate::attempts::Sent;
use crate::core::{Core, Effect, Now};
use crate::queue::Need;

/// Tasks forgotten in one go.
const EXPIRE_MAX: usize = 2_048;

/// Timers that fire in one go.
const FIRED_MAX: usize = 4_096;

/// How long after its run timeout an attempt is ended by the leader, should its runner not have done so.
const OVERDUE_MARGIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Due(TaskId),
    Impatient(TaskId),
    Overdue(AttemptId),
    /// Of the schedule with this key.
    Tick(u128),
    /// Of the drained node with this key.
    Drained(u128),
}

impl Core {
    /// Lets a task wait for `pause`, then for a slot.
    pub(crate) fn wait(&mut self, id: TaskId, now: Now, pause: Duration) {
        if pause.is_zero() {
            self.enqueue(now, id);
        } else {
            let at = now.at + pause;
            self.pausing.insert(id, at);
            self.timers.insert((at, Timer::Due(id)));
        }
    }

    pub(crate) fn enqueue(&mut self, now: Now, id: TaskId) {
        if let Some(task) = self.db.get(id) {
            self.queue.insert(Need::of(&task.spec), self.place(task), id);
            self.dispatch_due = true;
            self.watch_wait(now, id);
        }
    }

    /// Takes a task out of whatever it waits for.
    pub(crate) fn unwait(&mut self, id: TaskId) {
        self.unwatch_wait(id);
        self.unblock(id);
        if let Some(at) = self.pausing.remove(&id) {
            self.timers.remove(&(at, Timer::Due(id)));
        } else if let Some(task) = self.db.get(id) {
            let place = self.place(task);
            self.queue.remove(&Need::of(&task.spec), place);
        }
    }

    /// Sees to it that an attempt ends some time after its run timeout, should its runner not end it.
    pub(crate) fn watch_run(&mut self, now: Instant, attempt: AttemptId) {
        let timeout = self.db.get(attempt.task).and_then(|task| task.spec.run_timeout_ms);
        if let (Some(timeout), Some(open)) = (timeout, self.open.get_mut(&attempt)) {
            let at = now + Duration::from_millis(timeout) + OVERDUE_MARGIN;
            open.overdue_at = Some(at);
            self.timers.insert((at, Timer::Overdue(attempt)));
        }
    }

    fn overdue(&mut self, now: Now, attempt: AttemptId) {
        let Some(open) = self.open.get_mut(&attempt) else { return };
        open.overdue_at = None;
        if open.sent == Sent::Unsent {
            // It still waits to be sent: its time has not begun.
            self.watch_run(now.at, attempt);
        } else {
            open.overdue = true;
            self.ask_cancel(now, attempt);
        }
    }

    /// Lets time act.
    pub(crate) fn tick(&mut self, now: Now) {
        self.watch_wall(now);
        self.fire_timers(now);
        self.dispatch_due |= self.runners.tick(now.at);
        self.end_extensions(now);
        self.fence_silent(now);
        if !self.owes_news() && !self.owes_ticks() {
            let bodies = self.db.expire(&self.settings.retention, now.wall_ms, EXPIRE_MAX);
            self.effects.extend(bodies.into_iter().map(Effect::DeleteBody));
        }
        self.forget_runners(now);
    }

    /// Lets what is due happen: so much of it that a turn stays short, the rest in the next ones.
    pub(crate) fn fire_timers(&mut self, now: Now) {
        for _ in 0..FIRED_MAX {
            let Some(&(at, timer)) = self.timers.first() else { return };
            if at > now.at {
                return;
            }
            self.timers.pop_first();
            match timer {
                Timer::Due(id) => {
                    self.pausing.remove(&id);
                    if self.db.get(id).is_some_and(|task| task.state == TaskState::Scheduled) {
                        self.db.change(id, |task| task.state = TaskState::Queued);
                    }
                    self.enqueue(now, id);
                }
                Timer::Impatient(id) => self.waited_too_long(now, id),
                Timer::Overdue(attempt) => self.overdue(now, attempt),
                Timer::Tick(key) => self.schedule_is_due(key),
                Timer::Drained(key) => self.deadline_passed(key),
            }
        }
    }
}
