//! The tables as BPF maps. User space sets their sizes when it loads the program.

use aya_ebpf::{
    Global,
    bindings::{
        BPF_F_MMAPABLE, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
    },
    btf_maps::{Array, PerCpuArray},
    helpers::{
        bpf_fib_lookup as fib_lookup, bpf_get_prandom_u32, bpf_get_smp_processor_id,
        bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    },
    macros::btf_map,
    programs::XdpContext,
};
use lb_common::{
    answer::Case,
    consistency::{Look, Steer, Writing, Written},
    echo::Identity,
    flow_table::Ticks,
    fragment,
    frame::Frame,
    job::{Job, Outcome},
    lease::{self, Held, Lease},
    reason::Reason,
    related::{Flow, Requote},
    steering::{Family, FlowSettings, FlowTable, Recorded, mark},
    tables::{Backend, Counter, NextHop, Route, RouteQuery, Service, Settings, Tables},
};

use crate::{apart, flows::MapMemory};

/// Mapped into the daemon, which writes and reads them as memory.
pub const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// Constants of this load: the verifier sees their values and prunes what they make unreachable.
#[unsafe(no_mangle)]
static SETTINGS: Global<Settings> = Global::new(Settings::DEFAULT);

#[btf_map]
static INDEX: Array<u64, 1, MAPPED> = Array::new();
#[btf_map]
static SERVICES: Array<Service, 1, MAPPED> = Array::new();
/// Two slots in an element: arrays have a stride of 8 bytes.
#[btf_map]
static SLOTS: Array<u64, 1, MAPPED> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, 1, MAPPED> = Array::new();
/// One block of `Settings::backends` counters per CPU.
#[btf_map]
static BACKEND_COUNTERS: Array<Counter, 1, MAPPED> = Array::new();
/// One block of `Settings::REASONS` counters per CPU.
#[btf_map]
static REASON_COUNTERS: Array<Counter, 1, MAPPED> = Array::new();

/// What a function of [`apart`] works on. Not on the stack: the 512 bytes of it are for all functions of a chain of calls together.
#[btf_map]
static JOB: PerCpuArray<Job, 1> = PerCpuArray::new();

/// Fragments in flight; a restart forgets them.
#[btf_map]
static FRAGMENTS: Array<u64, { fragment::WORDS as usize }> = Array::new();

/// Periods of 2³⁰ ns, a second near enough.
const PERIOD_SHIFT: u32 = 30;

/// Answers given in a period.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Answers {
    period: u64,
    count: u64,
}

#[btf_map]
static ANSWERS: PerCpuArray<Answers, 1> = PerCpuArray::new();

#[inline(always)]
pub fn hand_over(job: &Job) -> bool {
    match JOB.get_ptr_mut(0) {
        Some(place) => {
            // SAFETY: an element of the map for this CPU, on which no other program runs before this one has ended.
            unsafe { *place = *job };
            true
        }
        None => false,
    }
}

/// How an ICMP error is to be changed.
#[btf_map]
static CHANGE: PerCpuArray<Requote, 1> = PerCpuArray::new();

#[inline(always)]
pub fn hand_over_change(change: &Requote) -> bool {
    match CHANGE.get_ptr_mut(0) {
        Some(place) => {
            // SAFETY: as in `hand_over`.
            unsafe { *place = *change };
            true
        }
        None => false,
    }
}

/// The change that was handed over.
#[inline(always)]
pub fn change() -> Option<&'static Requote> {
    CHANGE.get(0)
}

/// The job that was handed over, to be made another.
#[inline(always)]
pub fn job_mut() -> Option<&'static mut Job> {
    // SAFETY: as in `hand_over`; a function apart has this reference alone.
    JOB.get_ptr_mut(0).map(|job| unsafe { &mut *job })
}

/// The job that was handed over.
#[inline(always)]
pub fn job() -> Option<&'static Job> {
    JOB.get(0)
}

/// What packets note of a service, by its record: packed [`Notes`](lb_common::steering::Notes), and in the upper half [`Recorded`].
#[btf_map]
static NOTES: Array<u64, 1, MAPPED> = Array::new();

/// The secret of the flow tables' hash, for the next daemon; the program has it in [`SETTINGS`].
#[btf_map]
static SECRET: Array<u64, 1, MAPPED> = Array::new();

/// One element: who this node is in echo frames.
#[btf_map]
static IDENTITY: Array<Identity, 1, MAPPED> = Array::new();
#[btf_map]
static LEASES: Array<Lease, { lease::LEASES as usize }, MAPPED> = Array::new();
#[btf_map]
static HELD: Array<Held, { lease::HELD as usize }, MAPPED> = Array::new();

/// The tables during one run of the program.
pub struct MapTables<'a> {
    context: &'a XdpContext,
    settings: Settings,
}

impl<'a> MapTables<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self {
            context,
            settings: SETTINGS.load(),
        }
    }
}

impl Tables for MapTables<'_> {
    type Memory = MapMemory;

    #[inline(always)]
    fn flow_memory(&self, table: FlowTable) -> MapMemory {
        MapMemory(table)
    }

    #[inline(always)]
    fn flow_settings(&self) -> FlowSettings {
        FlowSettings {
            flow_mask: self.settings.flow_mask,
            half_open_mask: self.settings.half_open_mask,
            seed: self.settings.flow_seed,
        }
    }

    #[inline(always)]
    fn now(&self) -> Ticks {
        // SAFETY: a helper without arguments.
        Ticks::from_ns(unsafe { bpf_ktime_get_coarse_ns() })
    }

    #[inline(always)]
    fn may_record(&self, service: u32, limit: u32) -> bool {
        let Some(notes) = NOTES.get_ptr_mut(service) else {
            return false;
        };
        // SAFETY: the second half of an element of the map; volatile because other CPUs change it at any time.
        unsafe {
            let recorded = notes.cast::<u32>().add(1);
            match Recorded(recorded.read_volatile()).one_more(self.now(), limit) {
                Some(more) => {
                    recorded.write_volatile(more.0);
                    true
                }
                None => false,
            }
        }
    }

    #[inline(always)]
    fn note_unrecorded(&self, service: u32) {
        if let Some(notes) = NOTES.get_ptr_mut(service) {
            // SAFETY: the first half of an element of the map; volatile because user space reads it at any time.
            unsafe { notes.cast::<u32>().write_volatile(mark(Some(self.now()))) }
        }
    }

    #[inline(always)]
    fn look<V: Family>(&self, job: &Job) -> Look {
        if !hand_over(job) {
            return Look::Done(Steer::NoBackend);
        }
        Look::unpack(match V::FLOWS {
            FlowTable::Flows4 => apart::look_v4(self.context.ctx),
            _ => apart::look_v6(self.context.ctx),
        })
    }

    #[inline(always)]
    fn write<V: Family>(&self, _job: &Job, writing: Writing) -> Written {
        let written = match V::FLOWS {
            FlowTable::Flows4 => apart::write_v4(self.context.ctx, writing.pack()),
            _ => apart::write_v6(self.context.ctx, writing.pack()),
        };
        Written::from_number(written as u8)
    }

    #[inline(always)]
    fn index_mask(&self) -> u32 {
        self.settings.index_mask
    }

    #[inline(always)]
    fn cell(&self, position: u32) -> u64 {
        // SAFETY: an aligned word of the map; volatile because user space replaces it at any time, whole.
        INDEX
            .get_ptr(position)
            .map_or(0, |cell| unsafe { cell.read_volatile() })
    }

    #[inline(always)]
    fn service(&self, record: u32) -> Option<&Service> {
        SERVICES.get(record)
    }

    #[inline(always)]
    fn slot(&self, position: u32) -> Option<u32> {
        // SAFETY: an aligned word of the map; volatile because user space writes slots at any time, each whole.
        let pair = unsafe { SLOTS.get_ptr(position >> 1)?.read_volatile() };
        Some((pair >> ((position & 1) << 5)) as u32)
    }

    #[inline(always)]
    fn backend(&self, record: u32) -> Option<&Backend> {
        BACKENDS.get(record)
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        look_up_route(self.context, query)
    }

    #[inline(always)]
    fn count_backend(&self, record: u32, bytes: u32) {
        let row = cpu() * self.settings.backends;
        if record < self.settings.backends {
            add(BACKEND_COUNTERS.get_ptr_mut(row + record), bytes);
        }
    }

    #[inline(always)]
    fn count(&self, reason: Reason, bytes: u32) {
        add(
            REASON_COUNTERS.get_ptr_mut(cpu() * Settings::REASONS + reason as u32),
            bytes,
        );
    }

    #[inline(always)]
    fn features(&self) -> u32 {
        self.settings.features
    }

    #[inline(always)]
    fn encapsulate<F: Frame>(&self, frame: &mut F, job: &Job) -> u64 {
        if !hand_over(job) {
            return apart::DEFECT;
        }
        let outcome = apart::encapsulate(self.context.ctx);
        frame.renew();
        outcome
    }

    #[inline(always)]
    fn quoted<F: Frame>(&self, frame: &mut F) -> Option<Flow> {
        if apart::describe(self.context.ctx, 0) == 0 || apart::quote(self.context.ctx) == 0 {
            return None;
        }
        frame.renew();
        job().map(Flow::of)
    }

    #[inline(always)]
    fn identity(&self) -> Identity {
        IDENTITY.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn lease(&self, router: u16) -> Lease {
        LEASES.get(u32::from(router)).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn held(&self, position: u32) -> Held {
        HELD.get(position).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn boot_ns(&self) -> u64 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn answer<F: Frame>(&self, frame: &mut F, case: Case) -> u64 {
        let records = u64::from(case.service) | u64::from(case.backend) << 32;
        if apart::describe(self.context.ctx, records) == 0 {
            return Outcome::not_sent(case.reason).pack();
        }
        let outcome = apart::answer(self.context.ctx, case.reason as u32);
        frame.renew();
        outcome
    }

    #[inline(always)]
    fn reset<F: Frame>(&self, frame: &mut F, case: Case) -> u64 {
        if apart::describe(self.context.ctx, u64::from(case.service)) == 0 {
            return Outcome::not_sent(case.reason).pack();
        }
        let outcome = apart::reset(self.context.ctx, case.reason as u32);
        frame.renew();
        outcome
    }

    #[inline(always)]
    fn fragment<F: Frame>(&self, frame: &mut F) -> u64 {
        if apart::describe(self.context.ctx, 0) == 0 {
            return Reason::NotOurs as u64;
        }
        let found = apart::fragment_ports(self.context.ctx);
        frame.renew();
        found
    }

    #[inline(always)]
    fn fragment_word(&self, position: u32) -> u64 {
        // SAFETY: an aligned word of the map; volatile because other CPUs write it, whole.
        FRAGMENTS
            .get_ptr(position)
            .map_or(0, |word| unsafe { word.read_volatile() })
    }

    #[inline(always)]
    fn set_fragment_word(&self, position: u32, word: u64) {
        if let Some(place) = FRAGMENTS.get_ptr_mut(position) {
            // SAFETY: as in `fragment_word`.
            unsafe { place.write_volatile(word) };
        }
    }

    #[inline(always)]
    fn salt<F: Frame>(&self, frame: &mut F, service: u32) -> u32 {
        if apart::describe(self.context.ctx, 0) == 0 {
            return 0;
        }
        let salt = apart::salt(self.context.ctx, service);
        frame.renew();
        salt as u32
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn may_answer(&self) -> bool {
        let Some(answers) = ANSWERS.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: a helper without arguments; an element of the map for this CPU alone.
        unsafe {
            let period = bpf_ktime_get_ns() >> PERIOD_SHIFT;
            if (*answers).period != period {
                *answers = Answers { period, count: 0 };
            }
            (*answers).count += 1;
            (*answers).count <= u64::from(self.settings.answers_per_second)
        }
    }
}

#[inline(always)]
fn cpu() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_smp_processor_id() }
}

#[inline(always)]
fn add(counter: Option<*mut Counter>, bytes: u32) {
    if let Some(counter) = counter {
        // SAFETY: an element of the map, written only by this CPU: XDP programs do not preempt one another.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Asks the kernel's routing and neighbour tables. Its own function: the 64-byte query has its own stack frame.
#[inline(never)]
fn look_up_route(context: &XdpContext, query: &RouteQuery) -> Route {
    // SAFETY: a plain C struct of integers; all zeros is a value.
    let mut fib: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    fib.l4_protocol = query.protocol;
    fib.ifindex = query.ifindex;
    fib.__bindgen_anon_1.tot_len = query.length;
    if query.destination.is_v4() {
        fib.family = AF_INET;
        fib.__bindgen_anon_2.tos = query.tos;
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(query.source.to_v4());
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(query.destination.to_v4());
    } else {
        fib.family = AF_INET6;
        fib.__bindgen_anon_3.ipv6_src = words(query.source.to_v6());
        fib.__bindgen_anon_4.ipv6_dst = words(query.destination.to_v6());
    }
    // SAFETY: `fib` is as long as said, and the context is the program's own.
    let result = unsafe {
        fib_lookup(
            context.ctx.cast(),
            &raw mut fib,
            size_of::<bpf_fib_lookup>() as i32,
            0,
        )
    };
    if result == BPF_FIB_LKUP_RET_SUCCESS as i64 {
        Route::Direct(NextHop {
            ifindex: fib.ifindex,
            destination: fib.dmac,
            source: fib.smac,
            vlan: 0,
            mtu: 0,
        })
    } else if result == BPF_FIB_LKUP_RET_NO_NEIGH as i64 {
        Route::Unresolved
    } else if result == BPF_FIB_LKUP_RET_NOT_FWDED as i64 {
        Route::Host
    } else {
        Route::None
    }
}

#[inline(always)]
fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
