//! The log as it lies in the service, for people and for copies of it: without a term, without a lease, writing nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::body::{self, BodyRef};
use super::codec;
use super::names::Names;
use crate::{CallError, Layout, Link};

/// How often the list of segments is read again because some of it was cleaned away meanwhile.
const TRIES: usize = 100;

/// A segment, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSegment {
    /// Its place in the log, from its name.
    pub sequence: u64,
    /// Its bytes.
    pub bytes: Bytes,
    /// When the service wrote it: milliseconds since 1970, by the service's clock.
    pub written_ms: i64,
}

/// A segment that could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The term that wrote it.
    pub epoch: u64,
    /// The session that wrote it.
    pub writer: u64,
    /// The place in the log that it says it has.
    pub sequence: u64,
    /// The oldest segment that existed once it was committed.
    pub oldest: u64,
    /// What it holds, in its order.
    pub entries: Vec<Entry>,
}

/// A key's absolute state in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which key.
    pub key: u128,
    /// Which of its states.
    pub revision: u64,
    /// The state, encoded; `None` says that the key is gone.
    pub body: Option<Bytes>,
}

/// A segment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct UnreadableSegment(#[from] codec::DecodeError);

/// Everything under the log's directory at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// In their order; whether one is missing is the reader's to see.
    pub segments: Vec<RawSegment>,
    /// Whether a segment was ever written.
    pub begun: bool,
}

/// The log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadLogError {
    /// The service did not answer.
    #[error("the task log could not be read")]
    Call(#[from] CallError),
    /// Segments went away faster than they were read.
    #[error("the task log at {0} is cleaned faster than it can be read: try again when less is going on")]
    Moving(String),
}

impl Entry {
    /// What it takes up in a segment, in bytes.
    pub fn bytes(&self) -> u64 {
        codec::record_bytes(self.revision, self.body.as_ref().map(Bytes::len)) as u64
    }
}

impl RawSegment {
    /// What is in it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(&self) -> Result<Segment, UnreadableSegment> {
        let (header, records) = codec::decode(&self.bytes)?;
        let entries = records
            .into_iter()
            .map(|record| Entry { key: record.key, revision: record.revision, body: record.body })
            .collect();
        let codec::Header { epoch, writer, sequence, oldest } = header;
        Ok(Segment { epoch, writer, sequence, oldest, entries })
    }
}

/// Reads the log as it was at one moment, also while somebody writes it: segments never change, so that those that were
/// read before stay good, and a list of names tells one moment.
///
/// # Errors
/// See [`ReadLogError`].
///
/// # Cancel safety
/// Safe.
pub async fn read(link: &Link, layout: &Layout) -> Result<Stored, ReadLogError> {
    let dir = layout.log_dir();
    let mut known: BTreeMap<u64, RawSegment> = BTreeMap::new();
    'again: for _ in 0..TRIES {
        link.sync(&dir).await?;
        let Some(directory) = link.get(&dir).await? else { return Ok(Stored::default()) };
        let mut sequences: Vec<u64> =
            link.children(&dir).await?.iter().filter_map(|name| Names::sequence(name)).collect();
        sequences.sort_unstable();
        known.retain(|sequence, _| sequences.binary_search(sequence).is_ok());
        for sequence in sequences {
            if known.contains_key(&sequence) {
                continue;
            }
            // The cleaner takes the oldest first, so what is read next is what goes next.
            let Some(node) = link.get(&format!("{dir}/log-{sequence:010}")).await? else { continue 'again };
            let segment = RawSegment { sequence, bytes: node.data.into(), written_ms: node.stat.mtime_ms };
            known.insert(sequence, segment);
        }
        let begun = directory.stat.version > 0;
        return Ok(Stored { segments: known.into_values().collect(), begun });
    }
    Err(ReadLogError::Moving(dir))
}

/// The parts of large payloads that there are, by name, with their bytes by that name.
///
/// # Errors
/// The service did not answer.
///
/// # Cancel safety
/// Safe.
pub async fn body_parts(link: &Link, layout: &Layout) -> Result<BTreeMap<String, u64>, CallError> {
    let dir = layout.bodies_dir();
    link.sync(&dir).await?;
    if link.exists(&dir).await?.is_none() {
        return Ok(BTreeMap::new());
    }
    let weigh = |name: String| {
        let bytes = body::bytes_of(std::slice::from_ref(&name));
        (name, bytes)
    };
    Ok(link.children(&dir).await?.into_iter().map(weigh).collect())
}

/// The content of a part, if it is there.
///
/// # Errors
/// The service did not answer.
///
/// # Cancel safety
/// Safe.
pub async fn body_part(link: &Link, layout: &Layout, part: &str) -> Result<Option<Bytes>, CallError> {
    let node = link.get(&format!("{}/{part}", layout.bodies_dir())).await?;
    Ok(node.map(|node| node.data.into()))
}

impl BodyRef {
    /// The names of its parts, in their order.
    pub fn parts(&self) -> Vec<String> {
        self.part_names().collect()
    }

    /// Whether these are its bytes.
    pub fn is_of(&self, data: &[u8]) -> bool {
        data.len() as u64 == self.bytes() && crc32fast::hash(data) == self.crc()
    }
}
