//! What a part of the packet path that is kept apart is told of a packet, and what it answers.
//!
//! The kernel verifies such a part by itself: a job is plain memory, an outcome one word.

use crate::{
    address::Address,
    link::Exit,
    parse::{Link, Network, PortPair},
    reason::Reason,
};

/// A packet that needs rare work: what was learnt of it, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Job {
    pub source: Address,
    pub destination: Address,
    /// Record of its service.
    pub service: u32,
    /// Record of its backend.
    pub backend: u32,
    /// The word of its slot.
    pub slot: u32,
    /// IP packet in bytes.
    pub length: u16,
    /// Bytes from the transport header to the end of the packet.
    pub payload: u16,
    /// Where the transport header stands in the frame, in bytes.
    pub transport: u16,
    pub source_port: u16,
    pub destination_port: u16,
    /// Ethertype behind all tags.
    pub ethertype: u16,
    /// Control field of the outer VLAN tag.
    pub control: u16,
    pub tags: u8,
    pub protocol: u8,
    pub tos: u8,
    /// A [`Piece`](crate::parse::Piece).
    pub piece: u8,
    /// Flags of TCP.
    pub flags: u8,
    pub reserved: u8,
}

impl Job {
    #[inline(always)]
    pub const fn new(
        link: Link,
        network: &Network,
        ports: PortPair,
        service: u32,
        backend: u32,
    ) -> Self {
        Self {
            source: network.source,
            destination: network.destination,
            service,
            backend,
            slot: 0,
            length: network.length as u16,
            payload: network.payload as u16,
            transport: network.transport as u16,
            source_port: ports.source,
            destination_port: ports.destination,
            ethertype: link.ethertype,
            control: link.control,
            tags: link.tags as u8,
            protocol: network.protocol,
            tos: network.tos,
            piece: network.piece as u8,
            flags: 0,
            reserved: 0,
        }
    }

    /// The link layer of the frame.
    #[inline(always)]
    pub const fn link(&self) -> Link {
        Link {
            ethertype: self.ethertype,
            tags: self.tags as usize & 3,
            control: self.control,
        }
    }
}

/// What has become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub reason: Reason,
    /// How it leaves; `None` if it does not.
    pub exit: Option<Exit>,
}

/// Stands for [`Exit::SameInterface`]; no interface has this number.
const SAME_INTERFACE: u32 = u32::MAX;

impl Outcome {
    #[inline(always)]
    pub const fn not_sent(reason: Reason) -> Self {
        Self { reason, exit: None }
    }

    /// In one word; undone by [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let exit = match self.exit {
            None => 0,
            Some(Exit::SameInterface) => SAME_INTERFACE,
            Some(Exit::Interface(ifindex)) => ifindex,
        };
        self.reason as u64 | (exit as u64) << 32
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        let reason = match Reason::from_number(word as u32) {
            Some(reason) => reason,
            None => Reason::TableDefect,
        };
        let exit = match (word >> 32) as u32 {
            0 => None,
            SAME_INTERFACE => Some(Exit::SameInterface),
            ifindex => Some(Exit::Interface(ifindex)),
        };
        Self { reason, exit }
    }
}

impl From<Result<Exit, Reason>> for Outcome {
    #[inline(always)]
    fn from(result: Result<Exit, Reason>) -> Self {
        match result {
            Ok(exit) => Self {
                reason: Reason::ToBackend,
                exit: Some(exit),
            },
            Err(reason) => Self::not_sent(reason),
        }
    }
}

const _: () = assert!(size_of::<Job>() == 64);
