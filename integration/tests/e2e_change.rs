//! What changes while it runs: the configuration, a backend's MAC address, an interface. Needs root.

use std::{thread::JoinHandle, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    Host, Segments,
    daemon::{self, Service},
    http::{self, Download, Load},
    probe::Prober,
    stage::{self, ECHO, HTTP, Stage},
};
use lb_core::model::Mode;

const MS: Duration = Duration::from_millis(1);
const MEBIBYTES: usize = 64;

/// A download that takes about eleven seconds.
fn slow_download(client: &Host) -> JoinHandle<integration::Result<Download>> {
    let (client, url) = (
        client.clone(),
        format!("http://{}/big", stage::vip(false, HTTP)),
    );
    std::thread::spawn(move || http::download(&client, &url, &["--limit-rate", "6M"]))
}

#[test]
fn a_reload_adds_removes_and_changes_services_during_a_download() -> Result<()> {
    let (stage, sha256) = Stage::build("reload", Mode::Nat, Segments::One, Some(MEBIBYTES))?;
    let client = stage.client()?;
    let download = slow_download(client);
    let prober = Prober::udp(client, stage::vip(false, ECHO), MS)?;
    std::thread::sleep(300 * MS);

    // Added: the same servers on a second VIP, which needs ports that no other service has.
    let mut services = stage.services.clone();
    let extra = Service::over_servers(&stage.lab, "extra", stage::vip(false, 8080), Mode::L2Dsr)?;
    let second_vip = "10.0.1.101:8080".parse()?;
    services.push(Service {
        vip: second_vip,
        check: None,
        ..extra
    });
    let said = stage.daemon.reload(&stage.configuration(&services)?)?;
    ensure!(said.contains("1 service added (extra)"), "{said}");
    client.run("ping", &["-c1", "-W2", "10.0.1.101"])?;

    // Changed: a weight, of another service than the download's, whose flows would move too.
    let service = |name: &str| services.iter().position(|service| service.name == name);
    let (web4, web6) = (
        service("web4").context("web4")?,
        service("web6").context("web6")?,
    );
    services[web6].backends[1].weight = 5;
    let said = stage.daemon.reload(&stage.configuration(&services)?)?;
    ensure!(said.contains("1 service changed (web6)"), "{said}");
    let status = stage.daemon.status()?;
    let web = daemon::service(&status, "web6")?;
    assert_eq!(web.backends[1].weight, 5);
    ensure!((web.backends[1].share - 5.0 / 7.0).abs() < 0.01, "{web:?}");

    // A file with a mistake changes nothing.
    let digest = status.config_digest.clone();
    let bad = stage
        .configuration(&services)?
        .replace("weight = 5", "weigth = 7");
    std::fs::write(daemon::config_path(stage.balancer()?), bad)?;
    let said = stage.daemon.cli_refuses(&["reload"])?;
    ensure!(said.contains("weigth") && said.contains("weight"), "{said}");
    let status = stage.daemon.status()?;
    assert_eq!(status.config_digest, digest);
    assert_eq!(status.services.len(), 5);

    // Removed, with its VIP.
    services.pop();
    let said = stage.daemon.reload(&stage.configuration(&services)?)?;
    ensure!(said.contains("removed (extra)"), "{said}");
    ensure!(client.run("ping", &["-c1", "-W1", "10.0.1.101"]).is_err());
    assert_eq!(stage.daemon.status()?.services.len(), 4);

    ensure!(!download.is_finished(), "the download was too short");
    let gap = prober.stop()?;
    ensure!(gap.lost == 0, "{gap:?}");
    let download = download.join().expect("the download does not panic")?;
    assert_eq!(download.sha256, sha256);
    // Weights 1:5:1 for new connections, within what chance does to 700.
    services[web4].backends[1].weight = 5;
    stage.daemon.reload(&stage.configuration(&services)?)?;
    for ipv6 in [false, true] {
        let load = Load::new(stage::vip(ipv6, HTTP), 700);
        let report = http::get_many(client, load)?.all_answered()?;
        let answers = report
            .by_server
            .get("server2")
            .map_or(0, |share| share.answers);
        ensure!((450..=550).contains(&answers), "{report:?}");
    }
    Ok(())
}

#[test]
fn a_bad_file_at_the_start_leaves_the_host_alone() -> Result<()> {
    let lab = stage::lab("bad", Mode::Nat, Segments::One)?;
    let lb = lab.host("lb1")?;
    let web = Service::over_servers(&lab, "web", stage::vip(false, HTTP), Mode::Nat)?;
    let text = daemon::configuration(lb, &[web]).replace("mode = \"nat\"", "mode = \"natt\"");
    let error = daemon::Daemon::start(lb, &text, &[])
        .err()
        .context("the daemon runs with a bad file")?
        .to_string();
    ensure!(
        error.contains("natt") && error.contains("futago.toml:"),
        "{error}"
    );
    ensure!(!daemon::bpf_dir(lb).exists());
    let links = String::from_utf8(lb.run("ip", &["-o", "link"])?.stdout)?;
    ensure!(!links.contains("prog/xdp"), "{links}");
    Ok(())
}

#[test]
fn the_next_hop_follows_a_backends_new_mac() -> Result<()> {
    for mode in [Mode::Nat, Mode::L2Dsr] {
        let (stage, _) = Stage::build("mac", mode, Segments::One, None)?;
        let client = stage.client()?;
        http::get_many(client, Load::new(stage::vip(false, HTTP), 60))?.all_answered()?;
        // Another card in the same server: it announces itself, as a kernel that is told to does.
        let server = stage.lab.host("server2")?;
        server.sysctl("net.ipv4.conf.eth0.arp_notify", "1")?;
        server.sysctl("net.ipv6.conf.eth0.ndisc_notify", "1")?;
        server.ip(&["link set eth0 address 02:00:00:00:02:99"])?;
        for ipv6 in [false, true] {
            // Until the neighbour is known anew connections may hang; health notices what is not.
            stage::wait_until("answers from all", 15_000 * MS, || {
                let load = Load {
                    timeout: 300 * MS,
                    ..Load::new(stage::vip(ipv6, HTTP), 60)
                };
                let report = http::get_many(client, load)?;
                Ok(report.failures.is_empty() && report.by_server.contains_key("server2"))
            })
            .with_context(|| stage.daemon.process.log())?;
        }
    }
    Ok(())
}

#[test]
fn an_interface_that_goes_and_comes_back_is_used_again() -> Result<()> {
    for segments in [Segments::One, Segments::Two] {
        let (stage, _) = Stage::build("iface", Mode::Nat, segments, None)?;
        let client = stage.client()?;
        let lb = stage.balancer()?;
        http::get_many(client, Load::new(stage::vip(false, HTTP), 20))?.all_answered()?;
        stage.lab.reconnect("lb1", "eth0")?;
        works(&stage)?;
        // Down and up again, which costs an interface its IPv6 addresses.
        lb.ip(&["link set eth0 down"])?;
        std::thread::sleep(200 * MS);
        lb.ip(&["link set eth0 up"])?;
        for address in lb.interface("eth0")?.addresses {
            if address.address.is_ipv6() {
                lb.ip(&[format!("addr replace {address} dev eth0 nodad")])?;
            }
        }
        works(&stage)?;
    }
    Ok(())
}

/// Within some seconds the program runs on every interface, and the VIPs of both families answer.
fn works(stage: &Stage) -> Result<()> {
    let (client, lb) = (stage.client()?, stage.balancer()?);
    let daemon = &stage.daemon;
    daemon.wait_until("the program on every interface", 5_000 * MS, |status| {
        let mut interfaces = status.interfaces.iter();
        interfaces.all(|interface| interface.xdp == "native")
    })?;
    for ipv6 in [false, true] {
        let to = stage::vip(ipv6, HTTP);
        let answered = || {
            let load = Load {
                timeout: 300 * MS,
                ..Load::new(to, 60)
            };
            Ok(http::get_many(client, load)?.failures.is_empty())
        };
        stage::wait_until("answers", 15_000 * MS, answered).with_context(|| {
            let addresses = lb.run("ip", &["addr"]).map(|output| output.stdout);
            let addresses = addresses.unwrap_or_default();
            let addresses = String::from_utf8_lossy(&addresses);
            let status = daemon.cli(&["status"]).unwrap_or_default();
            format!("{status}\n{}\n{addresses}", daemon.process.log())
        })?;
        client.run("ping", &["-c1", "-W2", &to.ip().to_string()])?;
    }
    Ok(())
}
