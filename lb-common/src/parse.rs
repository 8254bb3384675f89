//! What a packet is: tags, addresses, protocol, ports, where each header stands.

use crate::{
    address::Address,
    flow_state::ACK,
    frame::Frame,
    reason::Reason,
    wire::{
        ETHERTYPE_QINQ, ETHERTYPE_VLAN, Ethernet, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, Ports,
        Sctp, Tcp, Udp, VlanTag,
    },
};

/// VLAN tags that are looked behind.
pub const MAX_TAGS: usize = 2;

/// The link layer of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Ethertype behind all tags.
    pub ethertype: u16,
    /// VLAN tags found, 0 to [`MAX_TAGS`].
    pub tags: usize,
    /// Control field of the outer tag; 0 without one.
    pub control: u16,
}

impl Link {
    /// In one word; undone by [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.ethertype as u64 | (self.tags as u64) << 16 | (self.control as u64) << 32
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            ethertype: word as u16,
            tags: (word >> 16) as usize & 3,
            control: (word >> 32) as u16,
        }
    }

    /// Where the network header stands, in bytes.
    #[inline(always)]
    pub const fn length(&self) -> usize {
        size_of::<Ethernet>() + self.tags * size_of::<VlanTag>()
    }
}

/// The network layer of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub source: Address,
    pub destination: Address,
    /// What follows, extension headers skipped.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    pub piece: Piece,
    /// Where the transport header stands in the frame, in bytes.
    pub transport: usize,
    /// IP packet in bytes, header included.
    pub length: usize,
    /// Bytes from the transport header to the end of the packet.
    pub payload: usize,
}

/// How much of a packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Piece {
    /// All of it.
    Whole = 0,
    /// Its beginning, with the transport header.
    First = 1,
    /// Not its beginning: no ports.
    Later = 2,
    /// None of it, but an ICMP error about another packet of its flow: see [`related`](crate::related).
    Quoted = 3,
}

impl Piece {
    /// From a fragment's offset, in any unit, and whether more follow.
    #[inline(always)]
    pub const fn new(offset: u16, more: bool) -> Self {
        if offset != 0 {
            Self::Later
        } else if more {
            Self::First
        } else {
            Self::Whole
        }
    }

    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Whole,
            1 => Self::First,
            2 => Self::Later,
            _ => Self::Quoted,
        }
    }

    #[inline(always)]
    pub const fn is_fragment(self) -> bool {
        matches!(self, Self::First | Self::Later)
    }

    #[inline(always)]
    pub const fn is_later(self) -> bool {
        self as u8 == Self::Later as u8
    }

    #[inline(always)]
    pub const fn is_quoted(self) -> bool {
        self as u8 == Self::Quoted as u8
    }
}

/// Why a network header was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    MalformedIp,
    ExtensionHeaders,
}

impl From<Problem> for Reason {
    #[inline(always)]
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::MalformedIp => Self::MalformedIp,
            Problem::ExtensionHeaders => Self::ExtensionHeaders,
        }
    }
}

/// Source and destination port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPair {
    pub source: u16,
    pub destination: u16,
}

impl PortPair {
    /// In one word; undone by [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u32 {
        (self.source as u32) << 16 | self.destination as u32
    }

    #[inline(always)]
    pub const fn unpack(word: u32) -> Self {
        Self {
            source: (word >> 16) as u16,
            destination: word as u16,
        }
    }
}

/// Reads the Ethernet header and its tags; `None` if the frame ends before.
#[inline(always)]
pub fn link<F: Frame>(frame: &F) -> Option<Link> {
    let ethertype = frame.get::<Ethernet>(0)?.ethertype.get();
    if matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        let link = frame.tags();
        return if link == 0 {
            None
        } else {
            Some(Link::unpack(link))
        };
    }
    Some(Link {
        ethertype,
        tags: 0,
        control: 0,
    })
}

/// As [`link`], for a frame that has tags.
#[inline(always)]
pub fn tags<F: Frame>(frame: &F) -> Option<Link> {
    let mut ethertype = frame.get::<Ethernet>(0)?.ethertype.get();
    let mut tags = 0;
    let mut control = 0;
    while tags < MAX_TAGS && matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ) {
        let tag = frame.get::<VlanTag>(size_of::<Ethernet>() + tags * size_of::<VlanTag>())?;
        if tags == 0 {
            control = tag.control.get();
        }
        ethertype = tag.ethertype.get();
        tags += 1;
    }
    Some(Link {
        ethertype,
        tags,
        control,
    })
}

/// Whether a protocol's header begins with ports.
#[inline(always)]
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP)
}

/// Reads the ports of a protocol that has them; `None` for another protocol, or if its header does not fit
/// into the packet.
#[inline(always)]
pub fn ports<F: Frame>(frame: &F, network: &Network) -> Option<PortPair> {
    ports_at(frame, network.protocol, network.transport, network.payload)
}

/// As [`ports`], of a header that stands at `transport` before `payload` bytes, its own included.
#[inline(always)]
pub fn ports_at<F: Frame>(
    frame: &F,
    protocol: u8,
    transport: usize,
    payload: usize,
) -> Option<PortPair> {
    let minimum = match protocol {
        PROTOCOL_TCP => size_of::<Tcp>(),
        PROTOCOL_UDP => size_of::<Udp>(),
        PROTOCOL_SCTP => size_of::<Sctp>(),
        _ => return None,
    };
    if payload < minimum {
        return None;
    }
    let ports = frame.get::<Ports>(transport)?;
    Some(PortPair {
        source: ports.source.get(),
        destination: ports.destination.get(),
    })
}

/// Flags of a TCP header; 0 for another protocol. What an error is about goes on.
#[inline(always)]
pub fn tcp_flags<F: Frame>(frame: &F, network: &Network) -> u8 {
    if network.piece.is_quoted() {
        return ACK;
    }
    if network.protocol != PROTOCOL_TCP {
        return 0;
    }
    frame
        .get::<Tcp>(network.transport)
        .map_or(0, |header| header.flags)
}
