//! What has ended here: reported until acknowledged, remembered for a while after. The pure part; everything is bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use proto::AttemptId;
use proto::runner::Outcome;

/// Outcomes that wait for a leader; with more, nothing new is started.
pub(crate) const UNACKNOWLEDGED_MAX: usize = 16_384;
/// Checkpoints in one report, in bytes: well below a frame.
const REPORT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Attempts without a directory that are remembered after their acknowledgement, so that a repeated start does not run
/// again.
const REMEMBERED_MAX: usize = 16_384;

/// Limits on the output that is kept of acknowledged attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// How many attempts.
    pub attempts_max: usize,
    /// How much they may take together.
    pub bytes_max: u64,
    /// How long after their end, by this node's wall clock.
    pub age_max: Duration,
}

impl Default for Retention {
    /// The newest 10,000 attempts, or 1 GiB, of the last 30 days.
    fn default() -> Self {
        let age_max = Duration::from_secs(30 * 24 * 60 * 60);
        Self { attempts_max: 10_000, bytes_max: 1 << 30, age_max }
    }
}

#[derive(Debug)]
struct Entry {
    outcome: Outcome,
    /// Place in the order of reports; none once acknowledged.
    report: Option<u64>,
    on_disk: Option<u64>,
}

/// Outcomes and their fate.
#[derive(Debug)]
pub(crate) struct Ledger {
    retention: Retention,
    entries: HashMap<AttemptId, Entry>,
    unacknowledged: BTreeMap<u64, AttemptId>,
    next_report: u64,
    remembered: VecDeque<AttemptId>,
    retained: VecDeque<(AttemptId, u64)>,
    retained_bytes: u64,
}

impl Ledger {
    pub(crate) fn new(retention: Retention) -> Self {
        Self {
            retention,
            entries: HashMap::new(),
            unacknowledged: BTreeMap::new(),
            next_report: 0,
            remembered: VecDeque::new(),
            retained: VecDeque::new(),
            retained_bytes: 0,
        }
    }

    /// An attempt has ended. `on_disk`: what its directory takes, if it has one.
    pub(crate) fn ended(&mut self, outcome: Outcome, on_disk: Option<u64>) {
        let report = self.queue(outcome.attempt);
        self.entries.insert(outcome.attempt, Entry { outcome, report: Some(report), on_disk });
    }

    /// An attempt of an earlier life whose end was acknowledged then. Oldest first.
    pub(crate) fn retain(&mut self, outcome: Outcome, bytes: u64) {
        let attempt = outcome.attempt;
        self.entries.insert(attempt, Entry { outcome, report: None, on_disk: Some(bytes) });
        self.retained.push_back((attempt, bytes));
        self.retained_bytes += bytes;
    }

    pub(crate) fn get(&self, attempt: AttemptId) -> Option<&Outcome> {
        self.entries.get(&attempt).map(|entry| &entry.outcome)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.unacknowledged.len() >= UNACKNOWLEDGED_MAX
    }

    pub(crate) fn unacknowledged(&self) -> usize {
        self.unacknowledged.len()
    }

    /// The first `count` that a leader has to be told, oldest first.
    pub(crate) fn to_report(&self, count: usize) -> Vec<Outcome> {
        let mut room = REPORT_BYTES_MAX;
        let fits = |outcome: &&Outcome| {
            let bytes = outcome.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.as_bytes().len());
            let left = room.checked_sub(bytes);
            room = left.unwrap_or(0);
            left.is_some()
        };
        let outcomes = self.unacknowledged.values().take(count).filter_map(|attempt| self.get(*attempt));
        outcomes.take_while(fits).cloned().collect()
    }

    /// A leader was told `reported` and has `acknowledged` some. What it left out goes to the end of the queue. Returns
    /// those that have a directory to be tidied.
    pub(crate) fn acknowledged(
        &mut self,
        reported: &[AttemptId],
        acknowledged: &[AttemptId],
    ) -> Vec<AttemptId> {
        let mut tidy = Vec::new();
        for attempt in acknowledged {
            let Some(entry) = self.entries.get_mut(attempt) else { continue };
            let Some(report) = entry.report.take() else { continue };
            let on_disk = entry.on_disk;
            self.unacknowledged.remove(&report);
            match on_disk {
                Some(bytes) => {
                    self.retained.push_back((*attempt, bytes));
                    self.retained_bytes += bytes;
                    tidy.push(*attempt);
                }
                None => self.remember(*attempt),
            }
        }
        for attempt in reported {
            if let Some(report) = self.entries.get(attempt).and_then(|entry| entry.report) {
                self.unacknowledged.remove(&report);
                let last = self.queue(*attempt);
                if let Some(entry) = self.entries.get_mut(attempt) {
                    entry.report = Some(last);
                }
            }
        }
        tidy
    }

    /// Acknowledged attempts beyond the retention: their directories are to be removed. That they ran is remembered for a
    /// while, because a start that was sent twice may be late.
    pub(crate) fn surplus(&mut self, now_ms: u64) -> Vec<AttemptId> {
        let age_ms = u64::try_from(self.retention.age_max.as_millis()).unwrap_or(u64::MAX);
        let old = |ledger: &Self| {
            let oldest = ledger.retained.front().and_then(|(attempt, _)| ledger.get(*attempt));
            oldest.is_some_and(|outcome| outcome.ended_ms.saturating_add(age_ms) < now_ms)
        };
        let mut surplus = Vec::new();
        while self.retained.len() > self.retention.attempts_max
            || self.retained_bytes > self.retention.bytes_max
            || old(self)
        {
            let Some((oldest, bytes)) = self.retained.pop_front() else { break };
            self.retained_bytes -= bytes;
            if let Some(entry) = self.entries.get_mut(&oldest) {
                entry.on_disk = None;
            }
            self.remember(oldest);
            surplus.push(oldest);
        }
        surplus
    }

    fn remember(&mut self, attempt: AttemptId) {
        self.remembered.push_back(attempt);
        while self.remembered.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.remembered.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    fn queue(&mut self, attempt: AttemptId) -> u64 {
        let report = self.next_report;
        self.next_report += 1;
        self.unacknowledged.insert(report, attempt);
        report
    }
}

#[cfg(test)]
mod tests {
    use proto::TaskId;
    use proto::task::AttemptEnd;

    use super::*;

    fn id(n: u128) -> AttemptId {
        AttemptId { task: TaskId::from_u128(n), number: 1 }
    }

    fn outcome(n: u128) -> Outcome {
        let end = AttemptEnd::Exited { code: 0 };
        Outcome { attempt: id(n), end, started_ms: None, ended_ms: 0, output_bytes: 0, checkpoint: None }
    }

    fn order(ledger: &Ledger) -> Vec<u128> {
        ledger.to_report(99).iter().map(|outcome| outcome.attempt.task.as_u128()).collect()
    }

    #[test]
    fn reported_until_acknowledged_and_the_stuck_hold_up_nobody() {
        let mut ledger = Ledger::new(Retention::default());
        (1..=4).for_each(|n| ledger.ended(outcome(n), None));
        assert_eq!(order(&ledger), [1, 2, 3, 4]);
        let tidy = ledger.acknowledged(&[id(1), id(2)], &[id(2), id(77)]);
        assert_eq!((tidy, order(&ledger)), (vec![], vec![3, 4, 1]));
        assert_eq!(ledger.get(id(2)), Some(&outcome(2)), "a repeated start must not run it again");
    }

    #[test]
    fn directories_are_kept_within_the_retention() {
        let mut ledger =
            Ledger::new(Retention { attempts_max: 3, bytes_max: 100, age_max: Duration::from_millis(7) });
        ledger.retain(outcome(1), 10);
        (2..=4).for_each(|n| ledger.ended(outcome(n), Some(10)));
        assert_eq!(ledger.acknowledged(&[id(2)], &[id(2), id(3), id(4)]), [id(2), id(3), id(4)]);
        assert_eq!(ledger.surplus(7), [id(1)], "too many");
        ledger.ended(outcome(5), Some(85));
        assert_eq!(ledger.surplus(7), [], "what nobody has acknowledged is no surplus");
        ledger.acknowledged(&[], &[id(5)]);
        assert_eq!(ledger.surplus(7), [id(2), id(3)], "too many, and then too large");
        assert_eq!(ledger.surplus(8), [id(4), id(5)], "too old");
        assert_eq!(ledger.unacknowledged(), 0);
        assert!(ledger.get(id(2)).is_some(), "a repeated start must not run it again");
    }

    #[test]
    fn memory_of_what_left_no_trace_on_disk_is_bounded() {
        let mut ledger = Ledger::new(Retention::default());
        for n in 0..3 * REMEMBERED_MAX as u128 {
            ledger.ended(outcome(n), None);
            ledger.acknowledged(&[id(n)], &[id(n)]);
        }
        assert_eq!(ledger.entries.len(), REMEMBERED_MAX);
    }
}
