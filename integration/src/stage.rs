//! A lab in which everything stands that a service needs: servers that answer, a daemon that forwards. Tests and the demo
//! start from here.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use lb_core::model::Mode;

use crate::{
    daemon::{self, Daemon, Service},
    error::{Context, Error, Result},
    host::{Host, Role},
    lab::Lab,
    real_server,
    server::{self, Echo, Nginx},
    topology::{Segments, ServersAre, Topology, VIP4, VIP6},
};

/// Port of nginx behind both VIPs.
pub const HTTP: u16 = 80;
/// Port of the echo servers behind both VIPs.
pub const ECHO: u16 = 7;

/// A client, a balancer that runs the daemon, and servers.
///
/// The services are `web4` and `web6` (nginx), `echo4` and `echo6` (UDP).
#[derive(Debug)]
pub struct Stage {
    pub mode: Mode,
    pub daemon: Daemon,
    /// In the order of the servers, `server1` first.
    pub nginx: Vec<Nginx>,
    /// In the order of the servers.
    pub echo: Vec<Echo>,
    pub services: Vec<Service>,
    pub lab: Lab,
}

/// A lab of three servers for this mode.
///
/// # Errors
/// See [`Lab::new`].
pub fn lab(name: &str, mode: Mode, segments: Segments) -> Result<Lab> {
    let servers_are = match extra_addresses(mode) {
        [] => ServersAre::BehindBalancer,
        vips if mode == Mode::L2Dsr => ServersAre::L2Dsr(vips.to_vec()),
        _ => ServersAre::Plain,
    };
    Topology::new(segments).servers_are(servers_are).build(name)
}

/// The addresses that servers of this mode have beside their own.
pub const fn extra_addresses(mode: Mode) -> &'static [IpAddr] {
    match mode {
        Mode::Nat | Mode::Snat => &[],
        Mode::L2Dsr | Mode::Ipip | Mode::Gre | Mode::Gue | Mode::Dscp => &[VIP4, VIP6],
    }
}

/// Makes real servers of the servers of a [`lab`] whose mode needs more than it gives them.
///
/// # Errors
/// `futago backend` refuses.
pub fn prepare_servers(lab: &Lab, mode: Mode, configuration: &str) -> Result<()> {
    if extra_addresses(mode).is_empty() || mode == Mode::L2Dsr {
        return Ok(());
    }
    for host in lab.hosts_of(Role::Server) {
        real_server::set_up(host, configuration)?;
    }
    Ok(())
}

/// The VIP of a family with a port.
pub const fn vip(ipv6: bool, port: u16) -> SocketAddr {
    SocketAddr::new(if ipv6 { VIP6 } else { VIP4 }, port)
}

impl Stage {
    /// Builds the lab, starts servers and daemon, and waits until all backends are up. nginx serves `big` as `/big`.
    ///
    /// # Errors
    /// Any of it does not come up.
    pub fn build(
        name: &str,
        mode: Mode,
        segments: Segments,
        big: Option<usize>,
    ) -> Result<(Self, String)> {
        let lab = lab(name, mode, segments)?;
        let file = lab.files().join("big");
        let sha256 = match big {
            Some(mebibytes) => server::big_file(&file, mebibytes)?,
            None => String::new(),
        };
        let stage = Self::in_lab(lab, mode, big.map(|_| file.as_path()))?;
        Ok((stage, sha256))
    }

    fn in_lab(lab: Lab, mode: Mode, big: Option<&Path>) -> Result<Self> {
        let mut services = Vec::new();
        for (family, ipv6) in [("4", false), ("6", true)] {
            let web = vip(ipv6, HTTP);
            services.push(Service::over_servers(
                &lab,
                &format!("web{family}"),
                web,
                mode,
            )?);
            let udp = Service::over_servers(&lab, "", vip(ipv6, ECHO), mode)?;
            services.push(udp.udp(&format!("echo{family}")));
        }
        let lb = lab.host("lb1")?;
        let configuration = daemon::configuration(lb, &services);
        prepare_servers(&lab, mode, &configuration)?;
        let extra = extra_addresses(mode);
        let nginx = server::nginx_everywhere(lab.hosts_of(Role::Server), extra, HTTP, big)?;
        let echo = lab
            .hosts_of(Role::Server)
            .map(|host| echo(host, extra))
            .collect::<Result<_>>()?;
        let daemon = Daemon::start(lb, &configuration, &[])?;
        daemon.wait_until_up()?;
        Ok(Self {
            mode,
            daemon,
            nginx,
            echo,
            services,
            lab,
        })
    }

    pub fn client(&self) -> Result<&Host> {
        self.lab.host("client")
    }

    pub fn balancer(&self) -> Result<&Host> {
        self.lab.host("lb1")
    }

    /// The configuration in force, with other services.
    ///
    /// # Errors
    /// There is no balancer.
    pub fn configuration(&self, services: &[Service]) -> Result<String> {
        Ok(daemon::configuration(self.balancer()?, services))
    }
}

/// An echo server on a host's own addresses and the extra ones, at [`ECHO`].
///
/// # Errors
/// See [`Echo::start`].
pub fn echo(host: &Host, extra: &[IpAddr]) -> Result<Echo> {
    let own = [host.ipv4()?, host.ipv6()?];
    let addresses: Vec<_> = own
        .iter()
        .chain(extra)
        .map(|address| SocketAddr::new(*address, ECHO))
        .collect();
    Echo::start(host, &addresses)
}

/// A counter of a host's TCP, such as `RetransSegs`, from `/proc/net/snmp`.
///
/// # Errors
/// The host is gone, or there is no such counter.
pub fn tcp_counter(host: &Host, name: &str) -> Result<u64> {
    let text = host
        .enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))?
        .context(|| format!("read the TCP counters of {}", host.name()))?;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (
        rows.next().unwrap_or_default(),
        rows.next().unwrap_or_default(),
    );
    names
        .split(' ')
        .zip(values.split(' '))
        .find(|(known, _)| *known == name)
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| Error::Unexpected {
            what: format!("{} has no TCP counter {name}", host.name()),
        })
}

/// Runs `done` until it says so.
///
/// # Errors
/// It does not within `limit`.
pub fn wait_until(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = std::time::Instant::now() + limit;
    while !done()? {
        if std::time::Instant::now() >= deadline {
            return Err(Error::TimedOut {
                what: what.to_owned(),
                limit,
                detail: String::new(),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
