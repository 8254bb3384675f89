//! How far a connection has come, as a load balancer sees it, and how long it may then be silent.
//!
//! ```text
//!            SYN                 any other             FIN
//! (nothing) ─────► Opening ─────────────► Established ─────► Closing ──┐
//!                                          ▲      │ RST         │ RST  │ SYN: begins anew
//!                                          │      ▼             ▼      ▼
//!                                 any other└──── Reset ◄────────┘   Opening
//! ```
//!
//! A balancer checks no sequence numbers, so what a packet says may be a stranger's lie: RST and FIN only shorten the time
//! that a flow may be silent, and a flow that goes on after a RST lives on.

use crate::wire::PROTOCOL_TCP;

/// A FIN flag of TCP (RFC 9293 §3.1), and so on.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What one direction of a flow has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A SYN, or SYN and ACK, and nothing after it.
    Opening = 0,
    Established = 1,
    /// A FIN: this side sends no more data, only acknowledgements.
    Closing = 2,
    Reset = 3,
    /// A protocol without connections.
    Datagram = 4,
}

/// What both directions together, or the one that is seen, say of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    HalfOpen,
    Established,
    /// One side has ended, or the side that is seen has.
    Closing,
    /// Both sides have ended: the address and port are in TIME_WAIT at one of them (RFC 9293 §3.6).
    Closed,
    Reset,
    Datagram,
}

/// What a packet means for a flow that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It asks for a connection.
    Opens,
    /// It belongs to a connection that exists.
    Continues,
    /// Either.
    Unknown,
}

impl Kind {
    /// `flags` are those of TCP; of other protocols they do not matter.
    #[inline(always)]
    pub const fn of(protocol: u8, flags: u8) -> Self {
        if protocol != PROTOCOL_TCP {
            Self::Unknown
        } else if flags & (SYN | ACK | RST) == SYN {
            Self::Opens
        } else {
            Self::Continues
        }
    }
}

impl State {
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Opening,
            1 => Self::Established,
            2 => Self::Closing,
            3 => Self::Reset,
            _ => Self::Datagram,
        }
    }

    /// After the first packet that is seen.
    #[inline(always)]
    pub const fn first(protocol: u8, flags: u8) -> Self {
        if protocol != PROTOCOL_TCP {
            Self::Datagram
        } else if flags & RST != 0 {
            Self::Reset
        } else if flags & SYN != 0 {
            Self::Opening
        } else if flags & FIN != 0 {
            Self::Closing
        } else {
            Self::Established
        }
    }

    /// After another packet of the same direction.
    #[inline(always)]
    pub const fn next(self, flags: u8) -> Self {
        if matches!(self, Self::Datagram) {
            self
        } else if flags & RST != 0 {
            Self::Reset
        } else if flags & SYN != 0 {
            // Repeated, late, or the ends are used again.
            match self {
                Self::Established => self,
                _ => Self::Opening,
            }
        } else if flags & FIN != 0 {
            Self::Closing
        } else {
            match self {
                Self::Closing => self,
                _ => Self::Established,
            }
        }
    }

    /// Whether a SYN now is of a new connection rather than a repeated one of this.
    #[inline(always)]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Reset)
    }
}

impl Phase {
    /// Where only the client's packets are seen (DSR).
    pub const fn one_way(client: State) -> Self {
        match client {
            State::Opening => Self::HalfOpen,
            State::Established => Self::Established,
            State::Closing => Self::Closing,
            State::Reset => Self::Reset,
            State::Datagram => Self::Datagram,
        }
    }

    /// Where both directions are seen; `None` for one that has not shown anything.
    pub const fn two_way(client: State, server: Option<State>) -> Self {
        let Some(server) = server else {
            return match client {
                State::Closing => Self::Closing,
                State::Reset => Self::Reset,
                State::Datagram => Self::Datagram,
                // The client alone cannot have established it.
                State::Opening | State::Established => Self::HalfOpen,
            };
        };
        match (client, server) {
            (State::Datagram, _) | (_, State::Datagram) => Self::Datagram,
            (State::Reset, _) | (_, State::Reset) => Self::Reset,
            (State::Closing, State::Closing) => Self::Closed,
            (State::Closing, _) | (_, State::Closing) => Self::Closing,
            (State::Opening, _) => Self::HalfOpen,
            (State::Established, _) => Self::Established,
        }
    }
}

/// How long a flow may be silent, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub half_open_s: u32,
    pub established_s: u32,
    pub closing_s: u32,
    /// Also the time before a SNAT port is used again: longer than TIME_WAIT at the backends (60 s on Linux).
    pub closed_s: u32,
    /// Short, but not at once: the RST may be a stranger's.
    pub reset_s: u32,
    pub datagram_s: u32,
}

impl Timeouts {
    pub const DEFAULT: Self = Self {
        half_open_s: 30,
        established_s: 900,
        closing_s: 120,
        closed_s: 61,
        reset_s: 10,
        datagram_s: 120,
    };

    pub const fn of(&self, phase: Phase) -> u32 {
        match phase {
            Phase::HalfOpen => self.half_open_s,
            Phase::Established => self.established_s,
            Phase::Closing => self.closing_s,
            Phase::Closed => self.closed_s,
            Phase::Reset => self.reset_s,
            Phase::Datagram => self.datagram_s,
        }
    }

    /// The longest silence after which a flow of this protocol is still held: the idle window of a slot's transition.
    pub const fn longest(&self, protocol: u8) -> u32 {
        if protocol != PROTOCOL_TCP {
            return self.datagram_s;
        }
        let mut longest = self.established_s;
        if self.closing_s > longest {
            longest = self.closing_s;
        }
        if self.half_open_s > longest {
            longest = self.half_open_s;
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::PROTOCOL_UDP;

    fn after(flags: &[u8]) -> State {
        let (first, rest) = flags.split_first().expect("a packet");
        rest.iter()
            .fold(State::first(PROTOCOL_TCP, *first), |state, flags| {
                state.next(*flags)
            })
    }

    #[test]
    fn an_ordinary_connection() {
        let client = [SYN, ACK, ACK, FIN | ACK, ACK];
        let server = [SYN | ACK, ACK, FIN | ACK];
        assert_eq!(after(&client[..1]), State::Opening);
        assert_eq!(after(&client[..2]), State::Established);
        assert_eq!(after(&client), State::Closing);
        let phase =
            |c: usize, s: usize| Phase::two_way(after(&client[..c]), Some(after(&server[..s])));
        assert_eq!(Phase::two_way(after(&client[..2]), None), Phase::HalfOpen);
        assert_eq!(phase(1, 1), Phase::HalfOpen);
        assert_eq!(phase(2, 1), Phase::Established);
        assert_eq!(phase(4, 2), Phase::Closing);
        assert_eq!(phase(4, 3), Phase::Closed);
    }

    #[test]
    fn a_lie_does_not_end_a_flow() {
        assert_eq!(after(&[SYN, ACK, RST]), State::Reset);
        assert_eq!(after(&[SYN, ACK, RST, ACK]), State::Established);
        assert_eq!(after(&[SYN, ACK, SYN]), State::Established);
    }

    #[test]
    fn ends_that_are_used_again_begin_anew() {
        for over in [&[SYN, ACK, FIN | ACK][..], &[SYN, RST][..]] {
            assert!(after(over).is_over());
            assert_eq!(after(over).next(SYN), State::Opening);
        }
        assert!(!after(&[SYN]).is_over());
    }

    #[test]
    fn only_a_lone_syn_opens() {
        assert_eq!(Kind::of(PROTOCOL_TCP, SYN), Kind::Opens);
        for flags in [0, ACK, SYN | ACK, SYN | RST, FIN, RST] {
            assert_eq!(Kind::of(PROTOCOL_TCP, flags), Kind::Continues, "{flags:#x}");
        }
        assert_eq!(Kind::of(PROTOCOL_UDP, SYN), Kind::Unknown);
    }

    #[test]
    fn numbers_name_their_states() {
        for state in [
            State::Opening,
            State::Established,
            State::Closing,
            State::Reset,
            State::Datagram,
        ] {
            assert_eq!(State::from_number(state as u8), state);
        }
    }
}
