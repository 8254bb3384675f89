//! Fragments, by the loaded program and the host's build alike: the first one's ports decide for all, in both directions.

use integration::packet::{
    frame::{Packet, TCP},
    path::{Outcome, on_both, with_world},
    world::{
        self, BACK, BACK_MAC, BACKEND_PORT, Client, FRONT, FRONT_MAC, Family, KINDS, PORT, Vip,
        mac, reply, request,
    },
};
use lb_common::reason::Reason;
use lb_core::model::Mode;
use lb_userspace::dataplane::{Action, Dataplane};

/// The piece of a packet at `offset`, in units of 8 bytes.
fn piece(packet: &Packet, offset: u16, more: bool) -> Packet {
    Packet {
        fragment: Some((offset, more)),
        payload: vec![offset as u8; 64],
        ..packet.clone()
    }
}

/// As a piece leaves for a backend without tunnel.
fn forwarded(piece: &Packet, vip: Vip, family: Family, outcome: &Outcome) -> Packet {
    let backend = outcome.frame[5];
    let mut packet = Packet {
        macs: [mac(backend), BACK_MAC],
        tags: match vip.vlan() {
            0 => Vec::new(),
            vlan => vec![(0x8100, vlan)],
        },
        ..piece.clone()
    };
    if matches!(vip.mode(), Mode::Nat | Mode::Dscp) {
        packet.addresses[1] = world::address(family, 2, backend);
        packet.hops -= 1;
    }
    match vip.mode() {
        Mode::Nat => packet.ports[1] = BACKEND_PORT,
        Mode::Dscp => packet.tos = world::DSCP << 2,
        _ => {}
    }
    packet
}

fn to_backend(dataplane: &Dataplane, frame: &[u8]) -> Outcome {
    let outcome = on_both(dataplane, frame, FRONT);
    assert_eq!(outcome.reason, Reason::ToBackend);
    outcome
}

#[test]
fn all_pieces_of_a_packet_reach_the_backend_of_its_flow() {
    with_world(|dataplane| {
        for kind in KINDS {
            for vip in Vip::ALL
                .into_iter()
                .filter(|vip| ![Vip::Empty, Vip::Unresolved].contains(vip))
            {
                for port in 40_000..40_010 {
                    let mut packet = request(vip, kind, Client::Routed);
                    packet.ports[0] = port;
                    let whole = to_backend(dataplane, &packet.bytes()).backend;
                    // `l3` goes by the client alone.
                    let whole = if vip == Vip::Gue { None } else { whole };
                    let pieces = [(0, true), (20, true), (9, true), (30, false)];
                    let mut reached = whole;
                    for (offset, more) in pieces {
                        let piece = piece(&packet, offset, more);
                        let outcome = to_backend(dataplane, &piece.bytes());
                        assert_eq!(
                            outcome.backend,
                            reached.or(outcome.backend),
                            "{vip:?} {kind:?}"
                        );
                        reached = outcome.backend;
                        if !vip.mode().is_tunnel() {
                            let expected = forwarded(&piece, vip, kind.0, &outcome);
                            assert_eq!(outcome.frame, expected.bytes(), "{vip:?} {piece:?}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn replies_come_back_in_pieces() {
    with_world(|dataplane| {
        for kind in KINDS {
            let whole = reply(21, kind, Client::Routed);
            for (offset, more) in [(0, true), (20, true), (30, false)] {
                let piece = piece(&whole, offset, more);
                let outcome = on_both(dataplane, &piece.bytes(), BACK);
                assert_eq!(outcome.reason, Reason::ToClient, "{piece:?}");
                let expected = Packet {
                    macs: [mac(1), FRONT_MAC],
                    addresses: [Vip::Nat.address(kind.0), piece.addresses[1]],
                    ports: [PORT, piece.ports[1]],
                    hops: piece.hops - 1,
                    ..piece
                };
                assert_eq!(outcome.frame, expected.bytes());
            }
        }
    });
}

#[test]
fn what_cannot_be_known_is_dropped_and_said() {
    with_world(|dataplane| {
        for (family, protocol) in KINDS {
            let kind = (family, protocol);
            let drops = |packet: &Packet, reason| {
                let frame = packet.bytes();
                let outcome = on_both(dataplane, &frame, FRONT);
                assert_eq!(
                    (outcome.action, outcome.reason),
                    (Action::Drop, reason),
                    "{packet:?}"
                );
                assert_eq!(outcome.frame, frame, "untouched");
            };
            let early = piece(&request(Vip::Dsr, kind, Client::OneArm), 20, true);
            drops(&early, Reason::FragmentUnknown);
            // Where ports do not matter, order does not either.
            for vip in [Vip::Source, Vip::Gue] {
                let early = piece(&request(vip, kind, Client::OneArm), 20, true);
                to_backend(dataplane, &early.bytes());
            }
            let refused = piece(&request(Vip::Empty, kind, Client::Routed), 0, true);
            drops(&refused, Reason::Fragment);
            // RFC 1858 §3: a first fragment that hides its transport header.
            if protocol == TCP && family == Family::V4 {
                let mut tiny = piece(&request(Vip::Nat, kind, Client::Routed), 0, true).bytes();
                tiny.truncate(14 + 20 + 16);
                tiny[16..18].copy_from_slice(&36_u16.to_be_bytes());
                let outcome = on_both(dataplane, &tiny, FRONT);
                assert_eq!(outcome.reason, Reason::MalformedTransport);
            }
            // To others they are not looked at.
            let mut other = piece(&request(Vip::Nat, kind, Client::Routed), 0, true);
            other.addresses[1] = world::address(family, 9, 200);
            let outcome = on_both(dataplane, &other.bytes(), FRONT);
            assert_eq!(
                (outcome.action, outcome.reason),
                (Action::Pass, Reason::NotOurs)
            );
        }
    });
}
