//! Where packets are measured: a network namespace with a cable for each kind of alternative, so that none is detached while another runs.
//!
//! ```text
//! gen1 ══ lb1     the generator sends by gen…, the alternative is at lb…, what comes back is counted at gen…
//! ```

use std::{
    fs,
    net::IpAddr,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use integration::packet::namespace::alone;
use lb_common::{load::Order, tables::NextHop};
use lb_userspace::load::{Kind, Shape};

use crate::services::{self, BACKENDS, PORT};

/// A cable and what is at its far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Cable {
    Floor = 1,
    Futago = 2,
    Lru = 3,
    /// The kernel's own forwarding.
    Kernel = 4,
    /// The same with nftables, whose hooks see all packets of a namespace: it has one of its own.
    Nftables = 5,
}

impl Cable {
    pub const ALL: [Self; 5] = [
        Self::Floor,
        Self::Futago,
        Self::Lru,
        Self::Kernel,
        Self::Nftables,
    ];

    /// Index of the end where packets are made and counted.
    pub const fn generator(self) -> u32 {
        100 + self as u32
    }

    /// Index of the end that has the alternative.
    pub const fn far(self) -> u32 {
        200 + self as u32
    }

    /// What the far end sends to.
    pub const fn hop(self) -> NextHop {
        NextHop {
            ifindex: self.far(),
            destination: mac(self.generator()),
            source: mac(self.far()),
            vlan: 0,
            mtu: 1500,
        }
    }
}

pub const fn mac(index: u32) -> [u8; 6] {
    [2, 0, 0, 0, 0, index as u8]
}

/// Runs `work` in such a namespace.
pub fn on_bed<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let mut commands = Vec::new();
    for cable in Cable::ALL {
        let (near, far) = (cable.generator(), cable.far());
        commands.push(format!(
            "link add gen{near} index {near} address {} type veth peer name lb{far} index {far} address {}",
            text(near),
            text(far)
        ));
        for name in [format!("gen{near}"), format!("lb{far}")] {
            commands.push(format!("link set {name} addrgenmode none up"));
        }
    }
    alone(&commands, || {
        let here = Router(None);
        here.routes(Cable::Kernel)?;
        let apart = Router::apart()?;
        apart.routes(Cable::Nftables)?;
        apart.run("nft", &[&translation()])?;
        work()
    })
}

/// The destination that the kernel forwards, and the one that nftables translates.
pub fn kernel_destination(v6: bool, nat: bool) -> (IpAddr, u16) {
    let host = if nat { 2 } else { 1 };
    let address = if v6 {
        format!("fd00:9:4::{host}")
    } else {
        format!("10.9.4.{host}")
    };
    (address.parse().unwrap_or(IpAddr::from([0; 4])), PORT)
}

/// A namespace that forwards: this one, or one of a process that does nothing else.
struct Router(Option<Child>);

impl Router {
    fn apart() -> Result<Self> {
        let child = Command::new("unshare")
            .args(["--net", "sleep", "3600"])
            .spawn()
            .context("cannot start unshare")?;
        let router = Self(Some(child));
        // It is in its namespace when it is no longer in ours.
        let link = |path: &str| fs::read_link(path).ok();
        let theirs = format!("/proc/{}/ns/net", router.pid());
        let ours = link("/proc/thread-self/ns/net");
        let started = Instant::now();
        while link(&theirs) == ours {
            ensure!(started.elapsed() < Duration::from_secs(5), "unshare hangs");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(router)
    }

    fn pid(&self) -> String {
        self.0
            .as_ref()
            .map_or_else(String::new, |child| child.id().to_string())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        if self.0.is_none() {
            return run(program, arguments);
        }
        let pid = self.pid();
        let enter = ["--net", "--target", &pid, program];
        run("nsenter", &[&enter[..], arguments].concat())
    }

    /// Routes and neighbours behind the far end of a cable, as a router has them.
    fn routes(&self, cable: Cable) -> Result<()> {
        let device = format!("lb{}", cable.far());
        let near = text(cable.generator());
        if self.0.is_some() {
            run("ip", &["link", "set", &device, "netns", &self.pid()])?;
        }
        let mut lines = vec![
            format!("ip link set {device} up"),
            format!("ip addr add 10.2.4.254/24 dev {device}"),
            format!("ip addr add fd00:2:4::fffe/64 dev {device} nodad"),
            format!("ip route add 10.9.4.0/24 via 10.2.4.1 dev {device}"),
            format!("ip route add fd00:9:4::/64 via fd00:2:4::1 dev {device}"),
            format!("ip neigh add fd00:2:4::1 lladdr {near} dev {device} nud permanent"),
            // Frames that XDP sends into a veth without a program of its own are received where GRO is on.
            format!("ethtool -K {device} gro on"),
        ];
        for setting in [
            "ipv4/ip_forward=1".to_owned(),
            "ipv6/conf/all/forwarding=1".to_owned(),
            "ipv4/conf/all/rp_filter=0".to_owned(),
            "ipv4/conf/all/send_redirects=0".to_owned(),
            format!("ipv4/conf/{device}/rp_filter=0"),
            format!("ipv4/conf/{device}/send_redirects=0"),
        ] {
            lines.push(format!("sysctl -q -w net/{setting}"));
        }
        for backend in 1..=BACKENDS {
            lines.push(format!(
                "ip neigh add 10.2.4.{backend} lladdr {near} dev {device} nud permanent"
            ));
        }
        self.run("sh", &["-ec", &lines.join("\n")])
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Translates what is sent to one address, as an operator would with nftables alone.
fn translation() -> String {
    let map: Vec<_> = (0..BACKENDS)
        .map(|n| format!("{n} : 10.2.4.{}", n + 1))
        .collect();
    let (address, port) = kernel_destination(false, true);
    format!(
        "table ip nat {{\n\
         chain pre {{ type nat hook prerouting priority -100;\n\
         ip daddr {address} udp dport {port} dnat to jhash ip saddr . udp sport mod {BACKENDS} map {{ {} }} : {port}\n }}\n\
         chain post {{ type nat hook postrouting priority 100; ip daddr 10.2.4.0/24 masquerade\n }}\n}}\n",
        map.join(", ")
    )
}

/// Connections that the kernel can track; the limit is the machine's, not the namespace's.
pub fn conntrack_max() -> u32 {
    let text = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// Packets to a service, by a cable. The smallest frames, IPv4 and IPv6.
pub fn shape(cable: Cable, number: usize, flows: u32) -> Shape {
    let to = services::vip(number);
    to_address(cable, (to.ip(), to.port()), flows)
}

pub fn to_address(cable: Cable, to: (IpAddr, u16), flows: u32) -> Shape {
    let v6 = to.0.is_ipv6();
    let source: IpAddr = if v6 {
        std::net::Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into()
    } else {
        std::net::Ipv4Addr::new(198, 18, 0, 0).into()
    };
    Shape {
        ifindex: cable.generator(),
        macs: [mac(cable.far()), mac(cable.generator())],
        source,
        destination: to.into(),
        kind: Kind::Udp,
        length: Shape::shortest(v6, Kind::Udp, false),
        flows,
        port_bits: 10,
        order: Order::Random,
        stamped: false,
    }
}

pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn text(index: u32) -> String {
    mac(index).map(|byte| format!("{byte:02x}")).join(":")
}
