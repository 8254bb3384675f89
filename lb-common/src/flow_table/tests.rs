use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    vec::Vec,
};

use proptest::prelude::*;

use super::*;
use crate::hash::mix;

fn table<L: Layout>(sets: u32) -> Table<L, HeapMemory> {
    Table::new(HeapMemory::new::<L>(sets), sets - 1, 0x5eed)
}

fn value(backend: u16) -> Value {
    Value {
        backend,
        ..Value::default()
    }
}

#[test]
fn entries_are_as_long_as_promised() {
    assert_eq!(Table::<Flow4, HeapMemory>::ENTRY_BYTES, 32);
    assert_eq!(Table::<Flow6, HeapMemory>::ENTRY_BYTES, 64);
    assert_eq!(Table::<Nat4, HeapMemory>::ENTRY_BYTES, 64);
    assert_eq!(Table::<Nat6, HeapMemory>::ENTRY_BYTES, 128);
}

#[test]
fn words_keep_what_is_packed_into_them() {
    let all = Value {
        seen: Ticks(0xfedc_ba98),
        backend: 0xabcd,
        state: 3,
        flags: Flags::FROM_CLIENT,
    };
    assert_eq!(Value::unpack(all.pack()), all);
    let claimed = Control(0xffff_fffc).claim(7);
    assert!(claimed.is_claimed_by(7) && !claimed.is_live(7) && !claimed.is_free());
    assert_eq!(claimed.0 & 0xffff_fffc, 0, "the generation wraps around");
    assert!(claimed.publish().is_live(7) && claimed.publish().holds());
    assert!(claimed.free().is_free());
}

#[test]
fn time_wraps_and_never_runs_backwards() {
    assert_eq!(Ticks(5).since(Ticks(u32::MAX)), 6);
    assert_eq!(Ticks(5).since(Ticks(6)), 0);
}

#[test]
fn a_full_set_refuses_or_lets_the_oldest_go() {
    let table = table::<Flow4>(1);
    let at = |key: u64, seen| {
        let value = Value {
            seen: Ticks(seen),
            ..value(key as u16)
        };
        (key, value)
    };
    // Around the wrap of time: 0xffff_fff8 is the oldest.
    for (key, value) in (0..16).map(|n| at(n, 0xffff_fff8_u32.wrapping_add(n as u32 ^ 5))) {
        assert!(matches!(
            table.insert(&[key, 0], value, &[], WhenFull::Refuse),
            Insert::Inserted(_)
        ));
    }
    let (_, new) = at(99, 20);
    assert!(matches!(
        table.insert(&[99, 0], new, &[], WhenFull::Refuse),
        Insert::Full
    ));
    assert!(matches!(
        table.insert(&[99, 0], new, &[], WhenFull::Evict),
        Insert::Inserted(_)
    ));
    assert!(table.lookup(&[5, 0]).is_none(), "seen longest ago");
    assert_eq!(table.lookup(&[99, 0]).expect("it is in").value, new);
    assert_eq!(table.count(), 16);
}

#[test]
fn half_full_holds_nearly_all_of_them() {
    let table = table::<Flow4>(4096);
    let refused = (0..32_768_u64)
        .filter(|&key| {
            matches!(
                table.insert(&[key, 80], value(1), &[], WhenFull::Refuse),
                Insert::Full
            )
        })
        .count();
    // Poisson with mean 8 beyond 16: 0.08 %.
    assert!(refused < 65, "{refused} of 32,768 found their set full");
}

#[test]
fn a_removed_flow_cannot_be_changed_by_who_still_holds_it() {
    let table = table::<Flow4>(1);
    let Insert::Inserted(old) = table.insert(&[1, 1], value(1), &[], WhenFull::Refuse) else {
        panic!("an empty table has room");
    };
    assert!(old.remove());
    assert!(!old.remove());
    table.insert(&[1, 1], value(2), &[], WhenFull::Refuse);
    assert!(!old.update(value(3)));
    assert!(!old.remove());
    assert_eq!(table.lookup(&[1, 1]).expect("the new one").value.backend, 2);
}

#[test]
fn the_claim_of_a_dead_writer_can_be_released() {
    let table = table::<Flow4>(1);
    // As a writer leaves it that dies in the middle.
    let set = table.memory.set(0).expect("the only set");
    let control = Control(0).claim(tag([1, 1].hash(0x5eed)));
    set.store(0, control.0);
    let mut claims = Vec::new();
    let end = table.scan(0, 100, |visit| {
        if let Visit::Claimed { index, control } = visit {
            claims.push((index, control));
        }
    });
    assert_eq!(end, None);
    assert_eq!(claims, [(0, control)]);
    assert!(matches!(
        table.insert(&[1, 1], value(1), &[], WhenFull::Refuse),
        Insert::Busy
    ));
    assert_eq!(table.count(), 0);
    assert!(table.release_claim(0, control));
    assert!(matches!(
        table.insert(&[1, 1], value(1), &[], WhenFull::Refuse),
        Insert::Inserted(_)
    ));
    let live = table.lookup(&[1, 1]).expect("it is in").control;
    assert!(!table.release_claim(0, live), "only claims are released");
}

#[test]
fn a_scan_in_portions_sees_every_flow_once() {
    let table = table::<Flow6>(32);
    let mut expected: Vec<_> = (0..200_u64).map(|key| [key, 1, 2, 3, 4]).collect();
    for key in &expected {
        table.insert(key, value(key[0] as u16), &[], WhenFull::Refuse);
    }
    for budget in [1, 7, 16, 1000] {
        let mut seen = Vec::new();
        let mut cursor = Some(0);
        let mut calls = 0;
        while let Some(at) = cursor {
            cursor = table.scan(at, budget, |visit| {
                if let Visit::Flow(entry) = visit {
                    assert_eq!(u64::from(entry.value.backend), entry.key[0]);
                    seen.push(entry.key);
                }
            });
            calls += 1;
            assert!(calls <= 512, "the scan ends");
        }
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected, "budget {budget}");
    }
    assert_eq!(table.scan(512, 10, |_| panic!("beyond the end")), None);
}

#[derive(Clone, Debug)]
enum Step {
    Insert(u8, u16),
    Update(u8, u16),
    Remove(u8),
    Age(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..60_u8, 1..9_u16).prop_map(|(key, backend)| Step::Insert(key, backend)),
        (0..60_u8, 1..9_u16).prop_map(|(key, backend)| Step::Update(key, backend)),
        (0..60_u8).prop_map(Step::Remove),
        (1..9_u16).prop_map(Step::Age),
    ]
}

proptest! {
    #[test]
    fn it_is_a_map(steps in proptest::collection::vec(step(), 1..300)) {
        let table = table::<Nat4>(2);
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Insert(key, backend) => {
                    let words = [u64::from(key), 0];
                    let extra = [u64::from(key), u64::from(backend)];
                    match table.insert(&words, value(backend), &extra, WhenFull::Refuse) {
                        Insert::Inserted(_) => {
                            prop_assert!(model.insert(key, (backend, extra)).is_none());
                        }
                        Insert::Found(flow) => {
                            prop_assert_eq!(Some(&(flow.value.backend, flow.extra)), model.get(&key));
                        }
                        Insert::Full => prop_assert!(model.len() >= 16 && !model.contains_key(&key)),
                        Insert::Busy => prop_assert!(false, "there is one writer"),
                    }
                }
                Step::Update(key, backend) => {
                    if let Some(flow) = table.lookup(&[u64::from(key), 0]) {
                        prop_assert!(flow.update(value(backend)));
                        model.entry(key).and_modify(|entry| entry.0 = backend);
                    }
                }
                Step::Remove(key) => {
                    let removed = table.lookup(&[u64::from(key), 0]).is_some_and(|flow| flow.remove());
                    prop_assert_eq!(removed, model.remove(&key).is_some());
                }
                Step::Age(backend) => {
                    table.scan(0, u32::MAX, |visit| {
                        if let Visit::Flow(entry) = visit && entry.value.backend == backend {
                            assert!(table.remove_if(entry.index, entry.control, entry.value));
                        }
                    });
                    model.retain(|_, entry| entry.0 != backend);
                }
            }
            prop_assert_eq!(table.count(), model.len() as u64);
        }
        for (key, expected) in &model {
            let flow = table.lookup(&[u64::from(*key), 0]);
            prop_assert_eq!(flow.map(|flow| (flow.value.backend, flow.extra)), Some(*expected));
        }
    }
}

/// Writers, removers and readers on few keys and a small table. Each entry says in all its words what it belongs to, so that a
/// mixture of two is seen; each key is inserted with a different backend by each thread, so that two
/// entries of one flow are seen.
#[test]
fn threads_never_see_a_mixture_or_two_answers() {
    const THREADS: u64 = 4;
    const KEYS: u64 = 48;
    let table = table::<Nat4>(2);
    let inserted = AtomicU64::new(0);
    let removed = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, inserted, removed) = (&table, &inserted, &removed);
            scope.spawn(move || {
                let mut random = mix(thread + 1);
                for _ in 0..60_000 {
                    random = mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
                    let key = [random % KEYS, 77];
                    let check = |flow: &Flow<'_, Nat4, HeapMemory>| {
                        assert_eq!(flow.extra, [key[0], u64::from(flow.value.backend)]);
                    };
                    match random >> 60 {
                        0..6 => {
                            let extra = [key[0], thread + 1];
                            match table.insert(
                                &key,
                                value(thread as u16 + 1),
                                &extra,
                                WhenFull::Refuse,
                            ) {
                                Insert::Inserted(_) => {
                                    inserted.fetch_add(1, Ordering::Relaxed);
                                }
                                Insert::Found(flow) => check(&flow),
                                Insert::Full | Insert::Busy => {}
                            }
                        }
                        6..10 => {
                            if let Some(flow) = table.lookup(&key) {
                                check(&flow);
                                if flow.remove() {
                                    removed.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                        10 => {
                            let mut held = [0_u32; KEYS as usize];
                            table.scan(0, u32::MAX, |visit| {
                                if let Visit::Flow(entry) = visit {
                                    assert_eq!(entry.extra[0], entry.key[0]);
                                    held[entry.key[0] as usize] += 1;
                                }
                            });
                        }
                        _ => {
                            if let Some(flow) = table.lookup(&key) {
                                check(&flow);
                                let touched = Value {
                                    seen: Ticks(random as u32),
                                    ..flow.value
                                };
                                let _ = flow.update(touched);
                            }
                        }
                    }
                }
            });
        }
    });
    let mut keys = HashMap::new();
    table.scan(0, u32::MAX, |visit| match visit {
        Visit::Flow(entry) => *keys.entry(entry.key).or_insert(0) += 1,
        Visit::Claimed { .. } => panic!("nobody is writing any more"),
    });
    assert!(keys.values().all(|&count| count == 1), "a flow is in twice");
    let left = inserted.into_inner() - removed.into_inner();
    assert_eq!(keys.len() as u64, left);
}
