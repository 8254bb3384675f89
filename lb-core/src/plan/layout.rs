//! What the tables hold, where there is room, and the writes that lead from one state to the next.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use lb_common::{
    address::Address,
    consistency::{OnDown, Policy},
    flow_state::Timeouts,
    flow_table::{FlowKey, Ticks, Value},
    forward,
    index::Entry,
    tables::{HashPolicy, Key, Mode, NO_BACKEND, NextHop, Service, Slot, Tables, flags},
};

use super::{
    index::{Full, Index},
    placed::{Numbering, Placed, PlacedBackend, empty_backend, placed_backend},
    ranges::{Range, Ranges},
    transition::{Census, Change, GRACE, Need, Transitions},
    write::{Capacity, Write},
};
use crate::{
    flows::{self, Fate},
    maglev,
    model::BackendKey,
};

/// A service as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub key: Key,
    pub mode: Mode,
    pub hash: HashPolicy,
    /// Seed of the flow hash; the same on both nodes.
    pub seed: u64,
    /// A prime.
    pub slot_count: u32,
    /// UDP port of [`Mode::Gue`].
    pub gue_port: u16,
    /// Code of the VIP for [`Mode::Dscp`].
    pub dscp: u8,
    /// Largest TCP segment; see [`Service::mss`].
    pub mss: u16,
    /// Low bits of an IPv4 tunnel source that carry flow entropy.
    pub source_bits: u8,
    /// Bits of [`flags`](lb_common::tables::flags).
    pub flags: u16,
    pub tracking: Policy,
    /// Records of new flows in a second, at most; 0: any.
    pub new_flows: u32,
    pub timeouts: Timeouts,
    pub backends: Vec<WantedBackend>,
}

/// A backend as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedBackend {
    pub address: Address,
    pub port: u16,
    /// Share of the slots, relative to the others; 0 for none.
    pub weight: u32,
    /// Recorded for the daemon that adopts the tables.
    pub up: bool,
    /// It can answer, and so keeps the flows that it has; its weight may be 0.
    pub lives: bool,
    /// What becomes of its flows when it does not; `None`: what the service says.
    pub on_down: Option<OnDown>,
    pub next_hop: NextHop,
    /// Outer source of a tunnel to it; all zeros while it is not known.
    pub tunnel_source: Address,
}

/// Why a service cannot be placed. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(
        "no room for {needed} more {what}: {available} are free (dataplane.{setting} sets the size; it takes effect when Futago is started anew)"
    )]
    Full {
        what: &'static str,
        setting: &'static str,
        needed: u32,
        available: u32,
    },
    #[error("the index has no place for a key within reach; raise dataplane.max_services")]
    Index,
    #[error("a service has more than {} backends", u16::MAX - 1)]
    TooManyBackends,
}

impl From<Full> for PlanError {
    fn from(_: Full) -> Self {
        Self::Index
    }
}

/// What the tables hold.
#[derive(Clone, Debug)]
pub struct Layout {
    index: Index,
    services: BTreeMap<Key, Placed>,
    records: Ranges,
    slots: Ranges,
    backends: Ranges,
    retired: VecDeque<(Duration, Retired)>,
}

/// Entries that nothing names any more.
#[derive(Clone, Copy, Debug)]
enum Retired {
    Record(u32),
    Slots(Range),
    Backends(Range),
}

impl Layout {
    /// Empty tables.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            index: Index::new(capacity.cells),
            services: BTreeMap::new(),
            records: Ranges::new(capacity.services),
            slots: Ranges::new(capacity.slots),
            backends: Ranges::new(capacity.backends),
            retired: VecDeque::new(),
        }
    }

    /// Tables that an earlier daemon has left, as they are read back at `now`. Entries that contradict one another are taken for free.
    pub fn adopt<T: Tables>(now: Duration, capacity: Capacity, tables: &T) -> Self {
        let cells = (0..capacity.cells)
            .map(|position| tables.cell(position))
            .collect();
        let mut layout = Self {
            index: Index::adopt(cells),
            ..Self::new(Capacity {
                cells: 1,
                ..capacity
            })
        };
        let records: Vec<u32> = layout
            .index
            .entries()
            .filter_map(|entry| match entry {
                Entry::Service(record) => Some(record),
                _ => None,
            })
            .collect();
        for record in records {
            let Some(&service) = tables.service(record) else {
                continue;
            };
            let slots = Range {
                first: service.slot_base,
                count: service.slot_count,
            };
            let backends = Range {
                first: service.backend_base.wrapping_add(1),
                count: service.backend_count,
            };
            let fits = layout.records.take_exactly(Range {
                first: record,
                count: 1,
            }) && layout.slots.take_exactly(slots)
                && layout.backends.take_exactly(backends);
            if !fits {
                continue;
            }
            let numbers = (backends.first..backends.first + backends.count)
                .map(|at| tables.backend(at).and_then(placed_backend))
                .collect();
            layout.services.insert(
                service.key,
                Placed {
                    record,
                    service,
                    backends,
                    slots,
                    numbers,
                    leaving: BTreeMap::new(),
                    weights: None,
                    transitions: Transitions::adopt(
                        now,
                        (slots.first..slots.first + slots.count)
                            .map(|at| Slot::unpack(tables.slot(at).unwrap_or_default()))
                            .collect(),
                    ),
                    timeouts: Timeouts::DEFAULT,
                },
            );
        }
        layout
    }

    /// Keys of the services that the tables hold.
    pub fn keys(&self) -> impl Iterator<Item = Key> {
        self.services.values().map(|placed| placed.service.key)
    }

    /// Backends of a service: address, port, whether it was up, and the record that its packets are counted under.
    pub fn backends(&self, key: &Key) -> impl Iterator<Item = (Address, u16, bool, u32)> {
        self.services.get(key).into_iter().flat_map(|placed| {
            placed.present().map(|(number, backend)| {
                let PlacedBackend { address, state, .. } = backend;
                (address, state.port, state.up, placed.at(number))
            })
        })
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.retired.front().map(|(until, _)| *until)
    }

    /// Frees what was replaced long enough ago.
    pub fn expire(&mut self, now: Duration) {
        while self.retired.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, retired)) = self.retired.pop_front() else {
                break;
            };
            match retired {
                Retired::Record(first) => self.records.give(Range { first, count: 1 }),
                Retired::Slots(range) => self.slots.give(range),
                Retired::Backends(range) => self.backends.give(range),
            }
        }
    }

    /// Writes that make a service what is wanted, whether or not it is there already; none if it is so.
    ///
    /// Slots change in place, each by one store; what a slot's flows did before goes on in [`Transitions`]. Only where slots get another
    /// meaning, or backends a larger range, the service gets new slots.
    ///
    /// # Errors
    /// If a table has no room. The layout and the tables are as before.
    pub fn set(&mut self, now: Duration, wanted: &Wanted) -> Result<Vec<Write>, PlanError> {
        self.expire(now);
        let before = self.services.get(&wanted.key);
        let numbering = Numbering::new(before, wanted)?;
        let grows = before.is_none_or(|placed| placed.backends.count < numbering.room);
        let relocates =
            grows || before.is_none_or(|placed| !means_the_same(&placed.service, wanted));
        let reserved = self.reserve(wanted, &numbering, grows, relocates)?;

        let mut writes = Vec::new();
        let old = self.services.remove(&wanted.key);
        let mut placed = match &old {
            Some(old) => Placed {
                record: reserved.record.unwrap_or(old.record),
                backends: reserved.backends.unwrap_or(old.backends),
                slots: reserved.slots.unwrap_or(old.slots),
                ..old.clone()
            },
            None => Placed {
                record: reserved.record.unwrap_or_default(),
                service: Service::default(),
                backends: reserved.backends.unwrap_or(NOTHING),
                slots: reserved.slots.unwrap_or(NOTHING),
                numbers: Vec::new(),
                leaving: BTreeMap::new(),
                weights: None,
                transitions: Transitions::new(wanted.slot_count),
                timeouts: wanted.timeouts,
            },
        };
        placed.timeouts = wanted.timeouts;
        placed.service = service_record(wanted, placed.slots, placed.backends);
        if grows {
            placed.numbers.resize(placed.backends.count as usize, None);
            writes.extend(
                (0..placed.backends.count).map(|at| empty_backend(placed.backends.first + at)),
            );
            for (number, backend) in placed
                .numbers
                .clone()
                .into_iter()
                .zip(1_u16..)
                .filter_map(|(backend, number)| Some((number, backend?)))
            {
                let mut state = backend.state;
                state.service = placed.record;
                writes.extend(placed.fill(number, PlacedBackend { state, ..backend }));
            }
        }
        for (&number, backend) in numbering.numbers.iter().zip(&wanted.backends) {
            placed.leaving.remove(&number);
            if placed.backend(number).is_some() {
                writes.extend(placed.update(number, backend));
            } else {
                writes.extend(placed.insert(number, backend));
            }
        }
        let gone: Vec<u16> = placed
            .present()
            .map(|(number, _)| number)
            .filter(|number| !numbering.numbers.contains(number))
            .collect();
        for &number in &gone {
            writes.extend(placed.leave(now, number));
        }

        let weights: Vec<(u16, u32)> = numbering
            .numbers
            .iter()
            .zip(&wanted.backends)
            .map(|(&number, backend)| (number, backend.weight))
            .collect();
        let mut changes = Vec::new();
        if relocates
            && !old
                .as_ref()
                .is_some_and(|old| means_the_same(&old.service, wanted))
        {
            placed.transitions = Transitions::new(wanted.slot_count);
            placed.weights = None;
        }
        if placed.weights.as_ref() != Some(&weights) {
            changes = placed
                .transitions
                .set_owners(now, &owners(wanted, &numbering.numbers));
            placed.weights = Some(weights);
        }
        if relocates {
            changes.clear();
            writes.push(Write::Slots {
                first: placed.slots.first,
                words: placed
                    .transitions
                    .slots()
                    .iter()
                    .map(|slot| slot.pack())
                    .collect(),
            });
        }
        if let Some(record) = reserved.record {
            writes.push(Write::Notes {
                record,
                from: old.as_ref().map(|old| old.record),
            });
            writes.push(Write::Service {
                record,
                service: placed.service,
            });
        }
        writes.extend(self.set_reverse(wanted, &placed, &numbering.numbers)?);
        if let Some(record) = reserved.record {
            // From here on packets see it. `reserve` has seen places for all cells.
            writes.extend(self.index.set(&wanted.key, Entry::Service(record))?);
            writes.extend(self.set_sole(wanted, record)?);
        }
        writes.extend(slot_writes(placed.slots, &changes));
        if let Some(old) = &old {
            writes.extend(self.retire(now, old, &placed, &reserved));
        }
        let vip = placed.service.key.address;
        self.services.insert(wanted.key, placed);
        writes.extend(self.set_vip(vip)?);
        Ok(writes)
    }

    /// Takes what a change needs, or nothing.
    fn reserve(
        &mut self,
        wanted: &Wanted,
        numbering: &Numbering,
        grows: bool,
        relocates: bool,
    ) -> Result<Reserved, PlanError> {
        let before = self.services.get(&wanted.key);
        let changes = relocates
            || before.is_none_or(|placed| {
                placed.service != service_record(wanted, placed.slots, placed.backends)
            });
        if !self.has_index_room(wanted) {
            return Err(PlanError::Index);
        }
        let mut reserved = Reserved::default();
        let mut take_all = || -> Result<(), PlanError> {
            if changes {
                reserved.record =
                    Some(take(&mut self.records, "services", "max_services", 1)?.first);
            }
            if relocates {
                reserved.slots = Some(take(
                    &mut self.slots,
                    "slots",
                    "max_slots",
                    wanted.slot_count,
                )?);
            }
            if grows {
                reserved.backends = Some(take(
                    &mut self.backends,
                    "backends",
                    "max_backends",
                    numbering.room,
                )?);
            }
            Ok(())
        };
        let taken = take_all();
        if let Err(full) = taken {
            if let Some(first) = reserved.record {
                self.records.give(Range { first, count: 1 });
            }
            if let Some(range) = reserved.slots {
                self.slots.give(range);
            }
            return Err(full);
        }
        Ok(reserved)
    }

    /// Writes that take a service away; none if it is not there.
    pub fn remove(&mut self, now: Duration, key: &Key) -> Vec<Write> {
        self.expire(now);
        let mut writes = Vec::new();
        let Some(placed) = self.services.remove(key) else {
            return writes;
        };
        writes.extend(self.index.remove(key));
        if placed.service.flags & flags::SOLE != 0 {
            writes.extend(self.index.remove(&portless(key)));
        }
        if placed.service.mode == Mode::Nat as u8 {
            for backend in placed.numbers.iter().flatten() {
                writes.extend(self.index.remove(&Key::new(
                    backend.address,
                    key.protocol,
                    backend.state.port,
                )));
            }
        }
        for retired in [
            Retired::Record(placed.record),
            Retired::Slots(placed.slots),
            Retired::Backends(placed.backends),
        ] {
            self.retired.push_back((now + GRACE, retired));
        }
        // Cannot be full: the address has its cell already, or goes.
        writes.extend(self.set_vip(key.address).unwrap_or_default());
        writes
    }

    /// Writes that send packets for a backend's address another way.
    pub fn set_next_hop(
        &mut self,
        address: Address,
        next_hop: NextHop,
        tunnel_source: Address,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        for placed in self.services.values_mut() {
            let numbers: Vec<u16> = (1..=placed.numbers.len() as u16)
                .filter(|&number| {
                    placed
                        .backend(number)
                        .is_some_and(|old| old.address == address)
                })
                .collect();
            for number in numbers {
                if let Some(old) = placed.backend(number) {
                    writes.extend(placed.change(
                        number,
                        PlacedBackend {
                            next_hop,
                            tunnel_source,
                            ..old
                        },
                    ));
                }
            }
        }
        writes
    }

    fn has_index_room(&self, wanted: &Wanted) -> bool {
        let reverse =
            |backend: &WantedBackend| Key::new(backend.address, wanted.key.protocol, backend.port);
        self.index.has_room(&wanted.key)
            && self.index.has_room(&Key::address_only(wanted.key.address))
            && (wanted.flags & flags::SOLE == 0 || self.index.has_room(&portless(&wanted.key)))
            && (wanted.mode != Mode::Nat
                || wanted
                    .backends
                    .iter()
                    .all(|backend| self.index.has_room(&reverse(backend))))
    }

    /// Cells by which the replies of `nat` backends are found.
    fn set_reverse(
        &mut self,
        wanted: &Wanted,
        placed: &Placed,
        numbers: &[u16],
    ) -> Result<Vec<Write>, Full> {
        if wanted.mode != Mode::Nat {
            return Ok(Vec::new());
        }
        let mut writes = Vec::new();
        for (&number, backend) in numbers.iter().zip(&wanted.backends) {
            let key = Key::new(backend.address, wanted.key.protocol, backend.port);
            writes.extend(self.index.set(&key, Entry::Reverse(placed.at(number)))?);
        }
        Ok(writes)
    }

    /// The cell by which packets without ports find the only service of an address and protocol. One that is the only one no more leaves
    /// it to the other, which is set, too.
    fn set_sole(&mut self, wanted: &Wanted, record: u32) -> Result<Option<Write>, Full> {
        let key = portless(&wanted.key);
        if wanted.flags & flags::SOLE != 0 {
            self.index.set(&key, Entry::Service(record))
        } else {
            Ok(self.index.remove(&key))
        }
    }

    /// The cell of an address as such: names any service that has it.
    fn set_vip(&mut self, address: Address) -> Result<Option<Write>, Full> {
        let key = Key::address_only(address);
        match self
            .services
            .values()
            .find(|placed| placed.service.key.address == address)
        {
            Some(placed) => {
                let entry = Entry::Vip(placed.record);
                self.index.set(&key, entry)
            }
            None => Ok(self.index.remove(&key)),
        }
    }

    /// Lets go of what `old` had and `new` has not.
    fn retire(
        &mut self,
        now: Duration,
        old: &Placed,
        new: &Placed,
        reserved: &Reserved,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        if old.service.mode == Mode::Nat as u8 {
            for (_, backend) in old.present() {
                let stays = new.service.mode == Mode::Nat as u8
                    && new.present().any(|(_, other)| {
                        other.address == backend.address && other.state.port == backend.state.port
                    });
                if !stays {
                    writes.extend(self.index.remove(&Key::new(
                        backend.address,
                        old.service.key.protocol,
                        backend.state.port,
                    )));
                }
            }
        }
        let retired = [
            reserved.record.map(|_| Retired::Record(old.record)),
            reserved.slots.map(|_| Retired::Slots(old.slots)),
            reserved.backends.map(|_| Retired::Backends(old.backends)),
        ];
        for retired in retired.into_iter().flatten() {
            self.retired.push_back((now + GRACE, retired));
        }
        writes
    }

    /// Whether the record of a flow stays; what stays is noted in `counted`.
    ///
    /// `now` and `ticks` are the same moment by the two clocks.
    pub fn judge(
        &self,
        now: Duration,
        ticks: Ticks,
        flow: &FlowKey,
        value: Value,
        counted: &mut Counted,
    ) -> Fate {
        let key = service_of(flow);
        let Some(placed) = self.services.get(&key) else {
            return Fate::Remove;
        };
        let slot = forward::slot_of(&placed.service, flow);
        let need = match slot {
            _ if placed.service.policy().full => Need::All,
            Some(slot) => placed.transitions.need(now, slot),
            None if placed.transitions.unsettled() > 0 => Need::All,
            None => Need::None,
        };
        let fate = flows::record(value, need, ticks, &placed.timeouts);
        if fate == Fate::Keep {
            let census = counted.services.entry(key).or_default();
            census.backends.insert(value.backend);
            match slot {
                Some(slot) if placed.transitions.is_unsettled(slot) => {
                    census.slots.insert(slot);
                }
                // Any slot may be its.
                None => census.slots.extend(placed.transitions.unsettled_slots()),
                Some(_) => {}
            }
        }
        fate
    }

    /// What follows from a whole round through the records: slots settle, numbers of backends that have gone are free.
    pub fn counted(&mut self, began: Duration, counted: Counted) -> Vec<Write> {
        let mut services = counted.services;
        let mut writes = Vec::new();
        for (key, placed) in &mut self.services {
            let census = Census {
                began,
                ..services.remove(key).unwrap_or_default()
            };
            let changes = placed.transitions.settle(&census);
            writes.extend(slot_writes(placed.slots, &changes));
            writes.extend(placed.free(&census));
        }
        writes
    }

    /// Ends transitions that have lasted long enough. `unrecorded` tells of a service's record when a flow of it last found no room.
    pub fn advance(
        &mut self,
        now: Duration,
        ticks: Ticks,
        unrecorded: impl Fn(u32) -> Option<Ticks>,
    ) -> Vec<Write> {
        let mut writes = Vec::new();
        for placed in self.services.values_mut() {
            if placed.transitions.unsettled() == 0 {
                continue;
            }
            let seconds = placed.timeouts.longest(placed.service.key.protocol) + 1;
            let last = unrecorded(placed.record)
                .map(|mark| now.saturating_sub(Duration::from_secs(ticks.since(mark).into())));
            let changes = placed
                .transitions
                .expire(now, Duration::from_secs(seconds.into()), last);
            writes.extend(slot_writes(placed.slots, &changes));
        }
        writes
    }

    /// A flow that this does not judge stays: its service and backend have one.
    pub fn stays(&self, flow: &FlowKey, value: Value, counted: &mut Counted) {
        let key = service_of(flow);
        if self.services.contains_key(&key) {
            let census = counted.services.entry(key).or_default();
            census.backends.insert(value.backend);
        }
    }

    /// Timeouts of a flow's service.
    pub fn timeouts(&self, flow: &FlowKey) -> Option<Timeouts> {
        let placed = self.services.get(&service_of(flow))?;
        Some(placed.timeouts)
    }

    /// The backends that records may name, by number − 1; those that have left the service and still have a number too.
    pub fn numbered(&self, key: &Key) -> Vec<Option<BackendKey>> {
        let numbers = self.services.get(key).map(|placed| &placed.numbers);
        let numbers = numbers.into_iter().flatten();
        let known = numbers.map(|backend| {
            backend.map(|backend| BackendKey {
                address: backend.address.into(),
                port: backend.state.port,
            })
        });
        known.collect()
    }

    /// Slots of a service that are in change.
    pub fn unsettled(&self, key: &Key) -> usize {
        self.services
            .get(key)
            .map_or(0, |placed| placed.transitions.unsettled())
    }

    /// The service's record, under which packets note things.
    pub fn record(&self, key: &Key) -> Option<u32> {
        self.services.get(key).map(|placed| placed.record)
    }
}

const fn service_of(flow: &FlowKey) -> Key {
    let destination = flow.destination;
    Key::new(destination.address, flow.protocol, destination.port)
}

/// What a round through the records has found so far.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    services: BTreeMap<Key, Census>,
}

/// What was taken for a change of a service; `None`: it keeps what it has.
#[derive(Clone, Copy, Debug, Default)]
struct Reserved {
    record: Option<u32>,
    slots: Option<Range>,
    backends: Option<Range>,
}

const NOTHING: Range = Range { first: 0, count: 0 };

fn take(
    ranges: &mut Ranges,
    what: &'static str,
    setting: &'static str,
    count: u32,
) -> Result<Range, PlanError> {
    ranges.take(count).ok_or(PlanError::Full {
        what,
        setting,
        needed: count,
        available: ranges.available(),
    })
}

/// Whether the slots stand for the same flows as before.
fn means_the_same(service: &Service, wanted: &Wanted) -> bool {
    service.slot_count == wanted.slot_count
        && service.seed == wanted.seed
        && service.hash == wanted.hash as u8
}

fn portless(key: &Key) -> Key {
    Key::new(key.address, key.protocol, 0)
}

fn service_record(wanted: &Wanted, slots: Range, backends: Range) -> Service {
    Service {
        key: wanted.key,
        seed: wanted.seed,
        slot_base: slots.first,
        slot_count: wanted.slot_count,
        backend_base: backends.first.wrapping_sub(1),
        backend_count: backends.count,
        mode: wanted.mode as u8,
        hash: wanted.hash as u8,
        tracking: wanted.tracking.pack(),
        new_flows: wanted.new_flows,
        gue_port: wanted.gue_port,
        dscp: wanted.dscp,
        mss: wanted.mss,
        source_bits: wanted.source_bits,
        flags: wanted.flags,
        ..Service::default()
    }
}

/// Which backend's number each slot shall have.
fn owners(wanted: &Wanted, numbers: &[u16]) -> Vec<u16> {
    let shares: Vec<(u64, u32)> = wanted
        .backends
        .iter()
        .map(|backend| {
            (
                maglev::identity(&BackendKey {
                    address: backend.address.into(),
                    port: backend.port,
                }),
                backend.weight,
            )
        })
        .collect();
    let owners = maglev::build(wanted.seed, &shares, wanted.slot_count);
    // Maglev numbers positions in its input from 1; 0 is "none" there and here.
    owners
        .into_iter()
        .map(|owner| {
            usize::from(owner)
                .checked_sub(1)
                .and_then(|at| numbers.get(at))
                .copied()
                .unwrap_or(NO_BACKEND)
        })
        .collect()
}

/// Changes of slots, neighbours together.
fn slot_writes(slots: Range, changes: &[Change]) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    for &(number, slot) in changes {
        let at = slots.first + number;
        match writes.last_mut() {
            Some(Write::Slots { first, words }) if *first + words.len() as u32 == at => {
                words.push(slot.pack());
            }
            _ => writes.push(Write::Slots {
                first: at,
                words: vec![slot.pack()],
            }),
        }
    }
    writes
}
