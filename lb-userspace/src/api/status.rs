//! What `futago status` and `GET /v1/status` say. Fields are only ever added.

use std::net::IpAddr;

use lb_core::{
    drain, health,
    model::{Mode, OnDrainEnd, Protocol},
};
use serde::{Deserialize, Serialize};

use crate::vrrp::status::Election;

/// The state of one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub version: String,
    /// Since the daemon started, in seconds.
    pub uptime_s: u64,
    /// Digest of the configuration in force, in hexadecimal: equal on both nodes of a pair.
    pub config_digest: String,
    /// Whether the daemon took over maps that an earlier one had left.
    pub adopted: bool,
    pub interfaces: Vec<InterfaceStatus>,
    pub services: Vec<ServiceStatus>,
    pub reasons: Vec<ReasonStatus>,
    /// The tables of flows, as of the last round through them.
    #[serde(default)]
    pub flow_tables: Vec<FlowTableStatus>,
    /// Flows that were forgotten since the daemon started: silent for too long, or not needed any more.
    #[serde(default)]
    pub flows_removed: u64,
    /// Who holds which address; `null` without a `[[virtual_router]]`.
    #[serde(default)]
    pub election: Option<Election>,
}

/// How full a table of flows is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowTableStatus {
    /// `flows_ipv4`, for example.
    pub table: String,
    /// A connection of `snat` has two.
    pub entries: u64,
    pub capacity: u64,
}

/// An interface of the node's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `native`, `generic`, or `absent` while there is no such interface.
    pub xdp: String,
    pub program_id: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub mode: Mode,
    pub packets: u64,
    pub bytes: u64,
    /// Why the last change of this service could not be written, if so; the one before is in force.
    pub error: Option<String>,
    /// Slots that a change of backends has not done with.
    #[serde(default)]
    pub slots_in_change: u64,
    pub backends: Vec<BackendStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendStatus {
    pub name: Option<String>,
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
    /// `up`, `down`, or `unknown` before the first probe.
    pub state: health::State,
    /// For how long it has been in this state, in milliseconds.
    pub since_ms: u64,
    /// The last failure, or why there is no next hop.
    pub reason: Option<String>,
    /// Why it takes no new connections although it is up; `null` if it takes them.
    #[serde(default)]
    pub drain: Option<DrainStatus>,
    /// Share of the service's slots, 0 to 1.
    pub share: f64,
    pub packets: u64,
    pub bytes: u64,
}

/// A drain that somebody asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainStatus {
    /// `file` or `command`.
    pub origin: drain::Origin,
    pub since_ms: u64,
    /// Until the connections that are left are reset or moved; `null`: they stay until they end.
    pub left_ms: Option<u64>,
    /// Their time is over.
    pub over: bool,
    /// What becomes of them then: `reset` or `rehash`.
    pub at_end: OnDrainEnd,
}

/// How many packets left the packet path for one reason.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReasonStatus {
    pub reason: String,
    /// `forwarded`, `passed` or `dropped`.
    pub class: String,
    pub packets: u64,
    pub bytes: u64,
    pub explanation: String,
}
