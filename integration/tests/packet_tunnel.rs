//! `l3-dsr` through the loaded program and the host's build: the same bytes, and inside them the packet that came, one hop later.

use integration::packet::{
    frame::TCP,
    path::{Outcome, on_both, with_world},
    world::{self, BACK_MAC, Client, FRONT, Family, KINDS, PORT, Vip, mac, request},
};
use lb_common::reason::Reason;
use lb_core::model::Mode;
use lb_userspace::dataplane::Action;

const TUNNELS: [Vip; 3] = [Vip::Ipip, Vip::Gre, Vip::Gue];

#[test]
fn every_tunnel_carries_every_family_in_every_family() {
    with_world(|dataplane| {
        for (family, protocol) in KINDS {
            for vip in TUNNELS {
                let mut seen = std::collections::BTreeSet::new();
                for port in 1000..1040 {
                    let mut packet = request(vip, (family, protocol), Client::OnLink);
                    packet.ports[0] = port;
                    let Outcome {
                        action,
                        frame,
                        reason,
                        ..
                    } = on_both(dataplane, &packet.bytes(), FRONT);
                    assert_eq!((action, reason), (Action::Redirect, Reason::ToBackend));
                    let number = frame[5];
                    seen.insert(number);
                    assert_eq!(&frame[..12], [mac(number), BACK_MAC].concat());
                    packet.hops -= 1;
                    packet.macs = [[0; 6]; 2];
                    let inner = &packet.bytes()[14..];
                    assert!(frame.ends_with(inner), "{vip:?} {packet:?} in {frame:x?}");
                    let tags = if vip.vlan() == 0 { 0 } else { 4 };
                    let outer = match vip.backend(family, number).is_ipv4() {
                        true => 20,
                        false => 40,
                    };
                    let shim = match vip.mode() {
                        Mode::Gre => 4,
                        Mode::Gue => 8,
                        _ => 0,
                    };
                    assert_eq!(frame.len(), 14 + tags + outer + shim + inner.len());
                }
                assert_eq!(seen.len(), 2, "both backends of {vip:?}");
            }
        }
    });
}

#[test]
fn the_kernels_program_gives_up_where_the_hosts_does() {
    with_world(|dataplane| {
        for family in [Family::V4, Family::V6] {
            for vip in TUNNELS {
                let mut packet = request(vip, (family, TCP), Client::Routed);
                packet.hops = 1;
                let outcome = on_both(dataplane, &packet.bytes(), FRONT);
                assert_eq!(outcome.reason, Reason::Answered);
                packet.hops = 9;
                packet.payload = vec![0; usize::from(world::MTU) - 80];
                let outcome = on_both(dataplane, &packet.bytes(), FRONT);
                assert!(matches!(
                    outcome.reason,
                    Reason::Answered | Reason::ToBackend
                ));
                packet.payload = vec![0; usize::from(world::MTU) - 50];
                let outcome = on_both(dataplane, &packet.bytes(), FRONT);
                assert_eq!(outcome.reason, Reason::Answered);
                assert_eq!(packet.ports[1], PORT);
            }
        }
    });
}
