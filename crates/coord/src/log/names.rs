//! Where things are in the service, and the transactions that put them there.

use std::ops::Range;

use bytes::Bytes;
use drill::{Bug, Drill};
use pulse::Pulse;

use super::core::Sealed;
use super::store::Step;
use crate::LeaseFlag;

/// What the directory says once the first segment has been written.
const DIRECTORY_MARK: &[u8] = b"taskd log 1";

/// Paths, the fence and the lease of one term.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Directory of the segments.
    pub(super) log: String,
    /// Directory of the bodies.
    pub(super) bodies: String,
    /// The node whose version is the epoch.
    pub(super) epoch_path: String,
    /// This term's epoch.
    pub(super) epoch: i32,
    /// Nothing is sent outside of it, if the log has one.
    pub(super) lease: Option<LeaseFlag>,
    pub(super) drill: Drill,
    pub(super) pulse: Pulse,
}

/// Whether a term may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    Granted,
    /// The lease has lapsed; it may come back.
    Lapsed,
    /// It was given up for good.
    Over,
}

impl Names {
    /// Whether a segment may be sent at this moment.
    pub(super) fn leave(&self) -> Leave {
        match &self.lease {
            Some(lease) if lease.holds() => Leave::Granted,
            Some(lease) if lease.is_dropped() => Leave::Over,
            Some(_) => Leave::Lapsed,
            None => Leave::Granted,
        }
    }

    /// The same, asked right before one is sent.
    pub(super) fn lets_out(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.lets_out("commit"))
    }

    /// The path of a segment.
    pub(super) fn segment(&self, sequence: u64) -> String {
        segment(&self.log, sequence)
    }

    /// The sequence in a segment's name; `None`: not a segment.
    pub(super) fn sequence(name: &str) -> Option<u64> {
        let digits = name.strip_prefix("log-")?;
        (digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
    }

    /// The check that fails once another term has begun; always the first step.
    pub(super) fn fence(&self) -> Step {
        Step::Check { path: self.epoch_path.clone(), version: self.epoch }
    }

    /// The transaction that commits a segment.
    ///
    /// The very first one has no predecessor to check. It changes the directory's data, which nobody does again:
    /// a term that was shown a log shorter than it is can so never begin a second one.
    pub(super) fn commit(&self, sealed: &Sealed) -> Vec<Step> {
        self.transaction(sealed.sequence, sealed.bytes.clone(), sealed.deletes.clone())
    }

    fn transaction(&self, sequence: u64, data: Bytes, deletes: Range<u64>) -> Vec<Step> {
        let chain = if self.drill.plants(Bug::NoChainCheck) {
            // Something that holds, so that the steps keep their places.
            self.fence()
        } else if sequence == 1 {
            Step::Set { path: self.log.clone(), data: Bytes::from_static(DIRECTORY_MARK), version: 0 }
        } else {
            Step::Check { path: self.segment(sequence - 1), version: 0 }
        };
        let create = Step::Create { path: self.segment(sequence), data };
        let deletes = deletes.map(|old| Step::Delete { path: self.segment(old) });
        [self.fence(), chain, create].into_iter().chain(deletes).collect()
    }
}

/// The path of a segment in the directory `log`.
pub(super) fn segment(log: &str, sequence: u64) -> String {
    format!("{log}/log-{sequence:010}")
}

/// Position of the fence in every transaction.
pub(super) const FENCE: usize = 0;

/// Position of the check of the predecessor in a segment's transaction.
pub(super) const CHAIN: usize = 1;

/// Position of the creation in a segment's transaction.
pub(super) const CREATE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments() {
        let names = Names {
            log: "/r/tasks".into(),
            bodies: "/r/bodies".into(),
            epoch_path: "/r/epoch".into(),
            epoch: 3,
            lease: None,
            drill: Drill::none(),
            pulse: Pulse::default(),
        };
        assert_eq!(names.segment(7), "/r/tasks/log-0000000007");
        for sequence in [1, 7, 9_999_999_999, 10_000_000_000, u64::MAX] {
            let path = names.segment(sequence);
            assert_eq!(Names::sequence(path.strip_prefix("/r/tasks/").unwrap()), Some(sequence));
        }
        for other in ["log-1", "log-", "bodies", "log-00000000x1", "log-99999999999999999999999"] {
            assert_eq!(Names::sequence(other), None, "{other}");
        }
    }
}
