//! The hashes of the packet path: of a flow, of a key in the index.
//!
//! Both nodes of a pair must answer alike, so nothing here depends on the machine's byte order, on time or on
//! memory. A seed makes the outcome unpredictable to strangers.

use crate::address::Address;

/// Finalizer of splitmix64 (Stafford's variant 13): every input bit reaches every output bit.
#[inline(always)]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Folds an address to 64 bits; for IPv4 the upper half is a constant and the fold disappears.
#[inline(always)]
const fn fold(address: Address) -> u64 {
    let high = u64::from_le(address.high).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    u64::from_le(address.low) ^ (high ^ (high >> 32))
}

/// Hash of a flow within a service.
///
/// `ports` is (source << 16 | destination), or what the service's policy leaves of it. The destination
/// address is the VIP; it is in the service's seed.
#[inline(always)]
pub const fn flow(seed: u64, source: Address, ports: u32) -> u32 {
    (mix(fold(source) ^ seed ^ ports as u64) >> 32) as u32
}

/// Hash of an (address, protocol, port) key for the index.
#[inline(always)]
pub const fn key(seed: u64, address: Address, protocol: u8, port: u16) -> u64 {
    mix(fold(address) ^ seed ^ ((protocol as u64) << 16 | port as u64))
}

/// Maps a hash to `0..count` without division, as evenly as the hash is.
#[inline(always)]
pub const fn reduce(hash: u32, count: u32) -> u32 {
    ((hash as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_ports_spread_over_buckets() {
        // Chi-squared over 16 buckets, 15 degrees of freedom: 37.7 is the 0.1 % point.
        for seed in 0..20_u64 {
            let mut counts = [0_u32; 16];
            for port in 0..16_000_u32 {
                let hash = flow(
                    mix(seed),
                    Address::from_v4([10, 0, 0, 1]),
                    (1024 + port) << 16 | 80,
                );
                counts[reduce(hash, 16) as usize] += 1;
            }
            let chi: f64 = counts
                .iter()
                .map(|&n| (f64::from(n) - 1000.0).powi(2) / 1000.0)
                .sum();
            assert!(chi < 45.0, "seed {seed}: {counts:?} chi² {chi}");
        }
    }

    #[test]
    fn reduce_stays_in_range() {
        assert_eq!(reduce(u32::MAX, 65_537), 65_536);
        assert_eq!(reduce(0, 65_537), 0);
    }
}
