//! What goes into a virtual router's state machine and what comes out of it.

use core::fmt;
use core::net::IpAddr;
use core::time::Duration;

use crate::vrrp::codec::Advert;
use crate::vrrp::echo::Role;
use crate::vrrp::liveness::Evidence;
use crate::vrrp::tracking::Standing;

/// State of RFC 9568 §6.3, and `Fault`: tracking keeps the node out of the election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Initialize,
    Backup,
    Active,
    Fault,
}

impl State {
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::Fault => "fault",
        }
    }
}

#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Begin. `lease_held`: the dataplane still holds this router's lease from the daemon's previous life.
    Start { lease_held: bool },
    /// The deadline may have passed. Deliver it only when every received packet has been delivered.
    Timer,
    /// An advert for this router that [`judge`](super::Router::judge) let pass.
    Advert { source: IpAddr, advert: &'a Advert },
    /// Tracking or readiness changed.
    Standing(Standing),
    /// What the echo says now, see [`Evidence`].
    Evidence(Evidence),
    /// Give the addresses up to another node, without a moment in which nobody is active.
    Handover,
    /// Take part again after a handover: preempt if the priority is higher.
    Resume,
    /// Like `Handover`, then stop.
    Shutdown,
    /// The host or the process did not run for a while, learned from elsewhere than a late timer.
    Stalled,
    /// Sync group: an active was heard on another member.
    Sibling { priority: u8 },
    /// Sync group: be in this state, because the leader is.
    Follow(State),
    /// Sync group: the leader listens before it speaks, so be quiet, too.
    Quiet(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send an advert of this priority to every destination, at once and before what follows.
    Advert {
        priority: u8,
    },
    /// Answer for the addresses.
    Take,
    /// Stop answering for the addresses. Harmless if they are not held.
    Release,
    /// Gratuitous ARP or unsolicited NA for every address, once.
    Announce,
    /// Write the dataplane's lease.
    Lease(LeaseWrite),
    Changed(Change),
    Notice(Notice),
    /// `Shutdown` is complete.
    Stopped,
}

/// The daemon's half of [`Lease`](crate::vrrp::echo::Lease).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseWrite {
    /// Index in the lease table.
    pub router: u16,
    pub role: Role,
    pub priority: u8,
    pub rank: u64,
    /// In the same time as `now`.
    pub until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub from: State,
    pub to: State,
    pub reason: Reason,
    /// How long `from` lasted.
    pub lasted: Duration,
}

/// Worth a line in the log, without a change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No adverts, but the peer's dataplane says that it is active: its daemon is starved, or the advert path is broken.
    AdvertsMissing,
    /// Nobody took over in time; this node stays active.
    HandoverRefused,
    /// This node's own timer fired this late.
    Stalled(Duration),
    /// Another node claims to be active, with less right to it.
    Rival(IpAddr),
}

impl Notice {
    /// Value of the metric's `notice` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::AdvertsMissing => "adverts_missing",
            Self::HandoverRefused => "handover_refused",
            Self::Stalled(_) => "stalled",
            Self::Rival(_) => "rival",
        }
    }
}

/// Why the state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Startup,
    Adopted,
    Owner,
    AdvertsStopped,
    EchoSilent,
    PeerLeaseExpired,
    PeerYielded,
    Preempted,
    HigherPriority,
    LostTieBreak,
    EchoRival,
    Stalled,
    RivalAfterStall,
    LeaseLost,
    HandedOver,
    Fault,
    FaultCleared,
    Shutdown,
    SyncGroup,
}

impl Reason {
    /// Value of the metric's `reason` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.texts().0
    }

    const fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Startup => ("startup", "the daemon started and listens first"),
            Self::Adopted => ("adopted", "the daemon restarted within its lease"),
            Self::Owner => ("owner", "this node owns the addresses (priority 255)"),
            Self::AdvertsStopped => (
                "adverts_stopped",
                "no advert for three intervals and the skew",
            ),
            Self::EchoSilent => (
                "echo_silent",
                "an advert is overdue and the active's dataplane answers on no path",
            ),
            Self::PeerLeaseExpired => (
                "peer_lease_expired",
                "the active's daemon stopped renewing its lease",
            ),
            Self::PeerYielded => ("peer_yielded", "the active resigned"),
            Self::Preempted => (
                "preempted",
                "this node has a higher priority than the active",
            ),
            Self::HigherPriority => ("higher_priority", "an active of higher priority was heard"),
            Self::LostTieBreak => (
                "lost_tie_break",
                "an active of equal priority and higher address was heard",
            ),
            Self::EchoRival => (
                "echo_rival",
                "the peer's dataplane says that a better node is active; no advert came",
            ),
            Self::Stalled => (
                "stalled",
                "this node did not run for so long that others have taken over",
            ),
            Self::RivalAfterStall => (
                "rival_after_stall",
                "after a stall of this node, another active was heard",
            ),
            Self::LeaseLost => (
                "lease_lost",
                "this node did not run for longer than its lease",
            ),
            Self::HandedOver => (
                "handed_over",
                "a successor was heard after a planned handover",
            ),
            Self::Fault => ("fault", "tracking found a fault"),
            Self::FaultCleared => ("fault_cleared", "the fault is gone"),
            Self::Shutdown => ("shutdown", "the daemon stops"),
            Self::SyncGroup => ("sync_group", "the sync group's leader changed"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.texts().1)
    }
}
