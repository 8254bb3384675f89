//! Every key of the file, once: the reader takes type, range and default from here, unknown keys are compared
//! with it, and the reference in `docs/` is printed from it.

use super::words::{CheckType, Encap, ModeWord, Word, words};
use crate::model::{
    DEFAULT_GUE_PORT, DEFAULT_HASH_SEED, DEFAULT_SLOTS, HashPolicy, MAX_SLOTS_PER_SERVICE,
    MAX_WEIGHT, Protocol, XdpMode,
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
    /// Described; the reader of the section knows it.
    Means(&'static str),
}

pub(super) static SECTIONS: &[&Section] = &[&ROOT, &NODE, &SERVICE, &BACKEND, &CHECK, &DATAPLANE];

pub(super) static ROOT: Section = Section {
    header: "the file",
    meaning: "One file, the same on both nodes.",
    keys: &[&root::NODE, &root::SERVICE, &root::DATAPLANE],
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
        &service::HASH,
        &service::SLOTS,
        &service::BACKEND,
        &service::CHECK,
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
        meaning: "How packets reach a backend. `nat`: destination rewritten, replies return through the load balancer, which must be the backends' gateway. `l2-dsr`: only the destination MAC rewritten; backends are in the same segment, hold the VIP and answer clients directly. `l3-dsr`: sent to the backend's address, wherever it is, as `encap` says; backends hold the VIP and answer clients directly.",
        example: r#""nat""#,
    };
    pub static ENCAP: Key = Key {
        name: "encap",
        kind: Kind::Word(words::<Encap>),
        absent: Absent::Means("none; `l3-dsr` needs it"),
        meaning: "How `l3-dsr` takes a packet to a backend, of either address family. `ipip`: in an IP packet, the smallest. `gre`: behind a GRE header. `gue`: behind UDP (GUE variant 1), which routers and receivers spread best.",
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
    pub static HASH: Key = Key {
        name: "hash",
        kind: Kind::Word(words::<HashPolicy>),
        absent: Absent::Word(HashPolicy::WORDS[0].0),
        meaning: "What chooses the backend of a packet. `l3+l4`: addresses and ports, every connection on its own. `source`: the client's address, so that all its connections reach one backend. `l3`: both addresses, which within one service is the same.",
        example: r#""source""#,
    };
    pub static SLOTS: Key = Key {
        name: "slots",
        kind: SLOT_RANGE,
        absent: Absent::Means("`slots` of `[dataplane]`"),
        meaning: "Size of the service's slot table: a prime, best at least 100 times the number of backends.",
        example: "4093",
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
}
