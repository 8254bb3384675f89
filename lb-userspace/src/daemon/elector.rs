//! The owner loop's side of the election: starts it when its interfaces are there, feeds it what it tracks, and tells the log
//! and the hook of what it decides.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use lb_core::{
    model::{Model, TrackKind},
    vrrp::{router::State, setup},
};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::{
    dataplane::Dataplane,
    net::links::Links,
    vrrp::{Election, ElectionError, Event, HandoverOutcome, status},
};

/// Files that are tracked are looked at this often.
const FILES_EVERY: Duration = Duration::from_millis(500);
/// How long a node that has been succeeded goes on forwarding what still arrives.
const LAST_PACKETS: Duration = Duration::from_millis(500);

pub struct Elector {
    election: Option<Election>,
    sender: mpsc::UnboundedSender<Event>,
    tracks: Vec<Vec<bool>>,
    files_at: Duration,
    /// Said once, while it lasts.
    waiting_for: Option<String>,
}

impl Elector {
    /// Without an election yet, and where its events will come from.
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let elector = Self {
            election: None,
            sender,
            tracks: Vec::new(),
            files_at: Duration::ZERO,
            waiting_for: None,
        };
        (elector, receiver)
    }

    /// Starts the election, or starts it anew where an interface is another one now.
    pub fn follow(&mut self, model: &Model, node: &str, links: &Arc<Links>, dataplane: &Dataplane) {
        if model.virtual_routers.is_empty() {
            self.election = None;
            return;
        }
        match &self.election {
            Some(election) if !election.is_outdated(links) => {
                election.set_links(links.clone());
                return;
            }
            _ => self.election = None,
        }
        let leases = match dataplane.leases() {
            Ok(leases) => leases,
            Err(failed) => return error!("no election: {failed}"),
        };
        match Election::start(model, node, links.clone(), leases, self.sender.clone()) {
            Ok(election) => {
                self.waiting_for = None;
                self.tracks.clear();
                self.election = Some(election);
            }
            Err(ElectionError::Setup(missing)) => {
                let missing = missing.to_string();
                if self.waiting_for.as_ref() != Some(&missing) {
                    warn!("{missing}: this node takes no part in the election until then");
                    self.waiting_for = Some(missing);
                }
            }
            Err(failed) => error!("no election: {failed}"),
        }
    }

    /// Ends the election without letting anything go: what is started next adopts it.
    pub fn leave(&mut self) {
        self.election = None;
    }

    /// Gives everything up in order.
    pub async fn shutdown(&mut self) {
        let Some(election) = self.election.take() else {
            return;
        };
        if election.shutdown().await {
            tokio::time::sleep(LAST_PACKETS).await;
        }
    }

    pub async fn status(&self) -> Option<status::Election> {
        match &self.election {
            Some(election) => election.status().await,
            None => None,
        }
    }

    /// Begins a handover; `None` without an election.
    pub fn handover(&self) -> Option<oneshot::Receiver<HandoverOutcome>> {
        self.election.as_ref().map(Election::handover)
    }

    /// Ends the standing down after a handover. False without an election.
    pub fn resume(&self) -> bool {
        self.election.as_ref().map(Election::resume).is_some()
    }

    /// When [`track`](Self::track) has a file to look at.
    pub fn next_deadline(&self, model: &Model) -> Option<Duration> {
        let files = model
            .virtual_routers
            .iter()
            .flat_map(|router| &router.tracks)
            .any(|track| matches!(track.kind, TrackKind::File(_)));
        (files && self.election.is_some()).then_some(self.files_at)
    }

    /// Tells the election whether what it tracks is well. `healthy`: how many backends of a service are.
    pub fn track(&mut self, now: Duration, model: &Model, healthy: impl Fn(&str) -> usize) {
        let Some(election) = &self.election else {
            return;
        };
        let look = now >= self.files_at;
        if look {
            self.files_at = now + FILES_EVERY;
        }
        let before = |router: usize, track: usize| {
            let known = self.tracks.get(router).and_then(|tracks| tracks.get(track));
            known.copied()
        };
        let tracks: Vec<Vec<bool>> = model
            .virtual_routers
            .iter()
            .enumerate()
            .map(|(index, router)| {
                let one = |(at, track): (usize, &lb_core::model::Track)| match &track.kind {
                    TrackKind::Interface(_) => true,
                    TrackKind::Service { name, min_healthy } => {
                        healthy(name.as_str()) >= usize::from(*min_healthy)
                    }
                    TrackKind::File(path) => match before(index, at) {
                        Some(known) if !look => known,
                        _ => std::fs::exists(path).unwrap_or(false),
                    },
                };
                router.tracks.iter().enumerate().map(one).collect()
            })
            .collect();
        if tracks != self.tracks {
            election.set_tracks(tracks.clone());
            self.tracks = tracks;
        }
    }
}

/// Addresses that an election decides about.
pub fn elected(model: &Model) -> BTreeSet<IpAddr> {
    let routers = model.virtual_routers.iter();
    routers.flat_map(setup::addresses).collect()
}

/// Says in the log what happened, and starts the hook.
pub fn report(event: Event, node: &str, hook: Option<&str>) {
    match event {
        Event::Changed { router, change } => {
            let (from, to) = (change.from.label(), change.to.label());
            let lasted = change.lasted.as_millis();
            if change.to == State::Fault {
                warn!(
                    "virtual router {router}: {from} -> {to} after {lasted} ms: {}",
                    change.reason
                );
            } else {
                info!(
                    "virtual router {router}: {from} -> {to} after {lasted} ms: {}",
                    change.reason
                );
            }
            if let Some(hook) = hook {
                run_hook(hook, node, &router, from, to, change.reason.label());
            }
        }
        Event::Notice { router, notice } => {
            warn!("virtual router {router}: {}: {notice:?}", notice.label());
        }
        Event::Path { router, change } => {
            let (peer, path) = (change.peer, change.path);
            if change.up {
                info!("virtual router {router}: node {peer} answers on path {path}");
            } else {
                warn!("virtual router {router}: node {peer} no longer answers on path {path}");
            }
        }
        Event::Trouble(text) => warn!("{text}"),
    }
}

fn run_hook(hook: &str, node: &str, router: &str, from: &str, to: &str, reason: &str) {
    let started = tokio::process::Command::new(hook)
        .env("FUTAGO_NODE", node)
        .env("FUTAGO_ROUTER", router)
        .env("FUTAGO_FROM", from)
        .env("FUTAGO_TO", to)
        .env("FUTAGO_REASON", reason)
        .stdin(std::process::Stdio::null())
        .spawn();
    match started {
        Ok(mut child) => drop(tokio::spawn(async move {
            match child.wait().await {
                Ok(status) if !status.success() => warn!("the hook ended with {status}"),
                Ok(_) => {}
                Err(failed) => warn!("the hook: {failed}"),
            }
        })),
        Err(failed) => warn!("cannot start the hook {hook}: {failed}"),
    }
}
