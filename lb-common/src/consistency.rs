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

/// Decides on one packet. `lives` says whether a backend can answer: it is healthy, or it drains.
#[inline(always)]
pub fn decide(
    slot: Slot,
    recorded: Option<Recorded>,
    kind: Kind,
    policy: Policy,
    lives: impl Fn(u16) -> bool,
) -> Decision {
    let current = slot.current;
    if let Some(Recorded { backend, over }) = recorded {
        let opens = matches!(kind, Kind::Opens);
        // A SYN of a flow that goes on is a repeated one, and belongs where the first one went.
        return if opens && over {
            to(current, Decision::Change(current))
        } else if lives(backend) {
            Decision::Forward(backend)
        } else if opens {
            to(current, Decision::Change(current))
        } else {
            match policy.on_down {
                OnDown::Keep => Decision::Forward(backend),
                OnDown::Reset if matches!(kind, Kind::Continues) => Decision::Reset,
                OnDown::Reset | OnDown::Rehash => to(current, Decision::Change(current)),
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
            let alive = lives(previous);
            match kind {
                // Without a record it would be taken for one of the previous owner's: then it had better be one.
                Kind::Opens => record(current, if alive { previous } else { current }),
                _ if alive => record(previous, previous),
                Kind::Continues => match policy.on_down {
                    OnDown::Keep => record(previous, previous),
                    OnDown::Reset => Decision::Reset,
                    OnDown::Rehash => record(current, current),
                },
                // It may be new, and nobody is served by a backend that is down.
                Kind::Unknown => record(current, current),
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
    /// Notes that a packet went where the record says.
    fn seen(&self, found: Self::Found);
    fn record(&self, backend: u16, kind: Kind) -> Outcome;
    /// Changes a record; false if it has changed meanwhile.
    fn change(&self, found: Self::Found, backend: u16) -> bool;
}

/// What became of an attempt to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Recorded,
    /// Another packet of the flow was faster: this holds.
    Exists(Recorded),
    Full,
    /// Another packet of the flow is just being recorded, elsewhere perhaps.
    Busy,
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

/// Whether a packet of this slot has to be looked up.
#[inline(always)]
pub fn looks_up(slot: Slot, policy: Policy) -> bool {
    policy.full || slot.current != slot.previous
}

/// Decides on one packet and keeps the records.
#[inline(always)]
pub fn steer<R: Records>(
    slot: Slot,
    kind: Kind,
    policy: Policy,
    records: &R,
    lives: impl Fn(u16) -> bool,
) -> Steer {
    let found = records.find();
    let recorded = found.as_ref().map(|(recorded, _)| *recorded);
    match (decide(slot, recorded, kind, policy, &lives), found) {
        (Decision::Forward(backend), found) => {
            if let Some((_, found)) = found {
                records.seen(found);
            }
            Steer::To(backend)
        }
        (Decision::Record { backend, otherwise }, _) => match records.record(backend, kind) {
            Outcome::Recorded => Steer::To(backend),
            Outcome::Full => Steer::Unrecorded(otherwise),
            Outcome::Busy => Steer::Contended,
            Outcome::Exists(recorded) => match decide(slot, Some(recorded), kind, policy, &lives) {
                Decision::Forward(backend) => Steer::To(backend),
                _ => Steer::Contended,
            },
        },
        (Decision::Change(backend), Some((_, found))) => {
            if records.change(found, backend) {
                Steer::To(backend)
            } else {
                Steer::Contended
            }
        }
        (Decision::Reset, _) => Steer::Reset,
        (Decision::NoBackend | Decision::Change(_), _) => Steer::NoBackend,
    }
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

    fn on(on_down: OnDown) -> Policy {
        Policy {
            on_down,
            full: false,
        }
    }

    const AT_3: Option<Recorded> = Some(Recorded {
        backend: 3,
        over: false,
    });

    #[test]
    fn a_settled_slot_needs_no_record() {
        for kind in [Kind::Opens, Kind::Continues, Kind::Unknown] {
            let decision = decide(slot(2, 2), None, kind, REHASH, |_| true);
            assert_eq!(decision, Decision::Forward(2));
        }
        assert!(!looks_up(slot(2, 2), REHASH));
        assert_eq!(
            decide(slot(0, 0), None, Kind::Opens, REHASH, |_| true),
            Decision::NoBackend
        );
    }

    #[test]
    fn in_transition_new_flows_are_the_current_owners_and_old_ones_the_previous_owners() {
        let decision = |kind| decide(slot(2, 1), None, kind, REHASH, |_| true);
        let recorded = |backend, otherwise| Decision::Record { backend, otherwise };
        assert_eq!(decision(Kind::Opens), recorded(2, 1));
        assert_eq!(decision(Kind::Continues), recorded(1, 1));
        assert_eq!(decision(Kind::Unknown), recorded(1, 1));
        assert!(looks_up(slot(2, 1), REHASH));
        // Nobody takes new flows, but the old ones go on.
        let draining = |kind| decide(slot(0, 1), None, kind, REHASH, |_| true);
        assert_eq!(draining(Kind::Opens), Decision::NoBackend);
        assert_eq!(draining(Kind::Continues), recorded(1, 1));
    }

    #[test]
    fn what_is_recorded_holds() {
        for slot in [slot(2, 1), slot(2, IN_RECORDS), slot(0, IN_RECORDS)] {
            assert!(looks_up(slot, REHASH));
            for kind in [Kind::Opens, Kind::Continues, Kind::Unknown] {
                let decision = decide(slot, AT_3, kind, REHASH, |_| true);
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
        let decision = |kind| decide(slot(2, 1), over, kind, REHASH, |_| true);
        assert_eq!(decision(Kind::Opens), Decision::Change(2));
        assert_eq!(decision(Kind::Continues), Decision::Forward(3));
    }

    #[test]
    fn after_the_window_only_records_differ_from_the_current_owner() {
        for kind in [Kind::Opens, Kind::Continues, Kind::Unknown] {
            let decision = decide(slot(2, IN_RECORDS), None, kind, REHASH, |_| true);
            assert_eq!(decision, Decision::Forward(2));
        }
    }

    #[test]
    fn a_dead_backend_is_handled_as_the_service_says() {
        let dead = |backend| backend == 2;
        let recorded = |kind, on_down| decide(slot(2, 1), AT_3, kind, on(on_down), dead);
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
        let unrecorded = |kind, on_down| decide(slot(2, 1), None, kind, on(on_down), dead);
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
    fn full_tracking_records_everything() {
        let full = Policy {
            full: true,
            ..REHASH
        };
        assert!(looks_up(slot(2, 2), full));
        let decision = decide(slot(2, 2), None, Kind::Continues, full, |_| true);
        assert_eq!(
            decision,
            Decision::Record {
                backend: 2,
                otherwise: 2
            }
        );
    }
}
