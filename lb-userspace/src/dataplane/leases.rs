//! What the election writes for the packet path: who this node is, its leases, and the addresses they are about.

use std::{
    io,
    net::IpAddr,
    os::fd::BorrowedFd,
    sync::atomic::{Ordering, fence},
};

use lb_common::{
    address::Address,
    echo::Identity,
    lease::{HELD, Held, LEASES, Lease, PROBES, Role, place},
};

use super::mapping::Mapped;

/// The three tables in memory. There is one writer: whoever owns this.
#[derive(Debug)]
pub struct LeaseTable {
    identity: Mapped<Identity>,
    leases: Mapped<Lease>,
    held: Mapped<Held>,
}

impl LeaseTable {
    pub(super) fn new(
        identity: BorrowedFd<'_>,
        leases: BorrowedFd<'_>,
        held: BorrowedFd<'_>,
    ) -> io::Result<Self> {
        Ok(Self {
            identity: Mapped::new(identity, 1)?,
            leases: Mapped::new(leases, LEASES)?,
            held: Mapped::new(held, HELD)?,
        })
    }

    /// Sets who this node is in echo frames; node 0 ends answering.
    pub fn set_identity(&mut self, identity: Identity) {
        // A question that meets half of it fails its MAC and is asked again.
        let _ = self.identity.write(0, identity);
    }

    pub fn identity(&self) -> Identity {
        self.identity.get(0).copied().unwrap_or_default()
    }

    pub fn lease(&self, router: u16) -> Lease {
        self.leases.get(router.into()).copied().unwrap_or_default()
    }

    /// Replaces the lease of a virtual router.
    pub fn set_lease(&mut self, router: u16, lease: Lease) {
        let holds =
            |lease: &Lease| lease.role == Role::Active as u8 || lease.role == Role::Yielding as u8;
        if holds(&lease) && !holds(&self.lease(router)) {
            // The time before the role: a packet in between must not find a new role with an old time.
            let old = self.lease(router);
            let _ = self.leases.write(
                router.into(),
                Lease {
                    role: old.role,
                    ..lease
                },
            );
            fence(Ordering::Release);
        }
        let _ = self.leases.write(router.into(), lease);
    }

    /// Ends every lease that `keep` does not name: what an earlier configuration left.
    pub fn clear_leases(&mut self, keep: &[u16]) {
        for router in (0..LEASES as u16).filter(|router| !keep.contains(router)) {
            if self.lease(router) != Lease::default() {
                let _ = self.leases.write(router.into(), Lease::default());
            }
        }
    }

    /// Says which addresses belong to which virtual router; the addresses for which there was no room, which are then not
    /// withheld when a lease runs out.
    pub fn set_addresses(&mut self, addresses: &[(IpAddr, u16)]) -> Vec<IpAddr> {
        let mut table = vec![Held::default(); HELD as usize];
        let mut left = Vec::new();
        for &(address, router) in addresses {
            let wanted = Address::from(address);
            let start = place(wanted);
            let free = (0..PROBES)
                .map(|step| ((start + step) & (HELD - 1)) as usize)
                .find(|&position| table.get(position).is_some_and(|held| held.router == 0));
            match free.and_then(|position| table.get_mut(position)) {
                Some(held) => {
                    *held = Held {
                        address: wanted,
                        router: u32::from(router) + 1,
                        reserved: 0,
                    };
                }
                None => left.push(address),
            }
        }
        for (position, held) in (0..).zip(table) {
            if self.held.get(position) != Some(&held) {
                let _ = self.held.write(position, held);
            }
        }
        left
    }
}
