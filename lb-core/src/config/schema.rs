//! Every key of the file, once: the reader takes type, range and default from here, unknown keys are compared
//! with it, and the reference in `docs/` is printed from it.

mod flows;

use super::words::{CheckType, Encap, ModeWord, Word, words};
use crate::model::{
    DEFAULT_FLOWS, DEFAULT_GUE_PORT, DEFAULT_HALF_OPEN, DEFAULT_HASH_SEED, DEFAULT_SLOTS, Echo,
    Fragments, HashPolicy, MAX_SLOTS_PER_SERVICE, MAX_WEIGHT, OnBackendDown, OnDrainEnd, Protocol,
    Tracking, Unmatched, XdpMode,
};

pub(super) use self::flows::{
    GLOBAL_TIMEOUTS, SERVICE_TIMEOUTS, SNAT_POOL, global_timeouts, service_timeouts, snat_pool,
};

pub(super) struct Section {
    /// As its header is written.
    pub header: &'static str,
    pub meaning: &'static str,
    pub keys: &'static [&'static Key],
}

pub(super) struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub absent: Absent,
    pub meaning: &'static str,
    /// A value as it is written.
    pub example: &'static str,
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    Name,
    Text,
    Address,
    Number {
        min: i64,
        max: i64,
    },
    Word(fn() -> Vec<&'static str>),
    TextList,
    Flag,
    AddressList,
    /// `{ name = number, … }`
    NumbersByName {
        min: i64,
        max: i64,
    },
    /// `[section]`
    Table(&'static Section),
    /// `[[section]]`
    Tables(&'static Section),
    /// `[section.<name>]`
    NamedTables(&'static Section),
}

/// What it means that a key is not there.
#[derive(Clone, Copy)]
pub(super) enum Absent {
    Refused,
    Number(i64),
    Word(&'static str),
    Flag(bool),
    /// Described; the reader of the section knows it.
    Means(&'static str),
}

pub(super) static SECTIONS: &[&Section] = &[
    &ROOT,
    &NODE,
    &SERVICE,
    &BACKEND,
    &CHECK,
    &SERVICE_TIMEOUTS,
    &SNAT_POOL,
    &VIRTUAL_ROUTER,
    &TRACK,
    &PAIR,
    &DATAPLANE,
    &GLOBAL_TIMEOUTS,
];

pub(super) static ROOT: Section = Section {
    header: "the file",
    meaning: "One file, the same on both nodes.",
    keys: &[
        &root::NODE,
        &root::SERVICE,
        &root::SNAT_POOL,
        &root::VIRTUAL_ROUTER,
        &root::PAIR,
        &root::DATAPLANE,
    ],
};

pub(super) mod root {
    use super::*;

    pub static NODE: Key = Key {
        name: "node",
        kind: Kind::NamedTables(&super::NODE),
        absent: Absent::Refused,
        meaning: "What differs between the hosts; `futago run --node NAME` chooses one.",
        example: "[node.lb1]",
    };
    pub static SERVICE: Key = Key {
        name: "service",
        kind: Kind::Tables(&super::SERVICE),
        absent: Absent::Means("no service"),
        meaning: "The services, in any number and order.",
        example: "[[service]]",
    };
    pub static SNAT_POOL: Key = Key {
        name: "snat_pool",
        kind: Kind::Tables(&super::SNAT_POOL),
        absent: Absent::Means("none; `snat` services need one"),
        meaning: "What `snat` services send from.",
        example: "[[snat_pool]]",
    };
    pub static VIRTUAL_ROUTER: Key = Key {
        name: "virtual_router",
        kind: Kind::Tables(&super::VIRTUAL_ROUTER),
        absent: Absent::Means("no election: the node holds every VIP"),
        meaning: "Which node holds the VIPs is decided by VRRP.",
        example: "[[virtual_router]]",
    };
    pub static PAIR: Key = Key {
        name: "pair",
        kind: Kind::Table(&super::PAIR),
        absent: Absent::Means("plain VRRP, without echo"),
        meaning: "What the nodes have in common to speak with each other.",
        example: "[pair]",
    };
    pub static DATAPLANE: Key = Key {
        name: "dataplane",
        kind: Kind::Table(&super::DATAPLANE),
        absent: Absent::Means("all its defaults"),
        meaning: "What is the same for all services.",
        example: "[dataplane]",
    };
}

pub(super) static NODE: Section = Section {
    header: "[node.<name>]",
    meaning: "One host of the pair. The name is of letters, digits, `-`, `_` and `.`, at most 64.",
    keys: &[
        &node::INTERFACES,
        &node::VIP_INTERFACE,
        &node::XDP,
        &node::TUNNEL_SOURCE,
        &node::PRIORITY,
        &node::ECHO_INTERFACES,
    ],
};

pub(super) mod node {
    use super::*;

    pub static INTERFACES: Key = Key {
        name: "interfaces",
        kind: Kind::TextList,
        absent: Absent::Refused,
        meaning: "Network interfaces that the XDP program is attached to: one for one-arm, the client side and the server side for two-arm.",
        example: r#"["eth0", "eth1"]"#,
    };
    pub static VIP_INTERFACE: Key = Key {
        name: "vip_interface",
        kind: Kind::Text,
        absent: Absent::Means("the first of `interfaces`"),
        meaning: "Interface that the VIPs are added to and announced from.",
        example: r#""eth0""#,
    };
    pub static XDP: Key = Key {
        name: "xdp",
        kind: Kind::Word(words::<XdpMode>),
        absent: Absent::Means("`xdp` of `[dataplane]`"),
        meaning: "How the program is attached on this node.",
        example: r#""native""#,
    };
    pub static TUNNEL_SOURCE: Key = Key {
        name: "tunnel_source",
        kind: Kind::TextList,
        absent: Absent::Means("what the host itself sends from"),
        meaning: "Outer source addresses of `l3-dsr` tunnels, at most one IPv4 and one IPv6. An IPv4 prefix of 17 to 31 bits lets `ipip` spread flows over its addresses, for receivers that choose a queue by addresses alone.",
        example: r#"["10.0.0.16/28", "fd00::10"]"#,
    };
    pub static PRIORITY: Key = Key {
        name: "priority",
        kind: PRIORITY_RANGE,
        absent: Absent::Number(crate::model::DEFAULT_PRIORITY as i64),
        meaning: "Priority in every virtual router that does not say: the highest is active.",
        example: "150",
    };
    pub static ECHO_INTERFACES: Key = Key {
        name: "echo_interfaces",
        kind: Kind::TextList,
        absent: Absent::Means("none"),
        meaning: "Further ways to the other node, beside the virtual router's own interface: the echo asks over each. They must be among `interfaces`.",
        example: r#"["eth1"]"#,
    };
}

pub(super) static SERVICE: Section = Section {
    header: "[[service]]",
    meaning: "A virtual IP, protocol and port, and the backends that serve it.",
    keys: &[
        &service::NAME,
        &service::VIP,
        &service::PROTOCOL,
        &service::PORT,
        &service::MODE,
        &service::ENCAP,
        &service::GUE_PORT,
        &service::DSCP,
        &service::FRAGMENTS,
        &service::MSS_CLAMP,
        &service::UNMATCHED,
        &service::ECHO,
        &service::HASH,
        &service::SLOTS,
        &service::TRACKING,
        &service::MAX_NEW_FLOWS_PER_SECOND,
        &service::ON_BACKEND_DOWN,
        &service::DRAIN_S,
        &service::ON_DRAIN_END,
        &service::SNAT_POOL,
        &service::BACKEND,
        &service::CHECK,
        &service::TIMEOUTS,
    ],
};

pub(super) mod service {
    use super::*;

    pub static NAME: Key = Key {
        name: "name",
        kind: Kind::Name,
        absent: Absent::Refused,
        meaning: "Unique name, used in `status`, logs and metrics: letters, digits, `-`, `_` and `.`, at most 64.",
        example: r#""web""#,
    };
    pub static VIP: Key = Key {
        name: "vip",
        kind: Kind::Address,
        absent: Absent::Refused,
        meaning: "Virtual IP that clients connect to, IPv4 or IPv6. Several services may share one.",
        example: r#""192.0.2.10""#,
    };
    pub static PROTOCOL: Key = Key {
        name: "protocol",
        kind: Kind::Word(words::<Protocol>),
        absent: Absent::Word(Protocol::WORDS[0].0),
        meaning: "Transport protocol.",
        example: r#""udp""#,
    };
    pub static PORT: Key = Key {
        name: "port",
        kind: Kind::Number {
            min: 1,
            max: 65_535,
        },
        absent: Absent::Refused,
        meaning: "Port that clients connect to.",
        example: "80",
    };
    pub static MODE: Key = Key {
        name: "mode",
        kind: Kind::Word(words::<ModeWord>),
        absent: Absent::Refused,
        meaning: "How packets reach a backend. `nat`: destination rewritten, replies return through the load balancer, which must be the backends' gateway. `snat`: as `nat`, and the source becomes an address of the load balancer, so that replies find it from anywhere; backends do not see the client's address. `l2-dsr`: only the destination MAC rewritten; backends are in the same segment, hold the VIP and answer clients directly. `l3-dsr`: sent to the backend's address, wherever it is, as `encap` says; backends hold the VIP and answer clients directly.",
        example: r#""nat""#,
    };
    pub static ENCAP: Key = Key {
        name: "encap",
        kind: Kind::Word(words::<Encap>),
        absent: Absent::Means("none; `l3-dsr` needs it"),
        meaning: "How `l3-dsr` takes a packet to a backend, of either address family. `ipip`: in an IP packet, the smallest. `gre`: behind a GRE header. `gue`: behind UDP (GUE variant 1), which routers and receivers spread best. `dscp`: not in another packet; the destination becomes the backend's address, of the VIP's family, and the DSCP says which VIP it was.",
        example: r#""ipip""#,
    };
    pub static GUE_PORT: Key = Key {
        name: "gue_port",
        kind: Kind::Number {
            min: 1,
            max: 65_535,
        },
        absent: Absent::Number(DEFAULT_GUE_PORT as i64),
        meaning: "UDP port that the backends take `gue` on.",
        example: "6080",
    };
    pub static DSCP: Key = Key {
        name: "dscp",
        kind: Kind::Number { min: 1, max: 63 },
        absent: Absent::Means(
            "what another service of the VIP says, else a free code, given out in the order of the file",
        ),
        meaning: "The DSCP that means this VIP to the backends of `encap = \"dscp\"`. VIPs that share a backend have different codes; all services of a VIP have the same.",
        example: "5",
    };
    pub static FRAGMENTS: Key = Key {
        name: "fragments",
        kind: Kind::Word(words::<Fragments>),
        absent: Absent::Word(Fragments::WORDS[0].0),
        meaning: "What becomes of fragments. `track`: they go where the packet's first one went, which is remembered for 15 seconds. `l3`: they go by the client's address alone, whatever their order; only for the VIP's only service of the protocol, in a DSR mode. `drop`.",
        example: r#""l3""#,
    };
    pub static MSS_CLAMP: Key = Key {
        name: "mss_clamp",
        kind: Kind::Number {
            min: 88,
            max: 65_495,
        },
        absent: Absent::Means("segments as client and server agree"),
        meaning: "Largest TCP segment in bytes that a SYN, or a SYN with ACK where it passes, may ask for: larger wishes are lowered. `\"auto\"`: what fits the way to the backend, with the headers of its tunnel.",
        example: "1400",
    };
    pub static UNMATCHED: Key = Key {
        name: "unmatched",
        kind: Kind::Word(words::<Unmatched>),
        absent: Absent::Means("what another service of the VIP says, else `\"pass\"`"),
        meaning: "What becomes of packets to the VIP that are for none of its services. `pass`: the host gets them. `drop`. `reject`: the sender is told, over TCP by a reset, else by ICMP that the port is unreachable. All services of a VIP say the same.",
        example: r#""reject""#,
    };
    pub static ECHO: Key = Key {
        name: "echo",
        kind: Kind::Word(words::<Echo>),
        absent: Absent::Means("what another service of the VIP says, else `\"host\"`"),
        meaning: "Who answers echo requests (ping) to the VIP. `host`: the host, where `unmatched` lets them pass. `balancer`: the XDP program, at most 1000 a second on each CPU together with its other answers. All services of a VIP say the same.",
        example: r#""balancer""#,
    };
    pub static HASH: Key = Key {
        name: "hash",
        kind: Kind::Word(words::<HashPolicy>),
        absent: Absent::Word(HashPolicy::WORDS[0].0),
        meaning: "What chooses the backend of a packet. `l3+l4`: addresses and ports, every connection on its own. `source`: the client's address, so that all its connections reach one backend. `l3`: both addresses, which within one service is the same. `l2+3`: the client's address and the MAC address of who delivered the packet. `per-packet`: nothing that lasts, every packet to any backend; UDP only.",
        example: r#""source""#,
    };
    pub static SLOTS: Key = Key {
        name: "slots",
        kind: SLOT_RANGE,
        absent: Absent::Means("`slots` of `[dataplane]`"),
        meaning: "Size of the service's slot table: a prime, best at least 100 times the number of backends.",
        example: "4093",
    };
    pub static TRACKING: Key = Key {
        name: "tracking",
        kind: Kind::Word(words::<Tracking>),
        absent: Absent::Means("`\"adaptive\"`; `snat` records every connection"),
        meaning: "Which flows are recorded. `adaptive`: those that a change of backends would move, and nothing while there is none. `full`: all of them, which costs every packet a lookup, and which `futago flows` then lists.",
        example: r#""full""#,
    };
    pub static MAX_NEW_FLOWS_PER_SECOND: Key = Key {
        name: "max_new_flows_per_second",
        kind: Kind::Number {
            min: 1,
            max: u32::MAX as i64,
        },
        absent: Absent::Means("no limit"),
        meaning: "With `tracking = \"full\"`: of how many new flows a second each node makes a record. Those above it are forwarded without one.",
        example: "20000",
    };
    pub static ON_BACKEND_DOWN: Key = Key {
        name: "on_backend_down",
        kind: Kind::Word(words::<OnBackendDown>),
        absent: Absent::Word(OnBackendDown::WORDS[0].0),
        meaning: "What becomes of connections whose backend is down. `rehash`: their next packet goes to another backend. `reset`: their next packet is answered with a TCP reset. `keep`: they stay with it.",
        example: r#""reset""#,
    };
    pub static DRAIN_S: Key = Key {
        name: "drain_s",
        kind: Kind::Number {
            min: 1,
            max: 2_592_000,
        },
        absent: Absent::Means("until they end by themselves"),
        meaning: "How many seconds a backend with `drain` keeps its connections.",
        example: "300",
    };
    pub static ON_DRAIN_END: Key = Key {
        name: "on_drain_end",
        kind: Kind::Word(words::<OnDrainEnd>),
        absent: Absent::Means("`\"rehash\"`"),
        meaning: "What becomes of connections that are left then. `reset`: their next packet is answered with a TCP reset. `rehash`: it goes to another backend.",
        example: r#""rehash""#,
    };
    pub static SNAT_POOL: Key = Key {
        name: "snat_pool",
        kind: Kind::Text,
        absent: Absent::Means("none; `snat` needs it"),
        meaning: "Name of the `[[snat_pool]]` that `snat` sends from.",
        example: r#""servers""#,
    };
    pub static TIMEOUTS: Key = Key {
        name: "timeouts",
        kind: Kind::Table(&SERVICE_TIMEOUTS),
        absent: Absent::Means("those of `[dataplane.timeouts]`"),
        meaning: "How long flows may be silent.",
        example: "[service.timeouts]",
    };
    pub static BACKEND: Key = Key {
        name: "backend",
        kind: Kind::Tables(&super::BACKEND),
        absent: Absent::Means("no backend: packets are dropped"),
        meaning: "The backends, in any number and order.",
        example: "[[service.backend]]",
    };
    pub static CHECK: Key = Key {
        name: "check",
        kind: Kind::Table(&super::CHECK),
        absent: Absent::Means("no check: every backend counts as healthy"),
        meaning: "How backends are checked.",
        example: "[service.check]",
    };
}

pub(super) static BACKEND: Section = Section {
    header: "[[service.backend]]",
    meaning: "A real server of the service above it.",
    keys: &[
        &backend::ADDRESS,
        &backend::PORT,
        &backend::WEIGHT,
        &backend::DRAIN,
        &backend::NAME,
    ],
};

pub(super) mod backend {
    use super::*;

    pub static ADDRESS: Key = Key {
        name: "address",
        kind: Kind::Address,
        absent: Absent::Refused,
        meaning: "IP address of the server, of the same family as the VIP unless `mode` is `l3-dsr` with a tunnel.",
        example: r#""10.0.0.11""#,
    };
    pub static PORT: Key = Key {
        name: "port",
        kind: Kind::Number {
            min: 1,
            max: 65_535,
        },
        absent: Absent::Means("`port` of the service"),
        meaning: "Port that the server listens on. In `l2-dsr` and `l3-dsr` no other than the service's.",
        example: "8080",
    };
    pub static WEIGHT: Key = Key {
        name: "weight",
        kind: Kind::Number {
            min: 0,
            max: MAX_WEIGHT as i64,
        },
        absent: Absent::Number(1),
        meaning: "Share of the new flows, relative to the other backends; 0 takes it out of the table.",
        example: "10",
    };
    pub static DRAIN: Key = Key {
        name: "drain",
        kind: Kind::Flag,
        absent: Absent::Flag(false),
        meaning: "No new connections for it; it keeps those that it has as `drain_s` and `on_drain_end` of the service say. The time begins when the daemon first reads it.",
        example: "true",
    };
    pub static NAME: Key = Key {
        name: "name",
        kind: Kind::Text,
        absent: Absent::Means("no name"),
        meaning: "For people; shown in `status`.",
        example: r#""rack2-web1""#,
    };
}

pub(super) static CHECK: Section = Section {
    header: "[service.check]",
    meaning: "The health check of every backend of the service above it.",
    keys: &[
        &check::TYPE,
        &check::INTERVAL_MS,
        &check::TIMEOUT_MS,
        &check::RISE,
        &check::FALL,
        &check::PORT,
    ],
};

pub(super) mod check {
    use super::*;

    /// The default of `timeout_ms` where the interval allows it.
    pub const TIMEOUT_MS_DEFAULT: u32 = 1000;

    pub static TYPE: Key = Key {
        name: "type",
        kind: Kind::Word(words::<CheckType>),
        absent: Absent::Refused,
        meaning: "`tcp`: the backend accepts a connection.",
        example: r#""tcp""#,
    };
    pub static INTERVAL_MS: Key = Key {
        name: "interval_ms",
        kind: Kind::Number {
            min: 10,
            max: 3_600_000,
        },
        absent: Absent::Number(2000),
        meaning: "Milliseconds from the start of one probe to the start of the next, give or take a sixteenth.",
        example: "1000",
    };
    pub static TIMEOUT_MS: Key = Key {
        name: "timeout_ms",
        kind: Kind::Number {
            min: 1,
            max: 3_600_000,
        },
        absent: Absent::Means("1000, or `interval_ms` where that is less"),
        meaning: "Milliseconds after which an unanswered probe has failed; at most `interval_ms`.",
        example: "500",
    };
    pub static RISE: Key = Key {
        name: "rise",
        kind: Kind::Number { min: 1, max: 1000 },
        absent: Absent::Number(2),
        meaning: "Successes in a row that bring a backend back. The first probe of a new backend decides alone.",
        example: "2",
    };
    pub static FALL: Key = Key {
        name: "fall",
        kind: Kind::Number { min: 1, max: 1000 },
        absent: Absent::Number(3),
        meaning: "Failures in a row that take a backend out.",
        example: "3",
    };
    pub static PORT: Key = Key {
        name: "port",
        kind: Kind::Number {
            min: 1,
            max: 65_535,
        },
        absent: Absent::Means("the backend's port"),
        meaning: "Port that is probed.",
        example: "8081",
    };
}

const PRIORITY_RANGE: Kind = Kind::Number { min: 1, max: 255 };

pub(super) static VIRTUAL_ROUTER: Section = Section {
    header: "[[virtual_router]]",
    meaning: "VIPs of one address family that move from node to node together, by VRRP.",
    keys: &[
        &virtual_router::ID,
        &virtual_router::VIPS,
        &virtual_router::INTERFACE,
        &virtual_router::VERSION,
        &virtual_router::INTERVAL_MS,
        &virtual_router::PRIORITY,
        &virtual_router::PREEMPT,
        &virtual_router::PREEMPT_DELAY_MS,
        &virtual_router::PEERS,
        &virtual_router::CHECKSUM,
        &virtual_router::AUTH,
        &virtual_router::LEASE_MS,
        &virtual_router::ANNOUNCE_REPEATS,
        &virtual_router::ANNOUNCE_GAP_MS,
        &virtual_router::ANNOUNCE_REFRESH_S,
        &virtual_router::SYNC_GROUP,
        &virtual_router::VIRTUAL_MAC,
        &virtual_router::ACCEPT,
        &virtual_router::TRACK,
    ],
};

pub(super) mod virtual_router {
    use super::*;
    use crate::vrrp::codec::ChecksumForm;

    pub static ID: Key = Key {
        name: "id",
        kind: Kind::Number { min: 1, max: 255 },
        absent: Absent::Refused,
        meaning: "VRID: the same on all nodes, another than that of every other virtual router on the segment. One for IPv4 and one for IPv6 may be equal.",
        example: "51",
    };
    pub static VIPS: Key = Key {
        name: "vips",
        kind: Kind::AddressList,
        absent: Absent::Means("every VIP that no virtual router names, if they are of one family"),
        meaning: "The addresses: VIPs of services, and others that the active node is to hold, such as the servers' gateway. All IPv4 or all IPv6. With IPv6, a link-local address that follows from the VRID is put before them, as RFC 9568 wants it.",
        example: r#"["192.0.2.10", "192.0.2.11"]"#,
    };
    pub static INTERFACE: Key = Key {
        name: "interface",
        kind: Kind::Text,
        absent: Absent::Means("`vip_interface` of the node"),
        meaning: "Interface of the adverts and of the addresses, where it has one name on all nodes.",
        example: r#""eth0""#,
    };
    pub static VERSION: Key = Key {
        name: "version",
        kind: Kind::Number { min: 2, max: 3 },
        absent: Absent::Number(3),
        meaning: "VRRP version. 2 is for old routers: IPv4, whole seconds.",
        example: "3",
    };
    pub static INTERVAL_MS: Key = Key {
        name: "interval_ms",
        kind: Kind::Number {
            min: 10,
            max: 40_950,
        },
        absent: Absent::Number(1000),
        meaning: "Milliseconds between adverts, a multiple of 10; a multiple of 1000 in version 2. A dead node is replaced after three to four intervals, with the echo after little more than one.",
        example: "100",
    };
    pub static PRIORITY: Key = Key {
        name: "priority",
        kind: Kind::NumbersByName { min: 1, max: 255 },
        absent: Absent::Means("`priority` of each node"),
        meaning: "Priority of each node; 255 is for the node that owns the addresses. Two virtual routers with opposite priorities share the load.",
        example: "{ lb1 = 150, lb2 = 100 }",
    };
    pub static PREEMPT: Key = Key {
        name: "preempt",
        kind: Kind::Flag,
        absent: Absent::Flag(true),
        meaning: "Whether a node of higher priority takes the addresses back when it returns.",
        example: "false",
    };
    pub static PREEMPT_DELAY_MS: Key = Key {
        name: "preempt_delay_ms",
        kind: Kind::Number {
            min: 0,
            max: 3_600_000,
        },
        absent: Absent::Number(0),
        meaning: "How long the lower priority is heard before it is replaced; three intervals and the skew at the least.",
        example: "30000",
    };
    pub static PEERS: Key = Key {
        name: "peers",
        kind: Kind::AddressList,
        absent: Absent::Means("multicast"),
        meaning: "Addresses of all nodes, for networks without multicast: adverts are sent to each of them but one's own, and taken from nobody else.",
        example: r#"["192.0.2.2", "192.0.2.3"]"#,
    };
    pub static CHECKSUM: Key = Key {
        name: "checksum",
        kind: Kind::Word(words::<ChecksumForm>),
        absent: Absent::Word(ChecksumForm::WORDS[0].0),
        meaning: "What the checksum of version 3 over IPv4 covers: `rfc9568` the message alone, `rfc5798` a pseudo-header as well. Both are accepted.",
        example: r#""rfc5798""#,
    };
    pub static AUTH: Key = Key {
        name: "auth",
        kind: Kind::Text,
        absent: Absent::Means("no authentication"),
        meaning: "Password of version 2, at most 8 characters. No security: it is readable in every advert.",
        example: r#""secret""#,
    };
    pub static LEASE_MS: Key = Key {
        name: "lease_ms",
        kind: Kind::Number {
            min: 40,
            max: 3_600_000,
        },
        absent: Absent::Means("3000, or ten intervals where that is more"),
        meaning: "How long the XDP program answers for the addresses after the daemon's last sign of life: the time that a restart may take. At least four intervals.",
        example: "5000",
    };
    pub static ANNOUNCE_REPEATS: Key = Key {
        name: "announce_repeats",
        kind: Kind::Number { min: 1, max: 100 },
        absent: Absent::Number(5),
        meaning: "How often the addresses are announced (gratuitous ARP, unsolicited neighbour advertisement) when a node becomes active.",
        example: "3",
    };
    pub static ANNOUNCE_GAP_MS: Key = Key {
        name: "announce_gap_ms",
        kind: Kind::Number {
            min: 1,
            max: 60_000,
        },
        absent: Absent::Number(200),
        meaning: "Milliseconds between these announcements.",
        example: "1000",
    };
    pub static ANNOUNCE_REFRESH_S: Key = Key {
        name: "announce_refresh_s",
        kind: Kind::Number {
            min: 0,
            max: 86_400,
        },
        absent: Absent::Number(60),
        meaning: "Seconds after which they are announced again, for as long as the node is active; 0 is never.",
        example: "300",
    };
    pub static SYNC_GROUP: Key = Key {
        name: "sync_group",
        kind: Kind::Text,
        absent: Absent::Means("moves alone"),
        meaning: "Virtual routers that name the same group move together; the first one's election decides.",
        example: r#""both-families""#,
    };
    pub static VIRTUAL_MAC: Key = Key {
        name: "virtual_mac",
        kind: Kind::Flag,
        absent: Absent::Flag(false),
        meaning: "Whether the addresses have the MAC address 00-00-5E-00-01-VRID (IPv6: -02-), which moves with them, on a macvlan interface of their own. Not with `peers`: multicast adverts are what tells switches where it is.",
        example: "true",
    };
    pub static ACCEPT: Key = Key {
        name: "accept",
        kind: Kind::Flag,
        absent: Absent::Flag(true),
        meaning: "Whether the active node takes packets to the addresses that no service has for itself (RFC 9568 Accept_Mode). `false` makes `unmatched` of the services' VIPs `drop`, echo requests included unless `echo` is `balancer`; neighbour discovery passes.",
        example: "false",
    };
    pub static TRACK: Key = Key {
        name: "track",
        kind: Kind::Tables(&super::TRACK),
        absent: Absent::Means("its own interface alone"),
        meaning: "What else must be well for this node to be active.",
        example: "[[virtual_router.track]]",
    };
}

pub(super) static TRACK: Section = Section {
    header: "[[virtual_router.track]]",
    meaning: "One thing to watch: exactly one of `interface`, `service`, `file`, `script` and `gateway`.",
    keys: &[
        &track::INTERFACE,
        &track::SERVICE,
        &track::MIN_HEALTHY,
        &track::FILE,
        &track::SCRIPT,
        &track::GATEWAY,
        &track::INTERVAL_MS,
        &track::FALL,
        &track::RISE,
        &track::LOWER,
    ],
};

pub(super) mod track {
    use super::*;

    pub static INTERFACE: Key = Key {
        name: "interface",
        kind: Kind::Text,
        absent: Absent::Means("no interface"),
        meaning: "An interface that must have a link.",
        example: r#""eth1""#,
    };
    pub static SERVICE: Key = Key {
        name: "service",
        kind: Kind::Text,
        absent: Absent::Means("no service"),
        meaning: "A service that must have healthy backends.",
        example: r#""web""#,
    };
    pub static MIN_HEALTHY: Key = Key {
        name: "min_healthy",
        kind: Kind::Number {
            min: 1,
            max: 65_535,
        },
        absent: Absent::Number(1),
        meaning: "How many backends of `service` must be healthy.",
        example: "2",
    };
    pub static FILE: Key = Key {
        name: "file",
        kind: Kind::Text,
        absent: Absent::Means("no file"),
        meaning: "A file that must exist; others make and remove it. It is looked at twice a second.",
        example: r#""/run/futago/ok""#,
    };
    pub static SCRIPT: Key = Key {
        name: "script",
        kind: Kind::Text,
        absent: Absent::Means("no script"),
        meaning: "A program, started without arguments and without a shell: exit code 0 is well; any other, and no end within the interval, is not.",
        example: r#""/usr/local/sbin/uplink-ok""#,
    };
    pub static GATEWAY: Key = Key {
        name: "gateway",
        kind: Kind::Address,
        absent: Absent::Means("no gateway"),
        meaning: "An address that must answer ping within the interval.",
        example: r#""192.0.2.1""#,
    };
    pub static INTERVAL_MS: Key = Key {
        name: "interval_ms",
        kind: Kind::Number {
            min: 100,
            max: 3_600_000,
        },
        absent: Absent::Number(1000),
        meaning: "Milliseconds between two runs of `script`, or two pings of `gateway`.",
        example: "500",
    };
    pub static FALL: Key = Key {
        name: "fall",
        kind: Kind::Number { min: 1, max: 100 },
        absent: Absent::Number(3),
        meaning: "Failures of `script` or `gateway` in a row after which it is not well.",
        example: "2",
    };
    pub static RISE: Key = Key {
        name: "rise",
        kind: Kind::Number { min: 1, max: 100 },
        absent: Absent::Number(2),
        meaning: "Successes of `script` or `gateway` in a row after which it is well again. The first one decides alone.",
        example: "5",
    };
    pub static LOWER: Key = Key {
        name: "lower",
        kind: Kind::Number { min: 1, max: 254 },
        absent: Absent::Means("the node takes no part in the election"),
        meaning: "Lowers the priority by this much, to 1 at the least, while it is not well.",
        example: "60",
    };
}

pub(super) static PAIR: Section = Section {
    header: "[pair]",
    meaning: "What the nodes have in common to speak with each other.",
    keys: &[&pair::KEY, &pair::ECHO, &pair::HOOK],
};

pub(super) mod pair {
    use super::*;

    pub static KEY: Key = Key {
        name: "key",
        kind: Kind::Text,
        absent: Absent::Means("no echo"),
        meaning: "Shared secret of 16 characters or more, by which the nodes know each other's echo; `openssl rand -base64 24` makes one.",
        example: r#""Zk3v0mYx1Qe8sWc7uJp2rB5n""#,
    };
    pub static ECHO: Key = Key {
        name: "echo",
        kind: Kind::Flag,
        absent: Absent::Means("true with a `key`"),
        meaning: "Each node asks the other's XDP program whether it is alive: a starved or restarting daemon is not taken for a dead node, and a dead node is found sooner.",
        example: "true",
    };
    pub static HOOK: Key = Key {
        name: "hook",
        kind: Kind::Text,
        absent: Absent::Means("none"),
        meaning: "Program that is started at each change of a role, with FUTAGO_ROUTER, FUTAGO_FROM, FUTAGO_TO and FUTAGO_REASON in its environment.",
        example: r#""/usr/local/sbin/on-failover""#,
    };
}

const SLOT_RANGE: Kind = Kind::Number {
    min: 2,
    max: MAX_SLOTS_PER_SERVICE as i64,
};

pub(super) static DATAPLANE: Section = Section {
    header: "[dataplane]",
    meaning: "What is the same for all services and both nodes. The tables are allocated in full at start.",
    keys: &[
        &dataplane::XDP,
        &dataplane::SLOTS,
        &dataplane::HASH_SEED,
        &dataplane::MAX_SERVICES,
        &dataplane::MAX_BACKENDS,
        &dataplane::MAX_SLOTS,
        &dataplane::MAX_FLOWS,
        &dataplane::MAX_HALF_OPEN,
        &dataplane::MAX_SNAT_FLOWS,
        &dataplane::TIMEOUTS,
    ],
};

pub(super) mod dataplane {
    use super::*;

    pub static XDP: Key = Key {
        name: "xdp",
        kind: Kind::Word(words::<XdpMode>),
        absent: Absent::Word(XdpMode::WORDS[0].0),
        meaning: "How the program is attached. `native`: by the driver, or not at all. `generic`: by the kernel's network stack, on any interface, several times slower. `auto`: native, or generic with a warning.",
        example: r#""native""#,
    };
    pub static SLOTS: Key = Key {
        name: "slots",
        kind: SLOT_RANGE,
        absent: Absent::Number(DEFAULT_SLOTS as i64),
        meaning: "Size of the slot table of services that do not say: a prime.",
        example: "65537",
    };
    pub static HASH_SEED: Key = Key {
        name: "hash_seed",
        kind: Kind::Number {
            min: 0,
            max: i64::MAX,
        },
        absent: Absent::Number(DEFAULT_HASH_SEED as i64),
        meaning: "Seed of the flow hash. A secret number keeps strangers from choosing flows that all reach one backend. Changing it moves flows.",
        example: "8675309",
    };
    pub static MAX_SERVICES: Key = Key {
        name: "max_services",
        kind: Kind::Number {
            min: 1,
            max: 1 << 20,
        },
        absent: Absent::Number(1024),
        meaning: "Capacity: services.",
        example: "256",
    };
    pub static MAX_BACKENDS: Key = Key {
        name: "max_backends",
        kind: Kind::Number {
            min: 1,
            max: 1 << 22,
        },
        absent: Absent::Number(65_536),
        meaning: "Capacity: backends of all services together.",
        example: "10000",
    };
    pub static MAX_SLOTS: Key = Key {
        name: "max_slots",
        kind: Kind::Number {
            min: 2,
            max: 1 << 28,
        },
        absent: Absent::Number(64 * DEFAULT_SLOTS as i64),
        meaning: "Capacity: slots of all services together, 8 bytes each (a table is built beside the one in use). The default is room for 64 services of the default size, 32 MiB.",
        example: "1048592",
    };
    pub static MAX_FLOWS: Key = Key {
        name: "max_flows",
        kind: FLOW_RANGE,
        absent: Absent::Number(DEFAULT_FLOWS as i64),
        meaning: "Capacity: recorded flows of each address family, rounded up to a power of two; 32 bytes each in IPv4, 64 in IPv6. Where a change of backends finds no room it takes longer, and with full tracking flows are forwarded without a record.",
        example: "4194304",
    };
    pub static MAX_HALF_OPEN: Key = Key {
        name: "max_half_open",
        kind: FLOW_RANGE,
        absent: Absent::Number(DEFAULT_HALF_OPEN as i64),
        meaning: "Capacity: recorded half-open TCP connections of each address family, as `max_flows`.",
        example: "262144",
    };
    pub static MAX_SNAT_FLOWS: Key = Key {
        name: "max_snat_flows",
        kind: FLOW_RANGE,
        absent: Absent::Means("262144 in an address family that has a `snat` service, else none"),
        meaning: "Capacity: connections of `snat` services, of each address family that has one, rounded up to a power of two; 128 bytes each in IPv4, 256 in IPv6. What finds no room is refused.",
        example: "1048576",
    };
    pub static TIMEOUTS: Key = Key {
        name: "timeouts",
        kind: Kind::Table(&GLOBAL_TIMEOUTS),
        absent: Absent::Means("their defaults"),
        meaning: "How long flows may be silent, in services that do not say.",
        example: "[dataplane.timeouts]",
    };
}

const FLOW_RANGE: Kind = Kind::Number {
    min: 16,
    max: 1 << 28,
};
