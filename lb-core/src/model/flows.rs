//! What a service remembers of its flows, for how long, and what becomes of them when a backend goes.

use core::net::IpAddr;

use lb_common::{
    consistency, flow_state,
    flow_table::{Flow4, Flow6, Layout, Nat4, Nat6},
    snat,
};
use serde::{Deserialize, Serialize};

use super::{NodeName, SnatPoolName};

/// Which flows are recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tracking {
    /// Those that a change of backends would move.
    #[default]
    Adaptive,
    Full,
}

/// What becomes of flows whose backend is down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBackendDown {
    /// Their next packet goes to another backend.
    #[default]
    Rehash,
    /// Their next packet is answered with a reset. TCP only.
    Reset,
    /// They stay.
    Keep,
}

/// What becomes of flows that a draining backend still has at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrainEnd {
    /// TCP only.
    Reset,
    Rehash,
}

impl From<OnBackendDown> for consistency::OnDown {
    fn from(value: OnBackendDown) -> Self {
        match value {
            OnBackendDown::Rehash => Self::Rehash,
            OnBackendDown::Reset => Self::Reset,
            OnBackendDown::Keep => Self::Keep,
        }
    }
}

impl From<OnDrainEnd> for consistency::OnDown {
    fn from(value: OnDrainEnd) -> Self {
        match value {
            OnDrainEnd::Reset => Self::Reset,
            OnDrainEnd::Rehash => Self::Rehash,
        }
    }
}

/// How long a backend that is drained keeps its flows, and what becomes of them then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DrainPolicy {
    /// `None`: until they end by themselves.
    pub deadline_s: Option<u32>,
    pub at_end: OnDrainEnd,
}

/// How long a flow may be silent, in seconds; none is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    pub half_open_s: u32,
    pub established_s: u32,
    pub closing_s: u32,
    pub closed_s: u32,
    pub reset_s: u32,
    pub udp_s: u32,
}

impl Timeouts {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let flow_state::Timeouts {
            half_open_s,
            established_s,
            closing_s,
            closed_s,
            reset_s,
            datagram_s,
        } = flow_state::Timeouts::DEFAULT;
        Self {
            half_open_s,
            established_s,
            closing_s,
            closed_s,
            reset_s,
            udp_s: datagram_s,
        }
    }
}

impl From<Timeouts> for flow_state::Timeouts {
    fn from(timeouts: Timeouts) -> Self {
        let Timeouts {
            half_open_s,
            established_s,
            closing_s,
            closed_s,
            reset_s,
            udp_s,
        } = timeouts;
        Self {
            half_open_s,
            established_s,
            closing_s,
            closed_s,
            reset_s,
            datagram_s: udp_s,
        }
    }
}

/// Addresses and ports that `snat` services send from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnatPool {
    pub name: SnatPoolName,
    /// At least one, all of one family, none twice; no VIP, no backend, and in no other pool.
    pub addresses: Vec<IpAddr>,
    /// Not 0, and not greater than `last_port`.
    pub first_port: u16,
    pub last_port: u16,
    /// VRID of the virtual router that holds the addresses; `None`: every node holds them.
    pub virtual_router: Option<u8>,
}

impl SnatPool {
    pub fn is_ipv4(&self) -> bool {
        self.addresses.first().is_none_or(IpAddr::is_ipv4)
    }

    /// The ports that `node` gives out: all if it is alone, else its half, so that each of a pair can take over the other's
    /// connections.
    pub fn ports<'n>(
        &self,
        node: &NodeName,
        nodes: impl Iterator<Item = &'n NodeName>,
    ) -> snat::Ports {
        let all = snat::Ports {
            first: self.first_port,
            count: self
                .last_port
                .saturating_sub(self.first_port)
                .saturating_add(1),
        };
        let mut alone = true;
        let mut before = 0;
        for other in nodes.filter(|other| *other != node) {
            alone = false;
            before += u8::from(other < node);
        }
        if alone { all } else { all.share(before) }
    }
}

/// Sizes of the tables of flows, in entries of each address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowCapacity {
    pub ipv4: FlowTables,
    pub ipv6: FlowTables,
}

/// Entries, each a power of two of at least a set's, or 0 for no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct FlowTables {
    /// Established flows, one entry each.
    pub flows: u32,
    /// Half-open flows, one entry each.
    pub half_open: u32,
    /// Two entries for a connection of a `snat` service.
    pub snat: u32,
}

impl FlowTables {
    /// Room for this many connections.
    pub fn new(flows: u32, half_open: u32, snat_flows: u32) -> Self {
        Self {
            flows: entries(flows),
            half_open: entries(half_open),
            snat: entries(snat_flows.saturating_mul(2)),
        }
    }
}

/// Enough for `flows`, in whole sets, whose number is a power of two.
fn entries(flows: u32) -> u32 {
    if flows == 0 {
        return 0;
    }
    let ways = Flow4::WAYS as u32;
    flows.clamp(ways, 1 << 30).next_power_of_two()
}

impl FlowCapacity {
    /// What the tables take in memory.
    pub fn bytes(&self) -> u64 {
        fn size<F: Layout, N: Layout>(tables: &FlowTables) -> u64 {
            let of = |entries: u32, words: usize| u64::from(entries) * words as u64 * 8;
            of(tables.flows, F::STRIDE)
                + of(tables.half_open, F::STRIDE)
                + of(tables.snat, N::STRIDE)
        }
        size::<Flow4, Nat4>(&self.ipv4) + size::<Flow6, Nat6>(&self.ipv6)
    }

    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

pub const DEFAULT_FLOWS: u32 = 1 << 18;
pub const DEFAULT_HALF_OPEN: u32 = 1 << 16;
/// Of a family that has a `snat` service.
pub const DEFAULT_SNAT_FLOWS: u32 = 1 << 18;

impl Default for FlowCapacity {
    fn default() -> Self {
        let tables = FlowTables::new(DEFAULT_FLOWS, DEFAULT_HALF_OPEN, 0);
        Self {
            ipv4: tables,
            ipv6: tables,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).expect("a name")
    }

    #[test]
    fn nodes_of_a_pair_share_the_ports() {
        let pool = SnatPool {
            name: SnatPoolName::new("p").expect("a name"),
            addresses: vec!["10.0.0.1".parse().expect("an address")],
            first_port: 1024,
            last_port: 65_535,
            virtual_router: None,
        };
        let nodes = [name("b"), name("a")];
        let ports = |count: usize, node: &NodeName| pool.ports(node, nodes.iter().take(count));
        let all = ports(1, &nodes[0]);
        assert_eq!((all.first, all.count), (1024, 64_512));
        let (second, first) = (ports(2, &nodes[0]), ports(2, &nodes[1]));
        assert_eq!((first.first, first.count), (1024, 32_256));
        assert_eq!((second.first, second.count), (33_280, 32_256));
    }

    #[test]
    fn memory_is_known() {
        let capacity = FlowCapacity {
            ipv4: FlowTables::new(1_000_000, 1, 0),
            ipv6: FlowTables::new(0, 0, 3),
        };
        assert_eq!(
            (capacity.ipv4.flows, capacity.ipv4.half_open),
            (1 << 20, 16)
        );
        assert_eq!(capacity.ipv6.snat, 16);
        assert_eq!(capacity.bytes(), (32 << 20) + 16 * 32 + 16 * 128);
    }
}
