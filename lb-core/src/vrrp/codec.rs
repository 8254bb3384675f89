//! The advertisement on the wire: VRRPv3 (RFC 9568) and v2 (RFC 3768).
//!
//! ```text
//! v3  0x31 vrid priority count | 0000 interval(12 bit, cs) checksum | addresses
//! v2  0x21 vrid priority count | auth-type interval(8 bit, s) checksum | addresses | 8 bytes of authentication
//! ```
//!
//! Works on the IP payload. What matters to one virtual router only (authentication, interval) is judged there.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;

use super::reject::Reject;
use super::{Family, IP_PROTOCOL, TTL};

/// Longest interval that v3 can say: 12 bits of centiseconds.
pub const V3_INTERVAL_MAX: Duration = Duration::from_millis(40_950);
/// Shortest interval that v3 can say.
pub const V3_INTERVAL_MIN: Duration = Duration::from_millis(10);

const HEADER: usize = 8;
const V2_AUTH: usize = 8;
const TYPE_ADVERT: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Version {
    V2,
    V3,
}

/// What the checksum of a v3 advert over IPv4 covers. Over IPv6 there is only [`PseudoHeader`](Self::PseudoHeader).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum ChecksumForm {
    /// The VRRP message alone (RFC 9568 §5.2.8).
    MessageOnly,
    /// With source, destination, protocol and length before it (RFC 5798; what keepalived sends by default).
    PseudoHeader,
}

/// Authentication of v2. No security: the password is readable in every advert.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Auth {
    None,
    /// Type 1 of RFC 2338: up to 8 characters, padded with zeros.
    SimpleText([u8; 8]),
}

impl core::fmt::Debug for Auth {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::SimpleText(_) => "SimpleText(..)",
        })
    }
}

/// What differs between the versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    V2 {
        auth: Auth,
    },
    /// In a received advert: the form that was seen.
    V3 {
        checksum: ChecksumForm,
    },
}

impl Wire {
    #[must_use]
    pub const fn version(self) -> Version {
        match self {
            Self::V2 { .. } => Version::V2,
            Self::V3 { .. } => Version::V3,
        }
    }
}

/// The virtual addresses, of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    V4(Vec<Ipv4Addr>),
    /// The first one is to be link-local (RFC 9568 §5.2.9).
    V6(Vec<Ipv6Addr>),
}

impl Addresses {
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::V4(list) => list.len(),
            Self::V6(list) => list.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// 1..=255
    pub vrid: u8,
    /// 0 resigns, 255 owns.
    pub priority: u8,
    /// v3: 10 ms to 40.95 s in steps of 10 ms; v2: 1 to 255 s in steps of 1 s.
    pub interval: Duration,
    pub addresses: Addresses,
    pub wire: Wire,
}

/// What the IP header said about a received advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// TTL or hop limit. Judged for multicast only: unicast may have been routed.
    pub ttl: u8,
}

/// Why an advert cannot be put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("VRID 0 is not a virtual router: choose 1 to 255")]
    VridZero,
    #[error("a virtual router needs 1 to 255 addresses, not {0}")]
    AddressCount(usize),
    #[error(
        "VRRPv3 cannot announce an interval of {0:?}: choose a multiple of 10 ms from 10 ms to 40.95 s"
    )]
    V3Interval(Duration),
    #[error(
        "VRRPv2 cannot announce an interval of {0:?}: choose whole seconds from 1 to 255, or version 3"
    )]
    V2Interval(Duration),
    #[error("VRRPv2 has no IPv6: use version 3 for this virtual router")]
    V2OverIpv6,
    #[error("the source, destination and virtual addresses of an advert must be of one family")]
    Family,
}

impl Advert {
    /// The IP payload, checksum included.
    ///
    /// # Errors
    /// If the version's format cannot express the advert.
    pub fn encode(&self, source: &IpAddr, destination: &IpAddr) -> Result<Vec<u8>, EncodeError> {
        let family = self.addresses.family();
        if Family::of(source) != family || Family::of(destination) != family {
            return Err(EncodeError::Family);
        }
        if self.vrid == 0 {
            return Err(EncodeError::VridZero);
        }
        let count = match u8::try_from(self.addresses.len()) {
            Ok(count) if count > 0 => count,
            _ => return Err(EncodeError::AddressCount(self.addresses.len())),
        };
        let (version, timing) = match self.wire {
            Wire::V2 { .. } if family == Family::V6 => return Err(EncodeError::V2OverIpv6),
            Wire::V2 { auth } => (
                2,
                [u8::from(auth != Auth::None), v2_interval(self.interval)?],
            ),
            Wire::V3 { .. } => (3, v3_interval(self.interval)?.to_be_bytes()),
        };

        let mut out = Vec::with_capacity(HEADER + 16 * self.addresses.len() + V2_AUTH);
        out.extend([version << 4 | TYPE_ADVERT, self.vrid, self.priority, count]);
        out.extend(timing);
        out.extend([0, 0]);
        match &self.addresses {
            Addresses::V4(list) => list.iter().for_each(|a| out.extend(a.octets())),
            Addresses::V6(list) => list.iter().for_each(|a| out.extend(a.octets())),
        }
        let pseudo = match self.wire {
            Wire::V2 { auth } => {
                out.extend(match auth {
                    Auth::None => [0; V2_AUTH],
                    Auth::SimpleText(text) => text,
                });
                0
            }
            Wire::V3 {
                checksum: ChecksumForm::MessageOnly,
            } if family == Family::V4 => 0,
            Wire::V3 { .. } => pseudo_header(source, destination, out.len()),
        };
        let checksum = !fold(pseudo + sum(&out));
        out.splice(6..8, checksum.to_be_bytes());
        Ok(out)
    }

    /// Reads an IP payload. Bytes after the message are ignored: a capture may contain Ethernet padding.
    ///
    /// # Errors
    /// The reason to count.
    pub fn decode(meta: &Meta, payload: &[u8]) -> Result<Self, Reject> {
        let family = Family::of(&meta.source);
        if Family::of(&meta.destination) != family {
            return Err(Reject::Family);
        }
        // RFC 9568 §7.1: "MUST verify that the IPv4 TTL/IPv6 Hop Limit is 255".
        if meta.destination.is_multicast() {
            if meta.ttl != TTL {
                return Err(Reject::Ttl);
            }
            if let IpAddr::V6(source) = meta.source
                && !source.is_unicast_link_local()
            {
                return Err(Reject::SourceNotLinkLocal);
            }
        }
        let Some((&[kind, vrid, priority, count, high, low, _, _], rest)) =
            payload.split_first_chunk::<HEADER>()
        else {
            return Err(Reject::TooShort);
        };
        let version = match kind >> 4 {
            2 if family == Family::V6 => return Err(Reject::V2OverIpv6),
            2 => Version::V2,
            3 => Version::V3,
            _ => return Err(Reject::Version),
        };
        if kind & 0xf != TYPE_ADVERT {
            return Err(Reject::Type);
        }
        let size = match family {
            Family::V4 => 4,
            Family::V6 => 16,
        };
        let trailer = if version == Version::V2 { V2_AUTH } else { 0 };
        let (list, auth) = rest
            .split_at_checked(usize::from(count) * size)
            .ok_or(Reject::Truncated)?;
        let auth = auth.get(..trailer).ok_or(Reject::Truncated)?;
        let message = payload
            .get(..HEADER + list.len() + trailer)
            .ok_or(Reject::Truncated)?;

        let wire = match version {
            Version::V2 if fold(sum(message)) != 0xffff => return Err(Reject::Checksum),
            Version::V2 => Wire::V2 {
                // RFC 3768 §5.3.6: type 0 is none, 1 and 2 are those of RFC 2338.
                auth: match (high, auth.first_chunk::<V2_AUTH>()) {
                    (0, _) => Auth::None,
                    (1, Some(&text)) => Auth::SimpleText(text),
                    _ => return Err(Reject::AuthType),
                },
            },
            Version::V3 => Wire::V3 {
                checksum: seen_checksum(meta, family, message)?,
            },
        };
        if vrid == 0 {
            return Err(Reject::VridZero);
        }
        if count == 0 {
            return Err(Reject::NoAddresses);
        }
        let interval = match version {
            Version::V2 => Duration::from_secs(low.into()),
            // The upper four bits are reserved, "MUST be … ignored on reception" (RFC 9568 §5.2.6).
            Version::V3 => {
                Duration::from_millis(10) * u32::from(u16::from_be_bytes([high & 0xf, low]))
            }
        };
        if interval.is_zero() {
            return Err(Reject::IntervalZero);
        }
        let addresses = match family {
            Family::V4 => Addresses::V4(
                list.as_chunks::<4>()
                    .0
                    .iter()
                    .map(|&octets| octets.into())
                    .collect(),
            ),
            Family::V6 => Addresses::V6(
                list.as_chunks::<16>()
                    .0
                    .iter()
                    .map(|&octets| octets.into())
                    .collect(),
            ),
        };
        Ok(Self {
            vrid,
            priority,
            interval,
            addresses,
            wire,
        })
    }
}

fn seen_checksum(meta: &Meta, family: Family, message: &[u8]) -> Result<ChecksumForm, Reject> {
    let plain = sum(message);
    if family == Family::V4 && fold(plain) == 0xffff {
        Ok(ChecksumForm::MessageOnly)
    } else if fold(plain + pseudo_header(&meta.source, &meta.destination, message.len())) == 0xffff
    {
        Ok(ChecksumForm::PseudoHeader)
    } else {
        Err(Reject::Checksum)
    }
}

fn v3_interval(interval: Duration) -> Result<u16, EncodeError> {
    let whole = interval.subsec_nanos().is_multiple_of(10_000_000);
    if !whole || !(V3_INTERVAL_MIN..=V3_INTERVAL_MAX).contains(&interval) {
        return Err(EncodeError::V3Interval(interval));
    }
    u16::try_from(interval.as_millis() / 10).map_err(|_| EncodeError::V3Interval(interval))
}

fn v2_interval(interval: Duration) -> Result<u8, EncodeError> {
    match u8::try_from(interval.as_secs()) {
        Ok(seconds) if seconds > 0 && interval.subsec_nanos() == 0 => Ok(seconds),
        _ => Err(EncodeError::V2Interval(interval)),
    }
}

/// Sum of big-endian 16-bit words (RFC 1071). Every part summed here has an even length.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&pair| u32::from(u16::from_be_bytes(pair)))
        .sum()
}

pub(super) fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    twice as u16
}

/// Source, destination, length, protocol: the sum is the same for IPv4's and IPv6's (RFC 8200 §8.1) arrangement.
fn pseudo_header(source: &IpAddr, destination: &IpAddr, length: usize) -> u32 {
    let of = |address: &IpAddr| match address {
        IpAddr::V4(v4) => sum(&v4.octets()),
        IpAddr::V6(v6) => sum(&v6.octets()),
    };
    // At most 8 + 255 × 16 bytes.
    of(source) + of(destination) + u32::from(IP_PROTOCOL) + length as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::{GROUP_V4, GROUP_V6};
    use proptest::prelude::*;

    const V3: Wire = Wire::V3 {
        checksum: ChecksumForm::MessageOnly,
    };

    fn meta4() -> Meta {
        Meta {
            source: Ipv4Addr::new(192, 0, 2, 1).into(),
            destination: GROUP_V4.into(),
            ttl: 255,
        }
    }

    fn meta6() -> Meta {
        Meta {
            source: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into(),
            destination: GROUP_V6.into(),
            ttl: 255,
        }
    }

    fn advert4(wire: Wire) -> Advert {
        Advert {
            vrid: 51,
            priority: 100,
            interval: Duration::from_secs(1),
            addresses: Addresses::V4(vec![Ipv4Addr::new(192, 0, 2, 100)]),
            wire,
        }
    }

    #[test]
    fn bytes_of_each_form() {
        let meta = meta4();
        let encode = |wire| {
            advert4(wire)
                .encode(&meta.source, &meta.destination)
                .expect("valid advert")
        };
        // Sums worked out by hand: 3133+6401+0064+c000+0264 = 157fc, folded 57fd, inverted a802.
        assert_eq!(
            encode(V3),
            [0x31, 51, 100, 1, 0, 100, 0xa8, 0x02, 192, 0, 2, 100]
        );
        // … + c000+0201 + e000+0012 + 0070 + 000c.
        let pseudo = Wire::V3 {
            checksum: ChecksumForm::PseudoHeader,
        };
        assert_eq!(
            encode(pseudo),
            [0x31, 51, 100, 1, 0, 100, 0x05, 0x72, 192, 0, 2, 100]
        );
        // 2133+6401+0101+c000+0264 + 7061+7373+0000+0000 = 22c6d, folded 2c6f, inverted d390.
        let auth = Wire::V2 {
            auth: Auth::SimpleText(*b"pass\0\0\0\0"),
        };
        let expected = [
            0x21, 51, 100, 1, 1, 1, 0xd3, 0x90, 192, 0, 2, 100, b'p', b'a', b's', b's', 0, 0, 0, 0,
        ];
        assert_eq!(encode(auth), expected);
    }

    #[test]
    fn ethernet_padding_is_ignored() {
        let meta = meta4();
        let mut bytes = advert4(V3)
            .encode(&meta.source, &meta.destination)
            .expect("valid advert");
        bytes.extend([0xaa; 14]);
        assert_eq!(Advert::decode(&meta, &bytes), Ok(advert4(V3)));
    }

    #[test]
    fn every_malformation_has_its_reason() {
        let meta = meta4();
        let good = advert4(V3)
            .encode(&meta.source, &meta.destination)
            .expect("valid advert");
        let decode =
            |meta: &Meta, bytes: &[u8]| Advert::decode(meta, bytes).expect_err("malformed");
        let sealed = |edit: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            edit(&mut bytes);
            bytes.splice(6..8, [0, 0]);
            let checksum = !fold(sum(&bytes));
            bytes.splice(6..8, checksum.to_be_bytes());
            decode(&meta, &bytes)
        };
        assert_eq!(decode(&meta, &good[..7]), Reject::TooShort);
        assert_eq!(decode(&meta, &good[..11]), Reject::Truncated);
        assert_eq!(decode(&Meta { ttl: 254, ..meta }, &good), Reject::Ttl);
        assert_eq!(
            decode(
                &Meta {
                    destination: GROUP_V6.into(),
                    ..meta
                },
                &good
            ),
            Reject::Family
        );
        assert_eq!(sealed(&|b| b[0] = 0x41), Reject::Version);
        assert_eq!(sealed(&|b| b[0] = 0x32), Reject::Type);
        assert_eq!(sealed(&|b| b[1] = 0), Reject::VridZero);
        assert_eq!(
            sealed(&|b| b.splice(3.., [0, 0, 100, 0, 0]).for_each(drop)),
            Reject::NoAddresses
        );
        assert_eq!(sealed(&|b| b[5] = 0), Reject::IntervalZero);
        assert_eq!(sealed(&|b| b[0] = 0x21), Reject::Truncated);
        let mut flipped = good.clone();
        flipped[9] ^= 1;
        assert_eq!(decode(&meta, &flipped), Reject::Checksum);

        let v2 = advert4(Wire::V2 { auth: Auth::None })
            .encode(&meta.source, &meta.destination)
            .expect("valid");
        assert_eq!(decode(&meta6(), &v2), Reject::V2OverIpv6);
        let mut header_auth = v2.clone();
        header_auth.splice(4..5, [2]);
        header_auth.splice(6..8, [0, 0]);
        let checksum = !fold(sum(&header_auth));
        header_auth.splice(6..8, checksum.to_be_bytes());
        assert_eq!(decode(&meta, &header_auth), Reject::AuthType);

        let global = Meta {
            source: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            ..meta6()
        };
        assert_eq!(decode(&global, &good), Reject::SourceNotLinkLocal);
        let unicast = Meta {
            destination: Ipv4Addr::new(192, 0, 2, 2).into(),
            ttl: 64,
            ..meta
        };
        assert!(
            Advert::decode(&unicast, &good).is_ok(),
            "unicast may be routed"
        );
    }

    #[test]
    fn what_cannot_be_said_is_not_sent() {
        let meta = meta4();
        let encode = |advert: Advert| {
            advert
                .encode(&meta.source, &meta.destination)
                .expect_err("not encodable")
        };
        let ms = Duration::from_millis;
        assert_eq!(
            encode(Advert {
                interval: ms(15),
                ..advert4(V3)
            }),
            EncodeError::V3Interval(ms(15))
        );
        assert_eq!(
            encode(Advert {
                interval: ms(41_000),
                ..advert4(V3)
            }),
            EncodeError::V3Interval(ms(41_000))
        );
        let v2 = advert4(Wire::V2 { auth: Auth::None });
        assert_eq!(
            encode(Advert {
                interval: ms(500),
                ..v2.clone()
            }),
            EncodeError::V2Interval(ms(500))
        );
        assert_eq!(
            encode(Advert {
                vrid: 0,
                ..v2.clone()
            }),
            EncodeError::VridZero
        );
        assert_eq!(
            encode(Advert {
                addresses: Addresses::V4(vec![]),
                ..v2.clone()
            }),
            EncodeError::AddressCount(0)
        );
        assert_eq!(
            v2.encode(&meta6().source, &meta.destination),
            Err(EncodeError::Family)
        );
    }

    fn any_advert() -> impl Strategy<Value = (Meta, Advert)> {
        let v4 = (
            prop::collection::vec(any::<u32>(), 1..20),
            0u8..4,
            1u32..256,
            1u32..4096,
        )
            .prop_map(|(list, kind, seconds, centis)| {
                let text = Auth::SimpleText([kind, 1, 2, 3, 0, 0, 0, 0]);
                let (wire, interval) = match kind {
                    0 => (
                        Wire::V2 { auth: Auth::None },
                        Duration::from_secs(seconds.into()),
                    ),
                    1 => (Wire::V2 { auth: text }, Duration::from_secs(seconds.into())),
                    2 => (V3, Duration::from_millis(10) * centis),
                    _ => (
                        Wire::V3 {
                            checksum: ChecksumForm::PseudoHeader,
                        },
                        Duration::from_millis(10) * centis,
                    ),
                };
                (
                    meta4(),
                    Addresses::V4(list.into_iter().map(Ipv4Addr::from).collect()),
                    interval,
                    wire,
                )
            });
        let v6 =
            (prop::collection::vec(any::<u128>(), 1..20), 1u32..4096).prop_map(|(list, centis)| {
                let list = list.into_iter().map(Ipv6Addr::from).collect();
                let wire = Wire::V3 {
                    checksum: ChecksumForm::PseudoHeader,
                };
                (
                    meta6(),
                    Addresses::V6(list),
                    Duration::from_millis(10) * centis,
                    wire,
                )
            });
        (prop_oneof![v4, v6], 1u8..=255, any::<u8>()).prop_map(
            |((meta, addresses, interval, wire), vrid, priority)| {
                (
                    meta,
                    Advert {
                        vrid,
                        priority,
                        interval,
                        addresses,
                        wire,
                    },
                )
            },
        )
    }

    /// What a receiver must ignore, set to what a sender must send.
    fn canonical(bytes: &[u8], advert: &Advert, encoded_len: usize) -> Vec<u8> {
        let mut bytes = bytes[..encoded_len].to_vec();
        match advert.wire {
            Wire::V3 { .. } => bytes[4] &= 0xf,
            Wire::V2 { auth: Auth::None } => bytes[encoded_len - V2_AUTH..].fill(0),
            Wire::V2 { .. } => {}
        }
        bytes[6..8].fill(0);
        bytes
    }

    fn stays_itself(meta: &Meta, bytes: &[u8]) -> Result<(), TestCaseError> {
        if let Ok(advert) = Advert::decode(meta, bytes) {
            let again = advert
                .encode(&meta.source, &meta.destination)
                .expect("what was decoded can be encoded");
            prop_assert_eq!(
                canonical(bytes, &advert, again.len()),
                canonical(&again, &advert, again.len())
            );
            prop_assert_eq!(Advert::decode(meta, &again), Ok(advert));
        }
        Ok(())
    }

    proptest! {
        // What strangers send: enough inputs that each byte of each form is hit by many values.
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn roundtrip((meta, advert) in any_advert()) {
            let bytes = advert.encode(&meta.source, &meta.destination).expect("valid advert");
            prop_assert_eq!(Advert::decode(&meta, &bytes), Ok(advert));
        }

        #[test]
        fn mutated_bytes((meta, advert) in any_advert(), at in any::<prop::sample::Index>(), to in any::<u8>(),
                         cut in any::<prop::sample::Index>(), reseal in any::<bool>()) {
            let mut bytes = advert.encode(&meta.source, &meta.destination).expect("valid advert");
            let at = at.index(bytes.len());
            let changed = bytes[at] != to;
            bytes[at] = to;
            if reseal && bytes.len() % 2 == 0 {
                bytes[6..8].fill(0);
                let pseudo = match advert.wire {
                    Wire::V3 { checksum: ChecksumForm::PseudoHeader } =>
                        pseudo_header(&meta.source, &meta.destination, bytes.len()),
                    _ => 0,
                };
                let checksum = !fold(pseudo + sum(&bytes));
                bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
            } else if changed && meta == meta6() && at != 3 {
                prop_assert!(Advert::decode(&meta, &bytes).is_err());
            }
            stays_itself(&meta, &bytes)?;
            stays_itself(&meta, &bytes[..cut.index(bytes.len())])?;
        }

        #[test]
        fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..80), v6 in any::<bool>()) {
            stays_itself(&if v6 { meta6() } else { meta4() }, &bytes)?;
        }
    }
}
