//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! Sums are kept in native byte order: the one's-complement sum does not care (RFC 1071 §2), and no
//! byte is swapped on the packet path.

use crate::{address::Address, wire::Ipv4};

/// What a rewrite changes in a checksum: the sum of what goes and what comes.
#[derive(Clone, Copy, Default)]
pub struct Difference(u64);

impl Difference {
    /// Replaces one 16-bit field, both as on the wire.
    #[inline(always)]
    pub const fn field(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + !u16::from_ne_bytes(old) as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// Replaces an address of the pseudo-header. The constant bytes of a mapped IPv4 address cancel out.
    #[inline(always)]
    pub const fn address(self, old: Address, new: Address) -> Self {
        Self(
            self.0
                + (!(old.high as u32)) as u64
                + (!((old.high >> 32) as u32)) as u64
                + (!(old.low as u32)) as u64
                + (!((old.low >> 32) as u32)) as u64
                + (new.high as u32) as u64
                + (new.high >> 32)
                + (new.low as u32) as u64
                + (new.low >> 32),
        )
    }

    /// The checksum field after the change (RFC 1624 eqn. 3: `HC' = ~(~HC + ~m + m')`).
    #[inline(always)]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        (!fold(self.0 + !u16::from_ne_bytes(checksum) as u64)).to_ne_bytes()
    }
}

/// The sum of what a checksum covers, in words at even offsets.
#[derive(Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Four bytes as on the wire.
    #[inline(always)]
    pub const fn word(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// An address of a pseudo-header of IPv6.
    #[inline(always)]
    pub const fn address(self, address: Address) -> Self {
        Self(
            self.0
                + (address.high as u32) as u64
                + (address.high >> 32)
                + (address.low as u32) as u64
                + (address.low >> 32),
        )
    }

    /// Takes out two times the words that an address has in common with another: see [`Address::from_v4`].
    #[inline(always)]
    pub const fn without(self, address: Address) -> Self {
        let prefix = (address.low as u32 as u64) + (address.low >> 32);
        Self(self.0 + 2 * (0xffff_ffff - prefix))
    }

    /// The checksum field.
    #[inline(always)]
    pub const fn finish(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }
}

/// The checksum of an IPv4 header without options whose checksum field is zero.
#[inline(always)]
pub fn ipv4(header: &Ipv4) -> [u8; 2] {
    let words: [[u8; 2]; 10] = zerocopy::transmute!(*header);
    let mut sum = 0;
    for word in words {
        sum += u16::from_ne_bytes(word) as u64;
    }
    (!fold(sum)).to_ne_bytes()
}

/// Reduces a sum of 16- and 32-bit words to 16 bits, end-around carries included.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(words: &[[u8; 2]]) -> [u8; 2] {
        (!fold(
            words
                .iter()
                .map(|&w| u64::from(u16::from_ne_bytes(w)))
                .sum(),
        ))
        .to_ne_bytes()
    }

    /// 0x0000 and 0xffff both mean zero in one's complement; a full sum over non-zero data never yields both.
    fn same(a: [u8; 2], b: [u8; 2]) -> bool {
        a == b || (matches!(a, [0, 0] | [255, 255]) && matches!(b, [0, 0] | [255, 255]))
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut words in proptest::collection::vec(any::<[u8; 2]>(), 12..40), new in any::<[u8; 2]>(), at in 8_usize..12) {
            let before = full(&words);
            let updated = Difference::default().field(words[at], new).apply(before);
            words[at] = new;
            prop_assert!(same(updated, full(&words)));
        }

        #[test]
        fn incremental_address_equals_full(rest in proptest::collection::vec(any::<[u8; 2]>(), 1..20), old in any::<[u8; 16]>(), new in any::<[u8; 16]>()) {
            let words = |address: [u8; 16]| {
                let mut all: std::vec::Vec<[u8; 2]> = address.chunks_exact(2).map(|c| [c[0], c[1]]).collect();
                all.extend(&rest);
                all
            };
            let updated = Difference::default().address(Address::from_v6(&old), Address::from_v6(&new)).apply(full(&words(old)));
            prop_assert!(same(updated, full(&words(new))));
        }
    }
}
