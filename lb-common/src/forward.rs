//! The packet path: from a received frame to where it goes next.
//!
//! parse → service by destination → slot → backend → rewrite → link; or, for a `nat` backend's reply: backend by
//! source → service → rewrite → route → link. Every way out has a [`Reason`] and is counted once.

use crate::{
    address::Address,
    answer::{Case, is_host},
    consistency::{self, Steer, Written, looks_up},
    echo,
    flow_table::FlowKey,
    fragment,
    frame::Frame,
    hash,
    index::{self, Entry},
    ip::{End, Ip, V4, V6},
    job::{Job, Outcome},
    lease::{self, Solicited},
    link::{self, Exit},
    mss,
    parse::{self, Link, Network, Piece, PortPair},
    reason::{Class, Reason},
    related,
    rewrite::{Endpoint, translate, translate_outside},
    select,
    steering::Family,
    tables::{
        Backend, HashPolicy, Key, Mode, NO_BACKEND, Route, RouteQuery, Service, Slot, Tables,
        features, flags,
    },
    wire::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_ICMPV6, PROTOCOL_TCP, Tcp},
};

/// What the caller has to do with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Give it to the host's stack.
    Pass,
    Drop,
    /// Send it out on the interface that it came in on.
    Transmit,
    /// Send it out on this interface.
    Redirect(u32),
}

/// Why a frame is not sent on by the packet path itself.
type Halt = Reason;

/// Where a frame was sent, and for which backend it counts.
struct Sent {
    reason: Reason,
    exit: Exit,
    backend: u32,
}

/// Decides on one frame, rewrites it, and counts it.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let bytes = frame.length() as u32;
    match route_frame(frame, tables) {
        Ok(sent) => {
            tables.count(sent.reason, bytes);
            if sent.reason as u32 == Reason::ToBackend as u32 {
                tables.count_backend(sent.backend, bytes);
            }
            match sent.exit {
                Exit::SameInterface => Verdict::Transmit,
                Exit::Interface(ifindex) => Verdict::Redirect(ifindex),
            }
        }
        Err(reason) => {
            tables.count(reason, bytes);
            match reason.class() {
                Class::Dropped => Verdict::Drop,
                Class::Passed | Class::Forwarded | Class::Answered => Verdict::Pass,
            }
        }
    }
}

#[inline(always)]
fn route_frame<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Result<Sent, Halt> {
    let link = parse::link(frame).ok_or(Reason::NotIp)?;
    match link.ethertype {
        ETHERTYPE_IPV4 => route_packet::<V4, F, T>(frame, tables, link),
        ETHERTYPE_IPV6 => route_packet::<V6, F, T>(frame, tables, link),
        ethertype => beside_ip(frame, tables, link, ethertype),
    }
}

/// The peer's echo, and ARP for addresses that this node no longer holds; all else is the host's.
#[inline(always)]
fn beside_ip<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: Link,
    ethertype: u16,
) -> Result<Sent, Halt> {
    if ethertype == echo::ETHERTYPE && echo::respond(frame, tables, link) {
        return Ok(Sent {
            reason: Reason::EchoAnswered,
            exit: Exit::SameInterface,
            backend: 0,
        });
    }
    if ethertype == ETHERTYPE_ARP && lease::withholds_arp(frame, tables, link) {
        return Err(Reason::LeaseExpired);
    }
    Err(Reason::NotIp)
}

#[inline(always)]
fn route_packet<V: Family, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: Link,
) -> Result<Sent, Halt> {
    let mut network = V::parse(frame, link.length())?;
    let ports = if network.piece.is_fragment() {
        None
    } else {
        parse::ports(frame, &network)
    };
    let ports = match ports {
        Some(ports) => ports,
        None => match indirect(frame, tables, &mut network)? {
            Some(ports) => ports,
            None => return without_ports(frame, tables, &network),
        },
    };
    let key = Key::new(network.destination, network.protocol, ports.destination);
    if let Some(Entry::Service(record)) = index::find(tables, &key) {
        let service = tables.service(record).ok_or(Reason::TableDefect)?;
        if service.key == key {
            return to_backend::<V, F, T>(frame, tables, link, &network, ports, service, record);
        }
    }
    let key = Key::new(network.source, network.protocol, ports.source);
    if let Some(Entry::Reverse(record)) = index::find(tables, &key) {
        let backend = tables.backend(record).ok_or(Reason::TableDefect)?;
        let state = backend.state();
        if backend.address == key.address && state.port == key.port {
            return to_client::<V, F, T>(
                frame,
                tables,
                link,
                &network,
                ports,
                state.service,
                record,
            );
        }
    }
    let record = unserved(tables, &network)?;
    unmatched(frame, tables, network.protocol == PROTOCOL_TCP, record)
}

/// Forward direction: client to backend.
#[inline(always)]
fn to_backend<V: Family, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: Link,
    network: &Network,
    ports: PortPair,
    service: &Service,
    service_record: u32,
) -> Result<Sent, Halt> {
    if !is_host(network.source) || network.source == network.destination {
        return Err(Reason::Martian);
    }
    let chosen = choose::<V, F, T>(frame, tables, link, network, ports, service, service_record);
    let record = match chosen {
        Ok(record) => record,
        Err(reason) => return unplaced(frame, tables, network, reason, service_record),
    };
    let backend = tables.backend(record).ok_or(Reason::TableDefect)?;
    let state = backend.state();
    let next_hop = backend.next_hop(state);
    if next_hop.ifindex == 0 {
        return Err(Reason::NoNextHop);
    }
    clamp(frame, tables, network, service, backend);
    match Mode::from_number(service.mode) {
        Some(Mode::L2Dsr) => {}
        Some(mode @ (Mode::Nat | Mode::Dscp)) => {
            let old = Endpoint {
                address: network.destination,
                port: ports.destination,
            };
            let new = Endpoint {
                address: backend.address,
                port: state.port,
            };
            let dscp = mode as u8 == Mode::Dscp as u8;
            let translated = if dscp {
                translate_outside::<V, F>(frame, link, network, End::Destination, old, new)
            } else {
                translate::<V, F>(frame, link, network, End::Destination, old, new)
            };
            if let Err(reason) = translated {
                return stopped(frame, tables, reason, service_record, record);
            }
            if dscp {
                let header = frame.get_mut::<V::Header>(link.length());
                V::set_dscp(header.ok_or(Reason::MalformedIp)?, service.dscp);
            }
        }
        Some(Mode::Ipip | Mode::Gre | Mode::Gue) if tables.features() & features::TUNNEL != 0 => {
            let job = Job::new(link, network, ports, service_record, record);
            return sent(tables.encapsulate(frame, &job), record)
                .or_else(|reason| stopped(frame, tables, reason, service_record, record));
        }
        _ => return Err(Reason::TableDefect),
    }
    let exit = link::address(frame, link, next_hop)?;
    Ok(Sent {
        reason: Reason::ToBackend,
        exit,
        backend: record,
    })
}

/// The record of the backend that a packet of a service belongs to.
#[inline(always)]
fn choose<V: Family, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: Link,
    network: &Network,
    ports: PortPair,
    service: &Service,
    service_record: u32,
) -> Result<u32, Halt> {
    let mut hashed = ports;
    if tables.features() & features::SALT != 0 && select::applies(service) {
        hashed = PortPair::unpack(tables.salt(frame, service_record));
    }
    let position = service.slot_base.wrapping_add(hash::reduce(
        flow_hash(service, network.source, network.piece, hashed),
        service.slot_count,
    ));
    let word = tables.slot(position).ok_or(Reason::TableDefect)?;
    let slot = Slot::unpack(word);
    let number = if tables.features() & features::TRACK != 0 && looks_up(slot, service.policy()) {
        let mut job = Job::new(link, network, ports, service_record, 0);
        job.slot = word;
        job.flags = parse::tcp_flags(frame, network);
        let records = !network.piece.is_quoted();
        steer::<V, T>(tables, &job, records)?
    } else {
        slot.current
    };
    if number == NO_BACKEND {
        return Err(Reason::NoBackend);
    }
    Ok(service.backend_base.wrapping_add(u32::from(number)))
}

/// As [`choose`], by the records; the backend's number. Without `records` nothing is recorded.
#[inline(always)]
fn steer<V: Family, T: Tables>(tables: &T, job: &Job, records: bool) -> Result<u16, Halt> {
    let steered = consistency::steer(
        || tables.look::<V>(job),
        |writing| {
            if records {
                tables.write::<V>(job, writing)
            } else {
                Written::Full
            }
        },
    );
    match steered {
        Steer::To(number) => Ok(number),
        Steer::Unrecorded(number) => {
            if records {
                tables.note_unrecorded(job.service);
            }
            Ok(number)
        }
        Steer::NoBackend => Err(Reason::NoBackend),
        Steer::Reset => Err(Reason::BackendGone),
        Steer::Contended => Err(Reason::Contended),
    }
}

/// What a part of the packet path that is kept apart has done.
#[inline(always)]
fn sent(outcome: u64, backend: u32) -> Result<Sent, Halt> {
    let Outcome { reason, exit } = Outcome::unpack(outcome);
    match exit {
        Some(exit) => Ok(Sent {
            reason,
            exit,
            backend,
        }),
        None => Err(reason),
    }
}

/// Reverse direction of `nat`: backend to client, which shall see the service's address.
#[inline(always)]
fn to_client<V: Ip, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    link: Link,
    network: &Network,
    ports: PortPair,
    service: u32,
    record: u32,
) -> Result<Sent, Halt> {
    let service = tables.service(service).ok_or(Reason::TableDefect)?;
    if service.key.protocol != network.protocol {
        return Err(Reason::NotOurs);
    }
    let backend = tables.backend(record).ok_or(Reason::TableDefect)?;
    let query = RouteQuery {
        source: service.key.address,
        destination: network.destination,
        protocol: network.protocol,
        tos: network.tos,
        length: network.length as u16,
        ifindex: frame.ingress_ifindex(),
    };
    let route = tables.route(&query);
    match route {
        Route::Direct(_) | Route::Unresolved => {}
        Route::Host => return Err(Reason::ReplyToHost),
        Route::None => return Err(Reason::NoRoute),
    }
    let old = Endpoint {
        address: network.source,
        port: ports.source,
    };
    let new = Endpoint {
        address: service.key.address,
        port: service.key.port,
    };
    clamp(frame, tables, network, service, backend);
    translate::<V, F>(frame, link, network, End::Source, old, new)?;
    let Route::Direct(next_hop) = route else {
        return Err(Reason::ResolvingClient);
    };
    let exit = link::address(frame, link, &next_hop)?;
    Ok(Sent {
        reason: Reason::ToClient,
        exit,
        backend: record,
    })
}

/// Lowers what a SYN of the service's flow by `backend` asks for, where the service says so.
#[inline(always)]
fn clamp<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    network: &Network,
    service: &Service,
    backend: &Backend,
) {
    if tables.features() & features::MSS == 0
        || service.mss == 0
        || network.protocol != PROTOCOL_TCP
        || network.piece as u8 != Piece::Whole as u8
    {
        return;
    }
    let is_syn = match frame.get::<Tcp>(network.transport) {
        Some(header) => header.flags & mss::SYN != 0,
        None => false,
    };
    if is_syn {
        frame.clamp(mss::limit(service, backend));
    }
}

/// Number of the slot, within its service, of a flow's packets; `None` where its addresses and ports do not tell.
#[inline(always)]
pub const fn slot_of(service: &Service, flow: &FlowKey) -> Option<u32> {
    if select::applies(service) {
        return None;
    }
    let ports = PortPair {
        source: flow.source.port,
        destination: flow.destination.port,
    };
    let hash = flow_hash(service, flow.source.address, Piece::Whole, ports);
    Some(hash::reduce(hash, service.slot_count))
}

#[inline(always)]
const fn flow_hash(service: &Service, source: Address, piece: Piece, ports: PortPair) -> u32 {
    let without_ports = service.hash == HashPolicy::L3 as u8
        || piece.is_fragment()
            && service.flags & flags::FRAGMENTS == flags::FRAGMENTS_L3
            && !select::applies(service);
    let ports = if without_ports { 0 } else { ports.pack() };
    hash::flow(service.seed, source, ports)
}

/// A packet that cannot go on to its backend: the sender is told where the reason is the packet's.
#[inline(always)]
fn stopped<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    reason: Reason,
    service: u32,
    backend: u32,
) -> Result<Sent, Halt> {
    let told = reason as u32 == Reason::TooBig as u32 || reason as u32 == Reason::TtlExpired as u32;
    if told && tables.features() & features::ANSWER != 0 {
        let case = Case {
            reason,
            service,
            backend,
        };
        return sent(tables.answer(frame, case), 0);
    }
    Err(reason)
}

/// A packet of a service that no backend gets: if its connection ends by that, the client is told.
#[inline(always)]
fn unplaced<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    network: &Network,
    reason: Reason,
    service: u32,
) -> Result<Sent, Halt> {
    if reason as u32 != Reason::BackendGone as u32
        || network.piece.is_quoted()
        || tables.features() & features::ANSWER == 0
    {
        return Err(reason);
    }
    let case = Case {
        reason,
        service,
        backend: 0,
    };
    sent(tables.reset(frame, case), 0)
}

/// A packet to an address of a service and to no service, as the policy of the address says.
#[inline(always)]
fn unmatched<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    tcp: bool,
    service: u32,
) -> Result<Sent, Halt> {
    if tables.features() & features::ANSWER == 0 {
        return Err(Reason::Unmatched);
    }
    let case = Case {
        reason: Reason::Unmatched,
        service,
        backend: 0,
    };
    if tcp {
        return sent(tables.reset(frame, case), 0);
    }
    sent(tables.answer(frame, case), 0)
}

/// The ports of a packet that does not show them: those of a fragment's first, or of the flow that an ICMP error is about.
#[inline(always)]
fn indirect<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    network: &mut Network,
) -> Result<Option<PortPair>, Halt> {
    if !network.piece.is_fragment() {
        return Ok(quoted(frame, tables, network));
    }
    if tables.features() & features::FRAGMENTS == 0 || !parse::has_ports(network.protocol) {
        return Ok(None);
    }
    match fragment::unpack(tables.fragment(frame)) {
        Ok(ports) => Ok(Some(ports)),
        Err(Reason::NotOurs) => Ok(None),
        Err(reason) => Err(reason),
    }
}

/// Takes an ICMP error for a packet of the flow that it is about, the way back of what it quotes; the flow's ports.
#[inline(always)]
fn quoted<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    network: &mut Network,
) -> Option<PortPair> {
    if tables.features() & features::RELATED == 0 || !related::is_error(frame, network) {
        return None;
    }
    let flow = tables.quoted(frame)?;
    network.source = flow.source;
    network.destination = flow.destination;
    network.protocol = flow.protocol;
    network.piece = Piece::Quoted;
    Some(flow.ports)
}

/// A packet whose ports could not be read.
#[inline(always)]
fn without_ports<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    network: &Network,
) -> Result<Sent, Halt> {
    if network.protocol == PROTOCOL_ICMPV6 {
        match lease::solicited(frame, tables, network) {
            Solicited::Withheld => return Err(Reason::LeaseExpired),
            Solicited::Kernel => return Err(Reason::NotOurs),
            Solicited::Other => {}
        }
    }
    let record = unserved(tables, network)?;
    if parse::has_ports(network.protocol) && !network.piece.is_fragment() {
        return Err(Reason::MalformedTransport);
    }
    unmatched(frame, tables, false, record)
}

/// A packet for no service: the record of a service that has its destination; an error if that is none of our business.
#[inline(always)]
fn unserved<T: Tables>(tables: &T, network: &Network) -> Result<u32, Reason> {
    match index::find(tables, &Key::address_only(network.destination)) {
        Some(Entry::Vip(record)) => match tables.service(record) {
            Some(service) if service.key.address == network.destination => Ok(record),
            _ => Err(Reason::NotOurs),
        },
        _ => Err(Reason::NotOurs),
    }
}
