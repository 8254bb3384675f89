//! One shape for IPv4 and IPv6 addresses in tables and keys.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address as two native-endian words over its 16 bytes in network order; IPv4 as an IPv4-mapped IPv6
/// address (RFC 4291 §2.5.5.2). Where the family is known at compile time, the constant half costs nothing.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Address {
    pub high: u64,
    pub low: u64,
}

impl Address {
    #[inline(always)]
    pub const fn from_v4(octets: [u8; 4]) -> Self {
        // Word by word, not byte by byte: the compiler does not join eight bytes into one load on its own.
        let address = u32::from_ne_bytes(octets);
        let prefix = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        Self {
            high: 0,
            low: join(prefix, address),
        }
    }

    #[inline(always)]
    pub fn from_v6(octets: &[u8; 16]) -> Self {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            b0,
            b1,
            b2,
            b3,
            b4,
            b5,
            b6,
            b7,
        ] = *octets;
        Self {
            high: u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]),
            low: u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]),
        }
    }

    /// The last four bytes: the IPv4 address of an address made by [`from_v4`](Self::from_v4).
    #[inline(always)]
    pub const fn to_v4(self) -> [u8; 4] {
        split(self.low).1.to_ne_bytes()
    }

    #[inline(always)]
    pub const fn to_v6(self) -> [u8; 16] {
        let [a0, a1, a2, a3, a4, a5, a6, a7] = self.high.to_ne_bytes();
        let [b0, b1, b2, b3, b4, b5, b6, b7] = self.low.to_ne_bytes();
        [
            a0, a1, a2, a3, a4, a5, a6, a7, b0, b1, b2, b3, b4, b5, b6, b7,
        ]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && split(self.low).0 == split(Self::from_v4([0; 4]).low).0
    }
}

/// The word whose first four bytes in memory are `first`.
#[inline(always)]
const fn join(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        (second as u64) << 32 | first as u64
    } else {
        (first as u64) << 32 | second as u64
    }
}

/// Undoes [`join`].
#[inline(always)]
const fn split(word: u64) -> (u32, u32) {
    if cfg!(target_endian = "little") {
        (word as u32, (word >> 32) as u32)
    } else {
        ((word >> 32) as u32, word as u32)
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self::from_v6(&v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Ipv4Addr::from(address.to_v4()).into()
        } else {
            Ipv6Addr::from(address.to_v6()).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_survive_the_round_trip() {
        for text in [
            "10.1.2.3",
            "255.255.255.255",
            "0.0.0.0",
            "fd00::1",
            "::1",
            "2001:db8:1:2:3:4:5:6",
        ] {
            let address: IpAddr = text.parse().expect("a literal address");
            assert_eq!(IpAddr::from(Address::from(address)), address, "{text}");
        }
    }

    #[test]
    fn families_do_not_meet() {
        assert!(Address::from_v4([10, 0, 0, 1]).is_v4());
        let v6: Ipv6Addr = "::a00:1".parse().expect("a literal address");
        assert!(!Address::from_v6(&v6.octets()).is_v4());
    }
}
