//! Header layouts as they stand on the wire.
//!
//! Every type is a sequence of bytes without alignment, so that it can be read at any offset of a frame. Numbers
//! are big-endian and are read with `.get()`.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    network_endian::{U16, U32},
};

use crate::parse::Piece;

/// A header type that may be laid over any bytes of sufficient length.
pub trait Wire: FromBytes + IntoBytes + Unaligned + Immutable + KnownLayout {}

impl<T: FromBytes + IntoBytes + Unaligned + Immutable + KnownLayout> Wire for T {}

/// A MAC address, in transmission order.
pub type Mac = [u8; 6];

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IEEE 802.1Q customer tag.
pub const ETHERTYPE_VLAN: u16 = 0x8100;
/// IEEE 802.1ad service tag (the outer one of two).
pub const ETHERTYPE_QINQ: u16 = 0x88a8;

pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_ICMPV6: u8 = 58;
/// Its checksum (CRC32c, RFC 9260 §6.8) covers the ports, but no address.
pub const PROTOCOL_SCTP: u8 = 132;
/// An IPv4 packet within another packet (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;
/// An IPv6 packet within another packet (RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;
pub const PROTOCOL_GRE: u8 = 47;

/// Ethernet II header, 14 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ethernet {
    pub destination: Mac,
    pub source: Mac,
    pub ethertype: U16,
}

/// What follows the ethertype of a tagged frame (IEEE 802.1Q), 4 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct VlanTag {
    /// Priority (3 bits), drop-eligible (1 bit), VLAN id (12 bits).
    pub control: U16,
    pub ethertype: U16,
}

/// IPv4 header without options (RFC 791 §3.1), 20 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4 {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_length: U16,
    pub identification: U16,
    /// Flags (3 bits) and fragment offset (13 bits, in units of 8 bytes).
    pub fragment: U16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: [u8; 2],
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Header length in bytes, as the header claims: a multiple of 4 up to 60.
    #[inline(always)]
    pub fn header_length(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) << 2
    }

    /// How much of a packet this is.
    #[inline(always)]
    pub fn piece(&self) -> Piece {
        let field = self.fragment.get();
        Piece::new(field & 0x1fff, field & 0x2000 != 0)
    }
}

/// "Don't fragment" in [`Ipv4::fragment`].
pub const DONT_FRAGMENT: u16 = 0x4000;

/// IPv6 fixed header (RFC 8200 §3), 40 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8 bits), flow label (20 bits).
    pub version_class_flow: U32,
    pub payload_length: U16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: [u8; 16],
    pub destination: [u8; 16],
}

/// The first two bytes of every IPv6 extension header (RFC 8200 §4).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6Extension {
    pub next_header: u8,
    /// In units of 8 bytes, not counting the first 8.
    pub length: u8,
}

/// Source and destination port, at the start of TCP, UDP and SCTP.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ports {
    pub source: U16,
    pub destination: U16,
}

/// TCP header without options (RFC 9293 §3.1), 20 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Tcp {
    pub ports: Ports,
    pub sequence: U32,
    pub acknowledgement: U32,
    /// Data offset in units of 4 bytes, in the upper half.
    pub data_offset: u8,
    pub flags: u8,
    pub window: U16,
    pub checksum: [u8; 2],
    pub urgent: U16,
}

/// SCTP common header (RFC 9260 §3.1), 12 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sctp {
    pub ports: Ports,
    pub verification_tag: U32,
    pub checksum: [u8; 4],
}

/// UDP header (RFC 768), 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Udp {
    pub ports: Ports,
    pub length: U16,
    /// Zero over IPv4: the sender computed none.
    pub checksum: [u8; 2],
}

/// GRE header without options (RFC 2784 §2), 4 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gre {
    /// Which options are there, and the version: all zero.
    pub flags: U16,
    /// Ethertype of what follows.
    pub protocol: U16,
}

/// Header of variant 0 of Generic UDP Encapsulation, without fields of its flags (draft-ietf-intarea-gue-09 §3.1), 4 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Gue {
    /// Variant (2 bits), control message (1 bit), length of the fields in units of 4 bytes (5 bits).
    pub variant_control_length: u8,
    /// Protocol of what follows.
    pub protocol: u8,
    pub flags: U16,
}

/// The first 8 bytes of an ICMP or ICMPv6 message (RFC 792, RFC 4443 §2.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    pub checksum: [u8; 2],
    /// The MTU in "too big" messages; identifier and sequence number of an echo.
    pub value: U32,
}
