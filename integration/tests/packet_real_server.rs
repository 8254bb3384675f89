//! The real server's program: what the balancer's has put into a tunnel comes out of it, through the loaded programs and the host's
//! builds; and what strangers send, mutated, gives the same in both and never ends the program.
//!
//! `FUTAGO_FUZZ_SEED` and `FUTAGO_FUZZ_SERVER` repeat or lengthen the run.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use integration::packet::{
    dissect::dissect,
    frame::{Packet, TCP, UDP},
    mutate::{mutate, packet},
    namespace::alone,
    path::{heap_world, on_host},
    random::{Random, setting},
    world::{self, Client, FRONT, Family, KINDS, PORT, Vip, request},
};
use lb_common::{
    address::Address,
    host::{HeapDuties, HeapTables, SliceFrame},
    real_server::{Key, Outcome, receive},
    reason::{Class, Reason},
    tables::Counter,
};
use lb_userspace::dataplane::{
    Action,
    real_server::{Duties, RealServer},
};

const TUNNELS: [Vip; 3] = [Vip::Ipip, Vip::Gre, Vip::Gue];
const GUE_PORT: u16 = 6080;
/// Where the test's program pins its maps.
const DIRECTORY: &str = "/sys/fs/bpf/server";
const DSCP: u8 = 11;

/// One server that is every backend of every tunnel, and has one VIP by DSCP.
fn duties() -> Duties {
    let mut duties = Duties::new();
    let nothing = Address::default();
    for family in [Family::V4, Family::V6] {
        for vip in TUNNELS {
            duties.insert(Key::vip(vip.address(family).into()), nothing);
            for (number, _) in vip.backends() {
                let outer: Address = vip.backend(family, *number).into();
                for protocol in [4, 41, 47] {
                    duties.insert(Key::tunnel(outer, protocol, 0), nothing);
                }
                duties.insert(Key::tunnel(outer, UDP, GUE_PORT), nothing);
            }
        }
        let vip: Address = Vip::Dsr.address(family).into();
        for protocol in [TCP, UDP] {
            for port in [PORT, 0] {
                duties.insert(Key::mark(own(family).into(), DSCP, protocol, port), vip);
            }
        }
    }
    duties
}

/// The server's own address, to which marked packets go.
fn own(family: Family) -> IpAddr {
    world::address(family, 2, 40)
}

#[derive(Debug, PartialEq, Eq)]
struct Seen {
    action: Action,
    outcome: Outcome,
    frame: Vec<u8>,
}

fn on_the_host(duties: &Duties, frame: &[u8]) -> Seen {
    let duties = HeapDuties {
        duties: duties.clone(),
        ..HeapDuties::default()
    };
    let mut frame = SliceFrame::new(frame, FRONT);
    let action = if receive(&mut frame, &duties) {
        Action::Pass
    } else {
        Action::Drop
    };
    let outcomes = duties.outcomes.into_inner();
    let [outcome] = outcomes[..] else {
        panic!("not counted once: {outcomes:?}");
    };
    Seen {
        action,
        outcome,
        frame: frame.bytes().to_vec(),
    }
}

fn in_kernel(server: &RealServer, frame: &[u8]) -> Seen {
    let counters = || {
        let counters = server.counters();
        counters.unwrap_or_else(|error| panic!("{error}"))
    };
    let before = counters();
    let run = server.test_run(frame, FRONT);
    let run = run.unwrap_or_else(|error| panic!("{error}"));
    let after = counters();
    let mut counted = before.iter().zip(&after).filter(|(old, new)| old != new);
    let (Some((old, new)), None) = (counted.next(), counted.next()) else {
        panic!("not one counter: {before:?} {after:?}");
    };
    let one = Counter {
        packets: old.1.packets + 1,
        bytes: old.1.bytes + frame.len() as u64,
    };
    assert_eq!(new.1, one, "{}", new.0.label());
    Seen {
        action: run.action,
        outcome: new.0,
        frame: run.frame,
    }
}

fn on_both(server: &RealServer, duties: &Duties, frame: &[u8]) -> Seen {
    let host = on_the_host(duties, frame);
    let kernel = in_kernel(server, frame);
    assert_eq!(kernel, host, "of {frame:02x?}");
    host
}

fn with_server<T: Send>(test: impl FnOnce(&RealServer, &Duties) -> T + Send) -> T {
    alone(&world::ip_commands(), || {
        let duties = duties();
        let server = RealServer::open(Path::new(DIRECTORY), &duties);
        test(&server.unwrap_or_else(|error| panic!("{error}")), &duties)
    })
}

/// What the balancer sends for a packet, as its backend's interface sees it: without a VLAN tag.
fn sent(tables: &HeapTables, frame: &[u8]) -> Option<Vec<u8>> {
    let out = on_host(tables, frame, FRONT);
    let mut frame = (out.reason == Reason::ToBackend).then_some(out.frame)?;
    if frame[12..14] == [0x81, 0] {
        frame.drain(12..16);
    }
    Some(frame)
}

fn through(tables: &HeapTables, packet: &Packet) -> Vec<u8> {
    sent(tables, &packet.bytes()).unwrap_or_else(|| panic!("not sent: {packet:?}"))
}

#[test]
fn what_the_balancer_wraps_the_server_unwraps() {
    with_server(|server, duties| {
        let tables = heap_world();
        for (family, protocol) in KINDS {
            for vip in TUNNELS {
                for port in 1000..1020 {
                    let mut packet = request(vip, (family, protocol), Client::OnLink);
                    packet.ports[0] = port;
                    packet.tos = 0xb9;
                    let wrapped = through(&tables, &packet);
                    let seen = on_both(server, duties, &wrapped);
                    assert_eq!(
                        (seen.action, seen.outcome),
                        (Action::Pass, Outcome::Decapsulated)
                    );
                    packet.hops -= 1;
                    packet.macs = dissect(&seen.frame).expect("in order").macs;
                    assert_eq!(packet.macs.concat(), wrapped[..12]);
                    assert_eq!(seen.frame, packet.bytes(), "{vip:?} {packet:?}");
                }
            }
        }
    });
}

#[test]
fn a_mark_gives_the_vip_back() {
    with_server(|server, duties| {
        for (family, protocol) in KINDS {
            let client = Client::OnLink.address(family);
            for fragment in [None, Some((0, true)), Some((185, false))] {
                let packet = |tos, to| Packet {
                    tos,
                    fragment,
                    ..Packet::new(protocol, (client, 40_000), (to, PORT))
                };
                let seen = on_both(server, duties, &packet(DSCP << 2 | 2, own(family)).bytes());
                assert_eq!((seen.action, seen.outcome), (Action::Pass, Outcome::Mapped));
                assert_eq!(seen.frame, packet(2, Vip::Dsr.address(family)).bytes());
            }
            let other = Packet {
                tos: DSCP << 2,
                ..Packet::new(protocol, (client, 40_000), (own(family), 22))
            };
            let seen = on_both(server, duties, &other.bytes());
            assert_eq!(
                seen.outcome,
                Outcome::NotOurs,
                "another service of the host"
            );
            assert_eq!(seen.frame, other.bytes());
        }
    });
}

#[test]
fn both_builds_agree_on_what_strangers_send() {
    let count = setting("FUTAGO_FUZZ_SERVER", 50_000);
    let seed = setting("FUTAGO_FUZZ_SEED", 20_260_101);
    let outcomes = with_server(|server, duties| {
        let tables = heap_world();
        let mut outcomes = BTreeMap::new();
        for number in 0..count {
            let random = &mut Random::new(seed.wrapping_add(number));
            let frame = stranger(random, &tables);
            let seen = on_both(server, duties, &frame);
            judge(&frame, &seen);
            *outcomes.entry(seen.outcome.label()).or_insert(0_u64) += 1;
        }
        outcomes
    });
    println!("{outcomes:#?}");
    for outcome in Outcome::ALL {
        let seen = outcomes.get(outcome.label()).copied().unwrap_or(0);
        assert!(
            count < 10_000 || *outcome == Outcome::NotChanged || seen * 5_000 >= count,
            "{}: {seen}",
            outcome.label()
        );
    }
}

/// A packet in a tunnel, or with a mark, or of neither kind; mostly mutated.
fn stranger(random: &mut Random, tables: &HeapTables) -> Vec<u8> {
    let mut frame = match random.below(8) {
        0 => packet(random).bytes(),
        1 => {
            let family = *random.pick(&[Family::V4, Family::V6]);
            let mut marked = packet(random);
            let protocol = *random.pick(&[TCP, UDP]);
            let client = Client::OnLink.address(family);
            marked = Packet {
                tos: DSCP << 2 | random.byte() & 3,
                checksum: random.one_in(2) || protocol == TCP,
                fragment: marked.fragment,
                payload: marked.payload,
                ..Packet::new(protocol, (client, random.word()), (own(family), PORT))
            };
            marked.bytes()
        }
        _ => {
            let family = *random.pick(&[Family::V4, Family::V6]);
            let protocol = *random.pick(&[TCP, UDP]);
            let mut packet = request(*random.pick(&TUNNELS), (family, protocol), Client::OnLink);
            packet.ports[0] = random.word();
            packet.tos = random.byte();
            packet.payload = random.bytes(random.clone().below(300));
            let mut frame = through(tables, &packet);
            // Congestion on the way, which the outer header tells.
            if random.one_in(8) && frame[14] >> 4 == 6 {
                frame[15] |= 0x30;
            }
            frame
        }
    };
    if !random.one_in(6) {
        for _ in 0..=random.below(3) {
            mutate(random, &mut frame);
        }
    }
    frame.truncate(3500);
    if frame.len() < 14 {
        frame.resize(14, 0);
    }
    frame
}

/// What holds for every packet, whatever it is.
fn judge(before: &[u8], seen: &Seen) {
    let class = match seen.action {
        Action::Pass => Class::Passed,
        Action::Drop => Class::Dropped,
        other => panic!("{other:?}"),
    };
    assert_eq!(class, seen.outcome.class());
    match seen.outcome {
        Outcome::Decapsulated => {
            assert!(seen.frame.len() < before.len());
            assert_eq!(seen.frame[..12], before[..12]);
            // Of the inside only a congestion mark changes, and with it an IPv4 checksum.
            let cut = before.len() - seen.frame.len();
            let kept = if seen.frame[14] >> 4 == 4 { 26 } else { 16 };
            assert_eq!(seen.frame[kept..], before[cut + kept..]);
        }
        Outcome::Mapped => {
            assert_eq!(seen.frame.len(), before.len());
            // A fragment's checksum is among its payload.
            if let Ok(was) = dissect(before)
                && was.ports.is_some()
            {
                let is =
                    dissect(&seen.frame).unwrap_or_else(|error| panic!("was {was:?}: {error}"));
                assert_eq!((is.payload, is.ports), (was.payload, was.ports));
                assert_eq!(is.addresses[0], was.addresses[0]);
            }
        }
        _ => assert_eq!(seen.frame, before, "untouched"),
    }
}
