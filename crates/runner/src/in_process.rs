//! One attempt whose work runs inside the daemon.
//!
//! It has ended when its future is gone *and* nothing holds it any more ([`Holds`]): a blocking thread goes on after the
//! future that waited for it was dropped. What is not gone by the deadline of the fence is the exit policy's business.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use proto::AttemptId;
use proto::runner::Outcome;
use proto::task::AttemptEnd;
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::attempt::{Control, Ended, shortened};
use crate::process::blocking;
use crate::service::{Holds, Reports, WorkError};
use crate::store::Store;

/// What one attempt is run with.
#[derive(Debug)]
pub(crate) struct Inside {
    pub(crate) attempt: AttemptId,
    pub(crate) cancelled: CancellationToken,
    pub(crate) reports: Reports,
    pub(crate) holds: Holds,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) progress_timeout: Option<Duration>,
    /// How long it may tidy up.
    pub(crate) grace: Duration,
    pub(crate) store: Store,
    pub(crate) output_bytes_max: u64,
}

/// Runs the work. Dropped work ends at its next await point.
pub(crate) async fn run(
    inside: Inside,
    mut work: BoxFuture<'static, Result<Vec<u8>, WorkError>>,
    mut control: Control,
) -> Ended {
    let clock = Arc::clone(&control.clock);
    if let Err(end) = control.may_begin() {
        return Ended::in_memory(inside.attempt, end, None, &clock);
    }
    let started_ms = clock.wall().0;
    let (end, grace) = tokio::select! {
        biased;
        request = control.ended() => (request.end, Some(request.grace)),
        result = &mut work => match result {
            Ok(output) => {
                inside.gone(work).await;
                return inside.succeeded(started_ms, clock.wall().0, output).await;
            }
            Err(error) => (failed(error), None),
        },
        () = after(inside.run_timeout) => (AttemptEnd::TimedOut, Some(inside.grace)),
        after_ms = inside.silence() => (AttemptEnd::NoProgress { after_ms }, Some(inside.grace)),
    };
    inside.cancelled.cancel();
    // It may tidy up for so long; what it then says no longer counts.
    if let Some(grace) = grace {
        let mut until = time::Instant::now() + grace;
        loop {
            tokio::select! {
                biased;
                _ = &mut work => break,
                () = time::sleep_until(until) => break,
                // A stop hastens an end that has begun.
                Ok(()) = control.end.changed() => {
                    let grace = control.request().map_or(grace, |request| request.grace);
                    until = until.min(time::Instant::now() + grace);
                }
            }
        }
    }
    inside.gone(work).await;
    let mut ended = Ended::in_memory(inside.attempt, end, Some(started_ms), &clock);
    ended.outcome.checkpoint = inside.reports.subscribe().borrow().checkpoint.clone();
    ended
}

impl Inside {
    /// Returns when nothing of the work is left.
    async fn gone(&self, work: BoxFuture<'static, Result<Vec<u8>, WorkError>>) {
        drop(work);
        self.cancelled.cancel();
        self.holds.released().await;
    }

    /// Returns, with the timeout in milliseconds, when the attempt has said nothing for that long.
    async fn silence(&self) -> u64 {
        let Some(timeout) = self.progress_timeout else { return std::future::pending().await };
        let mut said = self.reports.subscribe();
        while time::timeout(timeout, said.changed()).await.is_ok() {}
        u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
    }

    /// The end of work that did what it was asked to. A full disk loses its output, not its success.
    async fn succeeded(self, started_ms: u64, ended_ms: u64, output: Vec<u8>) -> Ended {
        let outcome = Outcome {
            attempt: self.attempt,
            end: AttemptEnd::Exited { code: 0 },
            started_ms: Some(started_ms),
            ended_ms,
            output_bytes: output.len() as u64,
            checkpoint: None,
        };
        if output.is_empty() {
            return Ended { outcome, on_disk: None };
        }
        let (store, kept) = (self.store, outcome.clone());
        match blocking(move || store.keep(&kept, &output, self.output_bytes_max)).await {
            Ok(bytes) => Ended { outcome, on_disk: Some(bytes) },
            Err(error) => {
                tracing::error!(attempt = %self.attempt, %error, "cannot keep its output");
                Ended { outcome: Outcome { output_bytes: 0, ..outcome }, on_disk: None }
            }
        }
    }
}

fn failed(WorkError { message, permanent }: WorkError) -> AttemptEnd {
    let message = shortened(message);
    if permanent { AttemptEnd::Refused { message } } else { AttemptEnd::Failed { message } }
}

async fn after(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use clock::{Clock, ManualClock, SharedClock};
    use proto::TaskId;
    use proto::progress::{Checkpoint, Progress};
    use tokio::sync::watch;

    use super::*;
    use crate::attempt::EndRequest;

    const HOUR: Duration = Duration::from_secs(3_600);

    struct Scene {
        clock: Arc<ManualClock>,
        fence: Option<clock::Instant>,
        end: watch::Sender<Option<EndRequest>>,
        dir: tempfile::TempDir,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::default());
            let fence = Some(clock.now() + HOUR);
            Self { clock, fence, end: watch::channel(None).0, dir: tempfile::tempdir().unwrap() }
        }

        fn inside(&self) -> (Inside, Control) {
            let inside = Inside {
                attempt: AttemptId { task: TaskId::from_u128(1), number: 1 },
                cancelled: CancellationToken::new(),
                reports: Reports::default(),
                holds: Holds::default(),
                run_timeout: None,
                progress_timeout: None,
                grace: Duration::from_millis(10),
                store: Store::open(self.dir.path()).unwrap_or_else(|_| panic!("no store")),
                output_bytes_max: 1 << 20,
            };
            let control = Control {
                fence: watch::channel(self.fence).1,
                end: self.end.subscribe(),
                clock: Arc::clone(&self.clock) as SharedClock,
            };
            (inside, control)
        }
    }

    fn given_up(now: clock::Instant) -> EndRequest {
        EndRequest { end: AttemptEnd::Cancelled, grace: Duration::ZERO, hard_at: now }
    }

    #[tokio::test]
    async fn nothing_begins_after_a_lapse_that_came_between() {
        for (lapses, request, begins) in
            [(Some(0), false, false), (None, false, false), (Some(1), true, false), (Some(1), false, true)]
        {
            let mut scene = Scene::new();
            let now = scene.clock.now();
            scene.fence = lapses.map(|seconds| now + Duration::from_secs(seconds));
            scene.end.send_replace(request.then(|| given_up(now)));
            let ran = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let work = {
                let ran = Arc::clone(&ran);
                Box::pin(async move {
                    ran.store(true, std::sync::atomic::Ordering::Relaxed);
                    Ok(Vec::new())
                })
            };
            let (inside, control) = scene.inside();
            let ended = run(inside, work, control).await;
            assert_eq!(ran.load(std::sync::atomic::Ordering::Relaxed), begins, "{:?}", ended.outcome.end);
            assert_eq!(ended.outcome.end.is_success(), begins);
        }
    }

    #[tokio::test]
    async fn it_has_ended_when_its_last_thread_has() {
        let scene = Scene::new();
        let (inside, control) = scene.inside();
        let (hold, cancelled) = (inside.holds.hold(), inside.cancelled.clone());
        scene.end.send_replace(Some(given_up(scene.clock.now())));
        // Begun before it was given up.
        let control = Control { end: scene.end.subscribe(), ..control };
        scene.end.send_replace(None);
        let mut ended = Box::pin(run(inside, Box::pin(std::future::pending()), control));
        assert!(futures::poll!(&mut ended).is_pending());
        scene.end.send_replace(Some(given_up(scene.clock.now())));
        cancelled_soon(&mut ended, &cancelled).await;
        assert!(futures::poll!(&mut ended).is_pending(), "a thread of it still runs");
        drop(hold);
        assert_eq!(ended.await.outcome.end, AttemptEnd::Cancelled);
    }

    async fn cancelled_soon(
        ended: &mut (impl Future<Output = Ended> + Unpin),
        cancelled: &CancellationToken,
    ) {
        tokio::select! {
            _ = ended => panic!("it has ended before its last thread"),
            () = cancelled.cancelled() => {}
        }
    }

    #[tokio::test]
    async fn output_is_kept_and_checkpoints_come_with_failures() {
        let scene = Scene::new();
        let (inside, control) = scene.inside();
        let store = inside.store.clone();
        let id = inside.attempt;
        let ended = run(inside, Box::pin(std::future::ready(Ok(b"\"done\"".to_vec()))), control).await;
        assert_eq!((ended.outcome.output_bytes, ended.on_disk.is_some()), (6, true));
        assert_eq!(store.outcome(id).unwrap(), Some((ended.outcome, false)));
        let read = crate::shim::capture::read(&store.attempt(id), 0, 100).unwrap();
        assert_eq!(read, (0, b"\"done\"".to_vec()));
        drop(store);

        let (inside, control) = scene.inside();
        inside.reports.checkpoint(Checkpoint::new("7").unwrap());
        let error = WorkError { message: "no such volume".to_owned(), permanent: true };
        let ended = run(inside, Box::pin(std::future::ready(Err(error))), control).await;
        assert_eq!(ended.outcome.end, AttemptEnd::Refused { message: "no such volume".to_owned() });
        assert_eq!(ended.outcome.checkpoint, Some(Checkpoint::new("7").unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_for_too_long_is_ended() {
        let scene = Scene::new();
        let (mut inside, control) = scene.inside();
        inside.progress_timeout = Some(Duration::from_secs(5));
        let (reports, begun) = (inside.reports.clone(), time::Instant::now());
        let work = Box::pin(async move {
            for _ in 0..3 {
                time::sleep(Duration::from_secs(4)).await;
                reports.progress(Progress::new(None, Some("at it")));
            }
            std::future::pending().await
        });
        let ended = run(inside, work, control).await;
        assert_eq!(ended.outcome.end, AttemptEnd::NoProgress { after_ms: 5_000 });
        assert!(begun.elapsed() >= Duration::from_secs(17), "{:?}", begun.elapsed());
    }
}
