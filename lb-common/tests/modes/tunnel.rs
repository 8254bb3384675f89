//! `l3-dsr` through tunnels, judged by etherparse: every mode, both families outside and inside.

use crate::common::*;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::{forward::Verdict, reason::Reason, tables::Mode};
use proptest::prelude::*;

const MODES: [Mode; 3] = [Mode::Ipip, Mode::Gre, Mode::Gue];
const ETHERNET: usize = 14;

/// Outer header of a frame: checks it and gives source, destination, tos, entropy, and the inner packet.
struct Outer {
    source: core::net::IpAddr,
    tos: u8,
    dont_fragment: Option<bool>,
    entropy: u32,
    inner: Vec<u8>,
}

fn outer(frame: &[u8], mode: Mode, inner_v4: bool, outer_v4: bool) -> Outer {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let inner_protocol = if inner_v4 { 4 } else { 41 };
    let protocol = match mode {
        Mode::Gre => 47,
        Mode::Gue => 17,
        _ => inner_protocol,
    };
    let (source, tos, dont_fragment, label, payload) = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(slice) => {
            assert!(outer_v4);
            let header = slice.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(header.protocol.0, protocol);
            assert_eq!(header.time_to_live, 64);
            assert_eq!(header.total_len as usize, frame.len() - ETHERNET);
            assert_eq!(core::net::IpAddr::from(header.destination), backend(true));
            let tos = header.dscp.value() << 2 | header.ecn.value();
            (
                header.source.into(),
                tos,
                Some(header.dont_fragment),
                0,
                &frame[ETHERNET + 20..],
            )
        }
        NetSlice::Ipv6(slice) => {
            assert!(!outer_v4);
            let header = slice.header().to_header();
            assert_eq!(header.next_header.0, protocol);
            assert_eq!(header.hop_limit, 64);
            assert_eq!(header.payload_length as usize, frame.len() - ETHERNET - 40);
            assert_eq!(core::net::IpAddr::from(header.destination), backend(false));
            (
                header.source.into(),
                header.traffic_class,
                None,
                header.flow_label.value(),
                &frame[ETHERNET + 40..],
            )
        }
        other => panic!("{other:?}"),
    };
    let (entropy, inner) = match mode {
        Mode::Gre => {
            let ethertype: [u8; 2] = if inner_v4 { [0x08, 0] } else { [0x86, 0xdd] };
            assert_eq!(payload[..4], [0, 0, ethertype[0], ethertype[1]]);
            (label, &payload[4..])
        }
        Mode::Gue => {
            let udp = etherparse::UdpHeader::from_slice(payload).expect("UDP").0;
            assert_eq!(udp.destination_port, 6080);
            assert_eq!(udp.length as usize, payload.len());
            assert_eq!(udp.checksum, 0);
            assert!(udp.source_port >= 0xc000);
            (u32::from(udp.source_port), &payload[8..])
        }
        _ => (label, payload),
    };
    Outer {
        source,
        tos,
        dont_fragment,
        entropy,
        inner: inner.to_vec(),
    }
}

/// The packet that was put in, one hop earlier.
fn one_hop_more(inner: &[u8]) -> Vec<u8> {
    let mut packet = inner.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] += 1;
        packet[10..12].fill(0);
        let header = etherparse::Ipv4Header::from_slice(&packet).expect("IPv4").0;
        packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        packet[7] += 1;
    }
    packet
}

fn all() -> impl Iterator<Item = (Mode, bool, bool)> {
    let families = [(true, true), (true, false), (false, true), (false, false)];
    MODES
        .into_iter()
        .flat_map(move |mode| families.map(|(inner, outer)| (mode, inner, outer)))
}

#[test]
fn every_tunnel_carries_every_family_in_every_family() {
    for (mode, inner_v4, outer_v4) in all() {
        for protocol in [6, 17] {
            let tables = tables(protocol, mode, inner_v4, outer_v4, |_, _| {});
            let frame = packet(protocol, inner_v4, 99);
            let (verdict, out) = run(&tables, &frame);
            assert_eq!(
                verdict,
                Verdict::Transmit,
                "{mode:?} {inner_v4} in {outer_v4}"
            );
            assert_eq!(reason(&tables), Reason::ToBackend);
            assert_eq!((&out[..6], &out[6..12]), (&BACKEND_MAC[..], &LB_MAC[..]));
            let outer = outer(&out, mode, inner_v4, outer_v4);
            assert_eq!(outer.source, tunnel_source(outer_v4));
            assert_eq!(
                outer.tos,
                46 << 2 | 1,
                "DSCP and congestion field are copied"
            );
            assert_eq!(one_hop_more(&outer.inner), frame[ETHERNET..]);
            let inner = SlicedPacket::from_ip(&outer.inner).expect("a packet");
            assert!(matches!(
                inner.transport,
                Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_))
            ));
        }
    }
}

#[test]
fn the_outer_header_fragments_where_the_inner_may() {
    for (set, inner_v4) in [(false, true), (true, true), (true, false)] {
        let tables = tables(17, Mode::Ipip, inner_v4, true, |_, _| {});
        let mut frame = packet(17, inner_v4, 10);
        if inner_v4 {
            frame[20] = if set { 0x40 } else { 0 };
            let header = etherparse::Ipv4Header::from_slice(&frame[ETHERNET..])
                .expect("IPv4")
                .0;
            frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        }
        let (_, out) = run(&tables, &frame);
        let outer = outer(&out, Mode::Ipip, inner_v4, true);
        assert_eq!(outer.dont_fragment, Some(set));
    }
}

#[test]
fn flows_differ_in_what_receivers_spread_by() {
    for (mode, inner_v4, outer_v4) in all() {
        let has_entropy = mode == Mode::Gue || !outer_v4;
        let tables = tables(17, mode, inner_v4, outer_v4, |_, _| {});
        let entropies: std::collections::BTreeSet<u32> = (0..50_u16)
            .map(|port| {
                let mut frame = Vec::new();
                builder(client(inner_v4), vip(inner_v4), 9)
                    .udp(port, 80)
                    .write(&mut frame, &[])
                    .expect("in memory");
                outer(&run(&tables, &frame).1, mode, inner_v4, outer_v4).entropy
            })
            .collect();
        assert_eq!(
            entropies.len() > 40,
            has_entropy,
            "{mode:?} {inner_v4} {outer_v4}"
        );
    }
    let tables = tables(17, Mode::Ipip, true, true, |service, _| {
        service.source_bits = 4
    });
    let sources: std::collections::BTreeSet<_> = (0..200_u16)
        .map(|port| {
            let mut frame = Vec::new();
            builder(client(true), vip(true), 9)
                .udp(port, 80)
                .write(&mut frame, &[])
                .expect("in memory");
            outer(&run(&tables, &frame).1, Mode::Ipip, true, true).source
        })
        .collect();
    assert_eq!(sources.len(), 16);
    assert_eq!(sources.first(), Some(&ip("10.0.0.240")));
}

#[test]
fn tags_are_replaced_by_the_next_hops() {
    for tags in [&[][..], &[0xa005], &[0xa005, 6]] {
        for vlan in [0, 9] {
            let tables = tables(6, Mode::Gre, true, false, |_, backend| {
                backend.next_hops[0].vlan = vlan;
            });
            let frame = packet(6, true, 20);
            let (verdict, out) = run(&tables, &tagged(&frame, tags));
            assert_eq!(verdict, Verdict::Transmit);
            let untagged = if vlan == 0 {
                out
            } else {
                let priority = if tags.is_empty() { 0 } else { 0xa0 };
                assert_eq!(out[12..18], [0x81, 0, priority, 9, 0x86, 0xdd]);
                [&out[..12], &out[16..]].concat()
            };
            let outer = outer(&untagged, Mode::Gre, true, false);
            assert_eq!(one_hop_more(&outer.inner), frame[ETHERNET..]);
        }
    }
}

#[test]
fn what_does_not_fit_or_cannot_go_is_counted_and_unchanged() {
    let fits = 1500 - 20 - 8;
    for (length, expected) in [(fits, Reason::ToBackend), (fits + 1, Reason::Answered)] {
        let tables = tables(17, Mode::Gue, true, true, |_, _| {});
        run(&tables, &packet(17, true, length - 28));
        assert_eq!(reason(&tables), expected);
    }
    let without_source = tables(17, Mode::Gue, true, true, |_, backend| {
        backend.tunnel_sources = Default::default();
    });
    run(&without_source, &packet(17, true, 1));
    assert_eq!(reason(&without_source), Reason::NoTunnelSource);
    let expired = tables(17, Mode::Gue, true, true, |_, _| {});
    let mut frame = Vec::new();
    builder(client(true), vip(true), 1)
        .udp(1, 80)
        .write(&mut frame, &[])
        .expect("in memory");
    assert_eq!(run(&expired, &frame).0, Verdict::Transmit);
    assert_eq!(reason(&expired), Reason::Answered);
}

proptest! {
    #[test]
    fn what_comes_out_of_the_tunnel_is_what_went_in(
        which in 0_usize..12, payload in 0_usize..1300, port in any::<u16>(), seed in any::<u64>(), hops in 2_u8..=255,
    ) {
        let (mode, inner_v4, outer_v4) = all().nth(which).expect("twelve of them");
        let tables = tables(17, mode, inner_v4, outer_v4, |service, _| service.seed = seed);
        let mut frame = Vec::new();
        builder(client(inner_v4), vip(inner_v4), hops).udp(port, 80).write(&mut frame, &vec![7; payload]).expect("in memory");
        let (verdict, out) = run(&tables, &frame);
        prop_assert_eq!(verdict, Verdict::Transmit);
        let outer = outer(&out, mode, inner_v4, outer_v4);
        prop_assert_eq!(one_hop_more(&outer.inner), &frame[ETHERNET..]);
    }
}
