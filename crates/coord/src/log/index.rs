//! What the log knows about itself: the current state of each key, and which segments exist.
//!
//! A change moves in when its segment is *sealed*, not when it is committed: segments commit in order or not at
//! all (each checks its predecessor), so whatever a later segment may rely on is in place when it commits.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;

use super::codec::{Encoder, HEADER_BYTES, Record, record_bytes};

/// How many segments one transaction deletes at most.
const DELETES_MAX: u64 = 32;

#[derive(Debug)]
struct Entry {
    revision: u64,
    /// The newest segment that holds this state.
    segment: u64,
    /// `None`: a tombstone, kept while an older segment may still hold a state of the key.
    body: Option<Bytes>,
}

impl Entry {
    /// What the state weighs among the live bytes: a tombstone nothing.
    fn live_bytes(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| record_bytes(self.revision, Some(body.len())) as u64)
    }
}

#[derive(Debug)]
struct Segment {
    bytes: u64,
    /// The keys written into it; those whose entry points elsewhere by now are garbage.
    keys: Vec<u128>,
}

/// The current states and the segments that hold them.
#[derive(Debug)]
pub(super) struct Index {
    entries: BTreeMap<u128, Entry>,
    /// Contiguous from `oldest`.
    segments: VecDeque<Segment>,
    oldest: u64,
    bytes: u64,
    live_bytes: u64,
}

impl Index {
    /// Nothing yet; the first segment will be `oldest`.
    pub(super) fn new(oldest: u64) -> Self {
        Self { entries: BTreeMap::new(), segments: VecDeque::new(), oldest, bytes: 0, live_bytes: 0 }
    }

    /// The oldest segment.
    pub(super) fn oldest(&self) -> u64 {
        self.oldest
    }

    /// The number the next segment gets.
    pub(super) fn next(&self) -> u64 {
        self.oldest + self.segments.len() as u64
    }

    /// Bytes of all segments.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the records that still count.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Number of segments.
    pub(super) fn segments(&self) -> u64 {
        self.segments.len() as u64
    }

    /// The states that count, by key.
    pub(super) fn live(&self) -> impl Iterator<Item = (u128, u64, &Bytes)> {
        self.entries.iter().filter_map(|(key, entry)| Some((*key, entry.revision, entry.body.as_ref()?)))
    }

    /// Opens the next segment; changes land in it until the next call.
    pub(super) fn begin_segment(&mut self) {
        self.segments.push_back(Segment { bytes: 0, keys: Vec::new() });
    }

    /// Says how long the last segment became.
    pub(super) fn end_segment(&mut self, bytes: usize) {
        if let Some(segment) = self.segments.back_mut() {
            self.bytes = self.bytes - segment.bytes + bytes as u64;
            segment.bytes = bytes as u64;
            segment.keys.shrink_to_fit();
        }
    }

    /// Takes back [`begin_segment`](Self::begin_segment) of a segment that stayed empty.
    pub(super) fn abort_segment(&mut self) {
        let aborted = self.segments.pop_back();
        debug_assert!(aborted.is_none_or(|segment| segment.bytes == 0 && segment.keys.is_empty()));
    }

    /// Forgets the segments before `oldest`, which their writer has deleted. False: one of them still counted, so this is
    /// not the log that was read.
    pub(super) fn forget_before(&mut self, oldest: u64) -> bool {
        while self.oldest < oldest {
            let Some(segment) = self.segments.pop_front() else { return false };
            for key in segment.keys {
                match self.entries.get(&key) {
                    Some(entry) if entry.segment == self.oldest && entry.body.is_some() => return false,
                    // Nothing older is left that a tombstone would have to hide.
                    Some(entry) if entry.segment == self.oldest => drop(self.entries.remove(&key)),
                    _ => {}
                }
            }
            self.bytes -= segment.bytes;
            self.oldest += 1;
        }
        true
    }

    /// The state of a key, if it has one.
    pub(super) fn state(&self, key: u128) -> Option<(u64, &Bytes)> {
        self.entries.get(&key).and_then(|entry| Some((entry.revision, entry.body.as_ref()?)))
    }

    /// Puts a change into the last segment. False: the log holds a higher revision, so it need not be written.
    pub(super) fn apply(&mut self, record: Record) -> bool {
        let Record { key, revision, body } = record;
        if self.entries.get(&key).is_some_and(|entry| entry.revision > revision) {
            return false;
        }
        let segment = self.next() - 1;
        let entry = Entry { revision, segment, body };
        self.live_bytes += entry.live_bytes();
        if let Some(old) = self.entries.insert(key, entry) {
            self.live_bytes -= old.live_bytes();
        }
        if let Some(segment) = self.segments.back_mut() {
            segment.keys.push(key);
        }
        true
    }

    /// Moves what still counts from the oldest segments into the last one, while `encoder` has room for it, and
    /// forgets the segments that have nothing left. `before` is the first segment that must stay.
    ///
    /// A tombstone goes with its segment, and only then: nothing older is left that it could have to hide.
    pub(super) fn clean(&mut self, encoder: &mut Encoder, payload_max: usize, before: u64) -> Range<u64> {
        let first = self.oldest;
        let target = self.next() - 1;
        let before = before.min(target.saturating_sub(1)).min(first + DELETES_MAX);
        while self.oldest < before {
            let Some(mut segment) = self.segments.pop_front() else { break };
            let source = self.oldest;
            let mut tombstones = Vec::new();
            let mut full = false;
            while let Some(key) = segment.keys.pop() {
                let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.segment == source) else {
                    continue;
                };
                let Some(body) = &entry.body else {
                    tombstones.push(key);
                    continue;
                };
                if encoder.payload_bytes() + record_bytes(entry.revision, Some(body.len())) > payload_max {
                    segment.keys.push(key);
                    full = true;
                    break;
                }
                encoder.push(key, entry.revision, Some(body));
                entry.segment = target;
                if let Some(last) = self.segments.back_mut() {
                    last.keys.push(key);
                }
            }
            if full {
                segment.keys.append(&mut tombstones);
                self.segments.push_front(segment);
                break;
            }
            for key in tombstones {
                self.entries.remove(&key);
            }
            self.bytes -= segment.bytes;
            self.oldest += 1;
        }
        first..self.oldest
    }
}

/// Room for records in a segment of `segment_bytes_max`.
pub(super) fn payload_bytes_max(segment_bytes_max: usize) -> usize {
    segment_bytes_max - HEADER_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &mut Index, key: u128, revision: u64, body: Option<&'static [u8]>) -> bool {
        index.begin_segment();
        let taken = index.apply(Record { key, revision, body: body.map(Bytes::from_static) });
        index.end_segment(100);
        taken
    }

    fn keys(index: &Index) -> Vec<(u128, u64)> {
        index.live().map(|(key, revision, _)| (key, revision)).collect()
    }

    fn clean(index: &mut Index, payload_max: usize) -> Range<u64> {
        index.begin_segment();
        let mut encoder = Encoder::new();
        let next = index.next();
        let deleted = index.clean(&mut encoder, payload_max, next);
        index.end_segment(HEADER_BYTES + encoder.payload_bytes());
        deleted
    }

    #[test]
    fn the_highest_revision_counts() {
        let mut index = Index::new(1);
        assert!(put(&mut index, 1, 5, Some(b"five")));
        assert!(!put(&mut index, 1, 4, Some(b"four")));
        assert!(put(&mut index, 1, 6, Some(b"six")));
        assert_eq!(keys(&index), [(1, 6)]);
        assert_eq!(index.live_bytes(), record_bytes(6, Some(3)) as u64);
    }

    #[test]
    fn a_tombstone_outlives_every_older_segment() {
        let mut index = Index::new(1);
        put(&mut index, 1, 1, Some(b"x"));
        put(&mut index, 2, 1, Some(b"a live one in the way"));
        put(&mut index, 1, 2, None);
        put(&mut index, 3, 1, Some(b"y"));
        // No room for key 2: segment 1 goes, and 2 and the tombstone in 3 stay.
        assert_eq!(clean(&mut index, 10), 1..2);
        assert!(!put(&mut index, 1, 1, Some(b"back from the dead")), "the tombstone still hides revision 1");
        assert_eq!(clean(&mut index, 1000).start, 2);
        assert_eq!(keys(&index), [(2, 1), (3, 1)]);
        assert!(index.entries.len() == 2, "the tombstone went with its segment");
    }

    #[test]
    fn the_tail_and_what_is_in_flight_stay() {
        let mut index = Index::new(1);
        for key in 0..4 {
            put(&mut index, key, 1, Some(b"x"));
        }
        index.begin_segment();
        assert_eq!(index.clean(&mut Encoder::new(), 1000, 3), 1..3);
        assert_eq!(index.clean(&mut Encoder::new(), 1000, u64::MAX), 3..4, "4 is the tail that 5 checks");
        assert_eq!(keys(&index).len(), 4);
    }

    #[test]
    fn a_segment_goes_only_when_all_of_it_has_moved() {
        let mut index = Index::new(1);
        index.begin_segment();
        for key in 0..4 {
            index.apply(Record { key, revision: 1, body: Some(Bytes::from_static(b"body")) });
        }
        index.end_segment(400);
        put(&mut index, 9, 1, None);
        put(&mut index, 9, 2, Some(b"z"));
        let two = 2 * record_bytes(1, Some(4));
        assert_eq!(clean(&mut index, two), 1..1, "half of it moved");
        assert_eq!(clean(&mut index, two), 1..3, "the rest moved, and the next was garbage");
        assert_eq!(keys(&index).len(), 5);
    }
}
