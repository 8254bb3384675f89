//! Putting a flow in: claim, fill, look for rivals, publish.

use super::{Block, Control, Flow, KEY, Layout, Memory, Table, VALUE, Value, Words, tag};

/// Attempts to claim an entry before other writers.
const ATTEMPTS: usize = 4;

/// What an insertion does in a set without room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    Refuse,
    /// The flow that was seen longest ago goes.
    Evict,
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

/// What the search for rivals says.
enum Rivals<'a, L: Layout, M: Memory + 'a> {
    None,
    Published(Flow<'a, L, M>),
    Undecided,
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
        // Not for correctness: without it, a flow that is there would take an entry for a moment.
        if let Some(flow) = Self::find(&set, hash, key) {
            return Insert::Found(flow);
        }
        let Some((at, control)) = Self::claim(&set, hash, when_full) else {
            return Insert::Full;
        };
        set.store(at + VALUE, value.pack());
        key.write(&set, at + KEY);
        extra.write(&set, at + KEY + L::Key::WORDS);
        self.memory.fence();
        match Self::rivals(&set, hash, key, at, control) {
            Rivals::None => {
                let live = control.publish();
                // Fails if this writer was away for so long that it was taken for dead.
                if !set.compare_exchange(at, control.0, live.0) {
                    return Insert::Busy;
                }
                Insert::Inserted(Flow {
                    set,
                    at,
                    control: live,
                    value,
                    extra: *extra,
                })
            }
            Rivals::Published(flow) => Insert::Found(flow),
            Rivals::Undecided => Insert::Busy,
        }
    }

    /// Takes an entry: its first word, and the control word that it has now.
    #[inline(always)]
    fn claim(set: &M::Set<'_>, hash: u64, when_full: WhenFull) -> Option<(usize, Control)> {
        for _ in 0..ATTEMPTS {
            let (at, old) = match Self::free(set, hash) {
                Some(free) => free,
                None if matches!(when_full, WhenFull::Evict) => Self::oldest(set, hash)?,
                None => return None,
            };
            let new = old.claim(tag(hash));
            if set.compare_exchange(at, old.0, new.0) {
                return Some((at, new));
            }
        }
        None
    }

    #[inline(always)]
    fn free(set: &M::Set<'_>, hash: u64) -> Option<(usize, Control)> {
        for step in 0..L::WAYS {
            let at = Self::position(hash, step);
            let control = Control(set.load(at));
            if control.is_free() {
                return Some((at, control));
            }
        }
        None
    }

    #[inline(always)]
    fn oldest(set: &M::Set<'_>, hash: u64) -> Option<(usize, Control)> {
        let mut oldest = None;
        for step in 0..L::WAYS {
            let at = Self::position(hash, step);
            let control = Control(set.load(at));
            if !control.holds() {
                continue;
            }
            let seen = Value::unpack(set.load(at + VALUE)).seen;
            oldest = match oldest {
                Some((_, _, best)) if !before(seen.0, best) => oldest,
                _ => Some((at, control, seen.0)),
            };
        }
        oldest.map(|(at, control, _)| (at, control))
    }

    /// Looks for other entries of the same flow. Unless there is none, the own entry has been given back.
    #[inline(always)]
    fn rivals<'a>(
        set: &M::Set<'a>,
        hash: u64,
        key: &L::Key,
        own: usize,
        control: Control,
    ) -> Rivals<'a, L, M> {
        let tag = tag(hash);
        let mut step = 0;
        let mut given_up = false;
        for _ in 0..L::WAYS + L::PATIENCE {
            if step >= L::WAYS {
                break;
            }
            let at = Self::position(hash, step);
            let other = Control(set.load(at));
            if at != own && other.is_claimed_by(tag) {
                // Two that see each other must not both wait.
                if at < own && !given_up {
                    given_up = true;
                    Self::give_back(set, own, control);
                }
                continue;
            }
            step += 1;
            if at != own
                && other.is_live(tag)
                && let Some(flow) = Self::read(set, key, at, other)
            {
                if !given_up {
                    Self::give_back(set, own, control);
                }
                return Rivals::Published(flow);
            }
        }
        if step >= L::WAYS && !given_up {
            return Rivals::None;
        }
        if !given_up {
            Self::give_back(set, own, control);
        }
        Rivals::Undecided
    }

    #[inline(always)]
    fn give_back(set: &M::Set<'_>, at: usize, control: Control) {
        // Failure: it was taken for dead and is somebody else's by now.
        let _ = set.compare_exchange(at, control.0, control.free().0);
    }
}

#[inline(always)]
const fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) > i32::MAX as u32
}
