//! What the tables hold, where there is room, and the writes that lead from one state to the next.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use lb_common::{
    address::Address,
    index::Entry,
    tables::{Backend, BackendState, HashPolicy, Key, Mode, NextHop, Service, Slot, Tables, flags},
};

use super::{
    index::{Full, Index},
    ranges::{Range, Ranges},
    write::{Capacity, Write},
};
use crate::{maglev, model::BackendKey};

/// How long an entry that was replaced is left alone. A packet that found it needs microseconds; this is for one whose virtual
/// CPU was taken away in the middle.
pub const GRACE: Duration = Duration::from_millis(200);

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
    #[error("a service has more than {} backends", u16::MAX)]
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

/// A service that the tables hold.
#[derive(Clone, Debug)]
struct Placed {
    record: u32,
    service: Service,
    backends: Range,
    slots: Range,
    /// By number − 1.
    numbers: Vec<Option<PlacedBackend>>,
    /// Numbers whose backend has gone and which may not be used before the grace time is over.
    resting: BTreeSet<u16>,
    /// (number, weight) that the slots were built from; unknown after adoption.
    weights: Option<Vec<(u16, u32)>>,
}

#[derive(Clone, Copy, Debug)]
struct PlacedBackend {
    address: Address,
    next_hop: NextHop,
    tunnel_source: Address,
    state: BackendState,
}

/// Entries that nothing names any more.
#[derive(Clone, Debug)]
enum Retired {
    Service {
        record: u32,
        slots: Option<Range>,
        backends: Option<Range>,
    },
    Number {
        key: Key,
        number: u16,
    },
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

    /// Tables that an earlier daemon has left, as they are read back. Entries that contradict one another are taken for free.
    pub fn adopt<T: Tables>(capacity: Capacity, tables: &T) -> Self {
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
                    resting: BTreeSet::new(),
                    weights: None,
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
            placed
                .numbers
                .iter()
                .enumerate()
                .filter_map(|(offset, backend)| {
                    let PlacedBackend { address, state, .. } = (*backend)?;
                    Some((
                        address,
                        state.port,
                        state.up,
                        placed.backends.first + offset as u32,
                    ))
                })
        })
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub fn deadline(&self) -> Option<Duration> {
        self.retired.front().map(|(until, _)| *until)
    }

    /// Frees what was replaced long enough ago.
    pub fn expire(&mut self, now: Duration) -> Vec<Write> {
        let mut writes = Vec::new();
        while self.retired.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, retired)) = self.retired.pop_front() else {
                break;
            };
            match retired {
                Retired::Service {
                    record,
                    slots,
                    backends,
                } => {
                    self.records.give(Range {
                        first: record,
                        count: 1,
                    });
                    slots.into_iter().for_each(|range| self.slots.give(range));
                    backends
                        .into_iter()
                        .for_each(|range| self.backends.give(range));
                }
                Retired::Number { key, number } => {
                    if let Some(placed) = self.services.get_mut(&key)
                        && placed.resting.remove(&number)
                    {
                        writes.push(empty_backend(placed.backends.first + u32::from(number) - 1));
                    }
                }
            }
        }
        writes
    }

    /// Writes that make a service what is wanted, whether or not it is there already; none if it is so.
    ///
    /// # Errors
    /// If a table has no room. The layout and the tables are as before.
    pub fn set(&mut self, now: Duration, wanted: &Wanted) -> Result<Vec<Write>, PlanError> {
        let mut writes = self.expire(now);
        let before = self.services.get(&wanted.key).cloned();
        let assigned = Assigned::new(before.as_ref(), wanted, &mut self.backends)?;
        let undo = |layout: &mut Self, assigned: &Assigned| {
            if assigned.fresh {
                layout.backends.give(assigned.range);
            }
        };

        let weights: Vec<(u16, u32)> = assigned
            .numbers
            .iter()
            .zip(&wanted.backends)
            .map(|(&number, backend)| (number, backend.weight))
            .collect();
        let unchanged = before.as_ref().is_some_and(|placed| {
            !assigned.fresh
                && placed.weights.as_ref() == Some(&weights)
                && placed.service == service_record(wanted, placed.slots, assigned.range)
                && placed.numbers.iter().flatten().count() == wanted.backends.len()
        });
        if let (true, Some(mut placed)) = (unchanged, before.clone()) {
            for (&number, backend) in assigned.numbers.iter().zip(&wanted.backends) {
                writes.extend(placed.update(number, backend));
            }
            self.services.insert(wanted.key, placed);
            return Ok(writes);
        }

        if !self.has_index_room(wanted) {
            undo(self, &assigned);
            return Err(PlanError::Index);
        }
        let Some(record) = self.records.take(1).map(|range| range.first) else {
            undo(self, &assigned);
            return Err(PlanError::Full {
                what: "services",
                setting: "max_services",
                needed: 1,
                available: 0,
            });
        };
        let Some(slots) = self.slots.take(wanted.slot_count) else {
            undo(self, &assigned);
            self.records.give(Range {
                first: record,
                count: 1,
            });
            return Err(PlanError::Full {
                what: "slots",
                setting: "max_slots",
                needed: wanted.slot_count,
                available: self.slots.available(),
            });
        };

        let mut placed = Placed {
            record,
            service: service_record(wanted, slots, assigned.range),
            backends: assigned.range,
            slots,
            numbers: vec![None; assigned.range.count as usize],
            resting: before
                .as_ref()
                .filter(|_| !assigned.fresh)
                .map(|old| old.resting.clone())
                .unwrap_or_default(),
            weights: Some(weights),
        };
        if assigned.fresh {
            writes.extend(
                (0..assigned.range.count)
                    .map(|offset| empty_backend(assigned.range.first + offset)),
            );
        }
        let mut updates = Vec::new();
        for (&number, backend) in assigned.numbers.iter().zip(&wanted.backends) {
            let kept = before
                .as_ref()
                .filter(|_| !assigned.fresh)
                .and_then(|old| old.backend(number));
            match kept {
                Some(old) => {
                    placed.numbers[usize::from(number) - 1] = Some(old);
                    updates.extend(placed.update(number, backend));
                }
                None => writes.extend(placed.insert(number, backend)),
            }
        }
        writes.push(Write::Slots {
            first: slots.first,
            words: slot_words(wanted, &assigned.numbers),
        });
        writes.push(Write::Service {
            record,
            service: placed.service,
        });
        // From here on packets see it. `has_index_room` has seen places for all of these.
        writes.extend(self.index.set(&wanted.key, Entry::Service(record))?);
        writes.extend(self.set_sole(wanted, record)?);
        writes.extend(updates);
        writes.extend(self.set_reverse(wanted, &placed, &assigned)?);
        if let Some(old) = before {
            writes.extend(self.retire(now, wanted.key, &old, &mut placed, assigned.fresh));
        }
        let vip = placed.service.key.address;
        self.services.insert(wanted.key, placed);
        writes.extend(self.set_vip(vip)?);
        Ok(writes)
    }

    /// Writes that take a service away; none if it is not there.
    pub fn remove(&mut self, now: Duration, key: &Key) -> Vec<Write> {
        let mut writes = self.expire(now);
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
        let retired = Retired::Service {
            record: placed.record,
            slots: Some(placed.slots),
            backends: Some(placed.backends),
        };
        self.retired.push_back((now + GRACE, retired));
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
        assigned: &Assigned,
    ) -> Result<Vec<Write>, Full> {
        if wanted.mode != Mode::Nat {
            return Ok(Vec::new());
        }
        let mut writes = Vec::new();
        for (&number, backend) in assigned.numbers.iter().zip(&wanted.backends) {
            let key = Key::new(backend.address, wanted.key.protocol, backend.port);
            writes.extend(self.index.set(
                &key,
                Entry::Reverse(placed.backends.first + u32::from(number) - 1),
            )?);
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
        key: Key,
        old: &Placed,
        new: &mut Placed,
        fresh: bool,
    ) -> Vec<Write> {
        let until = now + GRACE;
        let mut writes = Vec::new();
        for (offset, backend) in old.numbers.iter().enumerate() {
            let Some(backend) = backend else { continue };
            let number = offset as u16 + 1;
            let protocol = old.service.key.protocol;
            let stays = new.numbers.iter().flatten().any(|other| {
                other.address == backend.address && other.state.port == backend.state.port
            });
            if old.service.mode == Mode::Nat as u8
                && !(stays && new.service.mode == Mode::Nat as u8)
            {
                writes.extend(self.index.remove(&Key::new(
                    backend.address,
                    protocol,
                    backend.state.port,
                )));
            }
            if !stays && !fresh {
                new.resting.insert(number);
                self.retired
                    .push_back((until, Retired::Number { key, number }));
            }
        }
        let retired = Retired::Service {
            record: old.record,
            slots: Some(old.slots),
            backends: fresh.then_some(old.backends),
        };
        self.retired.push_back((until, retired));
        writes
    }
}

impl Placed {
    fn backend(&self, number: u16) -> Option<PlacedBackend> {
        self.numbers
            .get(usize::from(number).checked_sub(1)?)
            .copied()
            .flatten()
    }

    fn at(&self, number: u16) -> u32 {
        self.backends.first + u32::from(number) - 1
    }

    /// Fills an unused number.
    fn insert(&mut self, number: u16, wanted: &WantedBackend) -> [Write; 2] {
        let state = BackendState {
            service: self.record,
            port: wanted.port,
            next_hop: 0,
            up: wanted.up,
        };
        let WantedBackend {
            address,
            next_hop,
            tunnel_source,
            ..
        } = *wanted;
        self.numbers[usize::from(number) - 1] = Some(PlacedBackend {
            address,
            next_hop,
            tunnel_source,
            state,
        });
        let record = self.at(number);
        [
            Write::ClearCounters { record },
            Write::Backend {
                record,
                address,
                next_hop,
                tunnel_source,
                state,
            },
        ]
    }

    /// Brings a used number up to date.
    fn update(&mut self, number: u16, wanted: &WantedBackend) -> Option<Write> {
        let old = self.backend(number)?;
        let state = BackendState {
            service: self.record,
            up: wanted.up,
            ..old.state
        };
        self.change(
            number,
            PlacedBackend {
                next_hop: wanted.next_hop,
                tunnel_source: wanted.tunnel_source,
                state,
                ..old
            },
        )
    }

    fn change(&mut self, number: u16, mut new: PlacedBackend) -> Option<Write> {
        let old = self.backend(number)?;
        let record = self.at(number);
        let moved = new.next_hop != old.next_hop || new.tunnel_source != old.tunnel_source;
        let write = if moved {
            new.state.next_hop = old.state.next_hop ^ 1;
            Write::NextHop {
                record,
                next_hop: new.next_hop,
                tunnel_source: new.tunnel_source,
                state: new.state,
            }
        } else if new.state != old.state {
            Write::State {
                record,
                state: new.state,
            }
        } else {
            return None;
        };
        self.numbers[usize::from(number) - 1] = Some(new);
        Some(write)
    }
}

/// Which numbers the wanted backends have, in which range of records.
struct Assigned {
    range: Range,
    /// Of each wanted backend, in order.
    numbers: Vec<u16>,
    /// The range is new; the service had none, or one too small.
    fresh: bool,
}

impl Assigned {
    /// Known backends keep their numbers; new ones get free ones, or all move to a larger range.
    fn new(
        before: Option<&Placed>,
        wanted: &Wanted,
        ranges: &mut Ranges,
    ) -> Result<Self, PlanError> {
        if let Some(placed) = before
            && let Some(numbers) = Self::within(placed, wanted)
        {
            return Ok(Self {
                range: placed.backends,
                numbers,
                fresh: false,
            });
        }
        let count = u16::try_from(wanted.backends.len()).map_err(|_| PlanError::TooManyBackends)?;
        let room = u32::from(count)
            .next_power_of_two()
            .clamp(4, u32::from(u16::MAX));
        let full = PlanError::Full {
            what: "backends",
            setting: "max_backends",
            needed: room,
            available: ranges.available(),
        };
        let range = ranges.take(room).ok_or(full)?;
        Ok(Self {
            range,
            numbers: (1..=count).collect(),
            fresh: true,
        })
    }

    fn within(placed: &Placed, wanted: &Wanted) -> Option<Vec<u16>> {
        let known = |backend: &WantedBackend| {
            let at = placed.numbers.iter().position(|old| {
                old.is_some_and(|old| {
                    old.address == backend.address && old.state.port == backend.port
                })
            });
            at.map(|offset| offset as u16 + 1)
        };
        let used: BTreeSet<u16> = (1..=placed.numbers.len() as u16)
            .filter(|&number| placed.backend(number).is_some())
            .collect();
        let mut free = (1..=placed.numbers.len() as u16)
            .filter(|number| !used.contains(number) && !placed.resting.contains(number));
        wanted
            .backends
            .iter()
            .map(|backend| known(backend).or_else(|| free.next()))
            .collect()
    }
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
        gue_port: wanted.gue_port,
        dscp: wanted.dscp,
        mss: wanted.mss,
        source_bits: wanted.source_bits,
        flags: wanted.flags,
        ..Service::default()
    }
}

fn slot_words(wanted: &Wanted, numbers: &[u16]) -> Vec<u32> {
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
            Slot::settled(
                usize::from(owner)
                    .checked_sub(1)
                    .and_then(|at| numbers.get(at))
                    .copied()
                    .unwrap_or(0),
            )
            .pack()
        })
        .collect()
}

fn empty_backend(record: u32) -> Write {
    Write::Backend {
        record,
        address: Address::default(),
        next_hop: NextHop::default(),
        tunnel_source: Address::default(),
        state: BackendState::default(),
    }
}

fn placed_backend(record: &Backend) -> Option<PlacedBackend> {
    let state = record.state();
    (record.address != Address::default()).then(|| PlacedBackend {
        address: record.address,
        next_hop: *record.next_hop(state),
        tunnel_source: record.tunnel_source(state),
        state,
    })
}
