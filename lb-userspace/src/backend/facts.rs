//! What this host looks like to a server's needs.

use std::{io, net::IpAddr, path::Path};

use lb_core::backend_host::{
    Decapsulation, DefaultRoute, Duty, Host, Interface, settings_of_interest,
};
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
    },
};

use super::listeners;
use crate::{
    dataplane::real_server::{self, RealServerError},
    net::{
        links::address_of,
        netlink::{Netlink, NetlinkError},
        sysctl::{Key, SysctlError},
    },
};

#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Program(#[from] RealServerError),
    #[error("cannot read the sockets from /proc/net: {0}")]
    Sockets(#[source] io::Error),
}

/// Interfaces with the program that is pinned under `programs`, addresses and default routes; settings and listeners need to know
/// the duties first.
pub async fn network(netlink: &Netlink, programs: &Path) -> Result<Host, FactsError> {
    let mut host = Host::default();
    let links = netlink
        .dump(
            "list the interfaces",
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
        )
        .await?;
    let mut names = std::collections::BTreeMap::new();
    let mut tunnel = false;
    for link in &links {
        let RouteNetlinkMessage::NewLink(link) = link else {
            continue;
        };
        let (name, interface) = interface(link);
        tunnel |= is_tunnel(link) && link.header.flags.contains(LinkFlags::Up);
        names.insert(link.header.index, name.clone());
        host.interfaces.insert(name, interface);
    }
    let addresses = netlink
        .dump(
            "list the addresses",
            RouteNetlinkMessage::GetAddress(AddressMessage::default()),
        )
        .await?;
    for message in &addresses {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some(address) = address_of(message)
            && let Some(name) = names.get(&message.header.index)
            && let Some(interface) = host.interfaces.get_mut(name)
        {
            interface
                .addresses
                .insert((address, message.header.prefix_len));
        }
    }
    // A tunnel device without a remote end takes packets that come in by any interface.
    let running = real_server::running(programs)?;
    for (name, interface) in &mut host.interfaces {
        interface.decapsulates = if running.interfaces.contains(name) {
            Decapsulation::Program(running.duties.clone())
        } else if tunnel {
            Decapsulation::Device
        } else {
            Decapsulation::Nobody
        };
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let routes = netlink
            .dump("list the routes", RouteNetlinkMessage::GetRoute(request))
            .await?;
        for route in &routes {
            if let RouteNetlinkMessage::NewRoute(route) = route {
                host.default_routes
                    .extend(default_route(route, |index| names.get(&index).cloned()));
            }
        }
    }
    Ok(host)
}

/// What the duties depend on besides.
pub fn complete(host: &mut Host, duties: &[Duty]) -> Result<(), FactsError> {
    for setting in settings_of_interest(duties) {
        match Key::of(&setting)?.read() {
            Ok(value) => {
                host.settings.insert(setting, value);
            }
            Err(SysctlError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let wanted: Vec<_> = duties
        .iter()
        .map(|duty| {
            let (address, port) = duty.listens_at();
            (address, port, duty.key.protocol)
        })
        .collect();
    host.listeners = listeners::read(&wanted).map_err(FactsError::Sockets)?;
    Ok(())
}

fn interface(link: &LinkMessage) -> (String, Interface) {
    let mut name = String::new();
    let mut interface = Interface {
        silent: link
            .header
            .flags
            .intersects(LinkFlags::Loopback | LinkFlags::Noarp),
        ..Interface::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            _ => {}
        }
    }
    (name, interface)
}

fn is_tunnel(link: &LinkMessage) -> bool {
    let infos = link
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
    infos.into_iter().flatten().any(|info| {
        matches!(
            info,
            LinkInfo::Kind(
                InfoKind::IpIp
                    | InfoKind::Ip6Tnl
                    | InfoKind::SitTun
                    | InfoKind::GreTun
                    | InfoKind::GreTun6
            )
        )
    })
}

fn default_route(
    route: &RouteMessage,
    name: impl Fn(u32) -> Option<String>,
) -> Option<DefaultRoute> {
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
    {
        return None;
    }
    let mut found = DefaultRoute {
        ipv6: header.address_family == AddressFamily::Inet6,
        gateway: None,
        interface: String::new(),
        metric: 0,
        advmss: None,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => {
                // The first of several stands for all: what is asked of one is asked of each.
                let hop = hops.first()?;
                found.interface = name(hop.interface_index)?;
                hop.attributes
                    .iter()
                    .for_each(|attribute| hop_attribute(&mut found, attribute, &name));
            }
            RouteAttribute::Priority(metric) => found.metric = *metric,
            RouteAttribute::Metrics(metrics) => {
                found.advmss = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Advmss(bytes) if *bytes > 0 => Some(*bytes),
                    _ => None,
                });
            }
            other => hop_attribute(&mut found, other, &name),
        }
    }
    Some(found)
}

fn hop_attribute(
    route: &mut DefaultRoute,
    attribute: &RouteAttribute,
    name: &impl Fn(u32) -> Option<String>,
) {
    match attribute {
        RouteAttribute::Oif(index) => route.interface = name(*index).unwrap_or_default(),
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
            route.gateway = Some(IpAddr::V4(*address));
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => {
            route.gateway = Some(IpAddr::V6(*address));
        }
        _ => {}
    }
}
