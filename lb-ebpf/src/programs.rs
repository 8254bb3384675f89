//! Entry points.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::bpf_redirect,
    macros::xdp,
    programs::XdpContext,
};
use lb_common::forward::{Verdict, forward};

use crate::{frame::XdpFrame, maps::MapTables};

/// The load balancer.
#[xdp]
#[inline(always)]
pub fn balancer(context: XdpContext) -> u32 {
    let tables = MapTables::new(&context);
    match forward(&mut XdpFrame::new(&context), &tables) {
        Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
        Verdict::Transmit => XDP_TX,
        // SAFETY: a helper with plain arguments; for XDP it answers XDP_REDIRECT.
        Verdict::Redirect(ifindex) => unsafe { bpf_redirect(ifindex, 0) as u32 },
    }
}

/// Passes everything: an interface that others redirect into needs a program in native mode.
#[xdp]
pub fn pass(_context: XdpContext) -> u32 {
    XDP_PASS
}

/// The kernel's helpers are for programs under the GPL; see `Cargo.toml`.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
