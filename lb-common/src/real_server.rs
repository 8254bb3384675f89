//! The packet path of a real server: packets of `l3-dsr` lose what the load balancer has put around them, or get the VIP back
//! that a DSCP names, and go on to the host's stack. Like [`forward`](crate::forward) it is generic over memory.
//!
//! parse → tunnel to an address of ours? → shim → inner packet to a VIP of ours? → cut the head off; or parse → mark on a packet to
//! an address of ours? → VIP as destination. Every way out has an [`Outcome`] and is counted once.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    network_endian::{U16, U32},
};

use crate::{
    address::Address,
    checksum::Difference,
    frame::Frame,
    ip::{End, Ip, V4, V6, transport_checksum_offset},
    parse::{Network, Problem},
    reason::{Class, reasons},
    wire::{
        ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Gre, Gue, Ipv4, Ipv6, PROTOCOL_GRE,
        PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, PROTOCOL_UDP,
        Ports, Udp,
    },
};

/// What a server does for the load balancer is a set of these, each with an address.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Key {
    pub address: Address,
    pub port: u16,
    pub protocol: u8,
    /// [`TUNNEL`](Self::TUNNEL), [`VIP`](Self::VIP), or [`MARK`](Self::MARK) with a DSCP in its low bits.
    pub kind: u8,
    pub reserved: u32,
}

impl Key {
    const TUNNEL: u8 = 1;
    const VIP: u8 = 2;
    const MARK: u8 = 0x40;

    /// A tunnel that ends here: outer destination, protocol of the outer header, UDP port or 0. Its value is of no meaning.
    #[inline(always)]
    pub const fn tunnel(outer: Address, protocol: u8, port: u16) -> Self {
        Self::new(outer, port, protocol, Self::TUNNEL)
    }

    /// An address that packets in tunnels may be for. Its value is of no meaning.
    #[inline(always)]
    pub const fn vip(vip: Address) -> Self {
        Self::new(vip, 0, 0, Self::VIP)
    }

    /// A DSCP on packets to this protocol and port of `own`; the value is the VIP that it names. Port 0: packets of the protocol
    /// that show no port, which are fragments and ICMP errors.
    #[inline(always)]
    pub const fn mark(own: Address, dscp: u8, protocol: u8, port: u16) -> Self {
        Self::new(own, port, protocol, Self::MARK | dscp & 0x3f)
    }

    const fn new(address: Address, port: u16, protocol: u8, kind: u8) -> Self {
        Self {
            address,
            port,
            protocol,
            kind,
            reserved: 0,
        }
    }
}

reasons! {
    /// Every way out of a real server's program. The discriminant is the counter's slot.
    enum Outcome;

    /// Nothing that the load balancer has wrapped or marked.
    NotOurs = "not_ours", Passed;
    /// A packet to a VIP, taken out of its tunnel.
    Decapsulated = "decapsulated", Passed;
    /// A packet to this server's own address, given the VIP that its DSCP names.
    Mapped = "mapped", Passed;
    /// A part of a tunnel's packet that was fragmented on its way from the load balancer: give that way a larger MTU.
    OuterFragment = "outer_fragment", Passed;
    /// The outer header is cut off or contradicts the frame's length.
    MalformedOuter = "malformed_outer", Passed;
    /// Between outer and inner header stands what is not spoken here: options of GRE, or a control message or flags of GUE.
    UnknownShim = "unknown_shim", Passed;
    /// The packet in the tunnel is for no VIP of this server.
    NotAVip = "not_a_vip", Passed;
    /// The packet in the tunnel is cut off, contradicts the outer length, or is neither IPv4 nor IPv6.
    MalformedInner = "malformed_inner", Dropped;
    /// The way to here was congested, and the packet in the tunnel cannot say so: RFC 6040 §4.2 has it dropped.
    Congested = "congested", Dropped;
    /// The kernel did not let the program change the frame: a defect.
    NotChanged = "not_changed", Dropped;
}

/// What a server knows and counts.
pub trait Duties {
    fn find(&self, key: &Key) -> Option<Address>;
    fn count(&self, outcome: Outcome, bytes: u32);
}

/// Decides on one frame that came in, changes and counts it. True: the host's stack gets it; false: it ends here.
#[inline(always)]
pub fn receive<F: Frame, D: Duties>(frame: &mut F, duties: &D) -> bool {
    let bytes = frame.length() as u32;
    let outcome = match look(frame, duties) {
        Ok(outcome) | Err(outcome) => outcome,
    };
    duties.count(outcome, bytes);
    !matches!(outcome.class(), Class::Dropped)
}

/// Tagged frames are the host's: the program runs on the interface that has the server's address, where a tag is gone.
#[inline(always)]
fn look<F: Frame, D: Duties>(frame: &mut F, duties: &D) -> Result<Outcome, Outcome> {
    let ethernet = frame.get::<Ethernet>(0).ok_or(Outcome::NotOurs)?;
    match ethernet.ethertype.get() {
        ETHERTYPE_IPV4 => outer::<V4, F, D>(frame, duties),
        ETHERTYPE_IPV6 => outer::<V6, F, D>(frame, duties),
        _ => Err(Outcome::NotOurs),
    }
}

#[inline(always)]
fn outer<V: Fields, F: Frame, D: Duties>(frame: &mut F, duties: &D) -> Result<Outcome, Outcome> {
    let network = match V::parse(frame, size_of::<Ethernet>()) {
        Ok(network) => network,
        Err(Problem::MalformedIp) => return Err(Outcome::MalformedOuter),
        Err(_) => return Err(Outcome::NotOurs),
    };
    let port = match network.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP if !network.piece.is_fragment() => frame
            .get::<Ports>(network.transport)
            .map_or(0, |ports| ports.destination.get()),
        _ => 0,
    };
    if matches!(
        network.protocol,
        PROTOCOL_IPV4 | PROTOCOL_IPV6 | PROTOCOL_GRE | PROTOCOL_UDP
    ) {
        let tunnel = Key::tunnel(network.destination, network.protocol, port);
        if duties.find(&tunnel).is_some() {
            return decapsulate(frame, duties, &network);
        }
    }
    let dscp = network.tos >> 2;
    if dscp != 0 {
        let mark = Key::mark(network.destination, dscp, network.protocol, port);
        if let Some(vip) = duties.find(&mark) {
            return map::<V, F>(frame, &network, vip);
        }
    }
    Err(Outcome::NotOurs)
}

#[inline(always)]
fn decapsulate<F: Frame, D: Duties>(
    frame: &mut F,
    duties: &D,
    network: &Network,
) -> Result<Outcome, Outcome> {
    if network.piece.is_fragment() {
        return Err(Outcome::OuterFragment);
    }
    let (ethertype, shim) = shim(frame, network)?;
    if network.payload < shim {
        return Err(Outcome::MalformedInner);
    }
    let inner = Place {
        at: network.transport + shim,
        room: network.payload - shim,
        congestion: network.tos & ECN,
    };
    match ethertype {
        ETHERTYPE_IPV4 => cut::<V4, F, D>(frame, duties, inner),
        ETHERTYPE_IPV6 => cut::<V6, F, D>(frame, duties, inner),
        _ => Err(Outcome::MalformedInner),
    }
}

/// What follows the outer IP header: the ethertype of the packet inside, and how many bytes stand before it.
#[inline(always)]
fn shim<F: Frame>(frame: &F, network: &Network) -> Result<(u16, usize), Outcome> {
    match network.protocol {
        PROTOCOL_IPV4 => Ok((ETHERTYPE_IPV4, 0)),
        PROTOCOL_IPV6 => Ok((ETHERTYPE_IPV6, 0)),
        PROTOCOL_GRE => {
            let gre = frame
                .get::<Gre>(network.transport)
                .ok_or(Outcome::MalformedOuter)?;
            if gre.flags.get() != 0 {
                return Err(Outcome::UnknownShim);
            }
            Ok((gre.protocol.get(), size_of::<Gre>()))
        }
        _ => gue(frame, network),
    }
}

/// Variant 1 begins with the IP version itself, both of which have its two bits; variant 0 has a header of its own.
#[inline(always)]
fn gue<F: Frame>(frame: &F, network: &Network) -> Result<(u16, usize), Outcome> {
    let udp = frame
        .get::<Udp>(network.transport)
        .ok_or(Outcome::MalformedOuter)?;
    if udp.length.get() as usize != network.payload {
        return Err(Outcome::MalformedOuter);
    }
    let gue = frame
        .get::<Gue>(network.transport + size_of::<Udp>())
        .ok_or(Outcome::MalformedInner)?;
    match gue.variant_control_length >> 4 {
        4 => return Ok((ETHERTYPE_IPV4, size_of::<Udp>())),
        6 => return Ok((ETHERTYPE_IPV6, size_of::<Udp>())),
        _ => {}
    }
    let ethertype = match gue.protocol {
        PROTOCOL_IPV4 => ETHERTYPE_IPV4,
        PROTOCOL_IPV6 => ETHERTYPE_IPV6,
        _ => return Err(Outcome::UnknownShim),
    };
    if gue.variant_control_length != 0 || gue.flags.get() != 0 {
        return Err(Outcome::UnknownShim);
    }
    Ok((ethertype, size_of::<Udp>() + size_of::<Gue>()))
}

/// Where a packet stands in the outer one.
#[derive(Clone, Copy)]
struct Place {
    /// Bytes from the frame's start.
    at: usize,
    /// Bytes from there to the end of the outer packet.
    room: usize,
    /// ECN of the outer header.
    congestion: u8,
}

#[inline(always)]
fn cut<V: Fields, F: Frame, D: Duties>(
    frame: &mut F,
    duties: &D,
    place: Place,
) -> Result<Outcome, Outcome> {
    let Place {
        at,
        room,
        congestion,
    } = place;
    let header = frame
        .get_mut::<V::Header>(at)
        .ok_or(Outcome::MalformedInner)?;
    let inner = V::inspect(header).ok_or(Outcome::MalformedInner)?;
    if inner.length > room {
        return Err(Outcome::MalformedInner);
    }
    if duties.find(&Key::vip(inner.destination)).is_none() {
        return Err(Outcome::NotAVip);
    }
    let ecn = fold_back(congestion, inner.tos & ECN).ok_or(Outcome::Congested)?;
    if ecn != inner.tos & ECN {
        // Looked up anew: the verifier may have lost the bounds over the calls in between.
        let header = frame
            .get_mut::<V::Header>(at)
            .ok_or(Outcome::MalformedInner)?;
        V::set_tos(header, inner.tos, inner.tos & !ECN | ecn);
    }
    let ethernet = *frame.get::<Ethernet>(0).ok_or(Outcome::NotChanged)?;
    if !frame.adjust_head(at as i32 - size_of::<Ethernet>() as i32) {
        return Err(Outcome::NotChanged);
    }
    *frame.get_mut::<Ethernet>(0).ok_or(Outcome::NotChanged)? = Ethernet {
        ethertype: U16::new(V::ETHERTYPE),
        ..ethernet
    };
    Ok(Outcome::Decapsulated)
}

/// The ECN bits of a traffic class.
const ECN: u8 = 3;
/// The sender knows no congestion marks; it does, in two flavours; congestion was met.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CONGESTED: u8 = 3;

/// The mark of a packet that leaves a tunnel (RFC 6040 §4.2, figure 4); `None`: it has to be dropped.
#[inline(always)]
const fn fold_back(outer: u8, inner: u8) -> Option<u8> {
    match (outer, inner) {
        (CONGESTED, NOT_ECT) => None,
        (CONGESTED, _) => Some(CONGESTED),
        (ECT_1, ECT_0) => Some(ECT_1),
        (_, inner) => Some(inner),
    }
}

/// The VIP as destination, the DSCP cleared: what it was before the load balancer took it for the mark, nobody knows.
#[inline(always)]
fn map<V: Fields, F: Frame>(
    frame: &mut F,
    network: &Network,
    vip: Address,
) -> Result<Outcome, Outcome> {
    let whole_or_first = !network.piece.is_later();
    let checksum_at = match network.protocol {
        // Over its pseudo-header, too (RFC 4443 §2.3); that of ICMP has none.
        PROTOCOL_ICMPV6 => Some(2),
        PROTOCOL_ICMP => None,
        protocol => transport_checksum_offset(protocol),
    };
    if whole_or_first && let Some(checksum_at) = checksum_at {
        let udp = network.protocol == PROTOCOL_UDP;
        let checksum = frame
            .get_mut::<[u8; 2]>(network.transport + checksum_at)
            .ok_or(Outcome::MalformedInner)?;
        if !(udp && *checksum == [0, 0]) {
            *checksum = Difference::default()
                .address(network.destination, vip)
                .apply(*checksum);
            if udp && *checksum == [0, 0] {
                *checksum = [0xff, 0xff];
            }
        }
    }
    let header = frame
        .get_mut::<V::Header>(size_of::<Ethernet>())
        .ok_or(Outcome::NotChanged)?;
    V::set_tos(header, network.tos, network.tos & ECN);
    V::set_address(header, End::Destination, network.destination, vip);
    Ok(Outcome::Mapped)
}

/// What is asked of a header beyond [`Ip`].
trait Fields: Ip {
    /// `None` if the header contradicts itself.
    fn inspect(header: &Self::Header) -> Option<Inner>;

    /// Writes another traffic class in place of `old`, and keeps the header's checksum right.
    fn set_tos(header: &mut Self::Header, old: u8, new: u8);
}

/// A packet as far as it matters to whom it is given.
struct Inner {
    destination: Address,
    tos: u8,
    /// In bytes, header included.
    length: usize,
}

impl Fields for V4 {
    #[inline(always)]
    fn inspect(header: &Ipv4) -> Option<Inner> {
        let length = header.total_length.get() as usize;
        let header_length = header.header_length();
        if header.version_ihl >> 4 != 4
            || header_length < size_of::<Ipv4>()
            || length < header_length
        {
            return None;
        }
        Some(Inner {
            destination: Address::from_v4(header.destination),
            tos: header.tos,
            length,
        })
    }

    #[inline(always)]
    fn set_tos(header: &mut Ipv4, old: u8, new: u8) {
        let first = header.version_ihl;
        header.tos = new;
        header.checksum = Difference::default()
            .field([first, old], [first, new])
            .apply(header.checksum);
    }
}

impl Fields for V6 {
    #[inline(always)]
    fn inspect(header: &Ipv6) -> Option<Inner> {
        let first = header.version_class_flow.get();
        if first >> 28 != 6 {
            return None;
        }
        Some(Inner {
            destination: Address::from_v6(&header.destination),
            tos: (first >> 20) as u8,
            length: size_of::<Ipv6>() + header.payload_length.get() as usize,
        })
    }

    #[inline(always)]
    fn set_tos(header: &mut Ipv6, _old: u8, new: u8) {
        let first = header.version_class_flow.get();
        header.version_class_flow = U32::new(first & !(0xff << 20) | u32::from(new) << 20);
    }
}

const _: () = assert!(size_of::<Key>() == 24);
