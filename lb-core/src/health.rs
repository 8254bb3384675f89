//! Whether a backend is healthy: one state machine for each, that says when to probe and what the outcomes mean.
//!
//! ```text
//!              first success                fall failures in a row
//!   Unknown ─────────────────► Up ──────────────────────────────────► Down
//!      │                        ▲                                      ▲ │
//!      │                        └──────────────────────────────────────┼─┘
//!      │                             rise successes in a row           │
//!      └───────────────────────────────────────────────────────────────┘
//!              first failure
//! ```
//!
//! Time is a [`Duration`] since an origin that the caller chooses; it must not run backwards. The caller owns the
//! sockets: it starts what [`Health::poll`] asks for, hands each outcome to [`Health::finish`], and calls `poll` again
//! no later than [`Health::next_deadline`]. Outcomes that are there already are handed over before `poll`: after a
//! stall of the caller's own, an answer that waited is no timeout.

use core::time::Duration;

use serde::{Deserialize, Serialize};

use lb_common::hash::mix;

use crate::model::Check;

/// A probe starts up to this fraction of the interval late, so that the probes of many backends drift apart.
const JITTER_FRACTION: u32 = 16;
/// The first probe of a backend starts within this time or one interval, whichever is less: the operator waits for it.
const FIRST_PROBE_WITHIN: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not probed yet; the first outcome decides alone.
    Unknown,
    Up,
    Down,
}

impl State {
    /// Whether the backend may own slots.
    pub fn serves(self) -> bool {
        match self {
            Self::Up => true,
            Self::Unknown | Self::Down => false,
        }
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With the reason in the words of the log, such as "connection refused".
    Failure(String),
}

/// Names a probe of one backend, so that a late outcome is not taken for that of the next probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeId(u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a probe and give it up at `deadline`; its outcome goes to [`Health::finish`].
    Probe {
        id: ProbeId,
        deadline: Duration,
    },
    Changed(Transition),
}

/// A change of state, for the table, the log and `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    pub at: Duration,
    pub from: State,
    pub to: State,
    /// One line, such as "3 failures in a row, the last: connection refused".
    pub reason: String,
}

/// One backend of one service.
#[derive(Clone, Debug)]
pub struct Health {
    timing: Timing,
    identity: u64,
    state: State,
    since: Duration,
    /// Outcomes in a row that speak against `state`.
    against: u32,
    /// Counts probes; the number of the one that runs or runs next.
    probe: u64,
    phase: Phase,
    last_failure: Option<String>,
}

#[derive(Clone, Copy, Debug)]
struct Timing {
    interval: Duration,
    timeout: Duration,
    rise: u32,
    fall: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// `due` is without jitter, so that starts keep to a grid of intervals.
    Waiting {
        due: Duration,
    },
    Probing {
        due: Duration,
        deadline: Duration,
    },
}

impl Health {
    /// A backend that nothing is known of. `identity` spreads the probes of many backends over the interval; the same
    /// one gives the same schedule (see [`crate::maglev::identity`]).
    pub fn new(check: &Check, identity: u64, now: Duration) -> Self {
        Self::adopted(check, identity, State::Unknown, now)
    }

    /// A backend whose state is known from before a restart: it keeps it until probes say otherwise.
    pub fn adopted(check: &Check, identity: u64, state: State, now: Duration) -> Self {
        let timing = Timing::from(check);
        let due = now + fraction(timing.interval.min(FIRST_PROBE_WITHIN), mix(identity));
        Self {
            timing,
            identity,
            state,
            since: now,
            against: 0,
            probe: 0,
            phase: Phase::Waiting { due },
            last_failure: None,
        }
    }

    /// A check that was edited: the state stays, and the next probe is timed and judged by the new one.
    pub fn reconfigure(&mut self, check: &Check, now: Duration) {
        let old = core::mem::replace(&mut self.timing, Timing::from(check));
        if let Phase::Waiting { due } = &mut self.phase
            && self.timing.interval < old.interval
        {
            *due = (*due).min(now + fraction(self.timing.interval, mix(self.identity)));
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// When the state was entered, or this machine was made.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Why the last probe failed; `None` once one succeeded.
    pub fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// When to call [`Self::poll`] at the latest.
    pub fn next_deadline(&self) -> Duration {
        match self.phase {
            Phase::Waiting { due } => due + self.jitter(),
            Phase::Probing { deadline, .. } => deadline,
        }
    }

    /// What is to be done at `now`: at most the end of one probe by timeout, then the start of the next.
    pub fn poll(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Phase::Probing { deadline, .. } = self.phase
            && now >= deadline
        {
            let timeout = Outcome::Failure(format!(
                "no answer in {} ms",
                self.timing.timeout.as_millis()
            ));
            actions.extend(
                self.finish(now, ProbeId(self.probe), timeout)
                    .map(Action::Changed),
            );
        }
        if let Phase::Waiting { due } = self.phase
            && now >= self.next_deadline()
        {
            let deadline = now + self.timing.timeout;
            self.phase = Phase::Probing { due, deadline };
            actions.push(Action::Probe {
                id: ProbeId(self.probe),
                deadline,
            });
        }
        actions
    }

    /// Takes the outcome of a probe; that of one which was given up is ignored.
    pub fn finish(&mut self, now: Duration, id: ProbeId, outcome: Outcome) -> Option<Transition> {
        let Phase::Probing { due, .. } = self.phase else {
            return None;
        };
        if id != ProbeId(self.probe) {
            return None;
        }
        self.probe += 1;
        self.phase = Phase::Waiting {
            due: self.next_due(due, now),
        };

        let (verdict, needed) = match &outcome {
            Outcome::Success => (State::Up, self.timing.rise),
            Outcome::Failure(_) => (State::Down, self.timing.fall),
        };
        self.last_failure = match outcome {
            Outcome::Success => None,
            Outcome::Failure(reason) => Some(reason),
        };
        if verdict == self.state {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.state == State::Unknown {
            1
        } else {
            needed
        };
        (self.against >= needed).then(|| self.change(now, verdict))
    }

    fn change(&mut self, at: Duration, to: State) -> Transition {
        let count = self.against;
        let reason = match (&self.last_failure, count) {
            (None, 1) => "a probe succeeded".to_owned(),
            (None, _) => format!("{count} successes in a row"),
            (Some(failure), 1) => failure.clone(),
            (Some(failure), _) => format!("{count} failures in a row, the last: {failure}"),
        };
        let from = core::mem::replace(&mut self.state, to);
        self.since = at;
        self.against = 0;
        Transition {
            at,
            from,
            to,
            reason,
        }
    }

    /// The next point of the grid. Of several that passed (a stall), only the last counts: never a burst.
    fn next_due(&self, due: Duration, now: Duration) -> Duration {
        let interval = self.timing.interval;
        let passed = now.saturating_sub(due).as_nanos() / interval.as_nanos().max(1);
        due + interval.saturating_mul(u32::try_from(passed.max(1)).unwrap_or(u32::MAX))
    }

    fn jitter(&self) -> Duration {
        fraction(
            self.timing.interval / JITTER_FRACTION,
            mix(self.identity ^ mix(self.probe)),
        )
    }
}

impl From<&Check> for Timing {
    fn from(check: &Check) -> Self {
        Self {
            interval: check.interval,
            timeout: check.timeout,
            rise: check.rise,
            fall: check.fall,
        }
    }
}

/// `whole` × `hash` / 2^64.
fn fraction(whole: Duration, hash: u64) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(hash)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
