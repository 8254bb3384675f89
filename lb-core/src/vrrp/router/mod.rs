//! One virtual router's election (RFC 9568 §6.4), extended by what the dataplane echo knows.
//!
//! ```text
//!                         ┌────────────┐
//!         stopped ┌──────►│ Initialize │
//!                 │       └─┬───────┬──┘
//!                 │   start │       │ start: owner (255), or own lease still held
//!                 │         ▼       ▼
//!             ┌───┴──────────┐ no adverts, no echo ┌─────────────────────────────┐
//!             │              │ peer yields/expires │ Active                      │
//!             │    Backup    ├────────────────────►│   · in doubt: listens after │
//!             │              │ preempts            │     a stall of its own      │
//!             │              │◄────────────────────┤   · leaving: priority 0,    │
//!             └──┬─────────▲─┘ better active heard │     holds until a successor │
//!                │         │   successor heard     │     is heard                │
//!          fault │         │   stalled too long    └──────────────┬──────────────┘
//!                ▼         │ cleared                              │ fault: priority 0, release
//!             ┌────────────┴─┐                                    │
//!             │    Fault     │◄───────────────────────────────────┘
//!             └──────────────┘
//! ```
//!
//! Order of actions on taking over: lease, advert, take, announce. The advert comes before the gratuitous ARP, so that
//! a loser releases first; the lease before the addresses, so that their first ARP request is answered.

mod active;
mod backup;
mod config;
mod io;
mod stall;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, Preempt, RouterConfig};
pub use io::{Action, Change, Input, LeaseWrite, Notice, Reason, State};

use core::net::IpAddr;
use core::time::Duration;

use super::announce::Announcer;
use super::codec::{Advert, Auth, Wire};
use super::echo::Role;
use super::liveness::Evidence;
use super::reject::Reject;
use super::tracking::Standing;
use super::{PRIORITY_OWNER, PRIORITY_RESIGN, rank, timing};

/// One virtual router on this node.
#[derive(Clone, Debug)]
pub struct Router {
    config: RouterConfig,
    standing: Standing,
    evidence: Evidence,
    phase: Phase,
    /// After a planned handover: do not preempt the successor.
    stands_down: bool,
    /// Member of a sync group that is not its leader.
    follower: bool,
    quiet: bool,
    /// Latest `now`: time does not run backwards here, whatever the caller's clock does.
    now: Duration,
    since: Duration,
}

#[derive(Clone, Debug)]
enum Phase {
    Initialize,
    Backup(Backup),
    Active(Active),
    Fault,
}

#[derive(Clone, Debug)]
struct Backup {
    heard: Option<Heard>,
    /// Active_Down_Timer.
    down_at: Duration,
    /// The timer has fired, but the echo says that the active lives.
    waiting: bool,
    /// The active resigned: its echo no longer counts.
    resigned: bool,
    preempt_at: Option<Duration>,
    /// Already listened once more after a stall; the next expiry counts.
    relistened: bool,
}

/// The latest advert that counts as the active's.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// `None`: only a sibling in the sync group heard it.
    source: Option<IpAddr>,
    at: Duration,
    /// Learned from the advert in v3 (RFC 9568 §6.1 Active_Adver_Interval).
    interval: Duration,
}

#[derive(Clone, Debug)]
struct Active {
    next_advert: Duration,
    sent: Duration,
    lease_until: Duration,
    announcer: Announcer,
    doubt_until: Option<Duration>,
    leaving: Option<Leaving>,
    /// Since when the echo has shown a better active.
    outranked_since: Option<Duration>,
    /// The echo shows a lesser active.
    echo_rival: bool,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    until: Duration,
    stop: bool,
}

impl Router {
    /// # Errors
    /// If the configuration cannot work.
    pub fn new(config: RouterConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            standing: Standing::at(config.priority),
            evidence: Evidence::default(),
            phase: Phase::Initialize,
            stands_down: false,
            follower: false,
            quiet: false,
            now: Duration::ZERO,
            since: Duration::ZERO,
            config,
        })
    }

    #[must_use]
    pub const fn config(&self) -> &RouterConfig {
        &self.config
    }

    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Initialize => State::Initialize,
            Phase::Backup(_) => State::Backup,
            Phase::Active(_) => State::Active,
            Phase::Fault => State::Fault,
        }
    }

    /// When the present state began.
    #[must_use]
    pub const fn since(&self) -> Duration {
        self.since
    }

    /// The priority claimed now.
    #[must_use]
    pub const fn priority(&self) -> u8 {
        self.standing.priority
    }

    /// Address of the active that this backup listens to.
    #[must_use]
    pub fn active_heard(&self) -> Option<IpAddr> {
        match &self.phase {
            Phase::Backup(backup) => backup.heard.and_then(|heard| heard.source),
            _ => None,
        }
    }

    /// Whether it stepped back in a planned handover and waits for [`Input::Resume`].
    #[must_use]
    pub const fn stands_down(&self) -> bool {
        self.stands_down
    }

    /// Active, but listening before it speaks again.
    #[must_use]
    pub const fn in_doubt(&self) -> bool {
        matches!(
            &self.phase,
            Phase::Active(Active {
                doubt_until: Some(_),
                ..
            })
        )
    }

    pub(super) fn set_follower(&mut self) {
        self.follower = true;
    }

    /// Whether an advert that decoded well is for this router to hear (RFC 9568 §7.1, RFC 3768 §7.1).
    ///
    /// # Errors
    /// The reason to count. A different list of addresses is none: "MAY log", no more.
    pub fn judge(&self, source: &IpAddr, advert: &Advert) -> Result<(), Reject> {
        if *source == self.config.primary {
            return Err(Reject::OwnAddress);
        }
        if !self.config.unicast_peers.is_empty() && !self.config.unicast_peers.contains(source) {
            return Err(Reject::NotAPeer);
        }
        match (self.config.wire, advert.wire) {
            (Wire::V3 { .. }, Wire::V3 { .. }) => {}
            (Wire::V2 { auth: ours }, Wire::V2 { auth: theirs }) => {
                if ours != theirs {
                    let same_type = ours != Auth::None && theirs != Auth::None;
                    return Err(if same_type {
                        Reject::AuthData
                    } else {
                        Reject::AuthType
                    });
                }
                if self.config.interval != advert.interval {
                    return Err(Reject::IntervalMismatch);
                }
            }
            _ => return Err(Reject::VersionMismatch),
        }
        match self.phase {
            Phase::Initialize | Phase::Fault => Err(Reject::NotListening),
            Phase::Backup(_) | Phase::Active(_) => Ok(()),
        }
    }

    /// When [`Input::Timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        match &self.phase {
            Phase::Initialize | Phase::Fault => None,
            Phase::Backup(_) if self.follower => None,
            Phase::Backup(backup) => {
                let down = (!backup.waiting).then_some(backup.down_at);
                [
                    down,
                    backup.preempt_at,
                    self.early(backup).map(|(at, _)| at),
                ]
                .into_iter()
                .flatten()
                .min()
            }
            Phase::Active(active) => {
                let advert = active.doubt_until.unwrap_or(active.next_advert);
                let leaving = active.leaving.map(|leaving| leaving.until);
                let outranked = active
                    .outranked_since
                    .map(|since| since + timing::overdue(self.config.interval));
                [
                    Some(advert),
                    leaving,
                    outranked,
                    active.announcer.deadline(),
                ]
                .into_iter()
                .flatten()
                .min()
            }
        }
    }

    /// Takes one input and appends what is to be done, in order.
    pub fn handle(&mut self, now: Duration, input: Input<'_>, out: &mut Vec<Action>) {
        self.now = self.now.max(now);
        self.notice_stall(out);
        match input {
            Input::Start { lease_held } => self.start(lease_held, out),
            Input::Timer => {}
            Input::Advert { source, advert } => self.advert(source, advert, out),
            Input::Standing(standing) => self.restand(standing, out),
            Input::Evidence(evidence) => self.evidence = evidence,
            Input::Handover => self.leave(false, out),
            Input::Resume => self.resume(out),
            Input::Shutdown => self.leave(true, out),
            Input::Stalled => self.stalled(Duration::ZERO, out),
            Input::Sibling { priority } => self.sibling(priority, out),
            Input::Follow(state) => self.follow(state, out),
            Input::Quiet(quiet) => self.quiet = quiet,
        }
        // Packets that wait behind this one may change what a deadline would decide: only `Timer` and news of the
        // peer's dataplane let time pass.
        if matches!(input, Input::Timer | Input::Evidence(_)) {
            match self.state() {
                State::Backup => self.backup_timers(matches!(input, Input::Timer), out),
                State::Active => self.active_timers(matches!(input, Input::Timer), out),
                State::Initialize | State::Fault => {}
            }
        }
    }

    fn start(&mut self, lease_held: bool, out: &mut Vec<Action>) {
        if self.state() != State::Initialize {
            return;
        }
        if self.standing.fault {
            out.push(Action::Release);
            self.enter(Phase::Fault, Reason::Fault, out);
        } else if lease_held && !self.follower {
            self.become_active(Reason::Adopted, out);
        } else {
            // What a previous life left behind is not ours until we are elected.
            out.push(Action::Release);
            self.begin(Reason::Startup, out);
        }
    }

    /// RFC 9568 §6.4.1: the owner becomes active at once, others listen for an Active_Down_Interval.
    fn begin(&mut self, reason: Reason, out: &mut Vec<Action>) {
        if self.standing.priority == PRIORITY_OWNER && !self.follower {
            self.become_active(Reason::Owner, out);
        } else {
            self.become_backup(None, reason, out);
        }
    }

    fn restand(&mut self, standing: Standing, out: &mut Vec<Action>) {
        let before = core::mem::replace(&mut self.standing, standing);
        match self.state() {
            State::Initialize => {}
            State::Fault => {
                if !standing.fault {
                    self.begin(Reason::FaultCleared, out);
                }
            }
            State::Backup | State::Active if standing.fault => {
                if self.state() == State::Active {
                    // Something that we need is broken: the successor's skew is the price of leaving at once.
                    out.push(Action::Advert {
                        priority: PRIORITY_RESIGN,
                    });
                    out.push(Action::Release);
                }
                let stopping =
                    matches!(&self.phase, Phase::Active(a) if a.leaving.is_some_and(|l| l.stop));
                self.enter(Phase::Fault, Reason::Fault, out);
                if stopping {
                    self.stop(Reason::Shutdown, out);
                }
            }
            State::Backup => {
                if let Phase::Backup(backup) = &mut self.phase
                    && standing.priority < before.priority
                {
                    // Heard again with the next advert, if we still outrank the active.
                    backup.preempt_at = None;
                }
            }
            State::Active => {
                let speaking = matches!(&self.phase, Phase::Active(a) if a.doubt_until.is_none() && a.leaving.is_none());
                if speaking && standing.priority != before.priority {
                    self.send_advert(out);
                }
            }
        }
    }

    fn follow(&mut self, state: State, out: &mut Vec<Action>) {
        if self.state() == state {
            return;
        }
        match state {
            State::Active => self.become_active(Reason::SyncGroup, out),
            State::Backup if self.state() == State::Active => {
                self.lose(None, Reason::SyncGroup, out)
            }
            State::Backup => self.become_backup(None, Reason::SyncGroup, out),
            State::Initialize | State::Fault => {
                if self.state() == State::Active {
                    out.push(Action::Release);
                }
                let phase = if state == State::Fault {
                    Phase::Fault
                } else {
                    Phase::Initialize
                };
                self.enter(phase, Reason::SyncGroup, out);
            }
        }
    }

    fn become_active(&mut self, reason: Reason, out: &mut Vec<Action>) {
        self.stands_down = false;
        let mut announcer = Announcer::new(self.config.announce);
        announcer.start(self.now);
        announcer.due(self.now);
        let from = self.state();
        self.phase = Phase::Active(Active {
            next_advert: self.now,
            sent: self.now,
            lease_until: self.now,
            announcer,
            doubt_until: None,
            leaving: None,
            outranked_since: None,
            echo_rival: false,
        });
        let mut speech = Vec::with_capacity(2);
        self.send_advert(&mut speech);
        out.extend(speech.into_iter().rev());
        out.extend([Action::Take, Action::Announce]);
        self.changed(from, reason, out);
    }

    fn lose(&mut self, heard: Option<Heard>, reason: Reason, out: &mut Vec<Action>) {
        out.push(Action::Release);
        self.become_backup(heard, reason, out);
    }

    fn become_backup(&mut self, heard: Option<Heard>, reason: Reason, out: &mut Vec<Action>) {
        let interval = heard.map_or(self.config.interval, |heard| heard.interval);
        let patience = timing::active_down(self.config.version(), interval, self.standing.priority);
        let backup = Backup {
            heard,
            down_at: self.now + patience,
            waiting: false,
            resigned: false,
            preempt_at: None,
            relistened: false,
        };
        self.enter(Phase::Backup(backup), reason, out);
    }

    fn enter(&mut self, phase: Phase, reason: Reason, out: &mut Vec<Action>) {
        let from = self.state();
        self.phase = phase;
        let role = match self.phase {
            Phase::Initialize => Role::None,
            Phase::Fault => Role::Fault,
            Phase::Backup(_) | Phase::Active(_) => Role::Backup,
        };
        out.push(self.lease(role));
        self.changed(from, reason, out);
    }

    fn changed(&mut self, from: State, reason: Reason, out: &mut Vec<Action>) {
        let lasted = self.now.saturating_sub(self.since);
        self.since = self.now;
        out.push(Action::Changed(Change {
            from,
            to: self.state(),
            reason,
            lasted,
        }));
    }

    fn lease(&self, role: Role) -> Action {
        let (role, until) = match &self.phase {
            Phase::Active(active) if active.leaving.is_some() => {
                (Role::Yielding, active.lease_until)
            }
            Phase::Active(active) => (role, active.lease_until),
            _ => (role, self.now),
        };
        let (router, rank) = (self.config.key(), rank(&self.config.primary));
        Action::Lease(LeaseWrite {
            router,
            role,
            priority: self.standing.priority,
            rank,
            until,
        })
    }
}
