//! What `nat` promises a client: it speaks to the service and the service answers, whatever is said; and every checksum on the way is right.

use integration::packet::{
    dissect::dissect,
    frame::{Packet, TCP, UDP},
    path::{Outcome, heap_world, on_both, on_host, with_world},
    random::setting,
    world::{self, BACK, FRONT, FRONT_MAC, Family, PORT, Vip, mac},
};
use lb_common::reason::Reason;
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

/// A conversation of two packets.
#[derive(Clone, Debug)]
struct Exchange {
    vip: Vip,
    request: Packet,
    /// Of the backend's answer.
    payload: Vec<u8>,
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let kind = (
        prop_oneof![Just(Family::V4), Just(Family::V6)],
        prop_oneof![Just(TCP), Just(UDP)],
        prop_oneof![Just(Vip::Nat), Just(Vip::TaggedNat)],
    );
    let payload = || proptest::collection::vec(any::<u8>(), 0..600);
    let rest = (
        any::<u128>(),
        any::<u16>(),
        3_u8..,
        any::<u8>(),
        any::<bool>(),
    );
    let tags = proptest::collection::vec(any::<u16>(), 0..3);
    (kind, rest, tags, payload(), payload()).prop_map(
        |((family, protocol, vip), (client, port, hops, tos, sum), tags, said, payload)| {
            let client = world::anywhere(family, client);
            let request = Packet {
                hops,
                tos,
                checksum: sum || protocol == TCP,
                tags: tags.into_iter().map(|control| (0x8100, control)).collect(),
                payload: said,
                ..Packet::new(protocol, (client, port), (vip.address(family), PORT))
            };
            Exchange {
                vip,
                request,
                payload,
            }
        },
    )
}

fn runner(variable: &str, cases: u64) -> TestRunner {
    let seed = setting("FUTAGO_PROPERTY_SEED", 1);
    TestRunner::new(Config {
        cases: setting(variable, cases) as u32,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    })
}

/// Both directions, through `send(frame, ingress)`.
fn check(
    Exchange {
        vip,
        request,
        payload,
    }: Exchange,
    send: impl Fn(&[u8], u32) -> Outcome,
) -> Result<(), TestCaseError> {
    let there = send(&request.bytes(), FRONT);
    prop_assert_eq!(there.reason, Reason::ToBackend);
    let at_backend = dissect(&there.frame).map_err(TestCaseError::fail)?;
    prop_assert_eq!(&at_backend.payload, &request.payload);
    prop_assert_eq!(at_backend.addresses[0], request.addresses[0]);
    let ports = at_backend.ports.expect("TCP or UDP");
    prop_assert_eq!(ports[0], request.ports[0]);

    // The backend answers whom it heard.
    let answer = Packet {
        hops: at_backend.hops,
        tos: request.tos,
        checksum: request.checksum,
        payload,
        ..Packet::new(
            request.protocol,
            (at_backend.addresses[1], ports[1]),
            (at_backend.addresses[0], ports[0]),
        )
    };
    let back = send(&answer.bytes(), BACK);
    prop_assert_eq!(back.reason, Reason::ToClient);
    let at_client = dissect(&back.frame).map_err(TestCaseError::fail)?;
    prop_assert_eq!(&at_client.payload, &answer.payload);
    prop_assert_eq!(at_client.ports, Some([PORT, request.ports[0]]));
    let family = if request.addresses[0].is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    prop_assert_eq!(
        at_client.addresses,
        [vip.address(family), request.addresses[0]]
    );

    // An echo is, byte by byte, the request with its ends swapped and two hops less.
    let echo = Packet {
        payload: request.payload.clone(),
        ..answer
    };
    let back = send(&echo.bytes(), BACK);
    let expected = Packet {
        macs: [mac(1), FRONT_MAC],
        tags: Vec::new(),
        hops: request.hops - 2,
        ..request.reversed()
    };
    prop_assert_eq!(back.frame, expected.bytes());
    Ok(())
}

#[test]
fn there_and_back_is_identity_on_the_host() {
    let tables = heap_world();
    runner("FUTAGO_PROPERTY_HOST", 5_000)
        .run(&exchange(), |exchange| {
            check(exchange, |frame, ingress| on_host(&tables, frame, ingress))
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn there_and_back_is_identity_in_the_kernel() {
    with_world(|dataplane| {
        runner("FUTAGO_PROPERTY_KERNEL", 1_000)
            .run(&exchange(), |exchange| {
                check(exchange, |frame, ingress| {
                    on_both(dataplane, frame, ingress)
                })
            })
            .unwrap_or_else(|error| panic!("{error}"));
    });
}
