//! All tables of flows as user space goes through them: flow by flow, whatever the table.

use lb_common::{
    flow_state::{Phase, State},
    flow_table::{
        Entry, Flags, Flow4, Flow6, FlowKey, Layout, Memory, Nat4, Nat6, Table, Translation, Value,
        Visit,
    },
    snat::Translating,
    tracking::Tracker,
};

/// The tables of both families.
#[derive(Clone, Debug)]
pub struct FlowTables<M> {
    pub ipv4: Tracker<Flow4, M>,
    pub ipv6: Tracker<Flow6, M>,
    /// Connections of `snat` services, where there are any.
    pub snat_ipv4: Option<Table<Nat4, M>>,
    pub snat_ipv6: Option<Table<Nat6, M>>,
}

/// A flow, as it was when it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The client's packets as they arrive.
    pub key: FlowKey,
    pub value: Value,
    pub phase: Phase,
    /// What the client's packets are rewritten to, in `snat`.
    pub translation: Option<Translation>,
}

/// A walk through all tables that is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    table: usize,
    cursor: u32,
}

/// Half-open flows first: they move to the established ones, not back. So a flow may be met twice, and none is missed.
const TABLES: usize = 6;

impl<M: Memory> FlowTables<M> {
    /// Shows the flows among the next `budget` entries; false at the end.
    pub fn walk(&self, walk: &mut Walk, budget: u32, mut show: impl FnMut(&Flow)) -> bool {
        let (from, show) = (walk.cursor, &mut show);
        let next = match walk.table {
            0 => one_way(&self.ipv4.half_open, from, budget, FlowKey::from_v4, show),
            1 => one_way(&self.ipv4.flows, from, budget, FlowKey::from_v4, show),
            2 => one_way(&self.ipv6.half_open, from, budget, FlowKey::from_v6, show),
            3 => one_way(&self.ipv6.flows, from, budget, FlowKey::from_v6, show),
            4 => two_way(self.snat_ipv4.as_ref(), from, budget, show),
            5 => two_way(self.snat_ipv6.as_ref(), from, budget, show),
            _ => None,
        };
        match next {
            Some(cursor) => walk.cursor = cursor,
            None => {
                *walk = Walk {
                    table: walk.table + 1,
                    cursor: 0,
                }
            }
        }
        walk.table < TABLES
    }
}

fn one_way<L: Layout, M: Memory>(
    table: &Table<L, M>,
    from: u32,
    budget: u32,
    key: impl Fn(L::Key) -> FlowKey,
    show: &mut impl FnMut(&Flow),
) -> Option<u32> {
    table.scan(from, budget, |visit| {
        if let Visit::Flow(entry) = visit {
            show(&Flow {
                key: key(entry.key),
                value: entry.value,
                phase: Phase::one_way(State::from_number(entry.value.state)),
                translation: None,
            });
        }
    })
}

/// One flow for both entries of a connection.
fn two_way<L: Translating, M: Memory>(
    table: Option<&Table<L, M>>,
    from: u32,
    budget: u32,
    show: &mut impl FnMut(&Flow),
) -> Option<u32> {
    let table = table?;
    table.scan(from, budget, |visit| {
        if let Visit::Flow(entry) = visit
            && entry.value.flags.has(Flags::FROM_CLIENT)
        {
            show(&connection(table, &entry));
        }
    })
}

fn connection<L: Translating, M: Memory>(
    table: &Table<L, M>,
    client: &Entry<L::Key, L::Extra>,
) -> Flow {
    let key = L::flow_key(client.key);
    let translation = L::translation(client.extra);
    let server = table.lookup(&L::key(&translation.answered_by(key.protocol)));
    let server = server.map(|server| server.value);
    let mut value = client.value;
    // The later of both.
    if let Some(server) = server.filter(|server| value.seen.since(server.seen) == 0) {
        value.seen = server.seen;
    }
    let answered = server.filter(|server| server.flags.has(Flags::ANSWERED));
    Flow {
        key,
        value,
        phase: Phase::two_way(
            State::from_number(value.state),
            answered.map(|server| State::from_number(server.state)),
        ),
        translation: Some(translation),
    }
}
