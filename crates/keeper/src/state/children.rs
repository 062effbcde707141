//! The children of a znode: names and where they are, in order.
//!
//! ```text
//! Children ── chunks ──► [Arc<Chunk> "a".."f"] [Arc<Chunk> "g".."p"] ...
//!                         Chunk: one string "abeaverfox", and (end, slot) of each name
//! ```
//! Names lie end to end in one allocation per chunk. A copy shares the chunks; a change then copies one of them.
//! So a million children cost little more than their names, and an image of them nearly nothing.

use std::cmp::Ordering;
use std::sync::Arc;

use super::slab::Slot;

/// A chunk is full with this many names,
const NAMES_MAX: usize = 64;
/// or with this many bytes of names.
const BYTES_MAX: usize = 4096;

/// A sorted map of names to slots.
#[derive(Clone, Debug, Default)]
pub(super) struct Children {
    /// None is empty, each is below the next.
    chunks: Vec<Arc<Chunk>>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    names: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where the name ends in `names`; it begins where the one before ends.
    end: u32,
    slot: Slot,
}

impl Children {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, name: &str) -> Option<Slot> {
        let chunk = self.chunks.get(self.position(name)?)?;
        let entry = chunk.find(name).ok()?;
        Some(chunk.entries[entry].slot)
    }

    /// Adds a name. Says whether it did: `false` if the name is there.
    pub(super) fn insert(&mut self, name: &str, slot: Slot) -> bool {
        let at = self.position(name).unwrap_or(0);
        let Some(chunk) = self.chunks.get_mut(at) else {
            self.chunks.push(Arc::new(Chunk::of(name, slot)));
            self.len = 1;
            return true;
        };
        let Err(index) = chunk.find(name) else { return false };
        self.len += 1;
        if !chunk.is_full() {
            Arc::make_mut(chunk).insert(index, name, slot);
        } else if index == chunk.entries.len() {
            // Counters grow at the end: leave full chunks behind, not halves.
            Arc::make_mut(chunk).shrink();
            self.chunks.insert(at + 1, Arc::new(Chunk::of(name, slot)));
        } else {
            let lower = Arc::make_mut(chunk);
            let mut upper = lower.split();
            match index.checked_sub(lower.entries.len()) {
                Some(index) if index > 0 => upper.insert(index, name, slot),
                _ => lower.insert(index, name, slot),
            }
            self.chunks.insert(at + 1, Arc::new(upper));
        }
        true
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Slot> {
        let at = self.position(name)?;
        let chunk = self.chunks.get_mut(at)?;
        let index = chunk.find(name).ok()?;
        let slot = chunk.entries[index].slot;
        self.len -= 1;
        if chunk.entries.len() == 1 {
            self.chunks.remove(at);
        } else {
            Arc::make_mut(chunk).remove(index);
        }
        Some(slot)
    }

    /// The names in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, Slot)> {
        self.chunks.iter().flat_map(|chunk| {
            (0..chunk.entries.len()).map(|index| (chunk.name(index), chunk.entries[index].slot))
        })
    }

    /// The chunk in which the name is, if it is anywhere: the last that does not begin above it.
    fn position(&self, name: &str) -> Option<usize> {
        // Counters again: most names that are looked for are the latest.
        let last = self.chunks.len().checked_sub(1)?;
        if self.chunks[last].name(0) <= name {
            return Some(last);
        }
        self.chunks.partition_point(|chunk| chunk.name(0) <= name).checked_sub(1)
    }
}

impl Chunk {
    fn of(name: &str, slot: Slot) -> Self {
        Self { names: name.to_owned(), entries: vec![Entry { end: offset(name.len()), slot }] }
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= NAMES_MAX || self.names.len() >= BYTES_MAX
    }

    fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.entries[before].end as usize)
    }

    fn name(&self, index: usize) -> &str {
        &self.names[self.start(index)..self.entries[index].end as usize]
    }

    /// Where the name is, or where it would be.
    fn find(&self, name: &str) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.name(middle).cmp(name) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    fn insert(&mut self, index: usize, name: &str, slot: Slot) {
        let start = self.start(index);
        self.names.insert_str(start, name);
        let length = offset(name.len());
        self.entries.insert(index, Entry { end: offset(start), slot });
        for entry in &mut self.entries[index..] {
            entry.end += length;
        }
    }

    fn remove(&mut self, index: usize) {
        let range = self.start(index)..self.entries[index].end as usize;
        let length = offset(range.len());
        self.names.replace_range(range, "");
        self.entries.remove(index);
        for entry in &mut self.entries[index..] {
            entry.end -= length;
        }
    }

    /// Keeps the lower half, gives the upper one.
    fn split(&mut self) -> Self {
        let index = self.entries.len() / 2;
        let start = self.start(index);
        let names = self.names.split_off(start);
        let mut entries = self.entries.split_off(index);
        for entry in &mut entries {
            entry.end -= offset(start);
        }
        self.shrink();
        Self { names, entries }
    }

    fn shrink(&mut self) {
        self.names.shrink_to_fit();
        self.entries.shrink_to_fit();
    }
}

/// An offset into the names of one chunk: those are at most 4 KiB and one name, which a frame has brought.
fn offset(offset: usize) -> u32 {
    u32::try_from(offset).expect("the names of a chunk fit into a few frames")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn check(children: &Children, model: &BTreeMap<String, Slot>) {
        let names: Vec<_> = children.iter().map(|(name, slot)| (name.to_owned(), slot)).collect();
        let expected: Vec<_> = model.iter().map(|(name, slot)| (name.clone(), *slot)).collect();
        assert_eq!(names, expected);
        assert_eq!(children.len(), model.len());
    }

    proptest! {
        // Each case is long enough to split chunks.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_is_a_map(ops in proptest::collection::vec((any::<bool>(), "[a-c]{1,5}|é{1,40}", any::<u32>()), 0..1500)) {
            let mut children = Children::default();
            let mut model = BTreeMap::new();
            let before = children.clone();
            for (insert, name, slot) in ops {
                let slot = Slot(slot);
                if insert {
                    let new = !model.contains_key(&name);
                    prop_assert_eq!(children.insert(&name, slot), new);
                    model.entry(name).or_insert(slot);
                } else {
                    prop_assert_eq!(children.get(&name), model.get(&name).copied());
                    prop_assert_eq!(children.remove(&name), model.remove(&name));
                }
            }
            check(&children, &model);
            check(&before, &BTreeMap::new());
        }
    }

    #[test]
    fn counters_fill_chunks_and_a_copy_stays_as_it_is() {
        let mut children = Children::default();
        let mut model = BTreeMap::new();
        for number in 0..1000 {
            let name = format!("n-{number:010}");
            children.insert(&name, Slot(number));
            model.insert(name, Slot(number));
        }
        assert_eq!(children.chunks.len(), 1000_usize.div_ceil(NAMES_MAX));
        let copy = children.clone();
        for number in 0..1000 {
            children.remove(&format!("n-{number:010}"));
        }
        check(&children, &BTreeMap::new());
        check(&copy, &model);
    }
}
