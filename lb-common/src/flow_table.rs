//! Flows that have to be remembered: a set-associative hash table over shared memory, for kernel and host alike.
//!
//! A kernel hash map costs a helper call, a bucket lock and three or four scattered cache lines a packet; here a flow is one
//! entry of one or two cache lines, found in a set of [`Layout::WAYS`] neighbours, mostly at the first look.
//!
//! ```text
//! set:    [entry][entry] … WAYS of them, contiguous, so that one address translation covers all
//! entry:  control | value | key … | extra …          all 64-bit words
//! ```
//!
//! The protocol, which `tests/flow_table_model.rs` checks:
//! * A writer **claims** a free entry by compare-and-exchange of its control word, which takes the flow's tag and the next
//!   generation; fills it; looks whether another entry of the set has the same flow; then **publishes** it.
//! * Of two writers of the same flow one sees the other, because each looks after it has claimed. The one in the lower
//!   way waits for the other; the other gives up. So a flow has one entry, and all who insert it agree what is in it.
//! * A reader takes the control word before and after the rest; equal means that what is between belongs together.
//! * Whoever wants an entry away exchanges the control word that was read. Key and extra words never change in a published entry;
//!   the value word changes by compare-and-exchange only.

mod claim;
mod control;
mod key;
mod sweep;
mod value;
mod words;

use core::marker::PhantomData;

pub use claim::{Insert, WhenFull};
pub use control::Control;
pub use key::{FlowKey, Translation};
pub use sweep::{Entry, Visit};
pub use value::{Flags, Ticks, Value};
#[cfg(feature = "host")]
pub use words::HeapMemory;
pub use words::{Block, Memory, Words};

/// Shape of a table's entries.
pub trait Layout {
    type Key: Block;
    /// What is kept with a flow beside its [`Value`].
    type Extra: Block;
    /// Entries of a set; a power of two, at most 32.
    const WAYS: usize;
    /// Words of an entry; a power of two, so that entries do not straddle cache lines.
    const STRIDE: usize;
    /// Times that a writer looks again at another who is about to publish the same flow. Filling an entry takes a few dozen
    /// nanoseconds, a look a few.
    const PATIENCE: usize = 64;
}

/// Words before the key.
const KEY: usize = 2;
const VALUE: usize = 1;

macro_rules! layouts {
    ($($(#[doc = $doc:literal])+ $name:ident: $key:literal + $extra:literal of $stride:literal;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug)]
        pub struct $name;

        impl Layout for $name {
            type Key = [u64; $key];
            type Extra = [u64; $extra];
            const WAYS: usize = 16;
            const STRIDE: usize = $stride;
        }

        const _: () = assert!(KEY + $key + $extra <= $stride);
    )+};
}

layouts! {
    /// One direction of an IPv4 flow: 32 bytes.
    Flow4: 2 + 0 of 4;
    /// One direction of an IPv6 flow: 64 bytes.
    Flow6: 5 + 0 of 8;
    /// One direction of a translated IPv4 flow: 64 bytes, so 128 for both.
    Nat4: 2 + 2 of 8;
    /// One direction of a translated IPv6 flow: 128 bytes.
    Nat6: 5 + 5 of 16;
}

/// A table: its memory, how many sets that has, and the secret of its hash.
#[derive(Clone, Copy, Debug)]
pub struct Table<L, M> {
    memory: M,
    mask: u32,
    seed: u64,
    layout: PhantomData<L>,
}

/// A flow that was found, as it was then.
pub struct Flow<'a, L: Layout, M: Memory + 'a> {
    set: M::Set<'a>,
    /// First word of the entry in its set.
    at: usize,
    control: Control,
    pub value: Value,
    pub extra: L::Extra,
}

impl<L: Layout, M: Memory> Table<L, M> {
    /// Words of a set, which is what [`Memory::set`] gives access to.
    pub const SET_WORDS: usize = L::WAYS * L::STRIDE;
    pub const ENTRY_BYTES: usize = L::STRIDE * size_of::<u64>();

    /// `mask` is the number of sets minus one, that number being a power of two. `seed` must be unknown to strangers: who
    /// knows it can fill a set of his choice.
    #[inline(always)]
    pub const fn new(memory: M, mask: u32, seed: u64) -> Self {
        assert!(L::WAYS.is_power_of_two() && L::WAYS <= 32 && L::STRIDE.is_power_of_two());
        Self {
            memory,
            mask,
            seed,
            layout: PhantomData,
        }
    }

    /// Finds a flow.
    #[inline(always)]
    pub fn lookup(&self, key: &L::Key) -> Option<Flow<'_, L, M>> {
        let hash = key.hash(self.seed);
        let set = self.memory.set(hash as u32 & self.mask)?;
        Self::find(&set, hash, key)
    }

    /// Whether a flow is in the table.
    #[inline(always)]
    pub fn contains(&self, key: &L::Key) -> bool {
        let hash = key.hash(self.seed);
        let Some(set) = self.memory.set(hash as u32 & self.mask) else {
            return false;
        };
        Self::find_place(&set, hash, key).is_some()
    }

    /// The place is found first and read behind the loop: read inside it, a flow costs the verifier as many times as a set has ways.
    #[inline(always)]
    fn find<'a>(set: &M::Set<'a>, hash: u64, key: &L::Key) -> Option<Flow<'a, L, M>> {
        let (at, control) = Self::find_place(set, hash, key)?;
        Self::read(set, at, control)
    }

    /// The first word of a flow's entry, and its control word.
    #[inline(always)]
    fn find_place(set: &M::Set<'_>, hash: u64, key: &L::Key) -> Option<(usize, Control)> {
        for step in 0..L::WAYS {
            let at = Self::position(hash, step);
            let control = Control(set.load(at));
            if control.is_live(tag(hash)) && Self::is_of(set, key, at, control) {
                return Some((at, control));
            }
        }
        None
    }

    /// Whether a published entry has this key.
    #[inline(always)]
    fn is_of(set: &M::Set<'_>, key: &L::Key, at: usize, control: Control) -> bool {
        key.equals(set, at + KEY) && set.load(at) == control.0
    }

    /// The flow of an entry whose control word was this, unless it was changed since: what is known of its key then holds.
    #[inline(always)]
    fn read<'a>(set: &M::Set<'a>, at: usize, control: Control) -> Option<Flow<'a, L, M>> {
        let flow = Flow {
            set: set.clone(),
            at,
            control,
            value: Value::unpack(set.load(at + VALUE)),
            extra: L::Extra::read(set, at + KEY + L::Key::WORDS),
        };
        (set.load(at) == control.0).then_some(flow)
    }

    /// First word of the entry that is looked at in a step; the first is the flow's own. By addition: of an exclusive or, Linux 6.1 knows
    /// no bounds, and the compiler takes the mask for needless.
    #[inline(always)]
    fn position(hash: u64, step: usize) -> usize {
        const HOME_SHIFT: u32 = 27;
        (((hash as u32 >> HOME_SHIFT) as usize + step) & (L::WAYS - 1)) * L::STRIDE
    }
}

impl<L: Layout, M: Memory> Flow<'_, L, M> {
    /// Replaces the value if it is still the one that was read; false if not. Does nothing, and costs nothing, if they are equal.
    ///
    /// An entry that was reused meanwhile for another flow is left alone, except if that one's value is the same to the bit.
    #[inline(always)]
    pub fn update(&self, value: Value) -> bool {
        let (old, new) = (self.value.pack(), value.pack());
        old == new || self.set.compare_exchange(self.at + VALUE, old, new)
    }

    /// Takes the flow out; false if it has gone already.
    #[inline(always)]
    pub fn remove(&self) -> bool {
        self.set
            .compare_exchange(self.at, self.control.0, self.control.free().0)
    }
}

#[inline(always)]
const fn tag(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A number that the compiler knows nothing of: where it would make a branch of what is meant to be none.
#[inline(always)]
fn opaque(word: u64) -> u64 {
    core::hint::black_box(word)
}

#[cfg(test)]
mod tests;
