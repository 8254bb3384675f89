//! The word that says whether an entry is in use, by which flow roughly, and for the how many-th time.

use super::opaque;

/// Tag (32 bits), generation (30 bits), state (2 bits). All zeros: free.
///
/// A generation begins with each claim. A reader that was stopped in the middle is misled only if an entry is reused exactly 2^30 times
/// meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Control(pub u64);

const TAG_SHIFT: u32 = 32;
const GENERATION_ONE: u64 = 1 << 2;
const GENERATION_MASK: u64 = 0xffff_fffc;
const STATE_MASK: u64 = 3;
const CLAIMED: u64 = 1;
const LIVE: u64 = 2;

impl Control {
    #[inline(always)]
    pub const fn is_free(self) -> bool {
        self.0 & STATE_MASK == 0
    }

    /// Somebody is filling the entry, or died doing so.
    #[inline(always)]
    pub const fn is_claimed(self) -> bool {
        self.0 & STATE_MASK == CLAIMED
    }

    /// The entry holds a flow, and with this tag.
    #[inline(always)]
    pub const fn is_live(self, tag: u32) -> bool {
        self.0 & !GENERATION_MASK == (tag as u64) << TAG_SHIFT | LIVE
    }

    /// The entry holds a flow.
    #[inline(always)]
    pub const fn holds(self) -> bool {
        self.0 & STATE_MASK == LIVE
    }

    /// 1 if the entry is free, else 0.
    #[inline(always)]
    pub(super) fn free_bit(self) -> u64 {
        opaque(opaque(self.0 & STATE_MASK).wrapping_sub(1) >> 63)
    }

    /// 1 if the entry holds a flow, else 0.
    #[inline(always)]
    pub(super) fn live_bit(self) -> u64 {
        opaque(self.0 & LIVE) >> 1
    }

    /// Itself if `fit` is 1; if 0, a word that no entry has.
    #[inline(always)]
    pub(super) const fn where_fit(self, fit: u64) -> Self {
        Self(self.0 | ((fit ^ 1) * STATE_MASK))
    }

    #[inline(always)]
    pub(super) const fn is_claimed_by(self, tag: u32) -> bool {
        self.0 & !GENERATION_MASK == (tag as u64) << TAG_SHIFT | CLAIMED
    }

    #[inline(always)]
    pub(super) const fn claim(self, tag: u32) -> Self {
        let generation = self.0.wrapping_add(GENERATION_ONE) & GENERATION_MASK;
        Self((tag as u64) << TAG_SHIFT | generation | CLAIMED)
    }

    #[inline(always)]
    pub(super) const fn publish(self) -> Self {
        Self(self.0 & !STATE_MASK | LIVE)
    }

    #[inline(always)]
    pub(super) const fn free(self) -> Self {
        Self(self.0 & GENERATION_MASK)
    }
}
