//! A client's packet to a service, through the loaded program and the host's build: what leaves has to be, byte by byte, the packet that one
//! would have written by hand.

use integration::packet::{
    dissect::dissect,
    frame::{Packet, TCP, UDP},
    path::{Outcome, on_both, with_world},
    world::{self, BACK, BACK_MAC, BACKEND_PORT, Client, FRONT, Family, KINDS, Vip, mac, request},
};
use lb_common::reason::Reason;
use lb_core::model::Mode;
use lb_userspace::dataplane::{Action, Dataplane};

/// The services that have someone to forward to.
const SERVED: [Vip; 6] = [
    Vip::Dscp,
    Vip::Dsr,
    Vip::Nat,
    Vip::TaggedDsr,
    Vip::TaggedNat,
    Vip::Source,
];

/// `packet` as it leaves for a backend. A tag keeps the priority bits of the outermost one that was there.
fn forwarded(packet: &Packet, vip: Vip, family: Family, backend: u8) -> Packet {
    let priority = packet
        .tags
        .first()
        .map_or(0, |(_, control)| control & 0xf000);
    let mut packet = Packet {
        macs: [mac(backend), BACK_MAC],
        tags: match vip.vlan() {
            0 => Vec::new(),
            vlan => vec![(0x8100, priority | vlan)],
        },
        ..packet.clone()
    };
    if vip.mode() == Mode::Nat {
        packet.addresses[1] = world::address(family, 2, backend);
        packet.ports[1] = BACKEND_PORT;
        packet.hops -= 1;
    }
    if vip.mode() == Mode::Dscp {
        packet.addresses[1] = world::address(family, 2, backend);
        packet.hops -= 1;
        packet.tos = packet.tos & 3 | world::DSCP << 2;
    }
    packet
}

/// Sends a packet to a service and compares what leaves; the backend's number.
fn check(dataplane: &Dataplane, packet: &Packet, vip: Vip, family: Family, ingress: u32) -> u8 {
    let frame = packet.bytes();
    dissect(&frame).unwrap_or_else(|error| panic!("before: {error}: {packet:?}"));
    let Outcome {
        action,
        frame,
        reason,
        backend,
        interface,
    } = on_both(dataplane, &frame, ingress);
    assert_eq!(reason, Reason::ToBackend, "{packet:?}");
    let exit = if ingress == BACK {
        (Action::Transmit, None)
    } else {
        (Action::Redirect, Some(BACK))
    };
    assert_eq!((action, interface), exit, "{packet:?}");
    let number = frame[5];
    let weight = |wanted| {
        let mut backends = vip.backends().iter();
        backends
            .find(|(number, _)| *number == wanted)
            .map(|(_, weight)| *weight)
    };
    assert!(weight(number) > Some(0), "sent to {number}: {packet:?}");
    // The record that was counted for is this backend's.
    let record = backend.expect("counted for a backend");
    let counted =
        lb_common::tables::Tables::backend(dataplane.tables(), record).expect("it exists");
    assert_eq!(counted.address, world::address(family, 2, number).into());

    let expected = forwarded(packet, vip, family, number);
    let seen = dissect(&frame).unwrap_or_else(|error| panic!("after: {error}: {packet:?}"));
    assert_eq!(seen.addresses, expected.addresses);
    assert_eq!(seen.macs, expected.macs);
    assert_eq!(seen.hops, expected.hops);
    assert_eq!(
        seen.vlans,
        Vec::from_iter((vip.vlan() > 0).then(|| vip.vlan()))
    );
    if [TCP, UDP].contains(&packet.protocol) {
        assert_eq!(
            (seen.ports, &seen.payload),
            (Some(expected.ports), &packet.payload)
        );
    }
    assert_eq!(frame, expected.bytes(), "{packet:?}");
    number
}

type Change = fn(&mut Packet);

/// Ways in which a packet may be unlike the plain one and is forwarded all the same.
fn variants(family: Family) -> Vec<(&'static str, Change)> {
    let mut variants: Vec<(&str, Change)> = vec![
        ("plain", |_| {}),
        ("one tag", |p| p.tags = vec![(0x8100, 0xb007)]),
        ("priority tag", |p| p.tags = vec![(0x8100, 0xe000)]),
        ("two tags", |p| {
            p.tags = vec![(0x88a8, 0x6009), (0x8100, 0x1008)]
        }),
        ("empty", |p| p.payload.clear()),
        ("one byte", |p| p.payload = vec![0xff]),
        ("full", |p| p.payload = (0..1400).map(|n| n as u8).collect()),
        ("padding to 60 bytes and beyond", |p| {
            p.payload.truncate(2);
            p.padding = 37;
        }),
        ("last hop but one", |p| p.hops = 2),
        ("most hops", |p| p.hops = 255),
        ("type of service", |p| p.tos = 0xbb),
        ("no UDP checksum", |p| p.checksum = p.protocol == TCP),
        ("TCP options", |p| {
            p.tcp_options = vec![2, 4, 5, 0xb4, 1, 3, 3, 7]
        }),
        ("port 65535", |p| p.ports[0] = 65_535),
        ("port 0", |p| p.ports[0] = 0),
    ];
    variants.extend(match family {
        Family::V4 => vec![
            // Record route, no room left in it (RFC 791 §3.1).
            (
                "options",
                (|p| p.options = vec![7, 7, 8, 0, 0, 0, 0]) as Change,
            ),
            ("most options", |p| p.options = vec![1; 40]),
            ("options behind a tag", |p| {
                p.options = vec![1; 12];
                p.tags = vec![(0x8100, 5)];
            }),
        ],
        Family::V6 => vec![
            (
                "hop-by-hop options",
                (|p| p.extensions = vec![(0, 0)]) as Change,
            ),
            ("routing header", |p| p.extensions = vec![(43, 2)]),
            ("four headers, two tags", |p| {
                p.extensions = vec![(0, 1), (60, 0), (43, 0), (60, 3)];
                p.tags = vec![(0x8100, 5), (0x8100, 6)];
            }),
            // RFC 6946: a fragment header around a whole packet.
            ("atomic fragment", |p| p.fragment = Some((0, false))),
        ],
    });
    variants
}

#[test]
fn every_kind_of_packet_leaves_as_it_should() {
    with_world(|dataplane| {
        for kind in KINDS {
            for vip in SERVED {
                for (name, change) in variants(kind.0) {
                    for (ingress, client) in [(FRONT, Client::Routed), (BACK, Client::OneArm)] {
                        println!("{kind:?} {vip:?} {name} on {ingress}");
                        let mut packet = request(vip, kind, client);
                        change(&mut packet);
                        check(dataplane, &packet, vip, kind.0, ingress);
                    }
                }
            }
        }
    });
}

#[test]
fn one_hop_left_is_enough_where_nothing_is_routed() {
    with_world(|dataplane| {
        for kind in KINDS {
            let packet = Packet {
                hops: 1,
                ..request(Vip::Dsr, kind, Client::OnLink)
            };
            check(dataplane, &packet, Vip::Dsr, kind.0, FRONT);
        }
    });
}

#[test]
fn a_flow_stays_and_flows_spread() {
    with_world(|dataplane| {
        for kind in KINDS {
            for vip in [Vip::Dsr, Vip::Nat, Vip::TaggedNat] {
                let mut reached = std::collections::BTreeSet::new();
                for port in 1024..1124 {
                    let mut packet = request(vip, kind, Client::Routed);
                    packet.ports[0] = port;
                    let first = check(dataplane, &packet, vip, kind.0, FRONT);
                    // Whatever else is in the packet, and wherever it comes in.
                    packet.payload.extend(b"more");
                    packet.hops = 9;
                    packet.tags = vec![(0x8100, 3)];
                    assert_eq!(check(dataplane, &packet, vip, kind.0, BACK), first);
                    reached.insert(first);
                }
                let all = vip.backends().iter().filter(|(_, weight)| *weight > 0);
                assert_eq!(reached, all.map(|(number, _)| *number).collect());
            }
        }
    });
}

#[test]
fn a_source_stays_whatever_its_port() {
    with_world(|dataplane| {
        for kind in KINDS {
            let mut reached = std::collections::BTreeSet::new();
            for number in 0..100 {
                let mut packet = request(Vip::Source, kind, Client::Routed);
                packet.addresses[0] = world::beyond(kind.0, 1, number);
                let first = check(dataplane, &packet, Vip::Source, kind.0, FRONT);
                for port in [1, 40_001, 65_535] {
                    packet.ports[0] = port;
                    assert_eq!(check(dataplane, &packet, Vip::Source, kind.0, FRONT), first);
                }
                reached.insert(first);
            }
            assert_eq!(reached.len(), 3, "{reached:?}");
        }
    });
}

/// RFC 768: zero stands for "none computed", so a sum that comes out as zero is sent as all ones. Once in 65,536 packets by chance.
#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    with_world(|dataplane| {
        for family in [Family::V4, Family::V6] {
            for vip in [Vip::Nat, Vip::TaggedNat] {
                let mut packet = request(vip, (family, UDP), Client::Routed);
                let backend = check(dataplane, &packet, vip, family, FRONT);
                let ones = |word: &u16| {
                    packet.payload = word.to_be_bytes().to_vec();
                    let frame = forwarded(&packet, vip, family, backend).bytes();
                    frame[frame.len() - 4..frame.len() - 2] == [0xff, 0xff]
                };
                let word = (0..=u16::MAX).find(ones).expect("some sum is zero");
                packet.payload = word.to_be_bytes().to_vec();
                assert_eq!(check(dataplane, &packet, vip, family, FRONT), backend);
            }
        }
    });
}
