use std::collections::{BTreeMap, BTreeSet, HashMap};

/// When sessions end: buckets of one tick, as ZooKeeper's `ExpiryQueue` keeps them.
///
/// A timeout is rounded *up* to the next multiple of the tick, always by at least a moment, so a session lives
/// from `timeout` to `timeout + tick` after it was last heard of, and those of one bucket end together.
#[derive(Debug)]
pub(super) struct ExpiryQueue {
    tick_ms: u64,
    buckets: BTreeMap<u64, BTreeSet<i64>>,
    due_ms: HashMap<i64, u64>,
}

impl ExpiryQueue {
    pub(super) fn new(tick_ms: u64) -> Self {
        Self { tick_ms, buckets: BTreeMap::new(), due_ms: HashMap::new() }
    }

    /// Lets `session` live for `timeout_ms` from now on, which may also be shorter than it had.
    pub(super) fn update(&mut self, session: i64, now_ms: u64, timeout_ms: i32) {
        let end = now_ms.saturating_add(u64::try_from(timeout_ms).unwrap_or(0));
        let due = (end / self.tick_ms).saturating_add(1).saturating_mul(self.tick_ms);
        match self.due_ms.insert(session, due) {
            Some(former) if former == due => return,
            Some(former) => self.leave(session, former),
            None => {}
        }
        self.buckets.entry(due).or_default().insert(session);
    }

    pub(super) fn remove(&mut self, session: i64) {
        if let Some(due) = self.due_ms.remove(&session) {
            self.leave(session, due);
        }
    }

    /// The moment at which the next bucket is due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.buckets.keys().next().copied()
    }

    /// Takes out one session that is due, the earliest bucket first.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<i64> {
        let mut bucket = self.buckets.first_entry()?;
        if *bucket.key() > now_ms {
            return None;
        }
        let session = bucket.get_mut().pop_first()?;
        if bucket.get().is_empty() {
            bucket.remove();
        }
        self.due_ms.remove(&session);
        Some(session)
    }

    /// The sessions that have a time to end.
    pub(super) fn len(&self) -> usize {
        self.due_ms.len()
    }

    /// The buckets in order of time, for the four-letter word `dump`.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u64, &BTreeSet<i64>)> {
        self.buckets.iter().map(|(due, sessions)| (*due, sessions))
    }

    fn leave(&mut self, session: i64, due: u64) {
        if let Some(bucket) = self.buckets.get_mut(&due) {
            bucket.remove(&session);
            if bucket.is_empty() {
                self.buckets.remove(&due);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_rounded_up_to_the_next_tick() {
        // (touched at, timeout, due), tick 2000: on a multiple the whole next tick is granted.
        for (now, timeout, due) in [
            (0, 4000, 6000),
            (1, 4000, 6000),
            (1999, 4000, 6000),
            (2000, 4000, 8000),
            (500, 0, 2000),
            (7, -1, 2000),
        ] {
            let mut queue = ExpiryQueue::new(2000);
            queue.update(1, now, timeout);
            assert_eq!(queue.next_due_ms(), Some(due), "touched at {now} with {timeout}");
            assert_eq!(queue.pop_due(due - 1), None);
            assert_eq!(queue.pop_due(due), Some(1));
            assert_eq!((queue.next_due_ms(), queue.due_ms.len()), (None, 0));
        }
    }

    #[test]
    fn a_session_is_in_one_bucket_only_and_may_move_back() {
        let mut queue = ExpiryQueue::new(1000);
        queue.update(2, 0, 9000);
        queue.update(1, 0, 9000);
        queue.update(2, 0, 1000);
        queue.update(3, 0, 1000);
        queue.remove(3);
        assert_eq!(queue.next_due_ms(), Some(2000));
        assert_eq!(queue.pop_due(60_000), Some(2));
        assert_eq!(queue.pop_due(60_000), Some(1));
        assert_eq!(queue.pop_due(60_000), None);
    }
}
