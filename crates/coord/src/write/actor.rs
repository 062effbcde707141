//! The write actor: one task per session that owns every write that must not be done twice or left half known.
//!
//! ```text
//! queued ──(connected, room)──▶ submitted ──answer──▶ told
//!    │ caller gone                  │ connection lost
//!    ▼                              ▼
//! forgotten           connected again: sync, read back
//!                       │ done            │ not done
//!                       ▼                 ▼
//!                  told, or undone    submitted again, or forgotten
//!                  if nobody waits    if nobody waits
//! ```
//!
//! Submitting again is safe because "not done" is final: the request was on a connection that the server has since
//! closed, `sync` passes the same pipeline as it would have, and a server that still holds it has lost the session
//! (SessionMoved). A compare-and-set that *was* done and overwritten meanwhile is refused as BadVersion.

use std::task::Poll;
use std::time::Duration;

use drill::Bug;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, poll};
use tokio::sync::mpsc;
use tokio::task::unconstrained;
use zookeeper_client as zk;

use super::read_back::{Fate, read_back};
use super::{Done, Mode, Op, OpResult, QUEUE_MAX, Rejection, Reply, Request, Undo, Write, WriteError};
use crate::session::{another, connected, over};
use crate::{Ended, Link, LinkState, Stat};

/// Writes on their way to the server at the same time: ZooKeeper keeps their order on one connection.
const IN_FLIGHT_MAX: usize = 32;

/// Below jute.maxbuffer (1 MiB less one byte), above which a server drops the connection instead of answering.
const REQUEST_BYTES_MAX: usize = 1_000_000;

/// What one op costs apart from its path and data.
const OP_BYTES: usize = 96;

/// Pause before another try to find out the fate of a write.
const RETRY: Duration = Duration::from_millis(100);

/// How long a loss that only the client knows of may stay unknown to the link.
const NOTICE: Duration = Duration::from_secs(1);

/// Ends with the paths that it had made busy.
type Flight = BoxFuture<'static, Vec<String>>;

/// Runs until the session is over; whoever waits then is told so.
pub(crate) async fn run(link: Link, mut queue: mpsc::Receiver<Request>) {
    let mut state = link.state();
    let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
    // What writes in flight create and may have to delete again: a later write of the same path must not overtake
    // the undoing of an earlier one, or it would be what is undone.
    let mut busy: Vec<String> = Vec::new();
    let mut held: Option<Request> = None;
    let (unwanted, mut returned) = mpsc::channel(QUEUE_MAX);
    let ended = loop {
        let now = *state.borrow_and_update();
        if let LinkState::Ended(ended) = now {
            break ended;
        }
        let connected = now.connection().is_some();
        // Before anything new: whoever gave up is told to be rid of it before it can ask for the same again.
        while let Ok(results) = returned.try_recv() {
            take_back(&link, results, &mut flights, &mut busy);
        }
        if let Some(request) = held.take_if(|held| connected && !conflicts(&busy, &held.write)) {
            launch(&link, request, &unwanted, &mut flights, &mut busy).await;
            continue;
        }
        let room = connected && held.is_none() && flights.len() < IN_FLIGHT_MAX;
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { break Ended::Closed },
            Some(paths) = flights.next(), if !flights.is_empty() => release(&mut busy, &paths),
            Some(results) = returned.recv() => take_back(&link, results, &mut flights, &mut busy),
            request = queue.recv(), if room => match request {
                Some(request) if conflicts(&busy, &request.write) => held = Some(request),
                Some(request) => launch(&link, request, &unwanted, &mut flights, &mut busy).await,
                None => break over(state.clone()).await,
            },
        }
    };
    queue.close();
    for request in held.into_iter().chain(std::iter::from_fn(|| queue.try_recv().ok())) {
        // Nobody to tell means that nobody waits.
        let _ = request.reply.send(Err(WriteError::Ended(ended)));
    }
    // Short: every flight is raced against the end of the session.
    while flights.next().await.is_some() {}
}

/// What a write may have to delete again.
fn undoable(write: &Write) -> Vec<String> {
    let ephemeral = |op: &Op| match op {
        Op::Create { path, mode: Mode::Ephemeral, .. } => Some(path.clone()),
        _ => None,
    };
    match write.undo {
        Undo::Keep => Vec::new(),
        Undo::DeleteOwn => write.ops.iter().filter_map(ephemeral).collect(),
    }
}

/// One entry for each path: the same one may be busy for two reasons.
fn release(busy: &mut Vec<String>, paths: &[String]) {
    for path in paths {
        if let Some(at) = busy.iter().position(|busy| busy == path) {
            busy.swap_remove(at);
        }
    }
}

fn conflicts(busy: &[String], write: &Write) -> bool {
    write.ops.iter().any(|op| matches!(op, Op::Create { path, .. } if busy.contains(path)))
}

async fn launch(
    link: &Link,
    request: Request,
    unwanted: &mpsc::Sender<Vec<OpResult>>,
    flights: &mut FuturesUnordered<Flight>,
    busy: &mut Vec<String>,
) {
    if request.reply.is_closed() {
        tracing::debug!(on = request.write.read_back.path(), "a write is forgotten: its caller has given up");
        return;
    }
    link.drill().polled("coord.write");
    let paths = undoable(&request.write);
    busy.extend_from_slice(&paths);
    // The first poll hands the request to the client: now, whatever tokio thinks of this task's budget, so that the
    // order of the queue is that on the wire.
    let mut flight: Flight = Box::pin(unconstrained(fly(link.clone(), request, unwanted.clone(), paths)));
    match poll!(&mut flight) {
        Poll::Ready(paths) => release(busy, &paths),
        Poll::Pending => flights.push(flight),
    }
}

async fn fly(
    link: Link,
    request: Request,
    unwanted: mpsc::Sender<Vec<OpResult>>,
    paths: Vec<String>,
) -> Vec<String> {
    let Request { write, reply } = request;
    let result = drive(&link, &write, &reply).await;
    let undoes = write.undo == Undo::DeleteOwn && !link.drill().plants(Bug::UndoForgotten);
    let unwanted = undoes.then_some(unwanted);
    if let Err(Ok(done)) = reply.send(result.map(|results| Done { results, unwanted }))
        && undoes
    {
        // Here, and not by way of the queue, so that the paths stay busy until then.
        undo(&link, done.accept()).await;
    }
    paths
}

/// Undoes what its caller did not take. Its paths are busy until then: the delete is tried again when its answer is
/// lost, and must not hit what a later write has created there for somebody who wants it.
fn take_back(
    link: &Link,
    results: Vec<OpResult>,
    flights: &mut FuturesUnordered<Flight>,
    busy: &mut Vec<String>,
) {
    let created = |result: &OpResult| match result {
        OpResult::Created { path, .. } => Some(path.clone()),
        _ => None,
    };
    let paths: Vec<String> = results.iter().filter_map(created).collect();
    busy.extend_from_slice(&paths);
    let link = link.clone();
    flights.push(Box::pin(async move {
        undo(&link, results).await;
        paths
    }));
}

/// Until the fate of the write is known or the session is over.
async fn drive(link: &Link, write: &Write, reply: &Reply) -> Result<Vec<OpResult>, WriteError> {
    let mut state = link.state();
    loop {
        let connection = connected(&mut state).await.map_err(WriteError::Ended)?;
        let client = link.client().map_err(WriteError::Ended)?;
        let answer = tokio::select! {
            biased;
            ended = over(state.clone()) => return Err(WriteError::Ended(ended)),
            answer = commit(&client, &write.ops, link.acls()) => answer,
        };
        // Kept, it would keep the session from closing.
        drop(client);
        match answer {
            Ok(results) => return Ok(results),
            Err(Refusal::Rejected { op, reason }) => return Err(WriteError::Rejected { op, reason }),
            Err(Refusal::Lost) => {}
            Err(Refusal::Ended) => return Err(WriteError::Ended(over(state).await)),
        }
        // A timeout is no error here: not every loss is one of the connection.
        let _ = tokio::time::timeout(NOTICE, another(&mut state, connection)).await;
        loop {
            connected(&mut state).await.map_err(WriteError::Ended)?;
            match read_back(link, write).await {
                Ok(Fate::Done(results)) => {
                    tracing::info!(
                        on = write.read_back.path(),
                        "a write whose answer was lost had been done"
                    );
                    return Ok(results);
                }
                Ok(Fate::NotDone) => break,
                Err(error) => {
                    tracing::warn!(%error, "failed to find out whether a write was done; trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        if reply.is_closed() {
            return Err(WriteError::Unknown);
        }
        tracing::info!(
            on = write.read_back.path(),
            "a write whose answer was lost had not been done: once more"
        );
    }
}

/// Deletes the ephemerals that a write created for a caller that is gone.
async fn undo(link: &Link, results: Vec<OpResult>) {
    for result in results {
        let OpResult::Created { path, .. } = result else { continue };
        loop {
            match delete_own(link, &path).await {
                Ok(deleted) => {
                    tracing::warn!(%path, deleted, "a write was done after its caller had given up: it is undone");
                    break;
                }
                Err(Refusal::Ended) => return,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

/// Whether there was something of ours to delete.
async fn delete_own(link: &Link, path: &str) -> Result<bool, Refusal> {
    let mut state = link.state();
    connected(&mut state).await.map_err(|_| Refusal::Ended)?;
    let stat = link.exists(path).await.map_err(|_| Refusal::Lost)?;
    let Some(stat) = stat.filter(|stat| stat.ephemeral_owner == Some(link.session_id())) else {
        return Ok(false);
    };
    let client = link.client().map_err(|_| Refusal::Ended)?;
    let delete = [Op::Delete { path: path.to_owned(), version: Some(stat.version) }];
    tokio::select! {
        deleted = commit(&client, &delete, link.acls()) => deleted.map(|_| true),
        _ = over(state) => Err(Refusal::Ended),
    }
}

/// Why ops were not committed, or perhaps not.
#[derive(Debug)]
pub(crate) enum Refusal {
    Rejected {
        op: usize,
        reason: Rejection,
    },
    /// The answer is lost.
    Lost,
    Ended,
}

/// One transaction, sent at the first poll, answered whenever the server does or the connection is lost.
pub(crate) async fn commit(
    client: &zk::Client,
    ops: &[Op],
    acls: zk::Acls<'static>,
) -> Result<Vec<OpResult>, Refusal> {
    if let [Op::Create { path, data, mode }] = ops
        && OP_BYTES + path.len() + data.len() <= REQUEST_BYTES_MAX
    {
        // Alone it reports the new node's metadata, which a `multi` of 3.8 does not (ZOOKEEPER-4026).
        let created = client.create(path, data, &create_mode(*mode).with_acls(acls)).await;
        let (stat, sequence) = created.map_err(|error| refusal(0, error))?;
        let sequential = matches!(mode, Mode::EphemeralSequential | Mode::PersistentSequential);
        let path = if sequential { format!("{path}{sequence}") } else { path.clone() };
        return Ok(vec![OpResult::Created { path, stat: stat.into() }]);
    }
    let mut bytes = 0;
    let mut writer = client.new_multi_writer();
    for (op, step) in ops.iter().enumerate() {
        let data = match step {
            Op::Create { data, .. } | Op::Set { data, .. } => data.len(),
            Op::Delete { .. } | Op::Check { .. } => 0,
        };
        bytes += OP_BYTES + step.path().len() + data;
        if bytes > REQUEST_BYTES_MAX {
            return Err(Refusal::Rejected { op, reason: Rejection::TooLarge });
        }
        add(&mut writer, step, acls).map_err(|error| refusal(op, error))?;
    }
    let results = writer.commit().await.map_err(|error| match error {
        zk::MultiWriteError::RequestFailed { source } => refusal(0, source),
        zk::MultiWriteError::OperationFailed { index, source } => refusal(index, source),
    })?;
    let mut done = Vec::with_capacity(results.len());
    for (op, result) in ops.iter().zip(results) {
        let ephemeral = matches!(op, Op::Create { mode: Mode::Ephemeral | Mode::EphemeralSequential, .. });
        done.push(match result {
            zk::MultiWriteResult::Create { path, stat: invalid } if invalid.is_invalid() && !ephemeral => {
                OpResult::Created { path, stat: Stat::default() }
            }
            zk::MultiWriteResult::Create { path, stat: invalid } if invalid.is_invalid() => {
                // The write is done, whatever becomes of this read.
                let stat = client.check_stat(&path).await.ok().flatten();
                OpResult::Created { path, stat: stat.map(Into::into).unwrap_or_default() }
            }
            zk::MultiWriteResult::Create { path, stat } => OpResult::Created { path, stat: stat.into() },
            zk::MultiWriteResult::SetData { stat } => OpResult::Set { version: stat.version },
            zk::MultiWriteResult::Delete => OpResult::Deleted,
            // Nothing else answers what `add` sends; a check is what has no result to report.
            _ => OpResult::Checked,
        });
    }
    Ok(done)
}

fn add(writer: &mut zk::MultiWriter<'_>, op: &Op, acls: zk::Acls<'static>) -> Result<(), zk::Error> {
    match op {
        Op::Create { path, data, mode } => writer.add_create(path, data, &create_mode(*mode).with_acls(acls)),
        Op::Set { path, data, version } => writer.add_set_data(path, data, *version),
        Op::Delete { path, version } => writer.add_delete(path, *version),
        Op::Check { path, version } => writer.add_check_version(path, *version),
    }
}

fn create_mode(mode: Mode) -> zk::CreateMode {
    match mode {
        Mode::Persistent => zk::CreateMode::Persistent,
        Mode::Ephemeral => zk::CreateMode::Ephemeral,
        Mode::EphemeralSequential => zk::CreateMode::EphemeralSequential,
        Mode::PersistentSequential => zk::CreateMode::PersistentSequential,
    }
}

fn refusal(op: usize, error: zk::Error) -> Refusal {
    let reason = match error {
        zk::Error::NodeExists => Rejection::NodeExists,
        zk::Error::NoNode => Rejection::NoNode,
        zk::Error::BadVersion => Rejection::BadVersion,
        zk::Error::NotEmpty => Rejection::NotEmpty,
        zk::Error::NoAuth => Rejection::NoAuth,
        zk::Error::SessionExpired | zk::Error::AuthFailed | zk::Error::ClientClosed => {
            return Refusal::Ended;
        }
        // The client cannot say whether the server got it.
        zk::Error::ConnectionLoss
        | zk::Error::SessionMoved
        | zk::Error::Timeout
        | zk::Error::UnexpectedError(_)
        | zk::Error::UnmarshalError { .. }
        | zk::Error::Custom(_) => return Refusal::Lost,
        other => Rejection::Other(other.to_string()),
    };
    Refusal::Rejected { op, reason }
}
