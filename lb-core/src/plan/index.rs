//! The writer's side of the index: where a key's cell is, and where a new one may go.

use lb_common::{
    index::{Entry, PROBES, REMOVED, hash, start},
    tables::Key,
};

use super::write::Write;

/// What the index holds, kept beside the mapped one.
#[derive(Clone, Debug)]
pub struct Index {
    cells: Vec<u64>,
}

/// No place for a key within reach of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Index {
    /// An index of `cells` empty cells; a power of two.
    pub fn new(cells: u32) -> Self {
        Self {
            cells: vec![0; cells as usize],
        }
    }

    /// An index that holds what was read from the mapped one.
    pub const fn adopt(cells: Vec<u64>) -> Self {
        Self { cells }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.cells.iter().filter_map(|&cell| Entry::from_cell(cell))
    }

    /// Names `entry` under `key`, whatever was named before. No write if nothing changes.
    pub fn set(&mut self, key: &Key, entry: Entry) -> Result<Option<Write>, Full> {
        let hash = hash(key);
        let position = match self.position(hash) {
            Some(position) => position,
            None => self
                .probes(hash)
                .find(|&at| matches!(self.cells[at], 0 | REMOVED))
                .ok_or(Full)?,
        };
        let value = entry.cell(hash);
        if self.cells[position] == value {
            return Ok(None);
        }
        self.cells[position] = value;
        Ok(Some(Write::Cell {
            position: position as u32,
            value,
        }))
    }

    /// Whether [`set`](Self::set) would find room.
    pub fn has_room(&self, key: &Key) -> bool {
        let hash = hash(key);
        self.position(hash).is_some()
            || self
                .probes(hash)
                .any(|at| matches!(self.cells[at], 0 | REMOVED))
    }

    /// Removes a key. Lookups go on past a removed cell, unless nothing follows it.
    pub fn remove(&mut self, key: &Key) -> Option<Write> {
        let position = self.position(hash(key))?;
        let next = (position + 1) & (self.cells.len() - 1);
        let value = if self.cells[next] == 0 { 0 } else { REMOVED };
        self.cells[position] = value;
        Some(Write::Cell {
            position: position as u32,
            value,
        })
    }

    fn position(&self, hash: u64) -> Option<usize> {
        self.probes(hash)
            .take_while(|&at| self.cells[at] != 0)
            .find(|&at| self.cells[at] != REMOVED && (self.cells[at] ^ hash) >> 32 == 0)
    }

    fn probes(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let mask = self.cells.len() as u32 - 1;
        let first = start(hash, mask);
        (0..PROBES).map(move |step| (first.wrapping_add(step) & mask) as usize)
    }
}
