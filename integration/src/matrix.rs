//! The matrix: every forwarding mode, both families, and what real traffic needs of each. A mode is one line of [`ROWS`].
//!
//! ```text
//! far ── remote ── router ── lan ── lb1, server1 … server3      (or lb1 between front and back)
//! ```
//! The client is behind a router, so that there are hops to count and a link to be narrow.

mod exercise;

use std::net::{IpAddr, SocketAddr};

use lb_core::model::{Mode, Protocol};

pub use self::exercise::{EXERCISES, Exercise, Size};
use crate::{
    daemon::{self, Backend, Check, Daemon, Service},
    error::Result,
    host::{Host, Role},
    lab::{Lab, Link},
    server::{self, Echo, Nginx},
    stage,
    topology::{Segments, VIP4, VIP6},
};

/// A forwarding mode in a topology.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// As on the command line.
    pub name: &'static str,
    pub mode: Mode,
    pub segments: Segments,
    /// Backends are reached by the other family than the VIP's.
    pub crossed: bool,
    /// Exercises that do not pass yet, each with the reason.
    pub not_yet: &'static [(&'static str, &'static str)],
}

/// All of it.
pub const ROWS: &[Row] = &[
    row("nat", Mode::Nat, Segments::One),
    row("nat-two-arm", Mode::Nat, Segments::Two),
    row("l2-dsr", Mode::L2Dsr, Segments::One),
    row("ipip", Mode::Ipip, Segments::One),
    row("gre", Mode::Gre, Segments::One),
    row("gue", Mode::Gue, Segments::One),
    row("gue-two-arm", Mode::Gue, Segments::Two),
    row("dscp", Mode::Dscp, Segments::One),
    row("ipip-crossed", Mode::Ipip, Segments::One).crossed(),
    row("gre-crossed", Mode::Gre, Segments::One).crossed(),
    row("gue-crossed", Mode::Gue, Segments::One).crossed(),
];

/// Rows that cannot be written yet, and why.
pub const MISSING_ROWS: &[(&str, &str)] = &[];

const fn row(name: &'static str, mode: Mode, segments: Segments) -> Row {
    Row {
        name,
        mode,
        segments,
        crossed: false,
        not_yet: &[],
    }
}

impl Row {
    const fn crossed(mut self) -> Self {
        self.crossed = true;
        self
    }

    /// The row of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        ROWS.iter().find(|row| row.name == name)
    }

    /// What the load balancer is on a packet's way to a server: a router, which counts down its hops, or a part of the wire.
    pub fn is_hop(&self) -> bool {
        self.mode != Mode::L2Dsr
    }
}

/// TCP, UDP: answered by [`Echo`].
pub const ECHO: u16 = 7;
/// TCP: answered by nginx.
pub const HTTP: u16 = 80;

/// A row that stands: servers that answer, a balancer that forwards, and the far client.
#[derive(Debug)]
pub struct Stand {
    pub row: Row,
    pub size: Size,
    pub daemon: Daemon,
    /// Digest of what nginx serves as `/big`.
    pub sha256: String,
    _nginx: Vec<Nginx>,
    _echo: Vec<Echo>,
    pub lab: Lab,
}

impl Stand {
    /// Builds it and waits until all backends are up.
    ///
    /// # Errors
    /// Any of it does not come up.
    pub fn build(row: &Row) -> Result<Self> {
        let size = Size::from_environment();
        let mut lab = stage::lab(&format!("m-{}", row.name), row.mode, row.segments)?;
        add_far_client(&mut lab, row)?;
        let lb = lab.host("lb1")?;
        let configuration = daemon::configuration(lb, &services(&lab, row)?);
        stage::prepare_servers(&lab, row.mode, &configuration)?;
        let big = lab.files().join("big");
        let sha256 = server::big_file(&big, size.mebibytes)?;
        let extra = stage::extra_addresses(row.mode);
        let nginx = server::nginx_everywhere(lab.hosts_of(Role::Server), extra, HTTP, Some(&big))?;
        let echo = lab
            .hosts_of(Role::Server)
            .map(|host| stage::echo(host, extra))
            .collect::<Result<_>>()?;
        let daemon = Daemon::start(lb, &configuration, &[])?;
        daemon.wait_until_up()?;
        Ok(Self {
            row: *row,
            size,
            daemon,
            sha256,
            _nginx: nginx,
            _echo: echo,
            lab,
        })
    }

    /// The client.
    ///
    /// # Errors
    /// Never, in a stand that was built.
    pub fn far(&self) -> Result<&Host> {
        self.lab.host("far")
    }

    /// What stands before the client.
    ///
    /// # Errors
    /// Never, in a stand that was built.
    pub fn router(&self) -> Result<&Host> {
        self.lab.host("router")
    }

    /// What the balancer has dropped so far, by reason.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn dropped(&self) -> Result<String> {
        let status = self.daemon.status()?;
        let dropped = status
            .reasons
            .iter()
            .filter(|reason| reason.class == "dropped" && reason.packets > 0)
            .map(|reason| format!("{} {}", reason.reason, reason.packets));
        Ok(dropped.collect::<Vec<_>>().join(", "))
    }
}

/// nginx over TCP, echo over TCP and UDP, behind both VIPs.
fn services(lab: &Lab, row: &Row) -> Result<Vec<Service>> {
    let mut services = Vec::new();
    for (family, vip) in [("4", VIP4), ("6", VIP6)] {
        let backends = lab
            .hosts_of(Role::Server)
            .map(|host| backend(host, vip.is_ipv4() != row.crossed))
            .collect::<Result<Vec<_>>>()?;
        for (what, port, protocol) in [
            ("web", HTTP, Protocol::Tcp),
            ("lines", ECHO, Protocol::Tcp),
            ("dns", ECHO, Protocol::Udp),
        ] {
            services.push(Service {
                name: format!("{what}{family}"),
                vip: SocketAddr::new(vip, port),
                protocol,
                mode: row.mode,
                backends: backends.clone(),
                check: Some(Check::quick(HTTP)),
                keys: String::new(),
            });
        }
    }
    Ok(services)
}

fn backend(host: &Host, ipv4: bool) -> Result<Backend> {
    let address = if ipv4 { host.ipv4()? } else { host.ipv6()? };
    Ok(Backend { address, weight: 1 })
}

/// `far`, and the router between it and the switch that the balancer's VIPs are on.
fn add_far_client(lab: &mut Lab, row: &Row) -> Result<()> {
    let near = match row.segments {
        Segments::One => "lan",
        Segments::Two => "front",
    };
    lab.add_switch("remote")?;
    let router = lab.add_host("router", Role::Client)?;
    let far = lab.add_host("far", Role::Client)?;
    lab.connect(
        "router",
        near,
        &addresses("1", &["10.0.1.1/24", "fd00:1::1/64"])?,
    )?;
    lab.connect(
        "router",
        "remote",
        &addresses("2", &["10.0.3.1/24", "fd00:3::1/64"])?,
    )?;
    lab.connect(
        "far",
        "remote",
        &addresses("3", &["10.0.3.10/24", "fd00:3::10/64"])?,
    )?;
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.eth0.send_redirects", "0"),
        // The path's MTU is asked for more often than the default allows answers.
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv6.icmp.ratelimit", "0"),
    ] {
        router.sysctl(key, value)?;
    }
    router.ip(&[
        "route add 10.0.2.0/24 via 10.0.1.2",
        "route add fd00:2::/64 via fd00:1::2",
    ])?;
    far.ip(&[
        "route add default via 10.0.3.1",
        "route add ::/0 via fd00:3::1",
    ])?;
    let to_far = [
        "route add 10.0.3.0/24 via 10.0.1.1",
        "route add fd00:3::/64 via fd00:1::1",
    ];
    lab.host("lb1")?.ip(&to_far)?;
    let direct = row.segments == Segments::One && !matches!(row.mode, Mode::Nat | Mode::Snat);
    if direct {
        for host in lab.hosts_of(Role::Server) {
            host.ip(&[
                "route add 10.0.3.0/24 via 10.0.1.1 dev eth0",
                "route add fd00:3::/64 via fd00:1::1 dev eth0",
            ])?;
        }
    }
    Ok(())
}

fn addresses(number: &str, addresses: &[&str]) -> Result<Link> {
    let link = Link::new().mac(format!("02:00:00:00:03:0{number}"));
    addresses
        .iter()
        .try_fold(link, |link, address| Ok(link.address(address.parse()?)))
}

/// The VIP of a family.
pub const fn vip(ipv6: bool) -> IpAddr {
    if ipv6 { VIP6 } else { VIP4 }
}
