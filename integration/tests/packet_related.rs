//! ICMP errors about a service's packets, by the loaded program and the host's build alike: in every mode they go where the flow goes.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use integration::packet::{
    dissect::dissect,
    frame::Packet,
    path::{on_both, with_world},
    world::{
        self, BACK, BACKEND_PORT, Client, FRONT, Family, KINDS, PORT, Vip, mac, reply, request,
    },
};
use lb_common::reason::Reason;
use lb_core::model::Mode;

/// "Too big" from `source` to `destination`, quoting the first `length` bytes of `packet` behind its Ethernet header.
fn too_big(source: IpAddr, destination: IpAddr, packet: &Packet, length: usize) -> Vec<u8> {
    let quote = &packet.bytes()[14..];
    let quote = &quote[..quote.len().min(length)];
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let mut frame = Vec::new();
    let written = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => link
            .ipv4(source.octets(), destination.octets(), 60)
            .icmpv4(Icmpv4Type::DestinationUnreachable(
                DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 },
            ))
            .write(&mut frame, quote),
        (IpAddr::V6(source), IpAddr::V6(destination)) => link
            .ipv6(source.octets(), destination.octets(), 60)
            .icmpv6(Icmpv6Type::PacketTooBig { mtu: 1400 })
            .write(&mut frame, quote),
        _ => panic!("two families"),
    };
    written.expect("in memory");
    frame
}

/// A whole packet, or its IP header and 8 bytes.
fn lengths(family: Family) -> [usize; 2] {
    [1500, if family == Family::V4 { 28 } else { 48 }]
}

#[test]
fn they_follow_the_flow_to_its_backend() {
    with_world(|dataplane| {
        for kind in KINDS {
            for vip in Vip::ALL
                .into_iter()
                .filter(|vip| ![Vip::Empty, Vip::Unresolved].contains(vip))
            {
                for port in 40_000..40_020 {
                    let mut flow = request(vip, kind, Client::Routed);
                    flow.ports[0] = port;
                    // Delivered by the router that sends the errors, too.
                    flow.macs = [[4; 6], [2; 6]];
                    let backend = on_both(dataplane, &flow.bytes(), FRONT).backend;
                    for length in lengths(kind.0) {
                        let router = world::beyond(kind.0, 1, 200);
                        let frame = too_big(router, vip.address(kind.0), &flow.reversed(), length);
                        let outcome = on_both(dataplane, &frame, FRONT);
                        assert_eq!(outcome.reason, Reason::ToBackend, "{vip:?} {kind:?}");
                        assert_eq!(outcome.backend, backend, "{vip:?} {kind:?} {port}");
                        if vip.mode() == Mode::Nat {
                            let seen = dissect(&outcome.frame).expect("right");
                            assert!(seen.icmp);
                            assert_eq!(seen.addresses[0], router);
                            // What the backend sent.
                            let number = outcome.frame[5];
                            let sent = Packet {
                                addresses: [world::address(kind.0, 2, number), flow.addresses[0]],
                                ports: [BACKEND_PORT, port],
                                ..flow.reversed()
                            };
                            let quoted = &seen.payload[8..];
                            assert_eq!(quoted, &sent.bytes()[14..][..quoted.len()]);
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn they_reach_the_client_as_if_the_vip_had_been_the_destination() {
    with_world(|dataplane| {
        for kind in KINDS {
            let client = Client::Routed;
            let seen_by_client = request(Vip::Nat, kind, client);
            let on_the_way = reply(21, kind, client).reversed();
            for reporter in [
                world::address(kind.0, 2, 21),
                world::address(kind.0, 2, 240),
            ] {
                for length in lengths(kind.0) {
                    let frame = too_big(reporter, client.address(kind.0), &on_the_way, length);
                    let outcome = on_both(dataplane, &frame, BACK);
                    assert_eq!(outcome.reason, Reason::ToClient);
                    let seen = dissect(&outcome.frame).expect("right");
                    assert_eq!(seen.macs[0], mac(1));
                    assert_eq!(
                        seen.addresses,
                        [Vip::Nat.address(kind.0), client.address(kind.0)]
                    );
                    let quoted = &seen.payload[8..];
                    assert_eq!(quoted, &seen_by_client.bytes()[14..][..quoted.len()]);
                    assert_eq!(seen_by_client.ports[1], PORT);
                }
            }
        }
    });
}

#[test]
fn an_error_is_never_answered_by_another() {
    with_world(|dataplane| {
        for family in [Family::V4, Family::V6] {
            let flow = request(Vip::Nat, (family, 17), Client::Routed).reversed();
            let router = world::beyond(family, 1, 200);
            let mut frame = too_big(router, Vip::Nat.address(family), &flow, 1500);
            // One hop left: the header's sum is made right again by hand.
            match family {
                Family::V4 => {
                    frame[14 + 8] = 1;
                    let sum = u16::from_be_bytes([frame[14 + 10], frame[14 + 11]]);
                    let sum = u32::from(sum) + (59 << 8);
                    let sum = (sum & 0xffff) + (sum >> 16);
                    frame[14 + 10..14 + 12].copy_from_slice(&(sum as u16).to_be_bytes());
                }
                Family::V6 => frame[14 + 7] = 1,
            }
            dissect(&frame).expect("right");
            let outcome = on_both(dataplane, &frame, FRONT);
            assert_eq!(outcome.reason, Reason::TtlExpired);
        }
    });
}
