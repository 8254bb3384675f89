//! Keys of what is remembered of flows: how long they may be silent, and the pools that `snat` sends from.

use lb_common::flow_state::Timeouts;

use super::{Absent, Key, Kind, Section};

macro_rules! timeouts {
    ($($name:ident $key:literal = $field:ident, $max:literal, $example:literal, $meaning:literal;)+) => {
        pub(in crate::config) static GLOBAL_TIMEOUTS: Section = Section {
            header: "[dataplane.timeouts]",
            meaning: "How many seconds a flow may be silent, in services that do not say. A flow that is silent for longer is forgotten: it may then be taken for a new one.",
            keys: &[$(&global_timeouts::$name),+],
        };

        pub(in crate::config) mod global_timeouts {
            use super::*;
            $(pub static $name: Key = Key {
                name: $key,
                kind: Kind::Number { min: 1, max: $max },
                absent: Absent::Number(Timeouts::DEFAULT.$field as i64),
                meaning: $meaning,
                example: $example,
            };)+
        }

        pub(in crate::config) static SERVICE_TIMEOUTS: Section = Section {
            header: "[service.timeouts]",
            meaning: "How many seconds a flow of the service above it may be silent.",
            keys: &[$(&service_timeouts::$name),+],
        };

        pub(in crate::config) mod service_timeouts {
            use super::*;
            $(pub static $name: Key = Key {
                name: $key,
                kind: Kind::Number { min: 1, max: $max },
                absent: Absent::Means(concat!("`", $key, "` of `[dataplane.timeouts]`")),
                meaning: $meaning,
                example: $example,
            };)+
        }
    };
}

timeouts! {
    ESTABLISHED_S "established_s" = established_s, 604_800, "7200", "A TCP connection that is open. It is also how long a change of backends takes to settle.";
    HALF_OPEN_S "half_open_s" = half_open_s, 3600, "10", "A TCP connection of which nothing but its SYN was seen.";
    CLOSING_S "closing_s" = closing_s, 86_400, "60", "A TCP connection that one side has ended, or the only side that is seen (`l2-dsr`, `l3-dsr`).";
    CLOSED_S "closed_s" = closed_s, 3600, "120", "A TCP connection that both sides have ended. In `snat` its port is not used again before: longer than TIME_WAIT at the backends, which is 60 seconds on Linux.";
    RESET_S "reset_s" = reset_s, 3600, "5", "A TCP connection that was reset. Not at once: the reset may be a stranger's.";
    UDP_S "udp_s" = datagram_s, 604_800, "30", "Packets of one client's port over UDP.";
}

pub(in crate::config) static SNAT_POOL: Section = Section {
    header: "[[snat_pool]]",
    meaning: "Addresses of the load balancer that `snat` services send from.",
    keys: &[
        &snat_pool::NAME,
        &snat_pool::ADDRESSES,
        &snat_pool::FIRST_PORT,
        &snat_pool::LAST_PORT,
        &snat_pool::VIRTUAL_ROUTER,
    ],
};

pub(in crate::config) mod snat_pool {
    use super::*;

    const PORT: Kind = Kind::Number {
        min: 1,
        max: 65_535,
    };

    pub static NAME: Key = Key {
        name: "name",
        kind: Kind::Name,
        absent: Absent::Refused,
        meaning: "What services name it by: letters, digits, `-`, `_` and `.`, at most 64.",
        example: r#""servers""#,
    };
    pub static ADDRESSES: Key = Key {
        name: "addresses",
        kind: Kind::AddressList,
        absent: Absent::Refused,
        meaning: "At most 64 addresses of one family, in the backends' network or routed to the load balancer; no VIPs. Each serves as many connections to each backend address and port as it has ports.",
        example: r#"["10.0.0.100", "10.0.0.101"]"#,
    };
    pub static FIRST_PORT: Key = Key {
        name: "first_port",
        kind: PORT,
        absent: Absent::Number(1024),
        meaning: "Lowest port to send from. The nodes of a pair share the ports: one gives out the lower half, one the upper.",
        example: "10000",
    };
    pub static LAST_PORT: Key = Key {
        name: "last_port",
        kind: PORT,
        absent: Absent::Number(65_535),
        meaning: "Highest port to send from.",
        example: "59999",
    };
    pub static VIRTUAL_ROUTER: Key = Key {
        name: "virtual_router",
        kind: Kind::Number { min: 1, max: 255 },
        absent: Absent::Means(
            "the one that names the addresses, or the only one of their family; without any, every node holds them",
        ),
        meaning: "`id` of the virtual router, of the addresses' family, that holds them as it holds its VIPs.",
        example: "52",
    };
}
