//! The election's loop: everything that waits is heard before time is judged, actions are carried out in order, and nothing in
//! it waits for anything but the next deadline.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use lb_core::{
    model::{Model, Track as TrackConfig, TrackKind},
    vrrp::{
        codec::ChecksumForm,
        echo::{self, Answer, EchoReject, FRAME_LEN, Identity, Lease},
        frame,
        node::{Node, NodeAction, NodeInput, RouterIndex},
        router::{Action, Change, Notice, Reason, RouterConfig, State},
        setup::{self, Setup},
        tracking::{Effect, Standing, Track, standing},
        virtual_mac,
    },
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Command, ElectionError, Event, HandoverOutcome, LONG, clock,
    hands::{self, Hands, Task},
    realtime,
    socket::{EchoSocket, VrrpSocket},
    status,
};
use crate::{
    dataplane::LeaseTable,
    net::{Mac, announce::Announcer, links::Links, macvlan},
};

const BROADCAST: Mac = [0xff; 6];
/// Packets taken from one socket before the clock is looked at again.
const BATCH: usize = 1024;

/// What the driver knows of a router beside its state machine.
struct Seat {
    place: setup::Place,
    key: u16,
    priority: u8,
    tracks: Vec<TrackConfig>,
    standing: Option<Standing>,
    reason: String,
    transitions: BTreeMap<&'static str, u64>,
    /// Of the transitions: new state and reason.
    reasons: BTreeMap<(&'static str, &'static str), u64>,
    time: BTreeMap<&'static str, Duration>,
    notices: BTreeMap<&'static str, u64>,
}

pub(super) struct Driver {
    node: Node,
    seats: Vec<Seat>,
    node_names: Vec<String>,
    identity: Identity,
    links: Arc<Links>,
    external: Vec<Vec<bool>>,
    /// The node's state is complete, or it went on with a role that it had.
    ready: bool,
    leases: LeaseTable,
    vrrp: Vec<VrrpSocket>,
    echo: Vec<EchoSocket>,
    /// What adverts from virtual MAC addresses leave by, by interface. Open for good: closing such a socket waits for all
    /// processors, which takes longer than an advert interval.
    virtual_macs: BTreeMap<u32, Announcer>,
    /// (peer, interface) → where it was heard.
    macs: BTreeMap<(u8, u32), Mac>,
    silent: BTreeSet<(u8, u8)>,
    hands: Hands,
    events: mpsc::UnboundedSender<Event>,
    inbox: std_mpsc::Receiver<Command>,
    woken: UnixStream,
    handover: Option<oneshot::Sender<HandoverOutcome>>,
    stop: Option<oneshot::Sender<bool>>,
    succeeded: bool,
    ended: bool,
    realtime: bool,
    /// Sending failed and was said.
    failing: BTreeSet<u32>,
}

impl Driver {
    pub fn new(
        model: &Model,
        setup: &Setup,
        links: Arc<Links>,
        mut leases: LeaseTable,
        events: mpsc::UnboundedSender<Event>,
        inbox: std_mpsc::Receiver<Command>,
        woken: UnixStream,
    ) -> Result<Self, ElectionError> {
        let node = Node::new(setup.config.clone())?;
        let failed = |what: String| move |source| ElectionError::Io { what, source };
        let (mut vrrp, mut echo): (Vec<VrrpSocket>, Vec<EchoSocket>) = (Vec::new(), Vec::new());
        let mut virtual_macs = BTreeMap::new();
        for (router, place) in node.routers().zip(&setup.places) {
            let (family, ifindex) = (router.config().family(), place.paths.first().copied());
            let ifindex = ifindex.unwrap_or(0);
            let known = vrrp
                .iter()
                .any(|s| (s.family, s.ifindex) == (family, ifindex));
            if !known {
                let what = format!("open a VRRP socket on {}", place.interface);
                vrrp.push(
                    VrrpSocket::open(family, ifindex, &place.interface).map_err(failed(what))?,
                );
            }
            if router.config().virtual_mac && !virtual_macs.contains_key(&ifindex) {
                let what = format!("open a packet socket on {}", place.interface);
                let opened = Announcer::open(ifindex).map_err(io::Error::other);
                virtual_macs.insert(ifindex, opened.map_err(failed(what))?);
            }
            for &path in place.paths.iter().filter(|_| model.pair.echo) {
                if !echo.iter().any(|socket| socket.ifindex == path) {
                    let what = format!("open an echo socket on interface number {path}");
                    echo.push(EchoSocket::open(path).map_err(failed(what))?);
                }
            }
        }
        let seats: Vec<Seat> = node
            .routers()
            .zip(&setup.places)
            .zip(&model.virtual_routers)
            .map(|((router, place), written)| Seat {
                place: place.clone(),
                key: router.config().key(),
                priority: router.config().priority,
                tracks: written.tracks.clone(),
                standing: None,
                reason: String::new(),
                transitions: BTreeMap::new(),
                reasons: BTreeMap::new(),
                time: BTreeMap::new(),
                notices: BTreeMap::new(),
            })
            .collect();
        let places = model
            .virtual_routers
            .iter()
            .zip(&setup.places)
            .map(|(router, place)| hands::Place {
                ifindex: place.paths.first().copied().unwrap_or(0),
                interface: place.interface.clone(),
                mac: if router.virtual_mac {
                    Some(virtual_mac(router.family(), router.id))
                } else {
                    links.named(&place.interface).and_then(|link| link.mac)
                },
                macvlan: router
                    .virtual_mac
                    .then(|| macvlan::name(router.family(), router.id)),
                addresses: setup::addresses(router),
            })
            .collect::<Vec<_>>();
        let addresses: Vec<(IpAddr, u16)> = places
            .iter()
            .zip(&seats)
            .flat_map(|(place, seat)| place.addresses.iter().map(|a| (*a, seat.key)))
            .collect();
        for left in leases.set_addresses(&addresses) {
            let _ = events.send(Event::Trouble(format!(
                "no room to withhold ARP and ND for {left} when the lease runs out"
            )));
        }
        let keys: Vec<u16> = seats.iter().map(|seat| seat.key).collect();
        leases.clear_leases(&keys);
        let identity = Identity {
            key: setup.config.key,
            node: if model.pair.echo {
                setup.config.node
            } else {
                0
            },
            reserved: [0; 7],
        };
        leases.set_identity(identity);
        let hands =
            Hands::start(places, events.clone()).map_err(failed("start a thread".to_owned()))?;
        Ok(Self {
            external: seats
                .iter()
                .map(|seat| vec![true; seat.tracks.len()])
                .collect(),
            ready: false,
            node,
            seats,
            node_names: model.nodes.keys().map(|name| name.to_string()).collect(),
            identity,
            links,
            leases,
            vrrp,
            echo,
            virtual_macs,
            macs: BTreeMap::new(),
            silent: BTreeSet::new(),
            hands,
            events,
            inbox,
            woken,
            handover: None,
            stop: None,
            succeeded: false,
            ended: false,
            realtime: false,
            failing: BTreeSet::new(),
        })
    }

    pub fn run(mut self) {
        match realtime::schedule() {
            Ok(()) => self.realtime = true,
            Err(error) => self.trouble(format!(
                "VRRP runs without real-time scheduling ({error}): give the service CAP_SYS_NICE, or choose longer intervals"
            )),
        }
        if let Err(error) = realtime::lock_memory() {
            self.trouble(format!(
                "memory is not locked ({error}): give the service CAP_IPC_LOCK, or an advert may wait for a page"
            ));
        }
        let now = clock::now();
        let now_ns = nanoseconds(now);
        let leases_held: Vec<bool> = self
            .seats
            .iter()
            .map(|seat| self.leases.lease(seat.key).answers_for_addresses(now_ns))
            .collect();
        // What has just forwarded is complete; claiming less would make a better node of the other one.
        self.ready = leases_held.contains(&true);
        self.restand();
        self.handle(
            now,
            NodeInput::Start {
                leases_held: &leases_held,
            },
        );
        while !self.ended {
            self.wait();
            self.hear();
            self.obey();
            let now = clock::now();
            if self.node.deadline().is_some_and(|deadline| deadline <= now) {
                self.handle(now, NodeInput::Timer);
            }
        }
    }

    /// Until a packet, a command or the deadline.
    fn wait(&self) {
        let now = clock::now();
        let wait = self
            .node
            .deadline()
            .map_or(LONG, |deadline| deadline.saturating_sub(now))
            .min(LONG);
        let fds = self
            .vrrp
            .iter()
            .map(AsRawFd::as_raw_fd)
            .chain(self.echo.iter().map(AsRawFd::as_raw_fd))
            .chain([self.woken.as_raw_fd()]);
        let mut polled: Vec<libc::pollfd> = fds.map(readable).collect();
        let timeout = libc::timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        // SAFETY: the list is as long as said and both live until the call returns. An error is an early return, after which
        // everything is looked at anyway.
        unsafe {
            libc::ppoll(
                polled.as_mut_ptr(),
                polled.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            );
        }
    }

    /// Delivers every packet that waits.
    fn hear(&mut self) {
        let mut buffer = [0; 2048];
        for socket in 0..self.vrrp.len() {
            for _ in 0..BATCH {
                let Some(socket) = self.vrrp.get(socket) else {
                    break;
                };
                let link = socket.ifindex;
                // An error is the interface's: its link is tracked.
                let Ok(Some((meta, place))) = socket.receive(&mut buffer) else {
                    break;
                };
                let payload = buffer.get(place).unwrap_or_default();
                self.handle(
                    clock::now(),
                    NodeInput::Packet {
                        link,
                        meta,
                        payload,
                    },
                );
            }
        }
        for socket in 0..self.echo.len() {
            for _ in 0..BATCH {
                let Some(socket) = self.echo.get(socket) else {
                    break;
                };
                let link = socket.ifindex;
                let Ok(Some((from, length))) = socket.receive(&mut buffer) else {
                    break;
                };
                let frame = buffer.get(..length).unwrap_or_default();
                if let Some(answer) = self.answer(frame) {
                    if let Some(socket) = self.echo.iter().find(|s| s.ifindex == link) {
                        // Unanswered is what it looks like when this fails.
                        let _ = socket.send(from, &answer);
                    }
                    continue;
                }
                if let Ok(answer) = Answer::decode(frame, &self.identity.key) {
                    self.macs.insert((answer.question.answering, link), from);
                }
                self.handle(clock::now(), NodeInput::Echo { frame });
            }
        }
    }

    /// The answer to a question that was asked of a group; to one that was asked of this node, the XDP program has answered.
    fn answer(&self, frame: &[u8]) -> Option<[u8; FRAME_LEN]> {
        let mut answer: [u8; FRAME_LEN] = *frame.first_chunk()?;
        let Identity { key, node, .. } = self.identity;
        let now_ns = nanoseconds(clock::now());
        echo::answer(&mut answer, &key, node, now_ns, |router| {
            self.leases.lease(router)
        })
        .then_some(answer)
    }

    fn obey(&mut self) {
        let mut drain = [0; 64];
        while matches!(io::Read::read(&mut &self.woken, &mut drain), Ok(n) if n > 0) {}
        while let Ok(command) = self.inbox.try_recv() {
            let now = clock::now();
            match command {
                Command::Links(links) => {
                    self.links = links;
                    self.restand();
                }
                Command::Tracks { tracks, ready } => {
                    self.external = tracks;
                    self.ready |= ready;
                    self.restand();
                }
                Command::Status(answer) => drop(answer.send(self.status())),
                Command::Handover(answer) => {
                    if self.node.routers().any(|r| r.state() == State::Active) {
                        self.handover = Some(answer);
                        self.handle(now, NodeInput::Handover(None));
                    } else {
                        let nothing =
                            "this node is active in no virtual router: ask the active one";
                        let _ = answer.send(Err(nothing.to_owned()));
                    }
                }
                Command::Resume => self.handle(now, NodeInput::Resume(None)),
                Command::Shutdown(answer) => {
                    self.stop = Some(answer);
                    // Of what follows, not of a handover before.
                    self.succeeded = false;
                    self.handle(now, NodeInput::Shutdown);
                }
                Command::Leave => self.ended = true,
            }
        }
    }

    /// Tells every router what its tracked things allow.
    fn restand(&mut self) {
        for index in 0..self.seats.len() {
            let Some(seat) = self.seats.get(index) else {
                continue;
            };
            let has_link = |name: &str| {
                let link = self.links.named(name);
                link.is_some_and(|link| link.up && link.carrier)
            };
            let own = Track {
                effect: Effect::Fault,
                up: has_link(&seat.place.interface),
            };
            let external = self
                .external
                .get(index)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let others = seat.tracks.iter().enumerate().map(|(at, track)| Track {
                effect: track.lower.map_or(Effect::Fault, Effect::Lower),
                up: match &track.kind {
                    TrackKind::Interface(name) => has_link(name),
                    TrackKind::Service { .. }
                    | TrackKind::File(_)
                    | TrackKind::Script { .. }
                    | TrackKind::Gateway { .. } => external.get(at).copied().unwrap_or(true),
                },
            });
            let tracks: Vec<Track> = std::iter::once(own).chain(others).collect();
            let standing = standing(seat.priority, self.ready, &tracks);
            if seat.standing == Some(standing) {
                continue;
            }
            if let Some(seat) = self.seats.get_mut(index) {
                seat.standing = Some(standing);
            }
            self.handle(
                clock::now(),
                NodeInput::Standing {
                    router: index,
                    standing,
                },
            );
        }
    }

    fn handle(&mut self, now: Duration, input: NodeInput<'_>) {
        let mut actions = Vec::new();
        self.node.handle(now, input, &mut actions);
        for action in actions {
            self.act(action);
        }
    }

    fn act(&mut self, action: NodeAction) {
        match action {
            NodeAction::Router { router, action } => self.act_for(router, action),
            NodeAction::Ask { peer, path, frame } => self.ask(peer, path, &frame),
            NodeAction::Path { router, change } => {
                if change.up {
                    self.silent.remove(&(change.peer, change.path));
                } else {
                    self.silent.insert((change.peer, change.path));
                }
                let router = self.name(router);
                let _ = self.events.send(Event::Path { router, change });
            }
            NodeAction::Stopped => {
                self.ended = true;
                // Waits until the addresses are gone.
                if let Ok(idle) = Hands::start(Vec::new(), self.events.clone()) {
                    self.hands = idle;
                }
                if let Some(stop) = self.stop.take() {
                    let _ = stop.send(self.succeeded);
                }
            }
        }
    }

    fn act_for(&mut self, index: RouterIndex, action: Action) {
        match action {
            Action::Advert { priority } => self.advertise(index, priority),
            Action::Take => self.hands.ask(Task::Take(index)),
            Action::Release => self.hands.ask(Task::Release(index)),
            Action::Announce => self.hands.ask(Task::Announce(index)),
            Action::Lease(write) => self.leases.set_lease(
                write.router,
                Lease::new(
                    nanoseconds(write.until),
                    write.rank,
                    write.role,
                    write.priority,
                ),
            ),
            Action::Changed(change) => self.changed(index, change),
            Action::Notice(notice) => {
                if let Some(seat) = self.seats.get_mut(index) {
                    *seat.notices.entry(notice.label()).or_default() += 1;
                }
                if notice == Notice::HandoverRefused
                    && let Some(answer) = self.handover.take()
                {
                    let nobody = "no other node took over in time: this node stays active";
                    let _ = answer.send(Err(nobody.to_owned()));
                }
                let router = self.name(index);
                let _ = self.events.send(Event::Notice { router, notice });
            }
            Action::Stopped => {}
        }
    }

    fn changed(&mut self, index: RouterIndex, change: Change) {
        if let Some(seat) = self.seats.get_mut(index) {
            seat.reason = change.reason.label().to_owned();
            *seat.transitions.entry(change.to.label()).or_default() += 1;
            let why = (change.to.label(), change.reason.label());
            *seat.reasons.entry(why).or_default() += 1;
            *seat.time.entry(change.from.label()).or_default() += change.lasted;
        }
        if change.from == State::Active {
            self.succeeded |= change.reason == Reason::HandedOver;
            let left = self.node.routers().any(|r| r.state() == State::Active);
            if !left && let Some(answer) = self.handover.take() {
                let _ = answer.send(Ok(()));
            }
        }
        let router = self.name(index);
        let _ = self.events.send(Event::Changed { router, change });
    }

    fn advertise(&mut self, index: RouterIndex, priority: u8) {
        let Some(config) = self.node.router(index).map(|router| router.config()) else {
            return;
        };
        let link = self
            .seats
            .get(index)
            .and_then(|seat| seat.place.paths.first().copied());
        let socket = self
            .vrrp
            .iter()
            .find(|s| s.family == config.family() && Some(s.ifindex) == link);
        let Some(socket) = socket else { return };
        let advert = config.advert(priority);
        let mut failure = None;
        for destination in config.destinations() {
            let sent = advert
                .encode(&config.primary, &destination)
                .map_err(io::Error::other)
                .and_then(|payload| {
                    if config.virtual_mac {
                        self.send_from_virtual_mac(config, socket.ifindex, &payload)
                    } else {
                        socket.send(config.primary, destination, &payload)
                    }
                });
            if let Err(error) = sent {
                failure = Some((destination, error));
            }
        }
        let ifindex = socket.ifindex;
        match failure {
            None => drop(self.failing.remove(&ifindex)),
            Some((destination, error)) => {
                if self.failing.insert(ifindex) {
                    let name = self.name(index);
                    self.trouble(format!(
                        "virtual router {name}: cannot send an advert to {destination}: {error}"
                    ));
                }
            }
        }
    }

    fn send_from_virtual_mac(
        &self,
        config: &RouterConfig,
        ifindex: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let family = config.family();
        let mac = virtual_mac(family, config.vrid);
        let frame = frame::frame(family, mac, &config.primary, payload)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let sender = self.virtual_macs.get(&ifindex);
        let sender = sender.ok_or(io::ErrorKind::NotConnected)?;
        sender.send_frame(&frame).map_err(io::Error::other)
    }

    fn ask(&mut self, peer: u8, path: u8, frame: &[u8; FRAME_LEN]) {
        let [_, _, _, _, _, _, high, low, ..] = *frame;
        let key = u16::from_be_bytes([high, low]);
        let link = self
            .seats
            .iter()
            .find(|seat| seat.key == key)
            .and_then(|seat| seat.place.paths.get(usize::from(path)).copied());
        let socket = self.echo.iter().find(|s| Some(s.ifindex) == link);
        let Some(socket) = socket else { return };
        let known = self.macs.get(&(peer, socket.ifindex)).copied();
        // What cannot be sent is not answered, which is what the caller looks at.
        if let Some(mac) = known {
            let _ = socket.send(mac, frame);
        }
        if known.is_none() || self.silent.contains(&(peer, path)) {
            let _ = socket.send(BROADCAST, frame);
        }
    }

    fn name(&self, index: RouterIndex) -> String {
        self.seats
            .get(index)
            .map(|seat| seat.place.name.clone())
            .unwrap_or_default()
    }

    fn trouble(&self, text: String) {
        let _ = self.events.send(Event::Trouble(text));
    }

    fn status(&self) -> status::Election {
        let now = clock::now();
        let routers = self.node.routers().zip(&self.seats).enumerate();
        status::Election {
            routers: routers
                .map(|(index, (router, seat))| {
                    let lasted = now.saturating_sub(router.since());
                    let mut time = seat.time.clone();
                    *time.entry(router.state().label()).or_default() += lasted;
                    let config = router.config();
                    let addresses = match &config.addresses {
                        lb_core::vrrp::codec::Addresses::V4(list) => {
                            list.iter().copied().map(IpAddr::V4).collect()
                        }
                        lb_core::vrrp::codec::Addresses::V6(list) => {
                            list.iter().copied().map(IpAddr::V6).collect()
                        }
                    };
                    status::VirtualRouter {
                        name: seat.place.name.clone(),
                        interface: seat.place.interface.clone(),
                        addresses,
                        state: router.state().label().to_owned(),
                        since_ms: milliseconds(lasted),
                        reason: seat.reason.clone(),
                        priority: router.priority(),
                        stands_down: router.stands_down(),
                        peer: router.active_heard(),
                        peer_checksum: self.node.checksum_seen(index).map(|form| {
                            match form {
                                ChecksumForm::MessageOnly => "rfc9568",
                                ChecksumForm::PseudoHeader => "rfc5798",
                            }
                            .to_owned()
                        }),
                        transitions: named(&seat.transitions, |count| *count),
                        reasons: reasons(&seat.reasons),
                        time_ms: named(&time, |time| milliseconds(*time)),
                        notices: named(&seat.notices, |count| *count),
                        paths: self
                            .node
                            .paths(index)
                            .map(|path| self.path_status(seat, path.peer, path.path, path.up))
                            .collect(),
                        rejects: self.node.rejects(index).map(rejects).unwrap_or_default(),
                    }
                })
                .collect(),
            stray_rejects: rejects(self.node.stray_rejects()),
            echo_rejects: EchoReject::ALL
                .iter()
                .zip(self.node.echo_rejects())
                .filter(|(_, count)| **count > 0)
                .map(|(reason, count)| (reason.label().to_owned(), *count))
                .collect(),
            realtime: self.realtime,
        }
    }

    fn path_status(&self, seat: &Seat, peer: u8, path: u8, up: bool) -> status::Path {
        let node = usize::from(peer).checked_sub(1);
        let ifindex = seat.place.paths.get(usize::from(path)).copied();
        status::Path {
            node: node
                .and_then(|node| self.node_names.get(node).cloned())
                .unwrap_or_default(),
            interface: ifindex
                .and_then(|ifindex| self.links.get(ifindex))
                .map(|link| link.name.clone())
                .unwrap_or_default(),
            up,
        }
    }
}

fn named<T>(
    counts: &BTreeMap<&'static str, T>,
    value: impl Fn(&T) -> u64,
) -> BTreeMap<String, u64> {
    counts
        .iter()
        .map(|(name, count)| ((*name).to_owned(), value(count)))
        .collect()
}

fn reasons(
    counts: &BTreeMap<(&'static str, &'static str), u64>,
) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut by_state: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for ((state, reason), count) in counts {
        let of_state = by_state.entry((*state).to_owned()).or_default();
        of_state.insert((*reason).to_owned(), *count);
    }
    by_state
}

fn rejects(counts: &lb_core::vrrp::reject::Rejects) -> BTreeMap<String, u64> {
    counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.label().to_owned(), count))
        .collect()
}

fn readable(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
