//! Frames and tables in ordinary memory, so that the host runs the kernel's code.

use std::{
    boxed::Box,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    vec,
    vec::Vec,
};

use crate::{
    address::Address,
    echo::Identity,
    flow_table::{HeapMemory, Ticks},
    frame::{Frame, view, view_mut},
    hash,
    lease::{Held, Lease},
    real_server::{Duties, Key, Outcome},
    reason::Reason,
    steering::{FlowSettings, FlowTable, Recorded},
    tables::{Backend, Counter, Route, RouteQuery, Service, Tables},
    wire::Wire,
};

/// Room before a frame, as an XDP driver leaves it.
const HEADROOM: usize = 256;

/// A frame in a buffer with headroom.
#[derive(Clone, Debug)]
pub struct SliceFrame {
    buffer: Vec<u8>,
    start: usize,
    ifindex: u32,
}

impl SliceFrame {
    pub fn new(bytes: &[u8], ifindex: u32) -> Self {
        let mut buffer = vec![0; HEADROOM];
        buffer.extend_from_slice(bytes);
        Self {
            buffer,
            start: HEADROOM,
            ifindex,
        }
    }

    /// The frame as it stands.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }
}

impl Frame for SliceFrame {
    fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        view(self.bytes(), offset)
    }

    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        view_mut(self.buffer.get_mut(self.start..)?, offset)
    }

    fn length(&self) -> usize {
        self.bytes().len()
    }

    fn adjust_head(&mut self, delta: i32) -> bool {
        // The kernel insists on an Ethernet header's worth of data.
        match self.start.checked_add_signed(delta as isize) {
            Some(start) if start + 14 <= self.buffer.len() => {
                self.start = start;
                true
            }
            _ => false,
        }
    }

    fn truncate(&mut self, length: usize) -> bool {
        self.buffer.truncate(self.start + length);
        self.length() == length
    }

    fn ingress_ifindex(&self) -> u32 {
        self.ifindex
    }
}

/// Tables on the heap. Fields are open: tests write them as the daemon writes the mapped ones.
#[derive(Debug, Default)]
pub struct HeapTables {
    pub cells: Vec<u64>,
    pub services: Vec<Service>,
    pub slots: Vec<u32>,
    pub backends: Box<[Backend]>,
    pub routes: BTreeMap<[u8; 16], Route>,
    /// Backend record → what was counted.
    pub backend_counters: RefCell<BTreeMap<u32, Counter>>,
    /// By the reason's number.
    pub reason_counters: RefCell<BTreeMap<u32, Counter>>,
    pub identity: Identity,
    /// By the router's key.
    pub leases: BTreeMap<u16, Lease>,
    /// By place.
    pub held: BTreeMap<u32, Held>,
    pub boot_ns: u64,
    /// Words of the table of fragments that were written.
    pub fragments: RefCell<BTreeMap<u32, u64>>,
    /// State of the random numbers.
    pub randoms: Cell<u32>,
    pub flows: HeapFlows,
    /// The clock of the flow tables.
    pub now: Ticks,
    /// By the service's record: when a flow last found no room.
    pub unrecorded: RefCell<BTreeMap<u32, Ticks>>,
    /// By the service's record: how many flows were recorded of late.
    pub recorded: RefCell<BTreeMap<u32, Recorded>>,
}

/// Flow tables on the heap, of one size.
#[derive(Clone, Debug)]
pub struct HeapFlows {
    memories: [HeapMemory; FlowTable::ALL.len()],
    settings: FlowSettings,
}

impl HeapFlows {
    /// `sets` is a power of two.
    pub fn new(sets: u32, seed: u64) -> Self {
        let mask = sets - 1;
        Self {
            memories: FlowTable::ALL.map(|table| HeapMemory::with_words(table.set_words(), sets)),
            settings: FlowSettings {
                flow_mask: mask,
                half_open_mask: mask,
                seed,
            },
        }
    }
}

impl Default for HeapFlows {
    fn default() -> Self {
        Self::new(16, 0x5eed)
    }
}

impl HeapTables {
    /// Packets counted for `reason`.
    pub fn counted(&self, reason: Reason) -> u64 {
        self.reason_counters
            .borrow()
            .get(&(reason as u32))
            .map_or(0, |counter| counter.packets)
    }

    /// Sets the route to an address.
    pub fn set_route(&mut self, destination: Address, route: Route) {
        self.routes.insert(destination.to_v6(), route);
    }
}

impl Tables for HeapTables {
    type Memory = HeapMemory;

    fn flow_memory(&self, table: FlowTable) -> HeapMemory {
        let [flows4, half_open4, flows6, half_open6] = &self.flows.memories;
        match table {
            FlowTable::Flows4 => flows4,
            FlowTable::HalfOpen4 => half_open4,
            FlowTable::Flows6 => flows6,
            FlowTable::HalfOpen6 => half_open6,
        }
        .clone()
    }

    fn flow_settings(&self) -> FlowSettings {
        self.flows.settings
    }

    fn now(&self) -> Ticks {
        self.now
    }

    fn may_record(&self, service: u32, limit: u32) -> bool {
        let mut recorded = self.recorded.borrow_mut();
        let recorded = recorded.entry(service).or_default();
        match recorded.one_more(self.now, limit) {
            Some(more) => {
                *recorded = more;
                true
            }
            None => false,
        }
    }

    fn note_unrecorded(&self, service: u32) {
        self.unrecorded.borrow_mut().insert(service, self.now);
    }

    fn index_mask(&self) -> u32 {
        (self.cells.len() as u32).wrapping_sub(1)
    }

    fn cell(&self, position: u32) -> u64 {
        self.cells.get(position as usize).copied().unwrap_or(0)
    }

    fn service(&self, record: u32) -> Option<&Service> {
        self.services.get(record as usize)
    }

    fn slot(&self, position: u32) -> Option<u32> {
        self.slots.get(position as usize).copied()
    }

    fn backend(&self, record: u32) -> Option<&Backend> {
        self.backends.get(record as usize)
    }

    fn route(&self, query: &RouteQuery) -> Route {
        self.routes
            .get(&query.destination.to_v6())
            .copied()
            .unwrap_or(Route::None)
    }

    fn count_backend(&self, record: u32, bytes: u32) {
        add(&mut self.backend_counters.borrow_mut(), record, bytes);
    }

    fn count(&self, reason: Reason, bytes: u32) {
        add(&mut self.reason_counters.borrow_mut(), reason as u32, bytes);
    }

    fn identity(&self) -> Identity {
        self.identity
    }

    fn lease(&self, router: u16) -> Lease {
        self.leases.get(&router).copied().unwrap_or_default()
    }

    fn held(&self, position: u32) -> Held {
        self.held.get(&position).copied().unwrap_or_default()
    }

    fn boot_ns(&self) -> u64 {
        self.boot_ns
    }

    fn fragment_word(&self, position: u32) -> u64 {
        self.fragments.borrow().get(&position).copied().unwrap_or(0)
    }

    fn set_fragment_word(&self, position: u32, word: u64) {
        self.fragments.borrow_mut().insert(position, word);
    }

    fn random(&self) -> u32 {
        let next = hash::mix(u64::from(self.randoms.get()).wrapping_add(1)) as u32;
        self.randoms.replace(next)
    }
}

fn add(counters: &mut BTreeMap<u32, Counter>, key: u32, bytes: u32) {
    let counter = counters.entry(key).or_default();
    counter.packets += 1;
    counter.bytes += u64::from(bytes);
}

/// A real server's duties on the heap, and the ways that frames took.
#[derive(Debug, Default)]
pub struct HeapDuties {
    pub duties: BTreeMap<Key, Address>,
    pub outcomes: RefCell<Vec<Outcome>>,
}

impl Duties for HeapDuties {
    fn find(&self, key: &Key) -> Option<Address> {
        self.duties.get(key).copied()
    }

    fn count(&self, outcome: Outcome, _bytes: u32) {
        self.outcomes.borrow_mut().push(outcome);
    }
}
