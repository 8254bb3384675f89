//! One service as the tables hold it: which numbers its backends have, and what changes about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_common::{
    address::Address,
    consistency::IN_RECORDS,
    flow_state::Timeouts,
    tables::{Backend, BackendState, NextHop, Service},
};

use super::{
    layout::{PlanError, Wanted, WantedBackend},
    ranges::Range,
    transition::{Census, GRACE, Transitions},
    write::Write,
};

/// A service that the tables hold.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub record: u32,
    pub service: Service,
    pub backends: Range,
    pub slots: Range,
    /// By number − 1. Those that are leaving are among them.
    pub numbers: Vec<Option<PlacedBackend>>,
    /// Numbers whose backend has gone, and since when. Slots and records may still name them.
    pub leaving: BTreeMap<u16, Duration>,
    /// (number, weight) that the slots were built from; unknown after adoption.
    pub weights: Option<Vec<(u16, u32)>>,
    pub transitions: Transitions,
    pub timeouts: Timeouts,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct PlacedBackend {
    pub address: Address,
    pub next_hop: NextHop,
    pub tunnel_source: Address,
    pub state: BackendState,
}

impl Placed {
    pub fn backend(&self, number: u16) -> Option<PlacedBackend> {
        self.numbers
            .get(usize::from(number).checked_sub(1)?)
            .copied()
            .flatten()
    }

    /// Record of a backend.
    pub fn at(&self, number: u16) -> u32 {
        self.backends.first + u32::from(number) - 1
    }

    /// Backends with their numbers, those that are leaving left out.
    pub fn present(&self) -> impl Iterator<Item = (u16, PlacedBackend)> {
        (1_u16..)
            .zip(&self.numbers)
            .filter_map(|(number, backend)| Some((number, (*backend)?)))
            .filter(|(number, _)| !self.leaving.contains_key(number))
    }

    /// Fills an unused number.
    pub fn insert(&mut self, number: u16, wanted: &WantedBackend) -> [Write; 2] {
        let state = BackendState {
            service: self.record,
            port: wanted.port,
            next_hop: 0,
            up: wanted.up,
            lives: wanted.lives,
            on_down: wanted.on_down,
        };
        self.fill(
            number,
            PlacedBackend {
                address: wanted.address,
                next_hop: wanted.next_hop,
                tunnel_source: wanted.tunnel_source,
                state,
            },
        )
    }

    /// Writes a whole record, which nothing names yet.
    pub fn fill(&mut self, number: u16, backend: PlacedBackend) -> [Write; 2] {
        let record = self.at(number);
        let PlacedBackend {
            address,
            next_hop,
            tunnel_source,
            state,
        } = backend;
        if let Some(place) = self.numbers.get_mut(usize::from(number) - 1) {
            *place = Some(backend);
        }
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
    pub fn update(&mut self, number: u16, wanted: &WantedBackend) -> Option<Write> {
        let old = self.backend(number)?;
        let state = BackendState {
            service: self.record,
            up: wanted.up,
            lives: wanted.lives,
            on_down: wanted.on_down,
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

    pub fn change(&mut self, number: u16, mut new: PlacedBackend) -> Option<Write> {
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

    /// Lets a backend go: it gets no packets any more, and its number is free when nothing names it.
    pub fn leave(&mut self, now: Duration, number: u16) -> Option<Write> {
        let old = self.backend(number)?;
        self.leaving.insert(number, now);
        let state = BackendState {
            up: false,
            lives: false,
            on_down: None,
            service: self.record,
            ..old.state
        };
        self.change(number, PlacedBackend { state, ..old })
    }

    /// Frees the numbers of backends that have left, by what a round through the records has found.
    pub fn free(&mut self, census: &Census) -> Vec<Write> {
        let gone: Vec<u16> = self
            .leaving
            .iter()
            .filter(|&(&number, &since)| {
                census.began >= since + GRACE
                    && !census.backends.contains(&number)
                    && !self.transitions.names(number)
            })
            .map(|(&number, _)| number)
            .collect();
        gone.into_iter()
            .map(|number| {
                self.leaving.remove(&number);
                self.numbers[usize::from(number) - 1] = None;
                empty_backend(self.at(number))
            })
            .collect()
    }
}

/// Which numbers the wanted backends have.
pub(super) struct Numbering {
    /// Of each wanted backend, in order.
    pub numbers: Vec<u16>,
    /// Records that a range for them must have.
    pub room: u32,
}

impl Numbering {
    /// Known backends keep their numbers, those that were leaving and come back too; new ones get free ones.
    ///
    /// # Errors
    /// If there are more backends than numbers.
    pub fn new(before: Option<&Placed>, wanted: &Wanted) -> Result<Self, PlanError> {
        let known = |backend: &WantedBackend| {
            let numbers = &before?.numbers;
            let at = numbers.iter().position(|old| {
                old.is_some_and(|old| {
                    old.address == backend.address && old.state.port == backend.port
                })
            })?;
            u16::try_from(at + 1).ok()
        };
        let used: BTreeSet<u16> = before
            .into_iter()
            .flat_map(|placed| (1_u16..).zip(&placed.numbers))
            .filter_map(|(number, backend)| backend.map(|_| number))
            .collect();
        let mut free = (1..IN_RECORDS).filter(|number| !used.contains(number));
        let numbers: Vec<u16> = wanted
            .backends
            .iter()
            .map(|backend| known(backend).or_else(|| free.next()))
            .collect::<Option<_>>()
            .ok_or(PlanError::TooManyBackends)?;
        let most = numbers.iter().copied().max().unwrap_or(0);
        Ok(Self {
            numbers,
            room: u32::from(most)
                .next_power_of_two()
                .clamp(4, u32::from(IN_RECORDS)),
        })
    }
}

pub(super) fn empty_backend(record: u32) -> Write {
    Write::Backend {
        record,
        address: Address::default(),
        next_hop: NextHop::default(),
        tunnel_source: Address::default(),
        state: BackendState::default(),
    }
}

pub(super) fn placed_backend(record: &Backend) -> Option<PlacedBackend> {
    let state = record.state();
    (record.address != Address::default()).then(|| PlacedBackend {
        address: record.address,
        next_hop: *record.next_hop(state),
        tunnel_source: record.tunnel_source(state),
        state,
    })
}
