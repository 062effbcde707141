//! The head start of a node that is about to lead: whoever hands over has it read the task log first, so that nothing but
//! what is new has to be read while nobody dispatches.

use std::sync::Arc;
use std::time::Duration;

use clock::Instant;
use dispatcher::Standby;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::supervisor::chain;
use crate::wiring::Parts;

/// How long reading the log may take. A million tasks take some seconds.
pub(crate) const READ_WITHIN: Duration = Duration::from_secs(20);

/// How often what is new is read.
const FOLLOW_EVERY: Duration = Duration::from_millis(5);

/// For how long a head start is kept for a term that may not come.
const KEPT: Duration = Duration::from_secs(10);

/// How long a term waits for it. Mostly it is there at once; whoever waits longer than this could have read for itself.
const TAKE_WITHIN: Duration = Duration::from_millis(100);

/// For its session to be closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What may be asked at a time.
const WANTED_MAX: usize = 8;

#[derive(Debug)]
enum Wanted {
    Prepare(oneshot::Sender<Result<(), String>>),
    Take(oneshot::Sender<Option<Standby>>),
}

/// Asks for it. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct HeadStart(mpsc::Sender<Wanted>);

/// The one that reads; see [`run`].
#[derive(Debug)]
pub(crate) struct Reader(mpsc::Receiver<Wanted>);

pub(crate) fn new() -> (HeadStart, Reader) {
    let (wants, wanted) = mpsc::channel(WANTED_MAX);
    (HeadStart(wants), Reader(wanted))
}

impl HeadStart {
    /// Has the log read, and followed for a while.
    ///
    /// # Errors
    /// It could not be read, in words.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the request back.
    pub(crate) async fn prepare(&self) -> Result<(), String> {
        let (reply, answer) = oneshot::channel();
        let busy = |_| "this node is asked too often".to_owned();
        self.0.try_send(Wanted::Prepare(reply)).map_err(busy)?;
        let answer = tokio::time::timeout(READ_WITHIN, answer).await;
        answer.map_or_else(
            |_| Err(late()),
            |answer| answer.unwrap_or_else(|_| Err("this node is stopping".to_owned())),
        )
    }

    /// Takes what was read, for a term that begins.
    ///
    /// # Cancel safety
    /// Dropping the future gives it up.
    pub(crate) async fn take(&self) -> Option<Standby> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(Wanted::Take(reply)).ok()?;
        tokio::time::timeout(TAKE_WITHIN, answer).await.ok()?.ok()?
    }
}

/// Reads and follows on demand, until `stop`.
///
/// # Cancel safety
/// Dropping it abandons its session, which fences nothing.
pub(crate) async fn run(parts: Arc<Parts>, reader: Reader, stop: CancellationToken) {
    let Reader(mut wanted) = reader;
    let mut known: Option<(Standby, Instant)> = None;
    loop {
        let want = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            want = wanted.recv() => match want {
                Some(want) => want,
                None => break,
            },
            () = tokio::time::sleep(FOLLOW_EVERY), if known.is_some() => {
                known = follow(&parts, known.take()).await;
                continue;
            }
        };
        match want {
            Wanted::Take(reply) => {
                // Whoever has given up waiting must not take the session down with it.
                if let Err(Some(unwanted)) = reply.send(known.take().map(|(standby, _)| standby)) {
                    unwanted.close(CLOSE_WITHIN).await;
                }
            }
            Wanted::Prepare(reply) => {
                let read = tokio::select! {
                    biased;
                    () = stop.cancelled() => break,
                    read = tokio::time::timeout(READ_WITHIN, prepare(&parts, known.take().map(|(standby, _)| standby))) => {
                        read.unwrap_or_else(|_| Err(late()))
                    }
                };
                let answer = read.map(|standby| known = Some((standby, parts.clock.now())));
                // Whoever asked may not wait any more; the term comes all the same.
                let _ = reply.send(answer);
            }
        }
    }
    if let Some((standby, _)) = known {
        standby.close(CLOSE_WITHIN).await;
    }
}

fn late() -> String {
    format!("the task log was not read within {READ_WITHIN:?}")
}

async fn prepare(parts: &Parts, known: Option<Standby>) -> Result<Standby, String> {
    if let Some(mut standby) = known {
        match standby.follow().await {
            Ok(_) => return Ok(standby),
            Err(_) => standby.close(CLOSE_WITHIN).await,
        }
    }
    let mut standby = Standby::read(&parts.dispatcher_options()).await.map_err(|error| chain(&error))?;
    // What came meanwhile is as much as this took; what comes while that is read is little.
    standby.follow().await.map_err(|error| chain(&error))?;
    Ok(standby)
}

/// Reads on, or gives it up when its time is over.
async fn follow(parts: &Parts, known: Option<(Standby, Instant)>) -> Option<(Standby, Instant)> {
    let (mut standby, since) = known?;
    let over = parts.clock.now().since(since) >= KEPT;
    match standby.follow().await {
        Ok(_) if !over => Some((standby, since)),
        result => {
            if let Err(error) = result {
                tracing::info!(error = %chain(&error), "what was read ahead of the task log is of no use any more");
            }
            standby.close(CLOSE_WITHIN).await;
            None
        }
    }
}
