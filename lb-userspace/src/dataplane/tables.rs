//! The tables of the packet path, read and written as the kernel reads them.

use std::{
    collections::BTreeMap,
    fmt, io,
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use lb_common::{
    address::Address,
    flow_table::Ticks,
    index::Entry,
    reason::Reason,
    steering::{FlowSettings, FlowTable, Notes},
    tables::{
        Backend, BackendState, Counter, NextHop, Route, RouteQuery, Service, Settings, Tables,
    },
};
use lb_core::plan::write::{Capacity, Write};

use super::{
    flows::{self, MappedFlows, MappedSets},
    mapping::{Element, Mapped},
};

// Slots are written as the halves of an element; the kernel's program takes the even slot from its lower half.
const _: () = assert!(cfg!(target_endian = "little"));

/// A [`Counter`] that one CPU counts in while we read.
#[repr(C)]
pub struct CounterCell {
    packets: AtomicU64,
    bytes: AtomicU64,
}

// SAFETY: two atomic integers without padding.
unsafe impl Element for CounterCell {}

impl CounterCell {
    fn read(&self) -> Counter {
        Counter {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn clear(&self) {
        self.packets.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// Why a list of writes was refused. It is a defect of what planned them; no table has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error(
        "write {write} of the plan names {table} {first} to {last}, but there are {capacity}; nothing was written"
    )]
    OutOfRange {
        /// Its position in the list, from 0.
        write: usize,
        table: &'static str,
        first: u64,
        last: u64,
        capacity: u32,
    },
    #[error(
        "write {write} of the plan would change the next hop of backend {record} that packets use; nothing was written"
    )]
    NextHopInUse { write: usize, record: u32 },
}

/// The descriptors of the maps.
pub struct MapDescriptors<'a> {
    pub index: BorrowedFd<'a>,
    pub services: BorrowedFd<'a>,
    pub slots: BorrowedFd<'a>,
    pub backends: BorrowedFd<'a>,
    pub backend_counters: BorrowedFd<'a>,
    pub reason_counters: BorrowedFd<'a>,
    pub notes: BorrowedFd<'a>,
    pub flows: [BorrowedFd<'a>; FlowTable::ALL.len()],
}

type Routes = Box<dyn Fn(&RouteQuery) -> Route + Send + Sync>;

/// The tables in memory. There is one writer: whoever owns this.
pub struct MappedTables {
    capacity: Capacity,
    cpus: u32,
    index: Mapped<AtomicU64>,
    services: Mapped<Service>,
    slots: Mapped<AtomicU32>,
    backends: Mapped<Backend>,
    backend_counters: Mapped<CounterCell>,
    reason_counters: Mapped<CounterCell>,
    notes: Mapped<AtomicU64>,
    flows: MappedFlows,
    routes: Option<Routes>,
}

impl MappedTables {
    /// Maps all tables; their maps have the shapes that belong to the capacity and the number of CPUs.
    /// `seed` is that of the flow tables' hash.
    pub fn new(
        maps: &MapDescriptors<'_>,
        capacity: Capacity,
        cpus: u32,
        seed: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            capacity,
            cpus,
            index: Mapped::new(maps.index, capacity.cells)?,
            services: Mapped::new(maps.services, capacity.services)?,
            slots: Mapped::new(maps.slots, capacity.slots)?,
            backends: Mapped::new(maps.backends, capacity.backends)?,
            backend_counters: Mapped::new(maps.backend_counters, capacity.backends * cpus)?,
            reason_counters: Mapped::new(maps.reason_counters, Settings::REASONS * cpus)?,
            notes: Mapped::new(maps.notes, capacity.services)?,
            flows: MappedFlows::new(maps.flows, &capacity, seed)?,
            routes: None,
        })
    }

    /// The records of flows.
    pub fn flows(&self) -> &MappedFlows {
        &self.flows
    }

    /// What packets have noted of the service with this record.
    pub fn notes(&self, record: u32) -> Notes {
        let word = self.notes.get(record);
        Notes::unpack(word.map_or(0, |word| word.load(Ordering::Acquire)))
    }

    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// What [`Tables::route`] answers from now on; before, it knows no route. For tests that run the packet path in user space.
    pub fn set_routes(&mut self, routes: impl Fn(&RouteQuery) -> Route + Send + Sync + 'static) {
        self.routes = Some(Box::new(routes));
    }

    /// Executes the writes in their order; a packet that sees one sees all before it.
    ///
    /// # Errors
    /// If one of them names something that does not exist or is in use; none has been executed then.
    pub fn apply(&mut self, writes: &[Write]) -> Result<(), WriteError> {
        self.check(writes)?;
        for write in writes {
            self.execute(write);
        }
        Ok(())
    }

    /// Packets and bytes sent to a backend, by all CPUs; zero if there is no such record.
    pub fn backend_counter(&self, record: u32) -> Counter {
        if record >= self.capacity.backends {
            return Counter::default();
        }
        sum(
            &self.backend_counters,
            self.cpus,
            self.capacity.backends,
            record,
        )
    }

    /// Packets and bytes of every way out of the packet path, by all CPUs.
    pub fn reason_counters(&self) -> [(Reason, Counter); Reason::ALL.len()] {
        std::array::from_fn(|slot| {
            let reason = Reason::ALL[slot];
            let counter = sum(
                &self.reason_counters,
                self.cpus,
                Settings::REASONS,
                reason as u32,
            );
            (reason, counter)
        })
    }

    fn check(&self, writes: &[Write]) -> Result<(), WriteError> {
        let Capacity {
            cells,
            services,
            slots,
            backends,
            ..
        } = self.capacity;
        // Which copy of the next hop is valid, where earlier writes of the list have changed it.
        let mut valid = BTreeMap::new();
        for (position, write) in writes.iter().enumerate() {
            let within = |table, first: u32, count: u32, capacity: u32| {
                let (first, count) = (u64::from(first), u64::from(count));
                if first + count <= u64::from(capacity) {
                    return Ok(());
                }
                Err(WriteError::OutOfRange {
                    write: position,
                    table,
                    first,
                    last: (first + count).saturating_sub(1),
                    capacity,
                })
            };
            match write {
                Write::Slots { first, words } => {
                    let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
                    within("slots", *first, count, slots)?;
                }
                Write::Notes { record, from } => {
                    within("service", *record, 1, services)?;
                    within("service", from.unwrap_or(*record), 1, services)?;
                }
                Write::Service { record, service } => {
                    within("service", *record, 1, services)?;
                    within("slots", service.slot_base, service.slot_count, slots)?;
                    // Number 0 is never used, so the base may lie one before the table.
                    let first = service.backend_base.wrapping_add(1);
                    within("backends", first, service.backend_count, backends)?;
                }
                Write::Backend { record, state, .. } | Write::State { record, state } => {
                    within("backend", *record, 1, backends)?;
                    within("service", state.service, 1, services)?;
                    valid.insert(*record, state.next_hop);
                }
                Write::NextHop { record, state, .. } => {
                    within("backend", *record, 1, backends)?;
                    within("service", state.service, 1, services)?;
                    let before = valid.insert(*record, state.next_hop).or_else(|| {
                        self.backends
                            .get(*record)
                            .map(|backend| backend.state().next_hop)
                    });
                    if before == Some(state.next_hop) {
                        return Err(WriteError::NextHopInUse {
                            write: position,
                            record: *record,
                        });
                    }
                }
                Write::ClearCounters { record } => within("backend", *record, 1, backends)?,
                Write::Cell { position, value } => {
                    within("cell", *position, 1, cells)?;
                    match Entry::from_cell(*value) {
                        Some(Entry::Service(record) | Entry::Vip(record)) => {
                            within("service", record, 1, services)?;
                        }
                        Some(Entry::Reverse(record)) => within("backend", record, 1, backends)?,
                        None => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Executes a write that was checked.
    fn execute(&mut self, write: &Write) {
        let written = match write {
            Write::Slots { first, words } => words.iter().zip(*first..).all(|(word, position)| {
                // Release, as for all that may be in use already: what it names was filled before.
                let slot = self.slots.get(position);
                slot.map(|slot| slot.store(*word, Ordering::Release))
                    .is_some()
            }),
            Write::Notes { record, from } => {
                let before = from.and_then(|from| self.notes.get(from));
                let before = before.map_or(0, |word| word.load(Ordering::Acquire));
                let place = self.notes.get(*record);
                place
                    .map(|word| word.store(before, Ordering::Release))
                    .is_some()
            }
            Write::Service { record, service } => self.services.write(*record, *service),
            Write::Backend {
                record,
                address,
                next_hop,
                tunnel_source,
                state,
            } => self.backends.write(
                *record,
                Backend {
                    address: *address,
                    next_hops: [*next_hop; 2],
                    state: state.pack(),
                    tunnel_sources: [*tunnel_source; 2],
                    reserved: [0; 4],
                },
            ),
            Write::NextHop {
                record,
                next_hop,
                tunnel_source,
                state,
            } => {
                self.write_next_hop(*record, state.next_hop, *next_hop, *tunnel_source);
                self.publish_state(*record, *state)
            }
            Write::State { record, state } => self.publish_state(*record, *state),
            Write::ClearCounters { record } => (0..self.cpus).all(|cpu| {
                let cell = self
                    .backend_counters
                    .get(cpu * self.capacity.backends + record);
                cell.map(CounterCell::clear).is_some()
            }),
            Write::Cell { position, value } => {
                let cell = self.index.get(*position);
                cell.map(|cell| cell.store(*value, Ordering::Release))
                    .is_some()
            }
        };
        debug_assert!(written, "checked before: {write:?}");
    }

    fn write_next_hop(&mut self, record: u32, copy: u8, next_hop: NextHop, source: Address) {
        if let Some(backend) = self.backends.pointer(record) {
            // SAFETY: inside an element of the mapping; this copy is not valid now, so no packet depends on it.
            unsafe {
                let copies = (&raw mut (*backend).next_hops).cast::<NextHop>();
                copies.add(usize::from(copy & 1)).write_volatile(next_hop);
                let copies = (&raw mut (*backend).tunnel_sources).cast::<Address>();
                copies.add(usize::from(copy & 1)).write_volatile(source);
            }
        }
    }

    fn publish_state(&mut self, record: u32, state: BackendState) -> bool {
        let Some(backend) = self.backends.pointer(record) else {
            return false;
        };
        // SAFETY: an aligned word inside an element of the mapping; `&mut self` excludes other references to it.
        let word = unsafe { AtomicU64::from_ptr(&raw mut (*backend).state) };
        word.store(state.pack(), Ordering::Release);
        true
    }
}

fn sum(counters: &Mapped<CounterCell>, cpus: u32, row: u32, column: u32) -> Counter {
    let cells = (0..cpus).filter_map(|cpu| counters.get(cpu * row + column));
    cells
        .map(CounterCell::read)
        .fold(Counter::default(), |sum, one| Counter {
            packets: sum.packets.wrapping_add(one.packets),
            bytes: sum.bytes.wrapping_add(one.bytes),
        })
}

impl Tables for MappedTables {
    type Memory = MappedSets;

    fn flow_memory(&self, table: FlowTable) -> MappedSets {
        self.flows.memory(table)
    }

    fn flow_settings(&self) -> FlowSettings {
        self.flows.settings()
    }

    fn now(&self) -> Ticks {
        flows::ticks()
    }

    fn note_unrecorded(&self, service: u32) {
        if let Some(notes) = self.notes.get(service) {
            let noted = Notes {
                unrecorded: Some(self.now()),
            };
            notes.store(noted.pack(), Ordering::Release);
        }
    }

    fn index_mask(&self) -> u32 {
        self.capacity.cells - 1
    }

    fn cell(&self, position: u32) -> u64 {
        self.index
            .get(position)
            .map_or(0, |cell| cell.load(Ordering::Acquire))
    }

    fn service(&self, record: u32) -> Option<&Service> {
        self.services.get(record)
    }

    fn slot(&self, position: u32) -> Option<u32> {
        Some(self.slots.get(position)?.load(Ordering::Acquire))
    }

    fn backend(&self, record: u32) -> Option<&Backend> {
        self.backends.get(record)
    }

    fn route(&self, query: &RouteQuery) -> Route {
        self.routes
            .as_ref()
            .map_or(Route::None, |routes| routes(query))
    }

    /// Counts nothing: the counters belong to the program, each to one CPU of it.
    fn count_backend(&self, _record: u32, _bytes: u32) {}

    /// As [`count_backend`](Self::count_backend).
    fn count(&self, _reason: Reason, _bytes: u32) {}
}

impl fmt::Debug for MappedTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedTables")
            .field("capacity", &self.capacity)
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use lb_common::{
        address::Address,
        tables::{Key, Slot},
    };

    use super::*;
    use crate::dataplane::{
        mapping::tests::memory,
        maps::{MapShape, Shapes},
    };

    const CAPACITY: Capacity = Capacity {
        cells: 16,
        services: 4,
        slots: 64,
        backends: 8,
        flow_sets: 2,
        half_open_sets: 1,
    };
    const CPUS: u32 = 3;

    struct Memory(Vec<File>);

    impl Memory {
        fn new() -> Self {
            let shapes = Shapes::new(&CAPACITY, CPUS).expect("a valid capacity");
            let file = |map: &MapShape| {
                memory((u64::from(map.value_bytes) * u64::from(map.entries)).next_multiple_of(4096))
            };
            Self(shapes.all().iter().map(file).collect())
        }

        fn map(&self) -> MappedTables {
            let mut files = self.0.iter().map(AsFd::as_fd);
            let mut next = || files.next().expect("a file for each map");
            // In the order of `Shapes::all`; the maps of the election are not mapped here.
            let maps = MapDescriptors {
                index: next(),
                services: next(),
                slots: next(),
                backends: next(),
                backend_counters: next(),
                reason_counters: next(),
                notes: {
                    let [.., notes] = std::array::from_fn::<_, 5, _>(|_| next());
                    notes
                },
                flows: std::array::from_fn(|_| next()),
            };
            MappedTables::new(&maps, CAPACITY, CPUS, 1).expect("mapped")
        }
    }

    fn backend(record: u32, ifindex: u32, next_hop: u8) -> Write {
        Write::Backend {
            tunnel_source: Address::default(),
            record,
            address: Address::from_v4([10, 0, 0, 1]),
            next_hop: hop(ifindex),
            state: state(next_hop),
        }
    }

    fn hop(ifindex: u32) -> NextHop {
        NextHop {
            ifindex,
            ..NextHop::default()
        }
    }

    fn state(next_hop: u8) -> BackendState {
        BackendState {
            next_hop,
            port: 80,
            ..BackendState::default()
        }
    }

    fn service(slot_base: u32, backend_base: u32) -> Service {
        Service {
            key: Key::new(Address::from_v4([10, 9, 9, 9]), 6, 80),
            seed: 1,
            slot_base,
            slot_count: 7,
            backend_base,
            backend_count: 2,
            mode: 1,
            hash: 0,
            ..Service::default()
        }
    }

    #[test]
    fn writes_arrive_where_the_packet_path_reads() {
        let memory = Memory::new();
        let mut tables = memory.map();
        let words: Vec<u32> = (1..=5).map(|n| Slot::settled(n).pack()).collect();
        let cell = Entry::Service(3).cell(0xabcd_0000_0000_0000);
        tables
            .apply(&[
                backend(2, 4, 0),
                Write::Slots {
                    first: 3,
                    words: words.clone(),
                },
                Write::Service {
                    record: 3,
                    service: service(3, u32::MAX),
                },
                Write::Cell {
                    position: 15,
                    value: cell,
                },
            ])
            .expect("inside the tables");
        // Another mapping of the same memory, as a restarted daemon has it.
        let tables = memory.map();
        assert_eq!(tables.cell(15), cell);
        assert_eq!(tables.service(3).map(|service| service.slot_base), Some(3));
        let read: Vec<u32> = (3..8).filter_map(|slot| tables.slot(slot)).collect();
        assert_eq!(read, words);
        assert_eq!(tables.slot(2), Some(0));
        let written = tables.backend(2).expect("inside");
        assert_eq!(written.state(), state(0));
        assert_eq!(written.next_hops, [hop(4); 2]);
    }

    #[test]
    fn a_next_hop_changes_in_the_copy_that_is_not_in_use() {
        let memory = Memory::new();
        let mut tables = memory.map();
        let next_hop = |copy, ifindex| Write::NextHop {
            tunnel_source: Address::default(),
            record: 1,
            next_hop: hop(ifindex),
            state: state(copy),
        };
        tables
            .apply(&[backend(1, 4, 0), next_hop(1, 5)])
            .expect("valid");
        assert_eq!(
            tables.backend(1).map(|backend| backend.next_hops),
            Some([hop(4), hop(5)])
        );
        assert_eq!(
            tables.apply(&[next_hop(1, 6)]),
            Err(WriteError::NextHopInUse {
                write: 0,
                record: 1
            })
        );
        tables
            .apply(&[next_hop(0, 7), next_hop(1, 8)])
            .expect("they alternate");
        let written = tables.backend(1).expect("inside");
        assert_eq!(written.next_hop(written.state()), &hop(8));
    }

    #[test]
    fn one_wrong_write_stops_them_all() {
        let wrong = [
            Write::Cell {
                position: 16,
                value: 0,
            },
            Write::Cell {
                position: 0,
                value: Entry::Service(4).cell(0),
            },
            Write::Cell {
                position: 0,
                value: Entry::Reverse(8).cell(0),
            },
            Write::Cell {
                position: 0,
                value: Entry::Vip(4).cell(0),
            },
            Write::Slots {
                first: 60,
                words: vec![0; 5],
            },
            Write::Slots {
                first: u32::MAX,
                words: vec![0; 2],
            },
            Write::Service {
                record: 4,
                service: service(0, 0),
            },
            Write::Service {
                record: 0,
                service: service(58, 0),
            },
            Write::Service {
                record: 0,
                service: service(0, 6),
            },
            Write::State {
                record: 8,
                state: state(0),
            },
            Write::State {
                record: 0,
                state: BackendState {
                    service: 4,
                    ..state(0)
                },
            },
            Write::NextHop {
                tunnel_source: Address::default(),
                record: 8,
                next_hop: hop(1),
                state: state(1),
            },
            Write::ClearCounters { record: 8 },
            backend(8, 1, 0),
        ];
        for wrong in wrong {
            let memory = Memory::new();
            let mut tables = memory.map();
            let good = Write::Cell {
                position: 1,
                value: Entry::Service(1).cell(0),
            };
            let refused = tables.apply(&[good, wrong.clone()]);
            assert!(
                matches!(refused, Err(WriteError::OutOfRange { write: 1, .. })),
                "{wrong:?}: {refused:?}"
            );
            assert_eq!(tables.cell(1), 0, "{wrong:?}");
        }
    }

    #[test]
    fn counters_are_summed_over_cpus_and_cleared_on_all() {
        let memory = Memory::new();
        let mut tables = memory.map();
        for cpu in 0..CPUS {
            let cell = tables.backend_counters.get(cpu * CAPACITY.backends + 5);
            let cell = cell.expect("inside");
            cell.packets.store(u64::from(cpu) + 1, Ordering::Relaxed);
            cell.bytes.store(100, Ordering::Relaxed);
            let reason = Reason::NoBackend as u32;
            let cell = tables.reason_counters.get(cpu * Settings::REASONS + reason);
            cell.expect("inside").packets.store(2, Ordering::Relaxed);
        }
        assert_eq!(
            tables.backend_counter(5),
            Counter {
                packets: 6,
                bytes: 300
            }
        );
        assert_eq!(tables.backend_counter(4), Counter::default());
        assert_eq!(tables.backend_counter(8), Counter::default());
        for (reason, counter) in tables.reason_counters() {
            let expected = if reason == Reason::NoBackend { 6 } else { 0 };
            assert_eq!(counter.packets, expected, "{}", reason.label());
        }
        tables
            .apply(&[Write::ClearCounters { record: 5 }])
            .expect("inside");
        assert_eq!(tables.backend_counter(5), Counter::default());
    }
}
