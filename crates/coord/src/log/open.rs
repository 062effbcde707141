//! Opening: read everything, then commit a segment of one's own, and only then believe what was read.
//!
//! A deposed ZooKeeper leader goes on answering `sync` and reads, with a log shorter than the real one. The opening
//! segment settles it: it is created behind the tail that was read, which fails when there is more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::ahead::{Ahead, AheadError};
use super::body;
use super::codec::{Encoder, Header};
use super::core::Sealed;
use super::error::OpenError;
use super::index::Index;
use super::names::{CHAIN, CREATE, FENCE, Leave, Names};
use super::store::{ReadError, Refusal, Store, Why};

/// How long opening may take, replay included.
const WITHIN: Duration = Duration::from_secs(60);

/// Pause before a read that failed while connected is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// An open log: its state up to and including the opening segment.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Index,
    /// What has changed since it was read ahead, if that could be gone on from.
    pub(super) changed: Option<BTreeSet<u128>>,
    pub(super) body_bytes: u64,
    /// Sequence of the opening segment.
    pub(super) opening: u64,
}

/// Why one try did not do.
pub(super) enum Setback {
    /// What was read is not what there is (any more): read again.
    Stale,
    /// Not connected, no answer in time, or outside of the lease.
    Lost,
    Fatal(OpenError),
}

/// Replays the log, from where it was read ahead if it was, and commits the opening segment of this term.
pub(super) async fn open(
    store: &Arc<dyn Store>,
    names: &Names,
    mut ahead: Option<Ahead>,
) -> Result<Opened, OpenError> {
    let tries = async {
        loop {
            if !store.up().await {
                return Err(OpenError::SessionEnded);
            }
            match names.leave() {
                Leave::Granted => {}
                Leave::Over => return Err(OpenError::LeaseOver),
                // Reading it all, again and again, to be refused at the end would not help whoever is slow.
                Leave::Lapsed => {
                    sleep(RETRY).await;
                    continue;
                }
            }
            match attempt(&**store, names, ahead.take()).await {
                Ok(opened) => return Ok(opened),
                Err(Setback::Stale) => {
                    tracing::info!(log = names.log, "the task log has moved on: reading again")
                }
                Err(Setback::Lost) => {}
                Err(Setback::Fatal(error)) => return Err(error),
            }
            sleep(RETRY).await;
        }
    };
    let late = OpenError::Timeout { path: names.log.clone(), within: WITHIN };
    timeout(WITHIN, tries).await.unwrap_or(Err(late))
}

async fn attempt(store: &dyn Store, names: &Names, ahead: Option<Ahead>) -> Result<Opened, Setback> {
    let (read, warm) = match ahead {
        Some(mut ahead) => match ahead.advance(store).await {
            Ok(()) => (ahead, true),
            Err(error) => {
                let why = error.to_string();
                tracing::info!(
                    why,
                    "what was read ahead is of no use: reading the task log from its beginning"
                );
                (whole(store, names).await?, false)
            }
        },
        None => (whole(store, names).await?, false),
    };
    let Ahead { mut index, latest, changed, .. } = read;
    let changed = warm.then_some(changed);
    if latest > names.epoch as u64 {
        return Err(Setback::Fatal(outranked(store, names, latest).await?));
    }
    let body_bytes =
        body::stored_bytes(store, &names.bodies).await.map_err(|error| read_failed(names, error))?;
    index.begin_segment();
    let opening = index.next() - 1;
    let header = Header {
        epoch: names.epoch as u64,
        writer: store.writer(),
        sequence: opening,
        oldest: index.oldest(),
    };
    let bytes = Encoder::new().finish(header);
    index.end_segment(bytes.len());
    let sealed = Sealed { sequence: opening, bytes, deletes: opening..opening };
    if !names.lets_out() {
        return Err(match names.leave() {
            Leave::Over => Setback::Fatal(OpenError::LeaseOver),
            Leave::Lapsed | Leave::Granted => Setback::Lost,
        });
    }
    match store.submit(names.commit(&sealed)).await {
        Ok(()) => Ok(Opened { index, changed, body_bytes, opening }),
        Err(Refusal::Rejected { step: FENCE, why: Why::BadVersion | Why::NoNode }) => {
            Err(Setback::Fatal(OpenError::Deposed))
        }
        Err(Refusal::Rejected { step: CHAIN, why: Why::NoNode | Why::BadVersion })
        | Err(Refusal::Rejected { step: CREATE, why: Why::NodeExists }) => Err(Setback::Stale),
        Err(Refusal::Rejected { step, why }) => {
            let why = format!("step {step} of the opening segment: {why:?}");
            Err(Setback::Fatal(OpenError::Refused { path: names.log.clone(), why }))
        }
        // Written or not: the next try reads it, or writes it.
        Err(Refusal::Lost) => Err(Setback::Lost),
        Err(Refusal::Ended) => Err(Setback::Fatal(OpenError::SessionEnded)),
    }
}

/// A segment of a later term: either this term has passed, or the epoch went backwards and fences nobody any more.
async fn outranked(store: &dyn Store, names: &Names, latest: u64) -> Result<OpenError, Setback> {
    let epoch = store.get(&names.epoch_path).await.map_err(|error| read_failed(names, error))?;
    if epoch.is_none_or(|epoch| epoch.version != names.epoch) {
        return Ok(OpenError::Deposed);
    }
    let (epoch_path, ours) = (&names.epoch_path, names.epoch);
    let why = format!("it has segments of term {latest}, and {epoch_path} is at {ours}: it was made anew");
    Ok(OpenError::Corrupt { path: names.log.clone(), why })
}

async fn whole(store: &dyn Store, names: &Names) -> Result<Ahead, Setback> {
    let mut read = Ahead::new(&names.log);
    match read.advance(store).await {
        Ok(()) => Ok(read),
        Err(AheadError::Moved) => Err(Setback::Stale),
        Err(AheadError::Corrupt(why)) => {
            Err(Setback::Fatal(OpenError::Corrupt { path: names.log.clone(), why }))
        }
        Err(AheadError::Read(error)) => Err(read_failed(names, error)),
    }
}

fn read_failed(names: &Names, error: ReadError) -> Setback {
    match error {
        ReadError::Lost => Setback::Lost,
        ReadError::Ended => Setback::Fatal(OpenError::SessionEnded),
        ReadError::Refused(why) => Setback::Fatal(OpenError::Refused { path: names.log.clone(), why }),
    }
}
