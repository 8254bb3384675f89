//! Keeps links and the next hops of a set of addresses current: one dump at the start and after lost messages, then
//! only what the kernel says has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rtnetlink::{
    packet_core::NLM_F_CREATE,
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::LinkMessage,
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    },
};
use tokio::sync::{mpsc, watch};

use super::{
    links::{LinkChanged, Links},
    neighbours::{Key, Neighbours},
    netlink::{Heard, Monitor, Netlink, NetlinkError, Notification},
    next_hop::{self, Decision, NextHopChanged},
    routes::{self, NoRoute, Route},
};

/// What the watcher reports. Each difference once, in the order in which it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Sent once for every newly tracked address, also if it has no next hop, then on every difference.
    NextHop(NextHopChanged),
    /// Not sent for what exists at the start: see [`Watcher::links`].
    Link(LinkChanged),
    /// Notifications were lost; everything was read anew, and the differences are reported before this.
    Resynced,
}

/// Settings that hardly anybody changes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What may queue unread before the kernel drops notifications.
    pub receive_buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            receive_buffer_bytes: 1 << 20,
        }
    }
}

/// The running watcher; dropping it ends it.
pub struct Watcher {
    tracked: watch::Sender<BTreeSet<IpAddr>>,
    links: watch::Receiver<Arc<Links>>,
    netlink: Netlink,
}

impl Watcher {
    /// Reads links and neighbours, then follows them in a task on the current tokio runtime. Works in the network
    /// namespace of the calling thread.
    pub async fn start(options: Options) -> Result<(Self, mpsc::Receiver<Event>), NetlinkError> {
        let (tracked, wanted) = watch::channel(BTreeSet::new());
        let (publish, links) = watch::channel(Arc::new(Links::default()));
        let (events, receiver) = mpsc::channel(256);
        let netlink = Netlink::open()?;
        let mut state = State {
            netlink: netlink.clone(),
            wanted,
            publish,
            events,
            links: Links::default(),
            neighbours: Neighbours::default(),
            tracked: BTreeMap::new(),
        };
        let monitor = Monitor::open(options.receive_buffer_bytes)?;
        state.resync(&mut Pending::default()).await?;
        state.publish_links();
        tokio::spawn(state.run(monitor, options));
        Ok((
            Self {
                tracked,
                links,
                netlink,
            },
            receiver,
        ))
    }

    /// Sets the addresses whose next hops are wanted, in place of the previous ones. Never waits.
    pub fn track(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().collect();
        self.tracked.send_if_modified(|tracked| {
            let differs = *tracked != addresses;
            *tracked = addresses;
            differs
        });
    }

    /// The interfaces as last seen.
    pub fn links(&self) -> Arc<Links> {
        Arc::clone(&self.links.borrow())
    }

    /// The request socket, for others who have something to ask or change.
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }
}

struct State {
    netlink: Netlink,
    wanted: watch::Receiver<BTreeSet<IpAddr>>,
    publish: watch::Sender<Arc<Links>>,
    events: mpsc::Sender<Event>,
    links: Links,
    neighbours: Neighbours,
    tracked: BTreeMap<IpAddr, Tracked>,
}

struct Tracked {
    route: Result<Route, NoRoute>,
    decision: Decision,
}

/// What a batch of notifications makes necessary.
#[derive(Default)]
struct Pending {
    routes: Stale,
    neighbours: BTreeSet<Key>,
    links: Vec<LinkChanged>,
    lost: bool,
}

/// Routes to look up again.
#[derive(Default)]
enum Stale {
    #[default]
    None,
    Some(BTreeSet<IpAddr>),
    All,
}

/// How many datagrams are taken in before acting on them: a burst costs one round of look-ups.
const BATCH: usize = 256;
/// After an error of the socket itself.
const REOPEN_AFTER: Duration = Duration::from_secs(1);

impl State {
    async fn run(mut self, mut monitor: Monitor, options: Options) {
        // Ends when nobody listens any more.
        while let Err(error) = self.follow(&mut monitor).await {
            tracing::warn!(%error, "following the network failed; starting over");
            monitor = loop {
                tokio::time::sleep(REOPEN_AFTER).await;
                if self.events.is_closed() {
                    return;
                }
                match self.start_over(options).await {
                    Ok(monitor) => break monitor,
                    Err(error) => tracing::warn!(%error, "cannot follow the network"),
                }
            };
        }
    }

    async fn start_over(&mut self, options: Options) -> Result<Monitor, NetlinkError> {
        self.netlink = Netlink::open()?;
        let monitor = Monitor::open(options.receive_buffer_bytes)?;
        self.act(Pending {
            lost: true,
            ..Pending::default()
        })
        .await?;
        Ok(monitor)
    }

    async fn follow(&mut self, monitor: &mut Monitor) -> Result<(), NetlinkError> {
        loop {
            let mut pending = Pending::default();
            let next_prod = self.neighbours.next_prod();
            tokio::select! {
                heard = monitor.next() => {
                    self.take_in(heard?, &mut pending);
                    for _ in 1..BATCH {
                        let Some(heard) = monitor.try_next() else { break };
                        self.take_in(heard?, &mut pending);
                    }
                }
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = self.events.closed() => return Ok(()),
                () = sleep_until(next_prod) => {}
            }
            self.act(pending).await?;
        }
    }

    fn take_in(&mut self, heard: Heard, pending: &mut Pending) {
        let messages = match heard {
            Heard::Messages(messages) => messages,
            Heard::Lost => {
                pending.lost = true;
                return;
            }
        };
        for message in messages {
            match message {
                Notification::NexthopObject => pending.routes = Stale::All,
                Notification::Route(message) => self.apply(&message, pending),
            }
        }
    }

    fn apply(&mut self, message: &RouteNetlinkMessage, pending: &mut Pending) {
        let now = Instant::now();
        let change = match message {
            RouteNetlinkMessage::NewLink(link) => self.links.apply_new(link),
            RouteNetlinkMessage::DelLink(link) => {
                let change = self.links.apply_delete(link);
                if change.is_some() {
                    self.neighbours.forget_link(link.header.index, now);
                }
                change
            }
            RouteNetlinkMessage::NewAddress(address) => self.links.apply_address(address, true),
            RouteNetlinkMessage::DelAddress(address) => self.links.apply_address(address, false),
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                pending
                    .neighbours
                    .extend(self.neighbours.apply(neighbour, true, now));
                None
            }
            RouteNetlinkMessage::DelNeighbour(neighbour) => {
                pending
                    .neighbours
                    .extend(self.neighbours.apply(neighbour, false, now));
                None
            }
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                if let Some(span) = routes::span(route) {
                    let affected = self.tracked.range(span).map(|(address, _)| *address);
                    pending.routes.add(affected);
                }
                None
            }
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => {
                pending.routes = Stale::All;
                None
            }
            _ => None,
        };
        if let Some(change) = change {
            // The kernel drops IPv4 routes without a word when their interface or source address goes.
            pending.routes = Stale::All;
            pending.links.push(change);
        }
    }

    async fn act(&mut self, mut pending: Pending) -> Result<(), NetlinkError> {
        if pending.lost {
            self.resync(&mut pending).await?;
        }
        if !pending.links.is_empty() {
            self.publish_links();
        }
        for change in std::mem::take(&mut pending.links) {
            self.send(Event::Link(change)).await;
        }
        self.refresh(&pending).await?;
        if pending.lost {
            self.send(Event::Resynced).await;
        }
        self.prod().await;
        Ok(())
    }

    /// Reads everything anew. The monitor was open before, so what changes meanwhile is heard after.
    async fn resync(&mut self, pending: &mut Pending) -> Result<(), NetlinkError> {
        let mut links = Links::default();
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        for message in self.netlink.dump("list the interfaces", request).await? {
            if let RouteNetlinkMessage::NewLink(link) = message {
                links.apply_new(&link);
            }
        }
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in self.netlink.dump("list the addresses", request).await? {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                links.apply_address(&address, true);
            }
        }
        let mut known = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            let request = RouteNetlinkMessage::GetNeighbour(request);
            for message in self.netlink.dump("list the neighbours", request).await? {
                if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
                    known.push(neighbour);
                }
            }
        }
        let now = Instant::now();
        let changes = self.links.changes_to(&links);
        for change in &changes {
            if let LinkChanged {
                before: Some(before),
                after: None,
            } = change
            {
                self.neighbours.forget_link(before.ifindex, now);
            }
        }
        pending.links.extend(changes);
        self.links = links;
        pending
            .neighbours
            .extend(self.neighbours.replace(&known, now));
        pending.routes = Stale::All;
        Ok(())
    }

    async fn refresh(&mut self, pending: &Pending) -> Result<(), NetlinkError> {
        let wanted = self.wanted.borrow_and_update().clone();
        self.tracked.retain(|address, _| wanted.contains(address));
        let mut decided = BTreeMap::new();
        for address in wanted {
            let before = self.tracked.get(&address);
            let route = match before {
                Some(before) if !pending.routes.contains(address) => {
                    if before.decision.neighbours.is_disjoint(&pending.neighbours) {
                        continue;
                    }
                    before.route.clone()
                }
                _ => routes::look_up(&self.netlink, address).await?,
            };
            let decision = next_hop::decide(address, &route, &self.links, &self.neighbours);
            decided.insert(address, Tracked { route, decision });
        }
        for (address, after) in decided {
            let Decision { next_hop, why, .. } = after.decision.clone();
            let before = self.tracked.insert(address, after);
            if before.is_none_or(|before| {
                (before.decision.next_hop, &before.decision.why) != (next_hop, &why)
            }) {
                self.send(Event::NextHop(NextHopChanged {
                    address,
                    next_hop,
                    why,
                }))
                .await;
            }
        }
        let watched = self
            .tracked
            .values()
            .flat_map(|tracked| tracked.decision.neighbours.iter().copied())
            .collect();
        self.neighbours.watch(&watched, Instant::now());
        Ok(())
    }

    async fn prod(&mut self) {
        for ((ifindex, address), attempt) in self.neighbours.due(Instant::now()) {
            // NTF_USE tells the kernel that somebody sends to this neighbour: it creates the entry if need be, asks
            // for it unless it is confirmed, and takes back nothing that it knows.
            let mut message = NeighbourMessage::default();
            message.header.family = AddressFamily::from(address);
            message.header.ifindex = ifindex;
            message.header.flags = NeighbourFlags::Use;
            message
                .attributes
                .push(NeighbourAttribute::Destination(address.into()));
            let message = RouteNetlinkMessage::NewNeighbour(message);
            if let Err(error) = self
                .netlink
                .change("resolve a neighbour", message, NLM_F_CREATE)
                .await
            {
                // ENOBUFS here is a full neighbour table (net.ipv4.neigh.default.gc_thresh3), which lasts.
                if attempt == 0 {
                    tracing::warn!(%address, ifindex, %error, "cannot make the kernel resolve a neighbour; will repeat");
                }
            }
        }
    }

    async fn send(&self, event: Event) {
        // An error says that the receiver is gone; `follow` ends on it.
        let _ = self.events.send(event).await;
    }

    fn publish_links(&self) {
        self.publish.send_replace(Arc::new(self.links.clone()));
    }
}

impl Stale {
    fn add(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        match self {
            Self::All => {}
            Self::Some(some) => some.extend(addresses),
            Self::None => {
                let some: BTreeSet<IpAddr> = addresses.collect();
                if !some.is_empty() {
                    *self = Self::Some(some);
                }
            }
        }
    }

    fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::None => false,
            Self::Some(some) => some.contains(&address),
            Self::All => true,
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
