//! The writes of a plan, executed one by one on tables in memory, with packets in between.

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use etherparse::PacketBuilder;
use lb_common::{
    address::Address,
    consistency::{OnDown, Policy},
    flow_state::Timeouts,
    forward::{Verdict, forward},
    host::{HeapTables, SliceFrame},
    reason::Reason,
    tables::{HashPolicy, Key, Mode, NextHop, Slot},
};
use proptest::prelude::*;

use super::*;

const CAPACITY: Capacity = Capacity {
    cells: 1024,
    services: 16,
    slots: 4096,
    backends: 64,
    flow_sets: 16,
    half_open_sets: 16,
};
const SLOTS: u32 = 251;
const POLICY: Policy = Policy {
    on_down: OnDown::Rehash,
    full: false,
};
const CLIENT: [u8; 4] = [192, 0, 2, 1];

/// The number of a backend is in its address and its MAC.
fn backend(number: u8, weight: u32) -> WantedBackend {
    WantedBackend {
        address: Address::from_v4([10, 0, 0, number]),
        port: 8080,
        weight,
        up: weight > 0,
        lives: weight > 0,
        on_down: None,
        next_hop: NextHop {
            ifindex: 1,
            destination: [2, 0, 0, 0, 0, number],
            source: [2, 0, 0, 0, 1, 0],
            vlan: 0,
            mtu: 1500,
        },
        tunnel_source: Address::from_v4([10, 0, 0, 254]),
    }
}

fn service(number: u8, mode: Mode, backends: Vec<WantedBackend>) -> Wanted {
    let key = Key::new(Address::from_v4([10, 9, 0, number]), 6, 80);
    Wanted {
        key,
        mode,
        hash: HashPolicy::L3L4,
        seed: u64::from(number),
        slot_count: SLOTS,
        gue_port: 6080,
        dscp: 0,
        mss: 0,
        source_bits: 0,
        flags: 0,
        tracking: POLICY,
        new_flows: 0,
        timeouts: Timeouts::DEFAULT,
        backends,
    }
}

/// Sends a packet of flow `port` to service `number`; which backend it reached.
fn send(tables: &HeapTables, number: u8, port: u16) -> Result<u8, Verdict> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4(CLIENT, [10, 9, 0, number], 64)
        .tcp(port, 80, 1, 1000)
        .write(&mut bytes, &[])
        .expect("a packet of fixed shape");
    let mut frame = SliceFrame::new(&bytes, 1);
    match forward(&mut frame, tables) {
        Verdict::Transmit => Ok(frame.bytes()[5]),
        other => Err(other),
    }
}

fn reply(tables: &HeapTables, backend: u8) -> Option<Ipv4Addr> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, backend], CLIENT, 64)
        .tcp(8080, 1024, 1, 1000)
        .write(&mut bytes, &[])
        .expect("a packet of fixed shape");
    let mut frame = SliceFrame::new(&bytes, 1);
    matches!(forward(&mut frame, tables), Verdict::Transmit).then(|| {
        let octets: [u8; 4] = frame.bytes()[26..30].try_into().expect("four bytes");
        octets.into()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Set {
        number: u8,
        mode: Mode,
        weights: [u32; 7],
    },
    Remove(u8),
    NextHop(u8),
    Wait,
    Adopt,
}

fn step() -> impl Strategy<Value = Step> {
    let weights =
        proptest::array::uniform7(prop_oneof![2 => Just(u32::MAX), 1 => Just(0), 4 => 1_u32..4]);
    // One service per mode: the backends of `nat` services must not be shared.
    prop_oneof![
        6 => (0_u8..2, weights).prop_map(|(number, weights)| Step::Set { number, mode: if number == 0 { Mode::Nat } else { Mode::L2Dsr }, weights }),
        1 => (0_u8..2).prop_map(Step::Remove),
        1 => (1_u8..8).prop_map(Step::NextHop),
        2 => Just(Step::Wait),
        1 => Just(Step::Adopt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// After every single store, a packet of a service reaches a backend that the service had before or has after.
    #[test]
    fn packets_see_old_or_new(steps in proptest::collection::vec(step(), 1..40)) {
        let mut tables = CAPACITY.heap();
        tables.set_route(Address::from_v4(CLIENT), lb_common::tables::Route::Direct(backend(1, 1).next_hop));
        let mut layout = Layout::new(CAPACITY);
        let mut now = Duration::ZERO;
        let mut services: BTreeMap<u8, Wanted> = BTreeMap::new();
        for step in steps {
            now += Duration::from_millis(50);
            let before = services.clone();
            let writes = match step {
                Step::Set { number, mode, weights } => {
                    let backends = weights.iter().zip(1_u8..).filter(|(weight, _)| **weight != u32::MAX).map(|(weight, at)| backend(at, *weight)).collect();
                    let wanted = service(number, mode, backends);
                    match layout.set(now, &wanted) {
                        Ok(writes) => {
                            services.insert(number, wanted);
                            writes
                        }
                        Err(PlanError::Full { .. }) => Vec::new(),
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    }
                }
                Step::Remove(number) => {
                    services.remove(&number);
                    layout.remove(now, &service(number, Mode::Nat, vec![]).key)
                }
                Step::NextHop(number) => layout.set_next_hop(Address::from_v4([10, 0, 0, number]), backend(number, 1).next_hop, backend(number, 1).tunnel_source),
                Step::Wait => {
                    now += transition::GRACE;
                    layout.expire(now);
                    Vec::new()
                }
                Step::Adopt => {
                    layout = Layout::adopt(now, CAPACITY, &tables);
                    Vec::new()
                }
            };
            for write in &writes {
                write.execute(&mut tables);
                for number in 0..2 {
                    check(&tables, number, before.get(&number), services.get(&number))?;
                }
            }
            for number in 0..2 {
                let wanted = services.get(&number);
                check(&tables, number, wanted, wanted)?;
            }
            if let Some(nat) = services.get(&0) {
                for backend in &nat.backends {
                    let [.., number] = backend.address.to_v4();
                    prop_assert_eq!(reply(&tables, number), Some(Ipv4Addr::new(10, 9, 0, 0)));
                }
            }
            prop_assert_eq!(tables.counted(Reason::TableDefect), 0);
        }
    }
}

fn check(
    tables: &HeapTables,
    number: u8,
    before: Option<&Wanted>,
    after: Option<&Wanted>,
) -> Result<(), TestCaseError> {
    let owners = |wanted: &Wanted| -> Vec<u8> {
        wanted
            .backends
            .iter()
            .filter(|b| b.weight > 0)
            .map(|b| b.address.to_v4()[3])
            .collect()
    };
    for port in (1024..65_000).step_by(6_400) {
        let allowed =
            [before, after]
                .into_iter()
                .any(|wanted| match (wanted, send(tables, number, port)) {
                    (Some(wanted), Ok(reached)) => owners(wanted).contains(&reached),
                    (Some(wanted), Err(Verdict::Drop)) => owners(wanted).is_empty(),
                    (None, Err(Verdict::Pass)) => true,
                    _ => false,
                });
        prop_assert!(
            allowed,
            "service {number} flow {port}: {:?}, before {before:?}, after {after:?}",
            send(tables, number, port)
        );
    }
    Ok(())
}

#[test]
fn a_health_change_moves_only_the_slots_of_the_one_backend() {
    let mut layout = Layout::new(Capacity {
        slots: 4 * 65_537,
        ..CAPACITY
    });
    let mut wanted = Wanted {
        slot_count: 65_537,
        ..service(0, Mode::L2Dsr, (1..=10).map(|n| backend(n, 1)).collect())
    };
    let mut tables = Capacity {
        slots: 4 * 65_537,
        ..CAPACITY
    }
    .heap();
    let mut owners = |writes: Vec<Write>| -> Vec<u16> {
        writes.iter().for_each(|write| write.execute(&mut tables));
        let words = &tables.slots[..65_537];
        words
            .iter()
            .map(|word| Slot::unpack(*word).current)
            .collect()
    };
    let before = owners(layout.set(Duration::ZERO, &wanted).expect("there is room"));
    wanted.backends[3].weight = 0;
    let after = owners(layout.set(Duration::ZERO, &wanted).expect("there is room"));
    let lost = 4;
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(old, new)| **old != lost && old != new)
        .count();
    let others = before.iter().filter(|old| **old != lost).count();
    assert!(moved * 100 < others * 2, "{moved} of {others}");
    assert!(after.iter().all(|new| *new != lost));
    assert_eq!(
        layout.unsettled(&wanted.key),
        before
            .iter()
            .zip(&after)
            .filter(|(old, new)| old != new)
            .count()
    );
}

#[test]
fn nothing_wanted_new_is_nothing_written() {
    let mut layout = Layout::new(CAPACITY);
    let wanted = service(0, Mode::Nat, vec![backend(1, 1), backend(2, 2)]);
    assert!(
        !layout
            .set(Duration::ZERO, &wanted)
            .expect("there is room")
            .is_empty()
    );
    assert_eq!(layout.set(Duration::ZERO, &wanted), Ok(vec![]));
}

#[test]
fn a_full_table_changes_nothing() {
    let mut layout = Layout::new(Capacity {
        slots: SLOTS,
        ..CAPACITY
    });
    let wanted = service(0, Mode::Nat, vec![backend(1, 1)]);
    layout
        .set(Duration::ZERO, &wanted)
        .expect("there is room for one");
    let more = service(1, Mode::L2Dsr, vec![backend(2, 1)]);
    let error = layout
        .set(Duration::ZERO, &more)
        .expect_err("there is no room for two");
    assert!(error.to_string().contains("max_slots"), "{error}");
    assert_eq!(layout.keys().collect::<Vec<_>>(), vec![wanted.key]);
    // What was taken on the way has been given back: after the first goes, the second fits.
    layout.remove(Duration::ZERO, &wanted.key);
    layout
        .set(transition::GRACE, &more)
        .expect("the room of the first");
}
