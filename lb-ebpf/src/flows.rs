//! The flow tables' memory: an element of a map is a set.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg},
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use lb_common::{
    flow_table::{Memory, Words},
    steering::FlowTable,
};

use crate::maps::MAPPED;

type Set<const WORDS: usize> = [u64; WORDS];

#[btf_map]
static FLOWS4: Array<Set<{ FlowTable::Flows4.set_words() }>, 1, MAPPED> = Array::new();
#[btf_map]
static HALF_OPEN4: Array<Set<{ FlowTable::HalfOpen4.set_words() }>, 1, MAPPED> = Array::new();
#[btf_map]
static FLOWS6: Array<Set<{ FlowTable::Flows6.set_words() }>, 1, MAPPED> = Array::new();
#[btf_map]
static HALF_OPEN6: Array<Set<{ FlowTable::HalfOpen6.set_words() }>, 1, MAPPED> = Array::new();

/// The sets of one table.
#[derive(Clone, Copy)]
pub struct MapMemory(pub FlowTable);

impl Memory for MapMemory {
    type Set<'a> = MapSet;

    #[inline(always)]
    fn set(&self, index: u32) -> Option<MapSet> {
        let words = match self.0 {
            FlowTable::Flows4 => FLOWS4.get_ptr_mut(index)?.cast(),
            FlowTable::HalfOpen4 => HALF_OPEN4.get_ptr_mut(index)?.cast(),
            FlowTable::Flows6 => FLOWS6.get_ptr_mut(index)?.cast(),
            FlowTable::HalfOpen6 => HALF_OPEN6.get_ptr_mut(index)?.cast(),
        };
        Some(MapSet {
            words,
            mask: self.0.set_words() - 1,
        })
    }

    /// Programs run on one CPU from start to end, and an atomic exchange is a full barrier for the CPU.
    #[inline(always)]
    fn fence(&self) {
        compiler_fence(Ordering::SeqCst);
    }
}

/// The words of a set: one element of a map, which stays while the program runs.
#[derive(Clone, Copy)]
pub struct MapSet {
    words: *mut u64,
    /// Words of the set minus one.
    mask: usize,
}

impl MapSet {
    /// Inside the set whatever `word` is: the verifier has to see it.
    #[inline(always)]
    fn at(&self, word: usize) -> *mut u64 {
        // SAFETY: the mask keeps the offset within the element.
        unsafe { self.words.add(word & self.mask) }
    }
}

impl Words for MapSet {
    /// Volatile: other CPUs write it. BPF has no ordered loads; the CPUs that Futago runs on keep loads in order, and stores.
    #[inline(always)]
    fn load(&self, word: usize) -> u64 {
        // SAFETY: an aligned word of an element of the map.
        unsafe { self.at(word).read_volatile() }
    }

    #[inline(always)]
    fn store(&self, word: usize, value: u64) {
        // SAFETY: an aligned word of an element of the map.
        unsafe { self.at(word).write_volatile(value) }
    }

    #[inline(always)]
    fn compare_exchange(&self, word: usize, current: u64, new: u64) -> bool {
        // SAFETY: an aligned word of an element of the map.
        unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                self.at(word),
                current,
                new,
            )
            .1
        }
    }
}
