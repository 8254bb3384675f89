//! Tables with one service and one backend, and packets to it.

use core::net::IpAddr;

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};
use lb_common::{
    address::Address,
    forward::{Verdict, forward},
    host::{HeapTables, SliceFrame},
    index::{self, Entry},
    reason::Reason,
    tables::{Backend, BackendState, Key, Mode, NextHop, Service, Slot},
};

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
pub const INTERFACE: u32 = 7;
pub const BACKEND_RECORD: u32 = 1;

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn client(v4: bool) -> IpAddr {
    ip(if v4 { "198.51.100.7" } else { "2001:db8:c::7" })
}

pub fn vip(v4: bool) -> IpAddr {
    ip(if v4 { "192.0.2.10" } else { "2001:db8::10" })
}

pub fn backend(v4: bool) -> IpAddr {
    ip(if v4 { "10.0.0.3" } else { "fd00::3" })
}

pub fn tunnel_source(v4: bool) -> IpAddr {
    ip(if v4 { "10.0.0.240" } else { "fd00::2" })
}

/// One service on the VIP's port 80 and one backend that is up, changed by `adjust`.
pub fn tables(
    protocol: u8,
    mode: Mode,
    vip_v4: bool,
    backend_v4: bool,
    adjust: impl FnOnce(&mut Service, &mut Backend),
) -> HeapTables {
    let address = Address::from(vip(vip_v4));
    let mut service = Service {
        key: Key::new(address, protocol, 80),
        seed: 0x1234_5678,
        slot_base: 0,
        slot_count: 7,
        backend_base: 0,
        backend_count: 1,
        mode: mode as u8,
        gue_port: 6080,
        ..Service::default()
    };
    let mut record = Backend {
        address: backend(backend_v4).into(),
        next_hops: [NextHop {
            ifindex: INTERFACE,
            destination: BACKEND_MAC,
            source: LB_MAC,
            vlan: 0,
            mtu: 1500,
        }; 2],
        state: BackendState {
            service: 0,
            port: if mode == Mode::Nat { 8080 } else { 80 },
            next_hop: 0,
            up: true,
            lives: true,
            on_down: None,
        }
        .pack(),
        tunnel_sources: [tunnel_source(backend_v4).into(); 2],
        reserved: [0; 4],
    };
    adjust(&mut service, &mut record);
    let mut tables = HeapTables {
        cells: vec![0; 64],
        services: vec![service],
        slots: vec![Slot::settled(1).pack(); 7],
        backends: vec![Backend::default(), record].into(),
        ..HeapTables::default()
    };
    put(&mut tables, &service.key, Entry::Service(0));
    put(&mut tables, &Key::address_only(address), Entry::Vip(0));
    if mode == Mode::Nat {
        let key = Key::new(record.address, protocol, record.state().port);
        put(&mut tables, &key, Entry::Reverse(BACKEND_RECORD));
    }
    tables
}

/// Puts a cell at the first free place.
pub fn put(tables: &mut HeapTables, key: &Key, entry: Entry) {
    let hash = index::hash(key);
    let mask = tables.cells.len() as u32 - 1;
    let place = (0..index::PROBES)
        .map(|step| ((index::start(hash, mask) + step) & mask) as usize)
        .find(|place| tables.cells[*place] == 0)
        .expect("a free cell");
    tables.cells[place] = entry.cell(hash);
}

/// From the client to the VIP, or the other addresses given.
pub fn builder(
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let link = PacketBuilder::ethernet2(CLIENT_MAC, LB_MAC);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = etherparse::Ipv4Header::new(
                0,
                hops,
                IpNumber::UDP,
                source.octets(),
                destination.octets(),
            )
            .expect("a small packet");
            header.identification = 0x4321;
            header.dscp = etherparse::IpDscp::try_new(46).expect("six bits");
            header.ecn = etherparse::IpEcn::ONE;
            link.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => link.ip(etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                traffic_class: 46 << 2 | 1,
                flow_label: etherparse::Ipv6FlowLabel::try_new(0x12345).expect("20 bits"),
                payload_length: 0,
                next_header: IpNumber::UDP,
                hop_limit: hops,
                source: source.octets(),
                destination: destination.octets(),
            },
            Default::default(),
        )),
        _ => panic!("two families"),
    }
}

/// A TCP SYN (6) or a UDP datagram (17) with `payload` bytes to the VIP's port 80.
pub fn packet(protocol: u8, v4: bool, payload: usize) -> Vec<u8> {
    let step = builder(client(v4), vip(v4), 64);
    let payload: Vec<u8> = (0..payload).map(|n| n as u8).collect();
    let mut frame = Vec::new();
    match protocol {
        6 => step
            .tcp(40_000, 80, 7, 1024)
            .syn()
            .write(&mut frame, &payload),
        _ => step.udp(40_000, 80).write(&mut frame, &payload),
    }
    .expect("in memory");
    frame
}

/// With VLAN tags put behind the Ethernet addresses.
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for tag in tags {
        out.extend([0x81, 0x00]);
        out.extend(tag.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

pub fn run(tables: &HeapTables, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut frame = SliceFrame::new(frame, INTERFACE);
    let verdict = forward(&mut frame, tables);
    (verdict, frame.bytes().to_vec())
}

/// The one reason that was counted.
pub fn reason(tables: &HeapTables) -> Reason {
    let counters = tables.reason_counters.borrow();
    assert_eq!(counters.len(), 1, "{counters:?}");
    let number = counters.keys().next().copied().unwrap_or(u32::MAX);
    Reason::from_number(number).expect("a reason")
}
