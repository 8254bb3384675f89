//! The packets of slots that change hands, and of services that track every flow: what the records say, and what is written
//! to them.
//!
//! Only such packets come here. The kernel runs [`look`] and [`write`] as functions of their own, so a packet is a [`Job`].

use crate::{
    consistency::{self, Look, Policy, Records, Steer, Writing, Written},
    flow_state::Kind,
    flow_table::{Flow4, Flow6, FlowKey, Layout, Table, Ticks, WhenFull},
    ip::{Ip, V4, V6},
    job::Job,
    rewrite::Endpoint,
    tables::{Backend, BackendState, Slot, Tables},
    tracking::{PacketRecords, Tracker},
};

/// The flow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FlowTable {
    Flows4 = 0,
    HalfOpen4 = 1,
    Flows6 = 2,
    HalfOpen6 = 3,
}

impl FlowTable {
    pub const ALL: [Self; 4] = [Self::Flows4, Self::HalfOpen4, Self::Flows6, Self::HalfOpen6];

    /// 64-bit words of a set, a power of two.
    #[inline(always)]
    pub const fn set_words(self) -> usize {
        match self {
            Self::Flows4 | Self::HalfOpen4 => Flow4::WAYS * Flow4::STRIDE,
            Self::Flows6 | Self::HalfOpen6 => Flow6::WAYS * Flow6::STRIDE,
        }
    }

    /// Entries of a set.
    pub const fn ways(self) -> u32 {
        match self {
            Self::Flows4 | Self::HalfOpen4 => Flow4::WAYS as u32,
            Self::Flows6 | Self::HalfOpen6 => Flow6::WAYS as u32,
        }
    }
}

/// What of the flow tables depends on the load of the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowSettings {
    /// Sets of a table of established flows minus one; the sets are a power of two.
    pub flow_mask: u32,
    /// As `flow_mask`, of a table of half-open flows.
    pub half_open_mask: u32,
    /// Not known to strangers.
    pub seed: u64,
}

/// An address family with its tables.
pub trait Family: Ip {
    type Flow: Layout<Extra = [u64; 0]>;
    const FLOWS: FlowTable;
    const HALF_OPEN: FlowTable;

    fn key(key: &FlowKey) -> <Self::Flow as Layout>::Key;
}

impl Family for V4 {
    type Flow = Flow4;
    const FLOWS: FlowTable = FlowTable::Flows4;
    const HALF_OPEN: FlowTable = FlowTable::HalfOpen4;

    #[inline(always)]
    fn key(key: &FlowKey) -> [u64; 2] {
        key.v4()
    }
}

impl Family for V6 {
    type Flow = Flow6;
    const FLOWS: FlowTable = FlowTable::Flows6;
    const HALF_OPEN: FlowTable = FlowTable::HalfOpen6;

    #[inline(always)]
    fn key(key: &FlowKey) -> [u64; 5] {
        key.v6()
    }
}

/// The records of one family.
#[inline(always)]
pub fn tracker<V: Family, T: Tables>(tables: &T) -> Tracker<V::Flow, T::Memory> {
    let FlowSettings {
        flow_mask,
        half_open_mask,
        seed,
    } = tables.flow_settings();
    Tracker {
        flows: Table::new(tables.flow_memory(V::FLOWS), flow_mask, seed),
        half_open: Table::new(tables.flow_memory(V::HALF_OPEN), half_open_mask, seed),
    }
}

/// What the records say of a packet: see [`consistency::look`].
#[inline(always)]
pub fn look<V: Family, T: Tables>(tables: &T, job: &Job) -> Look {
    let Some(service) = tables.service(job.service) else {
        return Look::Done(Steer::NoBackend);
    };
    let policy = service.policy();
    consistency::look(
        Slot::unpack(job.slot),
        Kind::of(job.protocol, job.flags),
        policy,
        &records::<V, T>(tables, job, &tracker::<V, T>(tables), policy),
        |number| {
            let record = service.backend_base.wrapping_add(u32::from(number));
            let state = tables.backend(record).map(Backend::state);
            match state.unwrap_or_default() {
                BackendState { lives: true, .. } => None,
                BackendState { on_down, .. } => Some(on_down.unwrap_or(policy.on_down)),
            }
        },
    )
}

/// Writes what a look has asked for: see [`Records::write`].
#[inline(always)]
pub fn write<V: Family, T: Tables>(tables: &T, job: &Job, writing: Writing) -> Written {
    let Some(service) = tables.service(job.service) else {
        return Written::Full;
    };
    if !writing.moves
        && service.new_flows != 0
        && !tables.may_record(job.service, service.new_flows)
    {
        return Written::Full;
    }
    records::<V, T>(tables, job, &tracker::<V, T>(tables), service.policy()).write(writing)
}

#[inline(always)]
fn records<'a, V: Family, T: Tables>(
    tables: &T,
    job: &Job,
    tracker: &'a Tracker<V::Flow, T::Memory>,
    policy: Policy,
) -> PacketRecords<'a, V::Flow, T::Memory> {
    PacketRecords {
        tracker,
        key: V::key(&flow_key(job)),
        protocol: job.protocol,
        flags: job.flags,
        now: tables.now(),
        when_full: if policy.full {
            WhenFull::Evict
        } else {
            WhenFull::Refuse
        },
    }
}

#[inline(always)]
const fn flow_key(job: &Job) -> FlowKey {
    FlowKey {
        source: Endpoint {
            address: job.source,
            port: job.source_port,
        },
        destination: Endpoint {
            address: job.destination,
            port: job.destination_port,
        },
        protocol: job.protocol,
    }
}

/// Marks of a service that packets set and user space takes back, each a time; all zeros for "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// A flow last found no room to be recorded.
    pub unrecorded: Option<Ticks>,
}

impl Notes {
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            unrecorded: unmark(word as u32),
        }
    }

    #[inline(always)]
    pub const fn pack(self) -> u64 {
        mark(self.unrecorded) as u64
    }
}

/// Records made in a second: its low bits, and how many. Several CPUs may count at once and miss each other: it is near enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded(pub u32);

impl Recorded {
    const COUNT_BITS: u32 = 24;
    const COUNT_MASK: u32 = (1 << Self::COUNT_BITS) - 1;

    /// One more, now; `None` if there are `limit` in this second already.
    #[inline(always)]
    pub const fn one_more(self, now: Ticks, limit: u32) -> Option<Self> {
        let second = now.0 << Self::COUNT_BITS;
        let count = if self.0 & !Self::COUNT_MASK == second {
            self.0 & Self::COUNT_MASK
        } else {
            0
        };
        if count >= limit || count == Self::COUNT_MASK {
            return None;
        }
        Some(Self(second | (count + 1)))
    }
}

/// A time as a mark. Zero is taken for "never": the second zero counts as the one after it.
#[inline(always)]
pub const fn mark(time: Option<Ticks>) -> u32 {
    match time {
        None => 0,
        Some(Ticks(0)) => 1,
        Some(Ticks(seconds)) => seconds,
    }
}

#[inline(always)]
const fn unmark(mark: u32) -> Option<Ticks> {
    if mark == 0 { None } else { Some(Ticks(mark)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_the_second() {
        let mut recorded = Recorded::default();
        for _ in 0..3 {
            recorded = recorded.one_more(Ticks(256), 3).expect("below the limit");
        }
        assert_eq!(recorded.one_more(Ticks(256), 3), None);
        assert!(recorded.one_more(Ticks(256), 4).is_some());
        let next = recorded.one_more(Ticks(257), 1).expect("a new second");
        assert_eq!(next.one_more(Ticks(257), 1), None);
    }

    #[test]
    fn notes_keep_their_time() {
        for time in [1, 7, u32::MAX] {
            let notes = Notes {
                unrecorded: Some(Ticks(time)),
            };
            assert_eq!(Notes::unpack(notes.pack()), notes);
        }
        assert_eq!(Notes::unpack(0), Notes::default());
    }
}
