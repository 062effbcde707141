//! Disturbing a future at each of its await points.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use testkit::sweep::{Moment, act_at, drop_at};
//!
//! let two_waits = || async {
//!     tokio::task::yield_now().await;
//!     tokio::task::yield_now().await;
//! };
//! // Never begun, and in each of its waits.
//! for point in 0..=2 {
//!     assert_eq!(drop_at(point, Moment::Waiting, two_waits()).await, None);
//! }
//! // There is no third: the sweep is over.
//! assert_eq!(drop_at(3, Moment::Waiting, two_waits()).await, Some(()));
//! let mut acted = false;
//! assert!(act_at(2, Moment::Woken, two_waits(), || acted = true).await.reached);
//! # }
//! ```

use std::future::poll_fn;
use std::task::Poll;

/// When exactly, at its await point, a future is disturbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// While it waits.
    Waiting,
    /// What it waits for has come, and it has not seen it yet: whatever is on its way to it has no other owner.
    Woken,
}

impl Moment {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Waiting, Self::Woken];
}

/// A future that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended<T> {
    /// What it returned.
    pub output: T,
    /// Whether it was disturbed before: if not, it has fewer await points.
    pub reached: bool,
}

/// Runs `future` to its end, and calls `act` at its await point number `point`: 0 is before its first poll.
pub async fn act_at<F: Future>(
    point: u64,
    moment: Moment,
    future: F,
    act: impl FnOnce(),
) -> Ended<F::Output> {
    let mut future = Box::pin(future);
    let (mut waits, mut act) = (0, Some(act));
    let mut now = |waits: u64, woken: bool| {
        let due = waits == point && (point == 0 || woken == (moment == Moment::Woken));
        if let Some(act) = act.take_if(|_| due) {
            act();
        }
        act.is_none()
    };
    poll_fn(move |context| {
        now(waits, true);
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ended { output, reached: now(u64::MAX, true) }),
            Poll::Pending => {
                waits += 1;
                now(waits, false);
                Poll::Pending
            }
        }
    })
    .await
}

/// Drops `future` at its await point number `point` and returns `None`; its output if it ends before that.
pub async fn drop_at<F: Future>(point: u64, moment: Moment, future: F) -> Option<F::Output> {
    let mut future = Box::pin(future);
    let mut waits = 0;
    poll_fn(move |context| {
        if waits == point && (point == 0 || moment == Moment::Woken) {
            return Poll::Ready(None);
        }
        match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => {
                waits += 1;
                if waits == point && moment == Moment::Waiting { Poll::Ready(None) } else { Poll::Pending }
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::task::yield_now;

    use super::*;

    /// Counts the steps that were done.
    async fn steps(done: &AtomicU32) -> u32 {
        for _ in 0..3 {
            done.fetch_add(1, Ordering::SeqCst);
            yield_now().await;
        }
        done.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn every_await_point_is_met_once() {
        for moment in Moment::ALL {
            for point in 0..=3 {
                let done = AtomicU32::new(0);
                assert_eq!(drop_at(u64::from(point), moment, steps(&done)).await, None);
                assert_eq!(done.load(Ordering::SeqCst), point, "{moment:?}");
                let (done, mut seen) = (AtomicU32::new(0), None);
                let act = || seen = Some(done.load(Ordering::SeqCst));
                let ended = act_at(u64::from(point), moment, steps(&done), act).await;
                assert_eq!((ended, seen), (Ended { output: 3, reached: true }, Some(point)), "{moment:?}");
            }
            let done = AtomicU32::new(0);
            assert_eq!(drop_at(4, moment, steps(&done)).await, Some(3));
            let ended =
                act_at(4, moment, steps(&AtomicU32::new(0)), || panic!("there is no such point")).await;
            assert!(!ended.reached);
        }
    }
}
