//! What the lab's cables need for XDP to behave as on a network card; each claim of the `veth` module, tried. Needs root.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::Result;
use integration::{Host, Lab, Link, Role, capture::Capture, xdp};

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
        let output = host.run("ethtool", &["-k", interface])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
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
