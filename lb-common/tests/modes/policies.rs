//! Refusals, impossible senders, clamped segments, and hash policies.

use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};
use lb_common::{
    forward::Verdict,
    mss,
    reason::Reason,
    tables::{HashPolicy, Mode, Slot, flags},
};
use proptest::prelude::*;

use crate::common::*;

/// The TCP header of a frame whose checksum is right.
fn tcp(frame: &[u8]) -> etherparse::TcpHeader {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("not TCP");
    };
    let checksum = match packet.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            tcp.calc_checksum_ipv4(header.source, header.destination)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            tcp.calc_checksum_ipv6(header.source, header.destination)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(tcp.checksum(), checksum.expect("short"));
    tcp.to_header()
}

proptest! {
    /// RFC 9293 §3.10.7.1.
    #[test]
    fn a_closed_port_resets(v4 in any::<bool>(), sequence in any::<u32>(), acknowledged in proptest::option::of(any::<u32>()), syn in any::<bool>(), fin in any::<bool>(), payload in 0_usize..300, options in any::<bool>()) {
        let tables = tables(6, Mode::L2Dsr, v4, v4, |service, _| service.flags = flags::UNMATCHED_REJECT);
        let mut step = builder(client(v4), vip(v4), 64).tcp(40_000, 81, sequence, 1024);
        if options {
            step = step.options(&[TcpOptionElement::MaximumSegmentSize(1460)]).expect("fits");
        }
        if syn {
            step = step.syn();
        }
        if fin {
            step = step.fin();
        }
        if let Some(number) = acknowledged {
            step = step.ack(number);
        }
        let mut frame = Vec::new();
        step.write(&mut frame, &vec![1; payload]).expect("in memory");
        let (verdict, out) = run(&tables, &frame);
        prop_assert_eq!((verdict, reason(&tables)), (Verdict::Transmit, Reason::Rejected));
        let answer = tcp(&out);
        prop_assert_eq!(out.len(), if v4 { 54 } else { 74 });
        prop_assert_eq!((answer.source_port, answer.destination_port), (81, 40_000));
        prop_assert!(answer.rst && !answer.syn && !answer.fin);
        match acknowledged {
            Some(number) => prop_assert_eq!((answer.ack, answer.sequence_number), (false, number)),
            None => {
                let length = payload as u32 + u32::from(syn) + u32::from(fin);
                prop_assert_eq!((answer.ack, answer.sequence_number), (true, 0));
                prop_assert_eq!(answer.acknowledgment_number, sequence.wrapping_add(length));
            }
        }
    }

    #[test]
    fn a_syn_asks_for_no_more_than_it_may(v4 in any::<bool>(), mode in prop_oneof![Just(Mode::Nat), Just(Mode::L2Dsr), Just(Mode::Gue)], asks in any::<u16>(), auto in any::<bool>(), before in 0_usize..4, ack in any::<bool>()) {
        let tables = tables(6, mode, v4, v4, |service, _| service.mss = if auto { mss::AUTO } else { 1300 });
        // Padding puts the option at even and odd offsets.
        let mut options = vec![1; before];
        options.extend([2, 4]);
        options.extend(asks.to_be_bytes());
        options.resize(12, 0);
        let mut step = builder(client(v4), vip(v4), 64).tcp(40_000, 80, 7, 1024).syn();
        if ack {
            step = step.ack(9);
        }
        let mut frame = Vec::new();
        step.options_raw(&options).expect("fits").write(&mut frame, &[]).expect("in memory");
        let (_, out) = run(&tables, &frame);
        prop_assert_eq!(reason(&tables), Reason::ToBackend);
        let inner = match mode {
            Mode::Gue => [&out[..14], &out[14 + if v4 { 28 } else { 48 }..]].concat(),
            _ => out,
        };
        let headers = 20 + if v4 { 20 } else { 40 };
        let limit = match (auto, mode) {
            (false, _) => 1300,
            (true, Mode::Gue) => 1500 - headers - (headers - 20) - 8,
            (true, _) => 1500 - headers,
        };
        let seen = tcp(&inner);
        let seen: Vec<_> = seen.options_iterator().filter_map(Result::ok).filter_map(|option| match option {
            TcpOptionElement::MaximumSegmentSize(size) => Some(size),
            _ => None,
        }).collect();
        prop_assert_eq!(seen, vec![asks.min(limit)]);
    }
}

#[test]
fn a_reset_is_not_answered() {
    let tables = tables(6, Mode::L2Dsr, true, true, |service, _| {
        service.flags = flags::UNMATCHED_REJECT;
    });
    let mut frame = Vec::new();
    builder(client(true), vip(true), 64)
        .tcp(40_000, 81, 7, 1024)
        .rst()
        .write(&mut frame, &[])
        .expect("in memory");
    let (verdict, out) = run(&tables, &frame);
    assert_eq!(
        (verdict, reason(&tables)),
        (Verdict::Drop, Reason::UnmatchedDropped)
    );
    assert_eq!(out, frame);
}

#[test]
fn senders_that_no_client_can_be_are_dropped() {
    for (source, v4) in [
        ("0.0.0.0", true),
        ("127.0.0.1", true),
        ("224.0.0.1", true),
        ("255.255.255.255", true),
        ("192.0.2.10", true),
        ("::", false),
        ("::1", false),
        ("ff02::1", false),
        ("2001:db8::10", false),
    ] {
        for mode in [Mode::L2Dsr, Mode::Nat, Mode::Ipip] {
            let tables = tables(17, mode, v4, v4, |_, _| {});
            let mut frame = Vec::new();
            builder(ip(source), vip(v4), 64)
                .udp(80, 80)
                .write(&mut frame, &[1])
                .expect("in memory");
            let (verdict, out) = run(&tables, &frame);
            assert_eq!(
                (verdict, reason(&tables)),
                (Verdict::Drop, Reason::Martian),
                "{source}"
            );
            assert_eq!(out, frame);
        }
    }
}

#[test]
fn sctp_is_carried_with_its_checksum_untouched() {
    for v4 in [true, false] {
        for mode in [Mode::L2Dsr, Mode::Nat, Mode::Dscp] {
            let tables = tables(132, mode, v4, v4, |_, backend| {
                let state = lb_common::tables::BackendState {
                    port: 80,
                    ..backend.state()
                };
                backend.state = state.pack();
            });
            let mut frame = packet(17, v4, 0);
            frame.truncate(if v4 { 34 } else { 54 });
            let common = [
                0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0xca, 0xfe, 0xba, 0xbe, 9, 9, 9, 9,
            ];
            frame.extend(common);
            if v4 {
                frame[16..18].copy_from_slice(&36_u16.to_be_bytes());
                frame[23] = 132;
                let header = etherparse::Ipv4Header::from_slice(&frame[14..])
                    .expect("a header")
                    .0;
                frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
            } else {
                frame[18..20].copy_from_slice(&16_u16.to_be_bytes());
                frame[20] = 132;
            }
            let (_, out) = run(&tables, &frame);
            assert_eq!(reason(&tables), Reason::ToBackend, "{mode:?}");
            assert_eq!(out[out.len() - 16..], common);
        }
    }
}

/// Which of two backends each of `frames` reaches.
fn chosen(hash: HashPolicy, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut tables = tables(17, Mode::L2Dsr, true, true, |service, _| {
        service.hash = hash as u8;
        service.backend_count = 2;
        service.slot_count = 251;
    });
    let mut other = tables.backends[1];
    for next_hop in &mut other.next_hops {
        next_hop.destination[5] = 99;
    }
    tables.backends = vec![tables.backends[0], tables.backends[1], other].into();
    tables.slots = (0..251).map(|n| Slot::settled(1 + n % 2).pack()).collect();
    frames
        .iter()
        .map(|frame| run(&tables, frame).1[5])
        .collect()
}

fn from(port: u16, mac: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    builder(client(true), vip(true), 64)
        .udp(port, 80)
        .write(&mut frame, &[1; 2000])
        .expect("in memory");
    frame[11] = mac;
    frame
}

fn is_mixed(chosen: &[u8]) -> bool {
    chosen.iter().any(|backend| *backend != chosen[0])
}

#[test]
fn each_policy_looks_at_what_it_says() {
    let ports: Vec<_> = (0..100).map(|port| from(port, 1)).collect();
    let macs: Vec<_> = (0..100).map(|mac| from(9, mac)).collect();
    let same: Vec<_> = (0..100).map(|_| from(9, 1)).collect();
    for (policy, by_port, by_mac, by_nothing) in [
        (HashPolicy::L3L4, true, false, false),
        (HashPolicy::L3, false, false, false),
        (HashPolicy::L2L3, false, true, false),
        (HashPolicy::PerPacket, true, true, true),
    ] {
        assert_eq!(is_mixed(&chosen(policy, &ports)), by_port, "{policy:?}");
        assert_eq!(is_mixed(&chosen(policy, &macs)), by_mac, "{policy:?}");
        assert_eq!(is_mixed(&chosen(policy, &same)), by_nothing, "{policy:?}");
    }
}

#[test]
fn the_pieces_of_a_packet_meet_again_whatever_the_policy() {
    for id in 0..20 {
        let pieces = crate::fragments::fragments(&from(9, 1), 512, id);
        for policy in [HashPolicy::PerPacket, HashPolicy::L2L3, HashPolicy::L3L4] {
            assert!(!is_mixed(&chosen(policy, &pieces)), "{policy:?}");
        }
    }
}
