//! Packets of every kind, and what strangers may make of them. The same seed makes the same packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    frame::{ICMP, ICMP6, Packet, SCTP, TCP, UDP, checksum},
    random::Random,
    world::{self, BACK, BACKEND_PORT, Client, FRONT, Family, PORT, Vip},
};

/// Longest frame that a test run of the kernel takes.
const LONGEST: usize = 3500;

/// A frame, where it comes in, and the packet that it was made from where that was left as it is.
#[derive(Clone, Debug)]
pub struct Sample {
    pub frame: Vec<u8>,
    pub ingress: u32,
    pub valid: Option<Packet>,
}

/// One in eight is a valid packet, the others are mutated.
pub fn sample(random: &mut Random) -> Sample {
    let packet = packet(random);
    let ingress = *random.pick(&[FRONT, BACK]);
    let mut frame = packet.bytes();
    if random.one_in(8) {
        return Sample {
            frame,
            ingress,
            valid: Some(packet),
        };
    }
    for _ in 0..=random.below(4) {
        mutate(random, &mut frame);
    }
    frame.truncate(LONGEST);
    if frame.len() < 14 {
        frame.resize(14, 0);
    }
    Sample {
        frame,
        ingress,
        valid: None,
    }
}

/// A valid packet of any kind: requests to all services, replies of all backends, what is not ours.
pub fn packet(random: &mut Random) -> Packet {
    let family = *random.pick(&[Family::V4, Family::V6]);
    let other = if family == Family::V4 { ICMP } else { ICMP6 };
    let protocol = *random.pick(&[TCP, TCP, TCP, UDP, UDP, UDP, other, SCTP]);
    let client = client(random, family);
    let port = random.word();
    let (vip, backends) = match random.pick(&Vip::ALL) {
        vip if vip.backends().is_empty() => (vip, Vip::Nat.backends()),
        vip => (vip, vip.backends()),
    };
    let backend = world::address(family, 2, random.pick(backends).0);
    let mut packet = match random.below(8) {
        0 => Packet::new(protocol, (client, port), (backend, random.word())),
        1..=3 => Packet::new(protocol, (backend, BACKEND_PORT), (client, port)),
        _ => Packet::new(protocol, (client, port), (vip.address(family), PORT)),
    };
    if random.one_in(8) {
        packet.ports[1] = random.word();
    }
    if random.one_in(4) {
        packet.tags = vec![(0x8100, random.word())];
        if random.one_in(2) {
            packet.tags.insert(0, (0x88a8, random.word()));
        }
    }
    packet.tos = random.byte();
    packet.hops = *random.pick(&[64, 64, 64, 255, 2, 1, 0]);
    if random.one_in(4) {
        packet.options = vec![1; random.below(41)];
        let count = random.below(5);
        let kinds = [0, 43, 60];
        // Hop-by-hop options come first or not at all (RFC 8200 §4.1).
        let extension = |n| (kinds[if n == 0 { 0 } else { 1 + n % 2 }], (n % 3) as u8);
        packet.extensions = (0..count).map(extension).collect();
    }
    if random.one_in(8) {
        packet.fragment = Some((*random.pick(&[0, 0, 1, 185]), random.one_in(2)));
        // More headers than are followed, together with the fragment header.
        packet.extensions.truncate(3);
    }
    if random.one_in(4) {
        packet.tcp_options = vec![1; random.below(41)];
    }
    packet.checksum = packet.protocol == TCP || !random.one_in(8);
    let length = *random.pick(&[0, 1, 2, 7, 64, 65, 600]) + random.below(3);
    packet.payload = random.bytes(length);
    if [ICMP, ICMP6].contains(&protocol) && !random.one_in(4) {
        packet.fragment = None;
        packet.payload = error(random, &packet, client);
    }
    if random.one_in(4) {
        packet.padding = random.below(50);
    }
    packet
}

/// An ICMP error to the packet's destination, about what that sent to `client`; its length is even.
fn error(random: &mut Random, packet: &Packet, client: IpAddr) -> Vec<u8> {
    let [source, destination] = packet.addresses;
    let protocol = *random.pick(&[TCP, UDP, UDP, SCTP]);
    let port = *random.pick(&[PORT, BACKEND_PORT]);
    let mut quoted = Packet::new(protocol, (destination, port), (client, random.word()));
    // About what a client sent to a backend.
    if random.one_in(3) {
        quoted.addresses = [destination, source];
        quoted.ports = [random.word(), BACKEND_PORT];
    }
    quoted.checksum = !random.one_in(4);
    let mut quote = quoted.bytes().split_off(14);
    let shortest = if source.is_ipv4() { 28 } else { 48 };
    quote.truncate((shortest + random.below(40)) & !1);
    let kinds: &[u8] = if source.is_ipv4() {
        &[3, 11, 12]
    } else {
        &[1, 2, 3, 4]
    };
    let mut message = vec![*random.pick(kinds), random.byte(), 0, 0];
    message.extend(random.bytes(4));
    message.extend(quote);
    let pseudo = match packet.addresses {
        [IpAddr::V6(source), IpAddr::V6(destination)] => {
            let length = (message.len() as u32).to_be_bytes();
            [
                &source.octets()[..],
                &destination.octets(),
                &length,
                &[0, 0, 0, ICMP6],
            ]
            .concat()
        }
        _ => Vec::new(),
    };
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn client(random: &mut Random, family: Family) -> IpAddr {
    match random.below(4) {
        0 => {
            let client = random.pick(&Client::ALL);
            client.address(family)
        }
        1 => world::beyond(family, 1 + random.below(4) as u8, random.byte()),
        2 => world::beyond(family, 1, random.byte()),
        _ => match family {
            Family::V4 => Ipv4Addr::from(random.bits() as u32).into(),
            Family::V6 => {
                Ipv6Addr::from(u128::from(random.bits()) << 64 | u128::from(random.bits())).into()
            }
        },
    }
}

/// Changes a frame in one way.
pub fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    // Most of what decides stands in the first bytes.
    let reach = if random.one_in(4) {
        frame.len()
    } else {
        frame.len().min(80)
    };
    let at = random.below(reach);
    match random.below(10) {
        // Cut, anywhere or within the headers.
        0 => frame.truncate(at),
        1 => {
            let count = random.below(64);
            frame.extend(random.bytes(count));
        }
        2 => {
            let count = random.below(1500);
            frame.extend(random.bytes(count));
        }
        3 => {
            for _ in 0..=random.below(8) {
                let bit = random.below(reach.max(1) * 8);
                if let Some(byte) = frame.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
        // A field set to a value at the edge of something.
        4 => {
            const EDGES: [u8; 16] = [
                0, 1, 2, 4, 5, 6, 17, 0x3f, 0x40, 0x45, 0x4f, 0x60, 0x7f, 0x80, 0xfe, 0xff,
            ];
            if let Some(byte) = frame.get_mut(at) {
                *byte = *random.pick(&EDGES);
            }
        }
        5 => {
            let value = match random.below(4) {
                0 => *random.pick(&[
                    0_u16, 1, 19, 20, 21, 28, 39, 40, 59, 60, 0x1fff, 0x2000, 0x7fff, 0x8000,
                    0xffff,
                ]),
                1 => (frame.len() as u16).wrapping_sub(random.below(80) as u16),
                2 => *random.pick(&[0x0800, 0x86dd, 0x8100, 0x88a8, 0x0806]),
                _ => random.word(),
            };
            if let Some(field) = frame.get_mut(at..at + 2) {
                field.copy_from_slice(&value.to_be_bytes());
            }
        }
        // Next header, in both families and behind tags.
        6 => {
            const HEADERS: [u8; 10] = [0, 1, 6, 17, 43, 44, 51, 58, 60, 132];
            let field = *random.pick(&[20, 23, 24, 27, 28, 31, 54, 58, 62, 70]);
            if let Some(byte) = frame.get_mut(field) {
                *byte = *random.pick(&HEADERS);
            }
        }
        // A piece of another packet, in place or in between.
        7 => {
            let other = packet(random).bytes();
            let from = random.below(other.len());
            let piece = &other[from..other.len().min(from + 1 + random.below(60))];
            if random.one_in(2) {
                frame.splice(at..at, piece.iter().copied());
            } else {
                let end = frame.len().min(at + piece.len());
                frame.splice(at..end, piece.iter().copied());
            }
        }
        // Headers of one packet, the rest of another.
        8 => {
            let other = packet(random).bytes();
            frame.truncate(at);
            frame.extend(&other[random.below(other.len())..]);
        }
        // A tag more or less.
        _ => {
            if frame.len() > 18 {
                if random.one_in(2) {
                    frame.drain(12..16);
                } else {
                    let [high, low] = random.word().to_be_bytes();
                    frame.splice(12..12, [0x81, 0, high, low]);
                }
            }
        }
    }
}
