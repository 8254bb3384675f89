//! What a flow table needs of memory, so that one code runs over a BPF array, a mapping of it, and a model checker.

use crate::hash::mix;

/// The 64-bit words of one set, shared with other CPUs and with user space.
pub trait Words: Clone {
    /// A word; no later access may be seen to happen before (acquire).
    fn load(&self, word: usize) -> u64;
    /// No earlier access may be seen to happen after (release).
    fn store(&self, word: usize, value: u64);
    /// Stores `new` if the word is `current`; acquire and release.
    #[must_use]
    fn compare_exchange(&self, word: usize, current: u64, new: u64) -> bool;
}

/// Sets by number.
pub trait Memory {
    type Set<'a>: Words
    where
        Self: 'a;

    /// `None` if there is no such set.
    fn set(&self, index: u32) -> Option<Self::Set<'_>>;

    /// Between a compare-and-exchange and loads of other words: the loads come after, for all CPUs. Where an atomic exchange
    /// is a full barrier anyway (x86), only the compiler has to know.
    fn fence(&self);
}

/// No memory: a table in it holds nothing and has no room.
impl Memory for () {
    type Set<'a> = ();

    #[inline(always)]
    fn set(&self, _index: u32) -> Option<()> {
        None
    }

    #[inline(always)]
    fn fence(&self) {}
}

impl Words for () {
    #[inline(always)]
    fn load(&self, _word: usize) -> u64 {
        0
    }

    #[inline(always)]
    fn store(&self, _word: usize, _value: u64) {}

    #[inline(always)]
    fn compare_exchange(&self, _word: usize, _current: u64, _new: u64) -> bool {
        false
    }
}

/// A fixed number of words: keys and what is kept with them.
pub trait Block: Copy {
    const WORDS: usize;
    fn read<S: Words>(set: &S, at: usize) -> Self;
    fn write<S: Words>(&self, set: &S, at: usize);
    fn equals<S: Words>(&self, set: &S, at: usize) -> bool;
    fn hash(&self, seed: u64) -> u64;
}

impl<const N: usize> Block for [u64; N] {
    const WORDS: usize = N;

    #[inline(always)]
    fn read<S: Words>(set: &S, at: usize) -> Self {
        core::array::from_fn(|word| set.load(at + word))
    }

    #[inline(always)]
    fn write<S: Words>(&self, set: &S, at: usize) {
        for (word, value) in self.iter().enumerate() {
            set.store(at + word, *value);
        }
    }

    #[inline(always)]
    fn equals<S: Words>(&self, set: &S, at: usize) -> bool {
        let mut difference = 0;
        for (word, value) in self.iter().enumerate() {
            difference |= set.load(at + word) ^ value;
        }
        difference == 0
    }

    #[inline(always)]
    fn hash(&self, seed: u64) -> u64 {
        self.iter().fold(seed, |hash, word| mix(hash ^ word))
    }
}

#[cfg(feature = "host")]
mod heap {
    use core::sync::atomic::{AtomicU64, Ordering, fence};
    use std::{boxed::Box, sync::Arc};

    use super::{Memory, Words};
    use crate::flow_table::Layout;

    /// Sets in ordinary memory: tests and simulation. Clones are the same memory.
    #[derive(Clone, Debug)]
    pub struct HeapMemory {
        words: Arc<[AtomicU64]>,
        set_words: usize,
    }

    impl HeapMemory {
        /// Empty sets for a table of this layout.
        pub fn new<L: Layout>(sets: u32) -> Self {
            Self::with_words(L::WAYS * L::STRIDE, sets)
        }

        /// Empty sets of so many words.
        pub fn with_words(set_words: usize, sets: u32) -> Self {
            let words: Box<[AtomicU64]> = (0..set_words * sets as usize)
                .map(|_| AtomicU64::new(0))
                .collect();
            Self {
                words: words.into(),
                set_words,
            }
        }
    }

    impl Memory for HeapMemory {
        type Set<'a> = &'a [AtomicU64];

        fn set(&self, index: u32) -> Option<&[AtomicU64]> {
            let first = index as usize * self.set_words;
            self.words.get(first..first + self.set_words)
        }

        fn fence(&self) {
            fence(Ordering::SeqCst);
        }
    }

    impl Words for &[AtomicU64] {
        fn load(&self, word: usize) -> u64 {
            self.get(word)
                .map_or(0, |word| word.load(Ordering::Acquire))
        }

        fn store(&self, word: usize, value: u64) {
            if let Some(word) = self.get(word) {
                word.store(value, Ordering::Release);
            }
        }

        fn compare_exchange(&self, word: usize, current: u64, new: u64) -> bool {
            self.get(word).is_some_and(|word| {
                word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
            })
        }
    }
}

#[cfg(feature = "host")]
pub use heap::HeapMemory;
