//! A round through a table in portions: as many entries a tick as make a round in the time that is set for it, and never more than
//! what a tick can bear.

use core::time::Duration;
use std::collections::BTreeMap;

use lb_common::flow_table::{Control, Entry, Layout, Memory, Table, Visit};

use super::Fate;

/// Age at which a claim is taken for that of a dead writer.
pub const CLAIM_TIMEOUT: Duration = Duration::from_secs(60);

/// Claims that are watched at a time; others are noticed in a later round.
const WATCHED: usize = 1024;

/// How fast a round goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time for a whole round.
    pub round: Duration,
    /// Entries at one tick, at most. If ticks come too late for the pace, the round takes longer.
    pub most: u32,
}

/// A round that is under way.
#[derive(Clone, Debug)]
pub struct Sweep {
    cursor: u32,
    began: Duration,
    ticked: Duration,
    /// Claims that were met, by position, and when first.
    claims: BTreeMap<u32, (Control, Duration)>,
}

/// What a tick has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Entries looked at, used or not.
    pub visited: u32,
    pub removed: u32,
    /// Entries of dead writers that were freed.
    pub released: u32,
    /// The round is over; it began then.
    pub finished: Option<Duration>,
}

impl Sweep {
    pub fn new(now: Duration) -> Self {
        Self {
            cursor: 0,
            began: now,
            ticked: now,
            claims: BTreeMap::new(),
        }
    }

    /// Begins the next round now: time that passed since the last one is not caught up.
    pub(super) const fn restart(&mut self, now: Duration) {
        self.cursor = 0;
        self.began = now;
        self.ticked = now;
    }

    /// Goes on with the round. `judge` sees each flow once a round; what it lets go is removed unless a packet has
    /// come meanwhile.
    pub fn tick<L: Layout, M: Memory>(
        &mut self,
        now: Duration,
        pace: Pace,
        table: &Table<L, M>,
        mut judge: impl FnMut(&Entry<L::Key, L::Extra>) -> Fate,
    ) -> Progress {
        if self.cursor == 0 {
            self.began = now;
        }
        let budget = self.budget(now, pace, table.capacity());
        if budget == 0 {
            return Progress::default();
        }
        self.ticked = now;
        let mut progress = Progress::default();
        let claims = &mut self.claims;
        let next = table.scan(self.cursor, budget, |visit| match visit {
            Visit::Flow(entry) => {
                if judge(&entry) == Fate::Remove {
                    progress.removed +=
                        u32::from(table.remove_if(entry.index, entry.control, entry.value));
                }
            }
            Visit::Claimed { index, control } => match claims.get(&index) {
                Some(&(same, since)) if same == control => {
                    if now >= since + CLAIM_TIMEOUT {
                        claims.remove(&index);
                        progress.released += u32::from(table.release_claim(index, control));
                    }
                }
                _ => {
                    if claims.len() < WATCHED || claims.contains_key(&index) {
                        claims.insert(index, (control, now));
                    }
                }
            },
        });
        let end = next.map_or(table.capacity(), u64::from);
        progress.visited = (end - u64::from(self.cursor)) as u32;
        self.cursor = next.unwrap_or(0);
        if next.is_none() {
            progress.finished = Some(self.began);
            // What was claimed for long but was not met since has been published or given back.
            let stale = now.saturating_sub(2 * CLAIM_TIMEOUT + 2 * pace.round);
            self.claims.retain(|_, (_, since)| *since >= stale);
        }
        progress
    }

    fn budget(&self, now: Duration, pace: Pace, capacity: u64) -> u32 {
        let elapsed = now.saturating_sub(self.ticked).as_nanos();
        let due = u128::from(capacity) * elapsed / pace.round.as_nanos().max(1);
        due.min(u128::from(pace.most)) as u32
    }
}

#[cfg(test)]
mod tests {
    use lb_common::flow_table::{Flow4, HeapMemory, Insert, Value, WhenFull};

    use super::*;

    const PACE: Pace = Pace {
        round: Duration::from_secs(10),
        most: 100,
    };

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// 1,024 entries, 200 of them used.
    fn table() -> Table<Flow4, HeapMemory> {
        let table = Table::new(HeapMemory::new::<Flow4>(64), 63, 1);
        for key in 0..200 {
            let inserted = table.insert(&[key, 0], Value::default(), &[], WhenFull::Refuse);
            assert!(matches!(inserted, Insert::Inserted(_)));
        }
        table
    }

    #[test]
    fn a_round_takes_its_time_and_sees_all() {
        let table = table();
        let mut sweep = Sweep::new(at(0));
        let mut seen = 0;
        let mut now = 0;
        let finished = loop {
            now += 500;
            assert!(now <= 11_000, "the round ends");
            let progress = sweep.tick(at(now), PACE, &table, |entry| {
                seen += 1;
                if entry.key[0] % 2 == 0 {
                    Fate::Remove
                } else {
                    Fate::Keep
                }
            });
            assert!(progress.visited <= 52);
            if let Some(began) = progress.finished {
                break began;
            }
        };
        assert!(now >= 10_000, "{now}");
        assert_eq!(seen, 200);
        assert_eq!(table.count(), 100);
        assert_eq!(finished, at(500));
    }

    #[test]
    fn a_late_tick_does_no_more_than_it_may() {
        let table = table();
        let mut sweep = Sweep::new(at(0));
        let progress = sweep.tick(at(3_600_000), PACE, &table, |_| Fate::Keep);
        assert_eq!(progress.visited, 100);
        let progress = sweep.tick(at(3_600_000), PACE, &table, |_| Fate::Keep);
        assert_eq!(progress.visited, 0, "no time has passed");
    }

    #[test]
    fn a_flow_that_is_seen_meanwhile_stays() {
        let table = table();
        let mut sweep = Sweep::new(at(0));
        let pace = Pace {
            most: u32::MAX,
            ..PACE
        };
        let progress = sweep.tick(at(10_000), pace, &table, |entry| {
            let flow = table.lookup(&entry.key).expect("it is in");
            let touched = Value {
                state: 1,
                ..flow.value
            };
            assert!(flow.update(touched));
            Fate::Remove
        });
        assert_eq!((progress.removed, table.count()), (0, 200));
    }
}
