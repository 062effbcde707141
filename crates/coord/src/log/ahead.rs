//! Reading: the whole log, or what has come since it was last read.
//!
//! Whoever may lead next reads it while another still writes it. What was read so is no more than a head start: it is
//! believed once a segment of one's own stands behind it, as everything that is replayed ([`TaskLog::open`]).
//!
//! [`TaskLog::open`]: super::TaskLog::open

use std::collections::BTreeSet;

use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::yield_now;

use super::codec::{self, Header};
use super::index::Index;
use super::names::{self, Names};
use super::store::{ReadError, Store};
use super::{Changed, Live};
use crate::{Layout, Link};

/// Segments that are worked off before others have their turn.
const YIELD_EVERY: u64 = 16;

/// Segments read at a time.
const READ_AT_A_TIME: usize = 16;

/// The log as far as it has been read.
#[derive(Debug)]
pub struct Ahead {
    log: String,
    pub(super) index: Index,
    /// The latest term that wrote any of it.
    pub(super) latest: u64,
    /// The newest segment that was read.
    tail: Option<Seen>,
    /// Keys that have changed since [`live`](Self::live) or [`take_changed`](Self::take_changed).
    pub(super) changed: BTreeSet<u128>,
}

/// A segment that was read, and what tells it from another one of the same number, in the log of another ensemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    header: Header,
    crc: u32,
}

/// Why the log could not be read on.
#[derive(Debug)]
pub(super) enum AheadError {
    /// It was cleaned meanwhile, or is not the one that was read: read it from its beginning.
    Moved,
    /// It cannot be what anybody wrote.
    Corrupt(String),
    Read(ReadError),
}

impl std::fmt::Display for AheadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Moved => f.write_str("the task log has been cleaned beyond what was read, or was replaced"),
            Self::Corrupt(why) => f.write_str(why),
            Self::Read(error) => write!(f, "the task log could not be read: {error:?}"),
        }
    }
}

/// The log could not be read ahead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadAheadError(String);

impl From<AheadError> for ReadAheadError {
    fn from(error: AheadError) -> Self {
        Self(error.to_string())
    }
}

impl Ahead {
    pub(super) fn new(log: &str) -> Self {
        Self { log: log.to_owned(), index: Index::new(1), latest: 0, tail: None, changed: BTreeSet::new() }
    }

    /// Reads the log under `layout`, which another may be writing.
    ///
    /// # Errors
    /// It cannot be read, or is cleaned faster than that: try again later.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn read(link: &Link, layout: &Layout) -> Result<(Self, Vec<Live>), ReadAheadError> {
        let mut ahead = Self::new(&layout.log_dir());
        ahead.advance(link).await?;
        ahead.changed.clear();
        let live = ahead.index.live();
        let live = live.map(|(key, revision, body)| Live { key, revision, body: body.clone() }).collect();
        Ok((ahead, live))
    }

    /// Reads what has been added. Returns how many segments that were; none as soon as there is nothing new.
    ///
    /// # Errors
    /// What was read is of no use any more: [`read`](Self::read) again.
    ///
    /// # Cancel safety
    /// Safe: what was read is kept.
    pub async fn follow(&mut self, link: &Link) -> Result<usize, ReadAheadError> {
        self.follow_on(link).await.map_err(ReadAheadError::from)
    }

    pub(super) async fn follow_on(&mut self, store: &dyn Store) -> Result<usize, AheadError> {
        let mut count = 0;
        loop {
            // A list of the names would weigh more than what is new.
            let sequence = self.index.next();
            let path = names::segment(&self.log, sequence);
            let Some(node) = store.get(&path).await.map_err(AheadError::Read)? else { return Ok(count) };
            let header = self.take(sequence, node.data)?;
            if !self.index.forget_before(header.oldest) {
                return Err(AheadError::Moved);
            }
            count += 1;
        }
    }

    /// What has changed since it was last asked for, by key.
    pub fn take_changed(&mut self) -> Vec<Changed> {
        let changed = std::mem::take(&mut self.changed);
        states(&self.index, changed)
    }

    /// Reads on up to the tail, and sees that nothing is missing.
    pub(super) async fn advance(&mut self, store: &dyn Store) -> Result<(), AheadError> {
        store.sync(&self.log).await.map_err(AheadError::Read)?;
        let directory = store.get(&self.log).await.map_err(AheadError::Read)?;
        let children = store.children(&self.log).await.map_err(AheadError::Read)?;
        let mut sequences: Vec<u64> = children.iter().filter_map(|name| Names::sequence(name)).collect();
        sequences.sort_unstable();

        let (Some(&first), Some(&last)) = (sequences.first(), sequences.last()) else {
            if self.tail.is_some() {
                return Err(AheadError::Moved);
            }
            if directory.is_some_and(|node| node.version > 0) {
                return Err(AheadError::Corrupt(
                    "segments have been written, and all of them are gone".to_owned(),
                ));
            }
            return Ok(());
        };
        if let Some(pair) = sequences.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
            let missing = names::segment(&self.log, pair[0] + 1);
            return Err(AheadError::Corrupt(format!("{missing} is missing, and later segments are there")));
        }
        match self.tail {
            None => self.index = Index::new(first),
            Some(tail) => {
                // Were it cleaned away already, nothing would say any more that it was this log.
                if !(first..=last).contains(&tail.header.sequence)
                    || self.reread(store, tail.header.sequence).await? != tail
                {
                    return Err(AheadError::Moved);
                }
            }
        }
        self.read_up_to(store, first, last).await?;
        // The tail says which one the oldest is.
        let oldest = self.tail.map_or(first, |tail| tail.header.oldest);
        if oldest != first {
            let (should, does) = (names::segment(&self.log, oldest), names::segment(&self.log, first));
            return Err(AheadError::Corrupt(format!("it should begin at {should} and begins at {does}")));
        }
        if !self.index.forget_before(first) {
            return Err(AheadError::Moved);
        }
        Ok(())
    }

    async fn reread(&self, store: &dyn Store, sequence: u64) -> Result<Seen, AheadError> {
        let path = names::segment(&self.log, sequence);
        let node = store.get(&path).await.map_err(AheadError::Read)?.ok_or(AheadError::Moved)?;
        decode(&path, sequence, &node.data).map(|(seen, _)| seen)
    }

    async fn read_up_to(&mut self, store: &dyn Store, first: u64, last: u64) -> Result<(), AheadError> {
        let log = self.log.clone();
        let mut reads = stream::iter(self.index.next().max(first)..=last)
            .map(|sequence| {
                let path = names::segment(&log, sequence);
                async move { store.get(&path).await.map(|node| (sequence, node)).map_err(AheadError::Read) }
            })
            .buffered(READ_AT_A_TIME);
        while let Some((sequence, node)) = reads.try_next().await? {
            // The deposed term may clean until it hears of this one.
            let Some(node) = node else { return Err(AheadError::Moved) };
            self.take(sequence, node.data)?;
            // Answers that come as fast as they are worked off would make thousands of segments one poll, and that a hang.
            if sequence % YIELD_EVERY == 0 {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// Puts a segment behind those that were read.
    fn take(&mut self, sequence: u64, data: Vec<u8>) -> Result<Header, AheadError> {
        let path = names::segment(&self.log, sequence);
        let (seen, records) = decode(&path, sequence, &data)?;
        let header = seen.header;
        self.latest = self.latest.max(header.epoch);
        self.index.begin_segment();
        for record in records {
            let key = record.key;
            let before = self.index.state(key).map(|(revision, _)| revision);
            let revision = record.revision;
            // What the cleaner has only moved is what it was.
            if self.index.apply(record) && before != Some(revision) {
                self.changed.insert(key);
            }
        }
        self.index.end_segment(data.len());
        self.tail = Some(seen);
        Ok(header)
    }
}

/// The states of `keys`, gone ones too.
pub(super) fn states(index: &Index, keys: BTreeSet<u128>) -> Vec<Changed> {
    let state = |key| index.state(key).map(|(revision, body)| (revision, body.clone()));
    keys.into_iter().map(|key| Changed { key, state: state(key) }).collect()
}

fn decode(path: &str, sequence: u64, data: &[u8]) -> Result<(Seen, Vec<codec::Record>), AheadError> {
    let decoded = codec::decode(data);
    let (header, records) =
        decoded.map_err(|error| AheadError::Corrupt(format!("{path} cannot be read: {error}")))?;
    if header.sequence != sequence {
        return Err(AheadError::Corrupt(format!("{path} says that it is segment {}", header.sequence)));
    }
    Ok((Seen { header, crc: crc32fast::hash(data) }, records))
}
