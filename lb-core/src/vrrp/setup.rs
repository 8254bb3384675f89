//! From the validated configuration and what the host's interfaces are to what one node runs.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::{
    Family,
    codec::Addresses,
    echo::Key,
    liveness::EchoConfig,
    node::{NodeConfig, Placement},
    router::{Preempt, RouterConfig},
    virtual_mac,
};
use crate::model::{Model, Node, NodeName, VirtualRouter};

/// What has to be known of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub ifindex: u32,
    pub addresses: Vec<IpAddr>,
}

/// A node's part of the configuration, with the interfaces found.
#[derive(Clone, Debug)]
pub struct Setup {
    pub config: NodeConfig,
    /// For each router in order: its name for people, its interface, and its paths as interface numbers.
    pub places: Vec<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub interface: String,
    /// Path 0 is the interface of the adverts.
    pub paths: Vec<u32>,
}

/// What keeps a node from taking part, for now: interfaces and addresses may still come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("there is no [node.{0}]")]
    NoNode(String),
    #[error("virtual router {router}: there is no interface {interface} yet")]
    NoInterface { router: String, interface: String },
    #[error(
        "virtual router {router}: {interface} has no {family} address{among} yet, which its adverts would come from"
    )]
    NoAddress {
        router: String,
        interface: String,
        family: &'static str,
        among: &'static str,
    },
}

impl Setup {
    /// `interface` finds an interface by its name; `epoch` is drawn anew at each start.
    ///
    /// # Errors
    /// The first thing that is missing.
    pub fn new(
        model: &Model,
        node: &str,
        epoch: u64,
        interface: impl Fn(&str) -> Option<Interface>,
    ) -> Result<Self, SetupError> {
        let own = model
            .nodes
            .get(node)
            .ok_or_else(|| SetupError::NoNode(node.to_owned()))?;
        let number = |name: &NodeName| {
            let place = model.nodes.keys().position(|other| other == name);
            place.and_then(|place| u8::try_from(place + 1).ok())
        };
        let vips: BTreeSet<IpAddr> = model.virtual_routers.iter().flat_map(addresses).collect();
        let others: Vec<u8> = model
            .nodes
            .keys()
            .filter(|name| name.as_str() != node)
            .filter_map(number)
            .collect();
        let own_number = model
            .nodes
            .keys()
            .find(|name| name.as_str() == node)
            .and_then(number)
            .unwrap_or(0);
        let mut groups: Vec<&str> = Vec::new();
        let (mut routers, mut places) = (Vec::new(), Vec::new());
        for router in &model.virtual_routers {
            let name = router.interface.as_ref().unwrap_or(&own.vip_interface);
            let found = interface(name).ok_or_else(|| SetupError::NoInterface {
                router: router.name(),
                interface: name.clone(),
            })?;
            let primary = primary(router, &found, &vips).ok_or_else(|| SetupError::NoAddress {
                router: router.name(),
                interface: name.clone(),
                family: match router.family() {
                    Family::V4 => "IPv4",
                    Family::V6 if router.peers.is_empty() => "link-local IPv6",
                    Family::V6 => "IPv6",
                },
                among: if router.peers.is_empty() {
                    ""
                } else {
                    " among the `peers`"
                },
            })?;
            let paths = paths(own, name, &found, &interface);
            let echo = model.pair.echo.then(|| {
                let count = u8::try_from(paths.len()).unwrap_or(u8::MAX);
                let peers = others.iter().map(|&peer| (peer, count)).collect();
                EchoConfig::for_interval(router.interval, peers)
            });
            let sync_group = router.sync_group.as_deref().map(|group| {
                let known = groups.iter().position(|other| *other == group);
                known.unwrap_or_else(|| {
                    groups.push(group);
                    groups.len() - 1
                })
            });
            routers.push(Placement {
                link: found.ifindex,
                router: config(router, own_priority(router, node), primary),
                echo,
                sync_group: sync_group.and_then(|group| u16::try_from(group).ok()),
            });
            places.push(Place {
                name: router.name(),
                interface: name.clone(),
                paths,
            });
        }
        Ok(Self {
            config: NodeConfig {
                node: own_number,
                key: model.pair.key.as_deref().map_or(Key { k0: 0, k1: 0 }, key),
                epoch,
                routers,
            },
            places,
        })
    }
}

fn own_priority(router: &VirtualRouter, node: &str) -> u8 {
    router
        .priority
        .get(node)
        .copied()
        .unwrap_or(crate::model::DEFAULT_PRIORITY)
}

/// The pair's text as a key of the MAC's size.
#[must_use]
pub fn key(text: &str) -> Key {
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let mut bytes = [0; 16];
    for (place, byte) in bytes.iter_mut().zip(hash) {
        *place = byte;
    }
    Key::from_bytes(bytes)
}

fn config(router: &VirtualRouter, priority: u8, primary: IpAddr) -> RouterConfig {
    let list = addresses(router);
    RouterConfig {
        vrid: router.id,
        wire: router.wire(),
        addresses: match router.family() {
            Family::V4 => Addresses::V4(
                list.iter()
                    .filter_map(|address| match address {
                        IpAddr::V4(v4) => Some(*v4),
                        IpAddr::V6(_) => None,
                    })
                    .collect(),
            ),
            Family::V6 => Addresses::V6(
                list.iter()
                    .filter_map(|address| match address {
                        IpAddr::V6(v6) => Some(*v6),
                        IpAddr::V4(_) => None,
                    })
                    .collect(),
            ),
        },
        primary,
        unicast_peers: router
            .peers
            .iter()
            .copied()
            .filter(|peer| *peer != primary)
            .collect(),
        priority,
        interval: router.interval,
        preempt: if router.preempt {
            Preempt::After(router.preempt_delay)
        } else {
            Preempt::Off
        },
        virtual_mac: router.virtual_mac,
        announce: router.announce(),
        lease: router.lease,
    }
}

/// What the active holds: the VIPs, for IPv6 multicast after the link-local address that RFC 9568 §5.2.9 wants first. It
/// is made of the virtual MAC (RFC 4291 appendix A), and so the same on all nodes.
#[must_use]
pub fn addresses(router: &VirtualRouter) -> Vec<IpAddr> {
    let local = (router.family() == Family::V6).then(|| {
        let [a, b, c, d, e, f] = virtual_mac(Family::V6, router.id);
        let words = [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(u16::from_be_bytes);
        let [p, q, r, s] = words;
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, p, q, r, s))
    });
    local
        .into_iter()
        .chain(router.vips.iter().copied())
        .collect()
}

fn primary(
    router: &VirtualRouter,
    interface: &Interface,
    vips: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    let fits = |address: &&IpAddr| {
        Family::of(address) == router.family()
            && !vips.contains(*address)
            && if router.peers.is_empty() {
                !matches!(address, IpAddr::V6(v6) if !v6.is_unicast_link_local())
            } else {
                router.peers.contains(*address)
            }
    };
    interface.addresses.iter().find(fits).copied()
}

fn paths(
    own: &Node,
    name: &str,
    found: &Interface,
    interface: &impl Fn(&str) -> Option<Interface>,
) -> Vec<u32> {
    let further = own
        .echo_interfaces
        .iter()
        .filter(|other| *other != name)
        .filter_map(|other| interface(other))
        .map(|other| other.ifindex);
    core::iter::once(found.ifindex).chain(further).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[node.lb1]
interfaces = ["eth0", "eth1"]
priority = 150
echo_interfaces = ["eth1"]
[node.lb2]
interfaces = ["eth0", "eth1"]
[[service]]
name = "web6"
vip = "2001:db8::10"
port = 80
mode = "nat"
[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
mode = "nat"
[[virtual_router]]
id = 51
vips = ["192.0.2.10"]
sync_group = "all"
[[virtual_router]]
id = 51
sync_group = "all"
[[virtual_router]]
id = 52
vips = ["192.0.2.77"]
peers = ["192.0.2.2", "192.0.2.3"]
[pair]
key = "0123456789abcdef"
"#;

    fn interface(name: &str) -> Option<Interface> {
        let (ifindex, addresses): (u32, &[&str]) = match name {
            "eth0" => (
                2,
                &[
                    "192.0.2.10",
                    "192.0.2.9",
                    "192.0.2.3",
                    "2001:db8::3",
                    "fe80::3",
                ],
            ),
            "eth1" => (3, &[]),
            _ => return None,
        };
        let addresses = addresses
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect();
        Some(Interface { ifindex, addresses })
    }

    fn model() -> Model {
        crate::config::parse("test.toml", FILE)
            .unwrap_or_else(|report| panic!("{report}"))
            .model
    }

    #[test]
    fn a_node_finds_its_place() {
        let setup = Setup::new(&model(), "lb2", 7, interface).expect("complete");
        let routers = &setup.config.routers;
        assert_eq!(setup.config.node, 2);
        let primaries: Vec<String> = routers
            .iter()
            .map(|place| place.router.primary.to_string())
            .collect();
        assert_eq!(
            primaries,
            ["192.0.2.9", "fe80::3", "192.0.2.3"],
            "never a VIP"
        );
        assert_eq!(routers[1].sync_group, Some(0));
        assert_eq!(routers[2].sync_group, None);
        let unicast: Vec<IpAddr> = routers[2].router.unicast_peers.clone();
        assert_eq!(
            unicast,
            ["192.0.2.2".parse::<IpAddr>().expect("an address")]
        );
        let six = &routers[1].router.addresses;
        let first: Ipv6Addr = "fe80::200:5eff:fe00:233".parse().expect("an address");
        assert!(matches!(six, Addresses::V6(list) if list[0] == first && list.len() == 2));
        assert_eq!(
            routers[0].echo.as_ref().map(|echo| echo.peers.clone()),
            Some(vec![(1, 1)])
        );
        crate::vrrp::node::Node::new(setup.config).expect("a node");

        let setup = Setup::new(&model(), "lb1", 7, interface).expect("complete");
        assert_eq!(setup.places[0].paths, [2, 3]);
        assert_eq!(setup.config.routers[0].router.priority, 150);
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = Setup::new(&model(), "lb1", 7, |_| None).expect_err("no interface");
        assert!(none.to_string().contains("no interface eth0"), "{none}");
        let bare = Setup::new(&model(), "lb1", 7, |_| interface("eth1")).expect_err("no address");
        assert!(bare.to_string().contains("no IPv4 address"), "{bare}");
    }
}
