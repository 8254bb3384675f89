//! One store into the packet path's tables.

use lb_common::{
    address::Address,
    host::HeapTables,
    tables::{Backend, BackendState, NextHop, Service},
};

/// How many entries each table has. Fixed when the maps are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Cells of the index; a power of two.
    pub cells: u32,
    pub services: u32,
    /// Slots of all services together, those of tables under construction included; even.
    pub slots: u32,
    pub backends: u32,
    /// Sets of the tables of established flows, of each address family; a power of two.
    pub flow_sets: u32,
    /// Sets of the tables of half-open flows, of each address family; a power of two.
    pub half_open_sets: u32,
}

/// One store. Executed strictly in the order given: what a later one publishes, earlier ones have filled.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Packed slots from `first` on.
    Slots { first: u32, words: Vec<u32> },
    /// What packets note of a service begins as it is with another record, or anew.
    Notes { record: u32, from: Option<u32> },
    /// A record that no cell names yet.
    Service { record: u32, service: Service },
    /// A record that no slot names yet; both copies of the next hop are set.
    Backend {
        record: u32,
        address: Address,
        next_hop: NextHop,
        /// Outer source of a tunnel to it; copies as of the next hop.
        tunnel_source: Address,
        state: BackendState,
    },
    /// The copy that is not valid now, then `state`, which makes it valid.
    NextHop {
        record: u32,
        next_hop: NextHop,
        /// Outer source of a tunnel to it; copies as of the next hop.
        tunnel_source: Address,
        state: BackendState,
    },
    /// The part of a backend that changes while packets use it: one store.
    State { record: u32, state: BackendState },
    /// Packets and bytes of a backend's record, on all CPUs.
    ClearCounters { record: u32 },
    /// A cell of the index: one store, the moment at which things become true.
    Cell { position: u32, value: u64 },
}

impl Write {
    /// Executes it on tables on the heap, as the daemon does on the mapped ones.
    ///
    /// # Panics
    /// If it names something that the tables do not have: a defect of what planned it.
    pub fn execute(&self, tables: &mut HeapTables) {
        match self {
            Self::Slots { first, words } => {
                tables.slots[*first as usize..][..words.len()].copy_from_slice(words);
            }
            Self::Notes { record, from } => {
                let mut unrecorded = tables.unrecorded.borrow_mut();
                let before = from.and_then(|from| unrecorded.get(&from).copied());
                match before {
                    Some(time) => unrecorded.insert(*record, time),
                    None => unrecorded.remove(record),
                };
            }
            Self::Service { record, service } => tables.services[*record as usize] = *service,
            Self::Backend {
                record,
                address,
                next_hop,
                tunnel_source,
                state,
            } => {
                tables.backends[*record as usize] = Backend {
                    address: *address,
                    next_hops: [*next_hop; 2],
                    state: state.pack(),
                    tunnel_sources: [*tunnel_source; 2],
                    reserved: [0; 4],
                };
            }
            Self::NextHop {
                record,
                next_hop,
                tunnel_source,
                state,
            } => {
                let backend = &mut tables.backends[*record as usize];
                backend.next_hops[usize::from(state.next_hop)] = *next_hop;
                backend.tunnel_sources[usize::from(state.next_hop)] = *tunnel_source;
                backend.state = state.pack();
            }
            Self::State { record, state } => {
                tables.backends[*record as usize].state = state.pack();
            }
            Self::ClearCounters { record } => {
                tables.backend_counters.borrow_mut().remove(record);
            }
            Self::Cell { position, value } => tables.cells[*position as usize] = *value,
        }
    }
}

impl Capacity {
    /// Empty tables on the heap of this capacity.
    pub fn heap(&self) -> HeapTables {
        HeapTables {
            cells: vec![0; self.cells as usize],
            services: vec![Service::default(); self.services as usize],
            slots: vec![0; self.slots as usize],
            backends: vec![Backend::default(); self.backends as usize].into(),
            ..HeapTables::default()
        }
    }
}
