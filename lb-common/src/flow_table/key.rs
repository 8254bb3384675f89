//! What a flow is known by, and what its packets are rewritten to, as words of a table.

use crate::{address::Address, rewrite::Endpoint};

/// A packet's ends and protocol, as it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey {
    pub source: Endpoint,
    pub destination: Endpoint,
    pub protocol: u8,
}

/// The ends that a packet gets in the place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    pub source: Endpoint,
    pub destination: Endpoint,
}

impl FlowKey {
    #[inline(always)]
    pub const fn v4(&self) -> [u64; 2] {
        [
            addresses(self.source, self.destination),
            ports(self.source, self.destination) | (self.protocol as u64) << 32,
        ]
    }

    #[inline(always)]
    pub const fn v6(&self) -> [u64; 5] {
        let Self {
            source,
            destination,
            protocol,
        } = *self;
        [
            source.address.high,
            source.address.low,
            ports(source, destination) | (protocol as u64) << 32,
            destination.address.high,
            destination.address.low,
        ]
    }

    pub const fn from_v4(words: [u64; 2]) -> Self {
        let [addresses, rest] = words;
        Self {
            source: Endpoint {
                address: Address::from_v4((addresses as u32).to_ne_bytes()),
                port: rest as u16,
            },
            destination: Endpoint {
                address: Address::from_v4(((addresses >> 32) as u32).to_ne_bytes()),
                port: (rest >> 16) as u16,
            },
            protocol: (rest >> 32) as u8,
        }
    }

    pub const fn from_v6(words: [u64; 5]) -> Self {
        let [source_high, source_low, rest, high, low] = words;
        Self {
            source: Endpoint {
                address: Address {
                    high: source_high,
                    low: source_low,
                },
                port: rest as u16,
            },
            destination: Endpoint {
                address: Address { high, low },
                port: (rest >> 16) as u16,
            },
            protocol: (rest >> 32) as u8,
        }
    }

    /// The answer's ends, where nothing is translated.
    #[inline(always)]
    pub const fn answer(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
        }
    }
}

impl Translation {
    /// Key of the packets that answer the translated ones: what finds the entry of the other direction.
    #[inline(always)]
    pub const fn answered_by(&self, protocol: u8) -> FlowKey {
        FlowKey {
            source: self.destination,
            destination: self.source,
            protocol,
        }
    }

    #[inline(always)]
    pub const fn v4(&self) -> [u64; 2] {
        [
            addresses(self.source, self.destination),
            ports(self.source, self.destination),
        ]
    }

    #[inline(always)]
    pub const fn v6(&self) -> [u64; 5] {
        FlowKey {
            source: self.source,
            destination: self.destination,
            protocol: 0,
        }
        .v6()
    }

    #[inline(always)]
    pub const fn from_v4(words: [u64; 2]) -> Self {
        let key = FlowKey::from_v4(words);
        Self {
            source: key.source,
            destination: key.destination,
        }
    }

    #[inline(always)]
    pub const fn from_v6(words: [u64; 5]) -> Self {
        let key = FlowKey::from_v6(words);
        Self {
            source: key.source,
            destination: key.destination,
        }
    }
}

#[inline(always)]
const fn addresses(source: Endpoint, destination: Endpoint) -> u64 {
    u32::from_ne_bytes(source.address.to_v4()) as u64
        | (u32::from_ne_bytes(destination.address.to_v4()) as u64) << 32
}

#[inline(always)]
const fn ports(source: Endpoint, destination: Endpoint) -> u64 {
    source.port as u64 | (destination.port as u64) << 16
}
