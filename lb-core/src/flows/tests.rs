//! Listing and counting over real tables.

use core::{net::IpAddr, time::Duration};

use lb_common::{
    address::Address,
    flow_state::{State, Timeouts},
    flow_table::{
        Flags, Flow4, Flow6, FlowKey, HeapMemory, Insert, Layout, Nat4, Table, Ticks, Value,
        WhenFull,
    },
    rewrite::Endpoint,
    snat::{Allocation, Pool, Ports, Translating, allocate},
    tracking::Tracker,
};

use super::*;
use crate::{
    config,
    model::{BackendKey, Model, Protocol},
};

const FILE: &str = r#"
node.n.interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
mode = "nat"
backend = [{ address = "10.0.0.1" }, { address = "10.0.0.2", port = 8080 }]
[[service]]
name = "dns"
vip = "2001:db8::53"
protocol = "udp"
port = 53
mode = "l2-dsr"
backend = [{ address = "2001:db8:1::1" }]
"#;

fn endpoint(address: &str, port: u16) -> Endpoint {
    let address: IpAddr = address.parse().expect("an address");
    Endpoint {
        address: Address::from(address),
        port,
    }
}

fn key(client: &str, port: u16, vip: &str, service: u16, protocol: u8) -> FlowKey {
    FlowKey {
        source: endpoint(client, port),
        destination: endpoint(vip, service),
        protocol,
    }
}

fn value(backend: u16, state: State, seen: u32) -> Value {
    Value {
        seen: Ticks(seen),
        backend,
        state: state as u8,
        flags: Flags::default(),
    }
}

fn put<L: Layout<Extra = [u64; 0]>>(table: &Table<L, HeapMemory>, key: L::Key, value: Value) {
    let inserted = table.insert(&key, value, &[], WhenFull::Refuse);
    assert!(matches!(inserted, Insert::Inserted(_)));
}

fn table<L: Layout>(sets: u32) -> Table<L, HeapMemory> {
    Table::new(HeapMemory::new::<L>(sets), sets - 1, 7)
}

fn tables() -> FlowTables<HeapMemory> {
    let tracker = || Tracker {
        flows: table::<Flow4>(8),
        half_open: table::<Flow4>(2),
    };
    let tables = FlowTables {
        ipv4: tracker(),
        ipv6: Tracker {
            flows: table::<Flow6>(4),
            half_open: table::<Flow6>(2),
        },
        snat_ipv4: Some(table::<Nat4>(4)),
        snat_ipv6: None,
    };
    let web = |client, port| key(client, port, "192.0.2.1", 80, 6).v4();
    let flows = &tables.ipv4.flows;
    put(
        flows,
        web("198.51.100.7", 4000),
        value(1, State::Established, 90),
    );
    put(
        flows,
        web("198.51.100.7", 4001),
        value(2, State::Closing, 100),
    );
    put(
        flows,
        web("198.51.100.255", 65_535),
        value(9, State::Reset, 99),
    );
    // Of a service that is no more.
    let gone = key("198.51.100.7", 4000, "192.0.2.9", 80, 6).v4();
    put(flows, gone, value(1, State::Established, 90));
    put(
        &tables.ipv4.half_open,
        web("198.51.100.8", 1),
        value(1, State::Opening, 101),
    );
    put(
        &tables.ipv6.flows,
        key("2001:db8::7", 5353, "2001:db8::53", 53, 17).v6(),
        value(1, State::Datagram, 40),
    );
    let pool = Pool {
        ports: Ports {
            first: 1024,
            count: 1,
        },
        addresses: 1,
        address: |_| Some(endpoint("10.0.0.100", 0).address),
    };
    let connection = key("198.51.100.9", 7, "192.0.2.1", 80, 6);
    let allocated = allocate(
        tables.snat_ipv4.as_ref().expect("there is one"),
        &connection,
        endpoint("10.0.0.2", 8080),
        &pool,
        value(2, State::Established, 60),
    );
    assert!(matches!(allocated, Allocation::New(_)));
    tables
}

fn directory(filter: Filter) -> Directory {
    let model: Model = config::parse("f", FILE).expect("it is right").model;
    let known = model.services.iter().map(|service| Known {
        name: service.name.to_string(),
        key: service.key(),
        backends: service.backends.iter().map(|b| Some(b.key())).collect(),
    });
    Directory::new(known.collect(), filter)
}

/// All flows in portions of `budget` entries, as lines in order.
fn lines(filter: Filter, budget: u32) -> Vec<String> {
    let (tables, directory) = (tables(), directory(filter));
    let lines = Lines::new(&directory);
    let (mut text, mut walk) = (String::new(), Walk::default());
    while tables.walk(&mut walk, budget, |flow| {
        lines.push(flow, Ticks(100), &mut text);
    }) {}
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn every_flow_of_every_table_is_a_line_of_json() {
    let expected = [
        r#"{"service":"dns","protocol":"udp","vip":"[2001:db8::53]:53","client":"[2001:db8::7]:5353","backend":"[2001:db8:1::1]:53","state":"udp","idle_s":60}"#,
        r#"{"service":"web","protocol":"tcp","vip":"192.0.2.1:80","client":"198.51.100.255:65535","backend":null,"state":"reset","idle_s":1}"#,
        r#"{"service":"web","protocol":"tcp","vip":"192.0.2.1:80","client":"198.51.100.7:4000","backend":"10.0.0.1:80","state":"established","idle_s":10}"#,
        r#"{"service":"web","protocol":"tcp","vip":"192.0.2.1:80","client":"198.51.100.7:4001","backend":"10.0.0.2:8080","state":"closing","idle_s":0}"#,
        r#"{"service":"web","protocol":"tcp","vip":"192.0.2.1:80","client":"198.51.100.8:1","backend":"10.0.0.1:80","state":"half-open","idle_s":0}"#,
        r#"{"service":"web","protocol":"tcp","vip":"192.0.2.1:80","client":"198.51.100.9:7","backend":"10.0.0.2:8080","state":"half-open","idle_s":40,"source":"10.0.0.100:1024"}"#,
    ];
    for budget in [1, 7, 1_000_000] {
        let lines = lines(Filter::default(), budget);
        assert_eq!(lines, expected, "{budget}");
        for line in lines {
            let parsed: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert!(parsed["client"].is_string());
        }
    }
}

#[test]
fn a_connection_shows_its_later_direction_and_both_states() {
    let tables = tables();
    let nat = tables.snat_ipv4.as_ref().expect("there is one");
    let server = key("10.0.0.2", 8080, "10.0.0.100", 1024, 6);
    let answer = nat.lookup(&Nat4::key(&server)).expect("it is in");
    assert!(answer.update(Value {
        flags: Flags::ANSWERED,
        ..value(2, State::Established, 95)
    }));
    let (mut seen, mut walk) = (Vec::new(), Walk::default());
    while tables.walk(&mut walk, 100, |flow| seen.push(*flow)) {}
    let flow = seen.last().expect("the connection");
    assert_eq!(FlowState::from(flow.phase), FlowState::Established);
    assert_eq!(flow.value.seen, Ticks(95));
}

#[test]
fn filters_must_all_fit() {
    let count = |filter| lines(filter, 100).len();
    let web = || Some("web".to_owned());
    let backend = |text: &str, port| {
        Some(vec![BackendKey {
            address: text.parse().expect("an address"),
            port,
        }])
    };
    assert_eq!(
        count(Filter {
            service: web(),
            ..Filter::default()
        }),
        5
    );
    assert_eq!(
        count(Filter {
            backend: backend("10.0.0.1", 80),
            ..Filter::default()
        }),
        2
    );
    assert_eq!(
        count(Filter {
            client: Some("198.51.100.7".parse().expect("an address")),
            ..Filter::default()
        }),
        2
    );
    assert_eq!(
        count(Filter {
            protocol: Some(Protocol::Udp),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        count(Filter {
            service: web(),
            backend: backend("10.0.0.1", 80),
            state: Some(FlowState::HalfOpen),
            ..Filter::default()
        }),
        1
    );
    assert_eq!(
        count(Filter {
            service: web(),
            protocol: Some(Protocol::Udp),
            ..Filter::default()
        }),
        0
    );
}

fn counted(filter: Filter) -> serde_json::Value {
    let (tables, directory) = (tables(), directory(filter));
    let (mut counter, mut walk) = (Counter::new(&directory), Walk::default());
    while tables.walk(&mut walk, 3, |flow| counter.add(flow)) {}
    serde_json::to_value(counter.finish()).expect("JSON")
}

#[test]
fn flows_are_counted_by_service_backend_and_state() {
    let expected = serde_json::json!({"services": [
        {"service": "web", "total": 5, "backends": [
            {"backend": null, "total": 1, "states": {"reset": 1}},
            {"backend": "10.0.0.1:80", "total": 2, "states": {"established": 1, "half-open": 1}},
            {"backend": "10.0.0.2:8080", "total": 2, "states": {"half-open": 1, "closing": 1}},
        ]},
        {"service": "dns", "total": 1, "backends": [
            {"backend": "[2001:db8:1::1]:53", "total": 1, "states": {"udp": 1}},
        ]},
    ]});
    assert_eq!(counted(Filter::default()), expected);
    let filter = Filter {
        service: Some("web".to_owned()),
        state: Some(FlowState::Udp),
        ..Filter::default()
    };
    let expected = serde_json::json!({"services": [
        {"service": "web", "total": 0, "backends": [
            {"backend": "10.0.0.1:80", "total": 0, "states": {}},
            {"backend": "10.0.0.2:8080", "total": 0, "states": {}},
        ]},
    ]});
    assert_eq!(counted(filter), expected);
}

/// Lets go what was reset; notes what it is asked.
#[derive(Default)]
struct Seen {
    records: Vec<FlowKey>,
    connections: Vec<FlowKey>,
}

impl Judge for Seen {
    fn record(&mut self, flow: &FlowKey, value: Value) -> Fate {
        self.records.push(*flow);
        if value.state == State::Reset as u8 {
            Fate::Remove
        } else {
            Fate::Keep
        }
    }

    fn timeouts(&self, _flow: &FlowKey) -> Option<Timeouts> {
        Some(Timeouts::DEFAULT)
    }

    fn stays(&mut self, flow: &FlowKey, _value: Value) {
        self.connections.push(*flow);
    }
}

/// Ticks every 100 ms until a round is over: when it began, when it was over, and what was removed.
fn round(
    rounds: &mut Rounds,
    from: Duration,
    ticks: u32,
    tables: &FlowTables<HeapMemory>,
    judge: &mut Seen,
) -> (Duration, Duration, u32) {
    let pace = Pace {
        round: Duration::from_secs(10),
        most: 1000,
    };
    let (mut now, mut removed) = (from, 0);
    loop {
        now += Duration::from_millis(100);
        assert!(now < from + Duration::from_secs(30), "the round ends");
        let progress = rounds.tick(now, Ticks(ticks), pace, tables, judge);
        removed += progress.removed;
        if let Some(began) = progress.finished {
            return (began, now, removed);
        }
    }
}

#[test]
fn a_round_sees_every_table_and_the_next_one_begins_after_it() {
    let tables = tables();
    let mut rounds = Rounds::new(Duration::ZERO);
    let mut seen = Seen::default();
    let (began, over, removed) = round(&mut rounds, Duration::ZERO, 100, &tables, &mut seen);
    assert_eq!((began, removed), (Duration::ZERO, 3));
    assert!(over > Duration::from_secs(9), "{over:?}");
    assert_eq!((seen.records.len(), seen.connections.len()), (6, 0));
    let used: Vec<_> = rounds
        .usage(&tables)
        .map(|usage| (usage.table, usage.used, usage.capacity))
        .collect();
    // The connection was opened 40 s ago and never answered.
    assert_eq!(
        used,
        [
            ("half_open_ipv4", 1, 32),
            ("flows_ipv4", 3, 128),
            ("half_open_ipv6", 0, 32),
            ("flows_ipv6", 1, 64),
            ("snat_ipv4", 0, 64),
        ]
    );
    let mut seen = Seen::default();
    let (began, _, removed) = round(&mut rounds, over, 100, &tables, &mut seen);
    assert_eq!((began, removed, seen.records.len()), (over, 0, 5));
}

#[test]
fn both_entries_of_a_connection_go_together_and_stay_together() {
    for (ticks, stays) in [(80, true), (91, false)] {
        let tables = tables();
        let nat = tables.snat_ipv4.as_ref().expect("there is one");
        let mut seen = Seen::default();
        let mut rounds = Rounds::new(Duration::ZERO);
        let (_, _, removed) = round(&mut rounds, Duration::ZERO, ticks, &tables, &mut seen);
        assert_eq!(seen.connections.len(), usize::from(stays), "{ticks}");
        assert_eq!(nat.count(), if stays { 2 } else { 0 });
        assert_eq!(removed, if stays { 1 } else { 3 });
    }
}

#[test]
fn a_servers_entry_without_its_clients_goes_when_it_is_not_just_being_made() {
    for (ticks, left) in [(62, 1), (66, 0)] {
        let tables = tables();
        let nat = tables.snat_ipv4.as_ref().expect("there is one");
        let client = key("198.51.100.9", 7, "192.0.2.1", 80, 6);
        assert!(nat.lookup(&Nat4::key(&client)).expect("it is in").remove());
        let mut rounds = Rounds::new(Duration::ZERO);
        round(
            &mut rounds,
            Duration::ZERO,
            ticks,
            &tables,
            &mut Seen::default(),
        );
        assert_eq!(nat.count(), left, "{ticks}");
    }
}
