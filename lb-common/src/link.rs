//! Putting a packet on a link: MAC addresses and VLAN tag for its next hop.

use zerocopy::network_endian::U16;

use crate::{
    frame::Frame,
    parse::Link,
    reason::Reason,
    tables::NextHop,
    wire::{ETHERTYPE_VLAN, Ethernet, VlanTag},
};

/// Priority and drop-eligible bits of a tag's control field: kept when a tag is replaced.
const PRIORITY_BITS: u16 = 0xf000;

/// How a frame leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By the interface that it came in on.
    SameInterface,
    /// By another one.
    Interface(u32),
}

/// Writes the link header for `next_hop` in place of the frame's own; the network header has to be complete.
///
/// # Errors
/// [`Reason::NoNextHop`] if it is not resolved; [`Reason::NoHeadroom`] if a tag does not fit.
#[inline(always)]
pub fn address<F: Frame>(frame: &mut F, link: Link, next_hop: &NextHop) -> Result<Exit, Reason> {
    if next_hop.ifindex == 0 {
        return Err(Reason::NoNextHop);
    }
    // Copied out: after the head has moved, nothing read before is valid.
    let NextHop {
        ifindex,
        destination,
        source,
        vlan,
        ..
    } = *next_hop;
    let tags = if vlan == 0 { 0 } else { 1 };
    let priority = link.control & PRIORITY_BITS;
    if link.tags != tags {
        let delta = (link.tags as i32 - tags as i32) * size_of::<VlanTag>() as i32;
        if !frame.adjust_head(delta) {
            return Err(Reason::NoHeadroom);
        }
    }
    let header = frame.get_mut::<Ethernet>(0).ok_or(Reason::NoHeadroom)?;
    header.destination = destination;
    header.source = source;
    if tags == 0 {
        header.ethertype = U16::new(link.ethertype);
    } else {
        header.ethertype = U16::new(ETHERTYPE_VLAN);
        let tag = frame
            .get_mut::<VlanTag>(size_of::<Ethernet>())
            .ok_or(Reason::NoHeadroom)?;
        tag.control = U16::new(priority | vlan);
        tag.ethertype = U16::new(link.ethertype);
    }
    Ok(if ifindex == frame.ingress_ifindex() {
        Exit::SameInterface
    } else {
        Exit::Interface(ifindex)
    })
}
