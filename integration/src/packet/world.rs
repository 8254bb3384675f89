//! The services, next hops, routes and neighbours of all packet tests, said once and used twice: for the kernel and for the host's build.
//!
//! ```text
//! clients 10.1/16, 198/8 behind 10.1.0.1 ── front ┐
//!                                         balancer, VIPs 10.9.0.x
//! backends 10.2/16, some on VLAN 100 ────── back ─┘
//! ```
//! IPv6 is the same with `fd00:1::`, `2001:db8:1::`, `fd00:2::` and `fd00:9::`.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use lb_common::tables::{NextHop, Route};
use lb_core::{
    config,
    model::{Mode, Model, Protocol, Service, TunnelSources},
    plan::{BackendNow, Capacity, Layout, Wanted, Write, wanted},
};

use super::frame::{Mac, Packet, TCP, UDP};

/// Interface of the clients' side.
pub const FRONT: u32 = 10;
/// Interface of the backends' side.
pub const BACK: u32 = 20;
pub const FRONT_MAC: Mac = [2, 0, 0, 0, 0, 10];
pub const BACK_MAC: Mac = [2, 0, 0, 0, 0, 20];
/// Of backends on a VLAN.
pub const VLAN: u16 = 100;
pub const MTU: u16 = 1500;
/// The code of [`Vip::Dscp`].
pub const DSCP: u8 = 42;
/// Port of every service; its `nat` backends listen on [`BACKEND_PORT`].
pub const PORT: u16 = 80;
pub const BACKEND_PORT: u16 = 8080;

pub const CAPACITY: Capacity = Capacity {
    cells: 1024,
    services: 64,
    slots: 16_384,
    backends: 512,
    flow_sets: 64,
    half_open_sets: 16,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// All combinations that every mode is tried with.
pub const KINDS: [(Family, u8); 4] = [
    (Family::V4, TCP),
    (Family::V4, UDP),
    (Family::V6, TCP),
    (Family::V6, UDP),
];

/// The services; the number is the last part of the VIP. Each exists for both families and protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Vip {
    Dsr = 1,
    Nat = 2,
    /// No backends.
    Empty = 3,
    /// `nat`; its backend has no next hop.
    Unresolved = 4,
    /// `l2-dsr` to a VLAN.
    TaggedDsr = 5,
    /// `nat` to a VLAN.
    TaggedNat = 6,
    /// `l2-dsr`, chosen by the client's address.
    Source = 7,
    /// `l3-dsr`, one backend of each family.
    Ipip = 8,
    /// As `Ipip`.
    Gre = 9,
    /// As `Ipip`, to a VLAN.
    Gue = 10,
    /// `l3-dsr`, the VIP told by DSCP.
    Dscp = 11,
}

impl Vip {
    pub const ALL: [Self; 11] = [
        Self::Dscp,
        Self::Ipip,
        Self::Gre,
        Self::Gue,
        Self::Dsr,
        Self::Nat,
        Self::Empty,
        Self::Unresolved,
        Self::TaggedDsr,
        Self::TaggedNat,
        Self::Source,
    ];

    pub fn address(self, family: Family) -> IpAddr {
        address(family, 9, self as u8)
    }

    pub fn mode(self) -> Mode {
        match self {
            Self::Dsr | Self::TaggedDsr | Self::Source => Mode::L2Dsr,
            Self::Nat | Self::Empty | Self::Unresolved | Self::TaggedNat => Mode::Nat,
            Self::Ipip => Mode::Ipip,
            Self::Gre => Mode::Gre,
            Self::Gue => Mode::Gue,
            Self::Dscp => Mode::Dscp,
        }
    }

    /// Numbers of its backends and their weights.
    pub fn backends(self) -> &'static [(u8, u16)] {
        match self {
            Self::Dsr => &[(11, 1), (12, 2), (13, 3)],
            // The last one is drained, and its replies are still translated.
            Self::Nat => &[(21, 1), (22, 1), (23, 0)],
            Self::Empty => &[],
            Self::Unresolved => &[(91, 1)],
            Self::TaggedDsr => &[(51, 1), (52, 1)],
            Self::TaggedNat => &[(61, 1), (62, 1)],
            Self::Source => &[(71, 1), (72, 1), (73, 1)],
            Self::Ipip => &[(81, 1), (82, 1)],
            Self::Gre => &[(83, 1), (84, 1)],
            Self::Gue => &[(63, 1), (64, 1)],
            Self::Dscp => &[(31, 1), (32, 1)],
        }
    }

    /// Address of one of its backends. Those of a tunnel with an even number are of the other family.
    pub fn backend(self, family: Family, number: u8) -> IpAddr {
        let family = match family {
            Family::V4 if self.mode().is_tunnel() && number.is_multiple_of(2) => Family::V6,
            Family::V6 if self.mode().is_tunnel() && number.is_multiple_of(2) => Family::V4,
            family => family,
        };
        address(family, 2, number)
    }

    /// Where its backends stand: VLAN id, 0 for none.
    pub fn vlan(self) -> u16 {
        match self {
            Self::TaggedDsr | Self::TaggedNat | Self::Gue => VLAN,
            _ => 0,
        }
    }
}

/// Who a client is, as the balancer's routing sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// On the link of [`FRONT`], its MAC known.
    OnLink,
    /// Behind a router on the link of [`FRONT`], whose MAC is known.
    Routed,
    /// On the link of [`BACK`], as all are with one arm.
    OneArm,
    /// On the link, its MAC not known.
    Unresolved,
    /// Behind a router whose MAC is not known.
    RoutedUnresolved,
    /// No route.
    Unroutable,
    /// A route that refuses.
    Blackholed,
    /// The balancer itself: it probes backends.
    Balancer,
}

impl Client {
    pub const ALL: [Self; 8] = [
        Self::OnLink,
        Self::Routed,
        Self::OneArm,
        Self::Unresolved,
        Self::RoutedUnresolved,
        Self::Unroutable,
        Self::Blackholed,
        Self::Balancer,
    ];

    pub fn address(self, family: Family) -> IpAddr {
        match self {
            Self::OnLink => address(family, 1, 7),
            Self::Routed => beyond(family, 1, 77),
            Self::OneArm => address(family, 2, 8),
            Self::Unresolved => address(family, 1, 99),
            Self::RoutedUnresolved => beyond(family, 2, 77),
            Self::Unroutable => beyond(family, 3, 77),
            Self::Blackholed => beyond(family, 4, 77),
            Self::Balancer => address(family, 2, 250),
        }
    }
}

/// `10.net.0.number`, `fd00:net::number` with the number as it is written in decimal.
pub fn address(family: Family, net: u8, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, net, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, decimal(number)).into(),
    }
}

/// An address of a far network, `198.51.100.number` and the like.
pub fn beyond(family: Family, net: u8, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(far(net), 51, 100, number).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, net.into(), 0, 0, 0, 0, decimal(number)).into(),
    }
}

/// An address of the network behind the router that is known, chosen by `bits`.
pub fn anywhere(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::from(far(1)) << 24 | bits as u32 >> 8).into(),
        Family::V6 => {
            let prefix = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).to_bits();
            Ipv6Addr::from_bits(prefix | bits >> 48).into()
        }
    }
}

/// First byte of a far IPv4 network.
fn far(net: u8) -> u8 {
    [198, 203, 192, 100][usize::from(net - 1)]
}

/// A number whose hexadecimal digits are the decimal ones of `number`.
fn decimal(number: u8) -> u16 {
    let [hundreds, tens, ones] = [number / 100, number / 10 % 10, number % 10].map(u16::from);
    hundreds << 8 | tens << 4 | ones
}

fn number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => {
            let last = v6.segments()[7];
            ((last >> 8) * 100 + (last >> 4 & 15) * 10 + (last & 15)) as u8
        }
    }
}

/// MAC of the backend, client or router with this number.
pub const fn mac(number: u8) -> Mac {
    [2, 0, 0, 0, 1, number]
}

/// The next hop of a backend, as the daemon finds it out from the kernel.
pub fn next_hop(backend: IpAddr) -> NextHop {
    let number = number(backend);
    if number > 90 {
        return NextHop::default();
    }
    NextHop {
        ifindex: BACK,
        destination: mac(number),
        source: BACK_MAC,
        vlan: if (50..70).contains(&number) { VLAN } else { 0 },
        mtu: MTU,
    }
}

/// What the balancer sends from towards a backend.
pub fn tunnel_source(backend: IpAddr) -> IpAddr {
    let family = if backend.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    address(family, 2, 250)
}

/// The services, as an operator would write them.
pub fn model() -> Model {
    let mut text = "[node.lb1]\ninterfaces = [\"front\", \"back\"]\n".to_owned();
    for (family, protocol) in KINDS {
        for vip in Vip::ALL {
            let protocol = if protocol == TCP { "tcp" } else { "udp" };
            let port = if vip.mode() == Mode::Nat {
                BACKEND_PORT
            } else {
                PORT
            };
            let answers = match vip {
                Vip::Ipip => "unmatched = \"reject\"\necho = \"balancer\"\n",
                Vip::Gre if protocol == "tcp" => "unmatched = \"drop\"\nmss_clamp = \"auto\"\n",
                Vip::Gre => "unmatched = \"drop\"\n",
                Vip::Dscp => "dscp = 42\n",
                Vip::Gue => "fragments = \"l3\"\n",
                Vip::Empty => "fragments = \"drop\"\n",
                _ => "",
            };
            let mode = match vip.mode().words() {
                (mode, None) => format!("\"{mode}\""),
                (mode, Some(encap)) => format!("\"{mode}\"\nencap = \"{encap}\""),
            };
            let backends = vip.backends().iter().map(|(number, weight)| {
                let address = vip.backend(family, *number);
                format!("{{ address = \"{address}\", port = {port}, weight = {weight} }}")
            });
            let backends = backends.collect::<Vec<_>>().join(", ");
            let hash = if vip == Vip::Source {
                "source"
            } else if vip == Vip::TaggedDsr {
                "l2+3"
            } else {
                "l3+l4"
            };
            let address = vip.address(family);
            let _ = writeln!(
                text,
                "[[service]]\nname = \"{vip:?}-{family:?}-{protocol}\"\nvip = \"{address}\"\nport = {PORT}\nprotocol = \"{protocol}\"\n\
                 {answers}mode = {mode}\nhash = \"{hash}\"\nslots = 251\nbackend = [{backends}]"
            );
        }
    }
    let parsed = config::parse("packet-tests.toml", &text);
    parsed.unwrap_or_else(|report| panic!("{report}")).model
}

/// What the tables should hold for a service of the model: every backend serves, next hops as they are here.
pub fn wanted_now(service: &Service) -> Wanted {
    let sources = TunnelSources::default();
    wanted(service, 0x1234_5678, &sources, |backend| BackendNow {
        serves: true,
        drain: None,
        next_hop: next_hop(backend.address),
        tunnel_source: sources.towards(backend.address, Some(tunnel_source(backend.address))),
    })
}

/// All services planned into empty tables.
pub fn plan(model: &Model) -> (Layout, Vec<Write>) {
    let mut layout = Layout::new(CAPACITY);
    let writes = model.services.iter().flat_map(|service| {
        let planned = layout.set(Duration::ZERO, &wanted_now(service));
        planned.unwrap_or_else(|error| panic!("{}: {error}", service.key()))
    });
    let writes = writes.collect();
    (layout, writes)
}

/// The protocol's number, as packets have it.
pub fn protocol(number: u8) -> Protocol {
    if number == TCP {
        Protocol::Tcp
    } else {
        Protocol::Udp
    }
}

/// A packet of a client to a service.
pub fn request(vip: Vip, (family, protocol): (Family, u8), client: Client) -> Packet {
    Packet::new(
        protocol,
        (client.address(family), 40_000),
        (vip.address(family), PORT),
    )
}

/// A packet of a `nat` backend to a client.
pub fn reply(backend: u8, (family, protocol): (Family, u8), client: Client) -> Packet {
    Packet::new(
        protocol,
        (address(family, 2, backend), BACKEND_PORT),
        (client.address(family), 40_000),
    )
}

/// A route of the balancer.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// On the link of this interface.
    Link(u32),
    /// By the router with this number, on the link of [`FRONT`].
    Router(u8),
    Refused,
    /// An address of the balancer's own, on [`BACK`].
    Own,
}

/// (network, prefix length, way).
fn routes(family: Family) -> [(IpAddr, u8, Way); 6] {
    let (near, wide, host) = match family {
        Family::V4 => (16, 8, 32),
        Family::V6 => (64, 48, 128),
    };
    let network = |net| match family {
        Family::V4 => Ipv4Addr::new(far(net), 0, 0, 0).into(),
        Family::V6 => beyond(family, net, 0),
    };
    [
        (address(family, 1, 0), near, Way::Link(FRONT)),
        (address(family, 2, 0), near, Way::Link(BACK)),
        (network(1), wide, Way::Router(1)),
        (network(2), wide, Way::Router(98)),
        (network(4), wide, Way::Refused),
        (Client::Balancer.address(family), host, Way::Own),
    ]
}

/// (address, its number, interface) of neighbours whose MAC the kernel knows.
fn neighbours(family: Family) -> [(IpAddr, u8, u32); 3] {
    [
        (address(family, 1, 1), 1, FRONT),
        (address(family, 1, 7), 7, FRONT),
        (address(family, 2, 8), 8, BACK),
    ]
}

/// `ip` commands that bring all this about in an empty network namespace.
pub fn ip_commands() -> Vec<String> {
    let mut commands = Vec::new();
    for (name, index, mac) in [("front", FRONT, FRONT_MAC), ("back", BACK, BACK_MAC)] {
        let mac = text(mac);
        commands.extend([
            format!("link add {name} index {index} address {mac} type veth peer name {name}-peer"),
            format!("link set {name} addrgenmode none up"),
            format!("link set {name}-peer addrgenmode none up"),
        ]);
    }
    let name = |ifindex| if ifindex == FRONT { "front" } else { "back" };
    for family in [Family::V4, Family::V6] {
        for (network, length, way) in routes(family) {
            commands.push(match way {
                Way::Link(ifindex) => format!("route add {network}/{length} dev {}", name(ifindex)),
                Way::Router(number) => {
                    let router = address(family, 1, number);
                    format!("route add {network}/{length} via {router} dev front onlink")
                }
                Way::Refused => format!("route add blackhole {network}/{length}"),
                Way::Own if family == Family::V4 => format!("addr add {network}/{length} dev back"),
                Way::Own => format!("addr add {network}/{length} dev back nodad"),
            });
        }
        for (address, number, ifindex) in neighbours(family) {
            let (mac, name) = (text(mac(number)), name(ifindex));
            commands.push(format!(
                "neigh add {address} lladdr {mac} dev {name} nud permanent"
            ));
        }
    }
    commands
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// What the kernel answers to a query for a packet of `length` bytes, from the same tables.
pub fn route(destination: IpAddr, length: u16) -> Route {
    let family = if destination.is_ipv4() {
        Family::V4
    } else {
        Family::V6
    };
    let found = routes(family)
        .into_iter()
        .filter(|(network, prefix, _)| within(destination, *network, *prefix))
        .max_by_key(|(_, prefix, _)| *prefix);
    let (gateway, ifindex) = match found {
        Some((_, _, Way::Link(ifindex))) => (destination, ifindex),
        Some((_, _, Way::Router(number))) => (address(family, 1, number), FRONT),
        Some((_, _, Way::Refused)) => return Route::None,
        Some((_, _, Way::Own)) | None => return Route::Host,
    };
    if length > MTU {
        return Route::None;
    }
    let known = neighbours(family)
        .into_iter()
        .find(|(address, _, at)| (*address, *at) == (gateway, ifindex));
    known.map_or(Route::Unresolved, |(_, number, _)| {
        Route::Direct(NextHop {
            ifindex,
            destination: mac(number),
            source: if ifindex == FRONT {
                FRONT_MAC
            } else {
                BACK_MAC
            },
            vlan: 0,
            mtu: 0,
        })
    })
}

fn within(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    (bits(address) ^ bits(network)) >> (128 - u32::from(prefix)) == 0
}
