//! Putting a flow in: claim, fill, look for rivals, publish.

use super::{
    Block, Control, Flow, KEY, Layout, Memory, Table, Ticks, VALUE, Value, Words, opaque, tag,
};

use crate::consistency::Written;

/// Attempts to claim an entry before other writers.
const ATTEMPTS: usize = 4;

/// What an insertion does in a set without room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    Refuse,
    /// The flow that was seen longest ago goes.
    Evict,
}

/// A flow to put in.
struct New<'a, L: Layout> {
    key: &'a L::Key,
    value: Value,
    extra: &'a L::Extra,
    hash: u64,
    when_full: WhenFull,
}

/// What became of an insertion.
pub enum Insert<'a, L: Layout, M: Memory + 'a> {
    /// The flow is in the table as given.
    Inserted(Flow<'a, L, M>),
    /// It was there, or somebody else was faster: this holds.
    Found(Flow<'a, L, M>),
    /// No room in its set. Nothing has changed.
    Full,
    /// Somebody else is inserting it and takes too long. Nothing has changed.
    Busy,
}

/// As [`Insert`], with the entry's first word in its set and its control word.
enum Outcome {
    Inserted(usize, Control),
    Found(usize, Control),
    Full,
    Busy,
}

impl Outcome {
    const KIND_SHIFT: u32 = 60;
    const AT_SHIFT: u32 = 32;

    /// In one word; the tag is left out.
    #[inline(always)]
    const fn pack(self) -> u64 {
        let (kind, at, control) = match self {
            Self::Full => (0, 0, 0),
            Self::Busy => (1, 0, 0),
            Self::Found(at, control) => (2, at, control.0),
            Self::Inserted(at, control) => (3, at, control.0),
        };
        kind << Self::KIND_SHIFT | (at as u64) << Self::AT_SHIFT | control as u32 as u64
    }

    #[inline(always)]
    const fn unpack(word: u64, tag: u32) -> Self {
        let at = (word >> Self::AT_SHIFT) as usize & 0xffff;
        let control = Control((tag as u64) << 32 | word as u32 as u64);
        match word >> Self::KIND_SHIFT {
            0 => Self::Full,
            1 => Self::Busy,
            2 => Self::Found(at, control),
            _ => Self::Inserted(at, control),
        }
    }
}

/// What the search for rivals says.
enum Rivals {
    None,
    Published(usize, Control),
    Undecided,
}

/// What one look at the set shows.
enum Look {
    Alone,
    Published(usize, Control),
    /// Somebody is about to publish what has the same tag; of several, the one in the lowest way.
    Claimed(usize),
}

impl<L: Layout, M: Memory> Table<L, M> {
    /// Puts a flow in unless it is there.
    #[inline(always)]
    pub fn insert(
        &self,
        key: &L::Key,
        value: Value,
        extra: &L::Extra,
        when_full: WhenFull,
    ) -> Insert<'_, L, M> {
        let hash = key.hash(self.seed);
        let Some(set) = self.memory.set(hash as u32 & self.mask) else {
            return Insert::Full;
        };
        let new = New {
            key,
            value,
            extra,
            hash,
            when_full,
        };
        match Outcome::unpack(self.insert_new(&new), tag(hash)) {
            Outcome::Inserted(at, control) => Insert::Inserted(Flow {
                set,
                at,
                control,
                value,
                extra: *extra,
            }),
            Outcome::Found(at, control) => match Self::read(&set, at, control) {
                Some(flow) => Insert::Found(flow),
                None => Insert::Busy,
            },
            Outcome::Full => Insert::Full,
            Outcome::Busy => Insert::Busy,
        }
    }

    /// As [`insert`](Self::insert), where it does not matter what is there already.
    #[inline(always)]
    pub fn put(
        &self,
        key: &L::Key,
        value: Value,
        extra: &L::Extra,
        when_full: WhenFull,
    ) -> Written {
        let new = New {
            key,
            value,
            extra,
            hash: key.hash(self.seed),
            when_full,
        };
        match self.fill(&new) {
            Outcome::Inserted(..) => Written::Done,
            Outcome::Found(..) => Written::Exists,
            Outcome::Full => Written::Full,
            Outcome::Busy => Written::Busy,
        }
    }

    /// A BPF function of its own: the packet path puts flows in at several places. It takes one pointer and gives one word, because
    /// the stacks of all functions in a chain of calls share 512 bytes.
    #[inline(never)]
    fn insert_new(&self, new: &New<'_, L>) -> u64 {
        self.fill(new).pack()
    }

    #[inline(always)]
    fn fill(&self, new: &New<'_, L>) -> Outcome {
        let New {
            key,
            hash,
            when_full,
            ..
        } = *new;
        let Some(set) = self.memory.set(hash as u32 & self.mask) else {
            return Outcome::Full;
        };
        // Not for correctness: without it, a flow that is there would take an entry for a moment.
        if let Some((at, control)) = Self::find_place(&set, hash, key) {
            return Outcome::Found(at, control);
        }
        let Some((at, control)) = Self::claim(&set, hash, when_full, new.value.seen) else {
            return Outcome::Full;
        };
        set.store(at + VALUE, new.value.pack());
        key.write(&set, at + KEY);
        new.extra.write(&set, at + KEY + L::Key::WORDS);
        self.memory.fence();
        match Self::rivals(&set, hash, key, at, control) {
            // Fails if this writer was away for so long that it was taken for dead.
            Rivals::None if set.compare_exchange(at, control.0, control.publish().0) => {
                Outcome::Inserted(at, control.publish())
            }
            Rivals::Published(at, control) => Outcome::Found(at, control),
            Rivals::None | Rivals::Undecided => Outcome::Busy,
        }
    }

    /// Takes an entry: its first word, and the control word that it has now.
    #[inline(always)]
    fn claim(
        set: &M::Set<'_>,
        hash: u64,
        when_full: WhenFull,
        now: Ticks,
    ) -> Option<(usize, Control)> {
        let evicts = opaque(match when_full {
            WhenFull::Evict => 1,
            WhenFull::Refuse => 0,
        });
        for _ in 0..ATTEMPTS {
            let at = Self::best(set, hash, evicts, now)?;
            let old = Control(set.load(at));
            let new = old.claim(tag(hash));
            // Somebody else may have taken it meanwhile. Then the exchange fails, as for want of a branch it is asked for what never is.
            let fit = old.free_bit() | old.live_bit() & evicts;
            if set.compare_exchange(at, old.where_fit(fit).0, new.0) {
                return Some((at, new));
            }
        }
        None
    }

    /// The entry to take: the first free one, else the one that was seen longest ago.
    #[inline(always)]
    fn best(set: &M::Set<'_>, hash: u64, evicts: u64, now: Ticks) -> Option<usize> {
        let free = Self::scored(set, hash, |control, _, step| {
            control.free_bit() * (L::WAYS - step) as u64
        });
        if free.is_some() || evicts == 0 {
            return free;
        }
        /// A stamp of another CPU may be a little ahead.
        const AHEAD: u32 = 16;
        Self::scored(set, hash, |control, at, _| {
            let seen = Value::unpack(set.load(at + VALUE)).seen.0;
            let age = u64::from(now.0.wrapping_add(AHEAD).wrapping_sub(seen)) + 1;
            control.live_bit() * age
        })
    }

    /// The entry with the highest score, if that is not zero.
    ///
    /// Without a branch in the loop: the verifier follows each way through it, and with two ways an entry there are too many.
    #[inline(always)]
    fn scored(
        set: &M::Set<'_>,
        hash: u64,
        score: impl Fn(Control, usize, usize) -> u64,
    ) -> Option<usize> {
        const AT_BITS: u32 = 16;
        let hash = afresh(hash);
        let mut best = 0;
        for step in 0..L::WAYS {
            let at = Self::position(hash, step);
            let score = score(Control(set.load(at)), at, step);
            best = larger(best, score << AT_BITS | at as u64);
        }
        (best >> AT_BITS != 0).then_some(best as usize & ((1 << AT_BITS) - 1))
    }

    /// Whether other entries have the same flow. Unless there is none, the own entry has been given back.
    ///
    /// Three loops one after another: nested, or as one with a cursor, they cost the verifier a million instructions.
    #[inline(always)]
    fn rivals(set: &M::Set<'_>, hash: u64, key: &L::Key, own: usize, control: Control) -> Rivals {
        let claimed = match Self::look(set, hash, key, own) {
            Look::Alone => return Rivals::None,
            Look::Published(at, theirs) => {
                Self::give_back(set, own, control);
                return Rivals::Published(at, theirs);
            }
            Look::Claimed(at) => at,
        };
        // Two that see each other must not both wait.
        let yields = claimed < own;
        if yields {
            Self::give_back(set, own, control);
        }
        for _ in 0..L::PATIENCE {
            if !Control(set.load(claimed)).is_claimed_by(tag(hash)) {
                break;
            }
        }
        let look = Self::look(set, hash, key, own);
        if !yields {
            if let Look::Alone = look {
                return Rivals::None;
            }
            Self::give_back(set, own, control);
        }
        match look {
            Look::Published(at, theirs) => Rivals::Published(at, theirs),
            Look::Alone | Look::Claimed(_) => Rivals::Undecided,
        }
    }

    /// Looks at all entries of the set but the own one.
    #[inline(always)]
    fn look(set: &M::Set<'_>, hash: u64, key: &L::Key, own: usize) -> Look {
        let hash = afresh(hash);
        let tag = tag(hash);
        let mut lowest = usize::MAX;
        for step in 0..L::WAYS {
            let at = Self::position(hash, step);
            let other = Control(set.load(at));
            if at == own {
                continue;
            }
            if other.is_claimed_by(tag) {
                if at < lowest {
                    lowest = at;
                }
            } else if other.is_live(tag) && Self::is_of(set, key, at, other) {
                return Look::Published(at, other);
            }
        }
        if lowest == usize::MAX {
            Look::Alone
        } else {
            Look::Claimed(lowest)
        }
    }

    #[inline(always)]
    fn give_back(set: &M::Set<'_>, at: usize, control: Control) {
        // Failure: it was taken for dead and is somebody else's by now.
        let _ = set.compare_exchange(at, control.0, control.free().0);
    }
}

/// The hash again, without the compiler knowing. It would keep the positions of all entries from one loop for the next, and they take
/// most of a BPF program's stack.
#[inline(always)]
fn afresh(hash: u64) -> u64 {
    opaque(hash)
}

/// The larger of two numbers below 2^63, without a branch. By multiplication: the verifier makes two ways of a sign that is spread over a
/// word, too.
#[inline(always)]
fn larger(a: u64, b: u64) -> u64 {
    let less = opaque(opaque(a.wrapping_sub(b)) >> 63);
    a ^ ((a ^ b) * less)
}
