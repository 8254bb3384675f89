//! The records that user space writes and the packet path reads.
//!
//! All of them live in memory-mapped BPF arrays. A published record does not change, except for the fields that
//! are named so; see `docs/architecture.md` for the order of writes.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::Address,
    answer::{self, Case},
    consistency::{Look, OnDown, Policy, Writing, Written},
    echo::Identity,
    flow_table::{Memory, Ticks},
    fragment,
    frame::Frame,
    job::{Job, Outcome},
    lease::{Held, Lease},
    reason::Reason,
    related::{self, Flow},
    select,
    steering::{self, Family, FlowSettings, FlowTable},
    tunnel,
    wire::Mac,
};

/// Constants of one load of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Settings {
    /// Cells in the index minus one; the cells are a power of two.
    pub index_mask: u32,
    /// Backend records, and so counters of one CPU.
    pub backends: u32,
    /// [`features`] that the configuration uses; what serves the others is taken out when the program is loaded.
    pub features: u32,
    /// Answers to senders, of each CPU.
    pub answers_per_second: u32,
    /// See [`FlowSettings`].
    pub flow_mask: u32,
    pub half_open_mask: u32,
    pub flow_seed: u64,
}

/// Bits of [`Settings::features`].
pub mod features {
    /// Some service is forwarded through a tunnel.
    pub const TUNNEL: u32 = 1;
    /// The balancer answers senders itself.
    pub const ANSWER: u32 = 2;
    /// ICMP errors about a service's packets are sent on.
    pub const RELATED: u32 = 1 << 8;
    /// Some service takes fragments.
    pub const FRAGMENTS: u32 = 1 << 9;
    /// Some service limits the size of segments.
    pub const MSS: u32 = 1 << 10;
    /// Some service is hashed by more than addresses and ports.
    pub const SALT: u32 = 1 << 11;
    /// Flows are recorded: some service may have slots that change hands.
    pub const TRACK: u32 = 4;
    pub const ALL: u32 = u32::MAX;
}

/// Bits of [`Service::flags`].
pub mod flags {
    /// What becomes of packets to the service's address and no service; the same for all services of an address.
    pub const UNMATCHED: u16 = 3;
    pub const UNMATCHED_PASS: u16 = 0;
    pub const UNMATCHED_DROP: u16 = 1;
    pub const UNMATCHED_REJECT: u16 = 2;
    /// Echo requests to the service's address are answered.
    pub const ECHO: u16 = 4;
    /// What becomes of fragments to the service.
    pub const FRAGMENTS: u16 = 3 << 3;
    /// The first one's ports are remembered for the others.
    pub const FRAGMENTS_TRACK: u16 = 0;
    /// They are hashed without ports.
    pub const FRAGMENTS_L3: u16 = 1 << 3;
    pub const FRAGMENTS_DROP: u16 = 2 << 3;
    /// The address has no other service of the protocol; the index names this one under port 0, too.
    pub const SOLE: u16 = 1 << 5;
}

impl Settings {
    /// What the object file holds before user space sets it.
    pub const DEFAULT: Self = Self {
        index_mask: 0,
        backends: 1,
        features: features::ALL,
        answers_per_second: 1000,
        flow_mask: 0,
        half_open_mask: 0,
        flow_seed: 0,
    };

    /// Reason counters of one CPU; room for reasons to come, so that the maps stay.
    pub const REASONS: u32 = 64;
}

/// Names the meaning of all tables together. Maps of another version are not adopted.
pub const LAYOUT_VERSION: u32 = 3;

/// A backend's number within its service that means "none". Numbers start at 1.
pub const NO_BACKEND: u16 = 0;

/// How packets of a service are sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// New destination MAC only; the backend has the VIP itself and answers directly.
    L2Dsr = 1,
    /// New destination address and port; replies come back through the balancer.
    Nat = 2,
    /// New addresses and ports at both ends; replies come back to the balancer's own.
    Snat = 3,
    /// In an IP packet to the backend (RFC 2003, RFC 2473, RFC 4213).
    Ipip = 4,
    /// Behind a GRE header (RFC 2784).
    Gre = 5,
    /// Behind UDP, as variant 1 of Generic UDP Encapsulation: the IP packet follows the UDP header.
    Gue = 6,
    /// To the backend's address; the DSCP says to the backend which VIP it was for.
    Dscp = 7,
}

impl Mode {
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::L2Dsr),
            2 => Some(Self::Nat),
            3 => Some(Self::Snat),
            4 => Some(Self::Ipip),
            5 => Some(Self::Gre),
            6 => Some(Self::Gue),
            7 => Some(Self::Dscp),
            _ => None,
        }
    }
}

/// What of a packet selects its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HashPolicy {
    /// Addresses and ports: every connection on its own.
    L3L4 = 0,
    /// Addresses only: a client stays with its backend, whatever the port.
    L3 = 1,
    /// Source MAC and addresses.
    L2L3 = 2,
    /// Nothing that stays: every packet by itself.
    PerPacket = 3,
}

/// What a service is found by.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Key {
    pub address: Address,
    pub port: u16,
    pub protocol: u8,
    pub reserved: [u8; 5],
}

impl Key {
    #[inline(always)]
    pub const fn new(address: Address, protocol: u8, port: u16) -> Self {
        Self {
            address,
            port,
            protocol,
            reserved: [0; 5],
        }
    }

    /// The key of an address as such.
    #[inline(always)]
    pub const fn address_only(address: Address) -> Self {
        Self::new(address, 0, 0)
    }
}

/// A service: one cache line for every packet, one for what few need. A service that changes gets a new record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Service {
    pub key: Key,
    /// Seed of the flow hash; the same on both nodes.
    pub seed: u64,
    /// First slot in the slot table.
    pub slot_base: u32,
    /// Number of slots; a prime.
    pub slot_count: u32,
    /// Record of backend number 0, which is never used: number `n` stands at `backend_base + n`.
    pub backend_base: u32,
    /// Backends' numbers are below or equal to this.
    pub backend_count: u32,
    /// A [`Mode`].
    pub mode: u8,
    /// A [`HashPolicy`].
    pub hash: u8,
    /// A packed [`Policy`].
    pub tracking: u8,
    pub reserved: [u8; 13],
    /// UDP destination port of [`Mode::Gue`].
    pub gue_port: u16,
    /// Low bits of a tunnel's IPv4 source address that carry flow entropy.
    pub source_bits: u8,
    /// The code of the VIP for [`Mode::Dscp`], 6 bits.
    pub dscp: u8,
    /// [`flags`] of the service and its address.
    pub flags: u16,
    /// Largest TCP segment that a SYN may ask for; 0: any; [`mss::AUTO`](crate::mss::AUTO).
    pub mss: u16,
    /// Records of new flows in a second, at most; 0: any.
    pub new_flows: u32,
    pub reserved_rare: [u8; 52],
}

impl Service {
    /// What is recorded of its flows, and what becomes of them when a backend dies.
    #[inline(always)]
    pub const fn policy(&self) -> Policy {
        Policy::unpack(self.tracking)
    }
}

impl Default for Service {
    /// The record of an empty place.
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Where a packet for an address has to go on the link.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct NextHop {
    /// Interface on which it leaves; 0: not resolved.
    pub ifindex: u32,
    pub destination: Mac,
    pub source: Mac,
    /// VLAN id; 0: untagged.
    pub vlan: u16,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

/// A backend of one service: one cache line for every packet, one for those through a tunnel.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct Backend {
    pub address: Address,
    /// Two copies; [`BackendState::next_hop`] says which one is valid. The writer fills the other one first.
    pub next_hops: [NextHop; 2],
    /// A packed [`BackendState`]: all that changes while the record is in use changes in one store.
    pub state: u64,
    /// Outer source address of a tunnel; copies as of the next hop. All zeros: not known.
    pub tunnel_sources: [Address; 2],
    pub reserved: [u64; 4],
}

/// The part of a [`Backend`] that changes while packets use it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackendState {
    /// Record of the service, for replies.
    pub service: u32,
    pub port: u16,
    /// Which copy of the next hop is valid: 0 or 1.
    pub next_hop: u8,
    /// Whether the backend was up: for the next daemon, which adopts the tables.
    pub up: bool,
    /// It can answer: it is healthy, or it drains.
    pub lives: bool,
    /// What becomes of its flows when it does not live; `None`: what its service says.
    pub on_down: Option<OnDown>,
}

impl BackendState {
    #[inline(always)]
    pub const fn unpack(word: u64) -> Self {
        Self {
            service: word as u32,
            port: (word >> 32) as u16,
            next_hop: (word >> 48) as u8 & 1,
            up: word >> 56 & 1 != 0,
            lives: word >> 57 & 1 != 0,
            on_down: match word >> 58 & 3 {
                0 => None,
                number => Some(OnDown::from_number(number as u8 - 1)),
            },
        }
    }

    #[inline(always)]
    pub const fn pack(self) -> u64 {
        self.service as u64
            | (self.port as u64) << 32
            | (self.next_hop as u64 & 1) << 48
            | (self.up as u64) << 56
            | (self.lives as u64) << 57
            | match self.on_down {
                None => 0,
                Some(on_down) => (on_down as u64 + 1) << 58,
            }
    }
}

impl Backend {
    #[inline(always)]
    pub const fn state(&self) -> BackendState {
        BackendState::unpack(self.state)
    }

    /// The next hop that `state` says is valid.
    #[inline(always)]
    pub const fn next_hop(&self, state: BackendState) -> &NextHop {
        let [first, second] = &self.next_hops;
        if state.next_hop == 0 { first } else { second }
    }

    /// The outer source address that `state` says is valid.
    #[inline(always)]
    pub const fn tunnel_source(&self, state: BackendState) -> Address {
        let [first, second] = self.tunnel_sources;
        if state.next_hop == 0 { first } else { second }
    }
}

/// Packets and bytes, counted by one CPU.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// A slot: who owns this part of the hash space, and who owned it in the last settled epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub current: u16,
    pub previous: u16,
}

impl Slot {
    #[inline(always)]
    pub const fn unpack(word: u32) -> Self {
        Self {
            current: word as u16,
            previous: (word >> 16) as u16,
        }
    }

    #[inline(always)]
    pub const fn pack(self) -> u32 {
        self.current as u32 | (self.previous as u32) << 16
    }

    /// A slot whose owner is not in change.
    pub const fn settled(owner: u16) -> Self {
        Self {
            current: owner,
            previous: owner,
        }
    }
}

/// Answer to "which way to this address".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Direct(NextHop),
    /// There is a way, but the link-layer address is not known; the host's stack will find it.
    Unresolved,
    /// Not to be forwarded: an address of the host itself, or no route at all.
    Host,
    /// There is a route, and it refuses.
    None,
}

/// What is asked of the host's routing.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    pub source: Address,
    pub destination: Address,
    pub protocol: u8,
    pub tos: u8,
    /// IP packet length in bytes.
    pub length: u16,
    pub ifindex: u32,
}

/// What the packet path may look at and count.
pub trait Tables {
    /// Memory of the flow tables.
    type Memory: Memory;

    /// Number of cells in the index minus one; cells are a power of two.
    fn index_mask(&self) -> u32;
    /// A cell of the index; 0 if there is no such cell.
    fn cell(&self, position: u32) -> u64;
    fn service(&self, record: u32) -> Option<&Service>;
    /// A packed [`Slot`].
    fn slot(&self, position: u32) -> Option<u32>;
    fn backend(&self, record: u32) -> Option<&Backend>;
    /// The host's route to an address.
    fn route(&self, query: &RouteQuery) -> Route;
    /// Counts a packet of `bytes` for a backend.
    fn count_backend(&self, record: u32, bytes: u32);
    /// Counts a way out of the packet path.
    fn count(&self, reason: Reason, bytes: u32);
    /// Bits of [`features`].
    fn features(&self) -> u32 {
        features::ALL
    }

    fn flow_memory(&self, table: FlowTable) -> Self::Memory;
    fn flow_settings(&self) -> FlowSettings;
    /// The clock of the flow tables.
    fn now(&self) -> Ticks;
    /// Whether one more flow of a service (by its record) may be recorded, of `limit` in a second; counts it.
    fn may_record(&self, _service: u32, _limit: u32) -> bool {
        true
    }
    /// Notes that a flow of a service (by its record) found no room to be recorded.
    fn note_unrecorded(&self, service: u32);

    /// [`steering::look`]. Apart, as [`encapsulate`](Self::encapsulate).
    #[inline(always)]
    fn look<V: Family>(&self, job: &Job) -> Look
    where
        Self: Sized,
    {
        steering::look::<V, Self>(self, job)
    }

    /// [`steering::write`] for the job that was looked at last.
    #[inline(always)]
    fn write<V: Family>(&self, job: &Job, writing: Writing) -> Written
    where
        Self: Sized,
    {
        steering::write::<V, Self>(self, job, writing)
    }

    /// Sends the packet of `job` through its service's tunnel; a packed [`Outcome`](crate::job::Outcome).
    ///
    /// Here, as on [`Frame`], so that the kernel can keep rare work out of the way of the rest.
    #[inline(always)]
    fn encapsulate<F: Frame>(&self, frame: &mut F, job: &Job) -> u64
    where
        Self: Sized,
    {
        tunnel::encapsulate(frame, self, job).pack()
    }
    /// The flow that an ICMP error is about, the way back of the packet that it quotes.
    #[inline(always)]
    fn quoted<F: Frame>(&self, frame: &mut F) -> Option<Flow>
    where
        Self: Sized,
    {
        let mut job = answer::describe(frame, Case::default())?;
        related::quote(frame, &mut job).then(|| Flow::of(&job))
    }
    /// Who this node is in echo frames.
    fn identity(&self) -> Identity {
        Identity::default()
    }
    /// The lease of a virtual router.
    fn lease(&self, _router: u16) -> Lease {
        Lease::default()
    }
    /// A place in the table of addresses that virtual routers have.
    fn held(&self, _position: u32) -> Held {
        Held::default()
    }
    /// Time by `CLOCK_BOOTTIME`, which leases are in, in nanoseconds.
    fn boot_ns(&self) -> u64 {
        0
    }

    /// Answers the sender of a packet that cannot go on; a packed [`Outcome`](crate::job::Outcome).
    #[inline(always)]
    fn answer<F: Frame>(&self, frame: &mut F, case: Case) -> u64
    where
        Self: Sized,
    {
        match answer::describe(frame, case) {
            Some(job) => answer::answer(frame, self, &job, case.reason).pack(),
            None => Outcome::not_sent(case.reason).pack(),
        }
    }

    /// Refuses a TCP segment to a VIP's port without a service; a packed [`Outcome`](crate::job::Outcome).
    #[inline(always)]
    fn reset<F: Frame>(&self, frame: &mut F, case: Case) -> u64
    where
        Self: Sized,
    {
        match answer::describe(frame, case) {
            Some(job) => answer::reset(frame, self, &job, case.reason).pack(),
            None => Outcome::not_sent(case.reason).pack(),
        }
    }

    /// The ports of a fragment's packet: a packed [`fragment::Found`].
    #[inline(always)]
    fn fragment<F: Frame>(&self, frame: &mut F) -> u64
    where
        Self: Sized,
    {
        match answer::describe(frame, Case::default()) {
            Some(job) => fragment::pack(fragment::ports(frame, self, &job)),
            None => fragment::pack(Err(Reason::NotOurs)),
        }
    }

    /// A word of the table of fragments, of which there are [`fragment::WORDS`].
    fn fragment_word(&self, _position: u32) -> u64 {
        0
    }
    fn set_fragment_word(&self, _position: u32, _word: u64) {}

    /// [`select::salt`] of a packet of a service.
    #[inline(always)]
    fn salt<F: Frame>(&self, frame: &mut F, service: u32) -> u32
    where
        Self: Sized,
    {
        match (
            answer::describe(frame, Case::default()),
            self.service(service),
        ) {
            (Some(job), Some(service)) => select::salt(frame, self, &job, service),
            _ => 0,
        }
    }

    /// Any number.
    fn random(&self) -> u32 {
        0
    }

    /// Whether there have not been too many answers lately; counts one.
    fn may_answer(&self) -> bool {
        true
    }
}

const _: () = assert!(size_of::<Service>() == 128);
const _: () = assert!(Reason::ALL.len() <= Settings::REASONS as usize);
const _: () = assert!(size_of::<Backend>() == 128);
