//! What differs between IPv4 and IPv6, so that everything else is written once.

use zerocopy::network_endian::U32;

use crate::{
    address::Address,
    checksum::Difference,
    frame::Frame,
    parse::{Network, Piece, Problem},
    wire::{self, Ipv4, Ipv6, Ipv6Extension, Wire},
};

/// Extension headers that are followed before a packet is left to the host's stack.
const MAX_EXTENSIONS: usize = 4;

/// The last place in a frame at which a transport header is looked for, in bytes; all ones, so that it is a mask, too.
pub const MAX_TRANSPORT: usize = 0xfff;

const NEXT_HOP_BY_HOP: u8 = 0;
const NEXT_ROUTING: u8 = 43;
const NEXT_FRAGMENT: u8 = 44;
const NEXT_AUTHENTICATION: u8 = 51;
const NEXT_DESTINATION: u8 = 60;

/// A version of IP.
pub trait Ip: Copy {
    type Header: Wire;

    /// Reads the header at `offset`; nothing past it has been looked at when it fails.
    fn parse<F: Frame>(frame: &F, offset: usize) -> Result<Network, Problem>;

    /// Writes source or destination address and keeps the header's own checksum right.
    fn set_address(header: &mut Self::Header, end: End, old: Address, new: Address);

    /// TTL or hop limit.
    fn hops(header: &Self::Header) -> u8;

    /// Number of the protocol by which a packet of this version stands in another one.
    const PROTOCOL: u8;

    /// Ethertype of this version.
    const ETHERTYPE: u16;

    /// Whether no router may fragment the packet, and its identification: see RFC 6864.
    fn fragmentation(header: &Self::Header) -> (bool, u16);

    /// Sets the DSCP and keeps the congestion field.
    fn set_dscp(header: &mut Self::Header, code: u8);

    /// One hop less. Only for a packet that has more than one left.
    fn decrement_hops(header: &mut Self::Header);
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Source,
    Destination,
}

#[derive(Clone, Copy)]
pub struct V4;

#[derive(Clone, Copy)]
pub struct V6;

impl Ip for V4 {
    type Header = Ipv4;

    const PROTOCOL: u8 = wire::PROTOCOL_IPV4;
    const ETHERTYPE: u16 = wire::ETHERTYPE_IPV4;

    #[inline(always)]
    fn fragmentation(header: &Ipv4) -> (bool, u16) {
        let fragment = header.fragment.get() & wire::DONT_FRAGMENT != 0;
        (fragment, header.identification.get())
    }

    #[inline(always)]
    fn parse<F: Frame>(frame: &F, offset: usize) -> Result<Network, Problem> {
        let header = frame.get::<Ipv4>(offset).ok_or(Problem::MalformedIp)?;
        let header_length = header.header_length();
        let total = header.total_length.get() as usize;
        if header.version_ihl >> 4 != 4
            || header_length < size_of::<Ipv4>()
            || total < header_length
            || offset + total > frame.length()
        {
            return Err(Problem::MalformedIp);
        }
        Ok(Network {
            source: Address::from_v4(header.source),
            destination: Address::from_v4(header.destination),
            protocol: header.protocol,
            tos: header.tos,
            piece: header.piece(),
            transport: offset + header_length,
            length: total,
            payload: total - header_length,
        })
    }

    #[inline(always)]
    fn set_address(header: &mut Ipv4, end: End, old: Address, new: Address) {
        match end {
            End::Source => header.source = new.to_v4(),
            End::Destination => header.destination = new.to_v4(),
        }
        header.checksum = Difference::default()
            .address(old, new)
            .apply(header.checksum);
    }

    #[inline(always)]
    fn set_dscp(header: &mut Ipv4, code: u8) {
        let old = [header.version_ihl, header.tos];
        header.tos = code << 2 | header.tos & 3;
        header.checksum = Difference::default()
            .field(old, [header.version_ihl, header.tos])
            .apply(header.checksum);
    }

    #[inline(always)]
    fn hops(header: &Ipv4) -> u8 {
        header.ttl
    }

    #[inline(always)]
    fn decrement_hops(header: &mut Ipv4) {
        let old = [header.ttl, header.protocol];
        header.ttl = header.ttl.wrapping_sub(1);
        header.checksum = Difference::default()
            .field(old, [header.ttl, header.protocol])
            .apply(header.checksum);
    }
}

impl Ip for V6 {
    type Header = Ipv6;

    const PROTOCOL: u8 = wire::PROTOCOL_IPV6;
    const ETHERTYPE: u16 = wire::ETHERTYPE_IPV6;

    #[inline(always)]
    fn fragmentation(_header: &Ipv6) -> (bool, u16) {
        (true, 0)
    }

    #[inline(always)]
    fn parse<F: Frame>(frame: &F, offset: usize) -> Result<Network, Problem> {
        let header = frame.get::<Ipv6>(offset).ok_or(Problem::MalformedIp)?;
        let version_class_flow = header.version_class_flow.get();
        let payload = header.payload_length.get() as usize;
        let length = size_of::<Ipv6>() + payload;
        if version_class_flow >> 28 != 6 || offset + length > frame.length() {
            return Err(Problem::MalformedIp);
        }
        let mut network = Network {
            source: Address::from_v6(&header.source),
            destination: Address::from_v6(&header.destination),
            protocol: header.next_header,
            tos: (version_class_flow >> 20) as u8,
            piece: Piece::Whole,
            transport: offset + size_of::<Ipv6>(),
            length,
            payload,
        };
        // IPv4-mapped addresses stand for IPv4 in the tables and have no place on a wire (RFC 4291 §2.5.5.2).
        if network.source.is_v4() || network.destination.is_v4() {
            return Err(Problem::MalformedIp);
        }
        if is_extension(network.protocol) {
            let chain = frame.extensions(Chain {
                protocol: network.protocol,
                piece: Piece::Whole,
                transport: network.transport as u16,
                payload: network.payload as u16,
            });
            if chain == 0 {
                return Err(Problem::ExtensionHeaders);
            }
            let chain = Chain::unpack(chain);
            network.protocol = chain.protocol;
            network.piece = chain.piece;
            network.transport = chain.transport as usize & MAX_TRANSPORT;
            network.payload = chain.payload as usize;
        }
        Ok(network)
    }

    #[inline(always)]
    fn set_address(header: &mut Ipv6, end: End, _old: Address, new: Address) {
        match end {
            End::Source => header.source = new.to_v6(),
            End::Destination => header.destination = new.to_v6(),
        }
    }

    #[inline(always)]
    fn set_dscp(header: &mut Ipv6, code: u8) {
        let word = header.version_class_flow.get();
        let class = (code as u32) << 22;
        header.version_class_flow = U32::new(word & !(0x3f << 22) | class & (0x3f << 22));
    }

    #[inline(always)]
    fn hops(header: &Ipv6) -> u8 {
        header.hop_limit
    }

    #[inline(always)]
    fn decrement_hops(header: &mut Ipv6) {
        header.hop_limit = header.hop_limit.wrapping_sub(1);
    }
}

/// Where one stands in a chain of IPv6 extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What stands at `transport`.
    pub protocol: u8,
    /// Behind the header of a fragment the chain ends.
    pub piece: Piece,
    /// Bytes from the start of the frame, at most [`MAX_TRANSPORT`].
    pub transport: u16,
    /// Bytes from there to the end of the packet.
    pub payload: u16,
}

impl Chain {
    /// In one word, never 0 behind an extension header; undone by [`unpack`](Self::unpack).
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.protocol as u64
            | (self.piece as u64) << 8
            | (self.transport as u64) << 16
            | (self.payload as u64) << 32
    }

    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            protocol: word as u8,
            piece: Piece::from_number((word >> 8) as u8),
            transport: (word >> 16) as u16,
            payload: (word >> 32) as u16,
        }
    }
}

/// Follows extension headers to the transport header or a fragment's; `None` if there are too many, or one is cut off.
#[inline(always)]
pub fn extensions<F: Frame>(frame: &F, start: Chain) -> Option<Chain> {
    let mut chain = start;
    for _ in 0..MAX_EXTENSIONS {
        let at = chain.transport as usize & MAX_TRANSPORT;
        let extension = frame.get::<Ipv6Extension>(at)?;
        let size = match chain.protocol {
            NEXT_FRAGMENT => {
                // RFC 8200 §4.5: offset and "more" in bytes 2..4; both zero is a packet in one piece (RFC 6946).
                let field = frame.get::<zerocopy::network_endian::U16>(at + 2)?;
                chain.piece = Piece::new(field.get() & 0xfff8, field.get() & 1 != 0);
                8
            }
            // RFC 4302 §2.2: in units of 4 bytes, minus 2.
            NEXT_AUTHENTICATION => (extension.length as u16 + 2) << 2,
            _ => (extension.length as u16 + 1) << 3,
        };
        if size > chain.payload || at + size as usize > MAX_TRANSPORT {
            return None;
        }
        chain.protocol = extension.next_header;
        chain.transport = at as u16 + size;
        chain.payload -= size;
        if chain.piece.is_fragment() || !is_extension(chain.protocol) {
            return Some(chain);
        }
    }
    None
}

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        NEXT_HOP_BY_HOP | NEXT_ROUTING | NEXT_FRAGMENT | NEXT_AUTHENTICATION | NEXT_DESTINATION
    )
}

/// The checksum field of a transport protocol that covers addresses, in bytes from the start of its header.
#[inline(always)]
pub const fn transport_checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        wire::PROTOCOL_TCP => Some(16),
        wire::PROTOCOL_UDP => Some(6),
        _ => None,
    }
}
