//! A node's right to an address, as the packet path sees it: a lease that the daemon renews. When it has run out, ARP and ND
//! requests for the address end here before the kernel can answer them, while packets to it are forwarded as ever: a daemon
//! that died never leaves two owners of an address.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, network_endian::U16};

use crate::{
    address::Address,
    frame::Frame,
    hash,
    parse::{Link, Network},
    tables::Tables,
};

/// Leases: one for each VRID and family.
pub const LEASES: u32 = 512;
/// Places in the table of addresses; a power of two, several times what VRRP can announce of any sensible number of routers.
pub const HELD: u32 = 4096;
/// Places that a search looks at, at most.
pub const PROBES: u32 = 8;

const ARP_REQUEST: u16 = 1;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Like the index's: addresses come from the configuration.
const SEED: u64 = 0x6c65_6173_6573;

/// What the dataplane knows of its node's role for one virtual router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Nothing: the router is not configured or the daemon never wrote it.
    #[default]
    None = 0,
    Backup = 1,
    /// Active, and the lease is valid: the addresses are answered for.
    Active = 2,
    /// The daemon wrote `Active` or `Yielding` and has not renewed it in time: ARP and ND are no longer answered.
    Expired = 3,
    /// Active, and wants a successor: still answering for the addresses until it hears one.
    Yielding = 4,
    Fault = 5,
}

impl Role {
    /// The role of this number.
    #[must_use]
    pub const fn from_number(value: u8) -> Option<Self> {
        Some(match value {
            0 => Self::None,
            1 => Self::Backup,
            2 => Self::Active,
            3 => Self::Expired,
            4 => Self::Yielding,
            5 => Self::Fault,
            _ => return None,
        })
    }
}

/// One entry of the dataplane's lease table, written by the daemon.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Lease {
    /// Valid before this time, in nanoseconds of the clock that both the daemon and the program read.
    pub until_ns: u64,
    /// Tie-break of the node's primary address, see `rank` in lb-core's vrrp.
    pub rank: u64,
    /// A [`Role`].
    pub role: u8,
    /// Priority that the node advertises.
    pub priority: u8,
    pub reserved: [u8; 6],
}

impl Lease {
    #[must_use]
    pub const fn new(until_ns: u64, rank: u64, role: Role, priority: u8) -> Self {
        Self {
            until_ns,
            rank,
            role: role as u8,
            priority,
            reserved: [0; 6],
        }
    }

    /// The role that holds at `now_ns`.
    #[must_use]
    #[inline(always)]
    pub const fn role_at(&self, now_ns: u64) -> u8 {
        let held = self.role == Role::Active as u8 || self.role == Role::Yielding as u8;
        if held && now_ns >= self.until_ns {
            Role::Expired as u8
        } else {
            self.role
        }
    }

    /// Whether ARP and ND for the addresses may be answered at `now_ns`.
    #[must_use]
    pub const fn answers_for_addresses(&self, now_ns: u64) -> bool {
        let role = self.role_at(now_ns);
        role == Role::Active as u8 || role == Role::Yielding as u8
    }
}

/// An address that belongs to a virtual router.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Held {
    pub address: Address,
    /// Index of its lease plus 1; 0: the place is free.
    pub router: u32,
    pub reserved: u32,
}

/// Where the search for an address begins; it goes on at the next place.
#[inline(always)]
#[must_use]
pub const fn place(address: Address) -> u32 {
    hash::key(SEED, address, 0, 0) as u32 & (HELD - 1)
}

/// Whether an address belongs to a virtual router that this node is not active for, or no longer.
///
/// The kernel may hold it all the same: its daemon is dead, or has just written another role and netlink is slower.
#[inline(always)]
fn is_withheld<T: Tables>(tables: &T, address: Address) -> bool {
    let mut position = place(address);
    for _ in 0..PROBES {
        let held = tables.held(position);
        if held.router == 0 {
            return false;
        }
        if held.address == address {
            let lease = tables.lease((held.router - 1) as u16);
            return lease.role != Role::None as u8
                && !lease.answers_for_addresses(tables.boot_ns());
        }
        position = (position + 1) & (HELD - 1);
    }
    false
}

/// ARP for IPv4 over Ethernet (RFC 826), 28 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct Arp {
    hardware: U16,
    protocol: U16,
    lengths: [u8; 2],
    operation: U16,
    sender_mac: [u8; 6],
    sender: [u8; 4],
    target_mac: [u8; 6],
    target: [u8; 4],
}

/// Whether an ARP frame asks for an address that this node does not answer for. Announcements of others pass.
#[inline(always)]
pub fn withholds_arp<F: Frame, T: Tables>(frame: &F, tables: &T, link: Link) -> bool {
    let Some(arp) = frame.get::<Arp>(link.length()) else {
        return false;
    };
    arp.operation.get() == ARP_REQUEST
        && arp.sender != arp.target
        && is_withheld(tables, Address::from_v4(arp.target))
}

/// Neighbour solicitation or advertisement without options (RFC 4861 §4.3, §4.4), 24 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
#[repr(C)]
struct Discovery {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    flags: [u8; 4],
    target: [u8; 16],
}

/// What an ICMPv6 packet is to the kernel's neighbour discovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Solicited {
    /// Nothing.
    Other,
    /// For the kernel, whatever the policy of the address that it is sent to.
    Kernel,
    /// A question for an address that this node does not answer for.
    Withheld,
}

/// Whether an ICMPv6 packet is neighbour discovery, and may be answered.
#[inline(always)]
pub fn solicited<F: Frame, T: Tables>(frame: &F, tables: &T, network: &Network) -> Solicited {
    let Some(discovery) = frame.get::<Discovery>(network.transport) else {
        return Solicited::Other;
    };
    match discovery.kind {
        NEIGHBOUR_SOLICITATION if is_withheld(tables, Address::from_v6(&discovery.target)) => {
            Solicited::Withheld
        }
        NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT => Solicited::Kernel,
        _ => Solicited::Other,
    }
}

const _: () = assert!(size_of::<Lease>() == 24);
const _: () = assert!(size_of::<Held>() == 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        forward::{Verdict, forward},
        host::{HeapTables, SliceFrame},
        reason::Reason,
    };

    const VIP: [u8; 4] = [192, 0, 2, 10];
    const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];

    fn tables() -> HeapTables {
        let mut tables = HeapTables {
            cells: std::vec![0; 8],
            boot_ns: 500,
            ..HeapTables::default()
        };
        tables
            .leases
            .insert(51, Lease::new(1000, 7, Role::Active, 150));
        for address in [Address::from_v4(VIP), Address::from_v6(&VIP6)] {
            let held = Held {
                address,
                router: 52,
                reserved: 0,
            };
            tables.held.insert(place(address), held);
        }
        tables
    }

    fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> SliceFrame {
        let mut bytes = std::vec![0xff; 12];
        bytes.extend([8, 6, 0, 1, 8, 0, 6, 4]);
        bytes.extend(operation.to_be_bytes());
        bytes.extend([2, 0, 0, 0, 0, 1]);
        bytes.extend(sender);
        bytes.extend([0; 6]);
        bytes.extend(target);
        SliceFrame::new(&bytes, 1)
    }

    fn solicitation(target: [u8; 16]) -> SliceFrame {
        icmpv6(135, [0xfe; 16], target)
    }

    fn icmpv6(kind: u8, destination: [u8; 16], target: [u8; 16]) -> SliceFrame {
        let mut bytes = std::vec![0x33; 12];
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255]);
        bytes.extend([0xfe; 16]);
        bytes.extend(destination);
        bytes.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(target);
        SliceFrame::new(&bytes, 1)
    }

    #[test]
    fn requests_for_an_address_pass_while_the_lease_holds_and_end_when_it_has_run_out() {
        let mut tables = tables();
        let frames = || [arp(1, [192, 0, 2, 1], VIP), solicitation(VIP6)];
        for mut frame in frames() {
            assert_eq!(forward(&mut frame, &tables), Verdict::Pass);
        }
        tables.boot_ns = 1000;
        for mut frame in frames() {
            assert_eq!(forward(&mut frame, &tables), Verdict::Drop);
        }
        assert_eq!(tables.counted(Reason::LeaseExpired), 2);
    }

    #[test]
    fn what_is_no_request_for_the_address_passes_all_the_same() {
        let mut tables = tables();
        tables.boot_ns = 1000;
        for mut frame in [
            arp(2, [192, 0, 2, 1], VIP),
            arp(1, VIP, VIP),
            arp(1, [192, 0, 2, 1], [192, 0, 2, 11]),
            solicitation([9; 16]),
        ] {
            assert_eq!(forward(&mut frame, &tables), Verdict::Pass);
        }
    }

    #[test]
    fn who_is_not_active_does_not_answer_although_the_kernel_may_still_hold_the_address() {
        let mut tables = tables();
        for (role, verdict) in [
            (Role::Backup, Verdict::Drop),
            (Role::Fault, Verdict::Drop),
            (Role::Yielding, Verdict::Pass),
            (Role::None, Verdict::Pass),
        ] {
            tables.leases.insert(51, Lease::new(1000, 7, role, 150));
            for mut frame in [arp(1, [192, 0, 2, 1], VIP), solicitation(VIP6)] {
                assert_eq!(forward(&mut frame, &tables), verdict, "{role:?}");
            }
        }
    }

    #[test]
    fn neighbour_discovery_to_an_address_of_a_service_is_the_kernels_whatever_the_policy() {
        use crate::{
            index::{self, Entry},
            tables::{Key, Service, flags},
        };

        let mut tables = tables();
        let key = Key::address_only(Address::from_v6(&VIP6));
        let hash = index::hash(&key);
        tables.cells[index::start(hash, 7) as usize] = Entry::Vip(0).cell(hash);
        tables.services.push(Service {
            key,
            flags: flags::UNMATCHED_DROP,
            ..Service::default()
        });
        for kind in [135, 136] {
            let mut frame = icmpv6(kind, VIP6, VIP6);
            assert_eq!(forward(&mut frame, &tables), Verdict::Pass, "{kind}");
        }
        let mut frame = icmpv6(128, VIP6, VIP6);
        assert_eq!(
            forward(&mut frame, &tables),
            Verdict::Drop,
            "an echo request"
        );
    }
}
