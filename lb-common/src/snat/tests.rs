use std::collections::HashMap;

use super::*;
use crate::{flow_table::HeapMemory, wire::PROTOCOL_TCP};

const BACKENDS: [Endpoint; 2] = [
    Endpoint {
        address: Address::from_v4([10, 1, 0, 1]),
        port: 80,
    },
    Endpoint {
        address: Address::from_v4([10, 1, 0, 2]),
        port: 80,
    },
];

fn table<L: Layout>(sets: u32) -> Table<L, HeapMemory> {
    Table::new(HeapMemory::new::<L>(sets), sets - 1, 0x1234)
}

fn pool(ports: Ports) -> Pool<impl Fn(u32) -> Option<Address>> {
    Pool {
        ports,
        addresses: 2,
        address: |number| Some(Address::from_v4([10, 2, 0, number as u8])),
    }
}

fn flow(client: u8, port: u16) -> FlowKey {
    FlowKey {
        source: Endpoint {
            address: Address::from_v4([192, 0, 2, client]),
            port,
        },
        destination: Endpoint {
            address: Address::from_v4([203, 0, 113, 1]),
            port: 80,
        },
        protocol: PROTOCOL_TCP,
    }
}

const ALL: Ports = Ports {
    first: 1024,
    count: 64_512,
};

#[test]
fn the_nodes_share_the_ports_without_overlap() {
    let (a, b) = (ALL.share(0), ALL.share(1));
    assert_eq!(a.first, ALL.first);
    assert_eq!(a.first + a.count, b.first);
    assert_eq!(u32::from(b.first) + u32::from(b.count), 65_536);
}

#[test]
fn sixty_thousand_connections_of_four_clients_do_not_collide_and_leave_nothing() {
    let table = table::<Nat4>(32_768);
    let pool = pool(ALL.share(0));
    let mut taken = HashMap::new();
    for number in 0..60_000_u32 {
        let flow = flow((number % 4) as u8, 1024 + (number / 4) as u16);
        let backend = BACKENDS[(number / 2 % 2) as usize];
        let Allocation::New(translation) =
            allocate(&table, &flow, backend, &pool, Value::default())
        else {
            panic!("connection {number} got no port");
        };
        assert_eq!(translation.destination, backend);
        let entry = table.lookup(&Nat4::key(&flow)).expect("it is in");
        assert_eq!(Nat4::translation(entry.extra), translation);
        assert!(entry.value.flags.has(Flags::FROM_CLIENT));
        let answer = translation.answered_by(PROTOCOL_TCP);
        assert!(
            taken.insert(Nat4::key(&answer), flow).is_none(),
            "{translation:?} was given out twice"
        );
    }
    assert_eq!(table.count(), 120_000);
    for (answer, flow) in &taken {
        let back = table.lookup(answer).expect("the server's entry");
        let Translation {
            source,
            destination,
        } = Nat4::translation(back.extra);
        assert_eq!((source, destination), (flow.destination, flow.source));
        let forth = Nat4::translation(back.extra).answered_by(PROTOCOL_TCP);
        let entry = table.lookup(&Nat4::key(&forth)).expect("the client's");
        assert!(entry.remove() && back.remove());
    }
    assert_eq!(table.count(), 0);
}

#[test]
fn the_whole_range_serves_each_backend_and_its_end_is_an_outcome() {
    let ports = Ports {
        first: 40_000,
        count: 50,
    };
    let table = table::<Nat4>(64);
    let pool = pool(ports);
    // Each backend has clients of its own: a client's connection keeps the port that it has.
    for (client, backend) in (1..).zip(BACKENDS) {
        let given = (0..400)
            .filter(|&port| {
                let outcome = allocate(
                    &table,
                    &flow(client, port),
                    backend,
                    &pool,
                    Value::default(),
                );
                matches!(outcome, Allocation::New(_))
            })
            .count();
        assert_eq!(given, 100, "two addresses, 50 ports");
    }
    assert!(matches!(
        allocate(&table, &flow(3, 1), BACKENDS[0], &pool, Value::default()),
        Allocation::Exhausted
    ));
}

#[test]
fn a_port_that_is_in_time_wait_is_not_given_out() {
    let one = Ports {
        first: 5000,
        count: 1,
    };
    let table = table::<Nat4>(4);
    let pool = Pool {
        addresses: 1,
        ..pool(one)
    };
    let first = flow(1, 1);
    let Allocation::New(translation) =
        allocate(&table, &first, BACKENDS[0], &pool, Value::default())
    else {
        panic!("the only port is free");
    };
    let entry = table.lookup(&Nat4::key(&first)).expect("it is in");
    let answer = Nat4::key(&translation.answered_by(PROTOCOL_TCP));
    // The connection is over, the client's entry has gone, the server's waits.
    assert!(entry.remove());
    let second = flow(1, 2);
    assert!(matches!(
        allocate(&table, &second, BACKENDS[0], &pool, Value::default()),
        Allocation::Exhausted
    ));
    assert!(table.lookup(&answer).expect("it waits").remove());
    assert!(matches!(
        allocate(&table, &second, BACKENDS[0], &pool, Value::default()),
        Allocation::New(_)
    ));
}

#[test]
fn a_full_table_gives_the_port_back() {
    // One set, and the client's entries fill it but for one.
    let table = table::<Nat4>(1);
    let pool = pool(ALL);
    for port in 0..15 {
        let key = Nat4::key(&flow(9, port));
        assert!(matches!(
            table.insert(&key, Value::default(), &[0; 2], WhenFull::Refuse),
            Insert::Inserted(_)
        ));
    }
    assert!(matches!(
        allocate(&table, &flow(1, 1), BACKENDS[0], &pool, Value::default()),
        Allocation::Full
    ));
    assert_eq!(table.count(), 15);
}

#[test]
fn ipv6_keys_and_translations_survive_the_words() {
    let at = |text: &str, port| Endpoint {
        address: text
            .parse::<core::net::IpAddr>()
            .expect("a literal address")
            .into(),
        port,
    };
    let key = FlowKey {
        source: at("2001:db8::1", 1),
        destination: at("fd00::2", 65_535),
        protocol: 17,
    };
    assert_eq!(Nat6::flow_key(Nat6::key(&key)), key);
    let translation = Translation {
        source: key.source,
        destination: key.destination,
    };
    assert_eq!(Nat6::translation(Nat6::extra(&translation)), translation);
    let v4 = flow(7, 1234);
    assert_eq!(Nat4::flow_key(Nat4::key(&v4)), v4);
}
