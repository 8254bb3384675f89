//! All virtual routers of one node: hands packets to the router they belong to, joins election and echo, and moves
//! sync groups together. This is what a socket driver talks to.
//!
//! The driver's duties:
//! 1. Deliver **every** waiting packet before [`NodeInput::Timer`]; after a stall the answer is in the socket's buffer.
//! 2. Carry out actions in order.
//! 3. After each call, arm one timer for [`Node::deadline`] (absolute, `CLOCK_BOOTTIME`).
//! 4. Write leases with the clock that the XDP program reads.

use core::net::IpAddr;
use core::time::Duration;

use super::codec::{Advert, ChecksumForm, Meta, Wire};
use super::echo::{Answer, EchoReject, FRAME_LEN, Key};
use super::liveness::{EchoConfig, Evidence, PathChange, Watch};
use super::reject::{Reject, Rejects};
use super::router::{Action, ConfigError, Input, Router, RouterConfig, State};
use super::tracking::Standing;
use super::{Family, rank};

/// A router's place in [`NodeConfig::routers`].
pub type RouterIndex = usize;

/// One node of the pair.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Node number in echo frames, unique among the nodes.
    pub node: u8,
    pub key: Key,
    /// Random, drawn at each start of the daemon.
    pub epoch: u64,
    pub routers: Vec<Placement>,
}

/// A virtual router and its surroundings.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The interface's index, or whatever else the driver tells links apart by.
    pub link: u32,
    pub router: RouterConfig,
    /// `None`: plain VRRP. In a sync group only the leader's counts.
    pub echo: Option<EchoConfig>,
    /// Routers with the same number move together. The first one is the leader: its election decides, the others'
    /// adverts are sent, and heard as signs of life.
    pub sync_group: Option<u16>,
}

#[derive(Clone, Debug)]
pub enum NodeInput<'a> {
    /// `leases_held[i]`: the dataplane still holds router i's lease.
    Start {
        leases_held: &'a [bool],
    },
    /// An IP payload of protocol 112 from a link.
    Packet {
        link: u32,
        meta: Meta,
        payload: &'a [u8],
    },
    /// An echo answer, without its Ethernet header.
    Echo {
        frame: &'a [u8],
    },
    Timer,
    Standing {
        router: RouterIndex,
        standing: Standing,
    },
    /// Give up one router and its sync group, or all.
    Handover(Option<RouterIndex>),
    Resume(Option<RouterIndex>),
    Shutdown,
    Stalled,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeAction {
    Router {
        router: RouterIndex,
        action: Action,
    },
    /// Send an echo frame to a peer's MAC address over a path.
    Ask {
        peer: u8,
        path: u8,
        frame: [u8; FRAME_LEN],
    },
    /// A path to a peer went silent or came back.
    Path {
        router: RouterIndex,
        change: PathChange,
    },
    /// Shutdown is complete: every router has released its addresses.
    Stopped,
}

/// Why a node's routers cannot run together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Router(#[from] ConfigError),
    #[error(
        "two virtual routers have VRID {vrid} and the same address family: give one of them another VRID"
    )]
    Twice { vrid: u8 },
    #[error(
        "sync group {group}: its members need one priority, interval, version and preemption, and VRID {vrid} differs \
         from the first member"
    )]
    GroupDiffers { group: u16, vrid: u8 },
    #[error("virtual router {vrid}: at least 2 echo misses and a period above zero are needed")]
    Echo { vrid: u8 },
}

/// The node's election.
#[derive(Clone, Debug)]
pub struct Node {
    key: Key,
    members: Vec<Member>,
    stopping: bool,
    rejects: Rejects,
    echo_rejects: [u64; EchoReject::ALL.len()],
    scratch: Vec<Action>,
}

#[derive(Clone, Debug)]
struct Member {
    link: u32,
    router: Router,
    watch: Option<Watch>,
    /// Its sync group's first member; itself without a group.
    leader: RouterIndex,
    standing: Standing,
    rejects: Rejects,
    /// Checksum form that the latest v3 advert had.
    checksum_seen: Option<ChecksumForm>,
}

impl Node {
    /// # Errors
    /// If a router cannot work, or two of them cannot work together.
    pub fn new(config: NodeConfig) -> Result<Self, NodeError> {
        let mut members: Vec<Member> = Vec::with_capacity(config.routers.len());
        for (index, place) in config.routers.iter().enumerate() {
            let mut router = Router::new(place.router.clone())?;
            let RouterConfig { vrid, .. } = place.router;
            // The lease table and the echo know a router by family and VRID alone.
            if members
                .iter()
                .any(|other| other.router.config().key() == place.router.key())
            {
                return Err(NodeError::Twice { vrid });
            }
            if place
                .echo
                .as_ref()
                .is_some_and(|echo| echo.misses < 2 || echo.period.is_zero())
            {
                return Err(NodeError::Echo { vrid });
            }
            let first = |group| {
                config
                    .routers
                    .iter()
                    .position(|other| other.sync_group == Some(group))
            };
            let leader = place.sync_group.and_then(first).unwrap_or(index);
            if let (true, Some(group), Some(first)) =
                (leader != index, place.sync_group, members.get(leader))
            {
                let alike = |c: &RouterConfig| (c.priority, c.interval, c.version(), c.preempt);
                if alike(first.router.config()) != alike(&place.router) {
                    return Err(NodeError::GroupDiffers { group, vrid });
                }
                router.set_follower();
            }
            let watch = place.echo.as_ref().filter(|_| leader == index).map(|echo| {
                Watch::new(
                    echo.clone(),
                    config.key,
                    config.node,
                    place.router.key(),
                    config.epoch,
                )
            });
            members.push(Member {
                link: place.link,
                standing: Standing::at(place.router.priority),
                router,
                watch,
                leader,
                rejects: Rejects::default(),
                checksum_seen: None,
            });
        }
        Ok(Self {
            key: config.key,
            members,
            stopping: false,
            rejects: Rejects::default(),
            echo_rejects: Default::default(),
            scratch: Vec::new(),
        })
    }

    #[must_use]
    pub fn router(&self, index: RouterIndex) -> Option<&Router> {
        self.members.get(index).map(|member| &member.router)
    }

    pub fn routers(&self) -> impl Iterator<Item = &Router> {
        self.members.iter().map(|member| &member.router)
    }

    /// Adverts that a router ignored.
    #[must_use]
    pub fn rejects(&self, index: RouterIndex) -> Option<&Rejects> {
        self.members.get(index).map(|member| &member.rejects)
    }

    /// Packets that belong to no router.
    #[must_use]
    pub const fn stray_rejects(&self) -> &Rejects {
        &self.rejects
    }

    /// Echo frames that were not used, in the order of [`EchoReject::ALL`].
    #[must_use]
    pub const fn echo_rejects(&self) -> &[u64; EchoReject::ALL.len()] {
        &self.echo_rejects
    }

    /// The checksum form that a router's peer sends.
    #[must_use]
    pub fn checksum_seen(&self, index: RouterIndex) -> Option<ChecksumForm> {
        self.members
            .get(index)
            .and_then(|member| member.checksum_seen)
    }

    /// The echo paths of a router.
    pub fn paths(&self, index: RouterIndex) -> impl Iterator<Item = PathChange> + '_ {
        self.members
            .get(index)
            .and_then(|member| member.watch.as_ref())
            .into_iter()
            .flat_map(Watch::path_states)
    }

    /// When [`NodeInput::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let of = |member: &Member| {
            let running = member.router.state() != State::Initialize;
            let echo = member
                .watch
                .as_ref()
                .filter(|_| running)
                .map(Watch::deadline);
            [member.router.deadline(), echo].into_iter().flatten().min()
        };
        self.members.iter().filter_map(of).min()
    }

    /// Takes one input and appends what is to be done, in order.
    pub fn handle(&mut self, now: Duration, input: NodeInput<'_>, out: &mut Vec<NodeAction>) {
        match input {
            NodeInput::Start { leases_held } => self.start(now, leases_held, out),
            NodeInput::Packet {
                link,
                meta,
                payload,
            } => self.packet(now, link, &meta, payload, out),
            NodeInput::Echo { frame } => self.echo(now, frame, out),
            NodeInput::Timer => self.timer(now, out),
            NodeInput::Standing { router, standing } => {
                if let Some(member) = self.members.get_mut(router) {
                    member.standing = standing;
                    let leader = member.leader;
                    let group = || self.members.iter().filter(|member| member.leader == leader);
                    if let Some(worst) = group()
                        .map(|member| member.standing)
                        .reduce(Standing::worst)
                    {
                        self.group(now, Some(leader), |_| Input::Standing(worst), out);
                    }
                }
            }
            NodeInput::Handover(router) => self.group(now, router, |_| Input::Handover, out),
            NodeInput::Resume(router) => self.group(now, router, |_| Input::Resume, out),
            NodeInput::Shutdown => {
                self.stopping = true;
                self.group(now, None, |_| Input::Shutdown, out);
            }
            NodeInput::Stalled => {
                self.members
                    .iter_mut()
                    .filter_map(|member| member.watch.as_mut())
                    .for_each(Watch::forgive);
                self.group(now, None, |_| Input::Stalled, out);
            }
        }
        self.keep_groups_together(now, out);
        if self.stopping
            && self
                .routers()
                .all(|router| router.state() == State::Initialize)
        {
            self.stopping = false;
            out.push(NodeAction::Stopped);
        }
    }

    fn start(&mut self, now: Duration, leases_held: &[bool], out: &mut Vec<NodeAction>) {
        for index in 0..self.members.len() {
            let lease_held = leases_held.get(index).copied().unwrap_or(false);
            let leader_active = self
                .members
                .get(index)
                .and_then(|member| self.router(member.leader));
            if lease_held && leader_active.is_some_and(|leader| leader.state() == State::Active) {
                // A restarted daemon adopts the whole group: no member lets its addresses go in between.
                self.tell(now, index, Input::Follow(State::Active), out);
            } else {
                self.tell(now, index, Input::Start { lease_held }, out);
            }
        }
    }

    fn packet(
        &mut self,
        now: Duration,
        link: u32,
        meta: &Meta,
        payload: &[u8],
        out: &mut Vec<NodeAction>,
    ) {
        let family = Family::of(&meta.source);
        let place = |member: &Member, vrid: u8| {
            let config = member.router.config();
            member.link == link && config.vrid == vrid && config.family() == family
        };
        let decoded = Advert::decode(meta, payload);
        // A damaged advert is counted where its VRID points, if that is one of ours.
        let vrid = decoded
            .as_ref()
            .map_or_else(|_| payload.get(1).copied(), |advert| Some(advert.vrid));
        let index =
            vrid.and_then(|vrid| self.members.iter().position(|member| place(member, vrid)));
        let Some((index, member)) =
            index.and_then(|index| Some((index, self.members.get_mut(index)?)))
        else {
            return self
                .rejects
                .count(decoded.err().unwrap_or(Reject::UnknownRouter));
        };
        let advert = match decoded
            .and_then(|advert| member.router.judge(&meta.source, &advert).map(|()| advert))
        {
            Ok(advert) => advert,
            Err(reason) => return member.rejects.count(reason),
        };
        if let Wire::V3 { checksum } = advert.wire {
            member.checksum_seen = Some(checksum);
        }
        let leader = member.leader;
        self.tell(
            now,
            index,
            Input::Advert {
                source: meta.source,
                advert: &advert,
            },
            out,
        );
        if leader != index && advert.priority != 0 {
            self.tell(
                now,
                leader,
                Input::Sibling {
                    priority: advert.priority,
                },
                out,
            );
        }
    }

    fn echo(&mut self, now: Duration, frame: &[u8], out: &mut Vec<NodeAction>) {
        let taken = Answer::decode(frame, &self.key).and_then(|answer| {
            let asked = |member: &Member| member.router.config().key() == answer.question.router;
            let mut members = self.members.iter_mut().enumerate();
            let found = members.find(|(_, member)| asked(member));
            let found = found.and_then(|(i, member)| Some((i, member.watch.as_mut()?)));
            let (index, watch) = found.ok_or(EchoReject::NotAsked)?;
            watch.answered(now, &answer).map(|change| (index, change))
        });
        match taken {
            Ok((router, change)) => {
                out.extend(change.map(|change| NodeAction::Path { router, change }));
                self.weigh(now, router, out);
            }
            Err(reason) => {
                if let Some(slot) = self.echo_rejects.get_mut(reason as usize) {
                    *slot += 1;
                }
            }
        }
    }

    fn timer(&mut self, now: Duration, out: &mut Vec<NodeAction>) {
        let (mut asks, mut changes) = (Vec::new(), Vec::new());
        for index in 0..self.members.len() {
            let Some(member) = self.members.get_mut(index) else {
                continue;
            };
            if let Some(watch) = member
                .watch
                .as_mut()
                .filter(|_| member.router.state() != State::Initialize)
            {
                watch.poll(now, &mut asks, &mut changes);
                out.extend(asks.drain(..).map(|ask| NodeAction::Ask {
                    peer: ask.peer,
                    path: ask.path,
                    frame: ask.frame,
                }));
                out.extend(changes.drain(..).map(|change| NodeAction::Path {
                    router: index,
                    change,
                }));
                self.weigh(now, index, out);
            }
            self.tell(now, index, Input::Timer, out);
        }
    }

    /// Tells a router what its echo knows now.
    fn weigh(&mut self, now: Duration, index: RouterIndex, out: &mut Vec<NodeAction>) {
        let Some(member) = self.members.get(index) else {
            return;
        };
        let active = member.router.active_heard().map(|address| rank(&address));
        let evidence: Option<Evidence> = member.watch.as_ref().map(|watch| watch.evidence(active));
        if let Some(evidence) = evidence {
            self.tell(now, index, Input::Evidence(evidence), out);
        }
    }

    /// Tells a router's whole sync group, or every router.
    fn group<'a>(
        &mut self,
        now: Duration,
        router: Option<RouterIndex>,
        input: impl Fn(RouterIndex) -> Input<'a>,
        out: &mut Vec<NodeAction>,
    ) {
        let leader = router.map(|router| self.members.get(router).map(|member| member.leader));
        for index in 0..self.members.len() {
            let of = self.members.get(index).map(|member| member.leader);
            if leader.is_none_or(|leader| leader == of) {
                self.tell(now, index, input(index), out);
            }
        }
    }

    fn keep_groups_together(&mut self, now: Duration, out: &mut Vec<NodeAction>) {
        for index in 0..self.members.len() {
            let Some(member) = self
                .members
                .get(index)
                .filter(|member| member.leader != index)
            else {
                continue;
            };
            let Some(leader) = self.router(member.leader) else {
                continue;
            };
            let (state, doubt) = (leader.state(), leader.in_doubt());
            self.tell(now, index, Input::Quiet(doubt), out);
            self.tell(now, index, Input::Follow(state), out);
        }
    }

    fn tell(
        &mut self,
        now: Duration,
        index: RouterIndex,
        input: Input<'_>,
        out: &mut Vec<NodeAction>,
    ) {
        if let Some(member) = self.members.get_mut(index) {
            member.router.handle(now, input, &mut self.scratch);
            out.extend(self.scratch.drain(..).map(|action| NodeAction::Router {
                router: index,
                action,
            }));
        }
    }

    /// Source address of a router's adverts.
    #[must_use]
    pub fn source(&self, index: RouterIndex) -> Option<IpAddr> {
        self.router(index).map(|router| router.config().primary)
    }
}
