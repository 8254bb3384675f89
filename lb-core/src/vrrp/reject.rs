//! Why a received advert was not used: one list for the counters, the metric's label and the operator's text.

use core::fmt;

macro_rules! rejects {
    ($($(#[doc = $doc:literal])+ $name:ident = $label:literal,)+) => {
        /// Reason for ignoring an advert. The discriminant is the counter's slot.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reject {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reject {
            /// Every reason, in the order of the discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Value of the metric's `reason` label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The operator's explanation.
            #[must_use]
            pub fn explain(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

rejects! {
    /// Shorter than a VRRP header (8 bytes).
    TooShort = "too_short",
    /// Neither VRRP version 2 nor 3; another protocol may use IP protocol 112 here.
    Version = "version",
    /// Not an advertisement (type 1), the only type that VRRP defines.
    Type = "type",
    /// TTL or hop limit is not 255: a multicast advert came from beyond the link, or was forged.
    Ttl = "ttl",
    /// VRID 0, which is not a virtual router.
    VridZero = "vrid_zero",
    /// Lists no address (RFC 9568 §5.2.5 asks for at least one).
    NoAddresses = "no_addresses",
    /// Ends before the addresses, or the version 2 authentication data, that its header announces.
    Truncated = "truncated",
    /// Checksum is wrong, with a pseudo-header and without: damaged, or a broken sender.
    Checksum = "checksum",
    /// Advertisement interval of zero.
    IntervalZero = "interval_zero",
    /// Version 2 over IPv6, which no RFC defines.
    V2OverIpv6 = "v2_over_ipv6",
    /// Source and destination are of different families.
    Family = "family",
    /// A multicast IPv6 advert whose source is not link-local (RFC 9568 §5.1.2.1).
    SourceNotLinkLocal = "source_not_link_local",
    /// No virtual router with this VRID and family on the interface: another pair's, or a missing entry in the file.
    UnknownRouter = "unknown_router",
    /// The virtual router is configured for the other VRRP version: make both nodes' `version` the same.
    VersionMismatch = "version_mismatch",
    /// Sent from this node's own address: looped back, or the address is configured twice.
    OwnAddress = "own_address",
    /// Unicast peers are configured and the source is none of them.
    NotAPeer = "not_a_peer",
    /// Version 2 authentication type differs from the configured one.
    AuthType = "auth_type",
    /// Version 2 password differs from the configured one.
    AuthData = "auth_data",
    /// Version 2 interval differs from the configured one, which RFC 3768 §7.1 makes a reason to discard.
    IntervalMismatch = "interval_mismatch",
    /// The virtual router is not started or in fault, and takes no part in the election.
    NotListening = "not_listening",
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.explain())
    }
}

impl core::error::Error for Reject {}

/// One counter per [`Reject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejects([u64; Reject::COUNT]);

impl Default for Rejects {
    fn default() -> Self {
        Self([0; Reject::COUNT])
    }
}

impl Rejects {
    pub fn count(&mut self, reason: Reject) {
        if let Some(slot) = self.0.get_mut(reason as usize) {
            *slot += 1;
        }
    }

    #[must_use]
    pub fn get(&self, reason: Reject) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (Reject, u64)> + '_ {
        Reject::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_are_slots_and_labels_are_distinct() {
        let mut labels = std::collections::BTreeSet::new();
        for (slot, reason) in Reject::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, slot);
            assert!(labels.insert(reason.label()), "{} twice", reason.label());
            assert!(
                reason.explain().ends_with(['.', ')']),
                "{}",
                reason.explain()
            );
        }
    }
}
