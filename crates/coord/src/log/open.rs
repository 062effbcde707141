//! Opening: read everything, then commit a segment of one's own, and only then believe what was read.
//!
//! A deposed ZooKeeper leader goes on answering `sync` and reads, with a log shorter than the real one. The opening
//! segment settles it: it is created behind the tail that was read, which fails when there is more.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::body;
use super::codec::{self, Encoder, Header};
use super::core::Sealed;
use super::error::OpenError;
use super::index::Index;
use super::names::{CHAIN, CREATE, FENCE, Leave, Names};
use super::store::{ReadError, Refusal, Store, Why};

/// Segments that are worked off before others have their turn.
const YIELD_EVERY: u64 = 16;

/// How long opening may take, replay included.
const WITHIN: Duration = Duration::from_secs(60);

/// Pause before a read that failed while connected is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Segments read at a time.
const READ_AHEAD: usize = 16;

/// An open log: its state up to and including the opening segment.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Index,
    pub(super) body_bytes: u64,
    /// Sequence of the opening segment.
    pub(super) opening: u64,
}

/// Why one try did not do.
enum Setback {
    /// What was read is not what there is (any more): read again.
    Stale,
    /// Not connected, no answer in time, or outside of the lease.
    Lost,
    Fatal(OpenError),
}

/// Replays the log and commits the opening segment of this term.
pub(super) async fn open(store: &Arc<dyn Store>, names: &Names) -> Result<Opened, OpenError> {
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
            match attempt(&**store, names).await {
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

async fn attempt(store: &dyn Store, names: &Names) -> Result<Opened, Setback> {
    let (mut index, latest) = replay(store, names).await?;
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
        Ok(()) => Ok(Opened { index, body_bytes, opening }),
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

/// The log's state, and the latest term that wrote any of it.
async fn replay(store: &dyn Store, names: &Names) -> Result<(Index, u64), Setback> {
    let failed = |error| read_failed(names, error);
    let corrupt = |why| Setback::Fatal(OpenError::Corrupt { path: names.log.clone(), why });
    store.sync(&names.log).await.map_err(failed)?;
    let directory = store.get(&names.log).await.map_err(failed)?;
    let children = store.children(&names.log).await.map_err(failed)?;
    let mut sequences: Vec<u64> = children.iter().filter_map(|name| Names::sequence(name)).collect();
    sequences.sort_unstable();

    let (Some(&first), Some(&tail)) = (sequences.first(), sequences.last()) else {
        let begun = directory.is_some_and(|node| node.version > 0);
        if begun {
            return Err(corrupt("segments have been written, and all of them are gone".to_owned()));
        }
        return Ok((Index::new(1), 0));
    };
    if let Some(pair) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        let missing = names.segment(pair[0] + 1);
        return Err(corrupt(format!("{missing} is missing, and later segments are there")));
    }

    let mut index = Index::new(first);
    let mut latest = 0;
    let mut reads = stream::iter(sequences)
        .map(|sequence| async move {
            let node = store.get(&names.segment(sequence)).await;
            node.map(|node| (sequence, node)).map_err(|error| read_failed(names, error))
        })
        .buffered(READ_AHEAD);
    while let Some((sequence, node)) = reads.try_next().await? {
        // The deposed term may clean until it hears of this one.
        let Some(node) = node else { return Err(Setback::Stale) };
        let path = names.segment(sequence);
        let (header, records) =
            codec::decode(&node.data).map_err(|error| corrupt(format!("{path} cannot be read: {error}")))?;
        if header.sequence != sequence {
            return Err(corrupt(format!("{path} says that it is segment {}", header.sequence)));
        }
        latest = latest.max(header.epoch);
        if sequence == tail && header.oldest != first {
            let oldest = names.segment(header.oldest);
            return Err(corrupt(format!(
                "it should begin at {oldest} and begins at {}",
                names.segment(first)
            )));
        }
        index.begin_segment();
        for record in records {
            index.apply(record);
        }
        index.end_segment(node.data.len());
        // Answers that come as fast as they are worked off would make thousands of segments one poll, and that a hang.
        if sequence % YIELD_EVERY == 0 {
            yield_now().await;
        }
    }
    drop(reads);
    Ok((index, latest))
}

fn read_failed(names: &Names, error: ReadError) -> Setback {
    match error {
        ReadError::Lost => Setback::Lost,
        ReadError::Ended => Setback::Fatal(OpenError::SessionEnded),
        ReadError::Refused(why) => Setback::Fatal(OpenError::Refused { path: names.log.clone(), why }),
    }
}
