//! What the kernel's routing answers for one address: every way it could take, so that the choice among several is
//! ours and does not change with each question.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteType, RouteVia,
    },
};

use super::netlink::{Netlink, NetlinkError};

/// The route to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// At least one.
    pub hops: Vec<Hop>,
    /// The route's own MTU (`ip route ... mtu N`), in bytes.
    pub mtu: Option<u32>,
}

/// One way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    pub ifindex: u32,
    /// `None`: the address itself is on the link.
    pub gateway: Option<IpAddr>,
    /// From 1.
    pub weight: u16,
    /// What the host itself would send from on this way.
    pub source: Option<IpAddr>,
}

/// Why an address has no route that can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    #[error("no route to it")]
    Missing,
    #[error("its route says unreachable, prohibit or blackhole")]
    Refused,
    #[error("it is an address of this host")]
    Local,
    #[error("it is a broadcast, anycast or multicast address")]
    NotUnicast,
    #[error("its route encapsulates (ip route ... encap); give the backend a plain route")]
    Encapsulated,
    #[error("the kernel's answer was not understood")]
    NotUnderstood,
    #[error("the kernel cannot look up its route: {}", std::io::Error::from_raw_os_error(*.0))]
    Unasked(i32),
}

/// Asks for the route to `address`.
pub async fn look_up(
    netlink: &Netlink,
    address: IpAddr,
) -> Result<Result<Route, NoRoute>, NetlinkError> {
    // FIB_MATCH: the route as configured, with all its hops, instead of the one that a hash picks for this question.
    let mut request = request(address);
    request.header.flags = RouteFlags::FibMatch;
    let mut route = match ask(netlink, request).await {
        Ok(answer) => answer.as_ref().map_or(Err(NoRoute::NotUnderstood), read),
        Err(error) => match error.errno() {
            Some(libc::ENETUNREACH | libc::ESRCH) => Err(NoRoute::Missing),
            Some(libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Err(NoRoute::Refused),
            Some(errno) => Err(NoRoute::Unasked(errno)),
            None => return Err(error),
        },
    };
    for hop in route.iter_mut().flat_map(|route| &mut route.hops) {
        if hop.source.is_none() {
            hop.source = source_for(netlink, address, hop.ifindex).await;
        }
    }
    Ok(route)
}

/// The address that the kernel itself would send from, to `address` through `ifindex`.
async fn source_for(netlink: &Netlink, address: IpAddr, ifindex: u32) -> Option<IpAddr> {
    let mut request = request(address);
    request.attributes.push(RouteAttribute::Oif(ifindex));
    let answer = ask(netlink, request).await.ok()??;
    answer
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(source) => ip(source),
            _ => None,
        })
}

async fn ask(
    netlink: &Netlink,
    request: RouteMessage,
) -> Result<Option<RouteMessage>, NetlinkError> {
    let answers = netlink
        .ask("look up a route", RouteNetlinkMessage::GetRoute(request))
        .await?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    }))
}

fn request(address: IpAddr) -> RouteMessage {
    let mut request = RouteMessage::default();
    request.header = RouteHeader {
        address_family: AddressFamily::from(address),
        destination_prefix_length: if address.is_ipv4() { 32 } else { 128 },
        ..RouteHeader::default()
    };
    request
        .attributes
        .push(RouteAttribute::Destination(address.into()));
    request
}

/// The addresses for which a changed route can matter; `None` for families other than IP.
pub fn span(route: &RouteMessage) -> Option<RangeInclusive<IpAddr>> {
    let length = u32::from(route.header.destination_prefix_length);
    let prefix = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(prefix) => ip(prefix),
            _ => None,
        });
    // A default route names no destination.
    let prefix = match route.header.address_family {
        AddressFamily::Inet => prefix.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        AddressFamily::Inet6 => prefix.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        _ => return None,
    };
    Some(match prefix {
        IpAddr::V4(prefix) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            let bits = prefix.to_bits();
            Ipv4Addr::from_bits(bits & !host).into()..=Ipv4Addr::from_bits(bits | host).into()
        }
        IpAddr::V6(prefix) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            let bits = prefix.to_bits();
            Ipv6Addr::from_bits(bits & !host).into()..=Ipv6Addr::from_bits(bits | host).into()
        }
    })
}

fn read(message: &RouteMessage) -> Result<Route, NoRoute> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(NoRoute::Local),
        RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
            return Err(NoRoute::NotUnicast);
        }
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            return Err(NoRoute::Refused);
        }
        _ => return Err(NoRoute::NotUnderstood),
    }
    let mut route = Route {
        hops: Vec::new(),
        mtu: None,
    };
    let mut source = None;
    let mut several = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => several = Some(hops),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let Some(several) = several else {
        route.hops.push(Hop {
            source,
            ..read_hop(&message.attributes, None, 1)?
        });
        return Ok(route);
    };
    // Hops marked dead or without link stay in: the interface says better why, and when it is back.
    let mut dropped = NoRoute::NotUnderstood;
    for hop in several {
        match read_hop(
            &hop.attributes,
            Some(hop.interface_index),
            u16::from(hop.hops) + 1,
        ) {
            Ok(hop) => route.hops.push(Hop { source, ..hop }),
            Err(why) => dropped = why,
        }
    }
    if route.hops.is_empty() {
        Err(dropped)
    } else {
        Ok(route)
    }
}

fn read_hop(
    attributes: &[RouteAttribute],
    ifindex: Option<u32>,
    weight: u16,
) -> Result<Hop, NoRoute> {
    let mut gateway = None;
    let mut out = ifindex;
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => out = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            // An IPv4 route by way of an IPv6 neighbour (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet(address)) => gateway = Some(IpAddr::V4(*address)),
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::Via(_) => return Err(NoRoute::NotUnderstood),
            RouteAttribute::EncapType(_) => return Err(NoRoute::Encapsulated),
            _ => {}
        }
    }
    Ok(Hop {
        ifindex: out.ok_or(NoRoute::NotUnderstood)?,
        gateway,
        weight,
        source: None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::{RouteLwEnCapType, RouteNextHop};

    fn address(text: &str) -> IpAddr {
        text.parse().expect("test data")
    }

    fn unicast(attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = RouteType::Unicast;
        message.attributes = attributes;
        message
    }

    fn hop(index: u32, gateway: &str) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.interface_index = index;
        hop.hops = 1;
        hop.attributes
            .push(RouteAttribute::Gateway(address(gateway).into()));
        hop
    }

    #[test]
    fn a_plain_route_has_one_hop_and_its_own_mtu() {
        let message = unicast(vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(address("192.0.2.1").into()),
            RouteAttribute::PrefSource(address("192.0.2.2").into()),
            RouteAttribute::Metrics(vec![RouteMetric::Mtu(1400)]),
        ]);
        let route = read(&message).expect("test data");
        assert_eq!(
            route.hops,
            [Hop {
                ifindex: 3,
                gateway: Some(address("192.0.2.1")),
                weight: 1,
                source: Some(address("192.0.2.2"))
            }]
        );
        assert_eq!(route.mtu, Some(1400));
    }

    #[test]
    fn every_hop_counts_that_a_frame_can_take_and_weights_start_at_one() {
        let mut tunnel = hop(3, "192.0.2.1");
        tunnel
            .attributes
            .push(RouteAttribute::EncapType(RouteLwEnCapType::Mpls));
        let message = unicast(vec![RouteAttribute::MultiPath(vec![
            tunnel.clone(),
            hop(4, "192.0.2.5"),
        ])]);
        let route = read(&message).expect("test data");
        let gateway = Some(address("192.0.2.5"));
        assert_eq!(
            route.hops,
            [Hop {
                ifindex: 4,
                gateway,
                weight: 2,
                source: None
            }]
        );

        let only = unicast(vec![RouteAttribute::MultiPath(vec![tunnel])]);
        assert_eq!(read(&only), Err(NoRoute::Encapsulated));
    }

    #[test]
    fn an_ipv4_route_may_have_an_ipv6_gateway() {
        let via = "fe80::1".parse().expect("test data");
        let message = unicast(vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Via(RouteVia::Inet6(via)),
        ]);
        assert_eq!(
            read(&message).expect("test data").hops[0].gateway,
            Some(IpAddr::V6(via))
        );
    }

    #[test]
    fn what_is_not_a_unicast_route_is_named() {
        for (kind, why) in [
            (RouteType::Local, NoRoute::Local),
            (RouteType::Broadcast, NoRoute::NotUnicast),
            (RouteType::BlackHole, NoRoute::Refused),
            (RouteType::Unspec, NoRoute::NotUnderstood),
        ] {
            let mut message = unicast(vec![RouteAttribute::Oif(1)]);
            message.header.kind = kind;
            assert_eq!(read(&message), Err(why));
        }
        assert_eq!(read(&unicast(vec![])), Err(NoRoute::NotUnderstood));
    }

    #[test]
    fn a_changed_route_matters_to_the_addresses_under_its_prefix() {
        let covers = |route: &RouteMessage, text: &str| {
            span(route).expect("an IP route").contains(&address(text))
        };
        let mut route = unicast(vec![RouteAttribute::Destination(
            address("192.0.2.128").into(),
        )]);
        route.header.destination_prefix_length = 25;
        assert!(covers(&route, "192.0.2.200"));
        assert!(!covers(&route, "192.0.2.100"));
        assert!(!covers(&route, "2001:db8::1"));
        let default = unicast(vec![]);
        assert!(covers(&default, "0.0.0.0") && covers(&default, "255.255.255.255"));
        assert!(!covers(&default, "::1"));

        let mut v6 = unicast(vec![RouteAttribute::Destination(
            address("2001:db8::").into(),
        )]);
        v6.header.address_family = AddressFamily::Inet6;
        v6.header.destination_prefix_length = 32;
        assert!(covers(&v6, "2001:db8::9"));
        assert!(!covers(&v6, "2001:db9::9"));
        v6.header.destination_prefix_length = 128;
        assert!(covers(&v6, "2001:db8::") && !covers(&v6, "2001:db8::9"));
        v6.header.destination_prefix_length = 255;
        assert!(covers(&v6, "2001:db8::"), "nonsense does not panic");
    }
}
