//! Every forwarding mode, family and topology with real connections through the real daemon. Needs root.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    Segments, daemon,
    http::{self, Load},
    probe::Prober,
    stage::{self, ECHO, HTTP, Stage},
};
use lb_core::model::Mode;
use lb_userspace::api::status::Status;

const MS: Duration = Duration::from_millis(1);
const CONNECTIONS: u64 = 1000;
/// Of the file that is downloaded.
const MEBIBYTES: usize = 32;

#[test]
fn nat_one_arm() -> Result<()> {
    everything(Mode::Nat, Segments::One)
}

#[test]
fn nat_two_arm() -> Result<()> {
    everything(Mode::Nat, Segments::Two)
}

#[test]
fn l2_dsr_one_arm() -> Result<()> {
    everything(Mode::L2Dsr, Segments::One)
}

#[test]
fn l2_dsr_two_arm() -> Result<()> {
    everything(Mode::L2Dsr, Segments::Two)
}

fn everything(mode: Mode, segments: Segments) -> Result<()> {
    let (stage, sha256) = Stage::build("modes", mode, segments, Some(MEBIBYTES))?;
    for (family, ipv6) in [("4", false), ("6", true)] {
        let context = || format!("IPv{family}");
        connections(&stage, &format!("web{family}"), ipv6).with_context(context)?;
        download(&stage, ipv6, &sha256).with_context(context)?;
        datagrams(&stage, &format!("echo{family}"), ipv6).with_context(context)?;
        hosts_own_traffic(&stage, ipv6).with_context(context)?;
    }
    status_has_the_promised_fields(&stage)?;
    let status = stage.daemon.status()?;
    let lost: Vec<_> = status
        .reasons
        .iter()
        .filter(|reason| reason.class == "dropped" && reason.packets > 0)
        .collect();
    ensure!(lost.is_empty(), "packets were dropped: {lost:?}");
    Ok(())
}

/// A thousand connections are all answered, spread over the backends, and counted.
fn connections(stage: &Stage, service: &str, ipv6: bool) -> Result<()> {
    let before = stage.daemon.status()?;
    let load = Load::new(stage::vip(ipv6, HTTP), CONNECTIONS);
    let report = http::get_many(stage.client()?, load)?.all_answered()?;
    assert_eq!(report.answered(), CONNECTIONS);
    let status = stage.daemon.status()?;
    let (before, after) = (
        daemon::service(&before, service)?,
        daemon::service(&status, service)?,
    );
    for (number, (before, after)) in before.backends.iter().zip(&after.backends).enumerate() {
        let server = format!("server{}", number + 1);
        let answers = report
            .by_server
            .get(&server)
            .map_or(0, |share| share.answers);
        // Three standard deviations of a fair die: 333 ± 45.
        ensure!((288..=379).contains(&answers), "{server}: {report:?}");
        // From the client: SYN, ACK, request, ACKs of the answer, FIN and its ACK; retransmissions aside.
        let packets = after.packets - before.packets;
        ensure!(
            (answers * 4..=answers * 16).contains(&packets),
            "{server}: {packets} packets for {answers} connections"
        );
        let bytes = after.bytes - before.bytes;
        ensure!(
            (packets * 54..=packets * 200).contains(&bytes),
            "{server}: {bytes} bytes in {packets} packets"
        );
    }
    Ok(())
}

/// A file arrives as it was served.
fn download(stage: &Stage, ipv6: bool, sha256: &str) -> Result<()> {
    let url = format!("http://{}/big", stage::vip(ipv6, HTTP));
    let download = http::download(stage.client()?, &url, &[])?;
    assert_eq!(
        (download.bytes, download.sha256.as_str()),
        ((MEBIBYTES << 20) as u64, sha256)
    );
    Ok(())
}

/// Datagrams are answered, one flow by one server, and counted one by one.
fn datagrams(stage: &Stage, service: &str, ipv6: bool) -> Result<()> {
    let counted = |status: &Status| -> Result<(u64, u64)> {
        let service = daemon::service(status, service)?;
        Ok((service.packets, service.bytes))
    };
    let before = counted(&stage.daemon.status()?)?;
    let mut servers = BTreeSet::new();
    let mut sent = 0;
    for _ in 0..16 {
        let prober = Prober::udp(stage.client()?, stage::vip(ipv6, ECHO), 2 * MS)?;
        std::thread::sleep(30 * MS);
        let gap = prober.stop()?;
        ensure!(gap.lost == 0 && gap.sent > 0, "{gap:?}");
        ensure!(gap.by_server.len() == 1, "one flow, one server: {gap:?}");
        sent += gap.sent;
        servers.extend(gap.by_server.into_keys());
    }
    ensure!(servers.len() > 1, "16 flows all went to {servers:?}");
    let after = counted(&stage.daemon.status()?)?;
    // Ethernet, IP, UDP and the probe's number.
    let frame = 14 + if ipv6 { 40 } else { 20 } + 8 + 8;
    assert_eq!(
        (after.0 - before.0, after.1 - before.1),
        (sent, sent * frame)
    );
    Ok(())
}

/// What is for the balancer itself reaches it: a login as by SSH, ICMP, ARP and neighbour discovery.
fn hosts_own_traffic(stage: &Stage, ipv6: bool) -> Result<()> {
    let (client, lb) = (stage.client()?, stage.balancer()?);
    let own = if ipv6 { lb.ipv6()? } else { lb.ipv4()? };
    let vip = stage::vip(ipv6, 22).ip();
    for address in [own, vip] {
        let login = SocketAddr::new(address, 22);
        let listener = lb.enter(|| TcpListener::bind(login))??;
        let answers = std::thread::spawn(move || -> std::io::Result<()> {
            listener.accept()?.0.write_all(b"SSH-2.0-lab\r\n")
        });
        let said = client.enter(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&login, 2000 * MS)?;
            stream.set_read_timeout(Some(2000 * MS))?;
            let mut said = String::new();
            stream.read_to_string(&mut said)?;
            Ok(said)
        })?;
        assert_eq!(
            said.with_context(|| format!("connect to {login}"))?,
            "SSH-2.0-lab\r\n"
        );
        answers.join().expect("the login answers")?;
        client.run("ping", &["-c1", "-W2", &address.to_string()])?;
    }
    // The client asks anew who has the VIP.
    client.ip(&["neigh flush all"])?;
    let answer = http::get_many(client, Load::new(stage::vip(ipv6, HTTP), 1))?;
    answer.all_answered()?;
    Ok(())
}

fn status_has_the_promised_fields(stage: &Stage) -> Result<()> {
    let text = stage.daemon.cli(&["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&text)?;
    let services = status["services"].as_array().context("services")?;
    assert_eq!(services.len(), 4);
    let web = &services[0];
    assert_eq!(web["name"], "web4");
    assert_eq!(web["vip"], "10.0.1.100");
    assert_eq!(web["port"], 80);
    assert_eq!(web["protocol"], "tcp");
    assert_eq!(web["mode"], stage.mode.words().0);
    let backends = web["backends"].as_array().context("backends")?;
    assert_eq!(backends.len(), 3);
    for (number, backend) in (21..).zip(backends) {
        assert_eq!(backend["address"], format!("10.0.2.{number}"));
        assert_eq!(backend["weight"], 1);
        assert_eq!(backend["state"], "up");
        for counter in ["packets", "bytes"] {
            ensure!(backend[counter].as_u64() > Some(0), "{counter}: {backend}");
        }
    }
    Ok(())
}
