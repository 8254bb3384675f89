//! All interleavings, up to a bound on preemptions, of those who share a flow table, under a weak memory model: what is read
//! belongs together, a flow is in once, and nobody changes what is not his any more.
//!
//! A failure is found again by the same test; `LOOM_LOG=trace LOOM_LOCATION=1` shows the steps that led to it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lb_common::{
    consistency::{Records, Writing},
    flow_state::{ACK, SYN},
    flow_table::{Flow, Insert, Layout, Memory, Table, Ticks, Value, Visit, WhenFull, Words},
    tracking::{PacketRecords, Tracker},
    wire::PROTOCOL_TCP,
};
use loom::{
    model::Builder,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};

/// A table of one set, small enough to be explored.
struct Small<const WAYS: usize>;

impl<const WAYS: usize> Layout for Small<WAYS> {
    type Key = [u64; 1];
    type Extra = [u64; 1];
    const WAYS: usize = WAYS;
    const STRIDE: usize = 4;
    const PATIENCE: usize = 2;
}

#[derive(Clone)]
struct ModelMemory {
    words: Arc<Vec<AtomicU64>>,
    variant: Variant,
}

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    AsItIs,
    /// Without the barrier between claiming and looking for rivals.
    Unfenced,
    /// Stores are exchanges. loom leaves a store and another thread's compare-and-exchange of the same word unordered although nothing may come
    /// between what an exchange reads and what it writes ([atomics.order] of C++20, paragraph 10); an exchange it does order.
    Exchanging,
}

impl Words for ModelMemory {
    fn load(&self, word: usize) -> u64 {
        self.words[word].load(Ordering::Acquire)
    }

    fn store(&self, word: usize, value: u64) {
        if self.variant == Variant::Exchanging {
            self.words[word].swap(value, Ordering::Release);
        } else {
            self.words[word].store(value, Ordering::Release);
        }
    }

    fn compare_exchange(&self, word: usize, current: u64, new: u64) -> bool {
        self.words[word]
            .compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

impl Memory for ModelMemory {
    type Set<'a> = Self;

    fn set(&self, _index: u32) -> Option<Self> {
        Some(self.clone())
    }

    fn fence(&self) {
        if self.variant != Variant::Unfenced {
            fence(Ordering::SeqCst);
        }
    }
}

type Model<const WAYS: usize> = Arc<Table<Small<WAYS>, ModelMemory>>;

fn table<const WAYS: usize>() -> Model<WAYS> {
    table_with(Variant::AsItIs)
}

fn table_with<const WAYS: usize>(variant: Variant) -> Model<WAYS> {
    let words = (0..WAYS * 4).map(|_| AtomicU64::new(0)).collect();
    let memory = ModelMemory {
        words: Arc::new(words),
        variant,
    };
    Arc::new(Table::new(memory, 0, 1))
}

fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    builder.check(model);
}

fn value(backend: u16) -> Value {
    Value {
        backend,
        ..Value::default()
    }
}

/// The extra word names the key and the backend that the entry was made with.
const fn extra(key: u64, backend: u16) -> u64 {
    key << 32 | backend as u64
}

/// Whether the flow is new, and its backend.
fn insert<const WAYS: usize>(table: &Model<WAYS>, key: u64, backend: u16) -> Option<(bool, u16)> {
    match table.insert(
        &[key],
        value(backend),
        &[extra(key, backend)],
        WhenFull::Refuse,
    ) {
        Insert::Inserted(flow) => Some((true, flow.value.backend)),
        Insert::Found(flow) => {
            belongs_together(key, &flow);
            Some((false, flow.value.backend))
        }
        Insert::Full | Insert::Busy => None,
    }
}

fn belongs_together<const WAYS: usize>(key: u64, flow: &Flow<'_, Small<WAYS>, ModelMemory>) {
    assert_eq!(flow.extra, [extra(key, flow.value.backend)]);
}

fn read<const WAYS: usize>(table: &Model<WAYS>, key: u64) {
    if let Some(flow) = table.lookup(&[key]) {
        belongs_together(key, &flow);
    }
}

fn age<const WAYS: usize>(table: &Model<WAYS>) -> usize {
    let mut removed = 0;
    table.scan(0, u32::MAX, |visit| {
        if let Visit::Flow(entry) = visit {
            assert_eq!(entry.extra, [extra(entry.key[0], entry.value.backend)]);
            removed += usize::from(table.remove_if(entry.index, entry.control, entry.value));
        }
    });
    removed
}

fn entries_of<const WAYS: usize>(table: &Model<WAYS>, key: u64) -> usize {
    let mut count = 0;
    table.scan(0, u32::MAX, |visit| match visit {
        Visit::Flow(entry) => count += usize::from(entry.key == [key]),
        Visit::Claimed { .. } => panic!("nobody is writing any more"),
    });
    count
}

fn spawn<const WAYS: usize, R: 'static>(
    table: &Model<WAYS>,
    work: impl FnOnce(&Model<WAYS>) -> R + 'static,
) -> thread::JoinHandle<R> {
    let table = table.clone();
    thread::spawn(move || work(&table))
}

fn join<R>(thread: thread::JoinHandle<R>) -> R {
    thread.join().expect("no panic")
}

fn agree(outcomes: &[Option<(bool, u16)>]) {
    let mut answers = outcomes.iter().flatten().map(|(_, backend)| *backend);
    if let Some(answer) = answers.next() {
        assert!(answers.all(|other| other == answer), "{outcomes:?}");
    }
}

#[test]
fn writers_of_one_flow_agree_and_a_reader_sees_it_whole() {
    explore(3, || {
        let table = table::<2>();
        let first = spawn(&table, |table| insert(table, 7, 1));
        let second = spawn(&table, |table| insert(table, 7, 2));
        read(&table, 7);
        let outcomes = [join(first), join(second)];
        let inserted = outcomes.iter().flatten().filter(|(new, _)| *new).count();
        assert_eq!(inserted, entries_of(&table, 7));
        assert!(inserted <= 1, "the flow is in twice");
        agree(&outcomes);
    });
}

#[test]
fn three_writers_of_one_flow_agree() {
    explore(2, || {
        let table = table::<2>();
        let first = spawn(&table, |table| insert(table, 7, 1));
        let second = spawn(&table, |table| insert(table, 7, 2));
        let third = insert(&table, 7, 3);
        let outcomes = [join(first), join(second), third];
        assert!(entries_of(&table, 7) <= 1, "the flow is in twice");
        agree(&outcomes);
    });
}

#[test]
fn an_entry_is_reused_under_a_reader() {
    // One way: the second flow takes the place of the first.
    explore(3, || {
        let table = table::<1>();
        assert!(insert(&table, 7, 1).is_some());
        let ager = spawn(&table, age);
        let writer = spawn(&table, |table| insert(table, 8, 2));
        read(&table, 7);
        read(&table, 8);
        join(ager);
        join(writer);
        read(&table, 8);
    });
}

#[test]
fn an_entry_is_reused_by_the_same_flow_under_a_reader() {
    // The tag is the same: only the generation tells them apart.
    explore(3, || {
        let table = table::<1>();
        assert!(insert(&table, 7, 1).is_some());
        // Read before: loom goes back only to the last access to a word before a store, and that must be the reader's.
        let mut entry = None;
        table.scan(0, u32::MAX, |visit| {
            if let Visit::Flow(found) = visit {
                entry = Some((found.index, found.control, found.value));
            }
        });
        let again = spawn(&table, move |table| {
            let (index, control, value) = entry.expect("it is in");
            assert!(table.remove_if(index, control, value));
            insert(table, 7, 2)
        });
        read(&table, 7);
        assert_eq!(join(again), Some((true, 2)));
        read(&table, 7);
    });
}

#[test]
fn two_writers_a_reader_and_the_ager() {
    explore(2, || {
        let table = table::<2>();
        let first = spawn(&table, |table| insert(table, 7, 1));
        let second = spawn(&table, |table| insert(table, 7, 2));
        let ager = spawn(&table, age);
        read(&table, 7);
        let outcomes = [join(first), join(second)];
        let inserted = outcomes.iter().flatten().filter(|(new, _)| *new).count();
        let left = inserted - join(ager);
        assert_eq!(entries_of(&table, 7), left);
        assert!(left <= 1, "the flow is in twice");
    });
}

#[test]
fn a_late_touch_does_not_reach_the_next_flow() {
    explore(4, || {
        let table = table_with::<1>(Variant::Exchanging);
        assert!(insert(&table, 7, 1).is_some());
        let toucher = spawn(&table, |table| {
            if let Some(flow) = table.lookup(&[7]) {
                let _ = flow.update(Value {
                    seen: Ticks(9),
                    ..flow.value
                });
            }
        });
        if age(&table) == 1 {
            assert_eq!(insert(&table, 8, 2), Some((true, 2)));
        }
        join(toucher);
        read(&table, 7);
        if let Some(flow) = table.lookup(&[8]) {
            belongs_together(8, &flow);
            assert_eq!(flow.value.seen, Ticks(0), "touched for another flow");
        }
    });
}

#[test]
fn removed_is_removed_once() {
    explore(4, || {
        let table = table::<1>();
        assert!(insert(&table, 7, 1).is_some());
        let ager = spawn(&table, age);
        let by_packet = table.lookup(&[7]).is_some_and(|flow| flow.remove());
        assert_eq!(usize::from(by_packet) + join(ager), 1);
        assert_eq!(table.count(), 0);
    });
}

/// A writer finds the flow's own entry taken and goes on to the other; before it has, that one is freed and a second writer
/// takes it, who has not seen the first. Whether both have inserted the flow.
fn in_twice(variant: Variant) -> bool {
    static TWICE: AtomicBool = AtomicBool::new(false);
    TWICE.store(false, Relaxed);
    explore(2, move || {
        let table = table_with::<2>(variant);
        let home = table.place(7);
        let squatter = (8..)
            .find(|&key| table.place(key) == home)
            .expect("half of all keys");
        assert!(insert(&table, squatter, 3).is_some());
        let first = spawn(&table, |table| insert(table, 7, 1));
        assert!(table.lookup(&[squatter]).is_some_and(|flow| flow.remove()));
        let second = insert(&table, 7, 2);
        let first = join(first);
        if let (Some((true, _)), Some((true, _))) = (first, second) {
            TWICE.store(true, Relaxed);
        }
    });
    TWICE.load(Relaxed)
}

trait Place {
    fn place(&self, key: u64) -> u32;
}

impl<const WAYS: usize> Place for Model<WAYS> {
    /// Which entry a flow gets in an empty table.
    fn place(&self, key: u64) -> u32 {
        assert!(insert(self, key, 9).is_some());
        let mut place = 0;
        self.scan(0, u32::MAX, |visit| {
            if let Visit::Flow(entry) = visit {
                place = entry.index;
                assert!(self.remove_if(entry.index, entry.control, entry.value));
            }
        });
        place
    }
}

#[test]
fn writers_that_begin_in_different_places_agree() {
    assert!(!in_twice(Variant::AsItIs));
}

/// Keeps the checker honest.
#[test]
fn without_the_barrier_a_flow_can_be_in_twice() {
    assert!(in_twice(Variant::Unfenced));
}

/// Entries without anything beside the value: records.
struct Bare;

impl Layout for Bare {
    type Key = [u64; 1];
    type Extra = [u64; 0];
    const WAYS: usize = 1;
    const STRIDE: usize = 4;
    const PATIENCE: usize = 2;
}

#[test]
fn a_flow_is_found_while_it_moves_to_the_established_ones() {
    explore(4, || {
        let table = || {
            let words = Arc::new((0..4).map(|_| AtomicU64::new(0)).collect());
            let variant = Variant::AsItIs;
            Table::new(ModelMemory { words, variant }, 0, 1)
        };
        let tracker: Arc<Tracker<Bare, _>> = Arc::new(Tracker {
            flows: table(),
            half_open: table(),
        });
        fn packet(
            tracker: &Tracker<Bare, ModelMemory>,
            flags: u8,
        ) -> PacketRecords<'_, Bare, ModelMemory> {
            PacketRecords {
                tracker,
                key: [7],
                protocol: PROTOCOL_TCP,
                flags,
                now: Ticks(0),
                when_full: WhenFull::Refuse,
            }
        }
        packet(&tracker, SYN).write(Writing {
            backend: 3,
            moves: false,
            state: 0,
        });
        let acknowledge = |tracker: &Tracker<Bare, ModelMemory>| {
            let records = packet(tracker, ACK);
            let (recorded, found) = records.find().expect("the flow is recorded");
            assert_eq!(recorded.backend, 3);
            if let Some(state) = records.seen(found) {
                records.write(Writing {
                    backend: 3,
                    moves: true,
                    state,
                });
            }
        };
        let other = {
            let tracker = tracker.clone();
            thread::spawn(move || acknowledge(&tracker))
        };
        acknowledge(&tracker);
        join(other);
        assert_eq!((tracker.flows.count(), tracker.half_open.count()), (1, 0));
    });
}
