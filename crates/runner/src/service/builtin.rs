//! `noop` and `sleep`: for benchmarks and tests, and as examples of services inside the daemon.

use std::time::Duration;

use proto::task::SleepPayload;

use super::{Task, TaskService, Unfit, Work};

/// Succeeds at once, whatever its payload.
#[derive(Clone, Copy, Debug)]
pub struct Noop;

impl TaskService for Noop {
    fn prepare(&self, _: Task) -> Result<Work, Unfit> {
        Ok(Work::InProcess(Box::pin(std::future::ready(Ok(Vec::new())))))
    }
}

/// Succeeds after a while: payload [`SleepPayload`].
#[derive(Clone, Copy, Debug)]
pub struct Sleep;

impl TaskService for Sleep {
    fn prepare(&self, task: Task) -> Result<Work, Unfit> {
        let payload: SleepPayload = serde_json::from_slice(&task.payload)
            .map_err(|error| Unfit(format!("the payload of sleep is not {{\"ms\": N}}: {error}")))?;
        Ok(Work::InProcess(Box::pin(async move {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(payload.ms)) => Ok(Vec::new()),
                () = task.cancelled.cancelled() => Err("interrupted".into()),
            }
        })))
    }
}
