//! A round through both tables of the records, in the order in which flows move between them, so that none is missed.

use core::time::Duration;

use lb_common::{
    flow_table::{Entry, Layout, Memory},
    tracking::Tracker,
};

use super::{Fate, Pace, Progress, Sweep};

/// A round that is under way: first the half-open flows, then, begun after that, the established ones.
#[derive(Clone, Debug)]
pub struct Round {
    half_open: Sweep,
    flows: Sweep,
    /// The half-open ones are done; their round began then.
    began: Option<Duration>,
}

impl Round {
    pub fn new(now: Duration) -> Self {
        Self {
            half_open: Sweep::new(now),
            flows: Sweep::new(now),
            began: None,
        }
    }

    /// As [`Sweep::tick`]; `pace` is that of each table.
    pub fn tick<L: Layout, M: Memory>(
        &mut self,
        now: Duration,
        pace: Pace,
        tracker: &Tracker<L, M>,
        judge: impl FnMut(&Entry<L::Key, L::Extra>) -> Fate,
    ) -> Progress {
        match self.began {
            None => {
                let progress = self.half_open.tick(now, pace, &tracker.half_open, judge);
                if let Some(began) = progress.finished {
                    self.began = Some(began);
                    self.flows.restart(now);
                }
                Progress {
                    finished: None,
                    ..progress
                }
            }
            Some(began) => {
                let progress = self.flows.tick(now, pace, &tracker.flows, judge);
                if progress.finished.is_some() {
                    self.began = None;
                    self.half_open.restart(now);
                }
                Progress {
                    finished: progress.finished.map(|_| began),
                    ..progress
                }
            }
        }
    }
}
