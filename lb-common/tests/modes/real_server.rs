//! A real server's way with packets: what the load balancer put around them is gone, and nothing else.

use core::net::IpAddr;

use crate::common::*;
use etherparse::{Ipv4Header, PacketBuilder};
use lb_common::{
    address::Address,
    forward::Verdict,
    host::{HeapDuties, SliceFrame},
    real_server::{Key, Outcome, receive},
    tables::Mode,
};
use proptest::prelude::*;

const ETHERNET: usize = 14;
const GUE_PORT: u16 = 6080;
/// A mark, and the congestion field of RFC 3168.
const DSCP: u8 = 11;
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Tunnels of every kind to this server, for the VIPs of both families, and one mark of each.
fn duties() -> HeapDuties {
    let mut duties = HeapDuties::default();
    for outer in [backend(true), backend(false)].map(Address::from) {
        for protocol in [4, 41, 47] {
            duties
                .duties
                .insert(Key::tunnel(outer, protocol, 0), Address::default());
        }
        duties
            .duties
            .insert(Key::tunnel(outer, 17, GUE_PORT), Address::default());
    }
    for v4 in [true, false] {
        let (own, vip) = (backend(v4).into(), vip(v4).into());
        duties.duties.insert(Key::vip(vip), Address::default());
        for (protocol, port) in [(6, 80), (17, 80), (6, 0), (17, 0), (1, 0), (58, 0)] {
            duties
                .duties
                .insert(Key::mark(own, DSCP, protocol, port), vip);
        }
    }
    duties
}

fn received(frame: &[u8]) -> (bool, Outcome, Vec<u8>) {
    let duties = duties();
    let mut frame = SliceFrame::new(frame, INTERFACE);
    let passed = receive(&mut frame, &duties);
    let outcomes = duties.outcomes.borrow();
    assert_eq!(outcomes.len(), 1, "counted once: {outcomes:?}");
    (passed, outcomes[0], frame.bytes().to_vec())
}

/// A frame as the load balancer sends it to the backend.
fn tunnelled(mode: Mode, inner_v4: bool, outer_v4: bool, protocol: u8, payload: usize) -> Vec<u8> {
    let tables = tables(protocol, mode, inner_v4, outer_v4, |_, _| {});
    let (verdict, frame) = run(&tables, &packet(protocol, inner_v4, payload));
    assert_eq!(verdict, Verdict::Transmit);
    frame
}

/// The client's frame as it should reach the stack: one hop later, with the MACs of the last link.
fn expected(protocol: u8, v4: bool, payload: usize) -> Vec<u8> {
    let mut frame = packet(protocol, v4, payload);
    frame[..6].copy_from_slice(&BACKEND_MAC);
    frame[6..12].copy_from_slice(&LB_MAC);
    one_hop_less(&mut frame[ETHERNET..]);
    frame
}

fn one_hop_less(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        packet[8] -= 1;
        fix_header(packet);
    } else {
        packet[7] -= 1;
    }
}

/// Writes an IPv4 header's checksum anew.
fn fix_header(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let header = Ipv4Header::from_slice(packet).expect("IPv4").0;
    packet[10..12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
}

/// A packet to the server's own address that bears a mark; checksums by etherparse.
fn marked(protocol: u8, v4: bool, dscp: u8, ecn: u8, destination: IpAddr) -> Vec<u8> {
    let step = builder(client(v4), destination, 63);
    let mut frame = Vec::new();
    match protocol {
        6 => step.tcp(40_000, 80, 7, 1024).write(&mut frame, b"payload"),
        _ => step.udp(40_000, 80).write(&mut frame, b"payload"),
    }
    .expect("in memory");
    let tos = dscp << 2 | ecn;
    if v4 {
        frame[ETHERNET + 1] = tos;
        fix_header(&mut frame[ETHERNET..]);
    } else {
        frame[ETHERNET] = 0x60 | tos >> 4;
        frame[ETHERNET + 1] = frame[ETHERNET + 1] & 0x0f | tos << 4;
    }
    frame
}

fn families() -> [(bool, bool); 4] {
    [(true, true), (true, false), (false, true), (false, false)]
}

proptest! {
    #[test]
    fn to_encapsulate_and_to_decapsulate_is_to_route(
        mode in prop_oneof![Just(Mode::Ipip), Just(Mode::Gre), Just(Mode::Gue)],
        inner_v4: bool,
        outer_v4: bool,
        protocol in prop_oneof![Just(6_u8), Just(17)],
        payload in 0_usize..1300,
    ) {
        let frame = tunnelled(mode, inner_v4, outer_v4, protocol, payload);
        let (passed, outcome, out) = received(&frame);
        prop_assert!(passed);
        prop_assert_eq!(outcome, Outcome::Decapsulated);
        prop_assert_eq!(out, expected(protocol, inner_v4, payload));
    }

    #[test]
    fn a_mark_gives_the_vip_back(v4: bool, protocol in prop_oneof![Just(6_u8), Just(17)], ecn in 0_u8..4) {
        let (passed, outcome, out) = received(&marked(protocol, v4, DSCP, ecn, backend(v4)));
        prop_assert!(passed);
        prop_assert_eq!(outcome, Outcome::Mapped);
        prop_assert_eq!(out, marked(protocol, v4, 0, ecn, vip(v4)));
    }

    #[test]
    fn what_is_cut_off_is_counted_and_never_changed(
        mode in prop_oneof![Just(Mode::Ipip), Just(Mode::Gre), Just(Mode::Gue)],
        inner_v4: bool,
        outer_v4: bool,
        at in 0_usize..120,
    ) {
        let mut frame = tunnelled(mode, inner_v4, outer_v4, 17, 99);
        frame.truncate(at.max(14));
        let (_, outcome, out) = received(&frame);
        prop_assert!(matches!(outcome, Outcome::MalformedOuter | Outcome::NotOurs), "{:?}", outcome);
        prop_assert_eq!(out, frame);
    }
}

#[test]
fn later_fragments_have_no_checksum_to_mend_and_first_ones_do() {
    // More to come at offset 0; the end at offset 8.
    for (field, is_first) in [([0x20, 0], true), ([0, 1], false)] {
        let fragment = |dscp, destination| {
            let mut frame = marked(17, true, dscp, NOT_ECT, destination);
            frame[ETHERNET + 6..][..2].copy_from_slice(&field);
            fix_header(&mut frame[ETHERNET..]);
            frame
        };
        let before = fragment(DSCP, backend(true));
        let mut wanted = fragment(0, vip(true));
        if !is_first {
            // What stands where a checksum would is data.
            wanted[ETHERNET + 20..].copy_from_slice(&before[ETHERNET + 20..]);
        }
        let (passed, outcome, out) = received(&before);
        assert!(passed);
        assert_eq!(outcome, Outcome::Mapped);
        assert_eq!(out, wanted, "first: {is_first}");

        let fragment6 = |dscp, destination| {
            let mut frame = marked(17, false, dscp, NOT_ECT, destination);
            let header = [17, 0, field[0] & 0x1f, 0, 0, 0, 0, 9];
            frame.splice(ETHERNET + 40..ETHERNET + 40, header);
            // RFC 8200 §4.5: offset in the upper 13 bits, "more" in the lowest.
            frame[ETHERNET + 42..ETHERNET + 44].copy_from_slice(&if is_first {
                [0, 1]
            } else {
                [0, 8]
            });
            frame[ETHERNET + 6] = 44;
            let payload = (frame.len() - ETHERNET - 40) as u16;
            frame[ETHERNET + 4..][..2].copy_from_slice(&payload.to_be_bytes());
            frame
        };
        let before = fragment6(DSCP, backend(false));
        let mut wanted = fragment6(0, vip(false));
        if !is_first {
            wanted[ETHERNET + 48..].copy_from_slice(&before[ETHERNET + 48..]);
        }
        let (_, outcome, out) = received(&before);
        assert_eq!(outcome, Outcome::Mapped);
        assert_eq!(out, wanted, "IPv6, first: {is_first}");
    }
}

#[test]
fn icmpv6_has_its_addresses_in_its_checksum() {
    let echo = |dscp, destination: IpAddr| {
        let (IpAddr::V6(source), IpAddr::V6(to)) = (client(false), destination) else {
            panic!("IPv6");
        };
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, LB_MAC)
            .ipv6(source.octets(), to.octets(), 63)
            .icmpv6_echo_request(1, 2)
            .write(&mut frame, b"data")
            .expect("in memory");
        frame[ETHERNET] |= dscp >> 2;
        frame[ETHERNET + 1] |= dscp << 6;
        frame
    };
    let (_, outcome, out) = received(&echo(DSCP, backend(false)));
    assert_eq!(outcome, Outcome::Mapped);
    assert_eq!(out, echo(0, vip(false)));
}

#[test]
fn what_is_none_of_ours_is_left_alone() {
    let not_ours = |frame: &[u8]| {
        let (passed, outcome, out) = received(frame);
        assert!(passed);
        assert_eq!(out, frame);
        outcome
    };
    for v4 in [true, false] {
        for protocol in [6, 17] {
            let plain = packet(protocol, v4, 5);
            assert_eq!(not_ours(&plain), Outcome::NotOurs);
            // Marked by DSCP 46, as voice is.
            assert_eq!(
                not_ours(&marked(protocol, v4, 46, 0, backend(v4))),
                Outcome::NotOurs
            );
            let mut other_port = marked(protocol, v4, DSCP, 0, backend(v4));
            other_port[ETHERNET + if v4 { 20 } else { 40 } + 3] = 22;
            assert_eq!(
                not_ours(&other_port),
                Outcome::NotOurs,
                "SSH is not the service"
            );
        }
    }
    for (inner_v4, outer_v4) in families() {
        for mode in [Mode::Ipip, Mode::Gre, Mode::Gue] {
            let frame = tunnelled(mode, inner_v4, outer_v4, 6, 5);
            let ip = ETHERNET + if outer_v4 { 20 } else { 40 };
            let shim = match mode {
                Mode::Gre => 4,
                Mode::Gue => 8,
                _ => 0,
            };
            // The last byte of the outer, and of the inner destination.
            let mut to_another = frame.clone();
            to_another[ip - 1] ^= 1;
            if outer_v4 {
                fix_header(&mut to_another[ETHERNET..]);
            }
            assert_eq!(not_ours(&to_another), Outcome::NotOurs);
            let mut for_another = frame.clone();
            for_another[ip + shim + if inner_v4 { 19 } else { 39 }] ^= 1;
            assert_eq!(not_ours(&for_another), Outcome::NotAVip);
            assert_eq!(not_ours(&tagged(&frame, &[5])), Outcome::NotOurs);
        }
    }
}

#[test]
fn shims_that_are_not_spoken_are_the_stacks() {
    for (at, value) in [(20, 0x80), (21, 1), (20, 0x20)] {
        let mut gre = tunnelled(Mode::Gre, true, true, 6, 5);
        gre[ETHERNET + at] = value;
        let (passed, outcome, out) = received(&gre);
        assert_eq!((passed, outcome), (true, Outcome::UnknownShim));
        assert_eq!(out, gre);
    }
    // A control message, fields, flags, and a protocol that is no IP.
    for shim in [
        [0x20, 4, 0, 0],
        [1, 4, 0, 0],
        [0, 4, 0x80, 0],
        [0, 47, 0, 0],
    ] {
        let (passed, outcome, _) = received(&variant_0(shim));
        assert_eq!((passed, outcome), (true, Outcome::UnknownShim), "{shim:?}");
    }
}

/// A frame of variant 1 with a header of variant 0 put before the inner packet.
fn variant_0(shim: [u8; 4]) -> Vec<u8> {
    let mut frame = tunnelled(Mode::Gue, true, true, 17, 33);
    frame.splice(ETHERNET + 28..ETHERNET + 28, shim);
    for at in [ETHERNET + 2, ETHERNET + 24] {
        let length = u16::from_be_bytes([frame[at], frame[at + 1]]) + 4;
        frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    fix_header(&mut frame[ETHERNET..]);
    frame
}

#[test]
fn variant_0_of_gue_is_taken_as_well() {
    let (passed, outcome, out) = received(&variant_0([0, 4, 0, 0]));
    assert_eq!((passed, outcome), (true, Outcome::Decapsulated));
    assert_eq!(out, expected(17, true, 33));
}

#[test]
fn an_inner_packet_that_contradicts_the_outer_one_is_dropped() {
    // Longer than the outer packet; a header of 16 bytes; another version; GRE of what is no IP.
    for (mode, at, value) in [
        (Mode::Ipip, 20 + 3, 0xff),
        (Mode::Ipip, 20, 0x44),
        (Mode::Ipip, 20, 0x65),
        (Mode::Gre, 20 + 3, 1),
    ] {
        let mut frame = tunnelled(mode, true, true, 6, 5);
        frame[ETHERNET + at] = value;
        let (passed, outcome, out) = received(&frame);
        assert_eq!((passed, outcome), (false, Outcome::MalformedInner), "{at}");
        assert_eq!(out, frame);
    }
}

#[test]
fn fragments_of_the_outer_packet_are_not_taken_apart() {
    let mut frame = tunnelled(Mode::Ipip, true, true, 17, 99);
    frame[ETHERNET + 6] = 0x20;
    fix_header(&mut frame[ETHERNET..]);
    let (passed, outcome, out) = received(&frame);
    assert_eq!((passed, outcome), (true, Outcome::OuterFragment));
    assert_eq!(out, frame);
}

#[test]
fn congestion_on_the_way_is_told_to_the_inside() {
    for (inner_v4, outer_v4) in families() {
        for (outer, inner, wanted) in [
            (NOT_ECT, ECT_0, Some(ECT_0)),
            (ECT_1, ECT_0, Some(ECT_1)),
            (ECT_0, ECT_1, Some(ECT_1)),
            (CE, ECT_0, Some(CE)),
            (CE, ECT_1, Some(CE)),
            (CE, CE, Some(CE)),
            (ECT_0, NOT_ECT, Some(NOT_ECT)),
            (CE, NOT_ECT, None),
        ] {
            let mut frame = tunnelled(Mode::Ipip, inner_v4, outer_v4, 17, 9);
            let at = ETHERNET + if outer_v4 { 20 } else { 40 };
            set_ecn(&mut frame[ETHERNET..], outer);
            set_ecn(&mut frame[at..], inner);
            let (passed, outcome, out) = received(&frame);
            let Some(wanted) = wanted else {
                assert_eq!((passed, outcome), (false, Outcome::Congested));
                continue;
            };
            assert_eq!((passed, outcome), (true, Outcome::Decapsulated));
            let mut expected = expected(17, inner_v4, 9);
            set_ecn(&mut expected[ETHERNET..], wanted);
            assert_eq!(out, expected, "{outer} over {inner}");
        }
    }
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 4 {
        packet[1] = packet[1] & !3 | ecn;
        fix_header(packet);
    } else {
        packet[1] = packet[1] & !0x30 | ecn << 4;
    }
}
