//! The kernel's neighbour tables (ARP and ND), and when to prod the kernel: it resolves only what itself sends to,
//! and packets that XDP forwards are none of its business.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::Mac;

/// An interface number and an address behind it.
pub type Key = (u32, IpAddr);

/// What is known of one neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    pub standing: Standing,
    /// The MAC that it has, or had when it was last heard.
    pub mac: Option<Mac>,
}

/// What the kernel's state means for forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Set by hand or needing no resolution (`PERMANENT`, `NOARP`). Never prodded: that would clear `PERMANENT`.
    Fixed,
    /// Confirmed, or being confirmed with the address known (`REACHABLE`, `DELAY`, `PROBE`).
    Confirmed,
    /// Known but not confirmed lately; the kernel may forget it.
    Stale,
    /// Asked for, no answer yet.
    Pending,
    /// Does not answer.
    Failed,
    /// The kernel has no entry.
    Absent,
}

/// All neighbours that the kernel knows, and the last MAC of those that are watched.
#[derive(Debug, Default)]
pub struct Neighbours {
    known: HashMap<Key, Neighbour>,
    watched: BTreeMap<Key, Option<Prod>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Prod {
    at: Instant,
    attempt: u32,
}

impl Neighbours {
    pub fn get(&self, key: &Key) -> Option<&Neighbour> {
        self.known.get(key)
    }

    /// Takes in `RTM_NEWNEIGH` (`present`) or `RTM_DELNEIGH`. Returns the key if the entry differs now.
    pub fn apply(
        &mut self,
        message: &NeighbourMessage,
        present: bool,
        now: Instant,
    ) -> Option<Key> {
        let (key, mut fresh) = read(message)?;
        let before = self.known.get(&key).copied();
        if !present {
            fresh = Neighbour {
                standing: Standing::Absent,
                mac: None,
            };
        }
        // The kernel gives no MAC with FAILED and INCOMPLETE: the last one is all there is.
        fresh.mac = fresh.mac.or(before.and_then(|before| before.mac));
        if fresh.standing == Standing::Absent && !self.watched.contains_key(&key) {
            self.known.remove(&key)?;
        } else {
            self.known.insert(key, fresh);
        }
        self.schedule(key, now);
        (before != Some(fresh)).then_some(key)
    }

    /// Replaces everything by a fresh dump, keeping the last MACs of watched neighbours that it lacks. Returns what
    /// differs now.
    pub fn replace<'a>(
        &mut self,
        dump: impl IntoIterator<Item = &'a NeighbourMessage>,
        now: Instant,
    ) -> BTreeSet<Key> {
        let before = std::mem::take(&mut self.known);
        for (key, old) in &before {
            if self.watched.contains_key(key) {
                self.known.insert(
                    *key,
                    Neighbour {
                        standing: Standing::Absent,
                        ..*old
                    },
                );
            }
        }
        for message in dump {
            self.apply(message, true, now);
        }
        let watched: Vec<Key> = self.watched.keys().copied().collect();
        for key in watched {
            self.schedule(key, now);
        }
        before
            .keys()
            .chain(self.known.keys())
            .filter(|key| before.get(*key) != self.known.get(*key))
            .copied()
            .collect()
    }

    /// Forgets what was behind an interface that no longer exists: its number may be used again.
    pub fn forget_link(&mut self, ifindex: u32, now: Instant) {
        self.known.retain(|(index, _), _| *index != ifindex);
        let watched: Vec<Key> = self
            .watched
            .keys()
            .filter(|(index, _)| *index == ifindex)
            .copied()
            .collect();
        for key in watched {
            self.schedule(key, now);
        }
    }

    /// Sets which neighbours must be kept resolved.
    pub fn watch(&mut self, keys: &BTreeSet<Key>, now: Instant) {
        self.watched.retain(|key, _| keys.contains(key));
        for key in keys {
            if !self.watched.contains_key(key) {
                self.watched.insert(*key, None);
                self.schedule(*key, now);
            }
        }
        let watched = &self.watched;
        self.known
            .retain(|key, entry| entry.standing != Standing::Absent || watched.contains_key(key));
    }

    /// When [`due`](Self::due) has something next.
    pub fn next_prod(&self) -> Option<Instant> {
        self.watched.values().flatten().map(|prod| prod.at).min()
    }

    /// The neighbours to prod now, each with the number of prods before; counts as done.
    pub fn due(&mut self, now: Instant) -> Vec<(Key, u32)> {
        let mut due = Vec::new();
        for (key, prod) in &mut self.watched {
            let Some(prod) = prod.as_mut().filter(|prod| prod.at <= now) else {
                continue;
            };
            due.push((*key, prod.attempt));
            prod.at = now + delay_after(prod.attempt);
            prod.attempt = prod.attempt.saturating_add(1);
        }
        due
    }

    fn schedule(&mut self, key: Key, now: Instant) {
        let standing = self
            .known
            .get(&key)
            .map_or(Standing::Absent, |entry| entry.standing);
        let Some(prod) = self.watched.get_mut(&key) else {
            return;
        };
        match standing {
            Standing::Fixed | Standing::Confirmed => *prod = None,
            Standing::Stale | Standing::Pending | Standing::Failed | Standing::Absent => {
                prod.get_or_insert(Prod {
                    at: now,
                    attempt: 0,
                });
            }
        }
    }
}

/// One attempt of the kernel lasts about 3 s (three requests); it ignores a prod meanwhile.
fn delay_after(attempt: u32) -> Duration {
    const LONGEST_S: u64 = 10;
    Duration::from_secs(
        1u64.checked_shl(attempt)
            .unwrap_or(LONGEST_S)
            .min(LONGEST_S),
    )
}

fn read(message: &NeighbourMessage) -> Option<(Key, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => {
                address = Some(IpAddr::V4(*found))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(found)) => {
                address = Some(IpAddr::V6(*found))
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = Mac::try_from(bytes.as_slice()).ok()
            }
            _ => {}
        }
    }
    let standing = match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => Standing::Fixed,
        NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe => {
            Standing::Confirmed
        }
        NeighbourState::Stale => Standing::Stale,
        NeighbourState::Failed => Standing::Failed,
        _ => Standing::Pending,
    };
    // Bridge forwarding entries come on the same group; they have no IP address.
    Some((
        (message.header.ifindex, address?),
        Neighbour { standing, mac },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));
    const KEY: Key = (2, ADDRESS);
    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn message(state: NeighbourState, mac: Option<Mac>) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = KEY.0;
        message.header.state = state;
        message
            .attributes
            .push(NeighbourAttribute::Destination(ADDRESS.into()));
        message
            .attributes
            .extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        message
    }

    fn watching(now: Instant) -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.watch(&BTreeSet::from([KEY]), now);
        neighbours
    }

    #[test]
    fn an_unknown_neighbour_is_prodded_at_once_then_ever_less_often() {
        let mut now = Instant::now();
        let mut neighbours = watching(now);
        let mut waits = Vec::new();
        for attempt in 0..40 {
            assert_eq!(neighbours.due(now), [(KEY, attempt)]);
            assert!(neighbours.due(now).is_empty());
            let next = neighbours.next_prod().expect("test data");
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits[..6], [1, 2, 4, 8, 10, 10]);
        assert_eq!(waits[39], 10);
    }

    #[test]
    fn a_confirmed_neighbour_is_left_alone_until_it_grows_stale() {
        let now = Instant::now();
        let mut neighbours = watching(now);
        neighbours.apply(&message(NeighbourState::Reachable, Some(MAC)), true, now);
        assert_eq!(neighbours.next_prod(), None);
        neighbours.apply(&message(NeighbourState::Stale, Some(MAC)), true, now);
        assert_eq!(neighbours.due(now), [(KEY, 0)]);
    }

    #[test]
    fn a_permanent_entry_is_never_prodded() {
        let now = Instant::now();
        let mut neighbours = watching(now);
        neighbours.apply(&message(NeighbourState::Permanent, Some(MAC)), true, now);
        assert!(neighbours.due(now + Duration::from_secs(3600)).is_empty());
    }

    #[test]
    fn the_last_mac_outlives_failure_and_deletion_while_watched() {
        let now = Instant::now();
        let mut neighbours = watching(now);
        neighbours.apply(&message(NeighbourState::Reachable, Some(MAC)), true, now);
        assert_eq!(
            neighbours.apply(&message(NeighbourState::Failed, None), true, now),
            Some(KEY)
        );
        assert_eq!(
            neighbours.get(&KEY),
            Some(&Neighbour {
                standing: Standing::Failed,
                mac: Some(MAC)
            })
        );
        neighbours.apply(&message(NeighbourState::Failed, None), false, now);
        assert_eq!(
            neighbours.get(&KEY),
            Some(&Neighbour {
                standing: Standing::Absent,
                mac: Some(MAC)
            })
        );
        neighbours.replace([], now);
        assert_eq!(
            neighbours.get(&KEY).expect("test data").mac,
            Some(MAC),
            "a resync forgets nothing that is in use"
        );
        neighbours.watch(&BTreeSet::new(), now);
        assert_eq!(neighbours.get(&KEY), None, "nor keeps what is not");
    }

    #[test]
    fn a_dump_reports_what_notifications_missed() {
        let now = Instant::now();
        let mut neighbours = watching(now);
        neighbours.apply(&message(NeighbourState::Reachable, Some(MAC)), true, now);
        assert!(
            neighbours
                .replace([&message(NeighbourState::Reachable, Some(MAC))], now)
                .is_empty()
        );
        let moved = message(NeighbourState::Stale, Some([6; 6]));
        assert_eq!(neighbours.replace([&moved], now), BTreeSet::from([KEY]));
        assert_eq!(neighbours.due(now), [(KEY, 0)]);
    }

    #[test]
    fn a_new_interface_with_an_old_number_inherits_nothing() {
        let now = Instant::now();
        let mut neighbours = watching(now);
        neighbours.apply(&message(NeighbourState::Reachable, Some(MAC)), true, now);
        neighbours.forget_link(KEY.0, now);
        assert_eq!(neighbours.get(&KEY), None);
    }

    #[test]
    fn bridge_entries_and_proxies_are_not_neighbours() {
        let now = Instant::now();
        let mut neighbours = watching(now);
        let mut proxy = message(NeighbourState::Permanent, None);
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(neighbours.apply(&proxy, true, now), None);
        let mut bridge = message(NeighbourState::Permanent, Some(MAC));
        bridge.attributes.remove(0);
        assert_eq!(neighbours.apply(&bridge, true, now), None);
    }
}
