//! ICMP errors about packets of a service: unreachable, too big, time exceeded.
//!
//! The router that reports one knows neither the balancer nor its backends. What the error quotes names the flow: an error about what a
//! backend sent in the VIP's name goes to the backend that has the flow, one about what a client sent to a `nat` backend goes to the client.
//! So an error is taken for a packet of the flow that goes the way back of the one that it quotes, and from there on treated as one; where
//! addresses are translated, those in the quotation are, too (RFC 5508 §4.2).

use zerocopy::network_endian::U16;

use crate::{
    address::Address,
    checksum::Difference,
    frame::Frame,
    ip::{Chain, End, Ip, MAX_TRANSPORT, V4, V6, transport_checksum_offset},
    job::Job,
    parse::{self, Network, Piece, PortPair},
    rewrite::Endpoint,
    wire::{ETHERTYPE_IPV4, Icmp, Ipv4, Ipv6, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_UDP, Ports},
};

/// A flow, as one of its packets names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: Address,
    pub destination: Address,
    pub protocol: u8,
    pub ports: PortPair,
}

impl Flow {
    /// The flow of a job.
    #[inline(always)]
    pub const fn of(job: &Job) -> Self {
        Self {
            source: job.source,
            destination: job.destination,
            protocol: job.protocol,
            ports: PortPair {
                source: job.source_port,
                destination: job.destination_port,
            },
        }
    }
}

/// How the addresses of an error change: one end of its own, and the opposite end of what it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Requote {
    pub old: Endpoint,
    pub new: Endpoint,
    pub end: End,
    /// What is quoted is changed, too.
    pub inside: bool,
}

/// Whether the packet is an ICMP error of a kind that is about a flow; cheap, for packets of which few are.
#[inline(always)]
pub fn is_error<F: Frame>(frame: &F, network: &Network) -> bool {
    if network.piece.is_fragment() || !matches!(network.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6) {
        return false;
    }
    match frame.get::<Icmp>(network.transport) {
        Some(icmp) => is_error_kind(network.protocol, icmp.kind),
        None => false,
    }
}

#[inline(always)]
const fn is_error_kind(protocol: u8, kind: u8) -> bool {
    if protocol == PROTOCOL_ICMP {
        // RFC 792: unreachable, time exceeded, parameter problem.
        matches!(kind, 3 | 11 | 12)
    } else {
        // RFC 4443 §3.
        matches!(kind, 1..=4)
    }
}

/// Where the transport header of a quoted packet stands in the frame, and of which protocol it is.
#[derive(Clone, Copy)]
struct Place {
    transport: usize,
    protocol: u8,
}

/// Makes of the job of an ICMP error the job of the flow that it is about. False if it is about none that has ports, or not sent to the
/// source of what it quotes.
#[inline(always)]
pub fn quote<F: Frame>(frame: &mut F, job: &mut Job) -> bool {
    let v4 = job.ethertype == ETHERTYPE_IPV4;
    let start = (job.transport as usize & MAX_TRANSPORT) + size_of::<Icmp>();
    let end = job.link().length() + job.length as usize;
    let place = if v4 {
        V4::place(frame, start)
    } else {
        V6::place(frame, start)
    };
    let Some(place) = place else {
        return false;
    };
    // RFC 792: at least 8 bytes of what follows the IP header.
    if !parse::has_ports(place.protocol) || place.transport + 8 > end {
        return false;
    }
    frame.renew();
    let addresses = if v4 {
        frame.get::<Ipv4>(start).map(|header| {
            (
                Address::from_v4(header.source),
                Address::from_v4(header.destination),
            )
        })
    } else {
        frame.get::<Ipv6>(start).map(|header| {
            (
                Address::from_v6(&header.source),
                Address::from_v6(&header.destination),
            )
        })
    };
    let Some((source, destination)) = addresses else {
        return false;
    };
    // Mapped addresses: see `V6::parse`.
    if source != job.destination || source.is_v4() != v4 || destination.is_v4() != v4 {
        return false;
    }
    frame.renew();
    let Some(ports) = frame.get::<Ports>(place.transport) else {
        return false;
    };
    job.source_port = ports.destination.get();
    job.destination_port = ports.source.get();
    job.source = destination;
    job.protocol = place.protocol;
    job.piece = Piece::Quoted as u8;
    true
}

/// Changes the addresses of the error of `job`, which [`quote`] has understood and which has hops left; one hop less, and all checksums as
/// right as they were. False if it does not hold together.
#[inline(always)]
pub fn requote<F: Frame>(frame: &mut F, job: &Job, change: &Requote) -> bool {
    let done = if job.ethertype == ETHERTYPE_IPV4 {
        requote_packet::<V4, F>(frame, job, change)
    } else {
        requote_packet::<V6, F>(frame, job, change)
    };
    done.is_some()
}

#[inline(always)]
fn requote_packet<V: Quoted, F: Frame>(frame: &mut F, job: &Job, change: &Requote) -> Option<()> {
    let transport = job.transport as usize & MAX_TRANSPORT;
    let start = transport + size_of::<Icmp>();
    let end = job.link().length() + job.length as usize;
    let place = V::place(frame, start)?;

    // What was seen of later bytes tells the compiler of earlier ones; the verifier cannot follow it. So here, and below.
    frame.renew();
    let header = frame.get_mut::<V::Header>(job.link().length())?;
    let outer_old = match change.end {
        End::Source => job.source,
        End::Destination => job.destination,
    };
    V::decrement_hops(header);
    V::set_address(header, change.end, outer_old, change.new.address);
    let mut sum = V::pseudo_header(outer_old, change.new.address);

    if !change.inside {
        frame.renew();
        let icmp = frame.get_mut::<Icmp>(transport)?;
        icmp.checksum = sum.apply(icmp.checksum);
        return Some(());
    }
    frame.renew();
    let header = frame.get_mut::<V::Header>(start)?;
    let before = V::header_checksum(header);
    let opposite = match change.end {
        End::Source => End::Destination,
        End::Destination => End::Source,
    };
    V::set_address(header, opposite, change.old.address, change.new.address);
    sum = sum
        .address(change.old.address, change.new.address)
        .field(before, V::header_checksum(header));

    let ports =
        Difference::default().field(change.old.port.to_be_bytes(), change.new.port.to_be_bytes());
    frame.renew();
    let header = frame.get_mut::<Ports>(place.transport)?;
    match opposite {
        End::Source => header.source = U16::new(change.new.port),
        End::Destination => header.destination = U16::new(change.new.port),
    }
    sum = sum.field(change.old.port.to_be_bytes(), change.new.port.to_be_bytes());

    // Eight bytes of a TCP header end before its checksum: what is not quoted stays as it is.
    frame.renew();
    let at = transport_checksum_offset(place.protocol)
        .map_or(0, |at| (place.transport + at) & MAX_TRANSPORT);
    if at != 0
        && at + 2 <= end
        && let Some(checksum) = frame.get_mut::<[u8; 2]>(at)
        && !(place.protocol == PROTOCOL_UDP && *checksum == [0; 2])
    {
        let before = *checksum;
        let mut updated = ports
            .address(change.old.address, change.new.address)
            .apply(before);
        if place.protocol == PROTOCOL_UDP && updated == [0; 2] {
            updated = [0xff; 2];
        }
        *checksum = updated;
        sum = sum.field(before, updated);
    }

    frame.renew();
    let icmp = frame.get_mut::<Icmp>(transport)?;
    icmp.checksum = sum.apply(icmp.checksum);
    Some(())
}

/// What differs between the errors of IPv4 and IPv6.
trait Quoted: Ip {
    /// The transport header of the packet quoted at `start`; `None` if it is not of this version, cut off, or a later fragment.
    fn place<F: Frame>(frame: &F, start: usize) -> Option<Place>;

    /// The header's own checksum; zeros without one.
    fn header_checksum(header: &Self::Header) -> [u8; 2];

    /// What an address of the error itself changes in its checksum.
    fn pseudo_header(old: Address, new: Address) -> Difference;
}

impl Quoted for V4 {
    #[inline(always)]
    fn place<F: Frame>(frame: &F, start: usize) -> Option<Place> {
        let header = frame.get::<Ipv4>(start)?;
        let length = header.header_length();
        if header.version_ihl >> 4 != 4 || length < size_of::<Ipv4>() || header.piece().is_later() {
            return None;
        }
        Some(Place {
            transport: start + length,
            protocol: header.protocol,
        })
    }

    #[inline(always)]
    fn header_checksum(header: &Ipv4) -> [u8; 2] {
        header.checksum
    }

    #[inline(always)]
    fn pseudo_header(_old: Address, _new: Address) -> Difference {
        Difference::default()
    }
}

impl Quoted for V6 {
    #[inline(always)]
    fn place<F: Frame>(frame: &F, start: usize) -> Option<Place> {
        let header = frame.get::<Ipv6>(start)?;
        if header.version_class_flow.get() >> 28 != 6 {
            return None;
        }
        let transport = start + size_of::<Ipv6>();
        if parse::has_ports(header.next_header) {
            return Some(Place {
                transport,
                protocol: header.next_header,
            });
        }
        // The lengths are those of the packet, of which less may be quoted: bounded by the frame alone.
        let chain = Chain::unpack(frame.extensions(Chain {
            protocol: header.next_header,
            piece: Piece::Whole,
            transport: transport as u16,
            payload: u16::MAX,
        }));
        if chain.transport == 0 || chain.piece.is_later() {
            return None;
        }
        Some(Place {
            transport: chain.transport as usize & MAX_TRANSPORT,
            protocol: chain.protocol,
        })
    }

    #[inline(always)]
    fn header_checksum(_header: &Ipv6) -> [u8; 2] {
        [0; 2]
    }

    #[inline(always)]
    fn pseudo_header(old: Address, new: Address) -> Difference {
        Difference::default().address(old, new)
    }
}
