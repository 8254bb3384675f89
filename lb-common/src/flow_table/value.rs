//! The part of an entry that changes while the flow lives: one word, so that it changes at once.

/// Coarse time in seconds since an origin that the kernel chooses; wraps around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks(pub u32);

impl Ticks {
    /// From `CLOCK_MONOTONIC`, which kernel and user space both have.
    #[inline(always)]
    pub const fn from_ns(monotonic: u64) -> Self {
        const NS: u64 = 1_000_000_000;
        Self((monotonic / NS) as u32)
    }

    /// Seconds from `earlier` to `self`. A stamp from another CPU that is slightly ahead counts as now.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        if difference > i32::MAX as u32 {
            0
        } else {
            difference
        }
    }
}

/// What is known of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Value {
    /// When a packet of it was last seen.
    pub seen: Ticks,
    /// The backend's number within the service.
    pub backend: u16,
    /// A [`State`](crate::flow_state::State).
    pub state: u8,
    pub flags: Flags,
}

/// Bits of a [`Value`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// Of two entries that belong together, the one of packets from the client.
    pub const FROM_CLIENT: Self = Self(1);
    /// Written by the peer, not by a packet.
    pub const SYNCED: Self = Self(2);
    /// Of two entries that belong together, the server's: it has sent a packet.
    pub const ANSWERED: Self = Self(4);

    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl Value {
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            seen: Ticks(word as u32),
            backend: (word >> 32) as u16,
            state: (word >> 48) as u8,
            flags: Flags((word >> 56) as u8),
        }
    }

    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.seen.0 as u64
            | (self.backend as u64) << 32
            | (self.state as u64) << 48
            | (self.flags.0 as u64) << 56
    }
}
