//! What time does to schedules: each tick becomes one task, or is skipped for a reason that is written down.

use std::time::Duration;

use cron::Ticks;
use proto::TaskId;
use proto::schedule::{Misfire, Overlap, Tick, TickEnd};
use proto::task::{Condition, Dependency};

use super::Loaded;
use crate::core::{Core, Now};
use crate::record::{Progress, tick_task};
use crate::requests::record_bytes;
use crate::timers::Timer;

/// Ticks of one schedule that are decided in one turn.
const TICKS_MAX: usize = 1_000;

/// Tasks that all schedules together make in one turn.
const TASKS_MAX: usize = 2_048;

/// Ticks of all schedules together that are looked at in one turn: some tens of milliseconds.
const LOOKS_MAX: usize = 10_000;

/// What it costs to find the newest of many ticks.
const NEWEST_LOOKS: usize = 64;

/// Missed ticks of one schedule that are counted one by one; of those that follow only the newest is looked at.
const MISSED_COUNTED: usize = 100;

/// Missed ticks that are made good in a row, in all. There is no use in more: they came too late, and who has as many of
/// them has to look after them in person.
const MADE_GOOD_MAX: u32 = 10_000;

/// How long a tick for which there is no room waits for the next try.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How far the wall clock may run away from the timers that were set by it.
const WALL_DRIFT_MS: u64 = 200;

/// What is left of a turn.
#[derive(Debug)]
struct Budget {
    tasks: usize,
    looks: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { tasks: TASKS_MAX, looks: LOOKS_MAX }
    }
}

impl Budget {
    const fn is_spent(&self) -> bool {
        self.tasks == 0 || self.looks == 0
    }
}

/// How a turn of one schedule ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Its next tick is in the future.
    Done,
    /// There is more to decide at once.
    More,
    /// There is no room for a task.
    Stuck,
}

impl Core {
    /// Reads what a schedule says, and sets its timer.
    pub(crate) fn load_schedule(&mut self, now: Now, key: u128) {
        self.forget_schedule(key);
        let Some(schedule) = self.db.schedule_at(key) else { return };
        match Ticks::parse(&schedule.spec.cron, &schedule.spec.zone, schedule.progress.until_ms) {
            Ok(ticks) => {
                self.schedules
                    .loaded
                    .insert(key, Loaded { ticks, timer: None, come_until_ms: 0, next_ms: None });
                self.arm(now, key);
            }
            Err(error) => {
                tracing::error!(schedule = %schedule.name, %error, "the schedule has no ticks");
                self.schedules.trouble.insert(key, error.to_string());
            }
        }
    }

    /// A leader before this one has made the task of a tick, and the schedule does not know of it. All ticks until then are
    /// decided before anything is dispatched: those tasks wait for each other where they must not overlap.
    pub(crate) fn tick_was_made(&mut self, key: u128, tick_ms: u64) {
        if let Some(loaded) = self.schedules.loaded.get_mut(&key) {
            loaded.come_until_ms = loaded.come_until_ms.max(tick_ms);
            self.schedules.due.insert(key);
        }
    }

    /// It is there no more, or about to be read anew.
    pub(super) fn forget_schedule(&mut self, key: u128) {
        self.schedules.due.remove(&key);
        self.schedules.trouble.remove(&key);
        if let Some(at) = self.schedules.loaded.remove(&key).and_then(|loaded| loaded.timer) {
            self.timers.remove(&(at, Timer::Tick(key)));
        }
    }

    /// Sets a schedule's timer to its next tick.
    pub(super) fn arm(&mut self, now: Now, key: u128) {
        self.schedules.due.remove(&key);
        let Some(schedule) = self.db.schedule_at(key) else { return };
        let Some(loaded) = self.schedules.loaded.get_mut(&key) else { return };
        self.schedules.trouble.remove(&key);
        let next_ms = loaded.ticks.next_after(schedule.progress.until_ms).filter(|_| !schedule.paused);
        loaded.next_ms = next_ms;
        let come_until_ms = now.wall_ms.max(loaded.come_until_ms);
        let at = next_ms.map(|next| now.at + Duration::from_millis(next.saturating_sub(come_until_ms)));
        self.set_tick(key, at);
    }

    fn set_tick(&mut self, key: u128, at: Option<clock::Instant>) {
        let Some(loaded) = self.schedules.loaded.get_mut(&key) else { return };
        if let Some(before) = std::mem::replace(&mut loaded.timer, at) {
            self.timers.remove(&(before, Timer::Tick(key)));
        }
        self.timers.extend(at.map(|at| (at, Timer::Tick(key))));
    }

    /// Timers know nothing of the wall clock: if it was set, they are too.
    pub(crate) fn watch_wall(&mut self, now: Now) {
        let set = self.schedules.wall;
        let passed = u64::try_from(now.at.since(set.at).as_millis()).unwrap_or(u64::MAX);
        if set.wall_ms.saturating_add(passed).abs_diff(now.wall_ms) > WALL_DRIFT_MS {
            self.schedules.wall = now;
            for key in self.schedules.loaded.keys().copied().collect::<Vec<_>>() {
                self.arm(now, key);
            }
        }
    }

    pub(crate) fn schedule_is_due(&mut self, key: u128) {
        if let Some(loaded) = self.schedules.loaded.get_mut(&key) {
            loaded.timer = None;
            self.schedules.due.insert(key);
        }
    }

    pub(crate) fn schedules_are_due(&self) -> bool {
        !self.schedules.due.is_empty()
    }

    /// Lets the ticks that have come become tasks. Only inside the lease. `room` is what the log has left for new tasks,
    /// in bytes, and is used up.
    pub(crate) fn run_schedules(&mut self, now: Now, room: &mut u64) {
        let mut budget = Budget::default();
        let mut again = Vec::new();
        while !budget.is_spent()
            && let Some(key) = self.schedules.due.pop_first()
        {
            if self.decide(now, key, room, &mut budget) == Turn::More {
                again.push(key);
            }
        }
        self.schedules.due.extend(again);
    }

    /// What has come until now, before something else happens to the schedule.
    pub(super) fn decide_now(&mut self, now: Now, key: u128, room: &mut u64) {
        if self.db.schedule_at(key).is_some_and(|schedule| !schedule.paused) {
            self.decide(now, key, room, &mut Budget::default());
        }
    }

    /// Decides ticks that have come, oldest first.
    fn decide(&mut self, now: Now, key: u128, room: &mut u64, budget: &mut Budget) -> Turn {
        // Taken out, so that its ticks can be asked while tasks are made.
        let Some(loaded) = self.schedules.loaded.remove(&key) else { return Turn::Done };
        let Some(schedule) = self.db.schedule_at(key).filter(|schedule| !schedule.paused) else {
            self.schedules.loaded.insert(key, loaded);
            return Turn::Done;
        };
        let before = schedule.progress;
        let mut progress = before;
        let turn = self.decide_ticks(now, key, &loaded, &mut progress, room, budget);
        self.schedules.loaded.insert(key, loaded);
        if progress != before {
            self.db.change_schedule(key, |schedule| schedule.progress = progress);
        }
        match turn {
            Turn::Done => self.arm(now, key),
            Turn::More => {}
            Turn::Stuck => {
                let why = "there is no room for its task: too many wait or run, its kind's quota is used up (taskd quota \
                           list), or the task log's budget is";
                self.schedules.trouble.insert(key, why.to_owned());
                self.set_tick(key, Some(now.at + TRY_AGAIN));
            }
        }
        turn
    }

    fn decide_ticks(
        &mut self,
        now: Now,
        key: u128,
        loaded: &Loaded,
        progress: &mut Progress,
        room: &mut u64,
        budget: &mut Budget,
    ) -> Turn {
        let Some(schedule) = self.db.schedule_at(key) else { return Turn::Done };
        let (id, spec) = (schedule.id, &schedule.spec);
        let ticks = &loaded.ticks;
        let come_until_ms = now.wall_ms.max(loaded.come_until_ms);
        let (misfire, grace_ms) = (spec.misfire, spec.misfire_grace_ms);
        let late_before_ms = now.wall_ms.saturating_sub(grace_ms);
        let is_late = |tick: u64| tick < late_before_ms;
        let mut uncounted = MISSED_COUNTED;
        for _ in 0..TICKS_MAX {
            let next = ticks.next_after(progress.until_ms).filter(|tick| *tick <= come_until_ms);
            let Some(tick) = next else { return Turn::Done };
            if budget.is_spent() {
                return Turn::More;
            }
            budget.looks = budget.looks.saturating_sub(1);
            let late = is_late(tick);
            // What a leader before us has made is there, however late it is by now.
            let made = self.db.get(tick_task(id, tick)).is_some();
            let runs = !late
                || made
                || match misfire {
                    Misfire::Skip => false,
                    Misfire::Once => !ticks.next_after(tick).is_some_and(is_late),
                    Misfire::All => progress.made_good < MADE_GOOD_MAX,
                };
            if runs {
                let Some(end) = self.make(now, key, tick, progress, room, budget) else { return Turn::Stuck };
                progress.made_good = if late { progress.made_good + u32::from(!made) } else { 0 };
                progress.decided(tick, end);
                continue;
            }
            progress.decided(tick, TickEnd::Missed);
            uncounted = uncounted.saturating_sub(1);
            // Not past what a leader before us may have made.
            if uncounted == 0 && progress.until_ms >= loaded.come_until_ms {
                // The rest of them need not be looked at one by one.
                uncounted = MISSED_COUNTED;
                budget.looks = budget.looks.saturating_sub(NEWEST_LOOKS);
                match ticks.newest_between(progress.until_ms, late_before_ms) {
                    Some(newest) if misfire == Misfire::Once => progress.until_ms = newest - 1,
                    Some(newest) => progress.decided(newest, TickEnd::Missed),
                    None => {}
                }
            }
        }
        Turn::More
    }

    /// Makes the task of a tick, unless it is there already or the one before is in its way; none if there is no room.
    fn make(
        &mut self,
        now: Now,
        key: u128,
        tick_ms: u64,
        progress: &mut Progress,
        room: &mut u64,
        budget: &mut Budget,
    ) -> Option<TickEnd> {
        let schedule = self.db.schedule_at(key)?;
        let id = tick_task(schedule.id, tick_ms);
        let known = self.db.get(id).is_some();
        let before = progress.last_task.filter(|task| schedule.minds_overlaps() && *task != id);
        let busy = before.map(|task| self.not_over(task)).unwrap_or_default();
        let running = busy.last().copied();
        let overlap = schedule.spec.overlap;
        if let (Some(running), Overlap::Forbid, false) = (running, overlap, known) {
            return Some(TickEnd::Overlapped(running));
        }
        if !known {
            let mut spec = schedule.tick_spec(tick_ms, false);
            if !busy.is_empty() {
                let after = busy.iter().map(|task| Dependency { task: *task, on: Condition::Always });
                spec.rules.get_or_insert_default().after.extend(after);
            }
            self.check_room(&spec.kind, spec.payload.len() as u64).ok()?;
            *room = room.checked_sub(record_bytes(&spec) + spec.payload.len() as u64)?;
            budget.tasks = budget.tasks.saturating_sub(1);
            self.create(now, id, spec, None);
        }
        // Also if a leader before us made it: the order to the other one may not have survived.
        if let Some(running) = running.filter(|_| overlap == Overlap::Replace)
            && let Err(error) = self.cancel(now, &running.to_string())
        {
            tracing::warn!(task = %running, %error, "the task of the tick before cannot be cancelled");
        }
        progress.last_task = Some(id);
        progress.skipped_for_it = 0;
        Some(TickEnd::Task(id))
    }

    /// What of the task of a tick, and of those that it was to wait for, is not over; itself last.
    fn not_over(&self, id: TaskId) -> Vec<TaskId> {
        let Some(task) = self.db.get(id) else { return Vec::new() };
        let runs = |id: &TaskId| self.db.get(*id).is_some_and(|task| !task.state.is_final());
        if !task.state.is_final() {
            let awaited = task.waits_for.iter().map(|dependency| dependency.task);
            awaited.filter(|it| *it != id).chain([id]).collect()
        } else if task.attempt_count == 0 {
            // It never began: cancelled, while what it waited for may still run.
            task.spec.rules().after.iter().map(|dependency| dependency.task).filter(runs).collect()
        } else {
            Vec::new()
        }
    }

    /// Whether a leader before this one has made tasks of ticks that are not decided yet. Until they are, none of them may
    /// be forgotten: it would be made again.
    pub(crate) fn owes_ticks(&self) -> bool {
        let undecided = |(key, loaded): (&u128, &Loaded)| {
            let until = self.db.schedule_at(*key).map_or(u64::MAX, |schedule| schedule.progress.until_ms);
            loaded.come_until_ms > until
        };
        self.schedules.loaded.iter().any(undecided)
    }
}

impl Progress {
    /// Takes note of what became of a tick.
    fn decided(&mut self, at_ms: u64, end: TickEnd) {
        self.until_ms = at_ms;
        self.last = Some(Tick { at_ms, end });
        match end {
            TickEnd::Task(_) => self.counts.tasks += 1,
            TickEnd::Overlapped(_) => {
                self.counts.overlapped += 1;
                self.skipped_for_it += 1;
            }
            TickEnd::Missed => self.counts.missed += 1,
        }
    }
}
