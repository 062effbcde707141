//! What follows an attempt that did not succeed.
//!
//! A failed attempt is followed by another while failed and lost attempts together are at most `retries.max`.
//! A lost attempt is followed by another while they are at most `max(retries.max, LOST_MAX)`: a task that asked for
//! no retries still survives a few lost nodes, but one that takes its nodes down with it ends as dead.

use proto::task::{AttemptEnd, LostPolicy, Retries, TaskState};

/// Lost attempts that every task may have, whatever its retries.
pub(crate) const LOST_MAX: u32 = 3;

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Queue it at once.
    Queue,
    /// Queue it after a pause, in milliseconds.
    Pause(u64),
    /// It is over.
    Final(TaskState),
}

/// After a failure; `failed` and `lost` include it. `jitter` is 0..=1 and shortens the pause by up to a quarter, so
/// that what failed together does not come back together.
pub(crate) fn after_failure(retries: Retries, failed: u32, lost: u32, timed_out: bool, jitter: f64) -> Next {
    if failed.saturating_add(lost) <= retries.max {
        let pause = retries.pause_ms(failed);
        Next::Pause(pause - (pause as f64 * 0.25 * jitter.clamp(0.0, 1.0)) as u64)
    } else if timed_out {
        Next::Final(TaskState::TimedOut)
    } else if retries.max == 0 {
        Next::Final(TaskState::Failed)
    } else {
        Next::Final(TaskState::Dead)
    }
}

/// After a loss; `failed` and `lost` include it.
pub(crate) fn after_loss(retries: Retries, failed: u32, lost: u32, policy: LostPolicy) -> Next {
    if policy == LostPolicy::Fail {
        Next::Final(TaskState::Lost)
    } else if failed.saturating_add(lost) <= retries.max.max(LOST_MAX) {
        Next::Queue
    } else {
        Next::Final(TaskState::Dead)
    }
}

/// Whether an end means that the attempt ran too long.
pub(crate) fn timed_out(end: &AttemptEnd, overdue: bool) -> bool {
    matches!(end, AttemptEnd::TimedOut | AttemptEnd::NoProgress { .. })
        || (overdue && matches!(end, AttemptEnd::Cancelled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_retried_and_end_by_name() {
        let none = Retries { max: 0, backoff_ms: 100, backoff_ms_max: 1_000 };
        let two = Retries { max: 2, ..none };
        let rows = [
            (none, 1, 0, false, Next::Final(TaskState::Failed)),
            (none, 1, 0, true, Next::Final(TaskState::TimedOut)),
            (two, 1, 0, false, Next::Pause(100)),
            (two, 2, 0, true, Next::Pause(200)),
            (two, 3, 0, false, Next::Final(TaskState::Dead)),
            (two, 1, 2, false, Next::Final(TaskState::Dead)),
            (two, 3, 0, true, Next::Final(TaskState::TimedOut)),
        ];
        for (retries, failed, lost, timed_out, expect) in rows {
            assert_eq!(after_failure(retries, failed, lost, timed_out, 0.0), expect, "{failed} {lost}");
        }
        assert_eq!(after_failure(two, 2, 0, false, 1.0), Next::Pause(150));
    }

    #[test]
    fn losses_have_a_budget_of_their_own_and_poison_ends() {
        let none = Retries::default();
        assert_eq!(after_loss(none, 0, 3, LostPolicy::Requeue), Next::Queue);
        assert_eq!(after_loss(none, 0, 4, LostPolicy::Requeue), Next::Final(TaskState::Dead));
        assert_eq!(after_loss(none, 0, 4, LostPolicy::RequeueNow), Next::Final(TaskState::Dead));
        assert_eq!(after_loss(Retries { max: 9, ..none }, 4, 5, LostPolicy::Requeue), Next::Queue);
        assert_eq!(after_loss(none, 0, 1, LostPolicy::Fail), Next::Final(TaskState::Lost));
    }
}
