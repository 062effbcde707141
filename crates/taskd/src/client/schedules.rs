//! Schedules.

use std::time::Duration;

use proto::ScheduleId;
use proto::api::Via;
use proto::schedule::{
    Misfire, Overlap, ScheduleDone, ScheduleName, ScheduleOrder, ScheduleSpec, ScheduleView,
};

use super::{CallError, Client, Handle, Patience, Repeat, Task, draw_id};

/// Tasks that come again and again.
///
/// ```
/// # use taskd::client::{PayloadError, Schedule, Task};
/// # use taskd::proto::schedule::Overlap;
/// # fn nightly() -> Result<Schedule, Box<dyn std::error::Error>> {
/// let rotate = Task::new("rotate", &"v1")?.lock("volume/v1");
/// let nightly = Schedule::new("rotate-v1".parse()?, "30 2 * * *", rotate)
///     .zone("Europe/Berlin")
///     .overlap(Overlap::Forbid);
/// # Ok(nightly)
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it is added by `Client::put_schedule`"]
pub struct Schedule {
    name: ScheduleName,
    spec: ScheduleSpec,
}

impl Schedule {
    /// `task` at the ticks of a cron expression, in UTC unless told: MINUTE HOUR DAY MONTH WEEKDAY, with seconds in front
    /// if need be, or a name such as `@hourly`.
    pub fn new(name: ScheduleName, cron: impl Into<String>, task: Task) -> Self {
        Self { name, spec: ScheduleSpec::new(cron, task.into()) }
    }

    /// In which time zone, by its IANA name.
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.spec.zone = zone.into();
        self
    }

    /// What becomes of a tick while the task of the one before has not ended. It runs beside it unless told.
    pub const fn overlap(mut self, overlap: Overlap) -> Self {
        self.spec.overlap = overlap;
        self
    }

    /// What becomes of ticks that came while nobody could act on them, and that are later than `grace`. The newest one
    /// runs, and grace is a minute, unless told.
    pub fn misfire(mut self, misfire: Misfire, grace: Duration) -> Self {
        self.spec.misfire = misfire;
        self.spec.misfire_grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

impl Client {
    /// Sees to it that there is such a schedule: adds it, or replaces the one of that name if that is another.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn put_schedule(&self, schedule: Schedule) -> Result<ScheduleView, CallError> {
        let Schedule { name, spec } = schedule;
        let order = ScheduleOrder::Add { name, id: draw_schedule_id(), spec: Box::new(spec), replace: true };
        Ok(*self.schedule_order(order).await?.schedule)
    }

    /// A tick now, beside the others: its task.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn trigger_schedule(&self, name: &ScheduleName) -> Result<Handle<'_>, CallError> {
        let task = draw_id();
        let done = self.schedule_order(ScheduleOrder::Trigger { name: name.clone(), task }).await?;
        Ok(self.task(done.task.unwrap_or(task)))
    }

    /// Adds or changes a schedule. It is asked again where an answer is lost: the ids in the order see to it that nothing
    /// is done twice.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn schedule_order(&self, order: ScheduleOrder) -> Result<ScheduleDone, CallError> {
        let repeat = match order {
            // The second time there would be nothing to remove.
            ScheduleOrder::Remove(_) => Repeat::No,
            _ => Repeat::Yes,
        };
        self.call(Patience::short(), repeat, |api, context| {
            let order = order.clone();
            async move { api.schedule_order(context, Via::Client, order).await }
        })
        .await
    }

    /// One schedule.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn schedule(&self, name: &ScheduleName) -> Result<ScheduleView, CallError> {
        self.call(Patience::short(), Repeat::Yes, |api, context| {
            let name = name.clone();
            async move { api.schedule(context, Via::Client, name).await }
        })
        .await
    }

    /// Every schedule, by name, without payloads.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn schedules(&self) -> Result<Vec<ScheduleView>, CallError> {
        let mut schedules: Vec<ScheduleView> = Vec::new();
        loop {
            let after = schedules.last().map(|last| last.name.clone());
            let page = self
                .call(Patience::short(), Repeat::Yes, |api, context| {
                    let after = after.clone();
                    async move { api.schedules(context, Via::Client, after).await }
                })
                .await?;
            if page.schedules.is_empty() {
                return Ok(schedules);
            }
            schedules.extend(page.schedules);
            if schedules.len() as u64 >= page.total {
                return Ok(schedules);
            }
        }
    }
}

/// A schedule's id, drawn at random.
pub fn draw_schedule_id() -> ScheduleId {
    ScheduleId::from_u128(rand::random())
}
