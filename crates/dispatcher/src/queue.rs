//! What waits for a slot, in the order it should get one.
//!
//! Tasks that need the same (kind and labels) form a class. Only the head of each class is ever looked at, so that a
//! pass over the queue costs as many steps as there are classes and assignments, however many tasks wait; and a head
//! that fits nowhere holds up its own class only.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use proto::TaskId;
use proto::task::TaskSpec;

/// What a task asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) kind: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Need {
    pub(crate) fn of(spec: &TaskSpec) -> Self {
        Self { kind: spec.kind.clone(), labels: spec.labels.clone() }
    }
}

/// Place in the queue: higher priority first, then the order of submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    priority: Reverse<i32>,
    order: u64,
}

impl Place {
    pub(crate) fn new(priority: i32, order: u64) -> Self {
        Self { priority: Reverse(priority), order }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    classes: BTreeMap<Arc<Need>, BTreeMap<Place, TaskId>>,
    /// The first place of every class.
    heads: BTreeMap<Place, Arc<Need>>,
    len: usize,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, need: Need, place: Place, task: TaskId) {
        let need = match self.classes.get_key_value(&need) {
            Some((shared, _)) => Arc::clone(shared),
            None => Arc::new(need),
        };
        let class = self.classes.entry(Arc::clone(&need)).or_default();
        let head = class.first_key_value().map(|(place, _)| *place);
        if class.insert(place, task).is_none() {
            self.len += 1;
        }
        if head.is_none_or(|head| place < head) {
            if let Some(head) = head {
                self.heads.remove(&head);
            }
            self.heads.insert(place, need);
        }
    }

    /// Takes a task out; none if it does not wait.
    pub(crate) fn remove(&mut self, need: &Need, place: Place) -> Option<TaskId> {
        let class = self.classes.get_mut(need)?;
        let task = class.remove(&place)?;
        self.len -= 1;
        let next = class.first_key_value().map(|(place, _)| *place);
        if let Some(shared) = self.heads.remove(&place)
            && let Some(next) = next
        {
            self.heads.insert(next, shared);
        }
        if next.is_none() {
            self.classes.remove(need);
        }
        Some(task)
    }

    /// The first head behind `after`.
    pub(crate) fn next_head(&self, after: Option<Place>) -> Option<(Place, Arc<Need>)> {
        let range = match after {
            Some(after) => self.heads.range((Excluded(after), Unbounded)),
            None => self.heads.range(..),
        };
        range.map(|(place, need)| (*place, Arc::clone(need))).next()
    }

    /// How many tasks wait before `place`, counted up to `limit`.
    pub(crate) fn ahead(&self, place: Place, limit: usize) -> usize {
        let mut ahead = 0;
        for class in self.classes.values() {
            ahead += class.range(..place).take(limit - ahead).count();
            if ahead >= limit {
                break;
            }
        }
        ahead
    }

    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert_eq!(self.len, self.classes.values().map(BTreeMap::len).sum::<usize>());
        assert_eq!(self.heads.len(), self.classes.len());
        for (need, class) in &self.classes {
            let head = class.first_key_value().map(|(place, _)| place).expect("no class is empty");
            assert_eq!(self.heads.get(head).map(Arc::as_ref), Some(need.as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(kind: &str) -> Need {
        Need { kind: kind.to_owned(), labels: BTreeMap::new() }
    }

    #[test]
    fn heads_come_by_priority_then_submission_and_classes_do_not_block_each_other() {
        let mut queue = Queue::default();
        let rows = [("a", 0, 1), ("b", 5, 2), ("a", 5, 3), ("b", 0, 4), ("a", 9, 5), ("c", -1, 6)];
        for (kind, priority, order) in rows {
            queue.insert(need(kind), Place::new(priority, order), TaskId::from_u128(order.into()));
            queue.check();
        }
        let mut taken = Vec::new();
        let mut cursor = None;
        // "b" fits nowhere: it is passed over and everything else still comes in order.
        while let Some((place, need)) = queue.next_head(cursor) {
            cursor = Some(place);
            if need.kind != "b" {
                taken.push(queue.remove(&need, place).expect("a head waits").as_u128());
                queue.check();
            }
        }
        assert_eq!(taken, [5, 3, 1, 6]);
        assert_eq!((queue.len(), queue.ahead(Place::new(0, 4), 10)), (2, 1));
        assert_eq!(queue.remove(&need("b"), Place::new(7, 7)), None);
    }
}
