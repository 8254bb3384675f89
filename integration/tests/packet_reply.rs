//! A `nat` backend's reply: the client has to see the service, and the balancer's routes say where the client is.

use integration::packet::{
    dissect::dissect,
    frame::Packet,
    path::{on_both, with_world},
    world::{
        self, BACK, BACK_MAC, BACKEND_PORT, Client, FRONT, FRONT_MAC, KINDS, PORT, Vip, mac, reply,
    },
};
use lb_common::reason::Reason;
use lb_userspace::dataplane::Action;

/// `packet` with the service's address, one hop less.
fn translated(packet: &Packet, vip: Vip) -> Packet {
    let family = if packet.addresses[0].is_ipv4() {
        world::Family::V4
    } else {
        world::Family::V6
    };
    Packet {
        addresses: [vip.address(family), packet.addresses[1]],
        ports: [PORT, packet.ports[1]],
        hops: packet.hops - 1,
        ..packet.clone()
    }
}

fn variants() -> Vec<fn(&mut Packet)> {
    vec![
        |_| {},
        |p| p.tags = vec![(0x8100, 0x6000 | world::VLAN)],
        |p| p.tags = vec![(0x88a8, 5), (0x8100, 6)],
        |p| p.checksum = p.protocol == integration::packet::frame::TCP,
        |p| p.payload = vec![0xab; 1001],
        |p| p.padding = 20,
        |p| p.tos = 0x03,
        |p| {
            if p.addresses[0].is_ipv4() {
                p.options = vec![1; 8];
            } else {
                p.extensions = vec![(0, 0), (60, 1)];
            }
        },
    ]
}

#[test]
fn replies_go_to_clients_that_can_be_reached() {
    with_world(|dataplane| {
        let ways = [
            (Client::OnLink, mac(7), FRONT_MAC, FRONT),
            (Client::Routed, mac(1), FRONT_MAC, FRONT),
            (Client::OneArm, mac(8), BACK_MAC, BACK),
        ];
        // The third one is drained: what it has still gets through.
        let backends = [(Vip::Nat, 21), (Vip::Nat, 23), (Vip::TaggedNat, 62)];
        for kind in KINDS {
            for (client, destination, source, exit) in ways {
                for (vip, backend) in backends {
                    for change in variants() {
                        let mut packet = reply(backend, kind, client);
                        change(&mut packet);
                        let frame = packet.bytes();
                        dissect(&frame).expect("before");
                        let outcome = on_both(dataplane, &frame, BACK);
                        let expected = Packet {
                            macs: [destination, source],
                            tags: Vec::new(),
                            ..translated(&packet, vip)
                        };
                        assert_eq!(outcome.reason, Reason::ToClient, "{packet:?}");
                        let way = if exit == BACK {
                            (Action::Transmit, None)
                        } else {
                            (Action::Redirect, Some(FRONT))
                        };
                        assert_eq!((outcome.action, outcome.interface), way, "{packet:?}");
                        assert_eq!(outcome.backend, None, "replies are not the backend's load");
                        let seen = dissect(&outcome.frame).expect("after");
                        assert_eq!(seen.addresses, expected.addresses);
                        assert_eq!(seen.ports, Some(expected.ports));
                        assert_eq!(seen.payload, packet.payload);
                        assert_eq!(outcome.frame, expected.bytes(), "{packet:?}");
                    }
                }
            }
        }
    });
}

#[test]
fn the_host_gets_the_translated_reply_when_it_has_to_resolve_the_client() {
    with_world(|dataplane| {
        for kind in KINDS {
            for client in [Client::Unresolved, Client::RoutedUnresolved] {
                for change in variants() {
                    let mut packet = reply(22, kind, client);
                    change(&mut packet);
                    let outcome = on_both(dataplane, &packet.bytes(), BACK);
                    assert_eq!(
                        (outcome.action, outcome.reason),
                        (Action::Pass, Reason::ResolvingClient)
                    );
                    // Link addresses and tags are as they came: the host is the receiver.
                    assert_eq!(outcome.frame, translated(&packet, Vip::Nat).bytes());
                    dissect(&outcome.frame).expect("after");
                }
            }
        }
    });
}

#[test]
fn a_reply_whose_route_refuses_is_dropped() {
    with_world(|dataplane| {
        for kind in KINDS {
            let frame = reply(21, kind, Client::Blackholed).bytes();
            let outcome = on_both(dataplane, &frame, BACK);
            assert_eq!(
                (outcome.action, outcome.reason),
                (Action::Drop, Reason::NoRoute)
            );
        }
    });
}

#[test]
fn a_reply_that_does_not_fit_the_way_is_dropped() {
    with_world(|dataplane| {
        for kind in KINDS {
            let mut packet = reply(21, kind, Client::Routed);
            packet.payload.clear();
            let headers = packet.bytes().len() - 14;
            for (length, reason) in [
                (usize::from(world::MTU), Reason::ToClient),
                (usize::from(world::MTU) + 1, Reason::NoRoute),
            ] {
                packet.payload = vec![1; length - headers];
                let outcome = on_both(dataplane, &packet.bytes(), BACK);
                assert_eq!(outcome.reason, reason, "{length} bytes");
            }
        }
    });
}

/// The balancer probes its backends from an address of its own: the answer is for itself. The kernel's lookup does not tell it from
/// a reply that no route leads to, and there the host has the right answer, too.
#[test]
fn an_answer_to_the_balancers_own_probe_reaches_it_untouched() {
    with_world(|dataplane| {
        for kind in KINDS {
            for client in [Client::Balancer, Client::Unroutable] {
                let frame = reply(21, kind, client).bytes();
                let outcome = on_both(dataplane, &frame, BACK);
                assert_eq!(
                    (outcome.action, outcome.reason),
                    (Action::Pass, Reason::ReplyToHost),
                    "{kind:?} {client:?}"
                );
                assert_eq!(outcome.frame, frame);
            }
        }
    });
}

#[test]
fn what_else_a_backend_sends_is_none_of_ours() {
    with_world(|dataplane| {
        for kind in KINDS {
            let ours = reply(21, kind, Client::Routed);
            let mut other_port = ours.clone();
            other_port.ports[0] = BACKEND_PORT + 1;
            let direct = reply(11, kind, Client::Routed);
            let nobody = reply(99, kind, Client::Routed);
            let mut other_protocol = ours.clone();
            other_protocol.protocol = 132;
            for packet in [other_port, direct, nobody, other_protocol] {
                let outcome = on_both(dataplane, &packet.bytes(), BACK);
                assert_eq!(
                    (outcome.action, outcome.reason),
                    (Action::Pass, Reason::NotOurs),
                    "{packet:?}"
                );
                assert_eq!(outcome.frame, packet.bytes());
            }
        }
    });
}

#[test]
fn a_reply_on_its_last_hop_ends() {
    with_world(|dataplane| {
        for kind in KINDS {
            for hops in [0, 1] {
                let packet = Packet {
                    hops,
                    ..reply(21, kind, Client::Routed)
                };
                let outcome = on_both(dataplane, &packet.bytes(), BACK);
                assert_eq!(
                    (outcome.action, outcome.reason),
                    (Action::Drop, Reason::TtlExpired)
                );
            }
        }
    });
}
