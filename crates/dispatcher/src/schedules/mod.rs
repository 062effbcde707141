//! Schedules: what people ask of them, and what is shown of them. What time does to them is in [`ticks`].
//!
//! A schedule's record says until when every tick is decided. It moves on in the same group of changes as the tasks of
//! those ticks, behind them: a leader that finds the tasks and not the record decides again, and comes to the same ids.

mod ticks;

use std::collections::{BTreeMap, BTreeSet};

use clock::Instant;
use cron::Ticks;
use proto::TaskId;
use proto::api::{ApiError, ApiErrorKind};
use proto::schedule::{
    Origin, Overlap, SCHEDULES_MAX, ScheduleDone, ScheduleName, ScheduleOrder, SchedulePage, ScheduleSpec,
    ScheduleView, TickEnd,
};
use proto::task::TaskSpec;
use proto::{FRAME_BYTES_MAX, ScheduleId};

use crate::core::{Core, Now};
use crate::record::{Progress, Schedule, Task, rules_bytes, schedule_key};
use crate::requests::{full, record_bytes};

/// Ticks to come that are shown of one schedule.
const SHOWN: usize = 5;

/// How far ahead of the clock a schedule may be before that is said, in milliseconds.
const AHEAD_MS: u64 = 60_000;

/// What schedules wait for.
#[derive(Debug)]
pub(crate) struct Schedules {
    /// By the keys of their records: those that this release understands.
    loaded: BTreeMap<u128, Loaded>,
    /// A tick of theirs may have come.
    due: BTreeSet<u128>,
    /// What is in the way of the next tick.
    trouble: BTreeMap<u128, String>,
    /// The wall clock was this when timers were last set by it.
    wall: Now,
}

/// A schedule whose expression has been read.
#[derive(Debug)]
struct Loaded {
    ticks: Ticks,
    timer: Option<Instant>,
    /// Ticks until then have come, whatever the clock says: a leader whose clock was ahead has made some of their tasks.
    come_until_ms: u64,
    /// Its next tick; none while it is paused.
    next_ms: Option<u64>,
}

impl Schedules {
    pub(crate) fn new(now: Now) -> Self {
        Self { loaded: BTreeMap::new(), due: BTreeSet::new(), trouble: BTreeMap::new(), wall: now }
    }
}

type Answer = Result<ScheduleDone, ApiError>;

fn invalid(error: impl ToString) -> ApiError {
    ApiError::new(ApiErrorKind::Invalid, error.to_string())
}

fn missing(name: &ScheduleName) -> ApiError {
    ApiError::new(ApiErrorKind::NotFound, format!("there is no schedule {name}: see taskd schedule list"))
}

impl Core {
    /// Adds or changes a schedule. `room` is what the log has left for new tasks, in bytes, and is used up.
    pub(crate) fn schedule_order(&mut self, now: Now, order: ScheduleOrder, room: &mut u64) -> Answer {
        let key = schedule_key(order.name());
        match order {
            ScheduleOrder::Add { name, id, spec, replace } => {
                self.add_schedule(now, name, id, *spec, replace, room)
            }
            ScheduleOrder::Pause(name) => {
                // What had come before becomes tasks, as far as there is room. The rest is given up: whoever pauses one in a
                // flood wants no more of it.
                self.decide_now(now, key, room);
                self.change_schedule(now, &name, |schedule| !std::mem::replace(&mut schedule.paused, true))
            }
            ScheduleOrder::Resume(name) => self.change_schedule(now, &name, |schedule| {
                let resumes = std::mem::take(&mut schedule.paused);
                if resumes {
                    schedule.progress.go_on_from(now);
                }
                resumes
            }),
            ScheduleOrder::Remove(name) => {
                let schedule = self.schedule_view(now, &name)?;
                self.forget_schedule(key);
                self.db.remove_schedule(key);
                Ok(ScheduleDone { changed: true, schedule: Box::new(schedule), task: None })
            }
            ScheduleOrder::Trigger { name, task } => self.trigger(now, &name, task, room),
        }
    }

    fn add_schedule(
        &mut self,
        now: Now,
        name: ScheduleName,
        id: ScheduleId,
        spec: ScheduleSpec,
        replace: bool,
        room: &mut u64,
    ) -> Answer {
        spec.check().map_err(invalid)?;
        Ticks::parse(&spec.cron, &spec.zone, now.wall_ms).map_err(invalid)?;
        self.check_kind(&spec.task.kind).map_err(invalid)?;
        if spec.task.origin.is_some() {
            return Err(invalid("only a schedule's tasks have an origin"));
        }
        let (bytes, max) = (spec.task.payload.len(), self.settings.payload_inline_max);
        if bytes > max {
            return Err(invalid(format!(
                "the payload has {bytes} bytes, and a schedule keeps at most {max}: put the data on shared storage and \
                 pass its path"
            )));
        }
        let key = schedule_key(&name);
        let before = self.db.schedule(&name).map(|schedule| schedule.spec == spec);
        match before {
            Some(true) => return self.done(now, &name, false, None),
            Some(false) if !replace => {
                return Err(ApiError::new(
                    ApiErrorKind::Conflict,
                    format!(
                        "there is a schedule {name} already, which is another: see taskd schedule show {name}; to have \
                         this one instead, add --replace"
                    ),
                ));
            }
            _ => {}
        }
        if before.is_none() && self.db.schedules_len() >= SCHEDULES_MAX {
            return Err(ApiError::new(
                ApiErrorKind::Full,
                format!("there are {SCHEDULES_MAX} schedules, which is the limit: remove some first"),
            ));
        }
        if self.db.get(TaskId::from_u128(key)).is_some() {
            return Err(invalid("a task has this schedule's place: use another name"));
        }
        *room = room.checked_sub(schedule_bytes(&spec)).ok_or_else(full)?;
        if before.is_some() {
            // What had come before becomes tasks, as far as there is room.
            self.decide_now(now, key, room);
            self.db.change_schedule(key, |schedule| {
                schedule.spec = spec;
                schedule.progress.go_on_from(now);
            });
        } else {
            let progress = Progress { until_ms: now.wall_ms, ..Progress::default() };
            let created_ms = now.wall_ms;
            let schedule =
                Schedule { name: name.clone(), id, revision: 1, spec, created_ms, paused: false, progress };
            self.db.insert_schedule(schedule);
        }
        self.load_schedule(now, key);
        self.done(now, &name, true, None)
    }

    fn change_schedule(
        &mut self,
        now: Now,
        name: &ScheduleName,
        change: impl FnOnce(&mut Schedule) -> bool,
    ) -> Answer {
        let key = schedule_key(name);
        let mut schedule = self.db.schedule(name).ok_or_else(|| missing(name))?.clone();
        let changed = change(&mut schedule);
        if changed {
            self.db.change_schedule(key, |before| *before = schedule);
            self.arm(now, key);
        }
        self.done(now, name, changed, None)
    }

    /// A tick beside the others: it neither counts as one of them, nor is it held up by them.
    fn trigger(&mut self, now: Now, name: &ScheduleName, id: TaskId, room: &mut u64) -> Answer {
        let schedule = self.db.schedule(name).ok_or_else(|| missing(name))?;
        if let Some(task) = self.db.get(id) {
            let ours = task.spec.origin.as_ref().is_some_and(|origin| origin.schedule == *name);
            if ours {
                return self.done(now, name, false, Some(id));
            }
            return Err(invalid("the task id is taken: draw it at random"));
        }
        if id.as_u128() == crate::record::META_KEY
            || self.db.schedule_at(id.as_u128()).is_some()
            || self.db.settings().has_key(id.as_u128())
        {
            return Err(invalid("the task id is taken by something else: draw it at random"));
        }
        let spec = schedule.tick_spec(now.wall_ms, true);
        self.check_room(&spec.kind, spec.payload.len() as u64)?;
        *room = room.checked_sub(record_bytes(&spec) + spec.payload.len() as u64).ok_or_else(full)?;
        self.create(now, id, spec, None);
        self.done(now, name, true, Some(id))
    }

    fn done(&self, now: Now, name: &ScheduleName, changed: bool, task: Option<TaskId>) -> Answer {
        Ok(ScheduleDone { changed, schedule: Box::new(self.schedule_view(now, name)?), task })
    }

    /// One schedule.
    pub(crate) fn schedule_view(&self, now: Now, name: &ScheduleName) -> Result<ScheduleView, ApiError> {
        let schedule = self.db.schedule(name).ok_or_else(|| missing(name))?;
        let mut view = self.view_of(now, schedule);
        view.spec.task.payload.clone_from(&schedule.spec.task.payload);
        if let Some(loaded) = self.schedules.loaded.get(&schedule.key()) {
            while let Some(next) = view.next_ms.last().and_then(|last| loaded.ticks.next_after(*last))
                && view.next_ms.len() < SHOWN
            {
                view.next_ms.push(next);
            }
        }
        Ok(view)
    }

    /// Schedules by name, from behind `after` on, as many as fit into an answer.
    pub(crate) fn schedule_page(&self, now: Now, after: Option<&ScheduleName>) -> SchedulePage {
        // Names of the fields and numbers, beside the texts.
        const VIEW: u64 = 800;
        let mut left = FRAME_BYTES_MAX as u64 / 2;
        let mut schedules = Vec::new();
        for schedule in self.db.schedules_after(after) {
            let bytes = VIEW + schedule_bytes(&schedule.spec) - schedule.spec.task.payload.len() as u64;
            let Some(rest) = left.checked_sub(bytes) else { break };
            left = rest;
            schedules.push(self.view_of(now, schedule));
        }
        SchedulePage { schedules, total: self.db.schedules_len() as u64 }
    }

    /// Without its payload, and with one tick to come.
    fn view_of(&self, now: Now, schedule: &Schedule) -> ScheduleView {
        let key = schedule.key();
        let Schedule { name, id, revision, spec, created_ms, paused, progress } = schedule;
        let loaded = self.schedules.loaded.get(&key);
        let ahead = progress.until_ms > now.wall_ms.saturating_add(AHEAD_MS);
        let ahead = ahead.then(|| {
            format!(
                "the leader's clock has been at {} before and went back: its ticks until then are decided, and the next \
                 ones come after it. To have them earlier, remove it and add it again",
                cron::rfc3339(progress.until_ms)
            )
        });
        let last_task = progress.last.and_then(|tick| match tick.end {
            TickEnd::Task(task) => self.db.get(task),
            TickEnd::Overlapped(_) | TickEnd::Missed => None,
        });
        ScheduleView {
            name: name.clone(),
            id: *id,
            revision: *revision,
            spec: without_payload(spec),
            paused: *paused,
            created_ms: *created_ms,
            last: progress.last,
            last_state: last_task.map(|task| task.state),
            next_ms: loaded.and_then(|loaded| loaded.next_ms).into_iter().collect(),
            counts: progress.counts,
            trouble: self.schedules.trouble.get(&key).cloned().or(ahead),
        }
    }

    /// Where a task comes from that nobody submitted, as the end of a sentence.
    pub(crate) fn whence(&self, task: &Task) -> String {
        let Some(origin) = task.spec.origin.as_deref() else { return String::new() };
        let Origin { schedule: name, tick_ms, triggered } = origin;
        let tick = cron::rfc3339(*tick_ms);
        if *triggered {
            return format!("; schedule {name} was triggered at {tick}");
        }
        let skipped = self.db.schedule(name).map(|schedule| schedule.progress);
        let skipped = skipped.filter(|it| it.last_task == Some(task.id) && it.skipped_for_it > 0);
        let skipped = skipped.map_or_else(String::new, |progress| {
            format!("; the {} ticks after it were skipped, since it was not final", progress.skipped_for_it)
        });
        format!("; it is the tick of {tick} of schedule {name}{skipped}")
    }
}

impl Schedule {
    /// The task of one of its ticks, or of one that was triggered.
    fn tick_spec(&self, tick_ms: u64, triggered: bool) -> TaskSpec {
        let mut spec = self.spec.task.clone();
        spec.name.get_or_insert_with(|| format!("{}@{}", self.name, cron::rfc3339(tick_ms)));
        spec.origin = Some(Box::new(Origin { schedule: self.name.clone(), tick_ms, triggered }));
        spec
    }

    /// Whether a tick has to look at the task of the one before.
    fn minds_overlaps(&self) -> bool {
        self.spec.overlap != Overlap::Allow
    }
}

impl Progress {
    /// The ticks until now are nobody's any more. The clock may have gone back: those that were decided stay so.
    fn go_on_from(&mut self, now: Now) {
        self.until_ms = self.until_ms.max(now.wall_ms);
        self.made_good = 0;
    }
}

fn without_payload(spec: &ScheduleSpec) -> ScheduleSpec {
    let task = &spec.task;
    ScheduleSpec {
        cron: spec.cron.clone(),
        zone: spec.zone.clone(),
        task: TaskSpec {
            payload: Vec::new(),
            kind: task.kind.clone(),
            name: task.name.clone(),
            labels: task.labels.clone(),
            idempotency_key: None,
            rules: task.rules.clone(),
            origin: None,
            ..*task
        },
        ..*spec
    }
}

/// What a schedule's record takes at the most.
fn schedule_bytes(spec: &ScheduleSpec) -> u64 {
    let texts = spec.cron.len() + spec.zone.len() + spec.task.kind.len() + rules_bytes(&spec.task);
    record_bytes(&spec.task) + (texts + spec.task.payload.len()) as u64
}
