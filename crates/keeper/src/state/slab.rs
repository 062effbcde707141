//! Where znodes are kept: pages of slots, shared with images until they change.

use std::sync::Arc;

use super::node::Node;

/// Znodes to a page: what a change copies while an image is alive.
const PAGE: usize = 64;

/// The place of a znode. Never leaves the state: it says nothing about the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    const fn split(self) -> (usize, usize) {
        (self.0 as usize / PAGE, self.0 as usize % PAGE)
    }
}

type Page = [Option<Node>; PAGE];

/// The znodes. A copy costs one pointer per page.
#[derive(Clone, Debug, Default)]
pub(super) struct Slab {
    pages: Vec<Arc<Page>>,
    /// Slots to be used before new ones.
    free: Vec<Slot>,
    /// Slots that have ever been used.
    used: u32,
}

impl Slab {
    /// The number of znodes.
    pub(super) const fn len(&self) -> usize {
        self.used as usize - self.free.len()
    }

    /// The znode of a slot.
    ///
    /// # Panics
    /// There is none: slots are taken from the tree, which has those only that are in use.
    pub(super) fn get(&self, slot: Slot) -> &Node {
        let (page, index) = slot.split();
        self.pages[page][index].as_ref().expect("a slot of the tree is in use")
    }

    /// The znode of a slot, to be changed.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub(super) fn get_mut(&mut self, slot: Slot) -> &mut Node {
        self.cell(slot).as_mut().expect("a slot of the tree is in use")
    }

    pub(super) fn insert(&mut self, node: Node) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = Slot(self.used);
            self.used = self.used.checked_add(1).expect("memory ends before four billion znodes");
            if slot.split().0 == self.pages.len() {
                self.pages.push(Arc::new([const { None }; PAGE]));
            }
            slot
        });
        *self.cell(slot) = Some(node);
        slot
    }

    /// Takes a znode out.
    ///
    /// # Panics
    /// As [`get`](Self::get).
    pub(super) fn remove(&mut self, slot: Slot) -> Node {
        let node = self.cell(slot).take().expect("a slot of the tree is in use");
        self.free.push(slot);
        node
    }

    fn cell(&mut self, slot: Slot) -> &mut Option<Node> {
        let (page, index) = slot.split();
        &mut Arc::make_mut(&mut self.pages[page])[index]
    }
}
