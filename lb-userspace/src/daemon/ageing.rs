//! Ageing: some entries of the flow tables at each turn, so few that nothing waits for it; after a round, slots of which no flow is
//! recorded any more settle.

use std::time::{Duration, Instant};

use lb_common::{
    flow_state::Timeouts,
    flow_table::{FlowKey, Ticks, Value},
};
use lb_core::{
    flows::{Fate, Judge, Pace, Rounds, Usage},
    plan::{Counted, Layout},
};

use super::{flows, owner::Owner};
use crate::dataplane::flows::ticks;

/// Between two turns.
const TURN: Duration = Duration::from_millis(50);
/// At most as many entries as take a millisecond or two.
const MOST: u32 = 16_384;
/// A round takes this long when there is little to do, so that slots settle soon, and so long when there is much: a million flows cost
/// half a second a round.
const SHORTEST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// Between the two, a round takes this many times what it costs: about one percent of a core.
const LEISURE: u32 = 100;

/// Where the ageing is.
#[derive(Debug)]
pub(super) struct Ageing {
    rounds: Rounds,
    counted: Counted,
    next: Duration,
    /// What this round has cost so far.
    cost: Duration,
    round: Duration,
    /// Since the daemon started.
    pub removed: u64,
}

impl Ageing {
    pub fn new(now: Duration) -> Self {
        Self {
            rounds: Rounds::new(now),
            counted: Counted::default(),
            next: now + TURN,
            cost: Duration::ZERO,
            round: SHORTEST,
            removed: 0,
        }
    }

    pub const fn next_deadline(&self) -> Duration {
        self.next
    }
}

/// The layout's judgement at one moment.
struct Moment<'l> {
    layout: &'l Layout,
    counted: &'l mut Counted,
    now: Duration,
    ticks: Ticks,
}

impl Judge for Moment<'_> {
    fn record(&mut self, flow: &FlowKey, value: Value) -> Fate {
        self.layout
            .judge(self.now, self.ticks, flow, value, self.counted)
    }

    fn timeouts(&self, flow: &FlowKey) -> Option<Timeouts> {
        self.layout.timeouts(flow)
    }

    fn stays(&mut self, flow: &FlowKey, value: Value) {
        self.layout.stays(flow, value, self.counted);
    }
}

impl Owner {
    /// What is due now.
    pub(super) fn age(&mut self, now: Duration) {
        if now < self.ageing.next {
            return;
        }
        self.ageing.next = now + TURN;
        let tables = flows::tables(self.dataplane.tables().flows());
        let ticks = ticks();
        let Ageing {
            rounds,
            counted,
            cost,
            round,
            removed: all_removed,
            ..
        } = &mut self.ageing;
        let begun = Instant::now();
        let mut judge = Moment {
            layout: &self.layout,
            counted,
            now,
            ticks,
        };
        let pace = Pace {
            round: *round,
            most: MOST,
        };
        let progress = rounds.tick(now, ticks, pace, &tables, &mut judge);
        *cost += begun.elapsed();
        *all_removed += u64::from(progress.removed);
        if let Some(began) = progress.finished {
            *round = (*cost * LEISURE).clamp(SHORTEST, LONGEST);
            *cost = Duration::ZERO;
            let counted = std::mem::take(&mut self.ageing.counted);
            let mut writes = self.layout.counted(began, counted);
            let notes = |record| self.dataplane.tables().notes(record).unrecorded;
            writes.extend(self.layout.advance(now, ticks, notes));
            self.write(&writes);
        }
    }

    /// How full the tables of flows are, as of the last round.
    pub(super) fn flow_tables(&self) -> Vec<Usage> {
        let tables = flows::tables(self.dataplane.tables().flows());
        self.ageing.rounds.usage(&tables).collect()
    }
}
