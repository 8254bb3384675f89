//! The services that are measured, planned as the daemon plans them: one for each mode, with a hundred backends.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, anyhow};
use lb_common::tables::NextHop;
use lb_core::{
    config,
    model::{Model, TunnelSources},
    plan::{BackendNow, Capacity, Layout, Write, wanted},
};
use lb_userspace::dataplane::{Dataplane, Options};

use crate::modes::MODES;

pub const PORT: u16 = 80;
pub const BACKENDS: u16 = 100;
const SLOTS: u32 = 65_537;
const SEED: u64 = 0x1234_5678;

/// The VIP of a line of [`MODES`].
pub fn vip(number: usize) -> SocketAddr {
    let number_16 = number as u16 + 1;
    let ip: IpAddr = if MODES[number].v6 {
        Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, number_16).into()
    } else {
        Ipv4Addr::new(10, 9, 0, number_16 as u8).into()
    };
    SocketAddr::new(ip, PORT)
}

/// Addresses of the backends of a line.
pub fn backend(number: usize, backend: u16) -> IpAddr {
    if MODES[number].v6 {
        Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, number as u16, backend).into()
    } else {
        Ipv4Addr::new(10, 2, number as u8, backend as u8).into()
    }
}

pub fn model() -> Result<Model> {
    let mut text = "[node.lb1]\ninterfaces = [\"lb1\"]\n".to_owned();
    for (number, case) in MODES.iter().enumerate() {
        let backends: Vec<_> = (1..=BACKENDS)
            .map(|n| format!("{{ address = \"{}\", port = {PORT} }}", backend(number, n)))
            .collect();
        let _ = writeln!(
            text,
            "[[service]]\nname = \"s{number}\"\nvip = \"{}\"\nport = {PORT}\nprotocol = \"udp\"\nslots = {SLOTS}\n{}\nbackend = [{}]",
            vip(number).ip(),
            case.keys,
            backends.join(", ")
        );
    }
    match config::parse("bench.toml", &text) {
        Ok(loaded) => Ok(loaded.model),
        Err(report) => Err(anyhow!("{report}")),
    }
}

pub fn capacity() -> Capacity {
    let lines = MODES.len() as u32;
    Capacity {
        cells: 16_384,
        services: 64,
        slots: (lines + 2) * (SLOTS + 1),
        backends: (lines + 2) * 128,
        flow_sets: 16,
        half_open_sets: 16,
    }
}

/// Writes that bring the services about, every backend behind one next hop.
pub fn plan(hop: NextHop) -> Result<(Layout, Vec<Write>)> {
    let model = model()?;
    let sources = TunnelSources::default();
    let mut layout = Layout::new(capacity());
    let mut writes = Vec::new();
    for service in &model.services {
        let wanted = wanted(service, SEED, &sources, |backend| BackendNow {
            serves: true,
            next_hop: hop,
            tunnel_source: Some(if backend.address.is_ipv4() {
                Ipv4Addr::new(10, 2, 255, 254).into()
            } else {
                Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0xfffe).into()
            }),
            ..BackendNow::default()
        });
        writes.extend(layout.set(Duration::ZERO, &wanted)?);
    }
    Ok((layout, writes))
}

/// The loaded program over these services.
pub fn load(hop: NextHop) -> Result<Dataplane> {
    let mut dataplane = Dataplane::open(Options::new(capacity()))?;
    let (_, writes) = plan(hop)?;
    dataplane.tables_mut().apply(&writes)?;
    Ok(dataplane)
}
