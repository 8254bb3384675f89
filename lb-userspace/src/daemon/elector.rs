//! The owner loop's side of the election: starts it when its interfaces are there, feeds it what it tracks, and tells the log
//! and the hook of what it decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use lb_core::{
    model::{Model, TrackKind},
    vrrp::{echo::Identity, router::State, setup},
};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::tracker::Tracker;
use crate::{
    dataplane::Dataplane,
    net::{links::Links, macvlan},
    vrrp::{Election, ElectionError, Event, HandoverOutcome, status},
};

/// Files that are tracked are looked at this often.
const FILES_EVERY: Duration = Duration::from_millis(500);
/// How long a node that has been succeeded goes on forwarding what still arrives.
const LAST_PACKETS: Duration = Duration::from_millis(500);

pub struct Elector {
    election: Option<Election>,
    sender: mpsc::UnboundedSender<Event>,
    /// What the election was told last.
    told: Option<(Vec<Vec<bool>>, bool)>,
    /// Of files, by router and track.
    files: BTreeMap<(usize, usize), bool>,
    files_at: Duration,
    /// What is asked, by router and track, and what it said.
    trackers: BTreeMap<(usize, usize), (Tracker, Option<bool>)>,
    /// No election: leases and addresses of an earlier one were taken away.
    cleared: bool,
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
            told: None,
            files: BTreeMap::new(),
            files_at: Duration::ZERO,
            trackers: BTreeMap::new(),
            cleared: false,
            waiting_for: None,
        };
        (elector, receiver)
    }

    /// Starts the election, or starts it anew where an interface is another one now.
    pub fn follow(&mut self, model: &Model, node: &str, links: &Arc<Links>, dataplane: &Dataplane) {
        if model.virtual_routers.is_empty() {
            self.leave();
            self.clear(dataplane);
            return;
        }
        self.cleared = false;
        match &self.election {
            Some(election) if !election.is_outdated(links) => {
                election.set_links(links.clone());
                return;
            }
            _ => self.leave(),
        }
        let leases = match dataplane.leases() {
            Ok(leases) => leases,
            Err(failed) => return error!("no election: {failed}"),
        };
        match Election::start(model, node, links.clone(), leases, self.sender.clone()) {
            Ok(election) => {
                self.waiting_for = None;
                self.election = Some(election);
                self.start_trackers(model);
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
        self.told = None;
        self.trackers.clear();
        self.files.clear();
        self.files_at = Duration::ZERO;
    }

    /// Takes away what an earlier election left in the tables: the addresses are not elected any more, and the program must not
    /// withhold them.
    fn clear(&mut self, dataplane: &Dataplane) {
        if core::mem::replace(&mut self.cleared, true) {
            return;
        }
        match dataplane.leases() {
            Ok(mut leases) => {
                leases.set_addresses(&[]);
                leases.clear_leases(&[]);
                leases.set_identity(Identity::default());
            }
            Err(failed) => error!("leases of an earlier election stay: {failed}"),
        }
    }

    fn start_trackers(&mut self, model: &Model) {
        for (router, written) in model.virtual_routers.iter().enumerate() {
            for (track, one) in written.tracks.iter().enumerate() {
                let sender = self.sender.clone();
                let tell = move |well| {
                    let _ = sender.send(Event::Tracked {
                        router,
                        track,
                        well,
                    });
                };
                if let Some(tracker) = Tracker::start(&one.kind, tell) {
                    self.trackers.insert((router, track), (tracker, None));
                }
            }
        }
    }

    /// Takes what a tracker said; what is tracked, for the log, if it is still.
    pub fn tracked(&mut self, router: usize, track: usize, well: bool) {
        if let Some((_, known)) = self.trackers.get_mut(&(router, track)) {
            *known = Some(well);
        }
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

    /// Tells the election whether what it tracks is well. `healthy`: how many backends of a service are; `probed`: every backend has
    /// been asked once.
    pub fn track(
        &mut self,
        now: Duration,
        model: &Model,
        healthy: impl Fn(&str) -> usize,
        probed: bool,
    ) {
        let Some(election) = &self.election else {
            return;
        };
        if now >= self.files_at {
            self.files_at = now + FILES_EVERY;
            self.files.clear();
        }
        let mut tracks = Vec::with_capacity(model.virtual_routers.len());
        for (index, router) in model.virtual_routers.iter().enumerate() {
            let mut well = Vec::with_capacity(router.tracks.len());
            for (at, track) in router.tracks.iter().enumerate() {
                well.push(match &track.kind {
                    TrackKind::Interface(_) => true,
                    TrackKind::Service { name, min_healthy } => {
                        healthy(name.as_str()) >= usize::from(*min_healthy)
                    }
                    TrackKind::File(path) => *self
                        .files
                        .entry((index, at))
                        .or_insert_with(|| std::fs::exists(path).unwrap_or(false)),
                    // Not asked yet: the node is not ready, which is enough.
                    TrackKind::Script { .. } | TrackKind::Gateway { .. } => {
                        let known = self.trackers.get(&(index, at));
                        known.and_then(|(_, well)| *well).unwrap_or(true)
                    }
                });
            }
            tracks.push(well);
        }
        let asked = self.trackers.values().all(|(_, well)| well.is_some());
        let tell = (tracks, probed && asked);
        if self.told.as_ref() != Some(&tell) {
            election.set_tracks(tell.0.clone(), tell.1);
            self.told = Some(tell);
        }
    }
}

/// Interfaces of virtual MAC addresses.
pub fn macvlans(model: &Model) -> BTreeSet<String> {
    let with = model.virtual_routers.iter().filter(|r| r.virtual_mac);
    with.map(|router| macvlan::name(router.family(), router.id))
        .collect()
}

/// Addresses that an election decides about.
pub fn elected(model: &Model) -> BTreeSet<IpAddr> {
    let routers = model.virtual_routers.iter();
    routers.flat_map(setup::addresses).collect()
}

/// Says in the log what happened, and starts the hook.
pub fn report(event: Event, node: &str, model: &Model) {
    let hook = model.pair.hook.as_deref();
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
        Event::Tracked {
            router,
            track,
            well,
        } => {
            let known = model.virtual_routers.get(router);
            let Some((router, track)) =
                known.and_then(|router| Some((router, router.tracks.get(track)?)))
            else {
                return;
            };
            let (what, effect) = match &track.kind {
                TrackKind::Script { program, .. } => (program.clone(), track.lower),
                TrackKind::Gateway { address, .. } => (address.to_string(), track.lower),
                _ => return,
            };
            match (well, effect) {
                (true, _) => info!("virtual router {}: {what} is well", router.name()),
                (false, Some(by)) => warn!(
                    "virtual router {}: {what} is not well: the priority is lowered by {by}",
                    router.name()
                ),
                (false, None) => warn!(
                    "virtual router {}: {what} is not well: this node takes no part in the election",
                    router.name()
                ),
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
