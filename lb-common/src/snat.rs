//! Which address and port of its own the balancer gives to a connection in `snat` mode.
//!
//! A connection is two entries of one table: the client's packets by their own ends, the server's by theirs. The
//! server's entry is what takes the port: one (SNAT address, port) may serve as many connections as there are backend
//! addresses and ports, and an insertion that finds it taken tries another. An entry that a connection leaves behind while its ends
//! are in TIME_WAIT keeps the port taken.

use crate::{
    address::Address,
    flow_table::{
        Block, Flags, FlowKey, Insert, Layout, Memory, Nat4, Nat6, Table, Translation, Value,
        WhenFull,
    },
    hash::{mix, reduce},
    rewrite::Endpoint,
};

/// Ports that are looked at for one connection. With a share `u` of the ports to one backend taken, `u^32` of the new connections find
/// none: nobody up to 60 %, 1 in 1,000 at 80 %, 3 % at 90 %.
pub const PROBES: u32 = 32;

/// Ports that one node may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub count: u16,
}

impl Ports {
    /// The share of a node: the two nodes never give out the same port, so that each can take over the other's connections.
    /// `node` is 0 or 1.
    pub const fn share(self, node: u8) -> Self {
        let low = self.count / 2;
        match node {
            0 => Self { count: low, ..self },
            _ => Self {
                first: self.first + low,
                count: self.count - low,
            },
        }
    }
}

/// What connections are translated to.
#[derive(Clone, Copy, Debug)]
pub struct Pool<A> {
    pub ports: Ports,
    /// Number of addresses.
    pub addresses: u32,
    /// An address by number; `None` if it may not be used at present.
    pub address: A,
}

/// A layout with room for a translation.
pub trait Translating: Layout {
    fn key(key: &FlowKey) -> Self::Key;
    fn flow_key(key: Self::Key) -> FlowKey;
    fn extra(translation: &Translation) -> Self::Extra;
    fn translation(extra: Self::Extra) -> Translation;
}

macro_rules! translating {
    ($($layout:ty: $to:ident, $from:ident;)+) => {$(
        impl Translating for $layout {
            #[inline(always)]
            fn key(key: &FlowKey) -> Self::Key {
                key.$to()
            }
            #[inline(always)]
            fn flow_key(key: Self::Key) -> FlowKey {
                FlowKey::$from(key)
            }
            #[inline(always)]
            fn extra(translation: &Translation) -> Self::Extra {
                translation.$to()
            }
            #[inline(always)]
            fn translation(extra: Self::Extra) -> Translation {
                Translation::$from(extra)
            }
        }
    )+};
}

translating! {
    Nat4: v4, from_v4;
    Nat6: v6, from_v6;
}

/// What became of a connection that asked for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Its packets are rewritten so.
    New(Translation),
    /// Another packet of it was faster: a lookup finds it.
    Exists,
    /// No free port was found for this backend.
    Exhausted,
    /// The table has no room for it.
    Full,
    /// Another CPU is deciding about it, or took the port, at this moment; the sender repeats the packet.
    Contended,
}

/// Gives a connection an address and a port of `pool` towards `backend`.
///
/// `flow` is the client's packet as it arrives; `value` is what its entries begin with.
#[inline(always)]
pub fn allocate<L: Translating, M: Memory, A: Fn(u32) -> Option<Address>>(
    table: &Table<L, M>,
    flow: &FlowKey,
    backend: Endpoint,
    pool: &Pool<A>,
    value: Value,
) -> Allocation {
    // Where the search begins is another place for each connection.
    let seed = mix(u64::from(backend.port)) ^ backend.address.low;
    let start = L::key(flow).hash(seed);
    let mut translation = Translation {
        source: backend,
        destination: backend,
    };
    if !find_port(table, start, flow.protocol, pool, &mut translation) {
        return Allocation::Exhausted;
    }
    // The server's first: it takes the port.
    match insert_server(table, flow, &translation, value) {
        Placed::Inserted => {}
        Placed::Found | Placed::Busy => return Allocation::Contended,
        Placed::Full => return Allocation::Full,
    }
    let allocation = match insert_client(table, flow, &translation, value) {
        Placed::Inserted => return Allocation::New(translation),
        Placed::Found => Allocation::Exists,
        Placed::Full => Allocation::Full,
        Placed::Busy => Allocation::Contended,
    };
    remove_server(table, flow.protocol, &translation);
    allocation
}

/// As [`Insert`], but for the entry.
#[derive(Clone, Copy)]
enum Placed {
    Inserted,
    Found,
    Full,
    Busy,
}

impl<L: Layout, M: Memory> From<Insert<'_, L, M>> for Placed {
    #[inline(always)]
    fn from(insert: Insert<'_, L, M>) -> Self {
        match insert {
            Insert::Inserted(_) => Self::Inserted,
            Insert::Found(_) => Self::Found,
            Insert::Full => Self::Full,
            Insert::Busy => Self::Busy,
        }
    }
}

// Functions of their own, one after another: together, their keys do not fit on the stack of a BPF program.

#[inline(never)]
fn insert_server<L: Translating, M: Memory>(
    table: &Table<L, M>,
    flow: &FlowKey,
    translation: &Translation,
    value: Value,
) -> Placed {
    let answers = Translation {
        source: flow.destination,
        destination: flow.source,
    };
    let value = Value {
        flags: Flags(value.flags.0 & !Flags::FROM_CLIENT.0),
        ..value
    };
    let key = L::key(&translation.answered_by(flow.protocol));
    table
        .insert(&key, value, &L::extra(&answers), WhenFull::Refuse)
        .into()
}

#[inline(never)]
fn insert_client<L: Translating, M: Memory>(
    table: &Table<L, M>,
    flow: &FlowKey,
    translation: &Translation,
    value: Value,
) -> Placed {
    let value = Value {
        flags: Flags(value.flags.0 | Flags::FROM_CLIENT.0),
        ..value
    };
    table
        .insert(
            &L::key(flow),
            value,
            &L::extra(translation),
            WhenFull::Refuse,
        )
        .into()
}

#[inline(never)]
fn remove_server<L: Translating, M: Memory>(
    table: &Table<L, M>,
    protocol: u8,
    translation: &Translation,
) {
    if let Some(flow) = table.lookup(&L::key(&translation.answered_by(protocol))) {
        flow.remove();
    }
}

/// Sets the source to an address and port that no connection to the destination has; false if none is found.
#[inline(never)]
fn find_port<L: Translating, M: Memory, A: Fn(u32) -> Option<Address>>(
    table: &Table<L, M>,
    start: u64,
    protocol: u8,
    pool: &Pool<A>,
    translation: &mut Translation,
) -> bool {
    for probe in 0..PROBES {
        let random = mix(start.wrapping_add(u64::from(probe)));
        let Some(address) = (pool.address)(reduce((random >> 32) as u32, pool.addresses)) else {
            continue;
        };
        let port = reduce(random as u32, u32::from(pool.ports.count)) as u16;
        translation.source = Endpoint {
            address,
            port: pool.ports.first.wrapping_add(port),
        };
        if !table.contains(&L::key(&translation.answered_by(protocol))) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
