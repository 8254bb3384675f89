//! What `status` and the metrics say of the election. Fields are only ever added.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// All virtual routers of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    pub routers: Vec<VirtualRouter>,
    /// Adverts that belong to none of them, by reason.
    pub stray_rejects: BTreeMap<String, u64>,
    /// Echo frames that were not used, by reason.
    pub echo_rejects: BTreeMap<String, u64>,
    /// Whether the election runs with real-time scheduling.
    pub realtime: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualRouter {
    /// VRID and family: `51/ipv4`.
    pub name: String,
    pub interface: String,
    pub addresses: Vec<IpAddr>,
    /// `initialize`, `backup`, `active` or `fault`.
    pub state: String,
    pub since_ms: u64,
    /// Why it is in this state.
    pub reason: String,
    /// The priority that is claimed now.
    pub priority: u8,
    /// After a handover: does not take part until `futago failover --to` this node.
    pub stands_down: bool,
    /// The active that is heard.
    pub peer: Option<IpAddr>,
    /// Checksum form of the peer's adverts: `rfc9568` or `rfc5798`.
    pub peer_checksum: Option<String>,
    /// How often each state was entered.
    pub transitions: BTreeMap<String, u64>,
    /// How often each state was entered, by reason.
    #[serde(default)]
    pub reasons: BTreeMap<String, BTreeMap<String, u64>>,
    /// Time spent in each state, the present one included, in milliseconds.
    pub time_ms: BTreeMap<String, u64>,
    /// How often something was worth a notice.
    pub notices: BTreeMap<String, u64>,
    pub paths: Vec<Path>,
    /// Adverts that were ignored, by reason.
    pub rejects: BTreeMap<String, u64>,
}

/// One way to ask a peer's dataplane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    pub node: String,
    pub interface: String,
    pub up: bool,
}
