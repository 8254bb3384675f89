//! The flow tables, shared with the kernel: user space ages, lists and counts them as memory.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use lb_common::{
    flow_table::{Memory, Ticks},
    steering::{FlowSettings, FlowTable},
};
use lb_core::plan::write::Capacity;

use super::mapping::Mapped;

/// The sets of one table. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct MappedSets {
    words: Arc<Mapped<AtomicU64>>,
    set_words: u32,
}

impl Memory for MappedSets {
    type Set<'a> = &'a [AtomicU64];

    fn set(&self, index: u32) -> Option<&[AtomicU64]> {
        self.words
            .slice(index.checked_mul(self.set_words)?, self.set_words)
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

/// All flow tables. Clones are the same memory, and many threads may use them at once.
#[derive(Clone, Debug)]
pub struct MappedFlows {
    tables: [MappedSets; FlowTable::ALL.len()],
    settings: FlowSettings,
}

impl MappedFlows {
    /// Maps the tables, in the order of [`FlowTable::ALL`].
    pub fn new(
        maps: [BorrowedFd<'_>; FlowTable::ALL.len()],
        capacity: &Capacity,
        seed: u64,
    ) -> io::Result<Self> {
        let mut tables = Vec::new();
        for (table, map) in FlowTable::ALL.into_iter().zip(maps) {
            let set_words = table.set_words() as u32;
            let sets = match table {
                FlowTable::Flows4 | FlowTable::Flows6 => capacity.flow_sets,
                FlowTable::HalfOpen4 | FlowTable::HalfOpen6 => capacity.half_open_sets,
            };
            tables.push(MappedSets {
                words: Arc::new(Mapped::new(map, sets * set_words)?),
                set_words,
            });
        }
        Ok(Self {
            tables: tables
                .try_into()
                .map_err(|_| io::Error::other("a table for each map"))?,
            settings: settings(capacity, seed),
        })
    }

    pub fn memory(&self, table: FlowTable) -> MappedSets {
        self.tables[table as usize].clone()
    }

    pub fn settings(&self) -> FlowSettings {
        self.settings
    }
}

/// What the program and all who map the tables have to know alike.
pub fn settings(capacity: &Capacity, seed: u64) -> FlowSettings {
    FlowSettings {
        flow_mask: capacity.flow_sets - 1,
        half_open_mask: capacity.half_open_sets - 1,
        seed,
    }
}

/// The clock of the flow tables, as the program reads it.
pub fn ticks() -> Ticks {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a valid pointer; this clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    Ticks(now.tv_sec as u32)
}
