//! Times a program on packets of many flows: gives it a fresh packet for every run of a repeated test run.

use aya_ebpf::{
    bindings::xdp_action::XDP_ABORTED,
    btf_maps::ProgramArray,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use lb_common::{frame::Frame, load};

use crate::{
    frame::XdpFrame,
    load::{PLAN, PROGRESS},
};

/// Number 0 is the program under test.
#[btf_map]
static TESTED: ProgramArray<1> = ProgramArray::new();

/// Undoes what the run before has done, writes the next flow's packet and goes on in the program under test.
#[xdp]
pub fn harness(context: XdpContext) -> u32 {
    let (Some(plan), Some(progress)) = (PLAN.get(0), PROGRESS.get_ptr_mut(0)) else {
        return XDP_ABORTED;
    };
    // SAFETY: an element of the map; one thread runs the harness.
    let progress = unsafe { &mut *progress };
    let mut frame = XdpFrame::new(&context);
    // Hidden: the compiler would subtract pointers in 32 bits, which the verifier does not allow.
    let length = core::hint::black_box(frame.length());
    let grown = length as i32 - plan.length as i32;
    if grown != 0 && !frame.adjust_head(grown) {
        return XDP_ABORTED;
    }
    let number = progress.sent;
    let flow = load::flow(plan, progress, number);
    if load::write(&mut frame, plan, flow, None).is_none() {
        return XDP_ABORTED;
    }
    progress.sent = number + 1;
    // SAFETY: context and map are the program's own.
    unsafe { TESTED.tail_call(&context, 0) };
    XDP_ABORTED
}
