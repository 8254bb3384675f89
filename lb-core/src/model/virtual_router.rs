//! Who holds the VIPs: the virtual routers of the pair, and what its nodes need to speak with each other.

use core::{fmt, net::IpAddr, time::Duration};
use std::collections::BTreeMap;

use serde::Serialize;

use super::{NodeName, ServiceName};
use crate::vrrp::{
    Family,
    announce::AnnounceConfig,
    codec::{Auth, ChecksumForm, Version, Wire},
};

/// RFC 9568 §5.2.4.
pub const DEFAULT_PRIORITY: u8 = 100;

/// Addresses that move from node to node together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualRouter {
    /// VRID, 1..=255, unique within its family.
    pub id: u8,
    /// At least one; all of one family.
    pub vips: Vec<IpAddr>,
    /// `None`: each node's `vip_interface`.
    pub interface: Option<String>,
    pub version: Version,
    /// As the version can say it.
    pub interval: Duration,
    /// 1..=255, for every node.
    pub priority: BTreeMap<NodeName, u8>,
    pub preempt: bool,
    pub preempt_delay: Duration,
    /// Addresses of all nodes, of the VIPs' family; empty: multicast.
    pub peers: Vec<IpAddr>,
    pub checksum: ChecksumForm,
    /// Version 2 only; at most 8 bytes.
    #[serde(skip)]
    pub auth: Option<String>,
    /// At least four intervals.
    pub lease: Duration,
    pub announce_repeats: u8,
    pub announce_gap: Duration,
    pub announce_refresh: Option<Duration>,
    pub sync_group: Option<String>,
    /// Never with `peers`.
    pub virtual_mac: bool,
    /// Whether the active takes packets to the addresses that no service has.
    pub accept: bool,
    pub tracks: Vec<Track>,
}

impl VirtualRouter {
    pub fn family(&self) -> Family {
        match self.vips.first() {
            Some(IpAddr::V6(_)) => Family::V6,
            _ => Family::V4,
        }
    }

    pub fn wire(&self) -> Wire {
        match self.version {
            Version::V2 => Wire::V2 {
                auth: self.auth.as_ref().map_or(Auth::None, |text| {
                    let mut padded = [0; 8];
                    for (place, byte) in padded.iter_mut().zip(text.bytes()) {
                        *place = byte;
                    }
                    Auth::SimpleText(padded)
                }),
            },
            Version::V3 => Wire::V3 {
                checksum: self.checksum,
            },
        }
    }

    pub const fn announce(&self) -> AnnounceConfig {
        AnnounceConfig {
            repeats: self.announce_repeats,
            gap: self.announce_gap,
            refresh: self.announce_refresh,
        }
    }

    /// How people and metrics call it.
    pub fn name(&self) -> String {
        let family = match self.family() {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        format!("{}/{family}", self.id)
    }
}

/// Something that must be well for a node to be active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Track {
    pub kind: TrackKind,
    /// Lowers the priority while it is not well; `None`: takes the node out of the election.
    pub lower: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackKind {
    /// It has a link.
    Interface(String),
    /// It has at least this many healthy backends.
    Service { name: ServiceName, min_healthy: u16 },
    /// It exists.
    File(String),
    /// It ends with exit code 0.
    Script { program: String, pace: Pace },
    /// It answers ping.
    Gateway { address: IpAddr, pace: Pace },
}

/// How something is asked again and again, and how often in a row it has to say so until it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Pace {
    /// An answer has to come within it.
    pub interval: Duration,
    pub fall: u8,
    pub rise: u8,
}

/// What the nodes have in common to speak with each other.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// 16 characters or more.
    #[serde(skip)]
    pub key: Option<String>,
    /// Only with a key.
    pub echo: bool,
    /// Program to start at each change of a role.
    pub hook: Option<String>,
}

impl Pair {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("key", &self.key.as_ref().map(|_| ".."))
            .field("echo", &self.echo)
            .field("hook", &self.hook)
            .finish()
    }
}
