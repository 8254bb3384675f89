//! The standard labs, and the only place that says which addresses they have.
//!
//! | who | front: 10.0.1.0/24, fd00:1::/64 | back: 10.0.2.0/24, fd00:2::/64 |
//! |---|---|---|
//! | gateway that an active balancer may hold | .1 | .1 |
//! | lb1, lb2 | .2, .3 | .2, .3 |
//! | client, client2, … | .10, .11, … | |
//! | server1, server2, … | | .21, .22, … |
//! | VIPs | .100 to .199 | |
//!
//! IPv6 ends in the same digits (`fd00:1::100`), and so do MACs (`02:00:00:00:01:10` is the client). With one segment, both
//! networks are on one switch and a balancer's `eth0` has an address in each (one-arm); with two, they are apart
//! and it has `eth0` and `eth1` (two-arm). Nothing else differs, so a test runs on either.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    error::Result,
    host::{Cidr, Host, Role},
    lab::{Lab, Link},
};

/// The first VIP, IPv4.
pub const VIP4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 100));
/// The first VIP, IPv6.
pub const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x100));

/// One or two switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// Clients, balancers and servers on the switch `lan`; balancers have one arm.
    One,
    /// Clients on `front`, servers on `back`; balancers have two arms and route between them.
    Two,
}

/// How servers answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServersAre {
    /// Hosts with a default route to the first balancer: what `nat` needs, and harmless for `snat`.
    BehindBalancer,
    /// Hosts with a way to the clients that does not pass a balancer, and nothing else: what `futago backend` makes real servers
    /// of. With two segments that way leads through the balancer's routing all the same.
    Plain,
    /// Holders of these VIPs on lo, which they neither answer ARP for nor announce (`arp_ignore=1`, `arp_announce=2`). They
    /// answer clients directly, which with two segments means through the balancer's routing.
    L2Dsr(Vec<IpAddr>),
}

/// What to build; the defaults are one client, one balancer, three servers in one segment, behind the balancer.
#[derive(Clone, Debug)]
pub struct Topology {
    segments: Segments,
    clients: u8,
    balancers: u8,
    servers: u8,
    servers_are: ServersAre,
    gateway: u8,
    mtu: u32,
}

impl Topology {
    /// The defaults with these segments.
    pub fn new(segments: Segments) -> Self {
        Self {
            segments,
            clients: 1,
            balancers: 1,
            servers: 3,
            servers_are: ServersAre::BehindBalancer,
            gateway: 2,
            mtu: 1500,
        }
    }

    /// Number of clients, at most 10.
    #[must_use]
    pub fn clients(mut self, count: u8) -> Self {
        self.clients = count.min(10);
        self
    }

    /// Number of balancers, at most 7.
    #[must_use]
    pub fn balancers(mut self, count: u8) -> Self {
        self.balancers = count.min(7);
        self
    }

    /// Number of servers, at most 70.
    #[must_use]
    pub fn servers(mut self, count: u8) -> Self {
        self.servers = count.min(70);
        self
    }

    /// How servers answer.
    #[must_use]
    pub fn servers_are(mut self, servers_are: ServersAre) -> Self {
        self.servers_are = servers_are;
        self
    }

    /// Routes of clients and servers lead to the address that the active balancer holds (.1), not to lb1 (.2). Nobody has
    /// that address until a daemon takes it.
    #[must_use]
    pub fn floating_gateway(mut self) -> Self {
        self.gateway = 1;
        self
    }

    /// MTU of every link, in bytes.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = bytes;
        self
    }

    /// Builds it. Hosts are `client`, `client2`, …; `lb1`, …; `server1`, …
    ///
    /// # Errors
    /// See [`Lab::new`].
    pub fn build(&self, name: &str) -> Result<Lab> {
        let mut lab = Lab::new(name)?;
        let (front, back) = match self.segments {
            Segments::One => ("lan", "lan"),
            Segments::Two => ("front", "back"),
        };
        lab.add_switch(front)?;
        if front != back {
            lab.add_switch(back)?;
        }
        for number in 0..self.clients {
            let name = if number == 0 {
                "client".into()
            } else {
                format!("client{}", number + 1)
            };
            let host = lab.add_host(&name, Role::Client)?;
            lab.connect(&name, front, &self.link(&[1], 10 + number))?;
            self.default_routes(&host, 1)?;
        }
        for number in 1..=self.balancers {
            let name = format!("lb{number}");
            let host = lab.add_host(&name, Role::Balancer)?;
            match self.segments {
                Segments::One => {
                    lab.connect(&name, front, &self.link(&[1, 2], 1 + number))?;
                }
                Segments::Two => {
                    lab.connect(&name, front, &self.link(&[1], 1 + number))?;
                    lab.connect(&name, back, &self.link(&[2], 1 + number))?;
                }
            }
            routes_packets(&host)?;
        }
        for number in 1..=self.servers {
            let name = format!("server{number}");
            let host = lab.add_host(&name, Role::Server)?;
            lab.connect(&name, back, &self.link(&[2], 20 + number))?;
            self.server(&host)?;
        }
        Ok(lab)
    }

    fn server(&self, host: &Host) -> Result<()> {
        self.default_routes(host, 2)?;
        let vips = match &self.servers_are {
            ServersAre::BehindBalancer => return Ok(()),
            ServersAre::Plain => return self.beside_clients(host),
            ServersAre::L2Dsr(vips) => vips,
        };
        for scope in ["all", "default", "eth0", "lo"] {
            host.sysctl(&format!("net.ipv4.conf.{scope}.arp_ignore"), "1")?;
            host.sysctl(&format!("net.ipv4.conf.{scope}.arp_announce"), "2")?;
        }
        for vip in vips {
            // The kernel answers neighbour solicitations only for addresses of the interface they came in by, so IPv6
            // needs no sysctl.
            let (prefix, nodad) = if vip.is_ipv4() {
                (32, "")
            } else {
                (128, " nodad")
            };
            host.ip(&[format!("addr add {vip}/{prefix} dev lo{nodad}")])?;
        }
        self.beside_clients(host)
    }

    fn beside_clients(&self, host: &Host) -> Result<()> {
        if self.segments == Segments::One {
            host.ip(&[
                "route add 10.0.1.0/24 dev eth0",
                "route add fd00:1::/64 dev eth0",
            ])?;
        }
        Ok(())
    }

    fn default_routes(&self, host: &Host, network: u8) -> Result<()> {
        let gateway = self.gateway;
        host.ip(&[
            format!("route add default via 10.0.{network}.{gateway}"),
            format!("route add ::/0 via fd00:{network}::{gateway}"),
        ])
    }

    fn link(&self, networks: &[u8], number: u8) -> Link {
        let first = networks.first().copied().unwrap_or(0);
        let link = Link::new()
            .mtu(self.mtu)
            .mac(format!("02:00:00:00:{first:02}:{number:02}"));
        networks.iter().fold(link, |link, network| {
            let v4 = Cidr {
                address: Ipv4Addr::new(10, 0, *network, number).into(),
                prefix: 24,
            };
            link.address(v4).address(Cidr {
                address: v6(*network, number),
                prefix: 64,
            })
        })
    }
}

/// `fd00:<network>::<number>` with the number's decimal digits, so that both families read alike.
fn v6(network: u8, number: u8) -> IpAddr {
    let digits = |n: u8| u16::from(n / 100) << 8 | u16::from(n / 10 % 10) << 4 | u16::from(n % 10);
    Ipv6Addr::new(0xfd00, digits(network), 0, 0, 0, 0, 0, digits(number)).into()
}

fn routes_packets(host: &Host) -> Result<()> {
    for (key, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        // A one-armed router would tell hosts of the other network on its wire to go past it.
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.default.send_redirects", "0"),
        ("net.ipv4.conf.eth0.send_redirects", "0"),
    ] {
        host.sysctl(key, value)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_end_in_the_same_digits() {
        assert_eq!(v6(1, 10).to_string(), "fd00:1::10");
        assert_eq!(v6(2, 21).to_string(), "fd00:2::21");
        assert_eq!(v6(1, 100), VIP6);
    }
}
