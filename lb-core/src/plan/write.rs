//! One store into the packet path's tables.

use lb_common::{
    address::Address,
    tables::{BackendState, NextHop, Service},
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
}

/// One store. Executed strictly in the order given: what a later one publishes, earlier ones have filled.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Packed slots from `first` on.
    Slots { first: u32, words: Vec<u32> },
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
