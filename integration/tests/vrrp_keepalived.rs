//! Futago and keepalived elect one active between them, in every flavour that both speak, and tshark reads what Futago
//! sends. Needs root.
//!
//! Each flavour runs twice, because the tie-break goes by the address: Futago on lb1 (the lower one), and on lb2.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use integration::{
    Direction, Host, Lab, Segments, Topology,
    capture::Capture,
    daemon::Daemon,
    keepalived::{Instance, Keepalived},
    pair,
    topology::{VIP4, VIP6},
};
use lb_userspace::vrrp::status::VirtualRouter;

const VRID: u8 = 51;
/// For a state to come about, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(30);
/// The link-local address that Futago makes of the VRID.
const LOCAL6: &str = "fe80::200:5eff:fe00:233";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Casting {
    Multicast,
    Unicast,
}

#[derive(Clone, Copy)]
struct Flavour {
    version: u8,
    vip: IpAddr,
    casting: Casting,
    interval_ms: u32,
    password: Option<&'static str>,
    /// Form of Futago's checksum.
    checksum: &'static str,
    /// Of Futago, and of keepalived.
    virtual_mac: [bool; 2],
}

const V3: Flavour = Flavour {
    version: 3,
    vip: VIP4,
    casting: Casting::Multicast,
    interval_ms: 300,
    password: None,
    checksum: "rfc5798",
    virtual_mac: [false; 2],
};
const V2: Flavour = Flavour {
    version: 2,
    interval_ms: 1000,
    ..V3
};

#[test]
fn v3_ipv4_multicast() -> Result<()> {
    both_orders(V3)
}

/// keepalived 2.2.7 refuses the form of RFC 9568, and tshark 4.0 calls it bad: both expect the pseudo-header of RFC 5798.
/// Futago hears keepalived all the same, and says which form it sends.
#[test]
fn v3_checksum_of_rfc_9568() -> Result<()> {
    let flavour = Flavour {
        checksum: "rfc9568",
        ..V3
    };
    let mut scene = Scene::build(flavour, "lb1", "lb2")?;
    let capture = scene.capture()?;
    scene.start_futago(100)?;
    scene.we_are("active", "adverts_stopped")?;
    scene.start_keepalived(150)?;
    scene.we_are("backup", "higher_priority")?;
    let heard = scene.router()?;
    ensure!(
        heard.peer_checksum.as_deref() == Some("rfc5798"),
        "{heard:?}"
    );
    let log = scene.keepalived.as_ref().map(|k| k.process.log());
    ensure!(
        log.is_some_and(|log| log.contains("Invalid VRRPv3 checksum")),
        "keepalived has learned it: say so in docs/failover.md"
    );
    let own = scene.address("lb1")?.to_string();
    let fields = ["ip.src", "vrrp.checksum.status", "_ws.malformed"];
    let ours: Vec<_> = capture
        .fields("vrrp", &fields)?
        .into_iter()
        .filter(|packet| packet.first() == Some(&own))
        .collect();
    ensure!(!ours.is_empty(), "no advert of ours");
    for packet in ours {
        ensure!(
            packet.get(1).is_some_and(|status| status == "0"),
            "{packet:?}"
        );
        ensure!(packet.get(2).is_none_or(String::is_empty), "{packet:?}");
    }
    Ok(())
}

#[test]
fn v3_ipv4_unicast() -> Result<()> {
    both_orders(Flavour {
        casting: Casting::Unicast,
        ..V3
    })
}

#[test]
fn v3_ipv6_multicast() -> Result<()> {
    both_orders(Flavour { vip: VIP6, ..V3 })
}

#[test]
fn v3_ipv6_unicast() -> Result<()> {
    both_orders(Flavour {
        vip: VIP6,
        casting: Casting::Unicast,
        ..V3
    })
}

#[test]
fn v2_multicast() -> Result<()> {
    both_orders(V2)
}

#[test]
fn v2_unicast() -> Result<()> {
    both_orders(Flavour {
        casting: Casting::Unicast,
        ..V2
    })
}

#[test]
fn v2_with_a_password() -> Result<()> {
    both_orders(Flavour {
        password: Some("secret"),
        ..V2
    })
}

#[test]
fn virtual_mac_of_futago() -> Result<()> {
    both_orders(Flavour {
        virtual_mac: [true, false],
        ..V3
    })
}

#[test]
fn virtual_mac_of_keepalived() -> Result<()> {
    both_orders(Flavour {
        virtual_mac: [false, true],
        ..V3
    })
}

#[test]
fn virtual_mac_of_both() -> Result<()> {
    both_orders(Flavour {
        virtual_mac: [true, true],
        ..V3
    })
}

#[test]
fn virtual_mac_of_both_ipv6() -> Result<()> {
    both_orders(Flavour {
        virtual_mac: [true, true],
        vip: VIP6,
        ..V3
    })
}

fn both_orders(flavour: Flavour) -> Result<()> {
    thread::scope(|scope| {
        let orders = [("lb1", "lb2"), ("lb2", "lb1")];
        let running =
            orders.map(|(ours, theirs)| scope.spawn(move || Scene::play(flavour, ours, theirs)));
        for ((ours, _), run) in orders.into_iter().zip(running) {
            let outcome = run.join();
            outcome
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                .with_context(|| format!("Futago is {ours}"))?;
        }
        Ok(())
    })
}

/// Futago on one host, keepalived on the other.
struct Scene {
    flavour: Flavour,
    ours: &'static str,
    theirs: &'static str,
    futago: Option<Daemon>,
    keepalived: Option<Keepalived>,
    lab: Lab,
}

impl Scene {
    fn build(flavour: Flavour, ours: &'static str, theirs: &'static str) -> Result<Self> {
        let lab = Topology::new(Segments::One)
            .balancers(2)
            .servers(0)
            .build("keepalived")?;
        Ok(Self {
            flavour,
            ours,
            theirs,
            futago: None,
            keepalived: None,
            lab,
        })
    }

    /// Of every advert on the wire.
    fn capture(&self) -> Result<Capture> {
        let filter = "ip proto 112 or ip6 proto 112";
        Ok(Capture::start(self.lab.switch("lan")?, "br0", filter)?)
    }

    fn play(flavour: Flavour, ours: &'static str, theirs: &'static str) -> Result<()> {
        let mut scene = Self::build(flavour, ours, theirs)?;
        let capture = scene.capture()?;

        scene.start_futago(100)?;
        scene.we_are("active", "adverts_stopped")?;
        scene.answers_with(flavour.virtual_mac[0])?;

        scene.start_keepalived(150)?;
        scene.we_are("backup", "higher_priority")?;
        scene.they_hold(true)?;
        let heard = scene.router()?;
        ensure!(heard.peer == Some(scene.their_address()?), "{heard:?}");
        let form = (flavour.version == 3).then(|| "rfc5798".to_owned());
        ensure!(heard.peer_checksum == form, "{heard:?}");
        scene.answers_with(flavour.virtual_mac[1])?;

        // Priority 0.
        scene.stop_keepalived()?;
        scene.we_are("active", "peer_yielded")?;

        scene.start_keepalived(50)?;
        thread::sleep(scene.intervals(6));
        scene.they_hold(false)?;
        scene.we_are("active", "peer_yielded")?;

        scene.stop_futago()?;
        scene.they_hold(true)?;

        scene.start_futago(100)?;
        scene.we_are("active", "preempted")?;
        scene.they_hold(false)?;

        scene.stop_keepalived()?;
        scene.start_keepalived(100)?;
        scene.tie_break()?;

        let rejected = scene.router()?.rejects;
        ensure!(rejected.is_empty(), "{rejected:?}");
        let log = scene
            .keepalived
            .as_ref()
            .map(|k| k.process.log())
            .unwrap_or_default();
        for complaint in ["invalid", "checksum", "error", "mismatch", "incorrect"] {
            ensure!(!log.to_lowercase().contains(complaint), "{log}");
        }
        scene.dissected(capture)
    }

    /// Both become active while they do not hear each other; the higher address stays so.
    fn tie_break(&mut self) -> Result<()> {
        let both = [Direction::ToHost, Direction::FromHost];
        for direction in both {
            self.lab.cut(self.theirs, "eth0", direction)?;
        }
        self.they_hold(true)?;
        self.we_are("active", "preempted")?;
        for direction in both {
            self.lab.mend(self.theirs, "eth0", direction)?;
        }
        if self.ours > self.theirs {
            self.they_hold(false)?;
            self.we_are("active", "preempted")
        } else {
            self.we_are("backup", "lost_tie_break")?;
            self.they_hold(true)
        }
    }

    fn start_futago(&mut self, priority: u8) -> Result<()> {
        let Flavour {
            version,
            vip,
            interval_ms,
            password,
            checksum,
            ..
        } = self.flavour;
        let host = self.lab.host(self.ours)?;
        let mut text = format!(
            "[node.{}]\ninterfaces = [\"eth0\"]\nxdp = \"native\"\npriority = {priority}\n[[virtual_router]]\nid = {VRID}\n\
             vips = [\"{vip}\"]\nversion = {version}\ninterval_ms = {interval_ms}\nchecksum = \"{checksum}\"\nvirtual_mac = {}\n",
            host.name(),
            self.flavour.virtual_mac[0]
        );
        if self.flavour.casting == Casting::Unicast {
            let peers = [self.address(self.ours)?, self.address(self.theirs)?];
            text += &format!("peers = [\"{}\", \"{}\"]\n", peers[0], peers[1]);
        }
        if let Some(password) = password {
            text += &format!("auth = \"{password}\"\n");
        }
        self.futago = Some(Daemon::start(host, &text, &[])?);
        Ok(())
    }

    fn stop_futago(&mut self) -> Result<()> {
        let mut daemon = self.futago.take().context("Futago runs")?;
        let status = daemon.process.terminate(PATIENCE)?;
        ensure!(status.success(), "{status}");
        Ok(())
    }

    fn start_keepalived(&mut self, priority: u8) -> Result<()> {
        let Flavour {
            version,
            vip,
            interval_ms,
            password,
            ..
        } = self.flavour;
        let local = (vip.is_ipv6()).then(|| LOCAL6.parse()).transpose()?;
        let unicast = match self.flavour.casting {
            Casting::Multicast => None,
            Casting::Unicast => Some((self.address(self.theirs)?, self.address(self.ours)?)),
        };
        let instance = Instance {
            interface: "eth0",
            virtual_router_id: VRID,
            version,
            priority,
            interval_ms,
            addresses: local.into_iter().chain([vip]).collect(),
            unicast,
            password,
            use_vmac: self.flavour.virtual_mac[1],
        };
        self.keepalived = Some(Keepalived::start(self.lab.host(self.theirs)?, &instance)?);
        Ok(())
    }

    fn stop_keepalived(&mut self) -> Result<()> {
        self.keepalived.take().context("keepalived runs")?.stop()?;
        Ok(())
    }

    fn intervals(&self, count: u32) -> Duration {
        Duration::from_millis(self.flavour.interval_ms.into()) * count
    }

    fn router(&self) -> Result<VirtualRouter> {
        let status = self.futago.as_ref().context("Futago runs")?.status()?;
        let routers = status.election.context("an election")?.routers;
        routers.into_iter().next().context("a virtual router")
    }

    fn we_are(&self, state: &str, reason: &str) -> Result<()> {
        let found = self.eventually(|| {
            let router = self.router()?;
            let held = holds(self.lab.host(self.ours)?, self.flavour.vip)?;
            Ok(router.state == state && router.reason == reason && held == (state == "active"))
        })?;
        if !found {
            bail!(
                "Futago is not {state} because of {reason}: {:?}\n{}\n{}",
                self.router()?,
                self.futago.as_ref().context("Futago runs")?.process.log(),
                self.keepalived
                    .as_ref()
                    .map(|k| k.process.log())
                    .unwrap_or_default()
            );
        }
        Ok(())
    }

    fn they_hold(&self, wanted: bool) -> Result<()> {
        let host = self.lab.host(self.theirs)?;
        if !self.eventually(|| Ok(holds(host, self.flavour.vip)? == wanted))? {
            let log = self.keepalived.as_ref().map(|k| k.process.log());
            bail!(
                "keepalived holds {}: not {wanted}\n{}",
                self.flavour.vip,
                log.unwrap_or_default()
            );
        }
        Ok(())
    }

    fn eventually(&self, is: impl Fn() -> Result<bool>) -> Result<bool> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if is()? {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }

    /// The client reaches the address, at the virtual MAC address or at another.
    fn answers_with(&self, virtual_mac: bool) -> Result<()> {
        let client = self.lab.host("client")?;
        let vip = self.flavour.vip.to_string();
        let last = if self.flavour.vip.is_ipv4() { 1 } else { 2 };
        let mac = format!("00:00:5e:00:0{last}:{VRID:02x}");
        let right = self.eventually(|| {
            // What it learned before may be gone with the one who had it.
            client.ip(&["neigh flush all"])?;
            let answered = client.run("ping", &["-c1", "-W1", &vip]).is_ok();
            let shown = client.run("ip", &["neigh", "show", &vip])?;
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            Ok(answered && shown.contains("lladdr") && shown.contains(&mac) == virtual_mac)
        })?;
        ensure!(
            right,
            "{vip} does not answer, or not with the right MAC address"
        );
        Ok(())
    }

    /// What a host's adverts come from in unicast.
    fn address(&self, host: &str) -> Result<IpAddr> {
        let host = self.lab.host(host)?;
        Ok(if self.flavour.vip.is_ipv4() {
            host.ipv4()?
        } else {
            host.ipv6()?
        })
    }

    /// What keepalived's adverts come from.
    fn their_address(&self) -> Result<IpAddr> {
        if self.flavour.vip.is_ipv4() || self.flavour.casting == Casting::Unicast {
            return self.address(self.theirs);
        }
        link_local(self.lab.host(self.theirs)?)
    }

    /// tshark finds our adverts well-formed, with the fields as they should be.
    fn dissected(&self, capture: Capture) -> Result<()> {
        let fields = [
            "ip.src",
            "ipv6.src",
            "ip.ttl",
            "ipv6.hlim",
            "vrrp.version",
            "vrrp.prio",
            "vrrp.checksum.status",
            "_ws.expert.message",
            "_ws.malformed",
            "eth.src",
        ];
        let own = if self.flavour.vip.is_ipv4() || self.flavour.casting == Casting::Unicast {
            self.address(self.ours)?
        } else {
            link_local(self.lab.host(self.ours)?)?
        };
        let own = own.to_string();
        let (mut seen, mut resigned) = (0, 0);
        for packet in capture.fields("vrrp", &fields)? {
            let at = |index: usize| packet.get(index).map(String::as_str).unwrap_or_default();
            if ![at(0), at(1)].contains(&own.as_str()) {
                continue;
            }
            seen += 1;
            resigned += u32::from(at(5) == "0");
            let good = [at(2), at(3)].contains(&"255")
                && at(4) == self.flavour.version.to_string()
                && at(6) == "1"
                && at(7).is_empty()
                && at(8).is_empty();
            let from_virtual = at(9).starts_with("00:00:5e:00:0");
            ensure!(
                good && from_virtual == self.flavour.virtual_mac[0],
                "tshark of our advert: {packet:?}"
            );
        }
        ensure!(
            seen > 9 && resigned > 0,
            "{seen} adverts, {resigned} of priority 0"
        );
        Ok(())
    }
}

fn link_local(host: &Host) -> Result<IpAddr> {
    let found = host.enter(|| {
        let list = nix::ifaddrs::getifaddrs().ok()?;
        list.filter(|one| one.interface_name == "eth0")
            .filter_map(|one| Some(one.address?.as_sockaddr_in6()?.ip()))
            .find(|ip| ip.is_unicast_link_local() && ip.to_string() != LOCAL6)
    })?;
    found.map(IpAddr::V6).context("a link-local address")
}

fn holds(host: &Host, address: IpAddr) -> Result<bool> {
    Ok(host.enter(|| pair::has(address))?)
}
