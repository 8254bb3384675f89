//! What it costs to go through the tables of flows from user space: listing a million flows, as records and as lines, and counting them.
//!
//! `cargo bench -p benches --bench flows`

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb_common::{
    address::Address,
    flow_state::State,
    flow_table::{
        Flags, Flow4, Flow6, FlowKey, HeapMemory, Insert, Layout, Table, Ticks, Value, WhenFull,
    },
    hash::mix,
    rewrite::Endpoint,
    tracking::Tracker,
};
use lb_core::{
    flows::{Counter, Directory, Filter, FlowTables, Known, Lines, Walk},
    model::{BackendKey, Protocol, ServiceKey},
};

const FLOWS: u64 = 1_000_000;
/// Twice as many entries as flows.
const SETS: u32 = 1 << 17;
const BACKENDS: u16 = 16;
const PORTION: u32 = 8192;

fn table<L: Layout>(sets: u32) -> Table<L, HeapMemory> {
    Table::new(HeapMemory::new::<L>(sets), sets - 1, 7)
}

/// Flows of random clients to one service.
fn tables() -> FlowTables<HeapMemory> {
    let tables = FlowTables {
        ipv4: Tracker {
            flows: table::<Flow4>(SETS),
            half_open: table::<Flow4>(1),
        },
        ipv6: Tracker {
            flows: table::<Flow6>(1),
            half_open: table::<Flow6>(1),
        },
        snat_ipv4: None,
        snat_ipv6: None,
    };
    let end = |address, port| Endpoint {
        address: Address::from_v4(address),
        port,
    };
    let (mut number, mut flows) = (0, 0);
    // In a table that is half full, a set in a thousand has no room.
    while flows < FLOWS {
        number += 1;
        let random = mix(number);
        let key = FlowKey {
            source: end((random as u32).to_ne_bytes(), (random >> 32) as u16),
            destination: end([192, 0, 2, 10], 80),
            protocol: 6,
        };
        let value = Value {
            seen: Ticks(number as u32 % 900),
            backend: 1 + number as u16 % BACKENDS,
            state: State::Established as u8,
            flags: Flags::default(),
        };
        let inserted = tables
            .ipv4
            .flows
            .insert(&key.v4(), value, &[], WhenFull::Refuse);
        flows += u64::from(matches!(inserted, Insert::Inserted(_)));
    }
    tables
}

fn directory() -> Directory {
    let service = Known {
        name: "web".to_owned(),
        key: ServiceKey {
            vip: [192, 0, 2, 10].into(),
            protocol: Protocol::Tcp,
            port: 80,
        },
        backends: (1..=BACKENDS)
            .map(|number| {
                Some(BackendKey {
                    address: [10, 0, 0, number as u8].into(),
                    port: 8080,
                })
            })
            .collect(),
    };
    Directory::new(vec![service], Filter::default())
}

fn listing(criterion: &mut Criterion) {
    let (tables, directory) = (tables(), directory());
    let mut group = criterion.benchmark_group("1M flows");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(FLOWS));
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let (mut sum, mut walk) = (0_u64, Walk::default());
            while tables.walk(&mut walk, PORTION, |flow| {
                sum += u64::from(black_box(flow).value.backend);
            }) {}
            sum
        });
    });
    group.bench_function("lines of JSON", |bencher| {
        bencher.iter(|| {
            let lines = Lines::new(&directory);
            let (mut text, mut walk, mut bytes) = (String::new(), Walk::default(), 0);
            while tables.walk(&mut walk, PORTION, |flow| {
                lines.push(flow, Ticks(900), &mut text);
            }) {
                bytes += black_box(&text).len();
                text.clear();
            }
            bytes
        });
    });
    group.bench_function("count", |bencher| {
        bencher.iter(|| {
            let (mut counter, mut walk) = (Counter::new(&directory), Walk::default());
            while tables.walk(&mut walk, PORTION, |flow| counter.add(flow)) {}
            counter.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, listing);
criterion_main!(benches);
