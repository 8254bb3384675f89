//! The lab: hosts as network namespaces, bridges as switches, veth pairs as cables.
//!
//! Nothing of it is in the caller's namespace, so labs neither see each other nor the machine's network, and any number can
//! run at once. See [`claim`](crate::clean_all) for how it ends, and [`veth`](crate::veth) for how its cables are made
//! to behave like cables.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    claim::Claim,
    error::{Error, Result},
    host::{Cidr, Host, Interface, Role},
    veth, xdp,
};

/// A cable between a host and a switch.
#[derive(Clone, Debug)]
pub struct Link {
    mac: Option<String>,
    mtu: u32,
    addresses: Vec<Cidr>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            mac: None,
            mtu: 1500,
            addresses: Vec::new(),
        }
    }
}

impl Link {
    /// MTU 1500, a MAC of the kernel's choice, no addresses.
    pub fn new() -> Self {
        Self::default()
    }

    /// MAC address of the host's end, `02:00:00:00:01:10`.
    #[must_use]
    pub fn mac(mut self, mac: impl Into<String>) -> Self {
        self.mac = Some(mac.into());
        self
    }

    /// MTU of both ends, in bytes without the Ethernet header.
    #[must_use]
    pub fn mtu(mut self, bytes: u32) -> Self {
        self.mtu = bytes;
        self
    }

    /// Adds an address to the host's end.
    #[must_use]
    pub fn address(mut self, address: Cidr) -> Self {
        self.addresses.push(address);
        self
    }
}

/// Which frames a faulty cable loses; see [`Lab::cut`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the host sends.
    FromHost,
    /// What the host should receive.
    ToHost,
}

/// A set of hosts and switches that exists as long as this value, unless it is [kept](Lab::keep).
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    switches: Vec<Host>,
    kept: Arc<AtomicBool>,
    claim: Claim,
}

impl Lab {
    /// An empty lab, after removing what dead owners of earlier labs left behind.
    ///
    /// `name` becomes part of its id; it need not be unique.
    ///
    /// # Errors
    /// Not root, no iproute2, or leftovers that cannot be removed.
    pub fn new(name: &str) -> Result<Self> {
        check_name(name, "a lab", 20)?;
        let claim = Claim::take(name)?;
        Ok(Self {
            hosts: Vec::new(),
            switches: Vec::new(),
            kept: Arc::default(),
            claim,
        })
    }

    /// Unique among all labs of this machine.
    pub fn id(&self) -> &str {
        &self.claim.id
    }

    /// Directory for files of the lab as a whole (captures, configurations); every host's is below it.
    pub fn files(&self) -> &Path {
        &self.claim.files
    }

    /// Process that removes this lab when its owner has ended.
    pub fn watchdog_pid(&self) -> u32 {
        self.claim.watchdog_pid()
    }

    /// Adds a switch: one segment, no spanning tree, no multicast snooping, no addresses.
    ///
    /// # Errors
    /// The name is taken or unusable, or the kernel refuses.
    pub fn add_switch(&mut self, name: &str) -> Result<()> {
        self.check_new(name)?;
        let switch = Host::create(name, Role::Switch, &self.claim, &self.kept)?;
        switch.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        // A bridge takes the smallest MTU of its ports by itself, as long as nobody sets one.
        switch.ip(&[
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            "link set br0 up",
        ])?;
        self.switches.push(switch);
        Ok(())
    }

    /// Adds a host without interfaces other than lo.
    ///
    /// # Errors
    /// The name is taken or unusable, or the kernel refuses.
    pub fn add_host(&mut self, name: &str, role: Role) -> Result<Host> {
        self.check_new(name)?;
        let host = Host::create(name, role, &self.claim, &self.kept)?;
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// Connects a host to a switch by a new interface `eth0`, `eth1`, …
    ///
    /// # Errors
    /// No such host or switch, or the kernel refuses.
    pub fn connect(&self, host: &str, switch: &str, link: &Link) -> Result<Interface> {
        let (host, switch) = (self.host(host)?, self.switch(switch)?);
        let number = host.interfaces().len();
        let interface = Interface {
            name: format!("eth{number}"),
            switch: switch.name().into(),
            port: format!("{}.{number}", host.name()),
            addresses: link.addresses.clone(),
        };
        lay_cable(host, switch, &interface, link)?;
        host.add_interface(interface.clone());
        Ok(interface)
    }

    /// Takes an interface out of its host and puts another one of the same name, MAC, MTU and addresses in its place, as a
    /// driver does that is loaded anew. Routes through it are gone, apart from those of its addresses.
    ///
    /// # Errors
    /// No such host or interface, or the kernel refuses.
    pub fn reconnect(&self, host: &str, interface: &str) -> Result<()> {
        let host = self.host(host)?;
        let interface = host.interface(interface)?;
        let switch = self.switch(&interface.switch)?;
        let shown = host.run("ip", &["-o", "link", "show", "dev", &interface.name])?;
        let shown = String::from_utf8_lossy(&shown.stdout);
        let after = |word: &str| {
            let mut words = shown.split_whitespace().skip_while(|found| *found != word);
            words.nth(1).map(str::to_owned)
        };
        let link = Link {
            mac: after("link/ether"),
            mtu: after("mtu")
                .and_then(|mtu| mtu.parse().ok())
                .unwrap_or(1500),
            addresses: interface.addresses.clone(),
        };
        host.ip(&[format!("link del {}", interface.name)])?;
        // The port's program went with it; the pin of its link is what is left.
        let _ = std::fs::remove_file(port_pin(switch, &interface.port));
        lay_cable(host, switch, &interface, &link)
    }

    /// A host by name.
    ///
    /// # Errors
    /// There is none of that name; the text has those there are.
    pub fn host(&self, name: &str) -> Result<&Host> {
        find(&self.hosts, "host", name)
    }

    /// A switch by name, as the namespace that its bridge `br0` and its ports are in.
    ///
    /// # Errors
    /// There is none of that name; the text has those there are.
    pub fn switch(&self, name: &str) -> Result<&Host> {
        find(&self.switches, "switch", name)
    }

    /// All hosts in the order of adding.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// All switches in the order of adding.
    pub fn switches(&self) -> &[Host] {
        &self.switches
    }

    /// Hosts of one role in the order of adding.
    pub fn hosts_of(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |host| host.role() == role)
    }

    /// Pulls the cable out: both ends lose carrier.
    ///
    /// # Errors
    /// No such host or interface.
    pub fn unplug(&self, host: &str, interface: &str) -> Result<()> {
        self.port(host, interface, |port| format!("link set {port} down"))
    }

    /// Puts the cable back.
    ///
    /// # Errors
    /// No such host or interface.
    pub fn plug(&self, host: &str, interface: &str) -> Result<()> {
        self.port(host, interface, |port| format!("link set {port} up"))
    }

    /// Loses every frame of one direction while the carrier stays, as a broken path does.
    ///
    /// # Errors
    /// No such host or interface, nftables is missing, or that direction is cut already.
    pub fn cut(&self, host: &str, interface: &str, direction: Direction) -> Result<()> {
        let (switch, commands) = self.cut_commands(host, interface, direction)?;
        switch.run("nft", &[commands])?;
        Ok(())
    }

    /// As [`cut`](Self::cut), both directions in one moment; to be mended one by one.
    ///
    /// # Errors
    /// See [`cut`](Self::cut).
    pub fn cut_off(&self, host: &str, interface: &str) -> Result<()> {
        let (_, from) = self.cut_commands(host, interface, Direction::FromHost)?;
        let (switch, to) = self.cut_commands(host, interface, Direction::ToHost)?;
        // One call is one transaction.
        switch.run("nft", &[format!("{from}; {to}")])?;
        Ok(())
    }

    fn cut_commands(
        &self,
        host: &str,
        interface: &str,
        direction: Direction,
    ) -> Result<(&Host, String)> {
        let (switch, table, hook, port) = self.cut_place(host, interface, direction)?;
        let commands = format!(
            "create table netdev {table}; add chain netdev {table} lose {{ type filter hook {hook} device \"{port}\" priority 0; }}; add rule netdev {table} lose drop"
        );
        Ok((switch, commands))
    }

    /// Undoes [`cut`](Self::cut).
    ///
    /// # Errors
    /// That direction is not cut.
    pub fn mend(&self, host: &str, interface: &str, direction: Direction) -> Result<()> {
        let (switch, table, ..) = self.cut_place(host, interface, direction)?;
        switch.run("nft", &[format!("delete table netdev {table}")])?;
        Ok(())
    }

    fn cut_place(
        &self,
        host: &str,
        interface: &str,
        direction: Direction,
    ) -> Result<(&Host, String, &'static str, String)> {
        let interface = self.host(host)?.interface(interface)?;
        let switch = self.switch(&interface.switch)?;
        let hook = match direction {
            Direction::FromHost => "ingress",
            Direction::ToHost => "egress",
        };
        let table = format!("{hook}{}", switch.interface_index(&interface.port)?);
        Ok((switch, table, hook, interface.port))
    }

    fn port(&self, host: &str, interface: &str, command: impl Fn(&str) -> String) -> Result<()> {
        let interface = self.host(host)?.interface(interface)?;
        self.switch(&interface.switch)?
            .ip(&[command(&interface.port)])
    }

    /// Lets the lab, and the programs that run in it, outlive this process; returns how to enter and how to remove it, one
    /// command a line. Threads of this process that serve (such as an echo server) end with it all the same.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub fn keep(&mut self) -> Result<String> {
        self.claim.keep()?;
        self.kept.store(true, Ordering::Relaxed);
        Ok(self.how_to_enter())
    }

    /// One command a line: a shell in each host, and the lab's removal.
    pub fn how_to_enter(&self) -> String {
        let width = self
            .hosts
            .iter()
            .map(|host| host.name().len())
            .max()
            .unwrap_or(0);
        let mut text = String::new();
        for host in &self.hosts {
            // Not `ip netns exec`: it mounts a new /sys, and the bpffs below it is gone from sight.
            let _ = writeln!(
                text,
                "{:width$}  nsenter --net=/run/netns/{}",
                host.name(),
                host.namespace()
            );
        }
        let _ = writeln!(
            text,
            "{:width$}  sh {}/remove",
            "remove",
            self.claim.dir.display()
        );
        text
    }

    fn check_new(&self, name: &str) -> Result<()> {
        // A port is the host's name, a dot and a number, and an interface's name has at most 15 bytes.
        check_name(name, "a host or switch", 12)?;
        if self
            .hosts
            .iter()
            .chain(&self.switches)
            .any(|host| host.name() == name)
        {
            return Err(Error::BadName {
                name: name.into(),
                of: "another host or switch",
                rule: "each name once",
            });
        }
        Ok(())
    }
}

/// Where the link of a port's program is pinned.
fn port_pin(switch: &Host, port: &str) -> PathBuf {
    switch.bpffs().join(port.replace('.', "-"))
}

/// Name of a host's end while it is still at the switch.
const NEW: &str = "new0";

fn lay_cable(host: &Host, switch: &Host, interface: &Interface, link: &Link) -> Result<()> {
    let Interface { name, port, .. } = interface;
    let mac = link
        .mac
        .as_ref()
        .map(|mac| format!(" address {mac}"))
        .unwrap_or_default();
    let mtu = link.mtu;
    // Both ends begin at the switch: a daemon that waits for the interface in the host finds it complete. Once one end has a
    // program, the kernel refuses to change TSO at the other.
    switch.ip(&[format!(
        "link add name {NEW}{mac} mtu {mtu} type veth peer name {port} mtu {mtu}"
    )])?;
    veth::offloads_off(switch, NEW)?;
    xdp::attach(switch, port, &xdp::PASS, &port_pin(switch, port))?;
    veth::offloads_off(switch, port)?;
    let ours = host.namespace();
    switch.ip(&[
        format!("link set {port} master br0 up"),
        format!("link set {NEW} netns {ours} name {name}"),
    ])?;
    let mut commands = vec![format!("link set {name} up")];
    for address in &link.addresses {
        let nodad = if address.address.is_ipv6() {
            " nodad"
        } else {
            ""
        };
        commands.push(format!("addr add {address} dev {name}{nodad}"));
    }
    host.ip(&commands)
}

fn check_name(name: &str, of: &'static str, most: usize) -> Result<()> {
    let fits = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits && !name.is_empty() && name.len() <= most {
        return Ok(());
    }
    let rule = "a-z, 0-9 and -, at most 12 characters (a lab: 20)";
    Err(Error::BadName {
        name: name.into(),
        of,
        rule,
    })
}

fn find<'a>(among: &'a [Host], kind: &'static str, name: &str) -> Result<&'a Host> {
    among
        .iter()
        .find(|host| host.name() == name)
        .ok_or_else(|| Error::Unknown {
            kind,
            name: name.into(),
            known: among.iter().map(Host::name).collect::<Vec<_>>().join(", "),
        })
}
