//! First-fit allocation of runs of table entries.

/// Free runs of a table, in order, never adjacent.
#[derive(Clone, Debug)]
pub struct Ranges {
    free: Vec<Range>,
}

/// A run of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub first: u32,
    pub count: u32,
}

impl Range {
    const fn end(self) -> u32 {
        self.first + self.count
    }
}

impl Ranges {
    /// A table of `count` entries, all free.
    pub fn new(count: u32) -> Self {
        Self {
            free: vec![Range { first: 0, count }],
        }
    }

    /// Entries that are free, in runs of any length.
    pub fn available(&self) -> u32 {
        self.free.iter().map(|run| run.count).sum()
    }

    /// The lowest run of `count` entries.
    pub fn take(&mut self, count: u32) -> Option<Range> {
        let at = self.free.iter().position(|run| run.count >= count)?;
        let run = &mut self.free[at];
        let taken = Range {
            first: run.first,
            count,
        };
        run.first += count;
        run.count -= count;
        if run.count == 0 {
            self.free.remove(at);
        }
        Some(taken)
    }

    /// Takes exactly this run; false if any of it is taken already or lies outside.
    pub fn take_exactly(&mut self, wanted: Range) -> bool {
        let Some(at) = self
            .free
            .iter()
            .position(|run| run.first <= wanted.first && wanted.end() <= run.end())
        else {
            return false;
        };
        let run = self.free.remove(at);
        let rest = [
            Range {
                first: run.first,
                count: wanted.first - run.first,
            },
            Range {
                first: wanted.end(),
                count: run.end() - wanted.end(),
            },
        ];
        for (offset, part) in rest.into_iter().filter(|part| part.count > 0).enumerate() {
            self.free.insert(at + offset, part);
        }
        true
    }

    /// Gives a run back. It must have been taken.
    pub fn give(&mut self, range: Range) {
        let at = self.free.partition_point(|run| run.first < range.first);
        self.free.insert(at, range);
        if let Some(&next) = self.free.get(at + 1)
            && range.end() == next.first
        {
            self.free[at].count += next.count;
            self.free.remove(at + 1);
        }
        if at > 0 && self.free[at - 1].end() == self.free[at].first {
            self.free[at - 1].count += self.free[at].count;
            self.free.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_overlaps(steps in proptest::collection::vec((any::<bool>(), 1_u32..40), 1..200)) {
            let mut ranges = Ranges::new(500);
            let mut taken: Vec<Range> = Vec::new();
            for (take, size) in steps {
                if take {
                    if let Some(range) = ranges.take(size) {
                        prop_assert!(taken.iter().all(|other| other.end() <= range.first || range.end() <= other.first));
                        taken.push(range);
                    }
                } else if !taken.is_empty() {
                    ranges.give(taken.swap_remove(size as usize % taken.len()));
                }
                let held: u32 = taken.iter().map(|range| range.count).sum();
                prop_assert_eq!(ranges.available() + held, 500);
            }
            for range in taken.drain(..) {
                ranges.give(range);
            }
            prop_assert_eq!(ranges.free, vec![Range { first: 0, count: 500 }]);
        }
    }

    #[test]
    fn an_exact_run_is_cut_out() {
        let mut ranges = Ranges::new(10);
        assert!(ranges.take_exactly(Range { first: 3, count: 4 }));
        assert!(!ranges.take_exactly(Range { first: 6, count: 2 }));
        assert_eq!(ranges.take(3), Some(Range { first: 0, count: 3 }));
        assert_eq!(ranges.take(4), None);
        assert!(!ranges.take_exactly(Range { first: 9, count: 2 }));
    }
}
