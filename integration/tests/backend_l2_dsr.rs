//! Real servers that `futago backend` sets up, checks and gives back. Needs root.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
};

use anyhow::{Context as _, Result, bail, ensure};
use integration::{
    Host, Lab, Role, Segments, Topology,
    capture::Capture,
    daemon::{self, Daemon, Service},
    http::{self, Load},
    real_server::{backend, state},
    server,
    topology::{VIP4, VIP6},
};
use lb_core::model::Mode;
use serde_json::Value;

/// Servers as they come from the installer, with a strict reverse path filter as some distributions have it.
fn build(name: &str) -> Result<Lab> {
    let lab = Topology::new(Segments::One).servers(2).build(name)?;
    for host in lab.hosts_of(Role::Server) {
        host.sysctl("net.ipv4.conf.eth0.rp_filter", "1")?;
        host.sysctl("net.ipv4.conf.eth0.arp_announce", "1")?;
        // Clients are in the same segment, in the VIPs' network.
        host.ip(&[
            "route add 10.0.1.0/24 dev eth0",
            "route add fd00:1::/64 dev eth0",
        ])?;
    }
    Ok(lab)
}

fn services(lab: &Lab) -> Result<[Service; 2]> {
    let service =
        |name, vip| Service::over_servers(lab, name, SocketAddr::new(vip, 80), Mode::L2Dsr);
    Ok([service("web4", VIP4)?, service("web6", VIP6)?])
}

/// Its stdout, if it ends with this exit code.
fn says(host: &Host, code: i32, options: &[&str]) -> Result<String> {
    let output = backend(host, options)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{:?}, not {code}: {text}{error}",
        output.status
    );
    Ok(text)
}

/// The kinds of what `--check` finds, and the exit code that goes with them.
fn findings(host: &Host, options: &[&str]) -> Result<Vec<String>> {
    let output = backend(host, &[&["--check", "--json"], options].concat())?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let found = report["findings"].as_array().context("findings")?;
    let wrong = found.iter().any(|finding| finding["severity"] == "wrong");
    ensure!(report["good"] == !wrong, "{report}");
    ensure!(
        output.status.code() == Some(i32::from(wrong)),
        "{}",
        output.status
    );
    for finding in found {
        ensure!(
            finding["command"].as_str().is_some_and(|c| !c.is_empty()),
            "no command: {finding}"
        );
    }
    let kinds = found.iter().filter_map(|finding| finding["kind"].as_str());
    Ok(kinds.map(str::to_owned).collect())
}

/// Types the commands of all findings.
fn mend(host: &Host) -> Result<()> {
    let output = backend(host, &["--check", "--json"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    for finding in report["findings"].as_array().context("findings")? {
        let command = finding["command"].as_str().context("command")?;
        // sysctl(8) is not on every machine that has a lab.
        let words: Vec<_> = command.split(" && ").collect();
        for word in words {
            match word
                .strip_prefix("sysctl -w ")
                .and_then(|set| set.split_once('='))
            {
                Some((key, value)) => host.sysctl(key, value)?,
                None => drop(host.run("sh", &["-c", word])?),
            }
        }
    }
    Ok(())
}

/// Addresses and settings, to be compared.
fn picture(host: &Host) -> Result<String> {
    let output = host.run("ip", &["-o", "address", "show"])?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    for scope in ["all", "default", "eth0", "lo"] {
        for name in ["arp_ignore", "arp_announce", "rp_filter"] {
            let path = format!("/proc/sys/net/ipv4/conf/{scope}/{name}");
            let value = host.enter(|| fs::read_to_string(&path))??;
            text += &format!("{path} {value}");
        }
    }
    Ok(text)
}

fn answers(client: &Host, address: IpAddr) -> Result<bool> {
    client.ip(&["neigh flush all"])?;
    Ok(client
        .run("ping", &["-c1", "-W1", &address.to_string()])
        .is_ok())
}

#[test]
fn a_server_that_the_command_set_up_serves_and_is_silent() -> Result<()> {
    let lab = build("backend")?;
    let (client, lb) = (lab.host("client")?, lab.host("lb1")?);
    let services = services(&lab)?;
    let configuration = daemon::configuration(lb, &services);
    let mut before = Vec::new();
    for host in lab.hosts_of(Role::Server) {
        fs::write(daemon::config_path(host), &configuration)?;
        before.push(picture(host)?);
        let would = says(host, 0, &["--dry-run"])?;
        ensure!(
            would.contains("would: ip address add 10.0.1.100/32 dev lo\n"),
            "{would}"
        );
        ensure!(
            picture(host)? == before[before.len() - 1],
            "a dry run changed something"
        );
        let done = says(host, 0, &[])?;
        ensure!(
            done.contains("did: ip address add 10.0.1.100/32 dev lo\n"),
            "{done}"
        );
    }

    // Nobody holds the VIPs but the servers, and they do not say so.
    for vip in [VIP4, VIP6] {
        ensure!(!answers(client, vip)?, "a server answers for {vip}");
    }

    let _nginx = server::nginx_everywhere(lab.hosts_of(Role::Server), &[VIP4, VIP6], 80, None)?;
    for host in lab.hosts_of(Role::Server) {
        ensure!(
            findings(host, &[])?.is_empty(),
            "{}",
            says(host, 0, &["--check"])?
        );
        let again = says(host, 0, &[])?;
        ensure!(again.ends_with("good: nothing was missing\n"), "{again}");
    }

    let capture = Capture::start(client, "eth0", "arp or icmp6")?;
    let daemon = Daemon::start(lb, &configuration, &[])?;
    daemon.wait_until_up()?;
    for vip in [VIP4, VIP6] {
        // The servers' own questions about the client must not name the VIP either, though it is the source of the
        // packets that wait for the answer.
        for host in lab.hosts_of(Role::Server) {
            host.ip(&["neigh flush all"])?;
        }
        let report = http::get_many(client, Load::new(SocketAddr::new(vip, 80), 40))?;
        ensure!(report.answered() == 40, "{vip}: {report:?}");
    }
    let speakers = capture.fields(
        "arp.src.proto_ipv4 == 10.0.1.100 || icmpv6.nd.na.target_address == fd00:1::100 || (icmpv6.type == 135 && ipv6.src == fd00:1::100)",
        &["eth.src"],
    )?;
    ensure!(
        !speakers.is_empty(),
        "not even the load balancer announced a VIP"
    );
    for speaker in speakers.into_iter().flatten() {
        ensure!(speaker == "02:00:00:00:01:02", "{speaker} speaks for a VIP");
    }

    for (host, before) in lab.hosts_of(Role::Server).zip(before) {
        let record = fs::read(state(host))?;
        let undone = says(host, 0, &["--undo"])?;
        ensure!(undone.contains("removed fd00:1::100 from lo\n"), "{undone}");
        ensure!(picture(host)? == before, "{}\nwas {before}", picture(host)?);
        ensure!(!state(host).exists());
        ensure!(says(host, 0, &["--undo"])?.starts_with("nothing to undo"));
        // A crash between the record and the change leaves a record of what was not done.
        fs::write(state(host), record)?;
        ensure!(says(host, 0, &["--undo"])?.is_empty());
        ensure!(picture(host)? == before);
        ensure!(!state(host).exists());
    }
    Ok(())
}

#[test]
fn check_finds_what_is_wrong_on_a_server_that_was_set_up_by_hand() -> Result<()> {
    let lab = build("backendck")?;
    let (client, host) = (lab.host("client")?, lab.host("server1")?);
    let configuration = daemon::configuration(lab.host("lb1")?, &services(&lab)?);
    fs::write(daemon::config_path(host), configuration)?;
    let listen = |address: &str| host.enter(|| TcpListener::bind(address));
    let both = listen("[::]:80")??;

    let all = [
        "arp-ignore",
        "arp-announce",
        "rp-filter",
        "vip-missing",
        "vip-missing",
    ];
    ensure!(findings(host, &[])? == all, "{:?}", findings(host, &[])?);
    mend(host)?;
    ensure!(
        findings(host, &[])?.is_empty(),
        "{:?}",
        findings(host, &[])?
    );
    let good = says(host, 0, &["--check"])?;
    ensure!(good.ends_with("good: nothing is missing\n"), "{good}");

    // Each mistake alone: what breaks it, what is found, and whether a client's question now finds this server.
    let both_off = "net.ipv4.conf.all.arp_ignore net.ipv4.conf.eth0.arp_ignore";
    for key in both_off.split(' ') {
        host.sysctl(key, "0")?;
    }
    ensure!(findings(host, &[])? == ["arp-ignore"]);
    ensure!(
        answers(client, VIP4)?,
        "without arp_ignore the server answers"
    );
    mend(host)?;
    ensure!(!answers(client, VIP4)?);

    host.sysctl("net.ipv4.conf.eth0.rp_filter", "1")?;
    ensure!(findings(host, &[])? == ["rp-filter"]);
    mend(host)?;

    host.ip(&[format!("address delete {VIP6}/128 dev lo")])?;
    ensure!(findings(host, &[])? == ["vip-missing"]);
    mend(host)?;

    // IPv6 knows no such setting: an address answers where it is, and nowhere else.
    for (vip, length) in [(VIP4, 32), (VIP6, 128)] {
        ensure!(!answers(client, vip)?, "{vip} on lo answers");
        host.ip(&[format!("address add {vip}/{length} dev eth0 noprefixroute")])?;
        ensure!(findings(host, &[])? == ["vip-wrong-interface"]);
        ensure!(answers(client, vip)?, "{vip} on eth0 does not answer");
        mend(host)?;
    }

    host.ip(&[
        format!("address delete {VIP4}/32 dev lo"),
        format!("address add {VIP4}/24 dev lo"),
    ])?;
    ensure!(findings(host, &[])? == ["vip-wide-prefix"]);
    // What it says is true.
    ensure!(!answers(client, host.ipv4()?)?, "a /24 on lo does no harm");
    mend(host)?;
    ensure!(answers(client, host.ipv4()?)?);

    drop(both);
    ensure!(findings(host, &[])? == ["not-listening", "not-listening"]);
    let _four = listen("10.0.1.100:80")??;
    ensure!(findings(host, &[])? == ["not-listening"]);
    let text = says(host, 1, &["--check"])?;
    ensure!(
        text.contains("nothing listens on [fd00:1::100]:80/tcp"),
        "{text}"
    );
    let _six = listen("[fd00:1::100]:80")??;
    ensure!(findings(host, &[])?.is_empty());
    Ok(())
}

#[test]
fn nat_wants_the_load_balancer_as_gateway_and_is_not_given_it() -> Result<()> {
    let lab = build("backendnat")?;
    let host = lab.host("server1")?;
    let nat = Service::over_servers(&lab, "web", SocketAddr::new(VIP4, 80), Mode::Nat)?;
    let text = daemon::configuration(lab.host("lb1")?, &[nat]);
    fs::write(daemon::config_path(host), text)?;
    let _listener = host.enter(|| TcpListener::bind("0.0.0.0:80"))??;
    ensure!(findings(host, &[])?.is_empty());
    ensure!(findings(host, &["--gateway", "10.0.2.2"])?.is_empty());
    ensure!(findings(host, &["--gateway", "10.0.2.3"])? == ["gateway"]);
    let before = picture(host)?;
    let text = says(host, 1, &["--gateway", "10.0.2.3"])?;
    let command = "mend: ip -4 route replace default via 10.0.2.3 dev eth0\n";
    ensure!(text.contains(command), "{text}");
    ensure!(picture(host)? == before && !state(host).exists());

    let client = lab.host("client")?;
    fs::copy(daemon::config_path(host), daemon::config_path(client))?;
    let output = backend(client, &["--check"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1), "{error}");
    if !error.contains("no backend has an address of this host (10.0.1.10, fd00:1::10)") {
        bail!("{error}");
    }
    Ok(())
}

#[test]
fn a_service_that_is_gone_takes_its_vip_along() -> Result<()> {
    let lab = build("backendgone")?;
    let (lb, host) = (lab.host("lb1")?, lab.host("server1")?);
    let [web4, web6] = services(&lab)?;
    fs::write(
        daemon::config_path(host),
        daemon::configuration(lb, &[web4.clone(), web6]),
    )?;
    says(host, 0, &[])?;
    fs::write(
        daemon::config_path(host),
        daemon::configuration(lb, &[web4]),
    )?;
    let text = says(host, 0, &[])?;
    ensure!(text.contains("removed fd00:1::100 from lo\n"), "{text}");
    ensure!(!picture(host)?.contains("fd00:1::100"));
    // What somebody set since is theirs.
    host.sysctl("net.ipv4.conf.eth0.rp_filter", "0")?;
    let text = says(host, 0, &["--undo"])?;
    ensure!(
        text.contains("left net.ipv4.conf.eth0.rp_filter=0, which Futago did not set\n"),
        "{text}"
    );
    Ok(())
}
