//! The whole log over a service in memory, on paused time.

mod ahead;
mod faults;
mod model;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::memory::{Session, World};
use super::names::Names;
use super::{Ahead, Change, Changed, Commit, CommitError, Live, LogOptions, OpenError, Replayed, TaskLog};

fn options() -> LogOptions {
    LogOptions {
        segment_bytes_max: 1024,
        in_flight: 4,
        linger: Duration::from_millis(1),
        queue_bytes_max: 64 * 1024,
        budget_bytes: 64 * 1024,
        reserve_bytes: 8 * 1024,
    }
}

fn names(epoch: i32) -> Names {
    Names {
        log: "/tasks".into(),
        bodies: "/tasks/bodies".into(),
        epoch_path: "/epoch".into(),
        epoch,
        lease: None,
        drill: drill::Drill::none(),
        pulse: pulse::Pulse::default(),
    }
}

async fn open_with(
    session: &Session,
    epoch: i32,
    options: LogOptions,
) -> Result<(TaskLog, Vec<Live>), OpenError> {
    let names = names(epoch);
    let (log, replayed) = TaskLog::open_on(Arc::new(session.clone()), names, options, None).await?;
    let Replayed::Whole(live) = replayed else { panic!("nothing was read ahead: {replayed:?}") };
    Ok((log, live))
}

async fn open_at(session: &Session, epoch: i32) -> Result<(TaskLog, Vec<Live>), OpenError> {
    open_with(session, epoch, options()).await
}

/// A new term on a session of its own.
async fn term_with(world: &World, options: LogOptions) -> (Session, TaskLog, Vec<Live>) {
    let session = Session::new(world);
    let (log, live) = open_with(&session, world.elect(), options).await.unwrap();
    (session, log, live)
}

async fn term(world: &World) -> (Session, TaskLog, Vec<Live>) {
    term_with(world, options()).await
}

fn put(key: u128, revision: u64, body: &str) -> Vec<Change> {
    vec![Change { key, revision, body: Some(Bytes::copy_from_slice(body.as_bytes())), urgent: false }]
}

fn gone(key: u128, revision: u64) -> Vec<Change> {
    vec![Change { key, revision, body: None, urgent: true }]
}

fn states(live: &[Live]) -> Vec<(u128, u64)> {
    live.iter().map(|live| (live.key, live.revision)).collect()
}

/// Lets every task run until all of them wait, and half a second of the paused time pass.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// The commit's result, if it has one by now.
fn told(commit: &mut Commit) -> Option<Result<(), CommitError>> {
    futures::FutureExt::now_or_never(commit)
}
