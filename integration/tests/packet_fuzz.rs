//! What strangers send: a million packets of every kind, mutated, through the host's build, and a hundred thousand through the loaded program,
//! which has to agree on every one.
//!
//! `FUTAGO_FUZZ_SEED`, `FUTAGO_FUZZ_HOST` and `FUTAGO_FUZZ_KERNEL` repeat a run or lengthen it; every packet has a seed of its own, which a
//! failure prints: `FUTAGO_FUZZ_SEED=<that> FUTAGO_FUZZ_HOST=1 FUTAGO_FUZZ_KERNEL=1` is that packet alone.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use integration::packet::{
    dissect::{Dissected, dissect},
    frame::{ICMP, ICMP6, Packet, TCP, UDP},
    mutate::{Sample, sample},
    path::{Outcome, heap_world, on_both, on_host, with_world},
    random::{Random, setting},
    world::{DSCP, Family, Vip, tunnel_source},
};
use lb_common::reason::{Class, Reason};
use lb_userspace::dataplane::Action;

const SEED: u64 = 20_260_101;

/// Runs `check` on `count` samples; the number of outcomes by reason.
fn fuzz(count: u64, mut check: impl FnMut(&Sample) -> Outcome) -> BTreeMap<&'static str, u64> {
    let seed = setting("FUTAGO_FUZZ_SEED", SEED);
    let mut outcomes = BTreeMap::new();
    for number in 0..count {
        let seed = seed.wrapping_add(number);
        let sample = sample(&mut Random::new(seed));
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let outcome = check(&sample);
            judge(&sample, &outcome);
            outcome
        }));
        let outcome = outcome.unwrap_or_else(|panic| {
            eprintln!("FUTAGO_FUZZ_SEED={seed}: {sample:02x?}");
            std::panic::resume_unwind(panic)
        });
        *outcomes.entry(outcome.reason.label()).or_insert(0) += 1;
    }
    println!("{outcomes:#?}");
    outcomes
}

/// What holds for every packet, whatever it is.
fn judge(sample: &Sample, outcome: &Outcome) {
    let class = match outcome.action {
        Action::Aborted => panic!("aborted"),
        Action::Drop => Class::Dropped,
        Action::Pass => Class::Passed,
        Action::Transmit | Action::Redirect => Class::Forwarded,
    };
    if outcome.reason.class() == Class::Answered {
        assert_eq!(outcome.action, Action::Transmit);
        return answers(sample, &outcome.frame);
    }
    assert_eq!(class, outcome.reason.class(), "{:?}", outcome.reason);
    assert_ne!(outcome.reason, Reason::TableDefect);
    assert_eq!(
        outcome.backend.is_some(),
        outcome.reason == Reason::ToBackend
    );
    match (class, outcome.reason) {
        (Class::Passed, Reason::ResolvingClient) => {
            assert_eq!(outcome.frame.len(), sample.frame.len());
        }
        (Class::Passed | Class::Dropped, _) => assert_eq!(outcome.frame, sample.frame, "untouched"),
        (Class::Forwarded | Class::Answered, _) => {}
    }
    let rewritten = class == Class::Forwarded || outcome.reason == Reason::ResolvingClient;
    if !rewritten {
        return;
    }
    // More than a tag was added.
    let inside = (outcome.frame.len() > sample.frame.len() + 4)
        .then(|| decapsulated(&outcome.frame))
        .flatten();
    let tunnel = inside.is_some();
    let outcome = &Outcome {
        frame: inside.unwrap_or_else(|| outcome.frame.clone()),
        ..outcome.clone()
    };
    match (dissect(&sample.frame), dissect(&outcome.frame)) {
        (Ok(before), Ok(after)) => alike(&before, &after, tunnel),
        (Ok(before), Err(error)) => panic!("was {before:?}, and then {error}"),
        // Wrong before and right afterwards would be a checksum made up.
        (Err(error), Ok(after)) if error.contains("checksum") => {
            panic!("{error}, and then {after:?}")
        }
        (Err(_), _) => {}
    }
    if let Some(packet) = sample
        .valid
        .as_ref()
        .filter(|packet| packet.fragment.is_none() && ![ICMP, ICMP6].contains(&packet.protocol))
    {
        assert!([TCP, UDP].contains(&packet.protocol), "{packet:?}");
        assert_eq!(
            outcome.frame,
            rebuilt(packet, outcome).bytes(),
            "{packet:?}"
        );
    }
}

/// An answer goes back to the sender, from whom it was sent to, and its checksums are right if the packet's were.
fn answers(sample: &Sample, answer: &[u8]) {
    match (dissect(&sample.frame), dissect(answer)) {
        (Ok(before), Ok(after)) => {
            assert_eq!(after.macs, [before.macs[1], before.macs[0]]);
            assert_eq!(after.vlans, before.vlans);
            assert_eq!(after.addresses, [before.addresses[1], before.addresses[0]]);
        }
        (Ok(before), Err(error)) => panic!("was {before:?}, and the answer {error}"),
        (Err(_), _) => {}
    }
}

/// What no way through the packet path may change.
fn alike(before: &Dissected, after: &Dissected, tunnel: bool) {
    if before.icmp || before.ports.is_none() {
        // An error about a flow: what it quotes is translated with it. A fragment: the first one has ports and a checksum.
        assert_eq!(after.icmp, before.icmp);
        assert_eq!(after.payload.len(), before.payload.len());
    } else {
        assert_eq!(after.payload, before.payload);
    }
    let kept = |end: usize| {
        after.addresses[end] == before.addresses[end]
            && after.ports.map(|ports| ports[end]) == before.ports.map(|ports| ports[end])
    };
    assert!(kept(0) || kept(1), "one end stays: {before:?} {after:?}");
    assert!(after.hops == before.hops || after.hops == before.hops - 1);
    let translated = !(kept(0) && kept(1));
    assert!(!(tunnel && translated));
    assert_eq!(translated || tunnel, after.hops != before.hops);
}

/// The frame with what a tunnel of the balancer has put before the packet taken away; `None` if it did not leave through one.
fn decapsulated(frame: &[u8]) -> Option<Vec<u8>> {
    let network = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let (header, protocol, source) = if frame[network] >> 4 == 4 {
        let source: [u8; 4] = frame[network + 12..][..4].try_into().ok()?;
        (20, frame[network + 9], IpAddr::from(source))
    } else {
        let source: [u8; 16] = frame[network + 8..][..16].try_into().ok()?;
        (40, frame[network + 6], IpAddr::from(source))
    };
    if source != tunnel_source(source) {
        return None;
    }
    let shim = match protocol {
        4 | 41 => 0,
        47 => 4,
        UDP => 8,
        _ => return None,
    };
    let inner = &frame[network + header + shim..];
    let ethertype: [u8; 2] = if inner[0] >> 4 == 4 {
        [8, 0]
    } else {
        [0x86, 0xdd]
    };
    Some([&frame[..network - 2], &ethertype, inner].concat())
}

/// The packet with the ends and the link header that it left with, written anew.
fn rebuilt(packet: &Packet, outcome: &Outcome) -> Packet {
    let seen = dissect(&outcome.frame).expect("dissected before");
    let priority = packet
        .tags
        .first()
        .map_or(0, |(_, control)| control & 0xf000);
    let tags = match outcome.reason {
        Reason::ResolvingClient => packet.tags.clone(),
        _ => seen
            .vlans
            .iter()
            .map(|vlan| (0x8100, priority | vlan))
            .collect(),
    };
    let coded = [Family::V4, Family::V6]
        .iter()
        .any(|family| packet.addresses[1] == Vip::Dscp.address(*family));
    Packet {
        tos: if coded {
            packet.tos & 3 | DSCP << 2
        } else {
            packet.tos
        },
        macs: seen.macs,
        tags,
        addresses: seen.addresses,
        ports: seen.ports.expect("nothing else is forwarded"),
        hops: seen.hops,
        ..packet.clone()
    }
}

/// The fuzzer is worth nothing if its packets do not get far: every way out has to be taken, but the one that is a defect and those that
/// these tables do not have.
fn reaches_everything(outcomes: &BTreeMap<&str, u64>, count: u64) {
    if count < 10_000 {
        return;
    }
    for reason in Reason::ALL {
        let unreachable = matches!(
            reason,
            Reason::TableDefect
                | Reason::NoHeadroom
                | Reason::NoTunnelSource
                | Reason::TooBig
                | Reason::TtlExpired
                | Reason::EchoAnswered
                | Reason::EchoReply
                | Reason::LeaseExpired
                | Reason::BackendGone
                | Reason::ConnectionReset
                | Reason::Contended
        );
        let seen = outcomes.get(reason.label()).copied().unwrap_or(0);
        assert!(
            unreachable || seen * 5_000 >= count,
            "{}: {seen}",
            reason.label()
        );
    }
}

#[test]
fn nothing_panics_and_all_that_is_forwarded_is_in_order() {
    let count = setting("FUTAGO_FUZZ_HOST", 1_000_000);
    let tables = heap_world();
    let outcomes = fuzz(count, |sample| {
        on_host(&tables, &sample.frame, sample.ingress)
    });
    reaches_everything(&outcomes, count);
}

#[test]
fn both_builds_agree() {
    let count = setting("FUTAGO_FUZZ_KERNEL", 100_000);
    let outcomes = with_world(|dataplane| {
        fuzz(count, |sample| {
            on_both(dataplane, &sample.frame, sample.ingress)
        })
    });
    reaches_everything(&outcomes, count);
}
