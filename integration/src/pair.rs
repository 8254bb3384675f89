//! Two daemons and one address: the lab of the failover tests and drills.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_core::model::Mode;

use crate::{
    daemon::{Daemon, bpf_dir},
    error::Result,
    host::{Host, Role},
    lab::{Direction, Lab, Link},
    real_server,
    server::Echo,
    topology::{Segments, ServersAre, Topology, VIP4},
};

/// Port of the UDP service.
pub const PORT: u16 = 7;
/// Port of the TCP service.
pub const CROWD_PORT: u16 = 9;
/// The other way between the nodes: a cable of their own.
pub const SYNC: &str = "sync";

/// Interfaces of a node, the service's last: with it, adverts, echo and forwarding end in one moment.
const CABLES: [&str; 2] = ["eth1", "eth0"];

/// How the pair is configured.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub interval_ms: u32,
    /// With the echo over the service's interface and the cable between the nodes.
    pub echo: bool,
    /// Of both services.
    pub mode: Mode,
}

/// A client, two nodes, two servers.
pub struct Pair {
    pub daemons: BTreeMap<&'static str, Daemon>,
    pub options: Options,
    servers: Vec<Echo>,
    pub lab: Lab,
}

impl Pair {
    /// Builds the lab and starts both daemons; lb1 is active when it returns.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start(name: &str, options: Options) -> Result<Self> {
        let topology = Topology::new(Segments::One).balancers(2).servers(2);
        let mut lab = match options.mode {
            Mode::Nat => topology.floating_gateway(),
            Mode::L2Dsr => topology.servers_are(ServersAre::L2Dsr(vec![VIP4])),
            _ => topology.servers_are(ServersAre::Plain),
        }
        .build(name)?;
        lab.add_switch(SYNC)?;
        for (number, host) in [(2, "lb1"), (3, "lb2")] {
            lab.connect(
                host,
                SYNC,
                &Link::new().mac(format!("02:00:00:00:03:{number:02}")),
            )?;
        }
        let mut pair = Self {
            daemons: BTreeMap::new(),
            options,
            servers: Vec::new(),
            lab,
        };
        let text = pair.configuration()?;
        if !matches!(options.mode, Mode::Nat | Mode::L2Dsr) {
            for server in pair.lab.hosts_of(Role::Server) {
                real_server::set_up(server, &text)?;
            }
        }
        for (host, address) in pair.server_addresses(PORT)? {
            pair.servers.push(Echo::start(&host, &[address])?);
        }
        for node in ["lb1", "lb2"] {
            let daemon = Daemon::start(pair.lab.host(node)?, &text, &[])?;
            pair.daemons.insert(node, daemon);
        }
        pair.wait_until_active("lb1")?;
        Ok(pair)
    }

    /// Where clients connect to.
    pub const fn service() -> SocketAddr {
        SocketAddr::new(VIP4, PORT)
    }

    /// Where a crowd of TCP connections goes.
    pub const fn crowd() -> SocketAddr {
        SocketAddr::new(VIP4, CROWD_PORT)
    }

    /// Where each server receives what is sent to this port of the VIP.
    ///
    /// # Errors
    /// A server has no address.
    pub fn server_addresses(&self, port: u16) -> Result<Vec<(Host, SocketAddr)>> {
        let at = |host: &Host| {
            let address = match self.options.mode {
                Mode::Nat => host.ipv4()?,
                _ => VIP4,
            };
            Ok((host.clone(), SocketAddr::new(address, port)))
        };
        self.lab.hosts_of(Role::Server).map(at).collect()
    }

    fn configuration(&self) -> Result<String> {
        let mut text = String::new();
        // The servers' gateway goes where the VIP is.
        let gateway = match self.options.mode {
            Mode::Nat => ", \"10.0.2.1\"",
            _ => "",
        };
        for (node, priority) in [("lb1", 150), ("lb2", 100)] {
            text += &format!(
                "[node.{node}]\ninterfaces = [\"eth0\", \"eth1\"]\npriority = {priority}\necho_interfaces = [\"eth1\"]\n"
            );
        }
        text += &format!(
            "[[virtual_router]]\nid = 51\ninterval_ms = {}\nvips = [\"{VIP4}\"{gateway}]\n[dataplane]\nxdp = \"native\"\nslots = 4093\n",
            self.options.interval_ms
        );
        if self.options.echo {
            text += "[pair]\nkey = \"the key of the laboratory\"\n";
        }
        let (mode, encap) = self.options.mode.words();
        let encap = encap.map_or_else(String::new, |encap| format!("encap = \"{encap}\"\n"));
        for (name, port, protocol) in [("echo", PORT, "udp"), ("crowd", CROWD_PORT, "tcp")] {
            text += &format!(
                "[[service]]\nname = \"{name}\"\nvip = \"{VIP4}\"\nport = {port}\nprotocol = \"{protocol}\"\nmode = \"{mode}\"\n{encap}"
            );
            for server in self.lab.hosts_of(Role::Server) {
                text += &format!("[[service.backend]]\naddress = \"{}\"\n", server.ipv4()?);
            }
        }
        Ok(text)
    }

    /// Waits until a node says that it is active, and nobody else does.
    ///
    /// # Errors
    /// It is not within 30 s.
    pub fn wait_until_active(&self, node: &str) -> Result<()> {
        for (name, daemon) in &self.daemons {
            let wanted = if *name == node { "active" } else { "backup" };
            daemon.wait_until(
                &format!("{name} is {wanted}"),
                Duration::from_secs(30),
                |status| {
                    let election = status.election.as_ref();
                    election.is_some_and(|e| {
                        !e.routers.is_empty() && e.routers.iter().all(|r| r.state == wanted)
                    })
                },
            )?;
        }
        Ok(())
    }

    /// Starts a node's daemon after it ended.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self, node: &'static str) -> Result<()> {
        let daemon = Daemon::start_again(self.lab.host(node)?, &[])?;
        self.daemons.insert(node, daemon);
        Ok(())
    }

    /// What a power cut does: nothing leaves the host or reaches it any more. The switch keeps the port and its address table:
    /// with the port down it would flood what clients send, and the other node's program would forward it at once.
    ///
    /// # Errors
    /// The lab is broken.
    pub fn die(&mut self, node: &'static str) -> Result<()> {
        for interface in CABLES {
            self.lab.cut_off(node, interface)?;
        }
        if let Some(mut daemon) = self.daemons.remove(node) {
            daemon.process.kill()?;
        }
        // It may have been backup. A dead host has no addresses, and is not to be counted as one that has.
        let _ = self
            .lab
            .host(node)?
            .ip(&[format!("addr del {VIP4}/32 dev eth0")]);
        Ok(())
    }

    /// A boot after [`die`](Self::die): no addresses, no programs, and then the daemon.
    ///
    /// # Errors
    /// The lab is broken or the daemon does not start.
    pub fn boot(&mut self, node: &'static str) -> Result<()> {
        let _ = std::fs::remove_dir_all(bpf_dir(self.lab.host(node)?));
        for interface in CABLES {
            self.lab.mend(node, interface, Direction::FromHost)?;
            self.lab.mend(node, interface, Direction::ToHost)?;
        }
        self.start_again(node)
    }
}

/// Watches who holds an address.
pub struct Holders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<(Duration, bool)>>>,
}

/// How often it looks.
const LOOK: Duration = Duration::from_millis(2);

/// What [`Holders`] saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// How long more than one host had the address.
    pub dual_ms: f64,
    /// How often a host other than the first took it.
    pub takeovers: u64,
}

impl Holders {
    /// Watches these hosts; the first one is the one that should hold it.
    ///
    /// # Errors
    /// A host is gone.
    pub fn watch(hosts: &[Host], address: IpAddr) -> Result<Self> {
        let (stop, start) = (Arc::<AtomicBool>::default(), Instant::now());
        let threads = hosts
            .iter()
            .map(|host| {
                let stop = Arc::clone(&stop);
                host.thread(move || {
                    let mut changes = Vec::new();
                    let mut held = None;
                    while !stop.load(Ordering::Relaxed) {
                        let now = has(address);
                        if held != Some(now) {
                            changes.push((start.elapsed(), now));
                            held = Some(now);
                        }
                        std::thread::sleep(LOOK);
                    }
                    changes.push((start.elapsed(), false));
                    changes
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { stop, threads })
    }

    /// Ends it.
    pub fn stop(self) -> Held {
        self.stop.store(true, Ordering::Relaxed);
        let mut events: Vec<(Duration, i32)> = Vec::new();
        let mut takeovers = 0;
        for (number, thread) in self.threads.into_iter().enumerate() {
            let changes = thread.join().unwrap_or_default();
            let mut held = false;
            for (index, (at, now)) in changes.into_iter().enumerate() {
                if now != held {
                    events.push((at, if now { 1 } else { -1 }));
                    takeovers += u64::from(now && number > 0 && index > 0);
                }
                held = now;
            }
        }
        events.sort();
        let (mut count, mut since, mut dual) = (0, Duration::ZERO, Duration::ZERO);
        for (at, step) in events {
            if count > 1 {
                dual += at - since;
            }
            count += step;
            since = at;
        }
        Held {
            dual_ms: dual.as_secs_f64() * 1000.0,
            takeovers,
        }
    }
}

/// Whether an interface of the calling thread's namespace has an address.
pub fn has(address: IpAddr) -> bool {
    let Ok(list) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    list.filter_map(|one| one.address)
        .any(|found| match address {
            IpAddr::V4(v4) => found.as_sockaddr_in().is_some_and(|a| a.ip() == v4),
            IpAddr::V6(v6) => found.as_sockaddr_in6().is_some_and(|a| a.ip() == v6),
        })
}
