//! The lab's servers and clients: real traffic, and numbers that are right when something breaks. Needs root.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;
use integration::{
    Direction, Lab, Role, Segments, ServersAre, Topology,
    capture::Capture,
    http::{self, Load},
    probe::Prober,
    server::{self, Echo},
    topology,
};

const MS: Duration = Duration::from_millis(1);

fn lab() -> Result<Lab> {
    let servers_are = ServersAre::L2Dsr(vec![topology::VIP4, topology::VIP6]);
    Ok(Topology::new(Segments::One)
        .servers(2)
        .servers_are(servers_are)
        .build("traffic")?)
}

fn addresses(lab: &Lab, server: &str, port: u16) -> Result<[SocketAddr; 2]> {
    let host = lab.host(server)?;
    Ok([
        SocketAddr::new(host.ipv4()?, port),
        SocketAddr::new(host.ipv6()?, port),
    ])
}

#[test]
fn nginx_says_who_it_is_and_serves_what_was_made() -> Result<()> {
    let lab = lab()?;
    let big = lab.files().join("big");
    let sha256 = server::big_file(&big, 5)?;
    let vips = [topology::VIP4, topology::VIP6];
    let mut servers = server::nginx_everywhere(lab.hosts_of(Role::Server), &vips, 80, Some(&big))?;
    let client = lab.host("client")?;
    for name in ["server1", "server2"] {
        for to in addresses(&lab, name, 80)? {
            let report = http::get_many(client, Load::new(to, 50))?.all_answered()?;
            assert_eq!(
                report.by_server.get(name).map(|share| share.answers),
                Some(50),
                "{report:?}"
            );
            let download = http::download(client, &format!("http://{to}/big"), &[])?;
            assert_eq!((download.bytes, &download.sha256), (5 << 20, &sha256));
        }
    }
    servers[0].process.kill()?;
    let to = addresses(&lab, "server1", 80)?[0];
    let report = http::get_many(client, Load::new(to, 3))?;
    assert_eq!((report.answered(), report.failures.len()), (0, 3));
    assert!(report.failures[0].reason.contains("refused"), "{report:?}");
    Ok(())
}

#[test]
fn a_running_load_tells_when_a_server_went() -> Result<()> {
    let lab = lab()?;
    let mut servers = server::nginx_everywhere(lab.hosts_of(Role::Server).take(1), &[], 80, None)?;
    let load = http::start(
        lab.host("client")?,
        Load::new(addresses(&lab, "server1", 80)?[0], u64::MAX),
    )?;
    while load.so_far().answered() < 100 {
        std::thread::sleep(MS);
    }
    let killed_at = load.so_far().elapsed;
    servers[0].process.kill()?;
    std::thread::sleep(100 * MS);
    let report = load.stop();
    assert!(!report.failures.is_empty());
    assert!(
        report
            .failures
            .iter()
            .all(|failure| failure.at + 50 * MS >= killed_at),
        "{:?}",
        report.failures[0]
    );
    Ok(())
}

#[test]
fn a_prober_measures_an_interruption() -> Result<()> {
    let lab = lab()?;
    let server = lab.host("server1")?;
    for to in addresses(&lab, "server1", 7)? {
        let echo = Echo::start(server, &[to])?;
        let udp = Prober::udp(lab.host("client")?, to, MS)?;
        let tcp = Prober::tcp(lab.host("client")?, to, 10 * MS)?;
        std::thread::sleep(200 * MS);
        lab.cut("server1", "eth0", Direction::ToHost)?;
        std::thread::sleep(150 * MS);
        lab.mend("server1", "eth0", Direction::ToHost)?;
        std::thread::sleep(500 * MS);
        let (udp, tcp) = (udp.stop()?, tcp.stop()?);
        assert!(udp.gap_ms >= 140.0 && udp.lost >= 50, "{udp:?}");
        assert_eq!(udp.by_server.get("server1"), Some(&udp.answered), "{udp:?}");
        assert_eq!(udp.answered, echo.datagrams());
        assert_eq!(echo.connections(), 1);
        assert!(
            tcp.broken.is_none() && tcp.lost == 0 && tcp.gap_ms >= 140.0,
            "{tcp:?}"
        );
    }
    Ok(())
}

#[test]
fn a_prober_sees_no_gap_where_there_is_none_and_a_connection_that_breaks() -> Result<()> {
    let lab = lab()?;
    let to = addresses(&lab, "server2", 7)?[0];
    let echo = Echo::start(lab.host("server2")?, &[to])?;
    let udp = Prober::udp(lab.host("client")?, to, MS)?;
    let tcp = Prober::tcp(lab.host("client")?, to, MS)?;
    std::thread::sleep(300 * MS);
    let udp = udp.stop()?;
    assert!(udp.lost == 0 && udp.sent + udp.late >= 250, "{udp:?}");
    drop(echo);
    std::thread::sleep(100 * MS);
    let tcp = tcp.stop()?;
    assert!(tcp.broken.is_some(), "{tcp:?}");
    Ok(())
}

#[test]
fn a_capture_holds_what_was_sent() -> Result<()> {
    let lab = lab()?;
    let to = addresses(&lab, "server1", 7)?[0];
    let _echo = Echo::start(lab.host("server1")?, &[to])?;
    let capture = Capture::start(lab.host("client")?, "eth0", "udp port 7")?;
    let prober = Prober::udp(lab.host("client")?, to, 10 * MS)?;
    std::thread::sleep(100 * MS);
    let gap = prober.stop()?;
    std::thread::sleep(100 * MS);
    let sources = capture.fields("udp.dstport == 7", &["ip.src", "udp.checksum.status"])?;
    assert_eq!(sources.len() as u64, gap.sent);
    assert!(
        sources.iter().all(|row| row == &["10.0.1.10", "1"]),
        "{sources:?}"
    );
    Ok(())
}

#[test]
fn the_picture_shows_hosts_addresses_and_cables() -> Result<()> {
    for segments in [Segments::One, Segments::Two] {
        let lab = Topology::new(segments)
            .balancers(2)
            .servers(2)
            .build("picture")?;
        let picture = lab.picture(&[("lb1", "VIP  10.0.1.100")]);
        println!("{picture}");
        for text in [
            "client",
            "lb2",
            "server2",
            "10.0.1.2/24",
            "fd00:2::22/64",
            "VIP  10.0.1.100",
            "╫",
        ] {
            assert!(picture.contains(text), "{text} is not in\n{picture}");
        }
        let widest = picture.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(100), "{widest:?} columns");
    }
    Ok(())
}
