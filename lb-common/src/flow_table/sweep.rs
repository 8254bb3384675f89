//! The table as user space sees it: entry by entry, in portions, without stopping those who use it.

use super::{Block, Control, KEY, Layout, Memory, Table, VALUE, Value, Words};

/// A flow in the table, as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<K, E> {
    /// Position in the table.
    pub index: u32,
    pub control: Control,
    pub value: Value,
    pub key: K,
    pub extra: E,
}

/// What a scan comes across.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit<K, E> {
    Flow(Entry<K, E>),
    /// An entry that is being filled. If it stays so, its writer has died.
    Claimed {
        index: u32,
        control: Control,
    },
}

impl<L: Layout, M: Memory> Table<L, M> {
    /// Entries of the table, used or not.
    pub const fn capacity(&self) -> u64 {
        (self.mask as u64 + 1) * L::WAYS as u64
    }

    /// Shows the used ones among `budget` entries from `cursor` on; where to go on, `None` at the end.
    pub fn scan(
        &self,
        cursor: u32,
        budget: u32,
        mut visit: impl FnMut(Visit<L::Key, L::Extra>),
    ) -> Option<u32> {
        let end = (u64::from(cursor) + u64::from(budget)).min(self.capacity());
        let mut index = u64::from(cursor);
        while index < end {
            let Some((set, first)) = self.locate(index as u32) else {
                break;
            };
            for way in first..L::WAYS {
                if index >= end {
                    break;
                }
                if let Some(found) = Self::visit(&set, index as u32, way * L::STRIDE) {
                    visit(found);
                }
                index += 1;
            }
        }
        (index < self.capacity()).then_some(index as u32)
    }

    /// Removes a flow if it is still as it was read; false if not.
    pub fn remove_if(&self, index: u32, control: Control, value: Value) -> bool {
        self.at(index).is_some_and(|(set, at)| {
            set.load(at + VALUE) == value.pack()
                && set.compare_exchange(at, control.0, control.free().0)
        })
    }

    /// Frees an entry whose writer has died while filling it. Only for a claim that is older than any writer can be late:
    /// one that lives would write into what is somebody else's then.
    pub fn release_claim(&self, index: u32, control: Control) -> bool {
        control.is_claimed()
            && self
                .at(index)
                .is_some_and(|(set, at)| set.compare_exchange(at, control.0, control.free().0))
    }

    /// Flows in the table. Looks at all entries.
    pub fn count(&self) -> u64 {
        let mut flows = 0;
        for set in (0..=self.mask).filter_map(|set| self.memory.set(set)) {
            for way in 0..L::WAYS {
                flows += u64::from(Control(set.load(way * L::STRIDE)).holds());
            }
        }
        flows
    }

    fn visit(set: &M::Set<'_>, index: u32, at: usize) -> Option<Visit<L::Key, L::Extra>> {
        let control = Control(set.load(at));
        if control.is_claimed() {
            return Some(Visit::Claimed { index, control });
        }
        if !control.holds() {
            return None;
        }
        let entry = Entry {
            index,
            control,
            value: Value::unpack(set.load(at + VALUE)),
            key: L::Key::read(set, at + KEY),
            extra: L::Extra::read(set, at + KEY + L::Key::WORDS),
        };
        // One that changed meanwhile is new; the next round sees it.
        (set.load(at) == control.0).then_some(Visit::Flow(entry))
    }

    fn locate(&self, index: u32) -> Option<(M::Set<'_>, usize)> {
        let ways = L::WAYS as u32;
        Some((
            self.memory.set(index / ways)?,
            index as usize & (L::WAYS - 1),
        ))
    }

    fn at(&self, index: u32) -> Option<(M::Set<'_>, usize)> {
        let (set, way) = self.locate(index)?;
        Some((set, way * L::STRIDE))
    }
}
