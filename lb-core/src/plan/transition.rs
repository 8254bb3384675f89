//! When a slot changes hands, and when it has: the owners that packets see, from the owners that are wanted.
//!
//! ```text
//!                       new owner n                  idle window over, nothing unrecorded in it
//!  Settled (c, c) ───────────────────► Transition (n, c) ───────────────────► Records (n, –)
//!        ▲                              │ new owner m: (m, c)                    │   │
//!        │                              │ c again: Records (c, –) ──────────────►│   │ new owner m:
//!        │                                                                       │   └─► Transition (m, n)
//!        └────────── a round through the records, begun since, has seen none ────┘
//! ```
//! Why no connection moves by this is argued in `docs/consistency.md`.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    consistency::{IN_RECORDS, SlotPhase},
    tables::{NO_BACKEND, Slot},
};

/// How long a packet may still act on a slot's word after it was replaced. Microseconds, unless a virtual CPU was taken away.
pub const GRACE: Duration = Duration::from_millis(200);

/// The slots of one service.
#[derive(Clone, Debug)]
pub struct Transitions {
    slots: Vec<Slot>,
    /// Since when slots that are not settled are in their phase.
    since: BTreeMap<u32, Duration>,
}

/// What a whole round through the records has found of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// When the round began.
    pub began: Duration,
    /// Slots with flows that stay recorded.
    pub slots: BTreeSet<u32>,
    /// Backends that these records name.
    pub backends: BTreeSet<u16>,
}

/// Which records of a slot's flows packets depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    All,
    /// Flows of this backend are found without.
    AllBut(u16),
    None,
}

/// A slot to write, by its number within the service.
pub type Change = (u32, Slot);

impl Transitions {
    /// All slots without an owner.
    pub fn new(slot_count: u32) -> Self {
        Self::adopt(
            Duration::ZERO,
            vec![Slot::settled(NO_BACKEND); slot_count as usize],
        )
    }

    /// Slots as an earlier daemon has left them. How long they have been so is not known: their time begins now.
    pub fn adopt(now: Duration, slots: Vec<Slot>) -> Self {
        let since = slots
            .iter()
            .zip(0..)
            .filter(|(slot, _)| SlotPhase::of(**slot) != SlotPhase::Settled)
            .map(|(_, number)| (number, now))
            .collect();
        Self { slots, since }
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Slots that are not settled.
    pub fn unsettled(&self) -> usize {
        self.since.len()
    }

    pub fn unsettled_slots(&self) -> impl Iterator<Item = u32> {
        self.since.keys().copied()
    }

    pub fn is_unsettled(&self, number: u32) -> bool {
        self.since.contains_key(&number)
    }

    /// Which records of a slot's flows have to stay.
    ///
    /// In their records phase slots need none of the current owner; but not before the last packet has gone that saw the
    /// transition, to which a flow without a record is the previous owner's.
    pub fn need(&self, now: Duration, number: u32) -> Need {
        let Some(slot) = self.slots.get(number as usize) else {
            return Need::None;
        };
        match SlotPhase::of(*slot) {
            SlotPhase::Settled => Need::None,
            SlotPhase::Transition { .. } => Need::All,
            SlotPhase::Records => match self.since.get(&number) {
                Some(&since) if now >= since + GRACE => Need::AllBut(slot.current),
                _ => Need::All,
            },
        }
    }

    /// Whether a slot names this backend. Its number may be given to another one when none does, and no record.
    pub fn names(&self, backend: u16) -> bool {
        self.slots
            .iter()
            .any(|slot| slot.current == backend || slot.previous == backend)
    }

    /// Gives the slots new owners; `NO_BACKEND` for none. There must be as many as slots.
    pub fn set_owners(&mut self, now: Duration, owners: &[u16]) -> Vec<Change> {
        let mut changes = Vec::new();
        for ((number, slot), &owner) in (0..).zip(&mut self.slots).zip(owners) {
            let Some((new, begins)) = with_owner(*slot, owner) else {
                continue;
            };
            *slot = new;
            changes.push((number, new));
            if SlotPhase::of(new) == SlotPhase::Settled {
                self.since.remove(&number);
            } else if begins {
                self.since.insert(number, now);
            }
        }
        changes
    }

    /// Ends transitions that have lasted for `window`, which is longer than any flow of the service may be silent.
    ///
    /// `unrecorded` is when a flow of the service last found no room to be recorded: until `window` after it, there may be
    /// flows of previous owners that nobody knows of.
    pub fn expire(
        &mut self,
        now: Duration,
        window: Duration,
        unrecorded: Option<Duration>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&number, since) in &mut self.since {
            let Some(slot) = self.slots.get_mut(number as usize) else {
                continue;
            };
            let known = unrecorded.unwrap_or_default().max(*since);
            if matches!(SlotPhase::of(*slot), SlotPhase::Transition { .. }) && now >= known + window
            {
                slot.previous = IN_RECORDS;
                *since = now;
                changes.push((number, *slot));
            }
        }
        changes
    }

    /// Settles slots of which no flow is recorded any more.
    pub fn settle(&mut self, census: &Census) -> Vec<Change> {
        let mut changes = Vec::new();
        self.since.retain(|&number, since| {
            let Some(slot) = self.slots.get_mut(number as usize) else {
                return false;
            };
            let empty = SlotPhase::of(*slot) == SlotPhase::Records
                && census.began >= *since + GRACE
                && !census.slots.contains(&number);
            if empty {
                *slot = Slot::settled(slot.current);
                changes.push((number, *slot));
            }
            !empty
        });
        changes
    }
}

/// The slot after it got an owner, and whether a phase begins with it; `None` if nothing changes.
fn with_owner(slot: Slot, owner: u16) -> Option<(Slot, bool)> {
    if owner == slot.current {
        return None;
    }
    let new = |previous| Slot {
        current: owner,
        previous,
    };
    Some(match SlotPhase::of(slot) {
        // Nobody had it, so there are no flows.
        SlotPhase::Settled if slot.current == NO_BACKEND => (Slot::settled(owner), false),
        SlotPhase::Settled => (new(slot.current), true),
        // All flows of those who came between are recorded.
        SlotPhase::Transition { previous } if previous == owner => (new(IN_RECORDS), true),
        SlotPhase::Transition { previous } => (new(previous), false),
        SlotPhase::Records if slot.current == NO_BACKEND => (new(IN_RECORDS), true),
        SlotPhase::Records => (new(slot.current), true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn slot(current: u16, previous: u16) -> Slot {
        Slot { current, previous }
    }

    /// One slot, settled at 1.
    fn settled() -> Transitions {
        let mut slots = Transitions::new(1);
        assert_eq!(slots.set_owners(at(0), &[1]), [(0, Slot::settled(1))]);
        assert_eq!(slots.unsettled(), 0);
        slots
    }

    fn census(began: u64, slots: &[u32]) -> Census {
        Census {
            began: at(began),
            slots: slots.iter().copied().collect(),
            ..Census::default()
        }
    }

    #[test]
    fn a_change_runs_through_its_phases() {
        let mut slots = settled();
        assert_eq!(slots.set_owners(at(10), &[1]), []);
        assert_eq!(slots.set_owners(at(10), &[2]), [(0, slot(2, 1))]);
        assert_eq!(slots.expire(at(109), WINDOW, None), []);
        assert_eq!(slots.settle(&census(109, &[])), [], "not before its time");
        assert_eq!(
            slots.expire(at(110), WINDOW, None),
            [(0, slot(2, IN_RECORDS))]
        );
        assert_eq!(slots.settle(&census(110, &[])), [], "begun too early");
        assert_eq!(slots.need(at(110), 0), Need::All, "some saw it before");
        assert_eq!(slots.need(at(111), 0), Need::AllBut(2));
        assert_eq!(slots.settle(&census(111, &[0])), [], "a flow is recorded");
        assert!(!slots.names(1), "only records name it");
        assert_eq!(slots.settle(&census(200, &[])), [(0, Slot::settled(2))]);
        assert_eq!(slots.unsettled(), 0);
        assert_eq!(slots.need(at(300), 0), Need::None);
    }

    #[test]
    fn the_owner_of_what_is_not_recorded_stays_through_further_changes() {
        let mut slots = settled();
        slots.set_owners(at(10), &[2]);
        assert_eq!(slots.set_owners(at(50), &[3]), [(0, slot(3, 1))]);
        assert_eq!(slots.set_owners(at(60), &[0]), [(0, slot(0, 1))]);
        assert_eq!(slots.set_owners(at(70), &[3]), [(0, slot(3, 1))]);
        // Since 10 everything that was seen is recorded.
        assert_eq!(
            slots.expire(at(110), WINDOW, None),
            [(0, slot(3, IN_RECORDS))]
        );
    }

    #[test]
    fn an_owner_that_comes_back_keeps_the_records_of_the_others() {
        let mut slots = settled();
        slots.set_owners(at(10), &[2]);
        assert_eq!(slots.set_owners(at(20), &[1]), [(0, slot(1, IN_RECORDS))]);
        assert_eq!(slots.settle(&census(21, &[0])), []);
        assert_eq!(slots.settle(&census(30, &[])), [(0, Slot::settled(1))]);
    }

    #[test]
    fn a_change_after_the_window_begins_a_new_one() {
        let mut slots = settled();
        slots.set_owners(at(0), &[2]);
        slots.expire(at(100), WINDOW, None);
        assert_eq!(slots.set_owners(at(150), &[3]), [(0, slot(3, 2))]);
        assert_eq!(slots.expire(at(249), WINDOW, None), []);
        assert_eq!(slots.expire(at(250), WINDOW, None).len(), 1);
    }

    #[test]
    fn what_found_no_room_holds_the_transition() {
        let mut slots = settled();
        slots.set_owners(at(0), &[2]);
        assert_eq!(slots.expire(at(100), WINDOW, Some(at(40))), []);
        assert_eq!(slots.expire(at(139), WINDOW, Some(at(40))), []);
        assert_eq!(slots.expire(at(140), WINDOW, Some(at(40))).len(), 1);
    }

    #[test]
    fn without_any_owner_the_records_still_count() {
        let mut slots = settled();
        slots.set_owners(at(0), &[0]);
        slots.expire(at(100), WINDOW, None);
        assert_eq!(slots.slots(), [slot(0, IN_RECORDS)]);
        assert_eq!(slots.set_owners(at(101), &[4]), [(0, slot(4, IN_RECORDS))]);
    }

    #[test]
    fn adopted_slots_begin_their_window_anew() {
        let mut slots = Transitions::adopt(at(500), vec![slot(2, 1), Slot::settled(3)]);
        assert_eq!(slots.unsettled(), 1);
        assert_eq!(slots.expire(at(599), WINDOW, None), []);
        assert_eq!(slots.expire(at(600), WINDOW, None).len(), 1);
    }
}
