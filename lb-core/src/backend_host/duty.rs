//! For which services is this host a backend, and how do their packets reach it?

use core::{fmt, net::IpAddr};
use std::collections::{BTreeMap, BTreeSet};

use lb_common::{
    address::Address,
    real_server::Key,
    wire::{
        PROTOCOL_GRE, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_UDP,
    },
};

use super::Host;
use crate::model::{BackendKey, Mode, Model, Service, ServiceKey, ServiceName};

/// How the packets of a service arrive at a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// To the server's own address and port; answers return through the load balancer.
    Translated,
    /// To the server's own address and port, from an address of the load balancer: answers find their way.
    Proxied,
    /// To the VIP, in frames to the server's MAC; answers go to the client.
    Direct,
    /// To the server's own address, with the code of the VIP as DSCP; answers go to the client.
    Coded,
    /// To the VIP, in packets to the server that are larger by this; answers go to the client.
    Tunnelled { overhead_bytes: u32 },
}

impl Arrival {
    /// `outer`: the backend's address, which the outer packet is of.
    pub fn of(mode: Mode, outer: IpAddr) -> Self {
        let tunnel = |shim_bytes: u32| Self::Tunnelled {
            overhead_bytes: shim_bytes + if outer.is_ipv4() { 20 } else { 40 },
        };
        match mode {
            Mode::Nat => Self::Translated,
            Mode::Snat => Self::Proxied,
            Mode::L2Dsr => Self::Direct,
            Mode::Ipip => tunnel(0),
            Mode::Gre => tunnel(4),
            Mode::Gue => tunnel(8),
            Mode::Dscp => Self::Coded,
        }
    }

    /// Whether packets still have the VIP as destination when the server's sockets see them.
    pub fn to_vip(self) -> bool {
        match self {
            Self::Translated | Self::Proxied => false,
            Self::Direct | Self::Coded | Self::Tunnelled { .. } => true,
        }
    }
}

/// One service that this host serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    pub service: ServiceName,
    pub key: ServiceKey,
    pub mode: Mode,
    pub arrival: Arrival,
    /// This host, as the service names it.
    pub backend: BackendKey,
    /// Where packets come in.
    pub interface: String,
    /// What packets in tunnels bear: their protocol and UDP port.
    pub tunnel: Option<(u8, u16)>,
    /// The DSCP that stands for the VIP; 0 if none does.
    pub mark: u8,
}

impl Duty {
    /// What the XDP program has to know for this.
    fn keys(&self) -> Vec<(Key, Address)> {
        let outer = Address::from(self.backend.address);
        if self.mark != 0 {
            let icmp = if self.key.vip.is_ipv4() {
                PROTOCOL_ICMP
            } else {
                PROTOCOL_ICMPV6
            };
            let protocol = self.key.protocol.number();
            let carried = [(protocol, self.key.port), (protocol, 0), (icmp, 0)];
            let mark = |(protocol, port)| Key::mark(outer, self.mark, protocol, port);
            return carried
                .map(|packet| (mark(packet), self.key.vip.into()))
                .into();
        }
        let Some((protocol, port)) = self.tunnel else {
            return Vec::new();
        };
        let keys = [
            Key::tunnel(outer, protocol, port),
            Key::vip(self.key.vip.into()),
        ];
        keys.map(|key| (key, Address::default())).into()
    }

    /// Whether somebody has to change its packets before the host's stack gets them.
    pub fn needs_program(&self) -> bool {
        self.tunnel.is_some() || self.mark != 0
    }

    /// Where a socket must listen.
    pub fn listens_at(&self) -> (IpAddr, u16) {
        if self.arrival.to_vip() {
            (self.key.vip, self.key.port)
        } else {
            (self.backend.address, self.backend.port)
        }
    }
}

/// `web 192.0.2.10:80/tcp, l2-dsr, as 192.0.2.21 on eth0`
impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service,
            key,
            mode,
            backend,
            interface,
            ..
        } = self;
        write!(
            f,
            "{service} {key}, {mode}, as {} on {interface}",
            backend.address
        )
    }
}

/// Which backend of the file this host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// Those whose addresses it has.
    Holder,
    Address(IpAddr),
    /// Those with this name.
    Name(&'a str),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABackend {
    #[error(
        "no backend has an address of this host ({}); the backends are {}. Say which one it is: --address or --name",
        list(.own),
        list(.backends)
    )]
    Stranger {
        own: BTreeSet<IpAddr>,
        backends: BTreeSet<IpAddr>,
    },
    #[error("no backend has the address {address}; the backends are {}", list(.backends))]
    NoSuchAddress {
        address: IpAddr,
        backends: BTreeSet<IpAddr>,
    },
    #[error("no backend has the name {name:?}; those with a name are {}", list(.names))]
    NoSuchName {
        name: String,
        names: BTreeSet<String>,
    },
    #[error(
        "no interface of this host has {address}; say by which its packets come in: --interface"
    )]
    NotHeld { address: IpAddr },
    #[error("there is no interface {name}; there are {}", list(.known))]
    NoSuchInterface {
        name: String,
        known: BTreeSet<String>,
    },
}

/// Long configurations are not repeated in a message.
fn list<T: fmt::Display>(all: &BTreeSet<T>) -> String {
    const SHOWN: usize = 8;
    let mut text: Vec<_> = all.iter().take(SHOWN).map(T::to_string).collect();
    match all.len() {
        0 => text.push("none".to_owned()),
        n if n > SHOWN => text.push(format!("{} more", n - SHOWN)),
        _ => {}
    }
    text.join(", ")
}

/// The services that `who` serves on this host, at least one, in the order of the file. `interface` is where packets come
/// in, where that is not the interface that has the backend's address.
pub fn duties(
    model: &Model,
    who: Who<'_>,
    interface: Option<&str>,
    host: &Host,
) -> Result<Vec<Duty>, NotABackend> {
    if let Some(name) = interface.filter(|name| !host.interfaces.contains_key(*name)) {
        return Err(NotABackend::NoSuchInterface {
            name: name.to_owned(),
            known: host.interfaces.keys().cloned().collect(),
        });
    }
    let is_meant = |address: IpAddr, name: Option<&str>| match who {
        Who::Holder => host.holder(address).is_some(),
        Who::Address(meant) => address == meant,
        Who::Name(meant) => name == Some(meant),
    };
    let mut found = Vec::new();
    for service in &model.services {
        for backend in &service.backends {
            if is_meant(backend.address, backend.name.as_deref()) {
                found.push(duty(service, backend.key(), interface, host)?);
            }
        }
    }
    if found.is_empty() {
        Err(not_found(model, who, host))
    } else {
        Ok(found)
    }
}

/// What the XDP program of a host with these duties has to know; empty if it needs none.
pub fn program_duties(duties: &[Duty]) -> BTreeMap<Key, Address> {
    duties.iter().flat_map(Duty::keys).collect()
}

/// Where the XDP program of a host with these duties has to run.
pub fn program_interfaces(duties: &[Duty]) -> BTreeSet<String> {
    let changed = duties.iter().filter(|duty| duty.needs_program());
    changed.map(|duty| duty.interface.clone()).collect()
}

/// Addresses that the active node holds for no service: what the file offers as the servers' gateway.
pub fn gateways(model: &Model) -> BTreeSet<IpAddr> {
    let services = model.held_addresses();
    let held = model.virtual_routers.iter().flat_map(|router| &router.vips);
    held.copied()
        .filter(|address| !services.contains(address) && !is_link_local(*address))
        .collect()
}

fn duty(
    service: &Service,
    backend: BackendKey,
    interface: Option<&str>,
    host: &Host,
) -> Result<Duty, NotABackend> {
    let address = backend.address;
    let interface = interface
        .or_else(|| host.holder(address))
        .ok_or(NotABackend::NotHeld { address })?;
    Ok(Duty {
        service: service.name.clone(),
        key: service.key(),
        mode: service.mode,
        arrival: Arrival::of(service.mode, address),
        backend,
        interface: interface.to_owned(),
        tunnel: tunnel(service),
        mark: service.dscp,
    })
}

/// Protocol and UDP port of a service's tunnels.
fn tunnel(service: &Service) -> Option<(u8, u16)> {
    match service.mode {
        Mode::Nat | Mode::Snat | Mode::L2Dsr | Mode::Dscp => None,
        Mode::Ipip if service.vip.is_ipv4() => Some((PROTOCOL_IPV4, 0)),
        Mode::Ipip => Some((PROTOCOL_IPV6, 0)),
        Mode::Gre => Some((PROTOCOL_GRE, 0)),
        Mode::Gue => Some((PROTOCOL_UDP, service.gue_port)),
    }
}

fn not_found(model: &Model, who: Who<'_>, host: &Host) -> NotABackend {
    let all = || model.services.iter().flat_map(|s| &s.backends);
    let backends = || all().map(|backend| backend.address).collect();
    match who {
        Who::Holder => {
            let held = host.interfaces.values().flat_map(|i| &i.addresses);
            NotABackend::Stranger {
                own: held
                    .map(|(address, _)| *address)
                    .filter(|address| !address.is_loopback() && !is_link_local(*address))
                    .collect(),
                backends: backends(),
            }
        }
        Who::Address(address) => NotABackend::NoSuchAddress {
            address,
            backends: backends(),
        },
        Who::Name(name) => NotABackend::NoSuchName {
            name: name.to_owned(),
            names: all().filter_map(|backend| backend.name.clone()).collect(),
        },
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
