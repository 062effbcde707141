//! From a directory that somebody may have left in a hurry to a clean one.
//!
//! Each step is awaited to its end even when the boot is cancelled, so that nothing goes on behind the failure.

use std::fs;
use std::io;
use std::time::{Duration, SystemTime};

use futures::future::join_all;
use proto::runner::Outcome;
use proto::task::AttemptEnd;
use proto::{AttemptId, Incarnation};
use tokio::time;
use tokio_util::sync::CancellationToken;

use crate::adopt::Adopted;
use crate::error::BootFailure;
use crate::ledger::Ledger;
use crate::leftovers::{self, Leftover};
use crate::options::Options;
use crate::process::blocking;
use crate::refusals::Refusals;
use crate::shim::wire::Order;
use crate::store::{self, Lives, OpenError, Store};

/// How long shims are given to end their trees themselves.
const ASKED_FIRST: Duration = Duration::from_millis(500);
/// How long a shim is given to say how it stands: far more than it needs, on a machine that is busy.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1_500);
/// For how long somebody else may hold the directory.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A clean directory, and what is known from it.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) store: Store,
    pub(crate) ended: Vec<Incarnation>,
    /// What a predecessor left, and goes on.
    pub(crate) adopted: Vec<Adopted>,
    pub(crate) ledger: Ledger,
    pub(crate) refusals: Refusals,
}

/// Takes the directory over.
pub(crate) async fn prepare(options: &Options, cancel: &CancellationToken) -> Result<Ground, BootFailure> {
    options.check()?;
    let go_on = || if cancel.is_cancelled() { Err(BootFailure::Cancelled) } else { Ok(()) };
    let disk = |what| move |source| BootFailure::Disk { what, dir: options.data_dir.clone(), source };
    go_on()?;
    let asked = time::Instant::now();
    let store = loop {
        let dir = options.data_dir.clone();
        match blocking(move || Ok(Store::open(&dir))).await.map_err(disk("open the runner's directory"))? {
            Ok(store) => break store,
            // A shim that a killed predecessor was just starting holds the lock until it executes.
            Err(OpenError::InUse) if asked.elapsed() < LOCK_PATIENCE => {}
            Err(OpenError::InUse) => return Err(BootFailure::InUse { dir: options.data_dir.clone() }),
            Err(OpenError::Io(source)) => return Err(disk("open the runner's directory")(source)),
        }
        go_on()?;
        time::sleep(LOOK_AGAIN).await;
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = options.drill.hold("runner.boot") => {}
    }
    go_on()?;
    let (machine_id, incarnation) = (options.machine_id.clone(), options.incarnation);
    let mut lives = {
        let store = store.clone();
        blocking(move || begin(&store, &machine_id, incarnation)).await.map_err(disk("begin a new life"))?
    };
    go_on()?;
    let Found { mut leftovers, unacknowledged, mut acknowledged } = {
        let store = store.clone();
        blocking(move || scan(&store)).await.map_err(disk("read the attempts"))?
    };
    let adopted = if options.adopt { adopt(&store, &mut leftovers).await } else { Vec::new() };
    go_on()?;
    if !adopted.is_empty() {
        tracing::info!(attempts = adopted.len(), "going on with what a predecessor left running");
    }
    if !leftovers.is_empty() {
        tracing::warn!(attempts = leftovers.len(), "a predecessor crashed: ending what it left running");
        end(&store, &leftovers, options.leftovers_deadline, cancel).await?;
    }
    go_on()?;
    let now_ms = options.clock.wall().0;
    let concluded = {
        let (store, leftovers) = (store.clone(), std::mem::take(&mut leftovers));
        blocking(move || {
            let _held = store;
            leftovers.iter().map(|leftover| conclude(leftover, now_ms)).collect::<io::Result<Vec<_>>>()
        })
        .await
        .map_err(disk("record the ends of a predecessor's attempts"))?
    };
    go_on()?;
    lives.end_predecessors();
    let ended = lives.ended.clone();
    let refusals = {
        let store = store.clone();
        blocking(move || {
            store::write_durably(&store.lives(), &lives)?;
            Refusals::load(&store.refused())
        })
        .await
        .map_err(disk("record that a predecessor has ended"))?
    };
    let mut ledger = Ledger::new(options.retention);
    let on_disk = |outcome: &Outcome| outcome.output_bytes.min(options.output_bytes_max) + 4096;
    acknowledged.sort_by_key(|(_, at)| *at);
    for (outcome, _) in acknowledged {
        let bytes = on_disk(&outcome);
        ledger.retain(outcome, bytes);
    }
    for outcome in unacknowledged.into_iter().chain(concluded) {
        let bytes = on_disk(&outcome);
        ledger.ended(outcome, Some(bytes));
    }
    Ok(Ground { store, ended, adopted, ledger, refusals })
}

fn begin(store: &Store, machine_id: &str, incarnation: Incarnation) -> io::Result<Lives> {
    let old = match store::read(&store.lives()) {
        Ok(lives) => Some(lives),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let (lives, ours) = Lives::begin(old, machine_id, incarnation);
    if !ours {
        tracing::warn!(
            "this directory was copied from another machine: its attempts are that one's, and are removed"
        );
        fs::remove_dir_all(store.attempts())?;
        fs::create_dir(store.attempts())?;
    }
    // On disk before anything runs: a successor must know whose leftovers it ends.
    store::write_durably(&store.lives(), &lives)?;
    Ok(lives)
}

struct Found {
    leftovers: Vec<Leftover>,
    unacknowledged: Vec<Outcome>,
    acknowledged: Vec<(Outcome, SystemTime)>,
}

fn scan(store: &Store) -> io::Result<Found> {
    let mut found = Found { leftovers: Vec::new(), unacknowledged: Vec::new(), acknowledged: Vec::new() };
    for attempt in store.list()? {
        let dir = store.attempt(attempt);
        match store.outcome(attempt)? {
            None => found.leftovers.push(Leftover::take(attempt, dir)?),
            Some((outcome, false)) => found.unacknowledged.push(outcome),
            Some((outcome, true)) => {
                let at = fs::metadata(dir.join(store::DONE))?.modified()?;
                found.acknowledged.push((outcome, at));
            }
        }
    }
    found.unacknowledged.sort_by_key(|outcome| outcome.ended_ms);
    Ok(found)
}

/// Takes those out of the leftovers whose shims answer. All are asked at once: only one that does not answer takes long.
async fn adopt(store: &Store, leftovers: &mut Vec<Leftover>) -> Vec<Adopted> {
    let asked = std::mem::take(leftovers).into_iter().map(|leftover| {
        let store = store.clone();
        async move {
            let (asked, attempt) = (leftover.clone(), leftover.attempt);
            let answer = blocking(move || {
                let _held = store;
                asked.standing(ANSWERS_WITHIN)
            });
            let adopted = answer.await.unwrap_or_else(|error| {
                tracing::debug!(%attempt, %error, "its shim does not say how it stands");
                None
            });
            adopted.ok_or(leftover)
        }
    });
    let mut adopted = Vec::new();
    for answer in join_all(asked).await {
        match answer {
            Ok(living) => adopted.push(living),
            Err(leftover) => leftovers.push(leftover),
        }
    }
    adopted
}

/// Returns when nothing of the leftovers runs any more.
async fn end(
    store: &Store,
    leftovers: &[Leftover],
    within: Duration,
    cancel: &CancellationToken,
) -> Result<(), BootFailure> {
    let lost = AttemptEnd::Lost { reason: "its node's daemon was restarted".to_owned() };
    let started = time::Instant::now();
    let mut asked = false;
    loop {
        let (batch, kill, lost) = (leftovers.to_vec(), started.elapsed() >= ASKED_FIRST, lost.clone());
        let (store, ask) = (store.clone(), !std::mem::replace(&mut asked, true));
        let left = blocking(move || {
            let _held = store;
            if ask {
                batch.iter().for_each(|leftover| leftover.tell(&Order::Kill { end: lost.clone() }));
            }
            if kill {
                leftovers::kill(&batch)?;
            }
            leftovers::survivors(&batch)
        })
        .await;
        if left.as_ref().is_ok_and(Vec::is_empty) {
            return Ok(());
        }
        if started.elapsed() >= within {
            return Err(match left {
                Ok(left) => {
                    let pids = left.iter().take(10).map(|id| id.pid).collect();
                    BootFailure::Leftovers { count: left.len(), pids, after: within }
                }
                // Whoever cannot be looked for cannot be declared gone.
                Err(source) => BootFailure::Disk {
                    what: "look for the processes of a predecessor",
                    dir: "/proc".into(),
                    source,
                },
            });
        }
        tokio::select! {
            () = cancel.cancelled() => return Err(BootFailure::Cancelled),
            () = time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// The shim's own record, or one in its place.
fn conclude(leftover: &Leftover, now_ms: u64) -> io::Result<Outcome> {
    let path = leftover.dir.join(store::EXIT);
    if let Some(outcome) = store::read_whole(&path)? {
        return Ok(outcome);
    }
    let outcome = lost(leftover.attempt, now_ms);
    store::write_durably(&path, &outcome)?;
    Ok(outcome)
}

fn lost(attempt: AttemptId, now_ms: u64) -> Outcome {
    let end = AttemptEnd::Lost { reason: "its node's daemon was restarted".to_owned() };
    Outcome { attempt, end, started_ms: None, ended_ms: now_ms, output_bytes: 0, checkpoint: None }
}
