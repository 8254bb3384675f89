//! What a real server needs so that it can serve behind the load balancer, and what of that is missing on a given host.
//!
//! ```text
//! model + addresses of the host ─► duties ─┐
//! settings, listeners, routes of the host ─┴► findings, each with the steps that mend it
//! ```
//!
//! `futago backend` takes those steps that it may take, `futago backend --check` shows them all.

mod duty;
mod finding;
mod judge;
#[cfg(test)]
mod tests;

use core::{fmt, net::IpAddr};
use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    duty::{Arrival, Duty, NotABackend, Who, duties, gateways, program_duties, program_interfaces},
    finding::{Finding, Kind, Severity, Step},
    judge::{judge, settings_of_interest},
};
use crate::model::Protocol;
use lb_common::{address::Address, real_server::Key};

/// The name of the loopback interface, which cannot be renamed.
pub const LOOPBACK: &str = "lo";

/// A host as far as it matters to a server; read from the kernel by the caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// By name.
    pub interfaces: BTreeMap<String, Interface>,
    /// [`settings_of_interest`] with their values; one that this kernel does not have is absent.
    pub settings: BTreeMap<Setting, String>,
    pub default_routes: Vec<DefaultRoute>,
    pub listeners: BTreeSet<Listener>,
}

impl Host {
    /// The interface that has `address`.
    pub fn holder(&self, address: IpAddr) -> Option<&str> {
        let mut all = self.interfaces.iter();
        all.find(|(_, interface)| interface.addresses.iter().any(|(own, _)| *own == address))
            .map(|(name, _)| name.as_str())
    }
}

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Nobody can ask for its addresses: the loopback interface, or one without ARP and ND, such as a dummy.
    pub silent: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Addresses with their prefix lengths.
    pub addresses: BTreeSet<(IpAddr, u8)>,
    /// Who takes packets that come in here out of tunnels.
    pub decapsulates: Decapsulation,
}

/// Who takes packets out of tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Decapsulation {
    #[default]
    Nobody,
    /// A tunnel device of the kernel; whether it fits is not known.
    Device,
    /// Futago's XDP program, with these duties.
    Program(BTreeMap<Key, Address>),
}

/// A setting of the kernel under `net.<family>.conf`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setting {
    pub ipv6: bool,
    /// An interface, or `all`.
    pub scope: String,
    pub name: &'static str,
}

impl Setting {
    fn ipv4(scope: &str, name: &'static str) -> Self {
        Self {
            ipv6: false,
            scope: scope.to_owned(),
            name,
        }
    }

    fn ipv6(scope: &str, name: &'static str) -> Self {
        Self {
            ipv6: true,
            ..Self::ipv4(scope, name)
        }
    }
}

/// As sysctl(8) takes it: a dot within an interface name is written as a slash.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "ipv6" } else { "ipv4" };
        let scope = self.scope.replace('.', "/");
        write!(f, "net.{family}.conf.{scope}.{}", self.name)
    }
}

/// A default route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    /// The family that it routes, which need not be the gateway's.
    pub ipv6: bool,
    /// `None`: everything is on the link.
    pub gateway: Option<IpAddr>,
    pub interface: String,
    /// Lower wins.
    pub metric: u32,
    /// Largest TCP segment that this host tells peers to send, in bytes (`advmss`).
    pub advmss: Option<u32>,
}

/// A socket that takes new connections or any datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    pub protocol: Protocol,
    /// Unspecified: every address of its family. A socket on `::` that takes IPv4 as well is listed twice.
    pub address: IpAddr,
    pub port: u16,
}
