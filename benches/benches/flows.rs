//! What it costs to go through the tables of flows from user space: listing a million flows, as records and as lines, and counting them.
//!
//! `cargo bench -p benches --bench flows`

use std::{hint::black_box, net::IpAddr, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb_common::{
    address::Address,
    flow_state::{State, Timeouts},
    flow_table::{
        Flags, Flow4, Flow6, FlowKey, HeapMemory, Insert, Layout, Table, Ticks, Value, WhenFull,
    },
    hash::mix,
    rewrite::Endpoint,
    tracking::Tracker,
};
use lb_core::{
    config,
    flows::{
        Counter, Directory, Fate, Filter, FlowTables, Judge, Known, Lines, Pace, Rounds, Walk,
    },
    model::{Backend, BackendKey, Protocol, ServiceKey, TunnelSources},
    plan::{self, BackendNow, Capacity, Counted, wanted},
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

/// All flows are of a service that tracks them, and stay; a slot in sixteen is in change.
fn layout() -> plan::Layout {
    let backends = (1..=BACKENDS).map(|number| format!("{{ address = \"10.0.0.{number}\" }}"));
    let backends = backends.collect::<Vec<_>>().join(", ");
    let text = format!(
        "node.n.interfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.10\"\nport = 80\nmode = \"nat\"\n\
         tracking = \"full\"\ntimeouts = {{ established_s = 7200 }}\nbackend = [{backends}]\n"
    );
    let loaded = config::parse("bench", &text).unwrap_or_else(|report| panic!("{report}"));
    let service = &loaded.model.services[0];
    let now = |serves| {
        move |backend: &Backend| BackendNow {
            serves: serves || backend.address != IpAddr::from([10, 0, 0, 1]),
            ..BackendNow::default()
        }
    };
    let mut layout = plan::Layout::new(Capacity {
        cells: 1024,
        services: 8,
        slots: 1 << 18,
        backends: 64,
        flow_sets: 1,
        half_open_sets: 1,
    });
    for serves in [true, false] {
        let wanted = wanted(service, 1, &TunnelSources::default(), now(serves));
        let planned = layout.set(Duration::ZERO, &wanted);
        planned.unwrap_or_else(|error| panic!("{error}"));
    }
    layout
}

struct Moment<'l> {
    layout: &'l plan::Layout,
    counted: Counted,
}

impl Judge for Moment<'_> {
    fn record(&mut self, flow: &FlowKey, value: Value) -> Fate {
        let now = Duration::from_secs(900);
        self.layout
            .judge(now, Ticks(900), flow, value, &mut self.counted)
    }

    fn timeouts(&self, flow: &FlowKey) -> Option<Timeouts> {
        self.layout.timeouts(flow)
    }

    fn stays(&mut self, flow: &FlowKey, value: Value) {
        self.layout.stays(flow, value, &mut self.counted);
    }
}

/// A whole round, which the daemon spreads over 15 seconds.
fn ageing(criterion: &mut Criterion) {
    let (tables, mut layout) = (tables(), layout());
    let mut group = criterion.benchmark_group("1M flows");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(FLOWS));
    group.bench_function("round of ageing", |bencher| {
        bencher.iter(|| {
            let mut rounds = Rounds::new(Duration::ZERO);
            let mut moment = Moment {
                layout: &layout,
                counted: Counted::default(),
            };
            let pace = Pace {
                round: Duration::from_secs(15),
                most: 16_384,
            };
            let (mut now, mut removed) = (Duration::ZERO, 0);
            let began = loop {
                now += Duration::from_millis(50);
                let progress = rounds.tick(now, Ticks(900), pace, &tables, &mut moment);
                removed += progress.removed;
                if let Some(began) = progress.finished {
                    break began;
                }
            };
            assert_eq!(removed, 0);
            let counted = moment.counted;
            layout.counted(began, counted)
        });
    });
    group.finish();
}

criterion_group!(benches, listing, ageing);
criterion_main!(benches);
