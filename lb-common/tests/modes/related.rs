//! ICMP errors about a service's packets: to the backend or the client that they concern, right in every checksum.

use core::net::IpAddr;

use etherparse::{
    Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, NetSlice, SlicedPacket, TransportSlice,
    icmpv4::{DestUnreachableHeader, TimeExceededCode as Exceeded4},
    icmpv6::DestUnreachableCode,
};
use lb_common::{
    forward::Verdict,
    reason::Reason,
    tables::{Mode, NextHop, Route},
};
use proptest::prelude::*;

use crate::common::*;

const CLIENT_PORT: u16 = 40_000;

/// What stands in the way reports it.
fn router(v4: bool) -> IpAddr {
    ip(if v4 { "203.0.113.9" } else { "2001:db8:f::9" })
}

/// A whole packet, without Ethernet header.
fn quoted(
    protocol: u8,
    (source, port): (IpAddr, u16),
    (destination, to): (IpAddr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let step = builder(source, destination, 7);
    let mut frame = Vec::new();
    match protocol {
        6 => step.tcp(port, to, 7, 1024).write(&mut frame, payload),
        _ => step.udp(port, to).write(&mut frame, payload),
    }
    .expect("in memory");
    frame.split_off(14)
}

#[derive(Clone, Copy, Debug)]
enum Error {
    Port,
    TooBig,
    Exceeded,
}

const ERRORS: [Error; 3] = [Error::Port, Error::TooBig, Error::Exceeded];

fn error(kind: Error, source: IpAddr, destination: IpAddr, quote: &[u8]) -> Vec<u8> {
    let step = builder(source, destination, 64);
    let mut frame = Vec::new();
    if source.is_ipv4() {
        let kind = match kind {
            Error::Port => Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port),
            Error::TooBig => {
                Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1400,
                })
            }
            Error::Exceeded => Icmpv4Type::TimeExceeded(Exceeded4::TtlExceededInTransit),
        };
        step.icmpv4(kind).write(&mut frame, quote)
    } else {
        let kind = match kind {
            Error::Port => Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port),
            Error::TooBig => Icmpv6Type::PacketTooBig { mtu: 1400 },
            Error::Exceeded => {
                Icmpv6Type::TimeExceeded(etherparse::icmpv6::TimeExceededCode::HopLimitExceeded)
            }
        };
        step.icmpv6(kind).write(&mut frame, quote)
    }
    .expect("in memory");
    frame
}

/// Source, destination, hops and DSCP of an ICMP error whose checksums are right, and what it quotes.
fn taken_apart(frame: &[u8]) -> (IpAddr, IpAddr, u8, u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let (source, destination, hops, dscp): (IpAddr, IpAddr, u8, u8) = match packet.net.as_ref() {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (
                header.source.into(),
                header.destination.into(),
                header.time_to_live,
                header.dscp.value(),
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            (
                header.source.into(),
                header.destination.into(),
                header.hop_limit,
                header.traffic_class >> 2,
            )
        }
        other => panic!("{other:?}"),
    };
    let quote = match packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            let full = Icmpv4Header::with_checksum(icmp.icmp_type(), icmp.payload());
            assert_eq!(icmp.header().checksum, full.checksum);
            icmp.payload().to_vec()
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else {
                panic!("two families");
            };
            let full = Icmpv6Header::with_checksum(
                icmp.icmp_type(),
                source.octets(),
                destination.octets(),
                icmp.payload(),
            );
            assert_eq!(icmp.header().checksum, full.expect("short").checksum);
            icmp.payload().to_vec()
        }
        other => panic!("{other:?}"),
    };
    (source, destination, hops, dscp, quote)
}

/// As much of a packet as is quoted: all, or the header and 8 bytes (RFC 792).
fn lengths(packet: &[u8], v4: bool) -> [usize; 3] {
    let header = if v4 { 20 } else { 40 };
    [packet.len(), header + 8, packet.len() - 3]
}

#[test]
fn an_error_about_an_answer_reaches_the_backend_in_every_mode() {
    for v4 in [true, false] {
        for protocol in [6, 17] {
            for mode in [
                Mode::Nat,
                Mode::L2Dsr,
                Mode::Dscp,
                Mode::Ipip,
                Mode::Gre,
                Mode::Gue,
            ] {
                let answer = quoted(
                    protocol,
                    (vip(v4), 80),
                    (client(v4), CLIENT_PORT),
                    b"an answer",
                );
                for (kind, length) in ERRORS.into_iter().zip(lengths(&answer, v4)) {
                    let tables = tables(protocol, mode, v4, v4, |service, _| service.dscp = 42);
                    let frame = error(kind, router(v4), vip(v4), &answer[..length]);
                    let (verdict, out) = run(&tables, &frame);
                    let case = format!("{v4} {protocol} {mode:?} {kind:?} {length}");
                    assert_eq!(
                        (verdict, reason(&tables)),
                        (Verdict::Transmit, Reason::ToBackend),
                        "{case}"
                    );
                    assert_eq!(out[..12], [BACKEND_MAC, LB_MAC].concat(), "{case}");
                    let (destination, hops, dscp, port) = match mode {
                        Mode::Nat => (backend(v4), 63, 46, 8080),
                        Mode::Dscp => (backend(v4), 63, 42, 80),
                        _ => (vip(v4), 63, 46, 80),
                    };
                    let (out, hops) = match mode {
                        Mode::L2Dsr => (out, 64),
                        Mode::Nat | Mode::Dscp => (out, hops),
                        _ => {
                            let shim = match mode {
                                Mode::Gre => 4,
                                Mode::Gue => 8,
                                _ => 0,
                            };
                            let outer = if v4 { 20 } else { 40 } + shim;
                            ([&out[..14], &out[14 + outer..]].concat(), 63)
                        }
                    };
                    let seen = taken_apart(&out);
                    let inner = if mode == Mode::Nat {
                        backend(v4)
                    } else {
                        vip(v4)
                    };
                    let expected = quoted(
                        protocol,
                        (inner, port),
                        (client(v4), CLIENT_PORT),
                        b"an answer",
                    );
                    assert_eq!(
                        seen,
                        (
                            router(v4),
                            destination,
                            hops,
                            dscp,
                            expected[..length].to_vec()
                        ),
                        "{case}"
                    );
                }
            }
        }
    }
}

fn towards_client(v4: bool) -> Route {
    let _ = v4;
    Route::Direct(NextHop {
        ifindex: INTERFACE + 1,
        destination: CLIENT_MAC,
        source: LB_MAC,
        vlan: 0,
        mtu: 0,
    })
}

#[test]
fn an_error_about_a_translated_request_reaches_the_client_as_if_it_were_about_the_vip() {
    for v4 in [true, false] {
        for protocol in [6, 17] {
            for reporter in [backend(v4), router(v4)] {
                let request = quoted(
                    protocol,
                    (client(v4), CLIENT_PORT),
                    (backend(v4), 8080),
                    b"a request",
                );
                for (kind, length) in ERRORS.into_iter().zip(lengths(&request, v4)) {
                    let mut tables = tables(protocol, Mode::Nat, v4, v4, |_, _| {});
                    tables.set_route(client(v4).into(), towards_client(v4));
                    let frame = error(kind, reporter, client(v4), &request[..length]);
                    let (verdict, out) = run(&tables, &frame);
                    assert_eq!(
                        (verdict, reason(&tables)),
                        (Verdict::Redirect(INTERFACE + 1), Reason::ToClient)
                    );
                    let expected = quoted(
                        protocol,
                        (client(v4), CLIENT_PORT),
                        (vip(v4), 80),
                        b"a request",
                    );
                    assert_eq!(
                        taken_apart(&out),
                        (vip(v4), client(v4), 63, 46, expected[..length].to_vec())
                    );
                }
            }
        }
    }
}

#[test]
fn the_host_gets_the_translated_error_when_it_has_to_resolve_the_client() {
    let mut tables = tables(17, Mode::Nat, true, true, |_, _| {});
    tables.set_route(client(true).into(), Route::Unresolved);
    let request = quoted(
        17,
        (client(true), CLIENT_PORT),
        (backend(true), 8080),
        b"a request",
    );
    let (verdict, out) = run(
        &tables,
        &error(Error::Port, backend(true), client(true), &request),
    );
    assert_eq!(
        (verdict, reason(&tables)),
        (Verdict::Pass, Reason::ResolvingClient)
    );
    let (source, _, _, _, quote) = taken_apart(&out);
    assert_eq!(source, vip(true));
    assert_eq!(
        quote,
        quoted(
            17,
            (client(true), CLIENT_PORT),
            (vip(true), 80),
            b"a request"
        )
    );
}

#[test]
fn errors_about_other_packets_are_left_as_they_are() {
    for v4 in [true, false] {
        let other_port = quoted(17, (vip(v4), 81), (client(v4), 9), b"other");
        let other_way = quoted(17, (client(v4), 9), (vip(v4), 80), b"other");
        let elsewhere = quoted(17, (router(v4), 80), (client(v4), 9), b"other");
        let cut = &other_port[..if v4 { 20 } else { 40 }];
        for quote in [&other_port[..], &other_way, &elsewhere, cut, &[]] {
            let tables = tables(17, Mode::L2Dsr, v4, v4, |_, _| {});
            let frame = error(Error::Port, router(v4), vip(v4), quote);
            let (verdict, out) = run(&tables, &frame);
            assert_eq!(
                (verdict, reason(&tables)),
                (Verdict::Pass, Reason::Unmatched)
            );
            assert_eq!(out, frame);
        }
        // Not sent to whom the quoted packet came from.
        let answer = quoted(17, (vip(v4), 80), (client(v4), 9), b"an answer");
        let tables = tables(17, Mode::L2Dsr, v4, v4, |_, _| {});
        let frame = error(Error::Port, router(v4), client(v4), &answer);
        assert_eq!(run(&tables, &frame).0, Verdict::Pass);
        assert_eq!(reason(&tables), Reason::NotOurs);
    }
}

proptest! {
    /// A quotation may be anything.
    #[test]
    fn what_is_quoted_is_never_trusted(v4 in any::<bool>(), quote in proptest::collection::vec(any::<u8>(), 0..120), like in any::<bool>(), at in 0_usize..60, byte in any::<u8>()) {
        let mut tables = tables(17, Mode::Nat, v4, v4, |_, _| {});
        tables.set_route(client(v4).into(), towards_client(v4));
        let mut quote = if like { quoted(17, (vip(v4), 80), (client(v4), 9), b"an answer") } else { quote };
        if let Some(place) = quote.get_mut(at) {
            *place = byte;
        }
        let frame = error(Error::TooBig, router(v4), vip(v4), &quote);
        let (verdict, out) = run(&tables, &frame);
        if verdict == Verdict::Transmit {
            prop_assert_eq!(out.len(), frame.len());
            // The message's own checksum holds whatever is in it.
            taken_apart(&out);
        } else {
            prop_assert_eq!(out, frame);
        }
    }
}
