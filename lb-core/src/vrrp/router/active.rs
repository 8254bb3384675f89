//! When an active gives up (RFC 9568 §6.4.3), and how it does so without a moment in which nobody is active.

use core::net::IpAddr;

use super::{Action, Active, Heard, Leaving, Notice, Phase, Reason, Router};
use crate::vrrp::codec::{Advert, Version};
use crate::vrrp::echo::Role;
use crate::vrrp::{PRIORITY_RESIGN, rank, timing};

impl Router {
    /// RFC 9568 §6.4.3.
    pub(super) fn advert_while_active(
        &mut self,
        source: IpAddr,
        advert: &Advert,
        out: &mut Vec<Action>,
    ) {
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

    pub(super) fn active_timers(&mut self, timer: bool, out: &mut Vec<Action>) {
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
                return self.stop_unheard(out);
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
    pub(super) fn assert_active(&mut self, out: &mut Vec<Action>) {
        if let Phase::Active(active) = &self.phase
            && self.now >= active.sent + self.config.interval / 4
            && !self.quiet
        {
            self.send_advert(out);
        }
    }

    pub(super) fn send_advert(&mut self, out: &mut Vec<Action>) {
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

    pub(super) fn leave(&mut self, stop: bool, out: &mut Vec<Action>) {
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
    pub(super) fn resume(&mut self, out: &mut Vec<Action>) {
        self.stands_down = false;
        if let Phase::Active(active) = &mut self.phase
            && active.leaving.is_some_and(|leaving| !leaving.stop)
        {
            active.leaving = None;
            self.send_advert(out);
        }
    }

    /// The end of a planned handover or shutdown: a successor was heard.
    pub(super) fn succeed(&mut self, heard: Option<Heard>, out: &mut Vec<Action>) {
        let Phase::Active(Active {
            leaving: Some(leaving),
            ..
        }) = self.phase
        else {
            return;
        };
        if leaving.stop {
            out.push(Action::Release);
            self.stop(Reason::HandedOver, out);
        } else {
            self.stands_down = true;
            self.lose(heard, Reason::HandedOver, out);
        }
    }

    /// The end of a shutdown that no successor answered.
    pub(super) fn stop_unheard(&mut self, out: &mut Vec<Action>) {
        out.push(Action::Release);
        self.stop(Reason::Shutdown, out);
    }

    pub(super) fn stop(&mut self, reason: Reason, out: &mut Vec<Action>) {
        self.enter(Phase::Initialize, reason, out);
        out.push(Action::Stopped);
    }
}
