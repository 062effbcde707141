//! The bytes of a segment: a fixed header that says what it is, then records in MessagePack with named fields.
//!
//! ```text
//! 0  magic "TLOG"      4  crc32 of everything after it      8  format: u16      10  length of the header: u16
//! 12 records: u32      16 epoch: u64      24 writer: u64    32 sequence: u64    40 oldest: u64
//! 48 {"key": 16 bytes, "revision": u64, "body": bytes | nil} ...
//! ```
//!
//! Numbers of the header are little-endian. `oldest` is the oldest segment that exists once this one is committed:
//! a create and the deletes that go with it are one transaction, so the tail's `oldest` names the true head, and a
//! head that has gone missing is a hole like any other. Unknown fields of a record are skipped.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What every segment begins with.
const MAGIC: [u8; 4] = *b"TLOG";

/// The only format so far.
const FORMAT: u16 = 1;

/// Length of the header in bytes.
pub(super) const HEADER_BYTES: usize = 48;

/// Where the part that the checksum covers begins.
const CHECKED_FROM: usize = 8;

/// Who wrote a segment, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The term that wrote it.
    pub(super) epoch: u64,
    /// The session that wrote it.
    pub(super) writer: u64,
    /// Its place in the log, from 1.
    pub(super) sequence: u64,
    /// The oldest segment that exists once this one is committed.
    pub(super) oldest: u64,
}

/// A key's absolute state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: u128,
    pub(super) revision: u64,
    /// `None` says that the key is gone.
    pub(super) body: Option<Bytes>,
}

/// A segment that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("it does not begin as a segment does")]
    NotASegment,
    #[error("it has format {0}, newer than this release understands: upgrade this node")]
    Newer(u16),
    #[error("its checksum does not match its contents")]
    Checksum,
    #[error("its records cannot be decoded: {0}")]
    Records(String),
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    key: &'a serde_bytes::Bytes,
    revision: u64,
    #[serde(borrow)]
    body: Option<&'a serde_bytes::Bytes>,
}

/// Length of a record in bytes, exactly, with a body of `body` bytes (`None`: a tombstone).
pub(super) fn record_bytes(revision: u64, body: Option<usize>) -> usize {
    let revision = match revision {
        0..=0x7f => 1,
        0x80..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    };
    let body = match body {
        None => 1,
        Some(len @ 0..=0xff) => 2 + len,
        Some(len @ 0x100..=0xffff) => 3 + len,
        Some(len) => 5 + len,
    };
    // The map's marker, the three names with theirs, the key with its two bytes of marker.
    1 + (1 + 3) + (1 + 8) + (1 + 4) + (2 + 16) + revision + body
}

/// Writes one segment.
#[derive(Debug)]
pub(super) struct Encoder {
    buffer: Vec<u8>,
    records: u32,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; HEADER_BYTES], records: 0 }
    }

    /// Bytes of the records so far.
    pub(super) fn payload_bytes(&self) -> usize {
        self.buffer.len() - HEADER_BYTES
    }

    pub(super) fn push(&mut self, key: u128, revision: u64, body: Option<&[u8]>) {
        let key = key.to_be_bytes();
        let wire =
            Wire { key: serde_bytes::Bytes::new(&key), revision, body: body.map(serde_bytes::Bytes::new) };
        rmp_serde::encode::write_named(&mut self.buffer, &wire)
            .expect("writing plain fields into memory has no way to fail");
        self.records += 1;
    }

    pub(super) fn finish(mut self, header: Header) -> Bytes {
        let head = &mut self.buffer[..HEADER_BYTES];
        head[..4].copy_from_slice(&MAGIC);
        head[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        head[10..12].copy_from_slice(&(HEADER_BYTES as u16).to_le_bytes());
        head[12..16].copy_from_slice(&self.records.to_le_bytes());
        head[16..24].copy_from_slice(&header.epoch.to_le_bytes());
        head[24..32].copy_from_slice(&header.writer.to_le_bytes());
        head[32..40].copy_from_slice(&header.sequence.to_le_bytes());
        head[40..48].copy_from_slice(&header.oldest.to_le_bytes());
        let crc = crc32fast::hash(&self.buffer[CHECKED_FROM..]);
        self.buffer[4..8].copy_from_slice(&crc.to_le_bytes());
        self.buffer.into()
    }
}

/// Reads one segment. Bodies are copied, so that a small live record does not keep a whole dead segment in memory.
pub(super) fn decode(bytes: &[u8]) -> Result<(Header, Vec<Record>), DecodeError> {
    let word =
        |at: usize| -> Option<u64> { Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
    let half =
        |at: usize| -> Option<u32> { Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    if bytes.get(..4) != Some(&MAGIC[..]) {
        return Err(DecodeError::NotASegment);
    }
    let (Some(crc), Some(shape), Some(count)) = (half(4), half(8), half(12)) else {
        return Err(DecodeError::NotASegment);
    };
    let (format, header_bytes) = (shape as u16, (shape >> 16) as usize);
    if crc32fast::hash(&bytes[CHECKED_FROM..]) != crc {
        return Err(DecodeError::Checksum);
    }
    if format != FORMAT {
        return Err(DecodeError::Newer(format));
    }
    let (Some(epoch), Some(writer), Some(sequence), Some(oldest), Some(payload)) =
        (word(16), word(24), word(32), word(40), bytes.get(header_bytes..))
    else {
        return Err(DecodeError::NotASegment);
    };

    // Counted records, so that a lying count costs no more than the bytes that are there.
    let mut records = Vec::with_capacity((count as usize).min(payload.len() / record_bytes(0, None) + 1));
    let mut decoder = rmp_serde::Deserializer::from_read_ref(payload);
    for _ in 0..count {
        let wire =
            Wire::deserialize(&mut decoder).map_err(|error| DecodeError::Records(error.to_string()))?;
        let key: [u8; 16] = wire
            .key
            .as_ref()
            .try_into()
            .map_err(|_| DecodeError::Records("a key has not 16 bytes".to_owned()))?;
        records.push(Record {
            key: u128::from_be_bytes(key),
            revision: wire.revision,
            body: wire.body.map(|body| Bytes::copy_from_slice(body)),
        });
    }
    Ok((Header { epoch, writer, sequence, oldest }, records))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let body = prop_oneof![
            Just(None),
            prop::collection::vec(any::<u8>(), 0..600).prop_map(|body| Some(Bytes::from(body)))
        ];
        let revision =
            prop_oneof![0..300u64, any::<u64>(), 60_000..70_000u64, any::<u32>().prop_map(u64::from)];
        prop::collection::vec(
            (any::<u128>(), revision, body).prop_map(|(key, revision, body)| Record { key, revision, body }),
            0..20,
        )
    }

    fn encode(header: Header, records: &[Record]) -> Bytes {
        let mut encoder = Encoder::new();
        for record in records {
            encoder.push(record.key, record.revision, record.body.as_deref());
        }
        encoder.finish(header)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(records in records(), epoch: u64, writer: u64, sequence: u64, oldest: u64) {
            let header = Header { epoch, writer, sequence, oldest };
            let bytes = encode(header, &records);
            let expected: usize =
                records.iter().map(|r| record_bytes(r.revision, r.body.as_ref().map(Bytes::len))).sum();
            prop_assert_eq!(bytes.len(), HEADER_BYTES + expected);
            prop_assert_eq!(decode(&bytes), Ok((header, records)));
        }

        #[test]
        fn a_changed_byte_is_noticed(records in records(), at: prop::sample::Index, flip in 1..=255u8) {
            let header = Header { epoch: 1, writer: 2, sequence: 3, oldest: 1 };
            let mut bytes = encode(header, &records).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn a_cut_or_foreign_segment_is_an_error(records in records(), keep: prop::sample::Index, junk: Vec<u8>) {
            let bytes = encode(Header { epoch: 1, writer: 2, sequence: 3, oldest: 1 }, &records);
            prop_assert!(decode(&bytes[..keep.index(bytes.len())]).is_err());
            prop_assert!(decode(&junk).is_err());
        }
    }

    #[test]
    fn the_longest_lengths_are_counted_right() {
        for len in [0xff, 0x100, 0xffff, 0x1_0000] {
            let mut encoder = Encoder::new();
            encoder.push(7, u64::MAX, Some(&vec![1; len]));
            assert_eq!(encoder.payload_bytes(), record_bytes(u64::MAX, Some(len)), "body of {len}");
        }
    }

    #[test]
    fn a_newer_format_asks_for_an_upgrade() {
        let mut bytes = encode(Header { epoch: 1, writer: 2, sequence: 3, oldest: 1 }, &[]).to_vec();
        bytes[8] = 9;
        let crc = crc32fast::hash(&bytes[CHECKED_FROM..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes), Err(DecodeError::Newer(9)));
    }
}
