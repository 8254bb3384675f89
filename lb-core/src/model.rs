//! The validated configuration: what is in a [`Model`] holds, so that nobody after `config` checks it again.
//!
//! The file as written is another type (see `config`). Adding a key means: a field here, a row in the schema of
//! `config`, and its conversion beside it.

mod digest;
mod flows;
mod lookup;
mod name;
mod virtual_router;

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    digest::Digest,
    flows::{
        DEFAULT_FLOWS, DEFAULT_HALF_OPEN, DEFAULT_SNAT_FLOWS, DrainPolicy, FlowCapacity,
        FlowTables, OnBackendDown, OnDrainEnd, SnatPool, Timeouts, Tracking,
    },
    lookup::NotFound,
    name::{NameError, NodeName, ServiceName, SnatPoolName},
    virtual_router::{DEFAULT_PRIORITY, Pace, Pair, Track, TrackKind, VirtualRouter},
};

/// Everything that one configuration file says, for both nodes.
///
/// Guaranteed: service names and (VIP, protocol, port) are unique; no backend has a VIP's address; `nat` services
/// share no backend (address, protocol, port); a `snat` service has a pool, of its
/// family; the whole fits [`Capacity`]; an address belongs to one virtual router at most, and no two of a family have one
/// VRID. There may be no service at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// In the order of the file.
    pub services: Vec<Service>,
    /// At least one.
    pub nodes: BTreeMap<NodeName, Node>,
    /// In the order of the file. None: every node holds every VIP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub virtual_routers: Vec<VirtualRouter>,
    #[serde(skip_serializing_if = "Pair::is_default")]
    pub pair: Pair,
    /// In the order of the file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snat_pools: Vec<SnatPool>,
    pub dataplane: Dataplane,
}

impl Model {
    /// The pool that a `snat` service sends from.
    pub fn snat_pool(&self, service: &Service) -> Option<&SnatPool> {
        let name = service.snat_pool.as_ref()?;
        self.snat_pools.iter().find(|pool| pool.name == *name)
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.iter().find(|s| s.key() == *key)
    }

    /// `futago run --node NAME`.
    pub fn node(&self, name: &str) -> Result<&Node, UnknownNode> {
        self.nodes.get(name).ok_or_else(|| UnknownNode {
            name: name.to_owned(),
            known: self.nodes.keys().cloned().collect(),
        })
    }

    /// Every service's address, once, in order.
    pub fn vips(&self) -> std::collections::BTreeSet<IpAddr> {
        self.services.iter().map(|s| s.vip).collect()
    }

    /// Every service's address and those that `snat` services send from: what some node of the pair must hold.
    pub fn held_addresses(&self) -> std::collections::BTreeSet<IpAddr> {
        let pools = self.snat_pools.iter().flat_map(|pool| &pool.addresses);
        self.vips().into_iter().chain(pools.copied()).collect()
    }

    /// The addresses about which no election decides: every node holds them.
    pub fn unelected_vips(&self) -> std::collections::BTreeSet<IpAddr> {
        let mut vips = self.held_addresses();
        for router in &self.virtual_routers {
            for vip in &router.vips {
                vips.remove(vip);
            }
        }
        vips
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration has no [node.{name}]; it has: {}", .known.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "))]
pub struct UnknownNode {
    pub name: String,
    pub known: Vec<NodeName>,
}

/// One host of the pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Where the XDP program is attached; at least one, no name twice.
    pub interfaces: Vec<String>,
    /// Where the VIPs are added and announced; the first of `interfaces` unless the file says otherwise.
    pub vip_interface: String,
    pub xdp: XdpMode,
    /// Among `interfaces`: where the echo asks, beside a virtual router's own interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub echo_interfaces: Vec<String>,
    pub tunnel_sources: TunnelSources,
}

/// Outer source addresses of `l3-dsr` tunnels, where they are not what the host itself would send from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TunnelSources {
    /// Address and prefix length, 17 to 32: `ipip` fills the bits behind the prefix with flow entropy.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    pub ipv6: Option<Ipv6Addr>,
}

impl TunnelSources {
    /// The source of a tunnel to `backend`, to which the host itself would send from `host`.
    pub fn towards(&self, backend: IpAddr, host: Option<IpAddr>) -> Option<IpAddr> {
        let set = match backend {
            IpAddr::V4(_) => self.ipv4.map(|(address, _)| IpAddr::V4(address)),
            IpAddr::V6(_) => self.ipv6.map(IpAddr::V6),
        };
        set.or(host.filter(|host| host.is_ipv4() == backend.is_ipv4()))
    }

    /// Low bits of the IPv4 source that carry flow entropy.
    pub fn entropy_bits(&self) -> u8 {
        self.ipv4.map_or(0, |(_, length)| 32 - length)
    }
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// Native, or generic with a warning where the driver has no XDP.
    #[default]
    Auto,
    Native,
    Generic,
}

/// What is the same for all services and both nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Dataplane {
    /// Seed of the flow hash and of the slot tables; the same on both nodes, so that both give the same answer.
    pub hash_seed: u64,
    pub capacity: Capacity,
    #[serde(skip_serializing_if = "FlowCapacity::is_default")]
    pub flows: FlowCapacity,
}

impl Default for Dataplane {
    fn default() -> Self {
        Self {
            hash_seed: DEFAULT_HASH_SEED,
            capacity: Capacity::default(),
            flows: FlowCapacity::default(),
        }
    }
}

/// Sizes of the tables, which the kernel allocates in full when they are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Capacity {
    pub max_services: u32,
    /// Backends of all services together.
    pub max_backends: u32,
    /// Slots of all services together. The table needs twice as many: the next one is built beside the one in use.
    pub max_slots: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            max_services: 1024,
            max_backends: 65_536,
            max_slots: 64 * DEFAULT_SLOTS,
        }
    }
}

/// Any number would do; it is the same on all nodes that do not say another.
pub const DEFAULT_HASH_SEED: u64 = 0x6675_7461_676f;
/// A prime, as Maglev needs it.
pub const DEFAULT_SLOTS: u32 = 65_537;
/// Larger tables take seconds to build.
pub const MAX_SLOTS_PER_SERVICE: u32 = 1 << 22;
/// Slots name a backend by 16 bits, where 0 is "none" and the last number says that earlier owners are in the records.
pub const MAX_BACKENDS_PER_SERVICE: usize = u16::MAX as usize - 1;
pub const MAX_WEIGHT: u16 = 1000;
/// Assigned to Generic UDP Encapsulation.
pub const DEFAULT_GUE_PORT: u16 = 6080;

/// One virtual IP, protocol and port, and who serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    pub name: ServiceName,
    /// A unicast address; never IPv4-mapped, loopback, IPv6 link-local or unspecified.
    pub vip: IpAddr,
    pub protocol: Protocol,
    /// Not 0.
    pub port: u16,
    pub mode: Mode,
    pub hash: HashPolicy,
    /// Size of the slot table: a prime, at least the number of backends.
    pub slots: u32,
    /// All of the VIP's address family, unless the mode is a tunnel; no [`BackendKey`] twice.
    pub backends: Vec<Backend>,
    /// `None`: every backend counts as healthy.
    pub check: Option<Check>,
    /// UDP destination port of [`Mode::Gue`].
    pub gue_port: u16,
    /// The DSCP that means the VIP in [`Mode::Dscp`], 1 to 63; 0 in other modes. On one backend it means one VIP.
    pub dscp: u8,
    /// `L3` only where the service is the VIP's only one of its protocol, and not in [`Mode::Nat`] and [`Mode::Snat`].
    #[serde(skip_serializing_if = "is_default")]
    pub fragments: Fragments,
    /// TCP only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mss_clamp: Option<MssClamp>,
    /// The VIP has no other service of the protocol.
    #[serde(skip)]
    pub sole: bool,
    /// The same for all services of a VIP.
    pub unmatched: Unmatched,
    /// The same for all services of a VIP.
    pub echo: Echo,
    /// `Full` in `snat`, which cannot do without.
    #[serde(skip_serializing_if = "is_default")]
    pub tracking: Tracking,
    /// Never `Reset` over UDP.
    #[serde(skip_serializing_if = "is_default")]
    pub on_backend_down: OnBackendDown,
    pub drain: DrainPolicy,
    #[serde(skip_serializing_if = "Timeouts::is_default")]
    pub timeouts: Timeouts,
    /// New flows a second that are recorded; those above it are forwarded without. Only with full tracking in a mode that can do
    /// without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_new_flows_per_second: Option<u32>,
    /// `Some` in [`Mode::Snat`] alone; see [`Model::snat_pool`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snat_pool: Option<SnatPoolName>,
}

/// Whether a field can be left out of the digest.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What becomes of a packet to a VIP and to no service of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unmatched {
    /// The host's stack gets it.
    #[default]
    Pass,
    Drop,
    /// The sender is told, by ICMP.
    Reject,
}

/// What becomes of fragments to a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fragments {
    /// They go where the first one goes, by the ports that it shows.
    #[default]
    Track,
    /// They go by the client's address alone.
    L3,
    Drop,
}

/// The largest segment that a SYN may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MssClamp {
    /// What fits the way to the backend.
    Auto,
    Bytes(u16),
}

/// Who answers echo requests to a VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Echo {
    /// What `unmatched` says; with `pass`, the host's stack.
    #[default]
    Host,
    /// The XDP program.
    Balancer,
}

impl Service {
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            vip: self.vip,
            protocol: self.protocol,
            port: self.port,
        }
    }

    /// What the packet path is told of the service's flows.
    pub fn policy(&self) -> lb_common::consistency::Policy {
        lb_common::consistency::Policy {
            on_down: self.on_backend_down.into(),
            full: self.tracking == Tracking::Full,
        }
    }
}

/// What a packet is matched by, and so the identity of a service; its name may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceKey {
    pub vip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            SocketAddr::new(self.vip, self.port),
            self.protocol
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// How a packet is changed on its way to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Destination becomes the backend; its replies come back through the load balancer.
    Nat,
    /// As `Nat`, and the source becomes an address of the load balancer: so replies come back to it from anywhere.
    Snat,
    /// Only the destination MAC changes; the backend answers the client directly.
    L2Dsr,
    /// `l3-dsr`: in an IP packet to the backend, which answers the client directly.
    #[serde(rename = "l3-dsr-ipip")]
    Ipip,
    /// `l3-dsr` behind a GRE header.
    #[serde(rename = "l3-dsr-gre")]
    Gre,
    /// `l3-dsr` behind UDP: Generic UDP Encapsulation, variant 1.
    #[serde(rename = "l3-dsr-gue")]
    Gue,
    /// `l3-dsr` to the backend's own address; the DSCP tells the backend the VIP.
    #[serde(rename = "l3-dsr-dscp")]
    Dscp,
}

impl Mode {
    /// Whether a backend may listen on another port than the service's.
    pub fn translates_port(self) -> bool {
        match self {
            Self::Nat | Self::Snat => true,
            Self::L2Dsr | Self::Ipip | Self::Gre | Self::Gue | Self::Dscp => false,
        }
    }

    /// Whether replies pass the load balancer.
    pub fn sees_replies(self) -> bool {
        self.translates_port()
    }

    /// Whether packets travel in other ones.
    pub fn is_tunnel(self) -> bool {
        match self {
            Self::Nat | Self::Snat | Self::L2Dsr | Self::Dscp => false,
            Self::Ipip | Self::Gre | Self::Gue => true,
        }
    }

    /// As the file writes it: `mode`, and `encap` where there is one.
    pub fn words(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Nat => ("nat", None),
            Self::Snat => ("snat", None),
            Self::L2Dsr => ("l2-dsr", None),
            Self::Ipip => ("l3-dsr", Some("ipip")),
            Self::Gre => ("l3-dsr", Some("gre")),
            Self::Gue => ("l3-dsr", Some("gue")),
            Self::Dscp => ("l3-dsr", Some("dscp")),
        }
    }

    /// Whether replies pass the load balancer and are told apart by the backend's address and port alone.
    pub fn matches_replies(self) -> bool {
        match self {
            Self::Nat => true,
            Self::Snat | Self::L2Dsr | Self::Ipip | Self::Gre | Self::Gue | Self::Dscp => false,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            (mode, None) => f.write_str(mode),
            (mode, Some(encap)) => write!(f, "{mode} {encap}"),
        }
    }
}

/// Which parts of a packet choose its slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum HashPolicy {
    /// Addresses and ports: every connection on its own.
    #[default]
    #[serde(rename = "l3+l4")]
    L3L4,
    /// Both addresses. Within a service the destination is its VIP, so this chooses as `Source` does.
    #[serde(rename = "l3")]
    L3,
    /// The client's address: all its connections reach one backend.
    #[serde(rename = "source")]
    Source,
    /// The sender's MAC address, too: clients behind one router go together, those of another apart.
    #[serde(rename = "l2+3")]
    L2L3,
    /// Every packet by itself; UDP only.
    #[serde(rename = "per-packet")]
    PerPacket,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// For people; not part of its identity.
    pub name: Option<String>,
    /// A unicast address like `vip`, and no VIP.
    pub address: IpAddr,
    /// The port that it listens on; the service's own unless [`Mode::translates_port`].
    pub port: u16,
    /// `0..=MAX_WEIGHT`; 0 takes no new flows.
    pub weight: u16,
    /// Takes no new flows, and keeps those that it has as the service's [`DrainPolicy`] says.
    #[serde(skip_serializing_if = "is_default")]
    pub drain: bool,
}

impl Backend {
    pub fn key(&self) -> BackendKey {
        BackendKey {
            address: self.address,
            port: self.port,
        }
    }
}

/// Identity of a backend within its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct BackendKey {
    pub address: IpAddr,
    pub port: u16,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// How the daemon finds out whether a backend serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub kind: CheckKind,
    /// From one probe's start to the next one's.
    pub interval: Duration,
    /// Not longer than `interval`: there is one probe at a time.
    pub timeout: Duration,
    /// Successes in a row that bring a backend back; not 0.
    pub rise: u32,
    /// Failures in a row that take it out; not 0.
    pub fall: u32,
    /// The port that is probed, where it is not the backend's own.
    pub port: Option<u16>,
}

impl Check {
    /// Where to send the probe.
    pub fn target(&self, backend: &Backend) -> SocketAddr {
        SocketAddr::new(backend.address, self.port.unwrap_or(backend.port))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A connection is accepted.
    Tcp,
}
