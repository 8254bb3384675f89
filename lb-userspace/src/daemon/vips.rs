//! The VIPs of this node: on the interface while the node is active, and announced to the segment.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tracing::{info, warn};

use crate::net::{
    addresses::{self, Added, Removed},
    announce::{Announcement, Announcer, ArpForm},
    links::{Link, Links},
    netlink::Netlink,
};

/// After taking a VIP it is announced at these times: a single frame may be lost, and a switch port may still be learning.
const ANNOUNCE_AT: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(3),
];

pub struct Vips {
    interface: String,
    held: BTreeMap<IpAddr, Held>,
    /// The interface is up and has a carrier: announcements leave it.
    usable: bool,
}

struct Held {
    ifindex: u32,
    taken_at: Duration,
    announced: usize,
    /// The kernel has told that it is on the interface; if it is not there later, somebody has removed it.
    seen: bool,
    /// The host had it before and keeps it.
    foreign: bool,
    /// Added without a mark on it, by a kernel that knows none.
    unmarked: bool,
}

impl Vips {
    pub const fn new(interface: String) -> Self {
        Self {
            interface,
            held: BTreeMap::new(),
            usable: false,
        }
    }

    /// Removes addresses of an earlier daemon that are no longer wanted.
    pub async fn remove_leftovers(&self, netlink: &Netlink, wanted: &BTreeSet<IpAddr>) {
        let left = match addresses::ours(netlink).await {
            Ok(left) => left,
            Err(error) => return warn!("cannot look for addresses of an earlier run: {error}"),
        };
        for (ifindex, vip) in left.into_iter().filter(|(_, vip)| !wanted.contains(vip)) {
            match addresses::remove(netlink, ifindex, vip).await {
                Ok(_) => info!("removed {vip}, which an earlier run had added"),
                Err(error) => warn!("cannot remove {vip}, which an earlier run had added: {error}"),
            }
        }
    }

    /// Holds exactly `wanted`. While the interface is missing nothing is held; call again when it comes.
    pub async fn set(
        &mut self,
        now: Duration,
        netlink: &Netlink,
        links: &Links,
        wanted: &BTreeSet<IpAddr>,
    ) {
        let unwanted: Vec<IpAddr> = self
            .held
            .keys()
            .filter(|vip| !wanted.contains(vip))
            .copied()
            .collect();
        for vip in unwanted {
            self.release(netlink, vip).await;
        }
        let Some(link) = links.named(&self.interface) else {
            if !wanted.is_empty() {
                warn!(
                    "there is no interface {}: no VIP is held until it comes",
                    self.interface
                );
            }
            self.held.clear();
            self.usable = false;
            return;
        };
        let usable = link.up && link.carrier;
        if usable && !self.usable {
            // It may be another port of the switch now.
            for held in self.held.values_mut() {
                (held.taken_at, held.announced) = (now, 0);
            }
        }
        self.usable = usable;
        for (&vip, held) in &mut self.held {
            held.seen |= link.has(vip);
        }
        for &vip in wanted {
            let held = self.held.get(&vip);
            // The kernel itself drops IPv6 addresses when an interface goes down.
            let lost = |held: &Held| held.ifindex != link.ifindex || (held.seen && !link.has(vip));
            if held.is_none_or(lost) {
                self.take(now, netlink, link, vip).await;
            }
        }
    }

    /// When [`announce`](Self::announce) has something to send.
    pub fn next_deadline(&self) -> Option<Duration> {
        let held = self.held.values().filter(|_| self.usable);
        held.filter_map(Held::next_announcement).min()
    }

    /// Sends the announcements that are due.
    pub fn announce(&mut self, now: Duration, links: &Links) {
        let Some(link) = links.named(&self.interface) else {
            return;
        };
        let Some(mac) = link.mac.filter(|_| self.usable) else {
            return;
        };
        for (&vip, held) in &mut self.held {
            if held.next_announcement().is_none_or(|at| at > now) {
                continue;
            }
            held.announced += 1;
            let announcement = Announcement {
                vip,
                mac,
                arp: ArpForm::default(),
                router: vip.is_ipv6() && crate::net::forwards_ipv6(&self.interface),
            };
            if let Err(error) =
                Announcer::open(held.ifindex).and_then(|announcer| announcer.send(&announcement))
            {
                warn!("cannot announce {vip} on {}: {error}", self.interface);
            }
        }
    }

    /// Gives all back.
    pub async fn release_all(&mut self, netlink: &Netlink) {
        let all: Vec<IpAddr> = self.held.keys().copied().collect();
        for vip in all {
            self.release(netlink, vip).await;
        }
    }

    async fn take(&mut self, now: Duration, netlink: &Netlink, link: &Link, vip: IpAddr) {
        match addresses::add(netlink, link.ifindex, vip).await {
            Ok(added) => {
                match added {
                    Added::New | Added::Unmarked => info!("{vip} added to {}", link.name),
                    Added::AlreadyOurs => info!("{vip} is on {} from an earlier run", link.name),
                    Added::Foreign { prefix_len } => info!(
                        "{vip}/{prefix_len} is on {} already, not by Futago: it will stay there at the end",
                        link.name
                    ),
                }
                let held = Held {
                    ifindex: link.ifindex,
                    taken_at: now,
                    announced: 0,
                    seen: false,
                    foreign: matches!(added, Added::Foreign { .. }),
                    unmarked: added == Added::Unmarked,
                };
                self.held.insert(vip, held);
            }
            Err(error) => warn!("cannot add {vip} to {}: {error}", link.name),
        }
    }

    async fn release(&mut self, netlink: &Netlink, vip: IpAddr) {
        let Some(held) = self.held.remove(&vip) else {
            return;
        };
        if held.foreign {
            return;
        }
        let removed = if held.unmarked {
            addresses::remove_unmarked(netlink, held.ifindex, vip).await
        } else {
            addresses::remove(netlink, held.ifindex, vip).await
        };
        match removed {
            Ok(Removed::Gone) => info!("{vip} removed from {}", self.interface),
            Ok(Removed::Absent) => warn!(
                "{vip} was gone from {} already: somebody else removed it",
                self.interface
            ),
            Ok(Removed::Foreign) => warn!(
                "{vip} on {} is no longer the address that Futago added: left",
                self.interface
            ),
            Err(error) => warn!("cannot remove {vip} from {}: {error}", self.interface),
        }
    }
}

impl Held {
    fn next_announcement(&self) -> Option<Duration> {
        ANNOUNCE_AT
            .get(self.announced)
            .map(|after| self.taken_at + *after)
    }
}
