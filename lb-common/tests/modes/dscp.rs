//! `encap = "dscp"`: the backend's address, the VIP's code, and nothing else changed; the server's inverse gives the packet back.

use core::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::{forward::Verdict, reason::Reason, tables::Mode};
use proptest::prelude::*;

use crate::common::*;

proptest! {
    #[test]
    fn the_code_names_the_vip_and_congestion_marks_stay(v4 in any::<bool>(), tcp in any::<bool>(), code in 1_u8..64, payload in 0_usize..1400, tag in any::<bool>()) {
        let protocol = if tcp { 6 } else { 17 };
        let tables = tables(protocol, Mode::Dscp, v4, v4, |service, _| service.dscp = code);
        let frame = packet(protocol, v4, payload);
        let sent = if tag { tagged(&frame, &[5]) } else { frame.clone() };
        let (verdict, out) = run(&tables, &sent);
        prop_assert_eq!((verdict, reason(&tables)), (Verdict::Transmit, Reason::ToBackend));
        prop_assert_eq!(out.len(), frame.len());
        let packet = SlicedPacket::from_ethernet(&out).expect("a frame");
        let (addresses, hops, tos): ([IpAddr; 2], u8, u8) = match packet.net.as_ref() {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                ([header.source.into(), header.destination.into()], header.time_to_live, header.dscp.value() << 2 | header.ecn.value())
            }
            Some(NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.flow_label.value(), 0x12345);
                ([header.source.into(), header.destination.into()], header.hop_limit, header.traffic_class)
            }
            other => panic!("{other:?}"),
        };
        prop_assert_eq!(addresses, [client(v4), backend(v4)]);
        prop_assert_eq!((hops, tos), (63, code << 2 | 1));
        let (is, should, ports) = match (packet.transport, addresses) {
            (Some(TransportSlice::Tcp(tcp)), [IpAddr::V4(a), IpAddr::V4(b)]) => (tcp.checksum(), tcp.calc_checksum_ipv4(a.octets(), b.octets()), [tcp.source_port(), tcp.destination_port()]),
            (Some(TransportSlice::Tcp(tcp)), [IpAddr::V6(a), IpAddr::V6(b)]) => (tcp.checksum(), tcp.calc_checksum_ipv6(a.octets(), b.octets()), [tcp.source_port(), tcp.destination_port()]),
            (Some(TransportSlice::Udp(udp)), [IpAddr::V4(a), IpAddr::V4(b)]) => (udp.checksum(), udp.to_header().calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload()), [udp.source_port(), udp.destination_port()]),
            (Some(TransportSlice::Udp(udp)), [IpAddr::V6(a), IpAddr::V6(b)]) => (udp.checksum(), udp.to_header().calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload()), [udp.source_port(), udp.destination_port()]),
            (other, _) => panic!("{other:?}"),
        };
        prop_assert_eq!(is, should.expect("short"));
        prop_assert_eq!(ports, [40_000, 80]);
    }
}

#[test]
fn the_last_hop_is_told() {
    for v4 in [true, false] {
        let tables = tables(17, Mode::Dscp, v4, v4, |service, _| service.dscp = 5);
        let mut frame = Vec::new();
        builder(client(v4), vip(v4), 1)
            .udp(9, 80)
            .write(&mut frame, &[1; 9])
            .expect("in memory");
        assert_eq!(run(&tables, &frame).0, Verdict::Transmit);
        assert_eq!(reason(&tables), Reason::Answered);
    }
}
