//! Packets that are not forwarded: each is dropped or left to the host for its own reason, and what the host gets is untouched.

use integration::packet::{
    frame::{ICMP, ICMP6, Packet, SCTP, TCP},
    path::{on_both, with_world},
    world::{self, Client, FRONT, Family, KINDS, Vip, request},
};
use lb_common::reason::{Class, Reason};
use lb_userspace::dataplane::{Action, Dataplane};

fn check(dataplane: &Dataplane, frame: &[u8], reason: Reason) {
    let outcome = on_both(dataplane, frame, FRONT);
    assert_eq!(outcome.reason, reason, "{frame:02x?}");
    let action = match reason.class() {
        Class::Dropped => Action::Drop,
        Class::Passed => Action::Pass,
        Class::Forwarded | Class::Answered => panic!("{reason:?} is no refusal"),
    };
    assert_eq!(outcome.action, action, "{frame:02x?}");
    assert_eq!(outcome.frame, frame, "untouched");
    assert_eq!(outcome.backend, None);
}

/// A request to the service `vip`, changed, in all families and protocols.
fn all(vip: Vip, change: impl Fn(&mut Packet)) -> impl Iterator<Item = Vec<u8>> {
    KINDS.into_iter().map(move |kind| {
        let mut packet = request(vip, kind, Client::Routed);
        change(&mut packet);
        packet.bytes()
    })
}

#[test]
fn services_that_cannot_forward() {
    with_world(|dataplane| {
        for frame in all(Vip::Empty, |_| {}) {
            check(dataplane, &frame, Reason::NoBackend);
        }
        for frame in all(Vip::Unresolved, |_| {}) {
            check(dataplane, &frame, Reason::NoNextHop);
        }
        for hops in [0, 1] {
            for vip in [Vip::Nat, Vip::TaggedNat] {
                for frame in all(vip, |packet| packet.hops = hops) {
                    let outcome = on_both(dataplane, &frame, FRONT);
                    assert_eq!(outcome.reason, Reason::Answered, "{frame:02x?}");
                    assert_eq!(outcome.action, Action::Transmit);
                }
            }
        }
    });
}

#[test]
fn what_is_no_service_is_left_to_the_host() {
    with_world(|dataplane| {
        // The others have a policy of their own: `packet_answer.rs`.
        let passes = |vip: &Vip| ![Vip::Ipip, Vip::Gre].contains(vip);
        for vip in Vip::ALL.into_iter().filter(passes) {
            for frame in all(vip, |packet| packet.ports[1] = 81) {
                check(dataplane, &frame, Reason::Unmatched);
            }
            for (family, protocols) in [(Family::V4, [ICMP, SCTP]), (Family::V6, [ICMP6, SCTP])] {
                for protocol in protocols {
                    let packet = request(vip, (family, protocol), Client::Routed);
                    check(dataplane, &packet.bytes(), Reason::Unmatched);
                }
            }
        }
        for (family, protocol) in KINDS {
            let mut packet = request(Vip::Nat, (family, protocol), Client::Routed);
            packet.addresses[1] = world::address(family, 9, 200);
            check(dataplane, &packet.bytes(), Reason::NotOurs);
            packet.addresses[1] = world::address(family, 2, 21);
            check(dataplane, &packet.bytes(), Reason::NotOurs);
        }
    });
}

#[test]
fn what_is_not_ip_is_left_to_the_host() {
    with_world(|dataplane| {
        let [destination, source] = request(Vip::Nat, KINDS[0], Client::OnLink).macs;
        let ethernet = |ethertype: [u8; 2], rest: &[u8]| {
            [&destination, &source, &ethertype[..], rest].concat()
        };
        // RFC 826: who has the VIP?
        let arp = [
            &[0, 1, 8, 0, 6, 4, 0, 1][..],
            &source,
            &[10, 1, 0, 7],
            &[0; 6],
            &[10, 9, 0, 2],
        ];
        check(dataplane, &ethernet([8, 6], &arp.concat()), Reason::NotIp);
        check(dataplane, &ethernet([0x88, 0xcc], &[0; 46]), Reason::NotIp);
        // A length in place of a type (IEEE 802.3), the shortest frame, tags with nothing or one tag too many behind them.
        check(dataplane, &ethernet([0, 46], &[0x42; 46]), Reason::NotIp);
        check(dataplane, &ethernet([8, 6], &[]), Reason::NotIp);
        check(dataplane, &ethernet([0x81, 0], &[0, 5]), Reason::NotIp);
        check(
            dataplane,
            &ethernet([0x81, 0], &[0, 5, 0x81, 0]),
            Reason::NotIp,
        );
        for frame in all(Vip::Nat, |packet| packet.tags = vec![(0x8100, 5); 3]) {
            check(dataplane, &frame, Reason::NotIp);
        }
    });
}

#[test]
fn more_extension_headers_than_are_followed() {
    with_world(|dataplane| {
        for protocol in [TCP, 17] {
            let mut packet = request(Vip::Dsr, (Family::V6, protocol), Client::Routed);
            packet.extensions = vec![(60, 0); 5];
            check(dataplane, &packet.bytes(), Reason::ExtensionHeaders);
            // One that claims to be longer than the packet.
            packet.extensions = vec![(60, 0)];
            let mut frame = packet.bytes();
            frame[14 + 40 + 1] = 200;
            check(dataplane, &frame, Reason::ExtensionHeaders);
        }
    });
}

/// A frame that ends early, whatever it was, is never forwarded, and no byte behind its end is read.
#[test]
fn cut_frames_are_never_forwarded() {
    with_world(|dataplane| {
        for (name, change) in [
            ("plain", (|_| {}) as fn(&mut Packet)),
            ("tags", |p| p.tags = vec![(0x8100, 5), (0x8100, 5)]),
            ("options", |p| {
                p.options = vec![1; 8];
                if p.addresses[0].is_ipv6() {
                    p.extensions = vec![(0, 0), (60, 2)];
                }
            }),
        ] {
            for vip in [Vip::Dsr, Vip::Nat] {
                for frame in all(vip, change) {
                    for length in 14..frame.len() {
                        let outcome = on_both(dataplane, &frame[..length], FRONT);
                        assert_eq!(outcome.action, Action::Pass, "{name}, {length} bytes");
                        assert!(
                            matches!(outcome.reason, Reason::NotIp | Reason::MalformedIp),
                            "{name}, {length} bytes: {:?}",
                            outcome.reason
                        );
                        assert_eq!(outcome.frame, frame[..length]);
                    }
                }
            }
        }
    });
}

/// The IP header says that the packet ends where its transport header would go on: padding must not be taken for ports.
#[test]
fn padding_is_no_transport_header() {
    with_world(|dataplane| {
        for (family, protocol) in KINDS {
            let packet = request(Vip::Nat, (family, protocol), Client::Routed);
            let minimum = if protocol == TCP { 20 } else { 8 };
            for payload in 0..minimum {
                let mut frame = packet.bytes();
                match family {
                    Family::V4 => {
                        frame[16..18].copy_from_slice(&(20 + payload as u16).to_be_bytes());
                    }
                    Family::V6 => frame[18..20].copy_from_slice(&(payload as u16).to_be_bytes()),
                }
                check(dataplane, &frame, Reason::MalformedTransport);
            }
        }
    });
}

#[test]
fn headers_that_contradict_themselves() {
    with_world(|dataplane| {
        let packet = |family| request(Vip::Nat, (family, TCP), Client::Routed).bytes();
        let changed = |family, at: usize, to: u8| {
            let mut frame = packet(family);
            frame[14 + at] = to;
            frame
        };
        // Header length below 20, beyond the packet; wrong versions; total length below the header's, beyond the frame.
        for first in [0x44, 0x40, 0x4f, 0x55, 0x65, 0x05] {
            let frame = changed(Family::V4, 0, first);
            let cut = &frame[..14 + 52];
            check(dataplane, cut, Reason::MalformedIp);
        }
        check(dataplane, &changed(Family::V4, 3, 19), Reason::MalformedIp);
        check(dataplane, &changed(Family::V4, 2, 1), Reason::MalformedIp);
        check(
            dataplane,
            &changed(Family::V6, 0, 0x40),
            Reason::MalformedIp,
        );
        check(dataplane, &changed(Family::V6, 4, 1), Reason::MalformedIp);
    });
}

/// RFC 4291 §2.5.5.2: an IPv6 header with an IPv4-mapped address is not a packet of the IPv4 service.
#[test]
fn mapped_addresses_do_not_lead_to_the_other_family() {
    with_world(|dataplane| {
        for protocol in [TCP, 17] {
            for vip in [Vip::Dsr, Vip::Nat, Vip::Empty] {
                let mut packet = request(vip, (Family::V4, protocol), Client::Routed);
                let mapped = packet.addresses.map(|address| match address {
                    std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
                    v6 => v6,
                });
                let v6 = request(vip, (Family::V6, protocol), Client::Routed);
                packet.addresses = [v6.addresses[0], mapped[1]];
                let one = on_both(dataplane, &packet.bytes(), FRONT);
                packet.addresses = mapped;
                let both = on_both(dataplane, &packet.bytes(), FRONT);
                for outcome in [one, both] {
                    assert_eq!(
                        outcome.action,
                        Action::Pass,
                        "{vip:?}: {:?}",
                        outcome.reason
                    );
                }
            }
            let reply = |family| world::reply(21, (family, protocol), Client::Routed);
            let mapped = reply(Family::V4).addresses.map(|address| match address {
                std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
                v6 => v6,
            });
            for destination in [mapped[1], reply(Family::V6).addresses[1]] {
                let mut packet = reply(Family::V4);
                packet.addresses = [mapped[0], destination];
                let frame = packet.bytes();
                let outcome = on_both(dataplane, &frame, world::BACK);
                assert_eq!(outcome.action, Action::Pass, "{:?}", outcome.reason);
                assert_eq!(outcome.frame, frame);
            }
        }
    });
}
