//! What the operator decides about one virtual router, checked before it runs.

use core::net::IpAddr;
use core::time::Duration;

use crate::vrrp::announce::AnnounceConfig;
use crate::vrrp::codec::{Addresses, Advert, EncodeError, Version, Wire};
use crate::vrrp::{Family, router_key};

/// One virtual router on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// 1..=255, unique per link and family.
    pub vrid: u8,
    /// Version, with authentication (v2) or the checksum form to send (v3).
    pub wire: Wire,
    /// At least one; for IPv6 multicast the first is link-local.
    pub addresses: Addresses,
    /// Source of this node's adverts and its tie-break; for IPv6 link-local.
    pub primary: IpAddr,
    /// Where adverts go. Empty: the family's multicast group.
    pub unicast_peers: Vec<IpAddr>,
    /// 1..=254, or 255 for the owner of the addresses.
    pub priority: u8,
    /// v3: 10 ms to 40.95 s in steps of 10 ms; v2: whole seconds.
    pub interval: Duration,
    pub preempt: Preempt,
    /// Use 00-00-5E-00-01-VRID as the addresses' MAC.
    pub virtual_mac: bool,
    pub announce: AnnounceConfig,
    /// How long the dataplane answers for the addresses after the daemon's last sign of life. At least 4 intervals.
    pub lease: Duration,
}

/// Whether a backup of higher priority replaces an active of lower priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preempt {
    Off,
    /// After the lower priority has been heard for this long; three intervals and the skew at the least.
    After(Duration),
}

/// What is wrong with a [`RouterConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("virtual router {vrid}: {source}")]
    Wire { vrid: u8, source: EncodeError },
    #[error("virtual router {vrid}: priority 0 means resignation: choose 1 to 255")]
    Priority { vrid: u8 },
    #[error(
        "virtual router {vrid}: primary address {primary} must be link-local (fe80::/10) for IPv6 multicast"
    )]
    PrimaryNotLinkLocal { vrid: u8, primary: IpAddr },
    #[error(
        "virtual router {vrid}: the first IPv6 address must be link-local: put an fe80:: address before the others"
    )]
    FirstNotLinkLocal { vrid: u8 },
    #[error(
        "virtual router {vrid}: lease of {lease:?} is too short: at least {least:?}, four intervals"
    )]
    Lease {
        vrid: u8,
        lease: Duration,
        least: Duration,
    },
    #[error(
        "virtual router {vrid}: {peer} is this node's own address: leave it out of the unicast peers"
    )]
    PeerIsSelf { vrid: u8, peer: IpAddr },
}

impl RouterConfig {
    #[must_use]
    pub const fn family(&self) -> Family {
        self.addresses.family()
    }

    #[must_use]
    pub const fn version(&self) -> Version {
        self.wire.version()
    }

    /// The router's name in the lease table and in echo frames.
    #[must_use]
    pub const fn key(&self) -> u16 {
        router_key(self.family(), self.vrid)
    }

    /// Every destination that an advert is sent to.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let group = self.unicast_peers.is_empty().then(|| self.family().group());
        self.unicast_peers.iter().copied().chain(group)
    }

    /// The advert that says `priority`.
    #[must_use]
    pub fn advert(&self, priority: u8) -> Advert {
        Advert {
            vrid: self.vrid,
            priority,
            interval: self.interval,
            addresses: self.addresses.clone(),
            wire: self.wire,
        }
    }

    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let vrid = self.vrid;
        for destination in self.destinations() {
            self.advert(self.priority)
                .encode(&self.primary, &destination)
                .map_err(|source| ConfigError::Wire { vrid, source })?;
        }
        if self.priority == 0 {
            return Err(ConfigError::Priority { vrid });
        }
        if let (IpAddr::V6(primary), Addresses::V6(list), true) =
            (self.primary, &self.addresses, self.unicast_peers.is_empty())
        {
            if !primary.is_unicast_link_local() {
                return Err(ConfigError::PrimaryNotLinkLocal {
                    vrid,
                    primary: self.primary,
                });
            }
            if !list
                .first()
                .is_some_and(|first| first.is_unicast_link_local())
            {
                return Err(ConfigError::FirstNotLinkLocal { vrid });
            }
        }
        let least = 4 * self.interval;
        if self.lease < least {
            return Err(ConfigError::Lease {
                vrid,
                lease: self.lease,
                least,
            });
        }
        match self
            .unicast_peers
            .iter()
            .find(|peer| **peer == self.primary)
        {
            Some(&peer) => Err(ConfigError::PeerIsSelf { vrid, peer }),
            None => Ok(()),
        }
    }
}
