//! The interface of a virtual MAC address: a macvlan above the interface of the adverts, down while the node is not active.
//!
//! Mode `bridge`: in `private` mode the kernel gives multicast from the same MAC address, which is what another active's
//! adverts are, to the macvlan and not to the interface below, and a split would not heal.

use std::collections::BTreeSet;

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        link::{
            InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
            MacVlanMode,
        },
    },
};

use lb_core::vrrp::Family;

use super::{
    Mac,
    netlink::{Netlink, NetlinkError},
    sysctl::{self, SysctlError},
};

/// Names begin so, with the family's number and the VRID after it: `futago4-51`.
const PREFIX: &str = "futago";

/// Why there is no such interface.
#[derive(Debug, thiserror::Error)]
pub enum MacvlanError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error("the kernel does not show the interface {0} that it has just made")]
    Vanished(String),
}

/// What the interface of a virtual router is called.
pub fn name(family: Family, vrid: u8) -> String {
    let family = match family {
        Family::V4 => 4,
        Family::V6 => 6,
    };
    format!("{PREFIX}{family}-{vrid}")
}

/// Makes the interface above `parent`, down, or finds that of an earlier run, which may be up; returns its number.
pub async fn ensure(
    netlink: &Netlink,
    parent: u32,
    name: &str,
    mac: Mac,
) -> Result<u32, MacvlanError> {
    let found = find(netlink, name).await?;
    let ifindex = match found {
        Some(found) if found.parent == Some(parent) && found.mac.as_deref() == Some(&mac[..]) => {
            found.ifindex
        }
        other => {
            if let Some(other) = other {
                delete(netlink, other.ifindex).await?;
            }
            create(netlink, parent, name, mac).await?;
            let made = find(netlink, name).await?;
            made.ok_or_else(|| MacvlanError::Vanished(name.to_owned()))?
                .ifindex
        }
    };
    for needed in sysctl::needed_by_macvlan(name)? {
        needed.key.write(needed.value)?;
    }
    Ok(ifindex)
}

/// Sets the interface up or down.
pub async fn set_up(netlink: &Netlink, ifindex: u32, up: bool) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.change_mask = LinkFlags::Up;
    if up {
        message.header.flags = LinkFlags::Up;
    }
    let message = RouteNetlinkMessage::SetLink(message);
    netlink
        .change("set an interface up or down", message, 0)
        .await
}

/// Removes those interfaces of an earlier run or configuration that are not `wanted`; their names.
pub async fn remove_leftovers(
    netlink: &Netlink,
    wanted: &BTreeSet<String>,
) -> Result<Vec<String>, NetlinkError> {
    let mut removed = Vec::new();
    for found in list(netlink).await? {
        if is_ours(&found.name) && !wanted.contains(&found.name) {
            delete(netlink, found.ifindex).await?;
            removed.push(found.name);
        }
    }
    Ok(removed)
}

fn is_ours(name: &str) -> bool {
    let rest = name
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('-'));
    rest.is_some_and(|(family, vrid)| matches!(family, "4" | "6") && vrid.parse::<u8>().is_ok())
}

struct Found {
    ifindex: u32,
    name: String,
    parent: Option<u32>,
    mac: Option<Vec<u8>>,
}

async fn find(netlink: &Netlink, name: &str) -> Result<Option<Found>, NetlinkError> {
    let all = list(netlink).await?;
    Ok(all.into_iter().find(|found| found.name == name))
}

/// All macvlans.
async fn list(netlink: &Netlink) -> Result<Vec<Found>, NetlinkError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = netlink.dump("list the interfaces", request).await?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => read(&link),
            _ => None,
        })
        .collect())
}

fn read(link: &LinkMessage) -> Option<Found> {
    let mut found = Found {
        ifindex: link.header.index,
        name: String::new(),
        parent: None,
        mac: None,
    };
    let mut is_macvlan = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Link(parent) => found.parent = Some(*parent),
            LinkAttribute::Address(mac) => found.mac = Some(mac.clone()),
            LinkAttribute::LinkInfo(infos) => {
                is_macvlan = infos.contains(&LinkInfo::Kind(InfoKind::MacVlan));
            }
            _ => {}
        }
    }
    is_macvlan.then_some(found)
}

async fn create(netlink: &Netlink, parent: u32, name: &str, mac: Mac) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Link(parent),
        LinkAttribute::Address(mac.to_vec()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::MacVlan),
            LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(
                MacVlanMode::Bridge,
            )])),
        ]),
    ];
    let message = RouteNetlinkMessage::NewLink(message);
    netlink
        .change(
            "make a macvlan interface",
            message,
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .await
}

async fn delete(netlink: &Netlink, ifindex: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let message = RouteNetlinkMessage::DelLink(message);
    netlink.change("remove an interface", message, 0).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_form_are_ours() {
        assert_eq!(name(Family::V4, 51), "futago4-51");
        for name in [name(Family::V4, 1), name(Family::V6, 255)] {
            assert!(is_ours(&name) && name.len() < 16, "{name}");
        }
        for name in ["futago", "futago4", "futago5-1", "futago4-256", "vrrp4-51"] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
