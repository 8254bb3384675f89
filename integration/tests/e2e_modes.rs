//! Every forwarding mode, family and topology with real connections through the real daemon. Needs root.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::Result;
use integration::{
    Lab, Role, Segments, ServersAre, Topology,
    daemon::{self, Daemon, Service},
    http::{self, Load},
    server,
    topology::{VIP4, VIP6},
};
use lb_core::model::Mode;

fn build(mode: Mode, segments: Segments) -> Result<Lab> {
    let servers_are = match mode {
        Mode::L2Dsr => ServersAre::L2Dsr(vec![VIP4, VIP6]),
        Mode::Nat => ServersAre::BehindBalancer,
    };
    Ok(Topology::new(segments)
        .servers_are(servers_are)
        .build("modes")?)
}

fn connections(mode: Mode, segments: Segments) -> Result<()> {
    let lab = build(mode, segments)?;
    let extra: &[IpAddr] = if mode == Mode::L2Dsr {
        &[VIP4, VIP6]
    } else {
        &[]
    };
    let _servers = server::nginx_everywhere(lab.hosts_of(Role::Server), extra, 80, None)?;
    let lb = lab.host("lb1")?;
    let vips = [VIP4, VIP6].map(|vip| SocketAddr::new(vip, 80));
    let services = [
        Service::over_servers(&lab, "web4", vips[0], mode)?,
        Service::over_servers(&lab, "web6", vips[1], mode)?,
    ];
    let daemon = Daemon::start(lb, &daemon::configuration(lb, &services), &[])?;
    println!("{}", daemon.process.log());
    daemon.wait_until_up()?;
    println!("{}", daemon.cli(&["status"])?);
    for vip in vips {
        let r = http::get_many(lab.host("client")?, Load::new(vip, 100))?;
        println!("{vip} {r:?}");
    }
    println!("{}", daemon.process.log());
    println!("{}", daemon.cli(&["status"])?);
    if std::env::var_os("KEEP").is_some() {
        let mut lab = lab;
        println!("{}", lab.keep()?);
    }
    Ok(())
}

#[test]
fn nat_one() -> Result<()> {
    connections(Mode::Nat, Segments::One)
}
#[test]
fn nat_two() -> Result<()> {
    connections(Mode::Nat, Segments::Two)
}
#[test]
fn dsr_one() -> Result<()> {
    connections(Mode::L2Dsr, Segments::One)
}
#[test]
fn dsr_two() -> Result<()> {
    connections(Mode::L2Dsr, Segments::Two)
}
