//! The dispatcher's phases.

use std::sync::Arc;
use std::time::Duration;

use drill::Bug;
use proto::{Epoch, ScheduleId};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clients::{Clients, Runners};
use crate::config::Config;
use crate::core::{Core, FRESH_BEATS, Now, Settings};
use crate::database::Database;
use crate::driver::{Driver, EVENTS_MAX, Parts};
use crate::fence::Fence;
use crate::handle::{Handle, SUBMISSIONS_KIB_MAX};
use crate::members::MemberInfo;
use crate::phase::machine::PhaseId;
use crate::storage::{Authority, Opened, Storage};

/// How long a new leader waits for the members' inventories before it serves; who is slower is asked on.
const SURVEY: Duration = Duration::from_millis(500);

/// For the first record of the term to commit.
const FIRST_COMMIT: Duration = Duration::from_secs(5);

/// For the storage to be closed after a failed recovery.
const UNWIND: Duration = Duration::from_secs(1);

/// Why a term could not begin. Whatever had been opened is closed again.
#[derive(Debug, thiserror::Error)]
pub enum RecoverFailure {
    /// It was asked to give up.
    #[error("the recovery was cancelled")]
    Cancelled,
    /// The log could not be opened.
    #[error("the task log could not be opened: {0}")]
    Log(String),
    /// The log holds something that this release cannot read.
    #[error("the task log could not be read: {0}")]
    Unreadable(String),
}

/// What `stop` has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What could not be ended or closed properly, in words; empty if all went well.
    pub problems: Vec<String>,
}

/// What a term is given.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) token: proto::FencingToken,
    pub(crate) lease: Arc<dyn Authority>,
    pub(crate) claimed: clock::Instant,
    pub(crate) members: watch::Receiver<Arc<Vec<MemberInfo>>>,
    pub(crate) runners: Arc<dyn Runners>,
}

/// The owner loop and how to end it.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) epoch: proto::Epoch,
    pub(crate) handle: Handle,
    pub(crate) tasks: JoinSet<()>,
    pub(crate) drain: CancellationToken,
    pub(crate) stop: CancellationToken,
    pub(crate) config: Config,
}

/// Replays, writes the first record of the term, asks the runners, starts the loop.
pub(crate) async fn recover(
    config: &Config,
    storage: &mut dyn Storage,
    inputs: Inputs,
    cancel: CancellationToken,
) -> Result<Loop, RecoverFailure> {
    config.enter(PhaseId::Recovering);
    let work = begin(config, storage, inputs, cancel.clone());
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(RecoverFailure::Cancelled),
        result = work => result,
    }
}

/// A planted bug: the last ticks are forgotten, and their tasks' ids are this term's own.
fn decide_again(db: &mut Database, epoch: Epoch) {
    for key in db.schedule_keys() {
        db.change_schedule(key, |schedule| {
            schedule.id = ScheduleId::from_u128(schedule.id.as_u128() ^ u128::from(epoch.0));
            schedule.progress.until_ms = schedule.progress.until_ms.saturating_sub(3_000);
        });
    }
}

async fn begin(
    config: &Config,
    storage: &mut dyn Storage,
    inputs: Inputs,
    cancel: CancellationToken,
) -> Result<Loop, RecoverFailure> {
    let Inputs { token, lease, claimed, members, runners } = inputs;
    let Opened { log, live, ahead, session_timeout } =
        storage.open(cancel).await.map_err(RecoverFailure::Log)?;
    config.drill.hold("dispatcher.recover").await;
    let warm = ahead.is_some();
    let replayed = aside(move || match ahead {
        Some(ahead) => ahead.finish(),
        None => Database::replay(live),
    });
    let replayed = replayed.await?;
    let mut db = replayed.map_err(|error| RecoverFailure::Unreadable(chain(&error)))?;
    if config.drill.plants(Bug::TickTwice) {
        decide_again(&mut db, token.epoch);
    }
    db.granted(config.fence_after);
    if db.is_dirty() {
        // No heartbeat may be answered before the log says how long the right to run is at most.
        let commit = log.append(db.take_changes()).map_err(|error| RecoverFailure::Log(error.to_string()))?;
        match tokio::time::timeout(FIRST_COMMIT, commit).await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => return Err(RecoverFailure::Log(failure.to_string())),
            Err(_) => return Err(RecoverFailure::Log(format!("nothing committed within {FIRST_COMMIT:?}"))),
        }
    }
    let granted = db.meta().usual();
    let fence = Fence::new(claimed, session_timeout, granted, config.drift);
    let settings = Settings {
        token,
        fence_after: config.fence_after,
        retention: config.retention,
        queue_tasks_max: config.queue_tasks_max,
        payload_inline_max: config.payload_inline_max,
        priority_ageing: config.priority_ageing,
    };
    let now = Now { at: config.clock.now(), wall_ms: config.clock.wall().0 };
    let rng = StdRng::seed_from_u64(config.rng_seed ^ token.epoch.0);
    let fresh = config.heartbeat * FRESH_BEATS;
    tracing::debug!("the database is there");
    let core = aside(move || Core::recover(settings, db, fence, fresh, rng, now)).await?;
    tracing::info!(epoch = %token.epoch, warm, open = core.open.len(), queued = core.queue.len(), "the task log is replayed");

    let clients = Arc::new(Clients::new(runners));
    let (events_in, events) = mpsc::channel(EVENTS_MAX);
    let (reports_in, reports) = mpsc::channel(EVENTS_MAX);
    let (failed, failures) = watch::channel(None);
    let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
    let parts = Parts {
        node: config.node.clone(),
        token,
        lease,
        clock: Arc::clone(&config.clock),
        log,
        append_bytes_max: config.append_bytes_max,
        clients: Arc::clone(&clients),
        members,
        events,
        reports,
        failed,
        drain: drain.clone(),
        stop: stop.clone(),
        pulse: config.pulse.clone(),
        drill: config.drill.clone(),
    };
    let mut driver = Driver::new(core, parts);
    driver.survey(SURVEY).await;
    let mut tasks = JoinSet::new();
    config.enter(PhaseId::Dispatching);
    config.drill.record(config.clock.now(), || format!("open dispatcher id={}", token.epoch.0));
    tasks.spawn(config.pulse.watch("its loop", driver.run()));
    let handle = Handle {
        node: config.node.clone(),
        events: events_in,
        reports: reports_in,
        submissions: Arc::new(Semaphore::new(SUBMISSIONS_KIB_MAX as usize)),
        failed: failures,
        clients,
    };
    Ok(Loop { epoch: token.epoch, handle, tasks, drain, stop, config: config.clone() })
}

/// What takes long with a million tasks, on a thread of its own: here it would keep everybody else waiting, and whoever
/// watches from outside would take it for a hang. Given up, it comes to its end, and nobody sees what it computed.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, RecoverFailure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| RecoverFailure::Unreadable(format!("its replay crashed: {error}")))
}

/// Ends the loop and closes the storage, within `within`.
pub(crate) async fn stop(mut work: Loop, storage: Box<dyn Storage>, within: Duration) -> Report {
    let until = tokio::time::Instant::now() + within;
    let mut problems = Vec::new();
    work.config.drill.hold("dispatcher.stop").await;
    tracing::debug!("the dispatcher is stopping");
    work.stop.cancel();
    // Half of the time is the loop's, the rest the storage's.
    match tokio::time::timeout(within / 2, work.tasks.join_next()).await {
        Ok(Some(Err(error))) => problems.push(format!("the dispatcher's loop ended unexpectedly: {error}")),
        Ok(_) => {}
        Err(_) => {
            problems
                .push(format!("the dispatcher's loop did not end within {:?} and was aborted", within / 2));
            work.tasks.shutdown().await;
        }
    }
    tracing::debug!("the dispatcher's loop has ended");
    let left = until.saturating_duration_since(tokio::time::Instant::now());
    if let Err(problem) = storage.close(left).await {
        problems.push(problem);
    }
    work.config.enter(PhaseId::Stopped);
    let Loop { epoch, config, .. } = &work;
    config.drill.record(config.clock.now(), || format!("close dispatcher id={}", epoch.0));
    Report { problems }
}

/// Gives back what a failed recovery had opened.
pub(crate) async fn unwind(storage: Box<dyn Storage>) {
    if let Err(problem) = storage.close(UNWIND).await {
        tracing::warn!(problem, "after a failed recovery");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
