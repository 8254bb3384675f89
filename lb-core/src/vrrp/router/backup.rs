//! When a backup takes over (RFC 9568 §6.4.2), and when the echo lets it do so sooner or forbids it.

use core::net::IpAddr;
use core::time::Duration;

use super::{Action, Backup, Heard, Notice, Phase, Preempt, Reason, Router};
use crate::vrrp::codec::{Advert, Version};
use crate::vrrp::liveness::{Evidence, Verdict};
use crate::vrrp::{PRIORITY_RESIGN, timing};

impl Router {
    pub(super) fn advert(&mut self, source: IpAddr, advert: &Advert, out: &mut Vec<Action>) {
        match (&self.phase, advert.priority) {
            (Phase::Initialize | Phase::Fault, _) => {}
            (Phase::Backup(_), PRIORITY_RESIGN) => self.resigned(source),
            (Phase::Backup(_), _) => self.heard_active(source, advert),
            (Phase::Active(_), _) => self.advert_while_active(source, advert, out),
        }
    }

    /// RFC 9568 §6.4.2: "If the Priority in the ADVERTISEMENT is zero … Set the Active_Down_Timer to Skew_Time".
    pub(super) fn resigned(&mut self, source: IpAddr) {
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

    pub(super) fn heard_active(&mut self, source: IpAddr, advert: &Advert) {
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

    pub(super) fn sibling(&mut self, priority: u8, out: &mut Vec<Action>) {
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
    pub(super) fn early(&self, backup: &Backup) -> Option<(Duration, Reason)> {
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

    pub(super) fn backup_timers(&mut self, timer: bool, out: &mut Vec<Action>) {
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
        // Learned from the active in v3, like all that follows from its interval (RFC 9568 §6.1 Skew_Time).
        let interval = backup
            .heard
            .map_or(self.config.interval, |heard| heard.interval);
        let skew = timing::skew(self.config.version(), interval, self.standing.priority);
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
}
