//! What a node assumes that did not run for a while: that it was replaced, until it has listened.

use core::time::Duration;

use super::{Action, Active, Heard, Notice, Phase, Reason, Router};
use crate::vrrp::echo::Role;
use crate::vrrp::liveness::Verdict;
use crate::vrrp::timing;

impl Router {
    /// A node whose own timer fires far too late may have been replaced meanwhile.
    pub(super) fn notice_stall(&mut self, out: &mut Vec<Action>) {
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

    pub(super) fn stalled(&mut self, late: Duration, out: &mut Vec<Action>) {
        let patience = timing::overdue(self.config.interval);
        let echoed = self.evidence.verdict != Verdict::Absent;
        match &mut self.phase {
            Phase::Initialize | Phase::Fault => {}
            Phase::Active(active) => {
                out.push(Action::Notice(Notice::Stalled(late)));
                match active.leaving {
                    Some(leaving) if leaving.stop => return self.stop_unheard(out),
                    Some(_) => return self.succeed(None, out),
                    None => {}
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
}
