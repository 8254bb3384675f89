//! The load generator and its receiver.

use aya_ebpf::{
    bindings::{
        BPF_F_MMAPABLE,
        xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    },
    btf_maps::{Array, PerCpuArray},
    helpers::bpf_ktime_get_ns,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{
    frame::Frame,
    load::{self, BUCKETS, Plan, Progress, Received, Stamp},
};

use crate::frame::XdpFrame;

const MAPPED: usize = BPF_F_MMAPABLE as usize;
/// Fraction bits of [`Plan::interval`].
const FRACTION_BITS: u32 = 16;
/// Time that a generator which was held up catches up on, at most.
const BEHIND_NS: u64 = 100_000_000;

#[btf_map]
pub static PLAN: Array<Plan, 1, MAPPED> = Array::new();
/// One thread generates, so there is one element.
#[btf_map]
pub static PROGRESS: Array<Progress, 1, MAPPED> = Array::new();
#[btf_map]
static RECEIVED: PerCpuArray<Received, 1> = PerCpuArray::new();
#[btf_map]
static LATENCY: PerCpuArray<u64, { BUCKETS as usize }> = PerCpuArray::new();

/// Sends the next packet, or nothing if none is due. Run with live frames, whose "transmit" is the interface of the context.
#[xdp]
pub fn generate(context: XdpContext) -> u32 {
    let (Some(plan), Some(progress)) = (PLAN.get(0), PROGRESS.get_ptr_mut(0)) else {
        return XDP_DROP;
    };
    // SAFETY: an element of the map; one thread runs the generator, and user space reads it only.
    let progress = unsafe { &mut *progress };
    if context.ingress_ifindex() as u32 != plan.ifindex || progress.sent >= plan.packets {
        return XDP_DROP;
    }
    let mut now = 0;
    if plan.interval != 0 || plan.stamped != 0 || plan.end_ns != 0 {
        // SAFETY: a helper without arguments.
        now = unsafe { bpf_ktime_get_ns() };
        if plan.end_ns != 0 && now > plan.end_ns {
            return XDP_DROP;
        }
    }
    if plan.interval != 0 && !is_due(plan, progress, now) {
        return XDP_DROP;
    }
    let number = progress.sent;
    let flow = load::flow(plan, progress, number);
    let stamp = if plan.stamped == 0 {
        None
    } else {
        Some(Stamp::new(number, now))
    };
    if load::write(&mut XdpFrame::new(&context), plan, flow, stamp).is_none() {
        return XDP_DROP;
    }
    progress.sent = number + 1;
    XDP_TX
}

#[inline(always)]
fn is_due(plan: &Plan, progress: &mut Progress, now: u64) -> bool {
    if progress.started_ns == 0 {
        progress.started_ns = now;
    }
    let elapsed = now - progress.started_ns;
    let at = elapsed << FRACTION_BITS;
    if at < progress.due {
        return false;
    }
    let oldest = elapsed.saturating_sub(BEHIND_NS) << FRACTION_BITS;
    let due = if progress.due < oldest {
        oldest
    } else {
        progress.due
    };
    progress.due = due + plan.interval;
    true
}

/// Counts packets that carry a stamp, and keeps them; passes all others.
#[xdp]
pub fn receive(context: XdpContext) -> u32 {
    let frame = XdpFrame::new(&context);
    let Some(stamp) = load::stamp(&frame) else {
        return XDP_PASS;
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    count(frame.length() as u32, Some(&stamp));
    let latency = now.wrapping_sub(u64::from_ne_bytes(stamp.sent_ns));
    // Of clocks that differ comes a large number; the last bucket has it.
    if let Some(bucket) = LATENCY.get_ptr_mut(load::bucket(latency)) {
        // SAFETY: an element of this CPU.
        unsafe { *bucket += 1 };
    }
    XDP_DROP
}

/// Counts all frames and keeps them.
#[xdp]
pub fn sink(context: XdpContext) -> u32 {
    count(XdpFrame::new(&context).length() as u32, None);
    XDP_DROP
}

#[inline(always)]
fn count(bytes: u32, stamp: Option<&Stamp>) {
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: an element of this CPU, on which no other program runs before this one has ended.
        unsafe { (*received).count(bytes, stamp) };
    }
}
