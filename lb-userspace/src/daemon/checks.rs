//! The health of all backends: a state machine for each, and the probes that it asks for.

use std::{collections::BTreeMap, time::Duration};

use lb_core::{
    health::{Action, Health, Outcome, ProbeId, State, Transition},
    maglev,
    model::{BackendKey, Model, ServiceKey},
};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::probe;

/// A backend of a service.
pub type Id = (ServiceKey, BackendKey);

/// Outcomes that wait to be taken; more than the probes of any sensible configuration in one turn of the loop.
const QUEUE: usize = 4096;

/// What a probe found out.
pub struct Finished {
    id: Id,
    probe: ProbeId,
    outcome: Outcome,
}

pub struct Checks {
    machines: BTreeMap<Id, Machine>,
    outcomes: mpsc::Sender<Finished>,
}

struct Machine {
    health: Health,
    check: lb_core::model::Check,
    target: std::net::SocketAddr,
    /// What the log calls it.
    name: String,
}

impl Checks {
    /// No backends yet, and where the outcomes of their probes will come from.
    pub fn new() -> (Self, mpsc::Receiver<Finished>) {
        let (outcomes, receiver) = mpsc::channel(QUEUE);
        (
            Self {
                machines: BTreeMap::new(),
                outcomes,
            },
            receiver,
        )
    }

    /// Follows a new model: backends that stay keep their state, new ones have the state that `known` tells.
    pub fn reconcile(&mut self, model: &Model, now: Duration, known: impl Fn(&Id) -> State) {
        let mut old = std::mem::take(&mut self.machines);
        for service in &model.services {
            let Some(check) = &service.check else {
                continue;
            };
            for backend in &service.backends {
                let id = (service.key(), backend.key());
                let health = match old.remove(&id) {
                    Some(mut machine) => {
                        machine.health.reconfigure(check, now);
                        machine.health
                    }
                    None => {
                        Health::adopted(check, maglev::identity(&backend.key()), known(&id), now)
                    }
                };
                let name = format!("{} {}", service.name, backend.key());
                self.machines.insert(
                    id,
                    Machine {
                        health,
                        check: check.clone(),
                        target: check.target(backend),
                        name,
                    },
                );
            }
        }
    }

    /// A backend that is not checked counts as up.
    pub fn state(&self, id: &Id) -> State {
        self.machines
            .get(id)
            .map_or(State::Up, |machine| machine.health.state())
    }

    /// The machine of a backend that is checked.
    pub fn health(&self, id: &Id) -> Option<&Health> {
        self.machines.get(id).map(|machine| &machine.health)
    }

    pub fn next_deadline(&self) -> Option<Duration> {
        self.machines
            .values()
            .map(|machine| machine.health.next_deadline())
            .min()
    }

    /// Takes an outcome; the service whose backend changed.
    pub fn finish(&mut self, now: Duration, finished: Finished) -> Option<ServiceKey> {
        let machine = self.machines.get_mut(&finished.id)?;
        let transition = machine
            .health
            .finish(now, finished.probe, finished.outcome)?;
        machine.log(&transition);
        Some(finished.id.0)
    }

    /// Starts the probes that are due and ends those that took too long; the services whose backends changed.
    pub fn poll(&mut self, now: Duration) -> Vec<ServiceKey> {
        let mut changed = Vec::new();
        for (id, machine) in &mut self.machines {
            if machine.health.next_deadline() > now {
                continue;
            }
            for action in machine.health.poll(now) {
                match action {
                    Action::Changed(transition) => {
                        machine.log(&transition);
                        changed.push(id.0);
                    }
                    Action::Probe { id: probe, .. } => {
                        start(*id, probe, machine, self.outcomes.clone())
                    }
                }
            }
        }
        changed
    }
}

impl Machine {
    fn log(&self, transition: &Transition) {
        let Transition {
            from, to, reason, ..
        } = transition;
        let (from, to) = (
            format!("{from:?}").to_lowercase(),
            format!("{to:?}").to_lowercase(),
        );
        if transition.to == State::Down {
            warn!("{}: {from} -> {to}: {reason}", self.name);
        } else {
            info!("{}: {from} -> {to}: {reason}", self.name);
        }
    }
}

fn start(id: Id, probe: ProbeId, machine: &Machine, outcomes: mpsc::Sender<Finished>) {
    let (kind, target, timeout) = (
        machine.check.kind.clone(),
        machine.target,
        machine.check.timeout,
    );
    tokio::spawn(async move {
        // The health machine keeps its own deadline; this one only ends the socket.
        if let Ok(outcome) = tokio::time::timeout(timeout, probe::run(&kind, target)).await {
            let _ = outcomes.send(Finished { id, probe, outcome }).await;
        }
    });
}
