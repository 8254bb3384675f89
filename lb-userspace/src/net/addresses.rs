//! VIPs as addresses of an interface: added and removed so that doing it twice does no harm, and an address that
//! somebody else configured is never taken away.
//!
//! Ours are marked in the kernel by `IFA_PROTO` (Linux 5.18): the mark lives and dies with the address, so it is right
//! after a crash, a reboot and `ip address flush`, where a record in a file would not be. Older kernels ignore the
//! mark; there, an address found at the start counts as somebody else's, which is reported ([`Added::Unmarked`]).

use std::net::IpAddr;

use rtnetlink::{
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::{
            AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
            CacheInfo,
        },
    },
};

use super::{
    links::address_of,
    netlink::{Netlink, NetlinkError},
};

/// The value of `IFA_PROTO` on addresses that Futago added; `ip address show proto 70` lists them. Free in
/// iproute2's `rt_addrprotos`.
pub const ADDRESS_PROTOCOL: u8 = 70;

/// What came of adding an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    New,
    /// It was there, added by an earlier run or call.
    AlreadyOurs,
    /// It was there and is not ours: left as it is, and [`remove`] will leave it too.
    Foreign {
        prefix_len: u8,
    },
    /// It was added, but this kernel keeps no mark (before Linux 5.18): the caller must remember it.
    Unmarked,
}

/// What came of removing an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    Gone,
    /// It was not there.
    Absent,
    /// It is there and not ours: left as it is.
    Foreign,
}

/// Adds `vip` as /32 or /128. IPv6: usable at once (`IFA_F_NODAD`; duplicate address detection would take a second, and
/// VRRP decides about the owner), and deprecated, so that the host does not choose it as source of its own connections.
pub async fn add(netlink: &Netlink, ifindex: u32, vip: IpAddr) -> Result<Added, NetlinkError> {
    if let Some(existing) = find(netlink, ifindex, vip).await? {
        return Ok(describe(&existing));
    }
    let message = RouteNetlinkMessage::NewAddress(message(ifindex, vip));
    match netlink
        .change("add an address", message, NLM_F_CREATE | NLM_F_EXCL)
        .await
    {
        Ok(()) => Ok(match find(netlink, ifindex, vip).await? {
            Some(existing) if !is_ours(&existing) => Added::Unmarked,
            _ => Added::New,
        }),
        // Somebody was faster.
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            match find(netlink, ifindex, vip).await? {
                Some(existing) => Ok(describe(&existing)),
                None => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// Removes `vip` if Futago added it.
pub async fn remove(netlink: &Netlink, ifindex: u32, vip: IpAddr) -> Result<Removed, NetlinkError> {
    match find(netlink, ifindex, vip).await? {
        None => Ok(Removed::Absent),
        Some(existing) if !is_ours(&existing) => Ok(Removed::Foreign),
        Some(existing) => delete(netlink, existing).await,
    }
}

/// Removes `vip` although it bears no mark: for callers that got [`Added::Unmarked`] for it.
pub async fn remove_unmarked(
    netlink: &Netlink,
    ifindex: u32,
    vip: IpAddr,
) -> Result<Removed, NetlinkError> {
    match find(netlink, ifindex, vip).await? {
        Some(existing) if existing.header.prefix_len == full_length(vip) => {
            delete(netlink, existing).await
        }
        Some(_) => Ok(Removed::Foreign),
        None => Ok(Removed::Absent),
    }
}

/// All addresses with our mark: (interface number, address). What a restarted daemon finds of its predecessor.
pub async fn ours(netlink: &Netlink) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
    let ours = list(netlink).await?.into_iter().filter(is_ours);
    Ok(ours
        .filter_map(|message| Some((message.header.index, address_of(&message)?)))
        .collect())
}

async fn delete(netlink: &Netlink, existing: AddressMessage) -> Result<Removed, NetlinkError> {
    let message = RouteNetlinkMessage::DelAddress(existing);
    match netlink.change("remove an address", message, 0).await {
        Ok(()) => Ok(Removed::Gone),
        Err(error) if error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(Removed::Absent),
        Err(error) => Err(error),
    }
}

async fn list(netlink: &Netlink) -> Result<Vec<AddressMessage>, NetlinkError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = netlink.dump("list the addresses", request).await?;
    let addresses = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(address) => Some(address),
        _ => None,
    });
    Ok(addresses.collect())
}

/// Ours first: IPv4 allows the same address twice with different prefix lengths.
async fn find(
    netlink: &Netlink,
    ifindex: u32,
    vip: IpAddr,
) -> Result<Option<AddressMessage>, NetlinkError> {
    let all = list(netlink).await?;
    let same = all
        .into_iter()
        .filter(|message| message.header.index == ifindex && address_of(message) == Some(vip));
    Ok(same.max_by_key(is_ours))
}

fn is_ours(message: &AddressMessage) -> bool {
    message
        .attributes
        .contains(&AddressAttribute::Protocol(AddressProtocol::Other(
            ADDRESS_PROTOCOL,
        )))
}

fn describe(existing: &AddressMessage) -> Added {
    if is_ours(existing) {
        Added::AlreadyOurs
    } else {
        Added::Foreign {
            prefix_len: existing.header.prefix_len,
        }
    }
}

fn full_length(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

fn message(ifindex: u32, vip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::from(vip);
    message.header.prefix_len = full_length(vip);
    message.header.scope = AddressScope::Universe;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(vip),
        AddressAttribute::Address(vip),
        AddressAttribute::Protocol(AddressProtocol::Other(ADDRESS_PROTOCOL)),
    ];
    if vip.is_ipv6() {
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = u32::MAX;
        lifetime.ifa_preferred = 0;
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
        message
            .attributes
            .push(AddressAttribute::CacheInfo(lifetime));
    }
    message
}
