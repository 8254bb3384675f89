//! Finding a record by (address, protocol, port): open addressing over 64-bit cells.
//!
//! A kernel hash map costs 23 ns a lookup when it is in cache; this costs one cache line and a multiplication or two, and a cell is
//! replaced by a single store. The writer keeps runs shorter than [`PROBES`], so that a lookup is bounded.

use crate::{
    hash,
    tables::{Key, Tables},
};

/// Cells that a lookup looks at, at most.
pub const PROBES: u32 = 8;

/// Keys come from the configuration, not from strangers, so this seed need not be secret.
const SEED: u64 = 0x6675_7461_676f_0001;

/// Hash of a key: the tag in the upper half, the position to start at in the lower.
#[inline(always)]
pub const fn hash(key: &Key) -> u64 {
    hash::key(SEED, key.address, key.protocol, key.port)
}

/// What a cell names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A service, found by a packet's destination: record number in the service table.
    Service(u32),
    /// A `nat` backend, found by a packet's source: record number in the backend table.
    Reverse(u32),
    /// An address that services have, as such: record number of one of them.
    Vip(u32),
}

const KIND_SHIFT: u32 = 30;
const RECORD_MASK: u32 = (1 << KIND_SHIFT) - 1;
const EMPTY: u64 = 0;
/// A cell whose entry was removed; the lookup goes on past it.
pub const REMOVED: u64 = u32::MAX as u64;

impl Entry {
    /// The cell for this entry under a key with hash `hash`.
    pub const fn cell(self, hash: u64) -> u64 {
        let (kind, record) = match self {
            Self::Service(record) => (1, record),
            Self::Reverse(record) => (2, record),
            Self::Vip(record) => (0, record + 1),
        };
        (hash & !(u32::MAX as u64)) | (kind << KIND_SHIFT | record & RECORD_MASK) as u64
    }

    /// What a cell names; `None` for an empty or removed one.
    #[inline(always)]
    pub const fn from_cell(cell: u64) -> Option<Self> {
        let value = cell as u32;
        let record = value & RECORD_MASK;
        match value >> KIND_SHIFT {
            1 => Some(Self::Service(record)),
            2 => Some(Self::Reverse(record)),
            0 if record > 0 => Some(Self::Vip(record - 1)),
            _ => None,
        }
    }
}

/// Where the search for a key begins.
#[inline(always)]
pub const fn start(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// Finds a key. The tag has 32 bits: the caller compares the record's key.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, key: &Key) -> Option<Entry> {
    let hash = hash(key);
    let mask = tables.index_mask();
    let mut position = start(hash, mask);
    for _ in 0..PROBES {
        let cell = tables.cell(position);
        if cell == EMPTY {
            return None;
        }
        if (cell ^ hash) >> 32 == 0 && cell as u32 != REMOVED as u32 {
            return Entry::from_cell(cell);
        }
        position = (position + 1) & mask;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_keep_kind_and_record() {
        for entry in [
            Entry::Service(0),
            Entry::Service(77),
            Entry::Reverse(0),
            Entry::Reverse(9),
            Entry::Vip(0),
            Entry::Vip(5),
        ] {
            let cell = entry.cell(0xdead_beef_0000_0000);
            assert_eq!(Entry::from_cell(cell), Some(entry));
            assert_eq!(cell >> 32, 0xdead_beef);
            assert_ne!(cell as u32, REMOVED as u32);
        }
        assert_eq!(Entry::from_cell(EMPTY), None);
        assert_eq!(Entry::from_cell(REMOVED), None);
    }
}
