//! A pair of keepalived nodes in the place of Futago's. The kernels of the labs have no IPVS: the nodes themselves answer the
//! probes, which is no slower.

use std::{
    collections::BTreeMap,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use integration::{
    Direction, Error, Lab, Result, Role, Segments, Topology,
    keepalived::{Instance, Keepalived},
    pair::{self, Pair},
    server::Echo,
    topology::VIP4,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Peer {
    interval_ms: u32,
    running: BTreeMap<&'static str, Keepalived>,
    _servers: Vec<Echo>,
    pub lab: Lab,
}

impl Peer {
    /// lb1 is master when it returns.
    pub fn start(name: &str, interval_ms: u32) -> Result<Self> {
        let lab = Topology::new(Segments::One)
            .balancers(2)
            .servers(0)
            .build(name)?;
        let mut servers = Vec::new();
        for host in lab.hosts_of(Role::Balancer) {
            host.sysctl("net.ipv4.ip_nonlocal_bind", "1")?;
            servers.push(Echo::start(host, &[Pair::service()])?);
        }
        let mut peer = Self {
            interval_ms,
            running: BTreeMap::new(),
            _servers: servers,
            lab,
        };
        for node in ["lb1", "lb2"] {
            peer.start_daemon(node)?;
        }
        peer.wait_until_active("lb1")?;
        Ok(peer)
    }

    pub fn start_daemon(&mut self, node: &'static str) -> Result<()> {
        if self.running.contains_key(node) {
            // Its parent process has started it again.
            return Ok(());
        }
        let instance = Instance {
            interface: "eth0",
            virtual_router_id: 51,
            version: 3,
            priority: if node == "lb1" { 150 } else { 100 },
            interval_ms: self.interval_ms,
            addresses: vec![VIP4],
            unicast: None,
            password: None,
            use_vmac: false,
        };
        let started = Keepalived::start(self.lab.host(node)?, &instance)?;
        self.running.insert(node, started);
        Ok(())
    }

    pub fn stop_daemon(&mut self, node: &str) -> Result<()> {
        match self.running.remove(node) {
            Some(mut keepalived) => keepalived.stop(),
            None => Ok(()),
        }
    }

    /// The process that speaks VRRP; its parent starts another one.
    pub fn kill_daemon(&self, node: &str) -> Result<()> {
        let path = self.lab.host(node)?.files().join("keepalived-vrrp.pid");
        let pid = fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let killed = pid.map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        match killed {
            Some(Ok(())) => Ok(()),
            other => Err(Error::Unexpected {
                what: format!("cannot kill the process of {}: {other:?}", path.display()),
            }),
        }
    }

    pub fn die(&mut self, node: &'static str) -> Result<()> {
        self.lab.cut_off(node, "eth0")?;
        if let Some(mut keepalived) = self.running.remove(node) {
            // The parent first, or it would start the other one again.
            keepalived.process.kill()?;
            let _ = self.kill_daemon(node);
        }
        let _ = self
            .lab
            .host(node)?
            .ip(&[format!("addr del {VIP4}/32 dev eth0")]);
        Ok(())
    }

    pub fn boot(&mut self, node: &'static str) -> Result<()> {
        for direction in [Direction::FromHost, Direction::ToHost] {
            self.lab.mend(node, "eth0", direction)?;
        }
        self.start_daemon(node)
    }

    pub fn wait_until_active(&self, node: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            let mut right = true;
            for name in self.running.keys() {
                let host = self.lab.host(name)?;
                right &= host.enter(|| pair::has(VIP4))? == (*name == node);
            }
            if right {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::TimedOut {
                    what: format!("{node} is the master of keepalived's pair"),
                    limit: PATIENCE,
                    detail: String::new(),
                });
            }
            sleep(Duration::from_millis(5));
        }
    }
}
