//! Rounds through all tables, one after the other and again: takes out what has been silent for too long, and counts what is left.

use core::time::Duration;

use lb_common::{
    flow_state::Timeouts,
    flow_table::{Entry, Flags, FlowKey, Layout, Memory, Table, Ticks, Value},
    snat::Translating,
};

use super::{
    ageing::{self, Fate, Pair},
    sweep::{Pace, Progress, Sweep},
    tables::FlowTables,
};

/// The tables, in the order of a round: flows move from the half-open to the established ones, so that none is missed.
pub const TABLES: [&str; 6] = [
    "half_open_ipv4",
    "flows_ipv4",
    "half_open_ipv6",
    "flows_ipv6",
    "snat_ipv4",
    "snat_ipv6",
];

/// After this time without the client's entry, the server's is not one that is just being made.
const ORPHAN_S: u32 = 5;

/// A round that is under way.
#[derive(Clone, Debug)]
pub struct Rounds {
    table: usize,
    sweep: [Sweep; TABLES.len()],
    began: Duration,
    used: [u64; TABLES.len()],
    last: [u64; TABLES.len()],
}

/// Entries of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    pub table: &'static str,
    pub used: u64,
    pub capacity: u64,
}

/// Who decides on flows.
pub trait Judge {
    /// Whether the record of a flow stays, in the tables without translation.
    fn record(&mut self, flow: &FlowKey, value: Value) -> Fate;
    /// Those of a translated connection's service; `None`: there is no such service any more.
    fn timeouts(&self, flow: &FlowKey) -> Option<Timeouts>;
    /// A translated connection stays.
    fn stays(&mut self, flow: &FlowKey, value: Value);
}

impl Rounds {
    pub fn new(now: Duration) -> Self {
        Self {
            table: 0,
            sweep: core::array::from_fn(|_| Sweep::new(now)),
            began: now,
            used: [0; TABLES.len()],
            last: [0; TABLES.len()],
        }
    }

    /// As [`Sweep::tick`]; `pace` is that of a round through all tables. `ticks` is `now` by the clock of the tables.
    pub fn tick<M: Memory>(
        &mut self,
        now: Duration,
        ticks: Ticks,
        pace: Pace,
        tables: &FlowTables<M>,
        judge: &mut impl Judge,
    ) -> Progress {
        let capacities = capacities(tables);
        let (at, capacity) = (self.table, capacities[self.table]);
        let pace = Pace {
            round: pace
                .round
                .mul_f64(capacity as f64 / capacities.iter().sum::<u64>().max(1) as f64),
            ..pace
        };
        let sweep = &mut self.sweep[at];
        let used = &mut self.used[at];
        let progress = match at {
            0 => one_way(
                sweep,
                now,
                pace,
                &tables.ipv4.half_open,
                FlowKey::from_v4,
                used,
                judge,
            ),
            1 => one_way(
                sweep,
                now,
                pace,
                &tables.ipv4.flows,
                FlowKey::from_v4,
                used,
                judge,
            ),
            2 => one_way(
                sweep,
                now,
                pace,
                &tables.ipv6.half_open,
                FlowKey::from_v6,
                used,
                judge,
            ),
            3 => one_way(
                sweep,
                now,
                pace,
                &tables.ipv6.flows,
                FlowKey::from_v6,
                used,
                judge,
            ),
            4 => two_way(
                sweep,
                now,
                ticks,
                pace,
                tables.snat_ipv4.as_ref(),
                used,
                judge,
            ),
            _ => two_way(
                sweep,
                now,
                ticks,
                pace,
                tables.snat_ipv6.as_ref(),
                used,
                judge,
            ),
        };
        if progress.finished.is_none() {
            return progress;
        }
        self.last[at] = core::mem::take(&mut self.used[at]);
        self.table = (at + 1) % TABLES.len();
        self.sweep[self.table].restart(now);
        let began = self.began;
        if self.table == 0 {
            self.began = now;
        }
        Progress {
            finished: (self.table == 0).then_some(began),
            ..progress
        }
    }

    /// What the last look at each table has found; a table that is not there has none.
    pub fn usage<M: Memory>(&self, tables: &FlowTables<M>) -> impl Iterator<Item = Usage> {
        TABLES
            .into_iter()
            .zip(self.last)
            .zip(capacities(tables))
            .map(|((table, used), capacity)| Usage {
                table,
                used,
                capacity,
            })
            .filter(|usage| usage.capacity > 0)
    }
}

fn capacities<M: Memory>(tables: &FlowTables<M>) -> [u64; TABLES.len()] {
    [
        tables.ipv4.half_open.capacity(),
        tables.ipv4.flows.capacity(),
        tables.ipv6.half_open.capacity(),
        tables.ipv6.flows.capacity(),
        tables.snat_ipv4.as_ref().map_or(0, Table::capacity),
        tables.snat_ipv6.as_ref().map_or(0, Table::capacity),
    ]
}

fn one_way<L: Layout, M: Memory>(
    sweep: &mut Sweep,
    now: Duration,
    pace: Pace,
    table: &Table<L, M>,
    key: impl Fn(L::Key) -> FlowKey,
    used: &mut u64,
    judge: &mut impl Judge,
) -> Progress {
    sweep.tick(now, pace, table, |entry| {
        let fate = judge.record(&key(entry.key), entry.value);
        *used += u64::from(fate == Fate::Keep);
        fate
    })
}

fn two_way<L: Translating, M: Memory>(
    sweep: &mut Sweep,
    now: Duration,
    ticks: Ticks,
    pace: Pace,
    table: Option<&Table<L, M>>,
    used: &mut u64,
    judge: &mut impl Judge,
) -> Progress {
    let Some(table) = table else {
        return Progress {
            finished: Some(now),
            ..Progress::default()
        };
    };
    let mut pairs = 0;
    let mut progress = sweep.tick(now, pace, table, |entry| {
        if !entry.value.flags.has(Flags::FROM_CLIENT) {
            return orphan(table, entry, ticks);
        }
        if connection(table, entry, ticks, &mut pairs, judge) {
            *used += 2;
        }
        // Removed already, if at all, or brought back to life by a packet just now.
        Fate::Keep
    });
    progress.removed += pairs;
    progress
}

/// Both entries stay, or both go: the client's first, so that no packet of it finds the way and none back. True if they stay.
fn connection<L: Translating, M: Memory>(
    table: &Table<L, M>,
    entry: &Entry<L::Key, L::Extra>,
    ticks: Ticks,
    removed: &mut u32,
    judge: &mut impl Judge,
) -> bool {
    let flow = L::flow_key(entry.key);
    let translation = L::translation(entry.extra);
    let server = table.lookup(&L::key(&translation.answered_by(flow.protocol)));
    let pair = Pair {
        client: entry.value,
        answered: server
            .as_ref()
            .is_some_and(|server| server.value.flags.has(Flags::ANSWERED)),
        server: server.as_ref().map(|server| server.value),
    };
    let fate = judge.timeouts(&flow).map_or(Fate::Remove, |timeouts| {
        ageing::pair(&pair, ticks, &timeouts)
    });
    if fate == Fate::Keep {
        judge.stays(&flow, entry.value);
        return true;
    }
    if table.remove_if(entry.index, entry.control, entry.value) {
        *removed += 1;
        *removed += u32::from(server.is_some_and(|server| server.remove()));
    }
    false
}

/// A server's entry whose client's was not made, or has gone.
fn orphan<L: Translating, M: Memory>(
    table: &Table<L, M>,
    entry: &Entry<L::Key, L::Extra>,
    ticks: Ticks,
) -> Fate {
    let key = L::flow_key(entry.key);
    // What its packets are rewritten to, from the other side, is the client's packets as they arrive.
    let client = L::translation(entry.extra).answered_by(key.protocol);
    if table.contains(&L::key(&client)) || ticks.since(entry.value.seen) <= ORPHAN_S {
        Fate::Keep
    } else {
        Fate::Remove
    }
}
