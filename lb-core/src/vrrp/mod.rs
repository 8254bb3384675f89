//! Which node answers for a virtual address: VRRP, and the dataplane echo that keeps it from guessing.
//!
//! Nothing here opens a socket or reads a clock. `now` is a [`core::time::Duration`] since an origin that the
//! caller chooses and never changes; it must not stand still while the host sleeps (`CLOCK_BOOTTIME`).
//!
//! ```text
//!  IP payload ─► codec ─► node ─► router ─► actions: advert, take, release, announce, lease, changed
//!  echo answer ─► echo ─► liveness ─┘ (evidence)
//! ```

pub mod announce;
pub mod codec;
pub mod echo;
pub mod frame;
pub mod liveness;
pub mod node;
pub mod reject;
pub mod router;
pub mod setup;
pub mod timing;
pub mod tracking;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol number of VRRP.
pub const IP_PROTOCOL: u8 = 112;
/// Where IPv4 adverts go (RFC 9568 §5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where IPv6 adverts go (RFC 9568 §5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// TTL and hop limit of every advert (RFC 9568 §5.1.1.3, §5.1.2.3).
pub const TTL: u8 = 255;
/// "The active stops taking part" (RFC 9568 §5.2.4).
pub const PRIORITY_RESIGN: u8 = 0;
/// The node that owns the addresses (RFC 9568 §5.2.4).
pub const PRIORITY_OWNER: u8 = 255;

/// IPv4 and IPv6 are separate virtual routers, even with the same VRID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The multicast group that adverts of this family are sent to.
    #[must_use]
    pub const fn group(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(GROUP_V4),
            Self::V6 => IpAddr::V6(GROUP_V6),
        }
    }
}

/// The virtual router's MAC address: 00-00-5E-00-01-VRID, for IPv6 …-02-VRID (RFC 9568 §7.3).
#[must_use]
pub const fn virtual_mac(family: Family, vrid: u8) -> [u8; 6] {
    let family = match family {
        Family::V4 => 1,
        Family::V6 => 2,
    };
    [0, 0, 0x5e, 0, family, vrid]
}

/// Index of a virtual router in the dataplane's lease table, and its name in an echo frame: below 512.
#[must_use]
pub const fn router_key(family: Family, vrid: u8) -> u16 {
    match family {
        Family::V4 => vrid as u16,
        Family::V6 => 0x100 | vrid as u16,
    }
}

/// A primary address as a number that orders as the VRRP tie-break does (unsigned, network order).
///
/// For IPv6 the low 64 bits: primaries are link-local, their upper halves are equal.
#[must_use]
pub fn rank(primary: &IpAddr) -> u64 {
    match primary {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d, e, f, g, h] = v6.octets();
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    }
}
