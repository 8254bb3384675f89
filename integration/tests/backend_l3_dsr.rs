//! Real servers of `l3-dsr` that `futago backend` sets up: its program takes packets out of every tunnel, of either family in
//! either, without a kernel module; it is replaced without a loss, and given back. Needs root.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use integration::{
    Host, Lab, Role, Segments, ServersAre, Topology,
    daemon::{self, Daemon, Service},
    http::{self, Load},
    probe::Prober,
    real_server::{self, backend, bpf_dir, state},
    server::{self, Echo},
    topology::{VIP4, VIP6},
};
use lb_core::model::Mode;
use serde_json::Value;

const MODES: [Mode; 4] = [Mode::Ipip, Mode::Gre, Mode::Gue, Mode::Dscp];

fn build(name: &str, servers: u8) -> Result<Lab> {
    let topology = Topology::new(Segments::One).servers(servers);
    Ok(topology.servers_are(ServersAre::Plain).build(name)?)
}

/// A service over all servers; `crossed`: to their addresses of the other family.
fn service(lab: &Lab, name: &str, vip: SocketAddr, mode: Mode, crossed: bool) -> Result<Service> {
    let mut service = Service::over_servers(lab, name, vip, mode)?;
    if crossed {
        for (backend, host) in service.backends.iter_mut().zip(lab.hosts_of(Role::Server)) {
            backend.address = if vip.is_ipv4() {
                host.ipv6()?
            } else {
                host.ipv4()?
            };
        }
    }
    Ok(service)
}

fn check(host: &Host) -> Result<Value> {
    let output = backend(host, &["--check", "--json"])?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Kinds of what is wrong, advice apart.
fn wrong(report: &Value) -> Vec<&str> {
    let findings = report["findings"].as_array().into_iter().flatten();
    findings
        .filter(|finding| finding["severity"] == "wrong")
        .filter_map(|finding| finding["kind"].as_str())
        .collect()
}

/// Packets that took this way through the program.
fn received(report: &Value, outcome: &str) -> u64 {
    let all = report["received"].as_array().into_iter().flatten();
    all.filter(|received| received["outcome"] == outcome)
        .filter_map(|received| received["packets"].as_u64())
        .sum()
}

#[test]
fn every_tunnel_serves_every_family_over_every_family() -> Result<()> {
    let lab = build("l3dsr", 2)?;
    let (client, lb) = (lab.host("client")?, lab.host("lb1")?);
    let mut services = Vec::new();
    let mut port = 80;
    for mode in MODES {
        for crossed in [false, true] {
            // The destination is rewritten: both ends are of one family.
            if crossed && mode == Mode::Dscp {
                continue;
            }
            for vip in [VIP4, VIP6] {
                let name = format!("web{}", services.len());
                let vip = SocketAddr::new(vip, port);
                let mut service = service(&lab, &name, vip, mode, crossed)?;
                // nginx listens on all ports at the servers' own addresses, too.
                service.check = Some(daemon::Check::quick(80));
                services.push(service);
            }
            port += 1;
        }
    }
    let configuration = daemon::configuration(lb, &services);
    for host in lab.hosts_of(Role::Server) {
        let said = real_server::set_up(host, &configuration)?;
        ensure!(said.contains("attaches its XDP program to eth0"), "{said}");
    }
    let mut nginx = Vec::new();
    for port in 80..port {
        let hosts = lab.hosts_of(Role::Server);
        nginx.extend(server::nginx_everywhere(hosts, &[VIP4, VIP6], port, None)?);
    }
    for host in lab.hosts_of(Role::Server) {
        let report = check(host)?;
        ensure!(wrong(&report).is_empty(), "{report:#}");
    }
    let daemon = Daemon::start(lb, &configuration, &[])?;
    daemon.wait_until_up()?;
    let mut seen = 0;
    for service in &services {
        let load = Load::new(service.vip, 40);
        let report = http::get_many(client, load)?
            .all_answered()
            .with_context(|| format!("{} {} at {}", service.name, service.mode, service.vip))?;
        ensure!(report.by_server.len() == 2, "{report:?}");
        let before = seen;
        seen = 0;
        for host in lab.hosts_of(Role::Server) {
            let report = check(host)?;
            seen += received(&report, "decapsulated") + received(&report, "mapped");
        }
        // SYN, ACK, request and FIN of each.
        ensure!(seen >= before + 40 * 4, "{seen} packets were taken out");
    }
    for host in lab.hosts_of(Role::Server) {
        let report = check(host)?;
        for outcome in ["malformed_outer", "malformed_inner", "unknown_shim"] {
            ensure!(received(&report, outcome) == 0, "{report:#}");
        }
    }
    Ok(())
}

#[test]
fn the_program_is_replaced_without_a_loss_and_given_back() -> Result<()> {
    let lab = build("l3back", 1)?;
    let (client, lb) = (lab.host("client")?, lab.host("lb1")?);
    let host = lab.host("server1")?;
    let web = service(&lab, "web", SocketAddr::new(VIP4, 80), Mode::Gue, false)?;
    let echo = service(&lab, "", SocketAddr::new(VIP4, 7), Mode::Gue, false)?.udp("echo");
    let more = service(&lab, "more", SocketAddr::new(VIP6, 80), Mode::Ipip, true)?;
    let services = [web.clone(), echo];
    let configuration = daemon::configuration(lb, &services);

    fs::write(daemon::config_path(host), &configuration)?;
    let before = check(host)?;
    ensure!(wrong(&before).contains(&"not-decapsulated"), "{before:#}");
    real_server::set_up(host, &configuration)?;
    let _nginx = server::nginx_everywhere([host], &[VIP4], 80, None)?;
    let echo = Echo::start(
        host,
        &[SocketAddr::new(VIP4, 7), SocketAddr::new(host.ipv4()?, 7)],
    )?;
    let daemon = Daemon::start(lb, &configuration, &[])?;
    daemon.wait_until_up()?;
    http::get_many(client, Load::new(web.vip, 10))?.all_answered()?;

    // Another service: the program does not know it, says so, and is replaced while packets come in.
    let with_more = daemon::configuration(lb, &[services.to_vec(), vec![more]].concat());
    let prober = Prober::udp(client, SocketAddr::new(VIP4, 7), Duration::from_millis(1))?;
    for configuration in [&with_more, &configuration].into_iter().cycle().take(10) {
        fs::write(daemon::config_path(host), configuration)?;
        let report = check(host)?;
        ensure!(wrong(&report).contains(&"decapsulates-other"), "{report:#}");
        real_server::set_up(host, configuration)?;
        let report = check(host)?;
        ensure!(
            !wrong(&report).contains(&"decapsulates-other"),
            "{report:#}"
        );
    }
    let gap = prober.stop()?;
    ensure!(gap.lost == 0 && gap.sent > 0, "{gap:?}");
    drop(echo);

    // Without a tunnel in the file, the program goes; a DSR service stays set up.
    let dsr = Service {
        mode: Mode::L2Dsr,
        ..web.clone()
    };
    let said = real_server::set_up(host, &daemon::configuration(lb, &[dsr]))?;
    ensure!(said.contains("detached the XDP program"), "{said}");
    ensure!(!bpf_dir(host).exists());
    real_server::set_up(host, &configuration)?;

    let undone = backend(host, &["--undo"])?;
    let said = String::from_utf8_lossy(&undone.stdout).into_owned();
    ensure!(
        undone.status.success() && said.contains("detached the XDP program"),
        "{said}"
    );
    ensure!(!state(host).exists() && !bpf_dir(host).exists());
    let shown = host.run("ip", &["-d", "link", "show", "dev", "eth0"])?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    ensure!(!shown.contains("xdp"), "{shown}");
    Ok(())
}

#[test]
fn an_interface_that_runs_another_program_is_not_taken() -> Result<()> {
    let lab = build("l3other", 1)?;
    let (lb, host) = (lab.host("lb1")?, lab.host("server1")?);
    integration::xdp::attach(
        host,
        "eth0",
        &integration::xdp::PASS,
        &host.bpffs().join("other"),
    )?;
    let web = service(&lab, "web", SocketAddr::new(VIP4, 80), Mode::Ipip, false)?;
    fs::write(daemon::config_path(host), daemon::configuration(lb, &[web]))?;
    let output = backend(host, &[])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{error}");
    ensure!(
        error.contains("already runs the XDP program") && error.contains("futago backend --undo"),
        "{error}"
    );
    let undone = backend(host, &["--undo"])?;
    ensure!(undone.status.success(), "{undone:?}");
    ensure!(!state(host).exists());
    Ok(())
}
