//! `l3-dsr` through a tunnel: the packet as it came, but for one hop, in another one to the backend.

use zerocopy::network_endian::{U16, U32};

use crate::{
    address::Address,
    checksum,
    frame::Frame,
    hash,
    ip::{Ip, V4, V6},
    job::{Job, Outcome},
    link::{self, Exit},
    parse::Link,
    reason::Reason,
    tables::{Mode, Service, Tables},
    wire::{
        DONT_FRAGMENT, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Gre, Ipv4, Ipv6, PROTOCOL_GRE,
        PROTOCOL_UDP, Ports, Udp,
    },
};

/// Hops of the outer header: it travels within one site.
const OUTER_HOPS: u8 = 64;
/// GUE source ports are of the range without assignments (RFC 6335 §6).
const FIRST_SOURCE_PORT: u16 = 0xc000;

/// What stands before the inner packet.
#[derive(Clone, Copy)]
struct Outer {
    source: Address,
    destination: Address,
    protocol: u8,
    tos: u8,
    /// Bytes behind the outer IP header, to the end of the packet.
    payload: u16,
    dont_fragment: bool,
    identification: u16,
    /// The same for all packets of a flow, different among flows.
    entropy: u32,
}

/// Encapsulates the packet for its backend and addresses the frame to the next hop.
///
/// Reasons to fail: [`Reason::TooBig`], [`Reason::TtlExpired`], [`Reason::NoNextHop`], [`Reason::NoTunnelSource`],
/// [`Reason::NoHeadroom`]; but for the last, the packet is then unchanged.
#[inline(always)]
pub fn encapsulate<F: Frame, T: Tables>(frame: &mut F, tables: &T, job: &Job) -> Outcome {
    let result = match job.ethertype {
        ETHERTYPE_IPV4 => encapsulate_inner::<V4, F, T>(frame, tables, job),
        _ => encapsulate_inner::<V6, F, T>(frame, tables, job),
    };
    result.into()
}

/// Bytes that a service's tunnel adds to an IP packet for a backend of the outer family.
#[inline(always)]
pub const fn overhead(mode: u8, outer_v4: bool) -> usize {
    let outer = if outer_v4 {
        size_of::<Ipv4>()
    } else {
        size_of::<Ipv6>()
    };
    outer + shim(mode)
}

/// Bytes between outer IP header and inner packet.
#[inline(always)]
const fn shim(mode: u8) -> usize {
    if mode == Mode::Gre as u8 {
        size_of::<Gre>()
    } else if mode == Mode::Gue as u8 {
        size_of::<Udp>()
    } else {
        0
    }
}

#[inline(always)]
fn encapsulate_inner<V: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    job: &Job,
) -> Result<Exit, Reason> {
    let service = tables.service(job.service).ok_or(Reason::TableDefect)?;
    let backend = tables.backend(job.backend).ok_or(Reason::TableDefect)?;
    let state = backend.state();
    let next_hop = *backend.next_hop(state);
    let mut source = backend.tunnel_source(state);
    let destination = backend.address;
    let outer_v4 = destination.is_v4();
    if next_hop.ifindex == 0 {
        return Err(Reason::NoNextHop);
    }
    if source == Address::default() || source.is_v4() != outer_v4 {
        return Err(Reason::NoTunnelSource);
    }
    let total = job.length as usize + overhead(service.mode, outer_v4);
    if total > u16::MAX as usize || (next_hop.mtu != 0 && total > next_hop.mtu as usize) {
        return Err(Reason::TooBig);
    }
    let link = job.link();
    let header = frame
        .get_mut::<V::Header>(link.length())
        .ok_or(Reason::MalformedIp)?;
    if V::hops(header) <= 1 {
        return Err(Reason::TtlExpired);
    }
    V::decrement_hops(header);
    let (dont_fragment, identification) = V::fragmentation(header);

    let ports = (job.source_port as u32) << 16 | job.destination_port as u32;
    let entropy = hash::flow(service.seed, job.source, ports);
    if outer_v4 && service.mode == Mode::Ipip as u8 {
        source = spread(source, service.source_bits, entropy);
    }
    let outer = Outer {
        source,
        destination,
        protocol: protocol::<V>(service.mode),
        // RFC 6040 §4.1, normal mode: the congestion field is copied, too.
        tos: job.tos,
        payload: job.length + shim(service.mode) as u16,
        dont_fragment,
        // Flows of one outer pair would collide in their inner identifications.
        identification: identification ^ entropy as u16,
        entropy,
    };
    if outer_v4 {
        make_room::<Ipv4, F>(frame, link, shim(service.mode))?;
        *at::<Ipv4, F>(frame, size_of::<Ethernet>())? = outer.ipv4();
        write_shim::<V, F>(
            frame,
            service,
            size_of::<Ethernet>() + size_of::<Ipv4>(),
            &outer,
        )?;
    } else {
        make_room::<Ipv6, F>(frame, link, shim(service.mode))?;
        *at::<Ipv6, F>(frame, size_of::<Ethernet>())? = outer.ipv6();
        write_shim::<V, F>(
            frame,
            service,
            size_of::<Ethernet>() + size_of::<Ipv6>(),
            &outer,
        )?;
    }
    let link = Link {
        ethertype: if outer_v4 {
            ETHERTYPE_IPV4
        } else {
            ETHERTYPE_IPV6
        },
        tags: 0,
        control: link.control,
    };
    link::address(frame, link, &next_hop)
}

/// Moves the frame's start, so that an untagged Ethernet header, `H` and the shim end where the inner packet begins.
#[inline(always)]
fn make_room<H, F: Frame>(frame: &mut F, link: Link, shim: usize) -> Result<(), Reason> {
    let room = (size_of::<Ethernet>() + size_of::<H>() + shim) as i32;
    if frame.adjust_head(link.length() as i32 - room) {
        Ok(())
    } else {
        Err(Reason::NoHeadroom)
    }
}

#[inline(always)]
fn at<H: crate::wire::Wire, F: Frame>(frame: &mut F, offset: usize) -> Result<&mut H, Reason> {
    frame.get_mut::<H>(offset).ok_or(Reason::NoHeadroom)
}

#[inline(always)]
const fn protocol<V: Ip>(mode: u8) -> u8 {
    if mode == Mode::Gre as u8 {
        PROTOCOL_GRE
    } else if mode == Mode::Gue as u8 {
        PROTOCOL_UDP
    } else {
        V::PROTOCOL
    }
}

#[inline(always)]
fn write_shim<V: Ip, F: Frame>(
    frame: &mut F,
    service: &Service,
    offset: usize,
    outer: &Outer,
) -> Result<(), Reason> {
    if service.mode == Mode::Gre as u8 {
        *at::<Gre, F>(frame, offset)? = Gre {
            flags: U16::new(0),
            protocol: U16::new(V::ETHERTYPE),
        };
    } else if service.mode == Mode::Gue as u8 {
        *at::<Udp, F>(frame, offset)? = Udp {
            ports: Ports {
                source: U16::new(FIRST_SOURCE_PORT | outer.entropy as u16),
                destination: U16::new(service.gue_port),
            },
            length: U16::new(outer.payload),
            // None: allowed over IPv6 to tunnels as well (RFC 6935 §5, RFC 6936).
            checksum: [0; 2],
        };
    }
    Ok(())
}

/// Flow entropy in the low bits of an IPv4 address, for receivers that choose a queue by the outer addresses alone.
#[inline(always)]
fn spread(source: Address, bits: u8, entropy: u32) -> Address {
    let mask = (1_u32 << (bits & 15)) - 1;
    let address = u32::from_be_bytes(source.to_v4());
    Address::from_v4((address & !mask | entropy & mask).to_be_bytes())
}

impl Outer {
    #[inline(always)]
    fn ipv4(&self) -> Ipv4 {
        let mut header = Ipv4 {
            version_ihl: 0x45,
            tos: self.tos,
            total_length: U16::new(self.payload + size_of::<Ipv4>() as u16),
            // RFC 6864 §4.1: of no meaning in a packet that cannot be fragmented.
            identification: U16::new(if self.dont_fragment {
                0
            } else {
                self.identification
            }),
            fragment: U16::new(if self.dont_fragment { DONT_FRAGMENT } else { 0 }),
            ttl: OUTER_HOPS,
            protocol: self.protocol,
            checksum: [0; 2],
            source: self.source.to_v4(),
            destination: self.destination.to_v4(),
        };
        header.checksum = checksum::ipv4(&header);
        header
    }

    #[inline(always)]
    fn ipv6(&self) -> Ipv6 {
        let class = (self.tos as u32) << 20;
        // RFC 6438: the flow label is what routers and receivers spread tunnels by.
        let flow = self.entropy & 0xf_ffff;
        Ipv6 {
            version_class_flow: U32::new(6 << 28 | class | flow),
            payload_length: U16::new(self.payload),
            next_header: self.protocol,
            hop_limit: OUTER_HOPS,
            source: self.source.to_v6(),
            destination: self.destination.to_v6(),
        }
    }
}
