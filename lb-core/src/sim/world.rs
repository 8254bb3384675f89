//! Hosts, dataplanes and links, driven by one queue of events. Runs the same [`Node`] as the daemon does.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::collections::BTreeMap;

use super::rng::Rng;
use crate::vrrp::codec::{Addresses, Auth, ChecksumForm, Meta, Wire};
use crate::vrrp::echo::{self, FRAME_LEN, Key, Lease};
use crate::vrrp::liveness::EchoConfig;
use crate::vrrp::node::{Node, NodeAction, NodeConfig, NodeInput, Placement};
use crate::vrrp::router::{Action, Change, Preempt, RouterConfig, State};
use crate::vrrp::tracking::Standing;
use crate::vrrp::{Family, announce::AnnounceConfig};

pub const MS: Duration = Duration::from_millis(1);
const KEY: Key = Key {
    k0: 0x1234,
    k1: 0x5678,
};
const LINK: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One virtual router; node 0 has the highest priority.
    Single,
    /// Two, with opposite priorities.
    ActiveActive,
    /// IPv4 and IPv6, moving together.
    SyncGroup,
}

#[derive(Clone, Debug)]
pub struct Options {
    pub nodes: usize,
    pub layout: Layout,
    pub interval: Duration,
    pub v2: bool,
    pub preempt: Preempt,
    pub lease: Duration,
    /// `None`: plain VRRP. Else how many paths the echo has.
    pub echo: Option<u8>,
    pub loss_per_mille: u64,
    /// One packet in so many arrives late enough to be overtaken. 0: never.
    pub reorder_per_mille: u64,
    pub duplicate_per_mille: u64,
    /// Delay of a packet, and lateness of a timer, at the most.
    pub delay: Duration,
    pub trace: bool,
}

impl Options {
    pub fn pair(interval: Duration, echo: Option<u8>) -> Self {
        Self {
            nodes: 2,
            layout: Layout::Single,
            interval,
            v2: false,
            preempt: Preempt::After(Duration::ZERO),
            lease: interval * 30,
            echo,
            loss_per_mille: 0,
            reorder_per_mille: 0,
            duplicate_per_mille: 0,
            delay: Duration::from_micros(100),
            trace: false,
        }
    }

    fn routers(&self) -> usize {
        if self.layout == Layout::Single { 1 } else { 2 }
    }
}

#[derive(Clone, Debug)]
enum Packet {
    Advert { meta: Meta, payload: Vec<u8> },
    Question([u8; FRAME_LEN]),
    Answer(Vec<u8>),
}

#[derive(Debug)]
enum Event {
    Deliver {
        from: usize,
        to: usize,
        path: usize,
        packet: Packet,
    },
    Wake {
        node: usize,
    },
    Fault(Fault),
}

/// Something that happens to the world.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The host dies, dataplane and all.
    Crash(usize),
    Boot(usize),
    /// The daemon dies, the dataplane stays.
    Kill(usize),
    StartDaemon(usize),
    /// The daemon gets no CPU; its sockets fill.
    Starve(usize, bool),
    /// The whole virtual machine stands still.
    Freeze(usize, bool),
    Link(usize, usize, bool),
    /// Packets from, to, on path are lost.
    Block(usize, usize, usize, bool),
    ClockJump(usize, Duration),
    Handover(usize),
    Resume(usize),
    Shutdown(usize),
    Standing(usize, Standing),
    /// Forged packets reach a node.
    Forge(usize),
    Loss(u64),
}

#[derive(Debug, Default)]
struct Host {
    daemon: Option<Node>,
    powered: bool,
    /// The daemon has been told to start; not so if it was launched without getting the CPU.
    started: bool,
    starved: bool,
    frozen: bool,
    links: [bool; 2],
    clock: Duration,
    leases: BTreeMap<u16, Lease>,
    holds: [bool; 2],
    inbox: Vec<Packet>,
    wake: Option<Duration>,
    boots: u64,
}

impl Host {
    fn runs(&self) -> bool {
        self.powered && !self.starved && !self.frozen && self.daemon.is_some()
    }
}

#[derive(Debug)]
pub struct World {
    pub now: Duration,
    pub rng: Rng,
    pub options: Options,
    /// Every change of state: when, node, router.
    pub changes: Vec<(Duration, usize, usize, Change)>,
    /// Every announcement: when, node, router.
    pub announced: Vec<(Duration, usize, usize)>,
    /// Adverts sent: when, node, router, priority.
    pub adverts: Vec<(Duration, usize, usize, u8)>,
    /// What happened, if the options ask for a trace.
    pub log: Vec<String>,
    hosts: Vec<Host>,
    blocked: [[[bool; 2]; 3]; 3],
    queue: BTreeMap<(Duration, u64), Event>,
    tickets: u64,
    scratch: Vec<NodeAction>,
}

impl World {
    /// All nodes boot within the first three intervals.
    pub fn new(seed: u64, options: Options) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            rng: Rng::new(seed),
            changes: Vec::new(),
            announced: Vec::new(),
            adverts: Vec::new(),
            log: Vec::new(),
            hosts: (0..options.nodes)
                .map(|_| Host {
                    links: [true; 2],
                    ..Host::default()
                })
                .collect(),
            blocked: Default::default(),
            queue: BTreeMap::new(),
            tickets: 0,
            scratch: Vec::new(),
            options,
        };
        for node in 0..world.options.nodes {
            world.hosts[node].clock = MS * world.rng.below(1_000_000) as u32;
            let at = world.luck(world.options.interval * 3);
            world.schedule(at, Event::Fault(Fault::Boot(node)));
        }
        world
    }

    pub fn luck(&mut self, end: Duration) -> Duration {
        Duration::from_nanos(self.rng.below(end.as_nanos() as u64 + 1))
    }

    pub fn fault_at(&mut self, at: Duration, fault: Fault) {
        self.schedule(at, Event::Fault(fault));
    }

    pub fn fault(&mut self, fault: Fault) {
        self.apply(fault);
    }

    /// Forgets the faults that have not happened yet.
    pub fn drop_faults(&mut self) {
        self.queue
            .retain(|_, event| !matches!(event, Event::Fault(_)));
    }

    /// Runs until `end`, calling `check` after every event.
    pub fn run(
        &mut self,
        end: Duration,
        mut check: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            match event {
                Event::Deliver {
                    from,
                    to,
                    path,
                    packet,
                } => self.deliver(from, to, path, packet),
                Event::Wake { node } => self.wake(node),
                Event::Fault(fault) => self.apply(fault),
            }
            check(self)?;
        }
        self.now = end;
        check(self)
    }

    /// Runs for a time without a check.
    pub fn settle(&mut self, span: Duration) {
        self.run(self.now + span, |_| Ok(()))
            .expect("nothing is checked");
    }

    // ---- What an observer sees --------------------------------------------------------------------------------------

    /// Whether the node answers ARP/ND for router's addresses: they are configured and its lease lets requests through.
    pub fn answers(&self, node: usize, router: usize) -> bool {
        let host = &self.hosts[node];
        let key = self.router_config(node, router).key();
        let lease = host.leases.get(&key).copied().unwrap_or_default();
        host.powered
            && !host.frozen
            && host.links[0]
            && host.holds[router]
            && lease.answers_for_addresses(self.local(node).as_nanos() as u64)
    }

    pub fn answering(&self, router: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.hosts.len()).filter(move |&node| self.answers(node, router))
    }

    pub fn state(&self, node: usize, router: usize) -> Option<State> {
        self.hosts[node]
            .daemon
            .as_ref()
            .and_then(|daemon| daemon.router(router))
            .map(|router| router.state())
    }

    pub fn daemon_runs(&self, node: usize) -> bool {
        self.hosts[node].runs()
    }

    /// Whether any path between two nodes carries packets both ways, of those that this configuration uses.
    pub fn connected(&self, a: usize, b: usize) -> bool {
        (0..usize::from(self.options.echo.unwrap_or(1)))
            .any(|path| self.passes(a, b, path) && self.passes(b, a, path))
    }

    pub fn routers(&self) -> usize {
        self.options.routers()
    }

    fn passes(&self, from: usize, to: usize, path: usize) -> bool {
        let up = |node: usize| {
            let host = &self.hosts[node];
            host.powered && !host.frozen && host.links[path]
        };
        up(from) && up(to) && !self.blocked[from][to][path]
    }

    // ---- Events -----------------------------------------------------------------------------------------------------

    fn schedule(&mut self, at: Duration, event: Event) {
        self.tickets += 1;
        self.queue.insert((at, self.tickets), event);
    }

    fn local(&self, node: usize) -> Duration {
        self.now + self.hosts[node].clock
    }

    fn send(&mut self, from: usize, to: usize, path: usize, packet: Packet) {
        let options = &self.options;
        let (loss, reorder, duplicate) = (
            options.loss_per_mille,
            options.reorder_per_mille,
            options.duplicate_per_mille,
        );
        if !self.passes(from, to, path) || self.rng.chance(loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.chance(duplicate));
        for _ in 0..copies {
            let slow = if self.rng.chance(reorder) {
                self.options.interval / 2
            } else {
                self.options.delay
            };
            let at = self.now + Duration::from_micros(20) + self.luck(slow);
            self.schedule(
                at,
                Event::Deliver {
                    from,
                    to,
                    path,
                    packet: packet.clone(),
                },
            );
        }
    }

    fn deliver(&mut self, from: usize, to: usize, path: usize, packet: Packet) {
        if !self.passes(from, to, path) {
            return;
        }
        if let Packet::Question(mut frame) = packet {
            let (host, now_ns) = (&self.hosts[to], self.local(to).as_nanos() as u64);
            let lease = |key| host.leases.get(&key).copied().unwrap_or_default();
            if echo::answer(&mut frame, &KEY, to as u8, now_ns, lease) {
                self.send(to, from, path, Packet::Answer(frame.to_vec()));
            }
        } else {
            self.hosts[to].inbox.push(packet);
            self.drain(to);
        }
    }

    fn wake(&mut self, node: usize) {
        self.hosts[node].wake = None;
        if !self.hosts[node].runs() {
            return;
        }
        let due = self.hosts[node].daemon.as_ref().and_then(Node::deadline);
        if due.is_some_and(|due| due <= self.local(node)) {
            self.handle(node, NodeInput::Timer);
        } else {
            self.arm(node);
        }
    }

    fn drain(&mut self, node: usize) {
        if !self.hosts[node].runs() {
            let inbox = &mut self.hosts[node].inbox;
            inbox.truncate(300);
            return;
        }
        for packet in core::mem::take(&mut self.hosts[node].inbox) {
            match packet {
                Packet::Advert { meta, payload } => {
                    self.handle(
                        node,
                        NodeInput::Packet {
                            link: LINK,
                            meta,
                            payload: &payload,
                        },
                    );
                }
                Packet::Answer(frame) => self.handle(node, NodeInput::Echo { frame: &frame }),
                Packet::Question(_) => unreachable!("the dataplane takes questions"),
            }
        }
    }

    /// What a daemon does when it gets the CPU back: packets first.
    fn catch_up(&mut self, node: usize) {
        if self.hosts[node].runs() && !self.hosts[node].started {
            self.begin(node);
        }
        self.drain(node);
        if self.hosts[node].runs() {
            self.handle(node, NodeInput::Timer);
        }
    }

    fn handle(&mut self, node: usize, input: NodeInput<'_>) {
        let now = self.local(node);
        let mut actions = core::mem::take(&mut self.scratch);
        if let Some(daemon) = &mut self.hosts[node].daemon {
            daemon.handle(now, input, &mut actions);
        }
        for action in actions.drain(..) {
            self.act(node, action);
        }
        self.scratch = actions;
        self.arm(node);
    }

    fn arm(&mut self, node: usize) {
        let clock = self.hosts[node].clock;
        let Some(due) = self.hosts[node].daemon.as_ref().and_then(Node::deadline) else {
            return;
        };
        let due = due.saturating_sub(clock).max(self.now);
        if self.hosts[node].wake.is_none_or(|wake| due < wake) {
            self.hosts[node].wake = Some(due);
            let late = self.luck(self.options.delay);
            self.schedule(due + late, Event::Wake { node });
        }
    }

    fn act(&mut self, node: usize, action: NodeAction) {
        let trace = self.options.trace;
        match action {
            NodeAction::Ask { peer, path, frame } => {
                return self.send(node, peer.into(), path.into(), Packet::Question(frame));
            }
            NodeAction::Path { .. } => {}
            NodeAction::Stopped => self.hosts[node].daemon = None,
            NodeAction::Router { router, action } => match action {
                Action::Advert { priority } => {
                    self.adverts.push((self.now, node, router, priority));
                    let config = self.router_config(node, router);
                    let destination = config.family().group();
                    let advert = config.advert(priority);
                    let payload = advert
                        .encode(&config.primary, &destination)
                        .expect("configuration was checked");
                    let meta = Meta {
                        source: config.primary,
                        destination,
                        ttl: 255,
                    };
                    for to in (0..self.hosts.len()).filter(|&to| to != node) {
                        self.send(
                            node,
                            to,
                            0,
                            Packet::Advert {
                                meta,
                                payload: payload.clone(),
                            },
                        );
                    }
                }
                Action::Take => self.hosts[node].holds[router] = true,
                Action::Release => self.hosts[node].holds[router] = false,
                Action::Lease(write) => {
                    let until_ns = write.until.as_nanos() as u64;
                    let lease = Lease::new(until_ns, write.rank, write.role, write.priority);
                    self.hosts[node].leases.insert(write.router, lease);
                    return;
                }
                Action::Announce => self.announced.push((self.now, node, router)),
                Action::Changed(change) => self.changes.push((self.now, node, router, change)),
                Action::Notice(_) | Action::Stopped => {}
            },
        }
        if trace {
            self.log
                .push(format!("{:>12?} node {node} {action:?}", self.now));
        }
    }

    fn apply(&mut self, fault: Fault) {
        if self.options.trace {
            self.log.push(format!("{:>12?} ---- {fault:?}", self.now));
        }
        match fault {
            Fault::Crash(node) => {
                let (clock, boots) = (self.hosts[node].clock, self.hosts[node].boots);
                let links = self.hosts[node].links;
                self.hosts[node] = Host {
                    clock,
                    boots,
                    links,
                    ..Host::default()
                };
            }
            Fault::Boot(node) => {
                self.hosts[node].powered = true;
                self.start_daemon(node);
            }
            Fault::Kill(node) => {
                self.hosts[node].daemon = None;
                self.hosts[node].inbox.clear();
            }
            Fault::StartDaemon(node) => self.start_daemon(node),
            Fault::Starve(node, on) => {
                self.hosts[node].starved = on;
                self.catch_up(node);
            }
            Fault::Freeze(node, on) => {
                self.hosts[node].frozen = on;
                self.catch_up(node);
            }
            Fault::Link(node, path, up) => {
                self.hosts[node].links[path] = up;
                if path == 0 {
                    self.tell_link(node);
                }
            }
            Fault::Block(from, to, path, on) => self.blocked[from][to][path] = on,
            Fault::ClockJump(node, by) => {
                self.hosts[node].clock += by;
                if self.hosts[node].runs() {
                    self.arm(node);
                }
            }
            Fault::Handover(node) if self.hosts[node].runs() => {
                self.handle(node, NodeInput::Handover(None))
            }
            Fault::Resume(node) if self.hosts[node].runs() => {
                self.handle(node, NodeInput::Resume(None))
            }
            Fault::Shutdown(node) if self.hosts[node].runs() => {
                self.handle(node, NodeInput::Shutdown)
            }
            Fault::Handover(_) | Fault::Resume(_) | Fault::Shutdown(_) => {}
            Fault::Standing(node, standing) => {
                for router in 0..self.routers() {
                    if self.hosts[node].runs() {
                        self.handle(node, NodeInput::Standing { router, standing });
                    }
                }
            }
            Fault::Forge(node) => self.forge(node),
            Fault::Loss(per_mille) => self.options.loss_per_mille = per_mille,
        }
    }

    fn tell_link(&mut self, node: usize) {
        if !self.hosts[node].runs() {
            return;
        }
        for router in 0..self.routers() {
            let priority = self.router_config(node, router).priority;
            let standing = Standing {
                priority,
                fault: !self.hosts[node].links[0],
            };
            self.handle(node, NodeInput::Standing { router, standing });
        }
    }

    fn start_daemon(&mut self, node: usize) {
        if !self.hosts[node].powered || self.hosts[node].daemon.is_some() {
            return;
        }
        self.hosts[node].boots += 1;
        let config = NodeConfig {
            node: node as u8,
            key: KEY,
            epoch: self.rng.draw(),
            routers: (0..self.routers())
                .map(|router| self.placement(node, router))
                .collect(),
        };
        self.hosts[node].daemon = Some(Node::new(config).expect("configuration is valid"));
        self.hosts[node].started = false;
        self.catch_up(node);
    }

    fn begin(&mut self, node: usize) {
        self.hosts[node].started = true;
        let now_ns = self.local(node).as_nanos() as u64;
        let held = |router| {
            let key = self.router_config(node, router).key();
            self.hosts[node]
                .leases
                .get(&key)
                .is_some_and(|lease| lease.answers_for_addresses(now_ns))
        };
        let leases_held: Vec<bool> = (0..self.routers()).map(held).collect();
        if self.hosts[node].runs() {
            self.tell_link(node);
            self.handle(
                node,
                NodeInput::Start {
                    leases_held: &leases_held,
                },
            );
        }
    }

    fn forge(&mut self, node: usize) {
        let config = self.router_config(node, 0);
        let mut source: IpAddr = Ipv4Addr::new(10, 0, 0, 66).into();
        let mut advert = config.advert(self.rng.draw() as u8);
        let mut ttl = 255;
        match self.rng.below(4) {
            0 => ttl = 64,
            1 => advert.vrid = 99,
            2 => source = config.primary,
            _ => {}
        }
        let destination = config.family().group();
        let mut payload = advert.encode(&source, &destination).expect("valid");
        if self.rng.chance(500) {
            let at = self.rng.pick(payload.len());
            payload[at] ^= self.rng.within(1, 256) as u8;
        }
        let meta = Meta {
            source,
            destination,
            ttl,
        };
        self.hosts[node]
            .inbox
            .push(Packet::Advert { meta, payload });
        let noise = (0..FRAME_LEN).map(|_| self.rng.draw() as u8).collect();
        self.hosts[node].inbox.push(Packet::Answer(noise));
        self.drain(node);
    }

    // ---- Configuration ----------------------------------------------------------------------------------------------

    fn placement(&self, node: usize, router: usize) -> Placement {
        let paths = self.options.echo;
        let peers = |paths| {
            (0..self.options.nodes)
                .filter(|&n| n != node)
                .map(|n| (n as u8, paths))
                .collect()
        };
        Placement {
            link: LINK,
            router: self.router_config(node, router),
            echo: paths.map(|paths| EchoConfig::for_interval(self.options.interval, peers(paths))),
            sync_group: (self.options.layout == Layout::SyncGroup).then_some(1),
        }
    }

    pub fn router_config(&self, node: usize, router: usize) -> RouterConfig {
        let options = &self.options;
        let v6 = options.layout == Layout::SyncGroup && router == 1;
        let turn = if options.layout == Layout::ActiveActive && router == 1 {
            options.nodes - 1 - node
        } else {
            node
        };
        let last = node as u8 + 1;
        let (addresses, primary, wire) = match if v6 { Family::V6 } else { Family::V4 } {
            Family::V4 if options.v2 => {
                let vip = Ipv4Addr::new(10, 0, 0, 100 + router as u8);
                (
                    Addresses::V4(vec![vip]),
                    Ipv4Addr::new(10, 0, 0, last).into(),
                    Wire::V2 { auth: Auth::None },
                )
            }
            Family::V4 => {
                let vip = Ipv4Addr::new(10, 0, 0, 100 + router as u8);
                let wire = Wire::V3 {
                    checksum: ChecksumForm::MessageOnly,
                };
                (
                    Addresses::V4(vec![vip]),
                    Ipv4Addr::new(10, 0, 0, last).into(),
                    wire,
                )
            }
            Family::V6 => {
                let vip = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, 1);
                // Ordered the other way round than IPv4: a tie must not make the group swing.
                let primary = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 100 - u16::from(last));
                (
                    Addresses::V6(vec![vip]),
                    primary.into(),
                    Wire::V3 {
                        checksum: ChecksumForm::PseudoHeader,
                    },
                )
            }
        };
        RouterConfig {
            vrid: 51 + router as u8,
            wire,
            addresses,
            primary,
            unicast_peers: Vec::new(),
            priority: 200 - 50 * turn as u8,
            interval: options.interval,
            preempt: options.preempt,
            virtual_mac: false,
            announce: AnnounceConfig {
                repeats: 3,
                gap: options.interval * 2,
                refresh: None,
            },
            lease: options.lease,
        }
    }
}
