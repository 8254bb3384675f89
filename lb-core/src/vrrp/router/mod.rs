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

mod config;
mod io;
#[cfg(test)]
mod tests;

pub use config::{ConfigError, Preempt, RouterConfig};
pub use io::{Action, Change, Input, LeaseWrite, Notice, Reason, State};

use core::net::IpAddr;
use core::time::Duration;

use super::announce::Announcer;
use super::codec::{Advert, Auth, Version, Wire};
use super::echo::Role;
use super::liveness::{Evidence, Verdict};
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

    // ---- Initialize and Fault -------------------------------------------------------------------------------------

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
                    self.stop(out);
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

    // ---- Backup ---------------------------------------------------------------------------------------------------

    fn advert(&mut self, source: IpAddr, advert: &Advert, out: &mut Vec<Action>) {
        match (&self.phase, advert.priority) {
            (Phase::Initialize | Phase::Fault, _) => {}
            (Phase::Backup(_), PRIORITY_RESIGN) => self.resigned(source),
            (Phase::Backup(_), _) => self.heard_active(source, advert),
            (Phase::Active(_), _) => self.advert_while_active(source, advert, out),
        }
    }

    /// RFC 9568 §6.4.2: "If the Priority in the ADVERTISEMENT is zero … Set the Active_Down_Timer to Skew_Time".
    fn resigned(&mut self, source: IpAddr) {
        let (version, priority) = (self.config.version(), self.standing.priority);
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        // Only the active can resign: a loser of a split that leaves is not a reason to replace the winner.
        if backup
            .heard
            .is_some_and(|heard| heard.source.is_some_and(|active| active != source))
        {
            return;
        }
        let interval = backup
            .heard
            .map_or(self.config.interval, |heard| heard.interval);
        // A yielding active repeats its resignation; that does not start the skew again.
        if !backup.resigned {
            let at = self.now + timing::skew(version, interval, priority);
            backup.down_at = if backup.waiting {
                at
            } else {
                backup.down_at.min(at)
            };
        }
        backup.resigned = true;
        backup.waiting = false;
        backup.preempt_at = None;
    }

    fn heard_active(&mut self, source: IpAddr, advert: &Advert) {
        let (version, priority) = (self.config.version(), self.standing.priority);
        // v2 has its own interval (equal by §7.1 there); v3 learns the active's (RFC 9568 §6.4.2).
        let interval = advert.interval;
        let down_at = self.now + timing::active_down(version, interval, priority);
        let may_preempt = advert.priority < priority && !self.stands_down && !self.follower;
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };
        let due = match self.config.preempt {
            Preempt::After(delay) if may_preempt => {
                // RFC 9568 §6.4.2 discards the advert and lets the Active_Down_Timer expire. Counting from the first
                // such advert is as slow, and does not mistake a lesser active for a dead one meanwhile.
                Some(self.now + delay.max(3 * interval) + timing::skew(version, interval, priority))
            }
            _ => None,
        };
        *backup = Backup {
            heard: Some(Heard {
                source: Some(source),
                at: self.now,
                interval,
            }),
            down_at,
            waiting: false,
            resigned: false,
            preempt_at: due.map(|due| backup.preempt_at.unwrap_or(due)),
            relistened: false,
        };
    }

    fn sibling(&mut self, priority: u8, out: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Backup(backup) => {
                let heard = backup.heard.unwrap_or(Heard {
                    source: None,
                    at: self.now,
                    interval: self.config.interval,
                });
                let patience = timing::active_down(
                    self.config.version(),
                    heard.interval,
                    self.standing.priority,
                );
                backup.heard = Some(Heard {
                    at: self.now,
                    ..heard
                });
                if !backup.resigned {
                    backup.down_at = backup.down_at.max(self.now + patience);
                    backup.waiting = false;
                }
            }
            Phase::Active(active) if active.leaving.is_some() => self.succeed(None, out),
            // A tie is the leader's to break: members may order their addresses differently.
            Phase::Active(_) if priority > self.standing.priority => {
                self.lose(None, Reason::HigherPriority, out)
            }
            _ => {}
        }
    }

    /// When the echo allows to take over before the Active_Down_Timer, and why.
    fn early(&self, backup: &Backup) -> Option<(Duration, Reason)> {
        let heard = backup.heard?;
        let reason = match self.evidence.verdict {
            Verdict::Silent => Reason::EchoSilent,
            Verdict::Expired => Reason::PeerLeaseExpired,
            Verdict::Absent | Verdict::Held | Verdict::Free | Verdict::Yielding => return None,
        };
        // With three nodes, the better backup goes first.
        let stagger = if self.evidence.peers > 1 {
            timing::skew(Version::V3, heard.interval, self.standing.priority)
        } else {
            Duration::ZERO
        };
        let at = heard.at + timing::overdue(heard.interval) + stagger;
        (at < backup.down_at || backup.waiting).then_some((at, reason))
    }

    fn backup_timers(&mut self, timer: bool, out: &mut Vec<Action>) {
        if self.follower {
            return;
        }
        let Phase::Backup(backup) = &self.phase else {
            return;
        };
        let early = self.early(backup).filter(|(at, _)| *at <= self.now);
        let expired = backup.waiting || (timer && backup.down_at <= self.now);
        let Evidence {
            verdict,
            active_deaf,
            ..
        } = self.evidence;
        let (interval, skew) = (self.config.interval, self.skew());
        let Phase::Backup(backup) = &mut self.phase else {
            return;
        };

        if verdict == Verdict::Yielding && !backup.resigned {
            let at = self.now + skew;
            backup.down_at = if backup.waiting {
                at
            } else {
                backup.down_at.min(at)
            };
            backup.resigned = true;
            backup.waiting = false;
        } else if backup.resigned && expired {
            self.become_active(Reason::PeerYielded, out);
        } else if let Some((_, reason)) = early {
            self.become_active(reason, out);
        } else if expired && verdict == Verdict::Held {
            if !core::mem::replace(&mut backup.waiting, true) {
                out.push(Action::Notice(Notice::AdvertsMissing));
            }
        } else if expired {
            let reason = if verdict == Verdict::Expired {
                Reason::PeerLeaseExpired
            } else {
                Reason::AdvertsStopped
            };
            self.become_active(reason, out);
        } else if timer && backup.preempt_at.is_some_and(|at| at <= self.now) {
            // An active that would not hear our adverts would stay active, too.
            if active_deaf {
                backup.preempt_at = Some(self.now + interval);
            } else {
                self.become_active(Reason::Preempted, out);
            }
        }
    }

    // ---- Active ---------------------------------------------------------------------------------------------------

    /// RFC 9568 §6.4.3.
    fn advert_while_active(&mut self, source: IpAddr, advert: &Advert, out: &mut Vec<Action>) {
        let ours = (self.standing.priority, rank(&self.config.primary));
        let interval = self.config.interval;
        let follower = self.follower;
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        let heard = Some(Heard {
            source: Some(source),
            at: self.now,
            interval: advert.interval,
        });

        if advert.priority == PRIORITY_RESIGN {
            // "If the Priority in the ADVERTISEMENT is zero, then: Send an ADVERTISEMENT", so that backups hear at once
            // that there is an active.
            if active.doubt_until.is_none() {
                self.assert_active(out);
            }
        } else if follower {
            // The node tells the leader.
            if advert.priority < ours.0 {
                self.assert_active(out);
            }
        } else if active.leaving.is_some() {
            self.succeed(heard, out);
        } else if active.doubt_until.is_some() {
            self.lose(heard, Reason::RivalAfterStall, out);
        } else if (advert.priority, source) > (ours.0, self.config.primary) {
            // One last advert tells the winner that there were two, so that it announces the addresses again; and
            // the tie-break is by "unsigned integers in network byte order", which is how addresses compare.
            out.push(Action::Advert { priority: ours.0 });
            let tie = advert.priority == ours.0;
            self.lose(
                heard,
                if tie {
                    Reason::LostTieBreak
                } else {
                    Reason::HigherPriority
                },
                out,
            );
        } else {
            // §6.4.3 of RFC 9568, not in RFC 5798: a lower priority is answered at once, so that a healed split ends.
            // What clients learned from the rival is put right after it has released.
            let quiet = timing::active_down(Version::V3, interval, 0);
            active
                .announcer
                .restart(self.now, self.now + interval, quiet);
            // Whom we have just replaced says so once: nothing to report.
            if self.now > self.since + interval {
                out.push(Action::Notice(Notice::Rival(source)));
            }
            self.assert_active(out);
        }
    }

    fn active_timers(&mut self, timer: bool, out: &mut Vec<Action>) {
        let ours = (self.standing.priority, rank(&self.config.primary));
        let patience = timing::overdue(self.config.interval);
        let rival = self.evidence.rival;
        let quiet = self.quiet;
        let now = self.now;
        let follower = self.follower;
        let Phase::Active(active) = &mut self.phase else {
            return;
        };

        if !follower && let Some(theirs) = rival {
            if active.leaving.is_some() {
                return self.succeed(None, out);
            }
            if active.doubt_until.is_some() {
                return self.lose(None, Reason::RivalAfterStall, out);
            }
            if theirs > ours {
                // Adverts decide first, if they get through.
                let since = *active.outranked_since.get_or_insert(now);
                if now >= since + patience {
                    return self.lose(None, Reason::EchoRival, out);
                }
            } else {
                active.echo_rival = true;
            }
        } else {
            active.outranked_since = None;
            if core::mem::take(&mut active.echo_rival) {
                active.announcer.start(now);
            }
        }
        if !timer {
            return;
        }

        if let Some(leaving) = active.leaving
            && now >= leaving.until
        {
            if leaving.stop {
                return self.succeed(None, out);
            }
            active.leaving = None;
            active.next_advert = now;
            out.push(Action::Notice(Notice::HandoverRefused));
        }
        if let Some(until) = active.doubt_until {
            if now < until {
                return;
            }
            active.doubt_until = None;
            active.next_advert = now;
        }
        if now >= active.next_advert {
            if quiet {
                active.next_advert = now + self.config.interval;
            } else {
                self.send_advert(out);
            }
        }
        if let Phase::Active(active) = &mut self.phase
            && active.announcer.due(now)
        {
            out.push(Action::Announce);
        }
    }

    /// Answers a claim, but not a flood of them: four adverts per interval at the most.
    fn assert_active(&mut self, out: &mut Vec<Action>) {
        if let Phase::Active(active) = &self.phase
            && self.now >= active.sent + self.config.interval / 4
            && !self.quiet
        {
            self.send_advert(out);
        }
    }

    fn send_advert(&mut self, out: &mut Vec<Action>) {
        let Phase::Active(active) = &mut self.phase else {
            return;
        };
        let interval = self.config.interval;
        let priority = if active.leaving.is_some() {
            PRIORITY_RESIGN
        } else {
            self.standing.priority
        };
        // Absolute deadlines: a late timer does not delay the adverts after it. A stall is not made up for.
        let on_time = active.next_advert <= self.now && self.now < active.next_advert + interval;
        active.next_advert = if on_time {
            active.next_advert + interval
        } else {
            self.now + interval
        };
        active.sent = self.now;
        active.lease_until = self.now + self.config.lease;
        out.push(Action::Advert { priority });
        out.push(self.lease(Role::Active));
    }

    fn leave(&mut self, stop: bool, out: &mut Vec<Action>) {
        let wait = timing::handover_wait(self.config.version(), self.config.interval);
        match &mut self.phase {
            Phase::Active(active) => {
                // A shutdown under way stays one, and does not start to wait anew.
                if active.leaving.is_none_or(|leaving| stop && !leaving.stop) {
                    active.leaving = Some(Leaving {
                        until: self.now + wait,
                        stop,
                    });
                }
                active.doubt_until = None;
                self.send_advert(out);
            }
            _ if stop => {
                self.enter(Phase::Initialize, Reason::Shutdown, out);
                out.push(Action::Stopped);
            }
            _ => {}
        }
    }

    /// Takes part again; calls a handover off that nobody has accepted yet.
    fn resume(&mut self, out: &mut Vec<Action>) {
        self.stands_down = false;
        if let Phase::Active(active) = &mut self.phase
            && active.leaving.is_some_and(|leaving| !leaving.stop)
        {
            active.leaving = None;
            self.send_advert(out);
        }
    }

    /// The end of a planned handover: a successor was heard, or a shutdown has waited long enough.
    fn succeed(&mut self, heard: Option<Heard>, out: &mut Vec<Action>) {
        let Phase::Active(Active {
            leaving: Some(leaving),
            ..
        }) = self.phase
        else {
            return;
        };
        if leaving.stop {
            out.push(Action::Release);
            self.stop(out);
        } else {
            self.stands_down = true;
            self.lose(heard, Reason::HandedOver, out);
        }
    }

    fn stop(&mut self, out: &mut Vec<Action>) {
        self.enter(Phase::Initialize, Reason::Shutdown, out);
        out.push(Action::Stopped);
    }

    // ---- Stalls ---------------------------------------------------------------------------------------------------

    /// A node whose own timer fires far too late may have been replaced meanwhile.
    fn notice_stall(&mut self, out: &mut Vec<Action>) {
        if self.follower {
            return;
        }
        let limit = 3 * self.config.interval;
        let late = match &self.phase {
            Phase::Active(Active {
                doubt_until: Some(_),
                lease_until,
                ..
            }) => self.now.checked_sub(*lease_until),
            // The shortest time after which another node can have given us up.
            Phase::Active(active) => self.now.checked_sub(active.sent + limit),
            Phase::Backup(backup) if !backup.waiting && !backup.relistened => {
                let interval = backup
                    .heard
                    .map_or(self.config.interval, |heard| heard.interval);
                self.now.checked_sub(backup.down_at + interval)
            }
            _ => None,
        };
        if let Some(late) = late {
            self.stalled(late, out);
        }
    }

    fn stalled(&mut self, late: Duration, out: &mut Vec<Action>) {
        let patience = timing::overdue(self.config.interval);
        let echoed = self.evidence.verdict != Verdict::Absent;
        match &mut self.phase {
            Phase::Initialize | Phase::Fault => {}
            Phase::Active(active) => {
                out.push(Action::Notice(Notice::Stalled(late)));
                if active.leaving.is_some() {
                    return self.succeed(None, out);
                }
                if !echoed {
                    return self.lose(None, Reason::Stalled, out);
                }
                if self.now >= active.lease_until {
                    return self.lose(None, Reason::LeaseLost, out);
                }
                // The dataplane went on answering for us, so the others waited, unless it was stalled, too.
                active.doubt_until = Some(self.now + patience);
                active.lease_until = self.now + self.config.lease;
                out.push(self.lease(Role::Active));
            }
            Phase::Backup(_) => {
                out.push(Action::Notice(Notice::Stalled(late)));
                let Phase::Backup(backup) = &mut self.phase else {
                    return;
                };
                let interval = backup
                    .heard
                    .map_or(self.config.interval, |heard| heard.interval);
                let down = timing::active_down(
                    self.config.wire.version(),
                    interval,
                    self.standing.priority,
                );
                backup.down_at = self.now + down;
                backup.preempt_at = backup.preempt_at.map(|at| at.max(self.now + down));
                backup.heard = backup.heard.map(|heard| Heard {
                    at: self.now,
                    ..heard
                });
                backup.waiting = false;
                backup.relistened = true;
            }
        }
    }

    // ---- Changes of state -----------------------------------------------------------------------------------------

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

    fn skew(&self) -> Duration {
        timing::skew(
            self.config.version(),
            self.config.interval,
            self.standing.priority,
        )
    }
}
