//! Whether a flow's entry stays.

use lb_common::{
    flow_state::{Phase, State, Timeouts},
    flow_table::{Ticks, Value},
};

use crate::plan::transition::Need;

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Keep,
    Remove,
}

/// A record of the flows of a slot with that need; with full tracking, all are needed.
pub fn record(value: Value, need: Need, now: Ticks, timeouts: &Timeouts) -> Fate {
    let phase = Phase::one_way(State::from_number(value.state));
    let needed = match need {
        Need::All => true,
        Need::AllBut(backend) => value.backend != backend,
        Need::None => false,
    };
    if needed && now.since(value.seen) <= timeouts.of(phase) {
        Fate::Keep
    } else {
        Fate::Remove
    }
}

/// A translated connection, as its two entries show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    pub client: Value,
    /// The server's entry; `None` if it has gone.
    pub server: Option<Value>,
    /// Whether the server has sent anything: its entry is made together with the client's.
    pub answered: bool,
}

/// A translated connection: both entries stay, or both go.
pub fn pair(pair: &Pair, now: Ticks, timeouts: &Timeouts) -> Fate {
    let server = pair
        .server
        .filter(|_| pair.answered)
        .map(|server| State::from_number(server.state));
    let phase = Phase::two_way(State::from_number(pair.client.state), server);
    let silent = pair
        .server
        .map_or(u32::MAX, |server| now.since(server.seen))
        .min(now.since(pair.client.seen));
    if silent <= timeouts.of(phase) {
        Fate::Keep
    } else {
        Fate::Remove
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow_table::Flags;

    use super::*;

    const T: Timeouts = Timeouts::DEFAULT;

    fn value(state: State, backend: u16, seen: u32) -> Value {
        Value {
            seen: Ticks(seen),
            backend,
            state: state as u8,
            flags: Flags::default(),
        }
    }

    #[test]
    fn silence_counts_by_state() {
        for (state, timeout) in [
            (State::Opening, T.half_open_s),
            (State::Established, T.established_s),
            (State::Closing, T.closing_s),
            (State::Reset, T.reset_s),
            (State::Datagram, T.datagram_s),
        ] {
            let at = |now| record(value(state, 1, u32::MAX - 2), Need::All, Ticks(now), &T);
            // The stamp is three seconds before the wrap.
            assert_eq!(at(timeout - 3), Fate::Keep, "{state:?}");
            assert_eq!(at(timeout - 2), Fate::Remove, "{state:?}");
        }
    }

    #[test]
    fn only_needed_records_stay() {
        let fate = |need| record(value(State::Established, 1, 0), need, Ticks(0), &T);
        assert_eq!(fate(Need::All), Fate::Keep);
        assert_eq!(fate(Need::AllBut(2)), Fate::Keep);
        assert_eq!(fate(Need::AllBut(1)), Fate::Remove);
        assert_eq!(fate(Need::None), Fate::Remove);
    }

    #[test]
    fn either_direction_keeps_a_pair() {
        let fate = |client: u32, server: u32, now| {
            let flow = Pair {
                client: value(State::Established, 1, client),
                server: Some(value(State::Established, 1, server)),
                answered: true,
            };
            pair(&flow, Ticks(now), &T)
        };
        assert_eq!(fate(0, 500, 500 + T.established_s), Fate::Keep);
        assert_eq!(fate(500, 0, 500 + T.established_s), Fate::Keep);
        assert_eq!(fate(0, 500, 501 + T.established_s), Fate::Remove);
    }

    #[test]
    fn a_server_that_never_answered_leaves_it_half_open() {
        let flow = Pair {
            client: value(State::Established, 1, 0),
            server: Some(value(State::Opening, 1, 0)),
            answered: false,
        };
        assert_eq!(pair(&flow, Ticks(T.half_open_s), &T), Fate::Keep);
        assert_eq!(pair(&flow, Ticks(T.half_open_s + 1), &T), Fate::Remove);
    }

    #[test]
    fn a_port_waits_for_the_end_of_time_wait() {
        let flow = Pair {
            client: value(State::Closing, 1, 0),
            server: Some(value(State::Closing, 1, 0)),
            answered: true,
        };
        assert_eq!(pair(&flow, Ticks(60), &T), Fate::Keep);
        assert_eq!(pair(&flow, Ticks(T.closed_s + 1), &T), Fate::Remove);
    }
}
