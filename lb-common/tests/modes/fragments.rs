//! Fragments: every piece of a packet goes to one backend, and what the backend puts together is the packet.

use etherparse::{NetSlice, SlicedPacket};
use lb_common::{
    forward::Verdict,
    host::HeapTables,
    reason::Reason,
    tables::{Mode, NextHop, Route, flags},
};
use proptest::prelude::*;

use crate::common::*;

/// The packet of a frame in fragments of at most `size` bytes, a multiple of 8; each a frame.
pub fn fragments(frame: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    let v4 = frame[12..14] == [8, 0];
    let header = if v4 { 20 } else { 40 };
    let (head, body) = frame[14..].split_at(header);
    let pieces = body.chunks(size).enumerate();
    let last = body.len().div_ceil(size) - 1;
    pieces
        .map(|(number, piece)| {
            let (offset, more) = ((number * size / 8) as u16, number < last);
            let mut ip = head.to_vec();
            if v4 {
                ip[2..4].copy_from_slice(&((20 + piece.len()) as u16).to_be_bytes());
                ip[4..6].copy_from_slice(&(id as u16).to_be_bytes());
                ip[6..8].copy_from_slice(&(offset | u16::from(more) << 13).to_be_bytes());
                let parsed = etherparse::Ipv4Header::from_slice(&ip).expect("a header").0;
                ip[10..12].copy_from_slice(&parsed.calc_header_checksum().to_be_bytes());
            } else {
                ip[4..6].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
                let next = ip[6];
                ip[6] = 44;
                ip.extend([next, 0]);
                ip.extend((offset << 3 | u16::from(more)).to_be_bytes());
                ip.extend(id.to_be_bytes());
            }
            [&frame[..14], &ip, piece].concat()
        })
        .collect()
}

/// Puts fragments together, in any order: the packet as one frame without a fragment header.
fn together(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut pieces: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut first = Vec::new();
    for frame in frames {
        let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
        let (offset, at) = match packet.net.as_ref() {
            Some(NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                (header.fragment_offset.value(), 34)
            }
            Some(NetSlice::Ipv6(_)) => (u16::from_be_bytes([frame[56], frame[57]]) >> 3, 62),
            other => panic!("{other:?}"),
        };
        if offset == 0 {
            first = frame[..if at == 34 { 34 } else { 54 }].to_vec();
            if at == 62 {
                first[20] = frame[54];
            }
        }
        pieces.push((offset, frame[at..].to_vec()));
    }
    pieces.sort();
    let body: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
    let v4 = first.len() == 34;
    let length = (body.len() + if v4 { 20 } else { 0 }) as u16;
    if v4 {
        first[16..18].copy_from_slice(&length.to_be_bytes());
        first[18..20].copy_from_slice(&[0x43, 0x21]);
        // As `builder` has it: "don't fragment".
        first[20..22].copy_from_slice(&[0x40, 0]);
        let header = etherparse::Ipv4Header::from_slice(&first[14..])
            .expect("a header")
            .0;
        first[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    } else {
        first[18..20].copy_from_slice(&length.to_be_bytes());
    }
    [first, body].concat()
}

/// Sends all; what leaves, and asserts that all go on for the same reason.
fn send(tables: &HeapTables, frames: &[Vec<u8>], reason: Reason) -> Vec<Vec<u8>> {
    let sent = frames
        .iter()
        .map(|frame| {
            let (verdict, out) = run(tables, frame);
            assert!(
                matches!(verdict, Verdict::Transmit | Verdict::Redirect(_)),
                "{verdict:?}"
            );
            out
        })
        .collect();
    assert_eq!(tables.counted(reason), frames.len() as u64);
    sent
}

proptest! {
    #[test]
    fn what_arrives_is_the_packet_as_it_would_have_arrived_whole(v4 in any::<bool>(), tcp in any::<bool>(), mode in prop_oneof![Just(Mode::Nat), Just(Mode::Dscp), Just(Mode::L2Dsr)], payload in 100_usize..4000, size in 3_usize..180, id in any::<u32>(), swap in any::<prop::sample::Index>()) {
        let protocol = if tcp { 6 } else { 17 };
        let whole = packet(protocol, v4, payload);
        let tables_whole = tables(protocol, mode, v4, v4, |service, _| service.dscp = 7);
        let expected = run(&tables_whole, &whole).1;
        let tables_pieces = tables(protocol, mode, v4, v4, |service, _| service.dscp = 7);
        let mut pieces = fragments(&whole, size * 8, id);
        // Any order behind the first one.
        let rest = pieces.len() - 1;
        if rest > 1 {
            let at = 1 + swap.index(rest);
            pieces.swap(1, at);
        }
        let out = send(&tables_pieces, &pieces, Reason::ToBackend);
        prop_assert_eq!(together(&out), expected);
    }

    #[test]
    fn replies_are_translated_in_pieces(v4 in any::<bool>(), payload in 100_usize..4000, size in 3_usize..180, id in any::<u32>()) {
        let mut tables = tables(17, Mode::Nat, v4, v4, |_, _| {});
        tables.set_route(client(v4).into(), Route::Direct(NextHop { ifindex: 9, destination: CLIENT_MAC, source: LB_MAC, vlan: 0, mtu: 0 }));
        let reply = |source, port| {
            let mut frame = Vec::new();
            builder(source, client(v4), 64).udp(port, 40_000).write(&mut frame, &vec![7; payload]).expect("in memory");
            frame
        };
        let pieces = fragments(&reply(backend(v4), 8080), size * 8, id);
        let out = send(&tables, &pieces, Reason::ToClient);
        let mut expected = reply(vip(v4), 80);
        expected[..12].copy_from_slice(&[CLIENT_MAC, LB_MAC].concat());
        let hops = if v4 { 22 } else { 21 };
        expected[hops] -= 1;
        if v4 {
            let header = etherparse::Ipv4Header::from_slice(&expected[14..]).expect("a header").0;
            expected[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
        }
        prop_assert_eq!(together(&out), expected);
    }
}

#[test]
fn a_tunnel_carries_pieces_and_says_when_one_is_too_large() {
    for v4 in [true, false] {
        let tables = tables(17, Mode::Gue, v4, true, |_, _| {});
        let pieces = fragments(&packet(17, v4, 4000), 1480, 9);
        // The first is told; its like behind it go down without a word (RFC 1122 §3.2.2).
        assert_eq!(run(&tables, &pieces[0]).0, Verdict::Transmit);
        assert_eq!(tables.counted(Reason::Answered), 1);
        assert_eq!(run(&tables, &pieces[1]).0, Verdict::Drop);
        assert_eq!(tables.counted(Reason::TooBig), 1);
        let smaller = fragments(&packet(17, v4, 4000), 1024, 10);
        for piece in &smaller {
            assert_eq!(run(&tables, piece).0, Verdict::Transmit);
        }
        assert_eq!(tables.counted(Reason::ToBackend), smaller.len() as u64);
    }
}

#[test]
fn what_comes_before_its_first_is_dropped_unless_ports_do_not_matter() {
    for v4 in [true, false] {
        let pieces = fragments(&packet(17, v4, 4000), 1024, 11);
        let tracked = tables(17, Mode::L2Dsr, v4, v4, |_, _| {});
        assert_eq!(run(&tracked, &pieces[1]).0, Verdict::Drop);
        assert_eq!(tracked.counted(Reason::FragmentUnknown), 1);
        run(&tracked, &pieces[0]);
        assert_eq!(run(&tracked, &pieces[1]).0, Verdict::Transmit);

        for (policy, hash) in [(flags::FRAGMENTS_L3, 0), (flags::FRAGMENTS_TRACK, 1)] {
            let mut without = tables(17, Mode::L2Dsr, v4, v4, |service, _| {
                service.flags = policy | flags::SOLE;
                service.hash = hash;
            });
            let key = lb_common::tables::Key::new(vip(v4).into(), 17, 0);
            put(&mut without, &key, lb_common::index::Entry::Service(0));
            for piece in pieces.iter().rev() {
                assert_eq!(run(&without, piece).0, Verdict::Transmit);
            }
        }
        let dropped = tables(17, Mode::L2Dsr, v4, v4, |service, _| {
            service.flags = flags::FRAGMENTS_DROP;
        });
        for piece in &pieces {
            assert_eq!(run(&dropped, piece).0, Verdict::Drop);
        }
        assert_eq!(dropped.counted(Reason::Fragment), 1);
        assert_eq!(
            dropped.counted(Reason::FragmentUnknown),
            pieces.len() as u64 - 1
        );
    }
}

#[test]
fn a_packet_is_forgotten_after_fifteen_seconds() {
    let mut tables = tables(17, Mode::L2Dsr, true, true, |_, _| {});
    let pieces = fragments(&packet(17, true, 4000), 1024, 12);
    tables.boot_ns = 1 << 60;
    run(&tables, &pieces[0]);
    tables.boot_ns += 15_000_000_000;
    assert_eq!(run(&tables, &pieces[1]).0, Verdict::Transmit);
    tables.boot_ns += 200_000_000;
    assert_eq!(run(&tables, &pieces[1]).0, Verdict::Drop);
}

#[test]
fn a_full_line_forgets_its_oldest_and_nothing_is_taken_for_another() {
    let tables = tables(17, Mode::Nat, true, true, |_, _| {});
    let whole = packet(17, true, 3000);
    let known = 20_000_u32;
    for id in 0..known {
        run(&tables, &fragments(&whole, 1024, id)[0]);
    }
    let kept = (0..known)
        .filter(|id| run(&tables, &fragments(&whole, 1024, *id)[1]).0 == Verdict::Transmit)
        .count();
    // 16,384 places: most of the last ones are there, and no more than fit.
    assert!((12_000..=16_384).contains(&kept), "{kept}");
    assert_eq!(
        run(&tables, &fragments(&whole, 1024, 65_000)[1]).0,
        Verdict::Drop
    );
}
