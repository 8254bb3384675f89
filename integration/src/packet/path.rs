//! One packet through the packet path: the loaded program, the host's build, or both, which have to agree.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use lb_common::{
    flow_table::Ticks,
    forward::{Verdict, forward},
    host::{HeapTables, SliceFrame},
    reason::Reason,
    steering::{FlowSettings, FlowTable},
    tables::{Backend, Counter, Route, RouteQuery, Service, Tables},
};
use lb_core::plan::Capacity;
use lb_userspace::{
    dataplane::{Action, Dataplane, Options},
    vrrp::clock,
};

use super::{namespace::alone, world};

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    /// As it left.
    pub frame: Vec<u8>,
    /// The one counter that went up.
    pub reason: Reason,
    /// The backend's record that it was counted for.
    pub backend: Option<u32>,
    /// Interface of a redirection, where it is known: a test run of the kernel does not tell.
    pub interface: Option<u32>,
}

thread_local! {
    /// What the host's build remembers of fragments: each test has its thread, and its program in the kernel.
    static FRAGMENTS: RefCell<BTreeMap<u32, u64>> = RefCell::default();
}

/// Tables with the routes of [`world`], that note what is counted.
struct Recorder<'a, T> {
    tables: &'a T,
    reason: Cell<Option<Reason>>,
    backend: Cell<Option<u32>>,
}

impl<T: Tables> Tables for Recorder<'_, T> {
    type Memory = T::Memory;

    fn flow_memory(&self, table: FlowTable) -> T::Memory {
        self.tables.flow_memory(table)
    }

    fn flow_settings(&self) -> FlowSettings {
        self.tables.flow_settings()
    }

    fn now(&self) -> Ticks {
        self.tables.now()
    }

    fn note_unrecorded(&self, service: u32) {
        self.tables.note_unrecorded(service);
    }

    fn index_mask(&self) -> u32 {
        self.tables.index_mask()
    }

    fn cell(&self, position: u32) -> u64 {
        self.tables.cell(position)
    }

    fn service(&self, record: u32) -> Option<&Service> {
        self.tables.service(record)
    }

    fn slot(&self, position: u32) -> Option<u32> {
        self.tables.slot(position)
    }

    fn backend(&self, record: u32) -> Option<&Backend> {
        self.tables.backend(record)
    }

    fn route(&self, query: &RouteQuery) -> Route {
        world::route(query.destination.into(), query.length)
    }

    fn boot_ns(&self) -> u64 {
        clock::now().as_nanos() as u64
    }

    fn fragment_word(&self, position: u32) -> u64 {
        FRAGMENTS.with_borrow(|words| words.get(&position).copied().unwrap_or(0))
    }

    fn set_fragment_word(&self, position: u32, word: u64) {
        FRAGMENTS.with_borrow_mut(|words| words.insert(position, word));
    }

    fn count_backend(&self, record: u32, _bytes: u32) {
        assert_eq!(self.backend.replace(Some(record)), None, "counted twice");
    }

    fn count(&self, reason: Reason, _bytes: u32) {
        assert_eq!(self.reason.replace(Some(reason)), None, "counted twice");
    }
}

/// A frame through the host's build, over any tables.
///
/// # Panics
/// If it is not counted exactly once.
pub fn on_host<T: Tables>(tables: &T, frame: &[u8], ingress: u32) -> Outcome {
    let recorder = Recorder {
        tables,
        reason: Cell::default(),
        backend: Cell::default(),
    };
    let mut frame = SliceFrame::new(frame, ingress);
    let (action, interface) = match forward(&mut frame, &recorder) {
        Verdict::Pass => (Action::Pass, None),
        Verdict::Drop => (Action::Drop, None),
        Verdict::Transmit => (Action::Transmit, None),
        Verdict::Redirect(interface) => (Action::Redirect, Some(interface)),
    };
    Outcome {
        action,
        frame: frame.bytes().to_vec(),
        reason: recorder.reason.get().expect("every way out is counted"),
        backend: recorder.backend.get(),
        interface,
    }
}

/// The world's services on the heap.
pub fn heap_world() -> HeapTables {
    let mut tables = world::CAPACITY.heap();
    for write in world::plan(&world::model()).1 {
        write.execute(&mut tables);
    }
    tables
}

/// Loads the program over empty tables.
pub fn load(capacity: Capacity) -> Dataplane {
    let options = Options {
        // The host's build has no limit, and has to agree.
        answers_per_second: u32::MAX,
        ..Options::new(capacity)
    };
    let opened = Dataplane::open(options);
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// The loaded program with the world's services.
pub fn load_world() -> Dataplane {
    let mut dataplane = load(world::CAPACITY);
    let writes = world::plan(&world::model()).1;
    let written = dataplane.tables_mut().apply(&writes);
    written.unwrap_or_else(|error| panic!("{error}"));
    dataplane
}

/// Runs `test` with the loaded program and the world's services, routes and neighbours.
pub fn with_world<T: Send>(test: impl FnOnce(&Dataplane) -> T + Send) -> T {
    alone(&world::ip_commands(), || test(&load_world()))
}

/// A frame through the loaded program.
///
/// # Panics
/// If it does not end in exactly one counter, with its length.
pub fn in_kernel(dataplane: &Dataplane, frame: &[u8], ingress: u32) -> Outcome {
    let before = dataplane.tables().reason_counters();
    let run = dataplane.test_run(frame, ingress);
    let run = run.unwrap_or_else(|error| panic!("{error}"));
    let after = dataplane.tables().reason_counters();
    let mut counted = before.iter().zip(&after).filter(|(old, new)| old != new);
    let (Some((old, new)), None) = (counted.next(), counted.next()) else {
        panic!("not one counter: {before:?} {after:?}");
    };
    let one = Counter {
        packets: old.1.packets + 1,
        bytes: old.1.bytes + frame.len() as u64,
    };
    assert_eq!(new.1, one, "{}", new.0.label());
    Outcome {
        action: run.action,
        frame: run.frame,
        reason: new.0,
        backend: None,
        interface: None,
    }
}

/// A frame through both, over the mapped tables. The outcome has what both know together.
///
/// # Panics
/// If they do not agree, or a backend's counter in the kernel does not show what the host's build counted.
pub fn on_both(dataplane: &Dataplane, frame: &[u8], ingress: u32) -> Outcome {
    let host = on_host(dataplane.tables(), frame, ingress);
    let counter = |record: Option<u32>| record.map(|at| dataplane.tables().backend_counter(at));
    let before = counter(host.backend);
    let kernel = in_kernel(dataplane, frame, ingress);
    let alike =
        (kernel.action, kernel.reason) == (host.action, host.reason) && kernel.frame == host.frame;
    assert!(
        alike,
        "the builds differ on interface {ingress}: {frame:02x?}\nhost: {host:02x?}\nkernel: {kernel:02x?}"
    );
    let after = counter(host.backend);
    assert_eq!(
        after,
        before.map(|old| Counter {
            packets: old.packets + 1,
            bytes: old.bytes + frame.len() as u64,
        })
    );
    host
}
