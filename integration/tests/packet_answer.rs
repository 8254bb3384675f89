//! What the balancer says in a VIP's name, by the loaded program and the host's build alike.

use std::net::IpAddr;

use etherparse::PacketBuilder;
use integration::packet::{
    dissect::dissect,
    path::{on_both, with_world},
    world::{Client, FRONT, Family, KINDS, Vip, request},
};
use lb_common::reason::Reason;

#[test]
fn a_port_without_service_is_treated_as_the_policy_says() {
    with_world(|dataplane| {
        for kind in KINDS {
            for (vip, expected) in [
                (Vip::Ipip, Reason::Rejected),
                (Vip::Gre, Reason::UnmatchedDropped),
            ] {
                let mut packet = request(vip, kind, Client::Routed);
                packet.ports[1] = 81;
                let outcome = on_both(dataplane, &packet.bytes(), FRONT);
                assert_eq!(outcome.reason, expected);
            }
        }
    });
}

#[test]
fn echo_is_answered_where_it_is_wanted() {
    with_world(|dataplane| {
        for family in [Family::V4, Family::V6] {
            for (vip, expected) in [
                (Vip::Ipip, Reason::EchoReply),
                (Vip::Gre, Reason::UnmatchedDropped),
                (Vip::Nat, Reason::Unmatched),
            ] {
                let addresses = [Client::Routed.address(family), vip.address(family)];
                let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
                let mut frame = Vec::new();
                let written = match addresses {
                    [IpAddr::V4(client), IpAddr::V4(vip)] => link
                        .ipv4(client.octets(), vip.octets(), 9)
                        .icmpv4_echo_request(7, 8)
                        .write(&mut frame, b"ping"),
                    [IpAddr::V6(client), IpAddr::V6(vip)] => link
                        .ipv6(client.octets(), vip.octets(), 9)
                        .icmpv6_echo_request(7, 8)
                        .write(&mut frame, b"ping"),
                    _ => panic!("two families"),
                };
                written.expect("in memory");
                let outcome = on_both(dataplane, &frame, FRONT);
                assert_eq!(outcome.reason, expected);
                if expected == Reason::EchoReply {
                    let seen = dissect(&outcome.frame).expect("a packet");
                    assert_eq!(seen.addresses, [addresses[1], addresses[0]]);
                    assert!(seen.payload.ends_with(b"ping"));
                }
            }
        }
    });
}
