//! The bytes of a packet, wherever they live.

use crate::{
    answer::{self, Case},
    ip::{self, Chain},
    mss,
    parse::{self, Link},
    related::{self, Requote},
    wire::Wire,
};

/// A frame from its Ethernet header on.
///
/// The XDP program implements it over `xdp_md`, where every access is a bounds check against `data_end` that the
/// verifier follows; [`host::SliceFrame`](crate::host::SliceFrame) implements it over a buffer.
pub trait Frame {
    /// The header of type `T` at `offset` bytes, if it lies wholly inside.
    fn get<T: Wire>(&self, offset: usize) -> Option<&T>;

    /// As [`get`](Self::get), to write.
    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T>;

    /// Length in bytes, all buffers of the frame together.
    fn length(&self) -> usize;

    /// Moves the start: positive `delta` cuts bytes off the head, negative adds room there. What was
    /// learnt of offsets before is then off by `delta`. False if there is no such room; nothing has changed then.
    #[must_use]
    fn adjust_head(&mut self, delta: i32) -> bool;

    /// Cuts the frame's end off, so that `length` bytes are left; it is at least as long. False if that fails.
    #[must_use]
    fn truncate(&mut self, length: usize) -> bool;

    /// Looks anew where the frame lies: after something else has moved its start, and where the compiler is to forget what it knows
    /// of the bounds, because the verifier cannot follow it.
    fn renew(&mut self) {}

    /// Interface that it arrived on.
    fn ingress_ifindex(&self) -> u32;

    /// Reads on behind the Ethernet header of a frame whose first ethertype is that of a tag: a packed [`Link`], or 0.
    ///
    /// This and [`extensions`](Self::extensions) are here, so that the kernel's frame can put them into functions that the
    /// verifier sees once, instead of once for every path that leads there.
    #[inline(always)]
    fn tags(&self) -> u64
    where
        Self: Sized,
    {
        parse::tags(self).map_or(0, Link::pack)
    }

    /// [`related::requote`] of the ICMP error that this is; false if it does not hold together.
    #[inline(always)]
    fn requote(&mut self, change: &Requote) -> bool
    where
        Self: Sized,
    {
        match answer::describe(self, Case::default()) {
            Some(job) => related::requote(self, &job, change),
            None => false,
        }
    }

    /// [`mss::clamp`] of the SYN that this is.
    #[inline(always)]
    fn clamp(&mut self, limit: u16)
    where
        Self: Sized,
    {
        if let Some(job) = answer::describe(self, Case::default()) {
            mss::clamp(self, &job, limit);
        }
    }

    /// Reads on from the first of a chain of IPv6 extension headers: a packed [`Chain`], or 0.
    #[inline(always)]
    fn extensions(&self, chain: Chain) -> u64
    where
        Self: Sized,
    {
        ip::extensions(self, chain).map_or(0, Chain::pack)
    }
}

/// The header at `offset` of a byte slice.
pub fn view<T: Wire>(bytes: &[u8], offset: usize) -> Option<&T> {
    Some(T::ref_from_prefix(bytes.get(offset..)?).ok()?.0)
}

/// As [`view`], to write.
pub fn view_mut<T: Wire>(bytes: &mut [u8], offset: usize) -> Option<&mut T> {
    Some(T::mut_from_prefix(bytes.get_mut(offset..)?).ok()?.0)
}
