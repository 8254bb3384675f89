//! What the lab's cables need for XDP to behave as on a network card; each claim of the `veth` module, tried. Needs root.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use integration::{Error, Host, Lab, Link, Role, capture::Capture, stage, xdp};

const PORT: u16 = 9;

/// Two hosts, `a` and `b`, of which `b` reflects every frame.
fn reflector() -> Result<Lab> {
    let lab = pair()?;
    let b = lab.host("b")?;
    xdp::attach(b, "eth0", &xdp::REFLECT, &b.bpffs().join("reflect"))?;
    // The reflector takes ARP too.
    let mac = b
        .run("cat", &["/proc/net/dev_mcast"])
        .map(|_| "02:00:00:00:00:02")?;
    lab.host("a")?
        .ip(&[format!("neigh replace 10.0.1.2 lladdr {mac} dev eth0")])?;
    Ok(lab)
}

fn pair() -> Result<Lab> {
    let mut lab = Lab::new("veth")?;
    lab.add_switch("lan")?;
    for (name, number) in [("a", 1), ("b", 2)] {
        lab.add_host(name, Role::Client)?;
        let link = Link::new().mac(format!("02:00:00:00:00:0{number}"));
        lab.connect(
            name,
            "lan",
            &link.address(format!("10.0.1.{number}/24").parse()?),
        )?;
    }
    Ok(lab)
}

/// Sends ten datagrams from `a` and counts those that come back, reflected, to its wire.
fn reflected(lab: &Lab) -> Result<usize> {
    let a = lab.host("a")?;
    let capture = Capture::start(a, "eth0", "udp and ether src 02:00:00:00:00:02")?;
    send(a, 10)?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(capture.fields("udp", &["eth.src"])?.len())
}

fn send(from: &Host, count: usize) -> Result<()> {
    let to = SocketAddr::from(([10, 0, 1, 2], PORT));
    let socket = from.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    for _ in 0..count {
        socket.send_to(b"probe", to)?;
    }
    Ok(())
}

#[test]
fn every_port_runs_the_pass_program() -> Result<()> {
    let lab = pair()?;
    let links = lab
        .switch("lan")?
        .run("ip", &["-details", "link", "show", "type", "veth"])?;
    let text = String::from_utf8_lossy(&links.stdout).into_owned();
    assert_eq!(text.matches("prog/xdp").count(), 2, "{text}");
    Ok(())
}

#[test]
fn what_xdp_transmits_arrives_only_through_the_pass_program() -> Result<()> {
    let lab = reflector()?;
    assert_eq!(reflected(&lab)?, 10);

    let switch = lab.switch("lan")?;
    std::fs::remove_file(switch.bpffs().join("b-0"))?;
    assert_eq!(
        reflected(&lab)?,
        0,
        "XDP_TX works without the pass program: the lab does not need it"
    );
    Ok(())
}

#[test]
fn what_xdp_redirects_arrives_only_through_the_pass_program() -> Result<()> {
    let mut lab = pair()?;
    lab.add_switch("far")?;
    let far = lab.connect("b", "far", &Link::new())?;
    let b = lab.host("b")?;
    let program = xdp::redirect(b.interface_index(&far.name)?);
    xdp::attach(b, "eth0", &program, &b.bpffs().join("redirect"))?;
    lab.host("a")?
        .ip(&["neigh replace 10.0.1.2 lladdr 02:00:00:00:00:02 dev eth0"])?;
    let redirected = || -> Result<usize> {
        let capture = Capture::start(lab.switch("far")?, &far.port, "udp")?;
        send(lab.host("a")?, 10)?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(capture.fields("udp.dstport == 9", &["eth.src"])?.len())
    };
    assert_eq!(redirected()?, 10);
    std::fs::remove_file(lab.switch("far")?.bpffs().join("b-1"))?;
    assert_eq!(
        redirected()?,
        0,
        "XDP_REDIRECT works without NAPI at the peer: the lab does not need the pass program"
    );
    Ok(())
}

#[test]
fn checksums_on_the_wire_are_complete() -> Result<()> {
    let lab = pair()?;
    let port = lab.host("b")?.interface("eth0")?.port;
    let capture = Capture::start(lab.switch("lan")?, &port, "udp")?;
    send(lab.host("a")?, 3)?;
    std::thread::sleep(Duration::from_millis(200));
    let status = capture.fields("udp.dstport == 9", &["udp.checksum.status"])?;
    // 1: good.
    assert_eq!(status, [["1"], ["1"], ["1"]]);
    Ok(())
}

#[test]
fn no_frame_is_larger_than_the_mtu() -> Result<()> {
    let lab = pair()?;
    let (a, b) = (lab.host("a")?, lab.host("b")?);
    let echo = integration::server::Echo::start(b, &[SocketAddr::from(([10, 0, 1, 2], 7))])?;
    let at_b = Capture::start(b, "eth0", "tcp and dst host 10.0.1.2")?;
    a.enter(|| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect("10.0.1.2:7")?;
        let mut reader = stream.try_clone()?;
        let writer = std::thread::spawn(move || stream.write_all(&vec![7; 1 << 20]));
        // The greeting is "b\n".
        reader.read_exact(&mut vec![0; (1 << 20) + 2])?;
        writer.join().expect("the writer does not panic")
    })??;
    drop(echo);
    let lengths = at_b.fields("tcp", &["frame.len", "tcp.checksum.status"])?;
    assert!(
        lengths.len() > 700,
        "1 MiB is at least 724 segments, not {}",
        lengths.len()
    );
    for row in lengths {
        assert!(row[0].parse::<u32>()? <= 1514 && row[1] == "1", "{row:?}");
    }
    Ok(())
}

#[test]
fn offloads_are_off_at_both_ends() -> Result<()> {
    let lab = pair()?;
    for (host, interface) in [(lab.switch("lan")?, "a.0"), (lab.host("a")?, "eth0")] {
        let text = ethtool(host, &["-k", interface])?;
        for feature in [
            "tx-checksumming",
            "tx-tcp-segmentation",
            "tx-tcp6-segmentation",
            "generic-segmentation-offload",
            "generic-receive-offload",
            "tx-udp-segmentation",
        ] {
            assert!(
                text.contains(&format!("{feature}: off")),
                "{}: {text}",
                host.name()
            );
        }
    }
    Ok(())
}

fn ethtool(host: &Host, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8_lossy(&host.run("ethtool", arguments)?.stdout).into_owned())
}

/// GRO gives a port NAPI and a queue, but XDP_TX does not wake it: frames lie there until an ordinary one comes by. IPv6 is
/// off, because its start-up chatter is such a frame and makes the lack look like luck.
#[test]
fn gro_in_place_of_the_pass_program_only_queues_what_xdp_transmits() -> Result<()> {
    let mut lab = Lab::new("veth")?;
    lab.add_switch("lan")?;
    for (name, number) in [("a", 1), ("b", 2)] {
        let host = lab.add_host(name, Role::Client)?;
        host.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        let link = Link::new().mac(format!("02:00:00:00:00:0{number}"));
        lab.connect(
            name,
            "lan",
            &link.address(format!("10.0.1.{number}/24").parse()?),
        )?;
    }
    let (a, b, switch) = (lab.host("a")?, lab.host("b")?, lab.switch("lan")?);
    a.ip(&["neigh replace 10.0.1.2 lladdr 02:00:00:00:00:02 dev eth0"])?;
    b.ip(&["neigh replace 10.0.1.1 lladdr 02:00:00:00:00:01 dev eth0"])?;
    xdp::attach(b, "eth0", &xdp::REFLECT, &b.bpffs().join("reflect"))?;
    std::fs::remove_file(switch.bpffs().join("b-0"))?;
    ethtool(switch, &["-K", "b.0", "gro", "on"])?;

    let capture = Capture::start(a, "eth0", "udp dst port 9 and ether src 02:00:00:00:00:02")?;
    send(a, 10)?;
    std::thread::sleep(Duration::from_millis(300));
    let waker_port = 10;
    let waker = b.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    let woken_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs_f64();
    waker.send_to(b"wake", SocketAddr::from(([10, 0, 1, 1], waker_port)))?;
    std::thread::sleep(Duration::from_millis(300));
    let arrivals = capture.fields("udp", &["frame.time_epoch"])?;
    assert_eq!(arrivals.len(), 10);
    for row in &arrivals {
        assert!(
            row[0].parse::<f64>()? >= woken_s,
            "arrived before the waking frame: {row:?}, {woken_s}"
        );
    }
    Ok(())
}

/// Sends one datagram over ends with these settings; tshark's word on its checksum at the receiver: 0 bad, 1 good.
fn checksum_status(sender: &str, port: &str) -> Result<Vec<Vec<String>>> {
    let lab = pair()?;
    ethtool(lab.host("a")?, &["-K", "eth0", "tx", sender])?;
    ethtool(lab.switch("lan")?, &["-K", "b.0", "tx", port])?;
    let capture = Capture::start(lab.host("b")?, "eth0", "udp")?;
    send(lab.host("a")?, 1)?;
    std::thread::sleep(Duration::from_millis(200));
    capture
        .fields("udp.dstport == 9", &["udp.checksum.status"])
        .map_err(Into::into)
}

#[test]
fn a_checksum_is_complete_if_any_end_on_the_way_completes_it() -> Result<()> {
    assert_eq!(checksum_status("on", "on")?, [["0"]]);
    assert_eq!(checksum_status("off", "on")?, [["1"]]);
    assert_eq!(checksum_status("on", "off")?, [["1"]]);
    Ok(())
}

#[test]
fn attaching_a_program_leaves_gro_off() -> Result<()> {
    let lab = pair()?;
    let switch = lab.switch("lan")?;
    let pin = switch.bpffs().join("a-0");
    std::fs::remove_file(&pin)?;
    // The kernel releases the link of a pin that is removed a little later.
    stage::wait_until(
        "the port without a program",
        Duration::from_secs(5),
        || match xdp::attach(switch, "a.0", &xdp::PASS, &pin) {
            Err(Error::System { source, .. }) if source.kind() == ErrorKind::ResourceBusy => {
                Ok(false)
            }
            outcome => outcome.map(|()| true),
        },
    )?;
    let features = ethtool(switch, &["-k", "a.0"])?;
    assert!(
        features.contains("generic-receive-offload: off"),
        "{features}"
    );
    Ok(())
}
