//! Schedules.

use proto::ScheduleId;
use proto::api::Via;
use proto::schedule::{ScheduleDone, ScheduleName, ScheduleOrder, ScheduleView};

use super::{CallError, Client, Patience, Repeat};

impl Client {
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
