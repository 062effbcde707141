//! What waits for the disk: the group that gathers, and those that the log thread has.

use std::collections::VecDeque;
use std::mem;

use clock::Instant;

use crate::core::{ConnId, Output};
use crate::state::Txn;

/// Groups that the log thread may have: it takes all there are at a time.
pub(super) const GROUPS_MAX: usize = 32;
/// Bytes that wait for the disk, requests and replies, at which no connection is read.
const BYTES_MAX: usize = 16 << 20;

/// What becomes known together.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) output: Output,
    pub(super) requests: Vec<Requests>,
    /// Bytes of its requests and of its effects.
    pub(super) bytes: usize,
    /// How many of its effects and requests were there before its first change: they need not wait for it.
    pub(super) free: (usize, usize),
    /// How many changes the log thread has of it.
    changes: usize,
}

/// Requests of one connection that were read together.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) conn: ConnId,
    pub(super) count: usize,
    pub(super) at: Instant,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.output.is_empty() && self.requests.is_empty()
    }

    /// Lets what `other` has leave together with this one.
    fn absorb(&mut self, other: &mut Self) -> usize {
        self.output.effects.append(&mut other.output.effects);
        self.requests.append(&mut other.requests);
        let bytes = mem::take(&mut other.bytes);
        self.bytes += bytes;
        bytes
    }

    /// Takes out what does not wait for this group's own changes.
    fn split_free(&mut self) -> Option<Self> {
        let (effects, requests) = mem::take(&mut self.free);
        if effects == 0 && requests == 0 {
            return None;
        }
        let mut free = Self::default();
        let waiting = self.output.effects.split_off(effects);
        free.output.effects = mem::replace(&mut self.output.effects, waiting);
        let waiting = self.requests.split_off(requests);
        free.requests = mem::replace(&mut self.requests, waiting);
        Some(free)
    }
}

/// Groups on their way, in the order in which they were executed.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// What was executed since the last one was handed over.
    pub(super) gathered: Group,
    /// What the log thread has, without its changes.
    syncing: VecDeque<Group>,
    /// Of all that the log thread has.
    changes: usize,
    bytes: usize,
    /// An empty group, for its allocations.
    spare: Group,
}

impl Groups {
    /// Whether so much waits that nothing more should be executed.
    pub(super) fn are_full(&self, changes_max: usize) -> bool {
        self.bytes + self.gathered.bytes >= BYTES_MAX
            || self.changes + self.gathered.output.txns.len() >= changes_max
    }

    /// Whether nothing waits for the disk.
    pub(super) fn are_settled(&self) -> bool {
        self.syncing.is_empty() && self.gathered.output.txns.is_empty()
    }

    /// Whether there are changes which the log thread does not have.
    pub(super) fn has_changes(&self) -> bool {
        !self.gathered.output.txns.is_empty()
    }

    /// Whether there are changes which the log thread does not have although it has nothing to do.
    pub(super) fn keep_the_disk_waiting(&self) -> bool {
        self.syncing.is_empty() && self.has_changes()
    }

    /// What waits for no gathered change goes with the changes that were before it: with the last group that the log
    /// thread has, or now.
    pub(super) fn settle(&mut self) -> Option<Group> {
        let whole = !self.has_changes();
        if let Some(last) = self.syncing.back_mut() {
            if whole {
                self.bytes += last.absorb(&mut self.gathered);
            } else if let Some(mut free) = self.gathered.split_free() {
                self.bytes += last.absorb(&mut free);
            }
            return None;
        }
        if whole {
            let spare = mem::take(&mut self.spare);
            (!self.gathered.is_empty()).then(|| mem::replace(&mut self.gathered, spare))
        } else {
            self.gathered.split_free()
        }
    }

    /// The changes that the log thread is to write next, if there are any and it has not too many groups already.
    pub(super) fn hand_over(&mut self) -> Option<Vec<Txn>> {
        if !self.has_changes() || self.syncing.len() >= GROUPS_MAX {
            return None;
        }
        let mut group = mem::replace(&mut self.gathered, mem::take(&mut self.spare));
        let txns = mem::take(&mut group.output.txns);
        group.changes = txns.len();
        self.changes += group.changes;
        self.bytes += group.bytes;
        self.syncing.push_back(group);
        Some(txns)
    }

    /// The first of the groups that the log thread has, now that it is on the disk.
    pub(super) fn synced(&mut self) -> Option<Group> {
        let group = self.syncing.pop_front()?;
        self.changes -= group.changes;
        self.bytes -= group.bytes;
        Some(group)
    }

    /// Takes the allocations of a group that has left, and those of its changes.
    pub(super) fn recycle(&mut self, mut group: Group) {
        debug_assert!(group.is_empty(), "{group:?} has left");
        (group.bytes, group.free, group.changes) = (0, (0, 0), 0);
        if group.output.txns.capacity() == 0 {
            group.output.txns = mem::take(&mut self.spare.output.txns);
        }
        self.spare = group;
    }

    /// Takes the allocation of changes that were written.
    pub(super) fn recycle_changes(&mut self, mut txns: Vec<Txn>) {
        txns.clear();
        self.spare.output.txns = txns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Effect;
    use crate::state::{State, Written};

    fn change(state: &mut State, id: i64) -> Txn {
        let Written { txn, .. } = state.create_session(id, 1, [0; 16], 0);
        txn
    }

    fn closes(conn: u64) -> Effect {
        Effect::Close { conn: ConnId(conn) }
    }

    fn left(group: Option<Group>) -> Vec<Effect> {
        group.map(|group| group.output.effects).unwrap_or_default()
    }

    #[test]
    fn what_is_read_waits_for_the_changes_before_it_and_no_others() {
        let mut state = State::new();
        let mut groups = Groups::default();
        groups.gathered.output.effects.push(closes(1));
        assert_eq!(left(groups.settle()), [closes(1)], "nothing waits for the disk");

        // A read, a change, a read.
        groups.gathered.output.effects.push(closes(2));
        groups.gathered.free = (1, 0);
        groups.gathered.output.txns.push(change(&mut state, 1));
        groups.gathered.output.effects.push(closes(3));
        assert_eq!(left(groups.settle()), [closes(2)], "the read before the change");
        assert!(groups.keep_the_disk_waiting());
        assert_eq!(groups.hand_over().map(|txns| txns.len()), Some(1));
        assert_eq!(groups.hand_over(), None);

        // A read behind it, and another change with a read in front.
        groups.gathered.output.effects.push(closes(4));
        assert_eq!(left(groups.settle()), []);
        groups.gathered.output.effects.push(closes(5));
        groups.gathered.free = (1, 0);
        groups.gathered.output.txns.push(change(&mut state, 2));
        groups.gathered.output.effects.push(closes(6));
        assert_eq!(left(groups.settle()), []);
        assert!(groups.are_full(2) && !groups.are_full(3));
        assert_eq!(groups.hand_over().map(|txns| txns.len()), Some(1));

        assert_eq!(left(groups.synced()), [closes(3), closes(4), closes(5)]);
        assert!(!groups.are_settled());
        assert_eq!(left(groups.synced()), [closes(6)]);
        assert!(groups.are_settled() && groups.synced().is_none());
        assert_eq!((groups.changes, groups.bytes), (0, 0));
    }
}
