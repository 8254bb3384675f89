//! Global functions: the kernel verifies each once and by itself, knowing of its arguments no more than their types, and so knows as
//! little of the result. Rare work and what has many ways through it belongs here; a call costs a few nanoseconds.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use lb_common::{
    answer::{self, Case},
    consistency::{Look, Steer, Writing, Written},
    fragment,
    ip::{self, Chain, V4, V6},
    job::Outcome,
    mss, parse,
    reason::Reason,
    related, select, steering,
    tables::{Tables, features},
    tunnel,
};

use crate::{
    frame::XdpFrame,
    maps::{MapTables, change, hand_over, job, job_mut},
};

/// [`parse::tags`]; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tags(context: *mut xdp_md) -> u64 {
    let context = XdpContext::new(context);
    opaque(parse::tags(&XdpFrame::new(&context)).map_or(0, parse::Link::pack))
}

/// [`ip::extensions`] of a packed [`Chain`]; 0 for none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn extensions(context: *mut xdp_md, chain: u64) -> u64 {
    let context = XdpContext::new(context);
    opaque(ip::extensions(&XdpFrame::new(&context), Chain::unpack(chain)).map_or(0, Chain::pack))
}

/// [`tunnel::encapsulate`] of the job that was handed over: a packed [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn encapsulate(context: *mut xdp_md) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::TUNNEL == 0 {
        return DEFECT;
    }
    let Some(job) = job() else {
        return DEFECT;
    };
    opaque(tunnel::encapsulate(&mut XdpFrame::new(&context), &tables, job).pack())
}

/// [`related::quote`] of the job that was handed over, which becomes that of the flow; 0 if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn quote(context: *mut xdp_md) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::RELATED == 0 {
        return 0;
    }
    let Some(job) = job_mut() else {
        return 0;
    };
    opaque(related::quote(&mut XdpFrame::new(&context), job).into())
}

/// [`related::requote`] of the job and the change that were handed over; 0 if it failed.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn requote(context: *mut xdp_md) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::RELATED == 0 {
        return 0;
    }
    let (Some(job), Some(change)) = (job(), change()) else {
        return 0;
    };
    opaque(related::requote(&mut XdpFrame::new(&context), job, change).into())
}

/// Hands over [`answer::describe`] of the frame, a service and a backend (in the upper half); 0 if it cannot be read.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn describe(context: *mut xdp_md, records: u64) -> u64 {
    let context = XdpContext::new(context);
    let case = Case {
        reason: Reason::Unmatched,
        service: records as u32,
        backend: (records >> 32) as u32,
    };
    let job = answer::describe(&XdpFrame::new(&context), case);
    opaque(job.is_some_and(|job| hand_over(&job)).into())
}

/// [`answer::answer`] of the job that was handed over, for the reason of this number: a packed [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer(context: *mut xdp_md, reason: u32) -> u64 {
    let (Some(job), Some(reason)) = (job(), Reason::from_number(reason)) else {
        return DEFECT;
    };
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::ANSWER == 0 {
        return DEFECT;
    }
    opaque(answer::answer(&mut XdpFrame::new(&context), &tables, job, reason).pack())
}

/// [`answer::reset`] of the job that was handed over, for the reason of this number: a packed [`Outcome`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reset(context: *mut xdp_md, reason: u32) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::ANSWER == 0 {
        return DEFECT;
    }
    let (Some(job), Some(reason)) = (job(), Reason::from_number(reason)) else {
        return DEFECT;
    };
    opaque(answer::reset(&mut XdpFrame::new(&context), &tables, job, reason).pack())
}

/// [`fragment::ports`] of the job that was handed over: a packed [`fragment::Found`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn fragment_ports(context: *mut xdp_md) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::FRAGMENTS == 0 {
        return DEFECT;
    }
    let Some(job) = job() else {
        return DEFECT;
    };
    opaque(fragment::pack(fragment::ports(
        &XdpFrame::new(&context),
        &tables,
        job,
    )))
}

/// [`select::salt`] of the job that was handed over and the service with this record.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn salt(context: *mut xdp_md, service: u32) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::SALT == 0 {
        return 0;
    }
    let (Some(job), Some(service)) = (job(), tables.service(service)) else {
        return 0;
    };
    opaque(select::salt(&XdpFrame::new(&context), &tables, job, service).into())
}

/// [`mss::clamp`] of the job that was handed over; 1 if something was changed.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn clamp(context: *mut xdp_md, limit: u32) -> u64 {
    let context = XdpContext::new(context);
    let tables = MapTables::new(&context);
    if tables.features() & features::MSS == 0 {
        return 0;
    }
    let Some(job) = job() else {
        return 0;
    };
    let clamped = mss::clamp(&mut XdpFrame::new(&context), job, limit as u16);
    opaque(clamped.is_some().into())
}

macro_rules! steering {
    ($($look:ident, $write:ident: $family:ty;)+) => {$(
        /// [`steering::look`] of the job that was handed over: a packed [`Look`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $look(context: *mut xdp_md) -> u64 {
            let context = XdpContext::new(used(context));
            let tables = MapTables::new(&context);
            let Some(job) = job() else {
                return NOWHERE;
            };
            if tables.features() & features::TRACK == 0 {
                return NOWHERE;
            }
            opaque(steering::look::<$family, _>(&tables, job).pack())
        }

        /// [`steering::write`] of the job that was handed over, for a packed [`Writing`]: a [`Written`].
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $write(context: *mut xdp_md, writing: u64) -> u64 {
            let context = XdpContext::new(used(context));
            let tables = MapTables::new(&context);
            let Some(job) = job() else {
                return Written::Full as u64;
            };
            if tables.features() & features::TRACK == 0 {
                return Written::Full as u64;
            }
            opaque(steering::write::<$family, _>(&tables, job, Writing::unpack(writing)) as u64)
        }
    )+};
}

steering! {
    look_v4, write_v4: V4;
    look_v6, write_v6: V6;
}

const NOWHERE: u64 = Look::Done(Steer::NoBackend).pack();

pub const DEFECT: u64 = Outcome::not_sent(Reason::TableDefect).pack();

/// Keeps an argument that the compiler sees no use for: the kernel insists on a context where the type says so.
#[inline(always)]
fn used(context: *mut xdp_md) -> *mut xdp_md {
    core::hint::black_box(context)
}

/// Hides a result's range from the compiler, which else drops the masks in the caller that the verifier asks for.
#[inline(always)]
fn opaque(word: u64) -> u64 {
    core::hint::black_box(word)
}
