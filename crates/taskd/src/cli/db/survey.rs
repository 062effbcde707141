//! What is in the task log, and what is wrong with it: from its bytes alone, without asking anybody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coord::log::BodyRef;
use coord::log::reading::{Segment, Stored};
use dispatcher::{Inspected, inspect};
use proto::task::TaskState;

/// Problems of one sort that are told one by one.
const TOLD_MAX: usize = 100;

/// What was read.
#[derive(Debug, Default)]
pub(in crate::cli) struct Found {
    pub(in crate::cli) log: Stored,
    /// Parts of large payloads, with their bytes.
    pub(in crate::cli) parts: BTreeMap<String, u64>,
    /// The cluster's epoch, if it has one.
    pub(in crate::cli) epoch: Option<u64>,
}

/// A key's newest state.
#[derive(Debug)]
pub(in crate::cli) struct Newest {
    pub(in crate::cli) revision: u64,
    /// Where its newest copy is.
    pub(in crate::cli) segment: u64,
    bytes: u64,
    /// None where the key is gone.
    pub(in crate::cli) record: Option<Result<Inspected, String>>,
}

/// What it comes to.
#[derive(Debug, Default)]
pub(in crate::cli) struct Survey {
    /// By their names.
    pub(in crate::cli) segments: BTreeMap<u64, Segment>,
    pub(in crate::cli) bytes: u64,
    pub(in crate::cli) keys: BTreeMap<u128, Newest>,
    /// Copies and older states that count no more.
    pub(in crate::cli) dead: u64,
    /// It cannot be replayed, or something is lost.
    pub(in crate::cli) problems: Vec<String>,
    /// What is worth knowing.
    pub(in crate::cli) notes: Vec<String>,
    /// Parts that no task refers to.
    pub(in crate::cli) unreferenced: BTreeSet<String>,
    pub(in crate::cli) unreferenced_bytes: u64,
}

impl Survey {
    pub(in crate::cli) fn of(found: &Found) -> Self {
        let mut survey = Self::default();
        survey.chain(found);
        survey.replay();
        survey.bodies(&found.parts);
        survey
    }

    /// Whether segments follow each other and belong where they are.
    fn chain(&mut self, found: &Found) {
        let segments = &found.log.segments;
        if segments.is_empty() && found.log.begun {
            self.problems.push("segments have been written, and all of them are gone".to_owned());
        }
        for pair in segments.windows(2) {
            let (before, after) = (pair[0].sequence, pair[1].sequence);
            match after - before {
                1 => {}
                2 => self.problems.push(format!("segment {} is missing", before + 1)),
                _ => self.problems.push(format!("segments {} to {} are missing", before + 1, after - 1)),
            }
        }
        let mut epoch = 0;
        for raw in segments {
            let name = raw.sequence;
            self.bytes += raw.bytes.len() as u64;
            let segment = match raw.decode() {
                Ok(segment) => segment,
                Err(error) => {
                    self.problems.push(format!("segment {name} cannot be read: {error}"));
                    continue;
                }
            };
            if segment.sequence != name {
                self.problems.push(format!("segment {name} says that it is segment {}", segment.sequence));
            }
            if segment.epoch < epoch {
                let now = segment.epoch;
                self.problems
                    .push(format!("segment {name} is of term {now}, and one before it of term {epoch}"));
            }
            epoch = epoch.max(segment.epoch);
            self.segments.insert(name, segment);
        }
        if let (Some(first), Some((_, tail))) = (segments.first(), self.segments.last_key_value())
            && segments.last().is_some_and(|last| last.sequence == tail.sequence)
            && tail.oldest != first.sequence
        {
            let (oldest, first) = (tail.oldest, first.sequence);
            self.problems.push(format!("it should begin with segment {oldest} and begins with {first}"));
        }
        if let Some(known) = found.epoch.filter(|known| *known < epoch) {
            self.problems.push(format!(
                "it has segments of term {epoch}, and the cluster's epoch is at {known}: that was made anew, and no leader \
                 can fence this log"
            ));
        }
    }

    /// The newest state of every key.
    fn replay(&mut self) {
        let mut back = Vec::new();
        for (name, segment) in &self.segments {
            for entry in &segment.entries {
                let (key, revision) = (entry.key, entry.revision);
                if let Some(newest) = self.keys.get(&key) {
                    self.dead += 1;
                    if revision < newest.revision {
                        let (newer, there) = (newest.revision, newest.segment);
                        back.push(format!(
                            "segment {name} has revision {revision} of {key:032x} behind revision {newer} in segment {there}"
                        ));
                        continue;
                    }
                }
                let record = entry.body.as_ref().map(|body| inspect(key, body));
                let newest = Newest { revision, segment: *name, bytes: entry.bytes(), record };
                self.keys.insert(key, newest);
            }
        }
        let unreadable = self.keys.iter().filter_map(|(key, newest)| match &newest.record {
            Some(Err(error)) => Some(format!("{key:032x} in segment {}: {error}", newest.segment)),
            _ => None,
        });
        let unreadable: Vec<_> = unreadable.collect();
        self.tell(back);
        self.tell(unreadable);
    }

    /// Whether large payloads are there.
    fn bodies(&mut self, parts: &BTreeMap<String, u64>) {
        let mut wanted = BTreeSet::new();
        let mut missing = Vec::new();
        for (key, body) in self.references() {
            let names = body.parts();
            let lost = names.iter().filter(|name| !parts.contains_key(*name)).count();
            if lost > 0 {
                missing.push(format!(
                    "{lost} of {} parts of the payload of task {key:032x} are gone",
                    names.len()
                ));
            }
            wanted.extend(names);
        }
        let loose = parts.iter().filter(|(name, _)| !wanted.contains(*name));
        let (names, bytes): (Vec<_>, Vec<u64>) = loose.map(|(name, bytes)| (name.clone(), *bytes)).unzip();
        (self.unreferenced, self.unreferenced_bytes) = (names.into_iter().collect(), bytes.iter().sum());
        if !self.unreferenced.is_empty() {
            self.notes.push(format!(
                "{} parts of payloads ({} bytes) belong to no task: being submitted just now, or the next leader deletes them",
                self.unreferenced.len(),
                self.unreferenced_bytes
            ));
        }
        self.tell(missing);
    }

    fn tell(&mut self, mut problems: Vec<String>) {
        let more = problems.len().saturating_sub(TOLD_MAX);
        problems.truncate(TOLD_MAX);
        self.problems.append(&mut problems);
        if more > 0 {
            self.problems.push(format!("and {more} more like the last one"));
        }
    }

    /// Payloads that live tasks keep apart, with the tasks' keys.
    pub(in crate::cli) fn references(&self) -> Vec<(u128, BodyRef)> {
        let live =
            self.keys.iter().filter_map(|(key, newest)| Some((key, newest.record.as_ref()?.as_ref().ok()?)));
        live.filter_map(|(key, record)| Some((*key, record.body()?.clone()))).collect()
    }

    /// Bytes of what still counts.
    pub(in crate::cli) fn live_bytes(&self) -> u64 {
        self.keys.values().filter(|newest| newest.record.is_some()).map(|newest| newest.bytes).sum()
    }

    pub(in crate::cli) fn tombstones(&self) -> usize {
        self.keys.values().filter(|newest| newest.record.is_none()).count()
    }

    fn live(&self) -> impl Iterator<Item = &Inspected> {
        self.keys.values().filter_map(|newest| newest.record.as_ref()?.as_ref().ok())
    }

    /// The longest right to run that was ever granted.
    pub(in crate::cli) fn fence(&self) -> Duration {
        self.live().filter_map(Inspected::fence).max().unwrap_or_default()
    }

    /// Live records by what they are of.
    pub(in crate::cli) fn kinds(&self) -> BTreeMap<&'static str, u64> {
        self.live().fold(BTreeMap::new(), |mut kinds, record| {
            *kinds.entry(record.kind()).or_default() += 1;
            kinds
        })
    }

    /// Tasks by where they stand.
    pub(in crate::cli) fn states(&self) -> BTreeMap<TaskState, u64> {
        self.live().filter_map(Inspected::state).fold(BTreeMap::new(), |mut states, state| {
            *states.entry(state).or_default() += 1;
            states
        })
    }
}
