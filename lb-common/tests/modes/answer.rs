//! What the balancer says in the VIP's name, judged by etherparse.

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, SlicedPacket, TransportSlice,
    icmpv4::{DestUnreachableHeader, TimeExceededCode as Exceeded4},
    icmpv6::{DestUnreachableCode, TimeExceededCode as Exceeded6},
};
use lb_common::{
    forward::Verdict,
    reason::Reason,
    tables::{Mode, flags},
};
use proptest::prelude::*;

use crate::common::*;

/// What an ICMP message says, its checksum verified, and what follows its first 8 bytes.
#[derive(Debug, PartialEq)]
enum Said {
    V4(Icmpv4Type),
    V6(Icmpv6Type),
}

/// From the VIP to the client, over the link that the packet came by.
fn said(out: &[u8], v4: bool) -> (Said, Vec<u8>) {
    assert_eq!((&out[..6], &out[6..12]), (&CLIENT_MAC[..], &LB_MAC[..]));
    let packet = SlicedPacket::from_ethernet(out).expect("a frame");
    let (addresses, hops) = match packet.net.as_ref().expect("IP") {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (
                [header.source.into(), header.destination.into()],
                header.time_to_live,
            )
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            (
                [header.source.into(), header.destination.into()],
                header.hop_limit,
            )
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(addresses, [vip(v4), client(v4)]);
    assert_eq!(hops, 64);
    match packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            let header = icmp.header();
            let full = Icmpv4Header::with_checksum(icmp.icmp_type(), icmp.payload());
            assert_eq!(header.checksum, full.checksum);
            (Said::V4(icmp.icmp_type()), icmp.payload().to_vec())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let [
                core::net::IpAddr::V6(source),
                core::net::IpAddr::V6(destination),
            ] = addresses
            else {
                panic!("{addresses:?}");
            };
            let full = Icmpv6Header::with_checksum(
                icmp.icmp_type(),
                source.octets(),
                destination.octets(),
                icmp.payload(),
            );
            assert_eq!(icmp.header().checksum, full.expect("short").checksum);
            (Said::V6(icmp.icmp_type()), icmp.payload().to_vec())
        }
        other => panic!("{other:?}"),
    }
}

fn without_vlan(frame: &[u8], tags: usize) -> Vec<u8> {
    [&frame[..12], &frame[12 + 4 * tags..]].concat()
}

#[test]
fn what_does_not_fit_the_tunnel_is_told_the_mtu_within() {
    for v4 in [true, false] {
        for tags in [&[][..], &[0xa005], &[5, 6]] {
            let tables = tables(17, Mode::Gue, v4, true, |_, _| {});
            let frame = packet(17, v4, 1450);
            let (verdict, out) = run(&tables, &tagged(&frame, tags));
            assert_eq!(
                (verdict, reason(&tables)),
                (Verdict::Transmit, Reason::Answered)
            );
            assert_eq!(
                out[12..12 + 4 * tags.len()],
                tagged(&frame, tags)[12..12 + 4 * tags.len()]
            );
            let (what, quote) = said(&without_vlan(&out, tags.len()), v4);
            let mtu = 1500 - 28;
            assert_eq!(
                what,
                if v4 {
                    Said::V4(Icmpv4Type::DestinationUnreachable(
                        DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu },
                    ))
                } else {
                    Said::V6(Icmpv6Type::PacketTooBig { mtu: mtu.into() })
                }
            );
            assert_eq!(quote, frame[14..14 + 128], "the packet as it came");
        }
    }
}

#[test]
fn ipv6_is_never_told_less_than_its_least_mtu() {
    let tables = tables(17, Mode::Ipip, false, false, |_, backend| {
        backend.next_hops[0].mtu = 1300;
    });
    let (_, out) = run(&tables, &packet(17, false, 1240));
    assert_eq!(
        said(&out, false).0,
        Said::V6(Icmpv6Type::PacketTooBig { mtu: 1280 })
    );
}

#[test]
fn the_last_hop_is_told_in_every_mode_that_routes() {
    for v4 in [true, false] {
        for mode in [Mode::Nat, Mode::Ipip, Mode::Gre, Mode::Gue] {
            for hops in [0, 1] {
                let tables = tables(17, mode, v4, v4, |_, _| {});
                let mut frame = Vec::new();
                builder(client(v4), vip(v4), hops)
                    .udp(9, 80)
                    .write(&mut frame, &[1; 9])
                    .expect("in memory");
                let (_, out) = run(&tables, &frame);
                assert_eq!(reason(&tables), Reason::Answered);
                let (what, quote) = said(&out, v4);
                assert_eq!(
                    what,
                    if v4 {
                        Said::V4(Icmpv4Type::TimeExceeded(Exceeded4::TtlExceededInTransit))
                    } else {
                        Said::V6(Icmpv6Type::TimeExceeded(Exceeded6::HopLimitExceeded))
                    }
                );
                assert_eq!(quote, frame[14..14 + quote.len()]);
                assert!(quote.len() + 3 >= frame.len() - 14);
            }
        }
    }
}

#[test]
fn a_port_without_service_is_treated_as_the_policy_says() {
    for v4 in [true, false] {
        for (policy, expected) in [
            (flags::UNMATCHED_PASS, Reason::Unmatched),
            (flags::UNMATCHED_DROP, Reason::UnmatchedDropped),
            (flags::UNMATCHED_REJECT, Reason::Rejected),
        ] {
            let tables = tables(17, Mode::L2Dsr, v4, v4, |service, _| service.flags = policy);
            let mut frame = Vec::new();
            builder(client(v4), vip(v4), 64)
                .udp(9, 81)
                .write(&mut frame, &[1; 9])
                .expect("in memory");
            let (_, out) = run(&tables, &frame);
            assert_eq!(reason(&tables), expected);
            if expected != Reason::Rejected {
                assert_eq!(out, frame, "untouched");
                continue;
            }
            assert_eq!(
                said(&out, v4).0,
                if v4 {
                    Said::V4(Icmpv4Type::DestinationUnreachable(
                        DestUnreachableHeader::Port,
                    ))
                } else {
                    Said::V6(Icmpv6Type::DestinationUnreachable(
                        DestUnreachableCode::Port,
                    ))
                }
            );
        }
    }
}

#[test]
fn nothing_is_said_to_many_or_to_nobody() {
    let reject = |_: &mut lb_common::tables::Service, _: &mut lb_common::tables::Backend| {};
    let mut multicast = packet(17, true, 1450);
    multicast[0] |= 1;
    for (source, v4) in [
        ("0.0.0.0", true),
        ("127.0.0.1", true),
        ("224.0.0.1", true),
        ("255.255.255.255", true),
        ("::", false),
        ("::1", false),
        ("ff02::1", false),
    ] {
        let tables = tables(17, Mode::Gue, v4, true, reject);
        let mut frame = Vec::new();
        builder(ip(source), vip(v4), 64)
            .udp(1, 80)
            .write(&mut frame, &[0; 1450])
            .expect("in memory");
        let (verdict, out) = run(&tables, &frame);
        assert_eq!(
            (verdict, reason(&tables)),
            (Verdict::Drop, Reason::Martian),
            "{source}"
        );
        assert_eq!(out, frame);
    }
    let tables = tables(17, Mode::Gue, true, true, reject);
    assert_eq!(run(&tables, &multicast).0, Verdict::Drop);
}

proptest! {
    #[test]
    fn echo_is_answered_with_what_was_sent(v4 in any::<bool>(), id in any::<u16>(), seq in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..200), hops in any::<u8>()) {
        let tables = tables(17, Mode::L2Dsr, v4, v4, |service, _| service.flags = flags::ECHO);
        let mut frame = Vec::new();
        let step = builder(client(v4), vip(v4), hops);
        if v4 {
            step.icmpv4_echo_request(id, seq).write(&mut frame, &payload).expect("in memory");
        } else {
            step.icmpv6_echo_request(id, seq).write(&mut frame, &payload).expect("in memory");
        }
        let (verdict, out) = run(&tables, &frame);
        prop_assert_eq!((verdict, reason(&tables)), (Verdict::Transmit, Reason::EchoReply));
        let header = etherparse::IcmpEchoHeader { id, seq };
        let expected = if v4 { Said::V4(Icmpv4Type::EchoReply(header)) } else { Said::V6(Icmpv6Type::EchoReply(header)) };
        prop_assert_eq!(said(&out, v4), (expected, payload));
    }
}
