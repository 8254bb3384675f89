//! The records of flows as one packet uses them: established flows in one table, half-open ones in another, so that a flood of
//! connection requests can displace only its own kind.

use crate::{
    consistency::{Recorded, Records, Writing, Written},
    flow_state::{Kind, State},
    flow_table::{Flags, Flow, Layout, Memory, Table, Ticks, Value, WhenFull},
};

/// The two tables of one address family.
#[derive(Clone, Copy, Debug)]
pub struct Tracker<L, M> {
    pub flows: Table<L, M>,
    pub half_open: Table<L, M>,
}

/// A flow in one of the two.
pub struct Tracked<'a, L: Layout, M: Memory + 'a> {
    pub flow: Flow<'a, L, M>,
    pub half_open: bool,
}

impl<L: Layout<Extra = [u64; 0]>, M: Memory> Tracker<L, M> {
    #[inline(always)]
    pub fn find(&self, key: &L::Key) -> Option<Tracked<'_, L, M>> {
        let established = |flow| Tracked {
            flow,
            half_open: false,
        };
        if let Some(flow) = self.flows.lookup(key) {
            return Some(established(flow));
        }
        if let Some(flow) = self.half_open.lookup(key) {
            return Some(Tracked {
                flow,
                half_open: true,
            });
        }
        // It may have moved between the two looks, from the table looked at last.
        self.flows.lookup(key).map(established)
    }
}

/// The records, for one packet.
pub struct PacketRecords<'a, L: Layout, M> {
    pub tracker: &'a Tracker<L, M>,
    pub key: L::Key,
    pub protocol: u8,
    /// Flags of TCP.
    pub flags: u8,
    pub now: Ticks,
    /// What happens to a half-open flow where there is no room for it. Adaptive tracking has a place for it
    /// without a record and refuses; full tracking evicts.
    pub when_full: WhenFull,
}

impl<'a, L: Layout<Extra = [u64; 0]>, M: Memory> Records for PacketRecords<'a, L, M> {
    type Found = Tracked<'a, L, M>;

    #[inline(always)]
    fn find(&self) -> Option<(Recorded, Self::Found)> {
        let tracked = self.tracker.find(&self.key)?;
        Some((recorded(tracked.flow.value), tracked))
    }

    #[inline(always)]
    fn seen(&self, found: Self::Found) -> Option<u8> {
        let before = found.flow.value;
        let value = Value {
            seen: self.now,
            state: State::from_number(before.state).next(self.flags) as u8,
            ..before
        };
        if found.half_open && value.state != State::Opening as u8 {
            return Some(value.state);
        }
        // Failure: another CPU has just written what is as good.
        let _ = found.flow.update(value);
        None
    }

    #[inline(always)]
    fn change(&self, found: Self::Found, backend: u16) -> bool {
        found.flow.update(Value {
            seen: self.now,
            backend,
            state: self.first_state(),
            ..found.flow.value
        })
    }

    #[inline(always)]
    fn write(&self, writing: Writing) -> Written {
        let Writing { backend, moves, .. } = writing;
        let value = Value {
            seen: self.now,
            backend,
            state: if moves {
                writing.state
            } else {
                self.first_state()
            },
            flags: Flags::default(),
        };
        let tracker = self.tracker;
        let opens = !moves && matches!(Kind::of(self.protocol, self.flags), Kind::Opens);
        let (table, when_full) = if opens {
            (&tracker.half_open, self.when_full)
        } else {
            (&tracker.flows, WhenFull::Refuse)
        };
        let written = table.put(&self.key, value, &[], when_full);
        // It was put there first, so that it is always in one of the tables.
        if moves && let Some(flow) = tracker.half_open.lookup(&self.key) {
            match written {
                Written::Done | Written::Exists => {
                    flow.remove();
                }
                // It stays where it is, and tries again with the next packet. Its state says how long it may stay.
                Written::Full | Written::Busy => {
                    let _ = flow.update(value);
                }
            }
        }
        written
    }
}

impl<L: Layout, M: Memory> PacketRecords<'_, L, M> {
    #[inline(always)]
    const fn first_state(&self) -> u8 {
        State::first(self.protocol, self.flags) as u8
    }
}

#[inline(always)]
const fn recorded(value: Value) -> Recorded {
    Recorded {
        backend: value.backend,
        over: State::from_number(value.state).is_over(),
    }
}
