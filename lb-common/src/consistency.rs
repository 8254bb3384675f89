//! Which backend a packet goes to while its slot changes hands, so that no connection moves. The argument for the
//! rules is in `docs/consistency.md`.
//!
//! What holds at any time, for every flow that is not idle longer than its timeout: it is recorded with its backend,
//! or its backend is the slot's *fallback*. Each rule keeps that true, also where nothing can be recorded.

use crate::{
    flow_state::Kind,
    tables::{NO_BACKEND, Slot},
};

/// In the place of a slot's previous owner: who owned it before is only in the records. So no backend has this number.
pub const IN_RECORDS: u16 = u16::MAX;

/// What a slot's two owners mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotPhase {
    /// All flows are the current owner's. Nothing is looked up.
    Settled,
    /// Flows that are not recorded are the previous owner's; new ones are recorded for the current one.
    Transition { previous: u16 },
    /// Flows that are not recorded are the current owner's, new ones included.
    Records,
}

impl SlotPhase {
    #[inline(always)]
    pub const fn of(slot: Slot) -> Self {
        match slot.previous {
            previous if previous == slot.current => Self::Settled,
            IN_RECORDS | NO_BACKEND => Self::Records,
            previous => Self::Transition { previous },
        }
    }
}

/// What a service does with connections whose backend is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnDown {
    /// Their next packet goes to the current owner, which does not know them and says so.
    Rehash = 0,
    /// Their next packet is answered with a reset.
    Reset = 1,
    /// They stay.
    Keep = 2,
}

impl OnDown {
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Reset,
            2 => Self::Keep,
            _ => Self::Rehash,
        }
    }
}

/// What is set for a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub on_down: OnDown,
    /// Every flow is recorded, in settled slots too (`tracking = "full"`).
    pub full: bool,
}

impl Policy {
    const FULL: u8 = 1;
    const ON_DOWN_SHIFT: u32 = 1;

    /// As a service's record has it.
    #[inline(always)]
    pub const fn pack(self) -> u8 {
        self.full as u8 | (self.on_down as u8) << Self::ON_DOWN_SHIFT
    }

    #[inline(always)]
    pub const fn unpack(byte: u8) -> Self {
        Self {
            on_down: OnDown::from_number(byte >> Self::ON_DOWN_SHIFT & 3),
            full: byte & Self::FULL != 0,
        }
    }
}

/// What the records say of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub backend: u16,
    /// It was seen to end.
    pub over: bool,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It goes there; nothing is recorded anew.
    Forward(u16),
    /// It goes to `backend`, and the flow is recorded so; if there is no room, it goes to `otherwise`.
    Record {
        backend: u16,
        otherwise: u16,
    },
    /// It goes there, and the flow's record is changed to say so.
    Change(u16),
    /// Its sender is told that the connection is no more.
    Reset,
    NoBackend,
}

/// Decides on one packet. `down` says of a backend that cannot answer what becomes of its flows; `None` if it can: it is healthy, or it
/// drains.
#[inline(always)]
pub fn decide(
    slot: Slot,
    recorded: Option<Recorded>,
    kind: Kind,
    policy: Policy,
    down: impl Fn(u16) -> Option<OnDown>,
) -> Decision {
    let current = slot.current;
    if let Some(Recorded { backend, over }) = recorded {
        let opens = matches!(kind, Kind::Opens);
        // A SYN of a flow that goes on is a repeated one, and belongs where the first one went.
        return if opens && over {
            to(current, Decision::Change(current))
        } else {
            match down(backend) {
                None => Decision::Forward(backend),
                Some(_) if opens => to(current, Decision::Change(current)),
                Some(OnDown::Keep) => Decision::Forward(backend),
                Some(OnDown::Reset) if matches!(kind, Kind::Continues) => Decision::Reset,
                Some(OnDown::Reset | OnDown::Rehash) => to(current, Decision::Change(current)),
            }
        };
    }
    match SlotPhase::of(slot) {
        SlotPhase::Settled | SlotPhase::Records => {
            if policy.full {
                record(current, current)
            } else {
                to(current, Decision::Forward(current))
            }
        }
        SlotPhase::Transition { previous } => {
            match (kind, down(previous)) {
                // Without a record it would be taken for one of the previous owner's: then it had better be one.
                (Kind::Opens, None) => record(current, previous),
                (Kind::Opens, Some(_)) => record(current, current),
                (_, None) | (Kind::Continues, Some(OnDown::Keep)) => record(previous, previous),
                (Kind::Continues, Some(OnDown::Reset)) => Decision::Reset,
                (Kind::Continues, Some(OnDown::Rehash)) => record(current, current),
                // It may be new, and nobody is served by a backend that is down.
                (Kind::Unknown, Some(_)) => record(current, current),
            }
        }
    }
}

#[inline(always)]
const fn to(backend: u16, decision: Decision) -> Decision {
    if backend == NO_BACKEND {
        Decision::NoBackend
    } else {
        decision
    }
}

#[inline(always)]
const fn record(backend: u16, otherwise: u16) -> Decision {
    to(backend, Decision::Record { backend, otherwise })
}

/// The records as one packet sees them.
pub trait Records {
    /// A record that was found, to refer to it.
    type Found;

    fn find(&self) -> Option<(Recorded, Self::Found)>;
    /// Notes that a packet went where the record says. The state that it has then, if it is to be [moved](Look::Promote).
    fn seen(&self, found: Self::Found) -> Option<u8>;
    /// Changes a record; false if it has changed meanwhile.
    fn change(&self, found: Self::Found, backend: u16) -> bool;
    fn write(&self, writing: Writing) -> Written;
}

/// What a look has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    pub backend: u16,
    /// The flow is recorded already, and its record moves to those of established flows.
    pub moves: bool,
    /// The state that it has if it moves.
    pub state: u8,
}

impl Writing {
    /// In one word; undone by [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.backend as u64 | (self.moves as u64) << 16 | (self.state as u64) << 24
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            backend: word as u16,
            moves: word >> 16 & 1 != 0,
            state: (word >> 24) as u8,
        }
    }
}

/// What became of an attempt to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Written {
    Done = 0,
    /// Another packet of the flow was faster: a look finds its record.
    Exists = 1,
    Full = 2,
    /// Another packet of the flow is just being recorded, elsewhere perhaps.
    Busy = 3,
}

impl Written {
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Exists,
            2 => Self::Full,
            _ => Self::Busy,
        }
    }
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steer {
    To(u16),
    /// As [`To`](Self::To), but the flow should have been recorded and was not: there was no room.
    Unrecorded(u16),
    Reset,
    NoBackend,
    /// Nowhere: another CPU is deciding about this flow at this moment. The sender repeats it.
    Contended,
}

/// What a look at the records says: where the packet goes, or what has to be written first. Looking and writing are apart because
/// the kernel verifies them apart, and because most packets only look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Done(Steer),
    /// See [`Decision::Record`].
    Record {
        backend: u16,
        otherwise: u16,
    },
    /// It goes there, and its record is to be moved to those of established flows, with this state.
    Promote {
        backend: u16,
        state: u8,
    },
}

impl Look {
    const BACKEND_SHIFT: u32 = 16;
    const OTHERWISE_SHIFT: u32 = 32;

    /// In one word; undone by [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let (kind, backend, otherwise) = match self {
            Self::Done(Steer::To(backend)) => (0, backend, 0),
            Self::Done(Steer::Unrecorded(backend)) => (1, backend, 0),
            Self::Done(Steer::Reset) => (2, 0, 0),
            Self::Done(Steer::NoBackend) => (3, 0, 0),
            Self::Done(Steer::Contended) => (4, 0, 0),
            Self::Promote { backend, state } => (5, backend, state as u16),
            Self::Record { backend, otherwise } => (6, backend, otherwise),
        };
        kind | (backend as u64) << Self::BACKEND_SHIFT | (otherwise as u64) << Self::OTHERWISE_SHIFT
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        let backend = (word >> Self::BACKEND_SHIFT) as u16;
        let other = (word >> Self::OTHERWISE_SHIFT) as u16;
        match word as u16 {
            0 => Self::Done(Steer::To(backend)),
            1 => Self::Done(Steer::Unrecorded(backend)),
            2 => Self::Done(Steer::Reset),
            3 => Self::Done(Steer::NoBackend),
            5 => Self::Promote {
                backend,
                state: other as u8,
            },
            6 => Self::Record {
                backend,
                otherwise: other,
            },
            _ => Self::Done(Steer::Contended),
        }
    }
}

/// Whether a packet of this slot has to be looked up.
#[inline(always)]
pub const fn looks_up(slot: Slot, policy: Policy) -> bool {
    policy.full || slot.current != slot.previous
}

/// Decides on one packet that is looked up: `look` is [`look`], `write` is [`Records::write`].
#[inline(always)]
pub fn steer(look: impl Fn() -> Look, write: impl Fn(Writing) -> Written) -> Steer {
    match look() {
        Look::Done(steer) => steer,
        Look::Promote { backend, state } => {
            write(Writing {
                backend,
                moves: true,
                state,
            });
            Steer::To(backend)
        }
        Look::Record { backend, otherwise } => {
            let writing = Writing {
                backend,
                moves: false,
                state: 0,
            };
            match write(writing) {
                Written::Done => Steer::To(backend),
                Written::Full => Steer::Unrecorded(otherwise),
                Written::Busy => Steer::Contended,
                Written::Exists => match look() {
                    Look::Done(steer) => steer,
                    Look::Promote { backend, .. } => Steer::To(backend),
                    Look::Record { .. } => Steer::Contended,
                },
            }
        }
    }
}

/// What the records say of a packet. `down` is as for [`decide`].
#[inline(always)]
pub fn look<R: Records>(
    slot: Slot,
    kind: Kind,
    policy: Policy,
    records: &R,
    down: impl Fn(u16) -> Option<OnDown>,
) -> Look {
    let found = records.find();
    let recorded = found.as_ref().map(|(recorded, _)| *recorded);
    Look::Done(match (decide(slot, recorded, kind, policy, &down), found) {
        (Decision::Forward(backend), Some((_, found))) => {
            if let Some(state) = records.seen(found) {
                return Look::Promote { backend, state };
            }
            Steer::To(backend)
        }
        (Decision::Forward(backend), None) => Steer::To(backend),
        (Decision::Record { backend, otherwise }, _) => {
            return Look::Record { backend, otherwise };
        }
        (Decision::Change(backend), Some((_, found))) => {
            if records.change(found, backend) {
                Steer::To(backend)
            } else {
                Steer::Contended
            }
        }
        (Decision::Reset, _) => Steer::Reset,
        (Decision::NoBackend | Decision::Change(_), _) => Steer::NoBackend,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REHASH: Policy = Policy {
        on_down: OnDown::Rehash,
        full: false,
    };

    fn slot(current: u16, previous: u16) -> Slot {
        Slot { current, previous }
    }

    const AT_3: Option<Recorded> = Some(Recorded {
        backend: 3,
        over: false,
    });

    #[test]
    fn a_settled_slot_needs_no_record() {
        for kind in [Kind::Opens, Kind::Continues, Kind::Unknown] {
            let decision = decide(slot(2, 2), None, kind, REHASH, |_| None);
            assert_eq!(decision, Decision::Forward(2));
        }
        assert!(!looks_up(slot(2, 2), REHASH));
        assert_eq!(
            decide(slot(0, 0), None, Kind::Opens, REHASH, |_| None),
            Decision::NoBackend
        );
    }

    #[test]
    fn in_transition_new_flows_are_the_current_owners_and_old_ones_the_previous_owners() {
        let decision = |kind| decide(slot(2, 1), None, kind, REHASH, |_| None);
        let recorded = |backend, otherwise| Decision::Record { backend, otherwise };
        assert_eq!(decision(Kind::Opens), recorded(2, 1));
        assert_eq!(decision(Kind::Continues), recorded(1, 1));
        assert_eq!(decision(Kind::Unknown), recorded(1, 1));
        assert!(looks_up(slot(2, 1), REHASH));
        // Nobody takes new flows, but the old ones go on.
        let draining = |kind| decide(slot(0, 1), None, kind, REHASH, |_| None);
        assert_eq!(draining(Kind::Opens), Decision::NoBackend);
        assert_eq!(draining(Kind::Continues), recorded(1, 1));
    }

    #[test]
    fn what_is_recorded_holds() {
        for slot in [slot(2, 1), slot(2, IN_RECORDS), slot(0, IN_RECORDS)] {
            assert!(looks_up(slot, REHASH));
            for kind in [Kind::Opens, Kind::Continues, Kind::Unknown] {
                let decision = decide(slot, AT_3, kind, REHASH, |_| None);
                assert_eq!(decision, Decision::Forward(3), "{slot:?} {kind:?}");
            }
        }
    }

    #[test]
    fn ends_that_are_used_again_are_a_new_flow() {
        let over = Some(Recorded {
            backend: 3,
            over: true,
        });
        let decision = |kind| decide(slot(2, 1), over, kind, REHASH, |_| None);
        assert_eq!(decision(Kind::Opens), Decision::Change(2));
        assert_eq!(decision(Kind::Continues), Decision::Forward(3));
    }

    #[test]
    fn after_the_window_only_records_differ_from_the_current_owner() {
        for kind in [Kind::Opens, Kind::Continues, Kind::Unknown] {
            let decision = decide(slot(2, IN_RECORDS), None, kind, REHASH, |_| None);
            assert_eq!(decision, Decision::Forward(2));
        }
    }

    #[test]
    fn a_dead_backend_is_handled_as_the_service_says() {
        let dead = |on_down| move |backend| (backend != 2).then_some(on_down);
        let recorded = |kind, on_down| decide(slot(2, 1), AT_3, kind, REHASH, dead(on_down));
        assert_eq!(
            recorded(Kind::Continues, OnDown::Rehash),
            Decision::Change(2)
        );
        assert_eq!(recorded(Kind::Continues, OnDown::Reset), Decision::Reset);
        assert_eq!(
            recorded(Kind::Continues, OnDown::Keep),
            Decision::Forward(3)
        );
        assert_eq!(recorded(Kind::Unknown, OnDown::Reset), Decision::Change(2));
        for on_down in [OnDown::Rehash, OnDown::Reset, OnDown::Keep] {
            assert_eq!(recorded(Kind::Opens, on_down), Decision::Change(2));
        }
        let unrecorded = |kind, on_down| decide(slot(2, 1), None, kind, REHASH, dead(on_down));
        let record = |backend| Decision::Record {
            backend,
            otherwise: backend,
        };
        assert_eq!(unrecorded(Kind::Continues, OnDown::Rehash), record(2));
        assert_eq!(unrecorded(Kind::Continues, OnDown::Reset), Decision::Reset);
        assert_eq!(unrecorded(Kind::Continues, OnDown::Keep), record(1));
        for on_down in [OnDown::Rehash, OnDown::Reset, OnDown::Keep] {
            assert_eq!(unrecorded(Kind::Opens, on_down), record(2));
            assert_eq!(unrecorded(Kind::Unknown, on_down), record(2));
        }
    }

    #[test]
    fn what_is_packed_comes_back() {
        for look in [
            Look::Done(Steer::To(7)),
            Look::Done(Steer::Unrecorded(u16::MAX)),
            Look::Done(Steer::Reset),
            Look::Done(Steer::NoBackend),
            Look::Done(Steer::Contended),
            Look::Promote {
                backend: 3,
                state: 1,
            },
            Look::Record {
                backend: 1,
                otherwise: 65_534,
            },
        ] {
            assert_eq!(Look::unpack(look.pack()), look);
        }
        for on_down in [OnDown::Rehash, OnDown::Reset, OnDown::Keep] {
            for full in [false, true] {
                let policy = Policy { on_down, full };
                assert_eq!(Policy::unpack(policy.pack()), policy);
            }
        }
    }

    #[test]
    fn full_tracking_records_everything() {
        let full = Policy {
            full: true,
            ..REHASH
        };
        assert!(looks_up(slot(2, 2), full));
        let decision = decide(slot(2, 2), None, Kind::Continues, full, |_| None);
        assert_eq!(
            decision,
            Decision::Record {
                backend: 2,
                otherwise: 2
            }
        );
    }
}
