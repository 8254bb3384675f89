//! An XDP frame for load and yardsticks: as the balancer's, without the functions that it keeps apart.

use aya_ebpf::{helpers::bpf_xdp_adjust_head, programs::XdpContext};
use lb_common::{frame::Frame, ip::Chain, wire::Wire};

/// The bounds are read once: a pointer that is loaded from the context anew has lost what the verifier knew of it.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
    data: usize,
    data_end: usize,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    pub fn new(context: &'a XdpContext) -> Self {
        Self {
            context,
            data: context.data(),
            data_end: context.data_end(),
        }
    }

    /// Pointer to `T` at `offset` if all of it lies before `data_end`.
    #[inline(always)]
    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data + offset;
        if start + size_of::<T>() > self.data_end {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        // SAFETY: checked against data_end; `Wire` types have no alignment and no invalid values. The frame belongs
        // to this program alone while it runs, and `adjust_head` takes `&mut self`, which ends all borrows.
        self.pointer::<T>(offset)
            .map(|pointer| unsafe { &*pointer })
    }

    #[inline(always)]
    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `get`; `&mut self` makes it the only reference.
        self.pointer::<T>(offset)
            .map(|pointer| unsafe { &mut *pointer })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.data_end - self.data
    }

    #[inline(always)]
    fn adjust_head(&mut self, delta: i32) -> bool {
        // SAFETY: the context is the one the kernel handed to this program.
        let moved = unsafe { bpf_xdp_adjust_head(self.context.ctx, delta) == 0 };
        *self = Self::new(self.context);
        moved
    }

    /// Nothing here shortens a frame.
    #[inline(always)]
    fn truncate(&mut self, _length: usize) -> bool {
        false
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    /// A yardstick is not asked for extension headers: such a packet is not its own.
    #[inline(always)]
    fn extensions(&self, _chain: Chain) -> u64 {
        0
    }
}
