//! Which frame takes a packet to a backend: the decision from route, neighbours and links, without asking anybody.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use super::{
    Mac,
    links::{Egress, Links, NoEgress},
    neighbours::{Key, Neighbours, Standing},
    routes::{Hop, NoRoute, Route},
};

/// What the packet path needs to send to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The interface that transmits: the lower one where the route names a VLAN device.
    pub ifindex: u32,
    pub src_mac: Mac,
    pub dst_mac: Mac,
    /// 802.1Q tag to add.
    pub vlan: Option<u16>,
    /// Largest network-layer packet in bytes, the smaller of interface and route.
    pub mtu: u32,
    /// What the host itself sends from on this way.
    pub source: Option<IpAddr>,
}

/// The next hop of one tracked address changed, or the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHopChanged {
    pub address: IpAddr,
    pub next_hop: Option<NextHop>,
    pub why: Why,
}

/// Why a next hop is what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The neighbour is known and answers, as far as is known.
    Resolved {
        via: IpAddr,
    },
    /// The neighbour stopped answering; packets still go where it was. Health checks decide about the backend.
    LastKnown {
        via: IpAddr,
    },
    Unresolved(Unresolved),
}

/// Why there is no next hop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error(transparent)]
    Route(#[from] NoRoute),
    #[error(transparent)]
    Link(#[from] NoEgress),
    #[error("waiting for {via} on {interface} to answer {}", protocol(.via))]
    Waiting { via: IpAddr, interface: String },
    #[error("{via} on {interface} does not answer {}", protocol(.via))]
    Silent { via: IpAddr, interface: String },
}

fn protocol(via: &IpAddr) -> &'static str {
    if via.is_ipv4() {
        "ARP"
    } else {
        "neighbour discovery"
    }
}

/// A decision, and which neighbours it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub next_hop: Option<NextHop>,
    pub why: Why,
    /// To be kept resolved, those of the hops that were not chosen too.
    pub neighbours: BTreeSet<Key>,
}

/// Chooses the next hop of `address`. Among several hops: confirmed ones first, then those with a last known MAC, then
/// the rest; among equals by weighted rendezvous hashing of (address, gateway), so that backends spread over the
/// hops and losing one hop moves only its own backends.
pub fn decide(
    address: IpAddr,
    route: &Result<Route, NoRoute>,
    links: &Links,
    neighbours: &Neighbours,
) -> Decision {
    let route = match route {
        Ok(route) => route,
        Err(why) => return Decision::unresolved((*why).into(), BTreeSet::new()),
    };
    let mut watched = BTreeSet::new();
    let mut best: Option<(Candidate, u64)> = None;
    for hop in &route.hops {
        let candidate = Candidate::new(address, hop, links, neighbours);
        if candidate.egress.is_ok() {
            watched.insert((hop.ifindex, candidate.via));
        }
        let score = score(address, hop);
        if best.as_ref().is_none_or(|(other, other_score)| {
            (candidate.rank(), std::cmp::Reverse(score))
                < (other.rank(), std::cmp::Reverse(*other_score))
        }) {
            best = Some((candidate, score));
        }
    }
    let Some((chosen, _)) = best else {
        return Decision::unresolved(NoRoute::NotUnderstood.into(), watched);
    };
    let interface = || {
        links
            .get(chosen.ifindex)
            .map_or_else(String::new, |link| link.name.clone())
    };
    let via = chosen.via;
    match (chosen.egress, chosen.mac) {
        (Err(why), _) => Decision::unresolved(why.into(), watched),
        (Ok(egress), Some(dst_mac)) => {
            let next_hop = NextHop {
                ifindex: egress.ifindex,
                src_mac: egress.mac,
                dst_mac,
                vlan: egress.vlan,
                mtu: route.mtu.map_or(egress.mtu, |mtu| mtu.min(egress.mtu)),
                source: chosen.source,
            };
            let why = if chosen.confirmed {
                Why::Resolved { via }
            } else {
                Why::LastKnown { via }
            };
            Decision {
                next_hop: Some(next_hop),
                why,
                neighbours: watched,
            }
        }
        (Ok(_), None) if chosen.standing == Standing::Failed => Decision::unresolved(
            Unresolved::Silent {
                via,
                interface: interface(),
            },
            watched,
        ),
        (Ok(_), None) => Decision::unresolved(
            Unresolved::Waiting {
                via,
                interface: interface(),
            },
            watched,
        ),
    }
}

struct Candidate {
    ifindex: u32,
    source: Option<IpAddr>,
    via: IpAddr,
    egress: Result<Egress, NoEgress>,
    mac: Option<Mac>,
    standing: Standing,
    confirmed: bool,
}

impl Candidate {
    fn new(address: IpAddr, hop: &Hop, links: &Links, neighbours: &Neighbours) -> Self {
        let via = hop.gateway.unwrap_or(address);
        let neighbour = neighbours.get(&(hop.ifindex, via));
        let standing = neighbour.map_or(Standing::Absent, |neighbour| neighbour.standing);
        Self {
            ifindex: hop.ifindex,
            source: hop.source,
            via,
            egress: links.egress(hop.ifindex),
            mac: neighbour.and_then(|neighbour| neighbour.mac),
            standing,
            confirmed: matches!(
                standing,
                Standing::Fixed | Standing::Confirmed | Standing::Stale
            ),
        }
    }

    /// Less is better.
    fn rank(&self) -> u8 {
        match (&self.egress, self.mac) {
            (Ok(_), Some(_)) if self.confirmed => 0,
            (Ok(_), Some(_)) => 1,
            (Ok(_), None) if self.standing != Standing::Failed => 2,
            (Ok(_), None) => 3,
            (Err(_), _) => 4,
        }
    }
}

impl Decision {
    fn unresolved(why: Unresolved, neighbours: BTreeSet<Key>) -> Self {
        Self {
            next_hop: None,
            why: Why::Unresolved(why),
            neighbours,
        }
    }
}

/// A hop of weight N takes part N times (weights of the kernel are 1 to 256).
fn score(address: IpAddr, hop: &Hop) -> u64 {
    (0..hop.weight.max(1))
        .map(|turn| {
            let mut hash = Fnv::new();
            hash.address(address);
            match hop.gateway {
                Some(gateway) => hash.address(gateway),
                None => hash.bytes(&hop.ifindex.to_be_bytes()),
            }
            hash.bytes(&turn.to_be_bytes());
            hash.finish()
        })
        .max()
        .unwrap_or(0)
}

/// FNV-1a with a final mix: unlike the standard library's hasher it gives the same in every release.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn bytes(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn address(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }

    fn finish(self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 33)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolved { via } => write!(f, "reached through {via}"),
            Self::LastKnown { via } => write!(
                f,
                "{via} does not answer {}; its last MAC is used",
                protocol(via)
            ),
            Self::Unresolved(why) => why.fmt(f),
        }
    }
}

impl fmt::Display for NextHopChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hop) = &self.next_hop else {
            return write!(f, "no next hop for {}: {}", self.address, self.why);
        };
        let [a, b, c, d, e, last] = hop.dst_mac;
        write!(
            f,
            "next hop of {}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{last:02x} on interface {}",
            self.address, hop.ifindex
        )?;
        if let Some(vlan) = hop.vlan {
            write!(f, " VLAN {vlan}")?;
        }
        write!(f, ": {}", self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::{
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
        neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    };
    use std::time::Instant;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100));

    fn gateway(index: u32) -> IpAddr {
        IpAddr::from([192, 0, 2, index as u8])
    }

    fn link(links: &mut Links, index: u32, up: bool) {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = if up {
            LinkFlags::Up | LinkFlags::LowerUp
        } else {
            LinkFlags::empty()
        };
        message.attributes = vec![
            LinkAttribute::IfName(format!("eth{index}")),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        links.apply_new(&message);
    }

    fn neighbour(
        table: &mut Neighbours,
        index: u32,
        via: IpAddr,
        state: NeighbourState,
        mac: Option<Mac>,
    ) {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::Destination(via.into()));
        message
            .attributes
            .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        table.apply(&message, true, Instant::now());
    }

    fn route(indexes: &[u32]) -> Result<Route, NoRoute> {
        let hops = indexes
            .iter()
            .map(|index| Hop {
                ifindex: *index,
                gateway: Some(gateway(*index)),
                weight: 1,
                source: Some(SOURCE),
            })
            .collect();
        Ok(Route {
            hops,
            mtu: Some(1400),
        })
    }

    fn two_links() -> Links {
        let mut links = Links::default();
        link(&mut links, 1, true);
        link(&mut links, 2, true);
        links
    }

    #[test]
    fn through_a_gateway_the_gateways_mac_is_used() {
        let mut table = Neighbours::default();
        neighbour(
            &mut table,
            1,
            gateway(1),
            NeighbourState::Reachable,
            Some([8; 6]),
        );
        let decision = decide(BACKEND, &route(&[1]), &two_links(), &table);
        let hop = decision.next_hop.expect("test data");
        assert_eq!(
            hop,
            NextHop {
                ifindex: 1,
                src_mac: [2, 0, 0, 0, 0, 1],
                dst_mac: [8; 6],
                vlan: None,
                mtu: 1400,
                source: Some(SOURCE)
            }
        );
        assert_eq!(decision.neighbours, BTreeSet::from([(1, gateway(1))]));
        assert_eq!(decision.why, Why::Resolved { via: gateway(1) });
    }

    #[test]
    fn on_the_link_the_backend_itself_is_the_neighbour() {
        let direct = Ok(Route {
            hops: vec![Hop {
                ifindex: 1,
                gateway: None,
                weight: 1,
                source: None,
            }],
            mtu: None,
        });
        let decision = decide(BACKEND, &direct, &two_links(), &Neighbours::default());
        assert_eq!(decision.neighbours, BTreeSet::from([(1, BACKEND)]));
        let Why::Unresolved(why) = decision.why else {
            panic!("nothing is known yet")
        };
        assert_eq!(
            why.to_string(),
            "waiting for 198.51.100.7 on eth1 to answer ARP"
        );
    }

    #[test]
    fn a_silent_neighbour_keeps_its_last_mac_and_one_never_heard_has_none() {
        let mut table = Neighbours::default();
        neighbour(&mut table, 1, gateway(1), NeighbourState::Failed, None);
        let never = decide(BACKEND, &route(&[1]), &two_links(), &table);
        assert_eq!(never.next_hop, None);
        assert!(matches!(
            never.why,
            Why::Unresolved(Unresolved::Silent { .. })
        ));

        neighbour(
            &mut table,
            1,
            gateway(1),
            NeighbourState::Reachable,
            Some([8; 6]),
        );
        neighbour(&mut table, 1, gateway(1), NeighbourState::Failed, None);
        let was = decide(BACKEND, &route(&[1]), &two_links(), &table);
        assert_eq!(was.next_hop.map(|hop| hop.dst_mac), Some([8; 6]));
        assert_eq!(was.why, Why::LastKnown { via: gateway(1) });
    }

    #[test]
    fn a_confirmed_hop_goes_before_a_silent_one_and_every_hop_is_watched() {
        let links = two_links();
        for (good, bad) in [(1, 2), (2, 1)] {
            let mut table = Neighbours::default();
            for index in [good, bad] {
                neighbour(
                    &mut table,
                    index,
                    gateway(index),
                    NeighbourState::Reachable,
                    Some([index as u8; 6]),
                );
            }
            neighbour(&mut table, bad, gateway(bad), NeighbourState::Failed, None);
            let decision = decide(BACKEND, &route(&[1, 2]), &links, &table);
            assert_eq!(decision.next_hop.map(|hop| hop.ifindex), Some(good));
            assert_eq!(decision.neighbours.len(), 2);
        }
    }

    #[test]
    fn equal_hops_share_the_backends_whatever_their_order() {
        let links = two_links();
        let mut table = Neighbours::default();
        for index in [1, 2] {
            neighbour(
                &mut table,
                index,
                gateway(index),
                NeighbourState::Stale,
                Some([index as u8; 6]),
            );
        }
        let mut first = 0;
        for host in 0..=255 {
            let backend = IpAddr::from([198, 51, 100, host]);
            let one = decide(backend, &route(&[1, 2]), &links, &table)
                .next_hop
                .expect("test data");
            let other = decide(backend, &route(&[2, 1]), &links, &table)
                .next_hop
                .expect("test data");
            assert_eq!(one, other);
            first += usize::from(one.ifindex == 1);
        }
        assert!(
            (96..=160).contains(&first),
            "{first} of 256 on the first hop"
        );
    }

    #[test]
    fn an_interface_that_is_down_or_gone_is_the_reason() {
        let mut links = two_links();
        link(&mut links, 1, false);
        let mut table = Neighbours::default();
        neighbour(
            &mut table,
            1,
            gateway(1),
            NeighbourState::Permanent,
            Some([8; 6]),
        );
        let down = decide(BACKEND, &route(&[1]), &links, &table);
        assert_eq!(
            down.why,
            Why::Unresolved(NoEgress::Down("eth1".into()).into())
        );
        assert!(
            down.neighbours.is_empty(),
            "nobody is asked on a dead interface"
        );
        let gone = decide(BACKEND, &route(&[9]), &links, &table);
        assert_eq!(gone.why, Why::Unresolved(NoEgress::Missing(9).into()));
        let none = decide(BACKEND, &Err(NoRoute::Missing), &links, &table);
        assert_eq!(none.why.to_string(), "no route to it");
    }
}
