//! The floor: the least that a program can do to a frame that it sends back.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_TX},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{frame::Frame, wire::Ethernet};

use crate::frame::XdpFrame;

/// Swaps the MAC addresses.
#[xdp]
pub fn reflect(context: XdpContext) -> u32 {
    let mut frame = XdpFrame::new(&context);
    let Some(header) = frame.get_mut::<Ethernet>(0) else {
        return XDP_DROP;
    };
    (header.destination, header.source) = (header.source, header.destination);
    XDP_TX
}

/// Nothing: what is left is the harness.
#[xdp]
pub fn nothing(_context: XdpContext) -> u32 {
    XDP_TX
}

/// Room for an outer IPv4 header and nothing else: with [`nothing`], the cost of giving the room back in the harness.
#[xdp]
pub fn grow(context: XdpContext) -> u32 {
    if XdpFrame::new(&context).adjust_head(-20) {
        XDP_TX
    } else {
        XDP_DROP
    }
}
