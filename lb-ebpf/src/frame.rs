//! An XDP frame as `lb_common` sees it.

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::{frame::Frame, ip::Chain, related::Requote, wire::Wire};

use crate::{apart, maps::hand_over_change};

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
        // Also on failure the verifier forgets all pointers into the frame.
        *self = Self::new(self.context);
        moved
    }

    #[inline(always)]
    fn truncate(&mut self, length: usize) -> bool {
        // Hidden: the compiler would subtract pointers in 32 bits, which the verifier does not allow.
        let current = core::hint::black_box(self.length());
        let delta = length as i32 - current as i32;
        // SAFETY: the context is the one the kernel handed to this program.
        let cut = unsafe { bpf_xdp_adjust_tail(self.context.ctx, delta) == 0 };
        *self = Self::new(self.context);
        cut
    }

    #[inline(always)]
    fn renew(&mut self) {
        // Hidden, so that the compiler does not take the bounds for those that it has checked already.
        let context = core::hint::black_box(self.context.ctx);
        // SAFETY: the context that the kernel handed to this program.
        unsafe {
            self.data = (*context).data as usize;
            self.data_end = (*context).data_end as usize;
        }
    }

    #[inline(always)]
    fn ingress_ifindex(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn tags(&self) -> u64 {
        apart::tags(self.context.ctx)
    }

    #[inline(always)]
    fn requote(&mut self, change: &Requote) -> bool {
        let done = hand_over_change(change)
            && apart::describe(self.context.ctx, 0) != 0
            && apart::requote(self.context.ctx) != 0;
        self.renew();
        done
    }

    #[inline(always)]
    fn clamp(&mut self, limit: u16) {
        if apart::describe(self.context.ctx, 0) != 0 {
            apart::clamp(self.context.ctx, limit.into());
        }
        self.renew();
    }

    #[inline(always)]
    fn extensions(&self, chain: Chain) -> u64 {
        apart::extensions(self.context.ctx, chain.pack())
    }
}
