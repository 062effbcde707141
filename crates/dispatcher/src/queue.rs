//! What waits for a slot, in the order it should get one.
//!
//! Tasks that need the same (kind and labels) form a class. Only the head of each class is ever looked at, so that a
//! pass over the queue costs as many steps as there are classes and assignments, however many tasks wait; and a head
//! that fits nowhere holds up its own class only. A class that waits for a lock or limit is parked: it is not looked at
//! until somebody gives back a place under that key, so that a hundred thousand tasks with locks of their own cost
//! nothing while they wait.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;
use std::time::Duration;

use proto::TaskId;
use proto::placing::Placing;
use proto::task::{Limit, TaskSpec};

/// Classes that are looked at again before one pass, of those that wait for a key.
const UNPARKED_MAX: usize = 64;

/// What a task asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    pub(crate) kind: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// By key.
    pub(crate) limits: Vec<Limit>,
    pub(crate) placing: Option<Box<Placing>>,
}

impl Need {
    pub(crate) fn of(spec: &TaskSpec) -> Self {
        let mut limits = spec.rules().limits.clone();
        limits.sort_unstable();
        let placing = spec.rules().placing.clone();
        Self { kind: spec.kind.clone(), labels: spec.labels.clone(), limits, placing }
    }

    /// How many of a node's slots it takes.
    pub(crate) fn slots(&self) -> u32 {
        self.placing.as_deref().map_or(1, |placing| placing.slots)
    }
}

/// Place in the queue: who has waited longest, where each point of priority counts as so much waiting; then the order of
/// submission.
///
/// All that wait age alike, so their order never changes while they do, and nothing has to be sorted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    rank: i64,
    order: u64,
}

/// Instead of ageing: no wait makes up for a point of priority.
const NEVER_MS: i64 = 1 << 50;

impl Place {
    /// Since when a task has waited (milliseconds since 1970), and how much waiting makes up for a point of priority; zero:
    /// none does.
    pub(crate) fn new(priority: i32, since_ms: u64, ageing: Duration, order: u64) -> Self {
        let point = i64::try_from(ageing.as_millis()).unwrap_or(NEVER_MS).min(NEVER_MS);
        let point = if point == 0 { NEVER_MS } else { point };
        let since = i64::try_from(since_ms).unwrap_or(i64::MAX).min(NEVER_MS - 1);
        Self { rank: since.saturating_sub(i64::from(priority).saturating_mul(point)), order }
    }
}

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    classes: BTreeMap<Arc<Need>, BTreeMap<Place, TaskId>>,
    /// The first place of every class that is not parked.
    heads: BTreeMap<Place, Arc<Need>>,
    /// Those that wait for a place under a key.
    parked: BTreeMap<Arc<Need>, Limit>,
    /// The same by key and how many it lets run, in the order of their first places.
    parked_by: BTreeMap<Limit, BTreeMap<Place, Arc<Need>>>,
    /// Those for which there may be a place again.
    roomy: BTreeSet<Limit>,
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
        let first = head.is_none_or(|head| place < head);
        if let Some(key) = self.parked.get(&need) {
            if first && let Some(parked) = self.parked_by.get_mut(key) {
                if let Some(head) = head {
                    parked.remove(&head);
                }
                parked.insert(place, need);
            }
            return;
        }
        if first {
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
        if let Some(key) = self.parked.get(need)
            && let Some(parked) = self.parked_by.get_mut(key)
            && let Some(shared) = parked.remove(&place)
        {
            if let Some(next) = next {
                parked.insert(next, shared);
            } else if parked.is_empty() {
                self.roomy.remove(key);
                self.parked_by.remove(key);
            }
        }
        if next.is_none() {
            self.classes.remove(need);
            self.parked.remove(need);
        }
        Some(task)
    }

    /// Looks at the class of `need` no more until a place under the key of `limit`, of which there is none for it, is given
    /// back.
    pub(crate) fn park(&mut self, need: &Arc<Need>, limit: &Limit) {
        let Some((place, _)) = self.classes.get(need).and_then(BTreeMap::first_key_value) else { return };
        self.heads.remove(place);
        self.roomy.remove(limit);
        self.parked_by.entry(limit.clone()).or_default().insert(*place, Arc::clone(need));
        self.parked.insert(Arc::clone(need), limit.clone());
    }

    /// A place under `key` is given back; whether somebody waits for one.
    pub(crate) fn give_back(&mut self, key: &str) -> bool {
        let limit = |max| Limit { key: key.to_owned(), max };
        let waiting = self.parked_by.range(limit(0)..=limit(u32::MAX)).map(|(limit, _)| limit.clone());
        let before = self.roomy.len();
        self.roomy.extend(waiting);
        self.roomy.len() > before
    }

    /// Looks again at the first of those that wait for keys under which there may be room, whether or not they are the
    /// ones that can use it. To be called before each pass, while [`is_roomy`](Self::is_roomy).
    pub(crate) fn unpark(&mut self) {
        let Self { classes: _, heads, parked, parked_by, roomy, .. } = self;
        roomy.retain(|limit| {
            let Some(waiting) = parked_by.get_mut(limit) else { return false };
            for _ in 0..UNPARKED_MAX {
                let Some((place, need)) = waiting.pop_first() else { break };
                parked.remove(&need);
                heads.insert(place, need);
            }
            let more = !waiting.is_empty();
            if !more {
                parked_by.remove(limit);
            }
            more
        });
    }

    /// Whether there may be room under a key that somebody waits for.
    pub(crate) fn is_roomy(&self) -> bool {
        !self.roomy.is_empty()
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
        assert_eq!(self.heads.len() + self.parked.len(), self.classes.len());
        assert_eq!(self.parked_by.values().map(BTreeMap::len).sum::<usize>(), self.parked.len());
        for (need, class) in &self.classes {
            let head = class.first_key_value().map(|(place, _)| place).expect("no class is empty");
            if let Some(key) = self.parked.get(need) {
                assert_eq!(self.parked_by[key].get(head).map(Arc::as_ref), Some(need.as_ref()));
                continue;
            }
            assert_eq!(self.heads.get(head).map(Arc::as_ref), Some(need.as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(kind: &str) -> Need {
        Need { kind: kind.to_owned(), labels: BTreeMap::new(), limits: Vec::new(), placing: None }
    }

    fn strict(priority: i32, order: u64) -> Place {
        Place::new(priority, order, Duration::ZERO, order)
    }

    #[test]
    fn heads_come_by_priority_then_submission_and_classes_do_not_block_each_other() {
        let mut queue = Queue::default();
        let rows = [("a", 0, 1), ("b", 5, 2), ("a", 5, 3), ("b", 0, 4), ("a", 9, 5), ("c", -1, 6)];
        for (kind, priority, order) in rows {
            queue.insert(need(kind), strict(priority, order), TaskId::from_u128(order.into()));
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
        assert_eq!((queue.len(), queue.ahead(strict(0, 4), 10)), (2, 1));
        assert_eq!(queue.remove(&need("b"), strict(7, 7)), None);
    }
    #[test]
    fn waiting_makes_up_for_priority_where_it_is_to() {
        let minute = Duration::from_secs(60);
        let place = |priority, since_s: u64, order| Place::new(priority, since_s * 1_000, minute, order);
        assert!(place(1, 0, 2) < place(0, 0, 1), "priority");
        assert!(place(0, 0, 1) < place(0, 0, 2), "submission");
        assert!(place(0, 0, 1) < place(10, 601, 2), "ten minutes make up for ten points");
        assert!(place(10, 599, 2) < place(0, 0, 1));
        let ever = |priority, since_ms, order| Place::new(priority, since_ms, Duration::ZERO, order);
        assert!(ever(1, u64::MAX, 2) < ever(0, 0, 1), "no wait makes up for anything");
        assert!(ever(100, 0, 1) < ever(99, 0, 0) && ever(-100, 0, 0) > ever(-99, 0, 1));
    }

    #[test]
    fn who_waits_for_a_key_is_not_looked_at_until_it_is_given_back() {
        let mut queue = Queue::default();
        let locked = Need { limits: vec![Limit { key: "disk".into(), max: 1 }], ..need("a") };
        for order in [1, 2] {
            queue.insert(locked.clone(), strict(0, order), TaskId::from_u128(order.into()));
        }
        queue.insert(need("a"), strict(0, 3), TaskId::from_u128(3));
        let (_, head) = queue.next_head(None).expect("a head");
        queue.park(&head, &head.limits[0]);
        queue.check();
        // More of the same class, also one that comes before: parked with it.
        queue.insert(locked.clone(), strict(9, 4), TaskId::from_u128(4));
        queue.check();
        assert_eq!(queue.next_head(None).map(|(place, _)| place), Some(strict(0, 3)));
        assert!(!queue.give_back("tape") && queue.give_back("disk"));
        queue.unpark();
        queue.check();
        assert_eq!(queue.next_head(None).map(|(place, _)| place), Some(strict(9, 4)));
        let (_, head) = queue.next_head(None).expect("a head");
        queue.park(&head, &head.limits[0]);
        for (priority, order) in [(9, 4), (0, 1), (0, 2)] {
            assert!(queue.remove(&locked, strict(priority, order)).is_some());
            queue.check();
        }
        assert!(!queue.give_back("disk"), "nobody is left that waits for it");
        assert_eq!(queue.len(), 1);
    }

    /// However many wait for a key, a place that is given back makes a few be looked at, the first ones, until there is
    /// none again.
    #[test]
    fn many_that_wait_for_one_key_are_looked_at_bit_by_bit() {
        let mut queue = Queue::default();
        let limit = |key: String| Limit { key, max: 1 };
        let need_of =
            |order: u64| Need { limits: vec![limit(format!("v{order}")), limit("pool".into())], ..need("a") };
        for order in 0..1_000 {
            queue.insert(need_of(order), strict(0, order), TaskId::from_u128(order.into()));
        }
        let park_heads = |queue: &mut Queue| {
            let mut parked = Vec::new();
            while let Some((place, need)) = queue.next_head(None) {
                queue.park(&need, &limit("pool".into()));
                parked.push(place);
            }
            queue.check();
            parked
        };
        assert_eq!(park_heads(&mut queue).len(), 1_000);
        assert!(queue.give_back("pool") && queue.is_roomy());
        queue.unpark();
        queue.check();
        assert!(queue.is_roomy(), "those may be of no use");
        // The first gets it, and the next one finds that there is none left.
        assert_eq!(queue.remove(&need_of(0), strict(0, 0)), Some(TaskId::from_u128(0)));
        assert_eq!(park_heads(&mut queue), (1..64).map(|order| strict(0, order)).collect::<Vec<_>>());
        assert!(!queue.is_roomy());
        // If nobody can use it, all are looked at in the end.
        assert!(queue.give_back("pool"));
        for _ in 0..16 {
            queue.unpark();
            queue.check();
        }
        assert!(!queue.is_roomy() && queue.parked.is_empty());
    }
    /// Each brings its own limit: who is let in only while nobody else runs must not hide one that four may be.
    #[test]
    fn those_of_a_smaller_limit_are_in_nobodys_way() {
        let mut queue = Queue::default();
        let limited = |order: u64, max| {
            let limits = vec![Limit { key: "pool".into(), max }, Limit { key: format!("v{order}"), max: 1 }];
            Need { limits, ..need("a") }
        };
        let all: Vec<_> = (0..200).map(|order| limited(order, 2)).chain([limited(200, 4)]).collect();
        for (order, need) in (0_u64..).zip(&all) {
            queue.insert(need.clone(), strict(0, order), TaskId::from_u128(order.into()));
        }
        while let Some((_, need)) = queue.next_head(None) {
            queue.park(&need, &need.limits[0]);
        }
        assert!(queue.give_back("pool"));
        let mut looked_at = BTreeSet::new();
        while queue.is_roomy() {
            queue.unpark();
            while let Some((place, need)) = queue.next_head(None) {
                looked_at.insert(place);
                queue.park(&need, &need.limits[0]);
            }
            queue.check();
        }
        assert!(looked_at.contains(&strict(0, 200)), "{looked_at:?}");
        assert!(looked_at.len() < 100, "{}", looked_at.len());
    }
}
