//! The interfaces of the host as far as a load balancer must know them: where XDP runs for each of them, which source
//! MAC and MTU it has, and whether it can carry anything now.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::{
        InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, VlanProtocol,
    },
};

use super::Mac;

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// `None` where the interface has no Ethernet address (tunnels, PPP).
    pub mac: Option<Mac>,
    /// Largest network-layer packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Set up by the administrator (`IFF_UP`).
    pub up: bool,
    /// The lower layer works (`IFF_LOWER_UP`): cable in, peer up.
    pub carrier: bool,
    pub vlan: Option<Vlan>,
    /// Addresses with their prefix lengths.
    pub addresses: BTreeSet<(IpAddr, u8)>,
}

impl Link {
    /// Whether the interface has this address, with any prefix length.
    pub fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

/// What makes an interface a VLAN device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlan {
    pub id: u16,
    /// The interface that carries the tagged frames; XDP runs there.
    pub lower: u32,
    /// 802.1ad instead of 802.1Q.
    pub service_tag: bool,
}

/// An interface appeared (`before` is `None`), vanished (`after` is `None`) or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkChanged {
    pub before: Option<Link>,
    pub after: Option<Link>,
}

/// Where a frame leaves that is routed to an interface: VLAN devices are replaced by what is under them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    pub ifindex: u32,
    pub mac: Mac,
    pub vlan: Option<u16>,
    pub mtu: u32,
}

/// Why nothing can be sent through an interface.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoEgress {
    #[error("interface number {0} does not exist")]
    Missing(u32),
    #[error("interface {0} is down (ip link set {0} up)")]
    Down(String),
    #[error("interface {0} has no carrier")]
    NoCarrier(String),
    #[error("interface {0} is not Ethernet")]
    NotEthernet(String),
    #[error(
        "interface {0} stacks a VLAN tag on another or uses 802.1ad; one 802.1Q tag is supported"
    )]
    StackedVlan(String),
}

/// All interfaces, by number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    by_index: BTreeMap<u32, Link>,
}

impl Links {
    pub fn get(&self, ifindex: u32) -> Option<&Link> {
        self.by_index.get(&ifindex)
    }

    pub fn named(&self, name: &str) -> Option<&Link> {
        self.by_index.values().find(|link| link.name == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.by_index.values()
    }

    /// Where frames leave that are routed through `ifindex`.
    pub fn egress(&self, ifindex: u32) -> Result<Egress, NoEgress> {
        let link = self.usable(ifindex)?;
        let mac = link
            .mac
            .ok_or_else(|| NoEgress::NotEthernet(link.name.clone()))?;
        let Some(vlan) = link.vlan else {
            return Ok(Egress {
                ifindex,
                mac,
                vlan: None,
                mtu: link.mtu,
            });
        };
        let lower = self.usable(vlan.lower)?;
        if vlan.service_tag || lower.vlan.is_some() {
            return Err(NoEgress::StackedVlan(link.name.clone()));
        }
        Ok(Egress {
            ifindex: lower.ifindex,
            mac,
            vlan: Some(vlan.id),
            mtu: link.mtu,
        })
    }

    fn usable(&self, ifindex: u32) -> Result<&Link, NoEgress> {
        let link = self.get(ifindex).ok_or(NoEgress::Missing(ifindex))?;
        if !link.up {
            Err(NoEgress::Down(link.name.clone()))
        } else if !link.carrier {
            Err(NoEgress::NoCarrier(link.name.clone()))
        } else {
            Ok(link)
        }
    }

    /// Takes in `RTM_NEWLINK`. `None` if it says nothing new.
    pub fn apply_new(&mut self, message: &LinkMessage) -> Option<LinkChanged> {
        let mut after = read_link(message)?;
        let before = self.by_index.get(&after.ifindex).cloned();
        if let Some(before) = &before {
            after.addresses.clone_from(&before.addresses);
        }
        if before.as_ref() == Some(&after) {
            return None;
        }
        self.by_index.insert(after.ifindex, after.clone());
        Some(LinkChanged {
            before,
            after: Some(after),
        })
    }

    /// Takes in `RTM_DELLINK`.
    pub fn apply_delete(&mut self, message: &LinkMessage) -> Option<LinkChanged> {
        // A port that leaves a bridge is announced as RTM_DELLINK of family AF_BRIDGE; the interface stays.
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let before = self.by_index.remove(&message.header.index)?;
        Some(LinkChanged {
            before: Some(before),
            after: None,
        })
    }

    /// Takes in `RTM_NEWADDR` (`present`) or `RTM_DELADDR`. `None` if it says nothing new.
    pub fn apply_address(
        &mut self,
        message: &AddressMessage,
        present: bool,
    ) -> Option<LinkChanged> {
        let entry = (address_of(message)?, message.header.prefix_len);
        let link = self.by_index.get_mut(&message.header.index)?;
        let before = link.clone();
        let changed = if present {
            link.addresses.insert(entry)
        } else {
            link.addresses.remove(&entry)
        };
        changed.then(|| LinkChanged {
            before: Some(before),
            after: Some(link.clone()),
        })
    }

    /// What differs between `self` (earlier) and `later`.
    pub fn changes_to(&self, later: &Self) -> Vec<LinkChanged> {
        let indexes: BTreeSet<u32> = self
            .by_index
            .keys()
            .chain(later.by_index.keys())
            .copied()
            .collect();
        indexes
            .into_iter()
            .map(|index| LinkChanged {
                before: self.get(index).cloned(),
                after: later.get(index).cloned(),
            })
            .filter(|change| change.before != change.after)
            .collect()
    }
}

/// The local address that a message is about: `IFA_LOCAL` where the kernel gives it (`IFA_ADDRESS` is the peer's on
/// point-to-point links), else `IFA_ADDRESS`.
pub fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    address
}

fn read_link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
        vlan: None,
        addresses: BTreeSet::new(),
    };
    let mut lower = None;
    let mut tag = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) if ethernet => {
                link.mac = bytes.as_slice().try_into().ok()
            }
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkInfo(infos) => tag = read_vlan(infos),
            _ => {}
        }
    }
    // IFLA_LINK alone says little: for a veth it is the number of the peer, in another namespace.
    if let (Some((id, service_tag)), Some(lower)) = (tag, lower) {
        link.vlan = Some(Vlan {
            id,
            lower,
            service_tag,
        });
    }
    Some(link)
}

fn read_vlan(infos: &[LinkInfo]) -> Option<(u16, bool)> {
    if !infos.contains(&LinkInfo::Kind(InfoKind::Vlan)) {
        return None;
    }
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    let id = data.iter().find_map(|item| match item {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    Some((
        id,
        data.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)),
    ))
}

impl fmt::Display for LinkChanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = match (&self.before, &self.after) {
            (Some(before), Some(after)) => (before, after),
            (None, Some(after)) => {
                return write!(
                    f,
                    "interface {} appeared (number {})",
                    after.name, after.ifindex
                );
            }
            (Some(before), None) => return write!(f, "interface {} vanished", before.name),
            (None, None) => return f.write_str("nothing changed"),
        };
        write!(f, "interface {}:", before.name)?;
        let mut said = false;
        let mut say = |what: fmt::Arguments<'_>| {
            let comma = if std::mem::replace(&mut said, true) {
                ","
            } else {
                ""
            };
            write!(f, "{comma} {what}")
        };
        if before.name != after.name {
            say(format_args!("now named {}", after.name))?;
        }
        if before.up != after.up {
            say(format_args!("set {}", if after.up { "up" } else { "down" }))?;
        }
        if before.carrier != after.carrier {
            say(format_args!(
                "carrier {}",
                if after.carrier { "found" } else { "lost" }
            ))?;
        }
        if before.mac != after.mac {
            say(format_args!("MAC changed"))?;
        }
        if before.mtu != after.mtu {
            say(format_args!("MTU {} -> {}", before.mtu, after.mtu))?;
        }
        if before.vlan != after.vlan {
            say(format_args!("VLAN changed"))?;
        }
        for (address, length) in after.addresses.difference(&before.addresses) {
            say(format_args!("address {address}/{length} added"))?;
        }
        for (address, length) in before.addresses.difference(&after.addresses) {
            say(format_args!("address {address}/{length} removed"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, name: &str, flags: LinkFlags, more: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(1500),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        message.attributes.extend(more);
        message
    }

    const RUNNING: LinkFlags = LinkFlags::Up.union(LinkFlags::LowerUp);

    fn vlan(lower: u32, id: u16) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::Link(lower),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![
                    InfoVlan::Protocol(VlanProtocol::Ieee8021Q),
                    InfoVlan::Id(id),
                ])),
            ]),
        ]
    }

    #[test]
    fn a_vlan_device_sends_through_its_lower_with_its_own_mac_and_mtu() {
        let mut links = Links::default();
        links.apply_new(&message(2, "eth0", RUNNING, vec![LinkAttribute::Mtu(9000)]));
        links.apply_new(&message(3, "eth0.7", RUNNING, vlan(2, 7)));
        let egress = links.egress(3).expect("test data");
        assert_eq!(
            egress,
            Egress {
                ifindex: 2,
                mac: [2, 0, 0, 0, 0, 3],
                vlan: Some(7),
                mtu: 1500
            }
        );
        assert_eq!(links.egress(2).expect("test data").vlan, None);

        links.apply_new(&message(2, "eth0", LinkFlags::Up, vec![]));
        assert_eq!(
            links.egress(3),
            Err(NoEgress::NoCarrier("eth0".into())),
            "the lower decides"
        );
        links.apply_delete(&message(2, "eth0", RUNNING, vec![]));
        assert_eq!(links.egress(3), Err(NoEgress::Missing(2)));
    }

    #[test]
    fn two_tags_are_refused_with_the_name_of_the_interface() {
        let mut links = Links::default();
        links.apply_new(&message(2, "eth0", RUNNING, vec![]));
        links.apply_new(&message(3, "eth0.7", RUNNING, vlan(2, 7)));
        links.apply_new(&message(4, "eth0.7.8", RUNNING, vlan(3, 8)));
        assert_eq!(
            links.egress(4),
            Err(NoEgress::StackedVlan("eth0.7.8".into()))
        );
    }

    #[test]
    fn a_veth_is_not_taken_for_a_vlan_by_its_peer_number() {
        let mut links = Links::default();
        let peer = vec![
            LinkAttribute::Link(9),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        ];
        links.apply_new(&message(2, "veth0", RUNNING, peer));
        assert_eq!(links.egress(2).expect("test data").ifindex, 2);
    }

    #[test]
    fn only_what_differs_is_reported() {
        let mut links = Links::default();
        assert!(
            links
                .apply_new(&message(2, "eth0", RUNNING, vec![]))
                .expect("test data")
                .before
                .is_none()
        );
        assert_eq!(links.apply_new(&message(2, "eth0", RUNNING, vec![])), None);
        let change = links
            .apply_new(&message(
                2,
                "eth0",
                LinkFlags::Up,
                vec![LinkAttribute::Mtu(1400)],
            ))
            .expect("test data");
        assert_eq!(
            change.to_string(),
            "interface eth0: carrier lost, MTU 1500 -> 1400"
        );
        let gone = links
            .apply_delete(&message(2, "eth0", RUNNING, vec![]))
            .expect("test data");
        assert_eq!(gone.to_string(), "interface eth0 vanished");
    }

    #[test]
    fn leaving_a_bridge_is_not_vanishing() {
        let mut links = Links::default();
        links.apply_new(&message(2, "eth0", RUNNING, vec![]));
        let mut port = message(2, "eth0", RUNNING, vec![]);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(links.apply_delete(&port), None);
        assert_eq!(links.apply_new(&port), None);
        assert!(links.named("eth0").is_some());
    }

    #[test]
    fn addresses_survive_a_link_message_and_resync_reports_the_difference() {
        let mut links = Links::default();
        links.apply_new(&message(2, "eth0", RUNNING, vec![]));
        let mut address = AddressMessage::default();
        address.header.index = 2;
        address.header.prefix_len = 24;
        address.attributes.push(AddressAttribute::Address(
            "192.0.2.1".parse().expect("test data"),
        ));
        assert!(links.apply_address(&address, true).is_some());
        assert_eq!(links.apply_address(&address, true), None);
        assert_eq!(links.apply_new(&message(2, "eth0", RUNNING, vec![])), None);

        let changes = links.changes_to(&Links::default());
        assert_eq!(changes.len(), 1);
        assert!(changes[0].after.is_none());
        assert!(links.changes_to(&links.clone()).is_empty());
    }
}
