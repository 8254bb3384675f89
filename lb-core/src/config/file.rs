//! The sections as they were written: each key judged by itself, its position kept. A `None` is a mistake that was
//! reported already, or a key that is not there and need not be.

use core::net::IpAddr;

use toml::de::DeTable;

use super::{
    diagnostic::{Diagnostic, Sink, Span},
    reader::{At, Table},
    schema::{self, ROOT},
    words::{CheckType, Encap, ModeWord},
};
use crate::{
    model::{
        Echo, Fragments, HashPolicy, Mode, MssClamp, NodeName, OnBackendDown, OnDrainEnd, Protocol,
        ServiceName, SnatPoolName, Tracking, Unmatched, XdpMode,
    },
    vrrp::codec::ChecksumForm,
};

pub(super) struct File {
    pub nodes: Vec<Node>,
    pub services: Vec<Service>,
    pub snat_pools: Vec<SnatPool>,
    pub virtual_routers: Vec<VirtualRouter>,
    pub pair: Option<Pair>,
    pub dataplane: Dataplane,
}

pub(super) struct Node {
    pub name: Option<NodeName>,
    pub interfaces: Option<At<Vec<At<String>>>>,
    pub vip_interface: Option<At<String>>,
    pub xdp: Option<At<XdpMode>>,
    pub tunnel_source: Option<At<Vec<At<String>>>>,
    pub priority: Option<At<u8>>,
    pub echo_interfaces: Option<At<Vec<At<String>>>>,
}

pub(super) struct VirtualRouter {
    pub header: Span,
    pub id: Option<At<u8>>,
    pub vips: Option<At<Vec<At<IpAddr>>>>,
    pub interface: Option<At<String>>,
    pub version: Option<At<u8>>,
    pub interval_ms: Option<At<u32>>,
    pub priority: Option<Vec<(At<String>, At<u8>)>>,
    pub preempt: Option<At<bool>>,
    pub preempt_delay_ms: Option<At<u32>>,
    pub peers: Option<At<Vec<At<IpAddr>>>>,
    pub checksum: Option<At<ChecksumForm>>,
    pub auth: Option<At<String>>,
    pub lease_ms: Option<At<u32>>,
    pub announce_repeats: Option<At<u8>>,
    pub announce_gap_ms: Option<At<u32>>,
    pub announce_refresh_s: Option<At<u32>>,
    pub sync_group: Option<At<String>>,
    pub virtual_mac: Option<At<bool>>,
    pub accept: Option<At<bool>>,
    pub tracks: Vec<Track>,
}

pub(super) struct Track {
    pub header: Span,
    pub interface: Option<At<String>>,
    pub service: Option<At<String>>,
    pub min_healthy: Option<At<u16>>,
    pub file: Option<At<String>>,
    pub script: Option<At<String>>,
    pub gateway: Option<At<IpAddr>>,
    pub interval_ms: Option<At<u32>>,
    pub fall: Option<At<u8>>,
    pub rise: Option<At<u8>>,
    pub lower: Option<At<u8>>,
}

pub(super) struct Pair {
    pub key: Option<At<String>>,
    pub echo: Option<At<bool>>,
    pub hook: Option<At<String>>,
}

pub(super) struct Service {
    pub header: Span,
    pub name: Option<At<ServiceName>>,
    pub vip: Option<At<IpAddr>>,
    pub protocol: Option<At<Protocol>>,
    pub port: Option<At<u16>>,
    /// Of `mode_word` and `encap`, where they go together.
    pub mode: Option<At<Mode>>,
    pub mode_word: Option<At<ModeWord>>,
    pub encap: Option<At<Encap>>,
    /// Whether `encap` is written at all, right or wrong.
    pub has_encap: bool,
    pub gue_port: Option<At<u16>>,
    pub dscp: Option<At<u8>>,
    pub fragments: Option<At<Fragments>>,
    pub mss_clamp: Option<At<MssClamp>>,
    pub unmatched: Option<At<Unmatched>>,
    pub echo: Option<At<Echo>>,
    pub hash: Option<At<HashPolicy>>,
    pub slots: Option<At<u32>>,
    pub tracking: Option<At<Tracking>>,
    pub max_new_flows_per_second: Option<At<u32>>,
    pub on_backend_down: Option<At<OnBackendDown>>,
    pub drain_s: Option<At<u32>>,
    pub on_drain_end: Option<At<OnDrainEnd>>,
    pub snat_pool: Option<At<String>>,
    pub timeouts: Option<Timeouts>,
    pub backends: Vec<Backend>,
    pub check: Option<Check>,
}

pub(super) struct Timeouts {
    pub established_s: Option<At<u32>>,
    pub half_open_s: Option<At<u32>>,
    pub closing_s: Option<At<u32>>,
    pub closed_s: Option<At<u32>>,
    pub reset_s: Option<At<u32>>,
    pub udp_s: Option<At<u32>>,
}

pub(super) struct SnatPool {
    pub header: Span,
    pub name: Option<At<SnatPoolName>>,
    pub addresses: Option<At<Vec<At<IpAddr>>>>,
    pub first_port: Option<At<u16>>,
    pub last_port: Option<At<u16>>,
    pub virtual_router: Option<At<u8>>,
}

pub(super) struct Backend {
    pub address: Option<At<IpAddr>>,
    pub port: Option<At<u16>>,
    pub weight: Option<At<u16>>,
    pub drain: Option<At<bool>>,
    pub name: Option<At<String>>,
}

pub(super) struct Check {
    pub kind: Option<At<CheckType>>,
    pub interval_ms: Option<At<u32>>,
    pub timeout_ms: Option<At<u32>>,
    pub rise: Option<At<u32>>,
    pub fall: Option<At<u32>>,
    pub port: Option<At<u16>>,
}

pub(super) struct Dataplane {
    pub xdp: Option<At<XdpMode>>,
    pub slots: Option<At<u32>>,
    pub hash_seed: Option<At<u64>>,
    pub max_services: Option<At<u32>>,
    pub max_backends: Option<At<u32>>,
    pub max_slots: Option<At<u32>>,
    pub max_flows: Option<At<u32>>,
    pub max_half_open: Option<At<u32>>,
    pub max_snat_flows: Option<At<u32>>,
    pub timeouts: Timeouts,
}

pub(super) fn read<'t>(table: &'t DeTable<'t>, sink: &'t Sink) -> File {
    let root = Table::open(&ROOT, table, 0..0, sink);
    let empty = DeTable::new();
    let dataplane = root.table(&schema::root::DATAPLANE).map_or_else(
        || dataplane(&Table::open(&schema::DATAPLANE, &empty, 0..0, sink), sink),
        |table| dataplane(&table, sink),
    );
    File {
        nodes: root
            .named_tables(&schema::root::NODE)
            .into_iter()
            .map(|(name, t)| node(name, &t, sink))
            .collect(),
        services: root
            .tables(&schema::root::SERVICE)
            .iter()
            .map(service)
            .collect(),
        snat_pools: root
            .tables(&schema::root::SNAT_POOL)
            .iter()
            .map(snat_pool)
            .collect(),
        virtual_routers: root
            .tables(&schema::root::VIRTUAL_ROUTER)
            .iter()
            .map(virtual_router)
            .collect(),
        pair: root.table(&schema::root::PAIR).as_ref().map(pair),
        dataplane,
    }
}

fn node(name: At<String>, table: &Table<'_>, sink: &Sink) -> Node {
    use schema::node::{ECHO_INTERFACES, INTERFACES, PRIORITY, TUNNEL_SOURCE, VIP_INTERFACE, XDP};
    let name = NodeName::new(name.value)
        .map_err(|error| {
            sink.push(Diagnostic::error(
                name.span,
                format!("name of the node: {error}"),
            ))
        })
        .ok();
    Node {
        name,
        interfaces: table.texts(&INTERFACES),
        vip_interface: table.text(&VIP_INTERFACE),
        xdp: table.word(&XDP),
        tunnel_source: table.texts(&TUNNEL_SOURCE),
        priority: table.number(&PRIORITY),
        echo_interfaces: table.texts(&ECHO_INTERFACES),
    }
}

fn virtual_router(table: &Table<'_>) -> VirtualRouter {
    use schema::virtual_router as key;
    VirtualRouter {
        header: table.span.clone(),
        id: table.number(&key::ID),
        vips: table.addresses(&key::VIPS),
        interface: table.text(&key::INTERFACE),
        version: table.number(&key::VERSION),
        interval_ms: table.number(&key::INTERVAL_MS),
        priority: table.numbers_by_name(&key::PRIORITY),
        preempt: table.flag(&key::PREEMPT),
        preempt_delay_ms: table.number(&key::PREEMPT_DELAY_MS),
        peers: table.addresses(&key::PEERS),
        checksum: table.word(&key::CHECKSUM),
        auth: table.text(&key::AUTH),
        lease_ms: table.number(&key::LEASE_MS),
        announce_repeats: table.number(&key::ANNOUNCE_REPEATS),
        announce_gap_ms: table.number(&key::ANNOUNCE_GAP_MS),
        announce_refresh_s: table.number(&key::ANNOUNCE_REFRESH_S),
        sync_group: table.text(&key::SYNC_GROUP),
        virtual_mac: table.flag(&key::VIRTUAL_MAC),
        accept: table.flag(&key::ACCEPT),
        tracks: table.tables(&key::TRACK).iter().map(track).collect(),
    }
}

fn track(table: &Table<'_>) -> Track {
    use schema::track::{
        FALL, FILE, GATEWAY, INTERFACE, INTERVAL_MS, LOWER, MIN_HEALTHY, RISE, SCRIPT, SERVICE,
    };
    Track {
        header: table.span.clone(),
        interface: table.text(&INTERFACE),
        service: table.text(&SERVICE),
        min_healthy: table.number(&MIN_HEALTHY),
        file: table.text(&FILE),
        script: table.text(&SCRIPT),
        gateway: table.address(&GATEWAY),
        interval_ms: table.number(&INTERVAL_MS),
        fall: table.number(&FALL),
        rise: table.number(&RISE),
        lower: table.number(&LOWER),
    }
}

fn pair(table: &Table<'_>) -> Pair {
    use schema::pair::{ECHO, HOOK, KEY};
    Pair {
        key: table.text(&KEY),
        echo: table.flag(&ECHO),
        hook: table.text(&HOOK),
    }
}

fn service(table: &Table<'_>) -> Service {
    use schema::service::{
        BACKEND, CHECK, DRAIN_S, DSCP, ECHO, ENCAP, FRAGMENTS, GUE_PORT, HASH,
        MAX_NEW_FLOWS_PER_SECOND, MODE, NAME, ON_BACKEND_DOWN, ON_DRAIN_END, PORT, PROTOCOL, SLOTS,
        SNAT_POOL, TIMEOUTS, TRACKING, UNMATCHED, VIP,
    };
    let mode_word: Option<At<ModeWord>> = table.word(&MODE);
    let encap: Option<At<Encap>> = table.word(&ENCAP);
    let mode = mode_word.as_ref().and_then(|word| {
        let value = word.value.with(encap.as_ref().map(|encap| encap.value))?;
        Some(At {
            value,
            span: word.span.clone(),
        })
    });
    Service {
        header: table.span.clone(),
        name: table.name(&NAME),
        vip: table.address(&VIP),
        protocol: table.word(&PROTOCOL),
        port: table.number(&PORT),
        mode,
        mode_word,
        encap,
        has_encap: table.has(&ENCAP),
        gue_port: table.number(&GUE_PORT),
        dscp: table.number(&DSCP),
        fragments: table.word(&FRAGMENTS),
        mss_clamp: mss_clamp(table),
        unmatched: table.word(&UNMATCHED),
        echo: table.word(&ECHO),
        hash: table.word(&HASH),
        slots: table.number(&SLOTS),
        tracking: table.word(&TRACKING),
        max_new_flows_per_second: table.number(&MAX_NEW_FLOWS_PER_SECOND),
        on_backend_down: table.word(&ON_BACKEND_DOWN),
        drain_s: table.number(&DRAIN_S),
        on_drain_end: table.word(&ON_DRAIN_END),
        snat_pool: table.text(&SNAT_POOL),
        timeouts: table.table(&TIMEOUTS).as_ref().map(service_timeouts),
        backends: table.tables(&BACKEND).iter().map(backend).collect(),
        check: table.table(&CHECK).as_ref().map(check),
    }
}

/// A number, or the word that stands for one.
fn mss_clamp(table: &Table<'_>) -> Option<At<MssClamp>> {
    use schema::service::MSS_CLAMP;
    if let Some(span) = table.is_text(&MSS_CLAMP, "auto") {
        return Some(At {
            value: MssClamp::Auto,
            span,
        });
    }
    if !table.has(&MSS_CLAMP) {
        return None;
    }
    table.number(&MSS_CLAMP).map(|bytes| At {
        value: MssClamp::Bytes(bytes.value),
        span: bytes.span,
    })
}

fn backend(table: &Table<'_>) -> Backend {
    use schema::backend::{ADDRESS, DRAIN, NAME, PORT, WEIGHT};
    Backend {
        address: table.address(&ADDRESS),
        port: table.number(&PORT),
        weight: table.number(&WEIGHT),
        drain: table.flag(&DRAIN),
        name: table.text(&NAME),
    }
}

fn check(table: &Table<'_>) -> Check {
    use schema::check::{FALL, INTERVAL_MS, PORT, RISE, TIMEOUT_MS, TYPE};
    Check {
        kind: table.word(&TYPE),
        interval_ms: table.number(&INTERVAL_MS),
        timeout_ms: table.number(&TIMEOUT_MS),
        rise: table.number(&RISE),
        fall: table.number(&FALL),
        port: table.number(&PORT),
    }
}

fn snat_pool(table: &Table<'_>) -> SnatPool {
    use schema::snat_pool::{ADDRESSES, FIRST_PORT, LAST_PORT, NAME, VIRTUAL_ROUTER};
    SnatPool {
        header: table.span.clone(),
        name: table.name(&NAME),
        addresses: table.addresses(&ADDRESSES),
        first_port: table.number(&FIRST_PORT),
        last_port: table.number(&LAST_PORT),
        virtual_router: table.number(&VIRTUAL_ROUTER),
    }
}

macro_rules! timeouts {
    ($name:ident) => {
        fn $name(table: &Table<'_>) -> Timeouts {
            use schema::$name::{CLOSED_S, CLOSING_S, ESTABLISHED_S, HALF_OPEN_S, RESET_S, UDP_S};
            Timeouts {
                established_s: table.number(&ESTABLISHED_S),
                half_open_s: table.number(&HALF_OPEN_S),
                closing_s: table.number(&CLOSING_S),
                closed_s: table.number(&CLOSED_S),
                reset_s: table.number(&RESET_S),
                udp_s: table.number(&UDP_S),
            }
        }
    };
}

timeouts!(service_timeouts);
timeouts!(global_timeouts);

fn dataplane(table: &Table<'_>, sink: &Sink) -> Dataplane {
    use schema::dataplane::{
        HASH_SEED, MAX_BACKENDS, MAX_FLOWS, MAX_HALF_OPEN, MAX_SERVICES, MAX_SLOTS, MAX_SNAT_FLOWS,
        SLOTS, TIMEOUTS, XDP,
    };
    let empty = DeTable::new();
    Dataplane {
        xdp: table.word(&XDP),
        slots: table.number(&SLOTS),
        hash_seed: table.number(&HASH_SEED),
        max_services: table.number(&MAX_SERVICES),
        max_backends: table.number(&MAX_BACKENDS),
        max_slots: table.number(&MAX_SLOTS),
        max_flows: table.number(&MAX_FLOWS),
        max_half_open: table.number(&MAX_HALF_OPEN),
        max_snat_flows: table.number(&MAX_SNAT_FLOWS),
        timeouts: table.table(&TIMEOUTS).map_or_else(
            || global_timeouts(&Table::open(&schema::GLOBAL_TIMEOUTS, &empty, 0..0, sink)),
            |table| global_timeouts(&table),
        ),
    }
}
