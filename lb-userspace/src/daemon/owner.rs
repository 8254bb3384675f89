//! The owner loop: takes what happens, decides by way of `lb_core`, writes the tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use lb_common::{
    address::Address,
    steering::FlowTable,
    tables::{Key, NextHop},
};
use lb_core::{
    config,
    drain::Drains,
    health::State,
    model::{self, Capacity, Model, Node, Service, ServiceKey, TunnelSources},
    plan::{self, BackendNow, Layout, PlanError, Write, wanted},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tracing::{error, info, warn};

use super::{
    Options,
    ageing::Ageing,
    checks::{Checks, Finished},
    command::{Command, Reloaded},
    elector::{self, Elector},
    kernel_settings::KernelSettings,
    report,
    vips::Vips,
};
use crate::{
    dataplane::{self, Dataplane},
    net::{
        self,
        next_hop::{NextHopChanged, Unresolved, Why},
        sysctl,
        watch::{Event, Watcher},
    },
    vrrp,
};

/// Changes of one service within this time become one new table.
const COALESCE: Duration = Duration::from_millis(5);
/// After writing failed for want of room, the next try.
const RETRY: Duration = Duration::from_millis(250);

pub(super) struct Owner {
    pub(super) options: Options,
    pub(super) origin: Instant,
    pub(super) model: Model,
    pub(super) dataplane: Dataplane,
    pub(super) adopted: bool,
    pub(super) layout: Layout,
    pub(super) checks: Checks,
    pub(super) drains: Drains,
    pub(super) ageing: Ageing,
    pub(super) next_hops: BTreeMap<IpAddr, NextHopChanged>,
    /// Why the tables do not hold what is wanted of a service.
    pub(super) errors: BTreeMap<ServiceKey, String>,
    outcomes: mpsc::Receiver<Finished>,
    watcher: Watcher,
    events: mpsc::Receiver<Event>,
    vips: Vips,
    pub(super) elector: Elector,
    elections: mpsc::UnboundedReceiver<vrrp::Event>,
    settings: KernelSettings,
    dirty: BTreeSet<ServiceKey>,
    flush_at: Option<Duration>,
}

/// How the loop ends.
enum End {
    Keep,
    CleanUp,
}

impl Owner {
    /// Everything up to the first packet: nothing is changed on the host before the configuration is known to be good.
    pub(super) async fn start(options: Options) -> anyhow::Result<Self> {
        let model = read_model(&options)?;
        let node = model.node(&options.node)?.clone();
        let origin = Instant::now();

        let (watcher, events) = Watcher::start(net::watch::Options::default())
            .await
            .context("cannot follow the host's network")?;
        let capacity = table_capacity(&model.dataplane);
        info!(
            "tables take {} MiB",
            dataplane::capacity_bytes(&capacity)? >> 20
        );
        let interfaces = node
            .interfaces
            .iter()
            .map(|name| (name.clone(), node.xdp))
            .collect();
        let dataplane = Dataplane::open(dataplane::Options {
            directory: options.bpf_dir.clone(),
            interfaces,
            features: plan::features(&model),
            ..dataplane::Options::new(capacity)
        })?;
        let adopted = dataplane.adopted();
        let layout = if adopted {
            Layout::adopt(origin.elapsed(), capacity, dataplane.tables())
        } else {
            Layout::new(capacity)
        };
        if adopted {
            info!(
                "adopted the tables of an earlier run: {} services",
                layout.keys().count()
            );
        }
        let (checks, outcomes) = Checks::new();
        let settings =
            KernelSettings::open(options.socket.parent().unwrap_or(std::path::Path::new("/")))?;
        let (elector, elections) = Elector::new();
        let mut owner = Self {
            vips: Vips::new(node.vip_interface.clone()),
            elector,
            elections,
            options,
            origin,
            model,
            dataplane,
            adopted,
            layout,
            checks,
            drains: Drains::default(),
            ageing: Ageing::new(origin.elapsed()),
            next_hops: BTreeMap::new(),
            errors: BTreeMap::new(),
            outcomes,
            watcher,
            events,
            settings,
            dirty: BTreeSet::new(),
            flush_at: None,
        };
        owner.follow_model();
        owner.prepare_host()?;
        owner.first_next_hops().await;
        owner.first_outcomes().await;
        owner.flush(owner.now());
        if let Some((service, error)) = owner.errors.first_key_value() {
            bail!("service {service}: {error}");
        }
        owner.dataplane.attach()?;
        let mut wanted = owner.model.held_addresses();
        wanted.extend(elector::elected(&owner.model));
        owner
            .vips
            .remove_leftovers(owner.watcher.netlink(), &wanted)
            .await;
        owner.remove_macvlans().await;
        owner.hold_vips().await;
        owner.follow_election();
        info!(
            "node {} forwards {} services",
            owner.options.node,
            owner.model.services.len()
        );
        Ok(owner)
    }

    /// Runs until a command or a signal ends it.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let by_signal = if self.options.keep {
            End::Keep
        } else {
            End::CleanUp
        };
        let (end, done) = loop {
            let wake = tokio::time::Instant::from_std(self.origin + self.deadline());
            tokio::select! {
                Some(command) = commands.recv() => match command {
                    Command::Status(answer) => {
                        let election = self.elector.status().await;
                        // Who is told that a backend is up may send at once, and expect it in the table.
                        if self.flush_at.is_some() {
                            self.flush(self.now());
                        }
                        drop(answer.send(report::status(&self, election)));
                    }
                    Command::Drain { request, answer } => drop(answer.send(self.drain(&request))),
                    Command::Flows { query, answer } => drop(answer.send(self.flows(&query))),
                    Command::Undrain { request, answer } => drop(answer.send(self.undrain(&request))),
                    Command::Failover { to, answer } => self.failover(to.as_deref(), answer),
                    Command::Reload(answer) => {
                        let outcome = self.reload().await.map_err(|error| format!("{error:#}"));
                        drop(answer.send(outcome));
                    }
                    Command::Stop { keep, done } => break (if keep { End::Keep } else { End::CleanUp }, Some(done)),
                },
                Some(event) = self.events.recv() => self.heard(event).await,
                Some(finished) = self.outcomes.recv() => self.probed(finished),
                Some(event) = self.elections.recv() => self.elected(event),
                () = tokio::time::sleep_until(wake) => {}
                _ = terminate.recv() => break (by_signal, None),
                _ = interrupt.recv() => break (by_signal, None),
                _ = hangup.recv() => match self.reload().await {
                    Ok(reloaded) => info!("reloaded: {reloaded:?}"),
                    Err(error) => error!("not reloaded, the configuration before stays in force: {error:#}"),
                },
            }
            // After a stall of our own, answers that wait are taken before anything is found to be late.
            while let Ok(finished) = self.outcomes.try_recv() {
                self.probed(finished);
            }
            while let Ok(event) = self.events.try_recv() {
                self.heard(event).await;
            }
            self.turn();
        };
        let outcome = self.end(end).await;
        if let Some(done) = done {
            let _ = done.send(
                outcome
                    .as_ref()
                    .map_err(|error| format!("{error:#}"))
                    .copied(),
            );
        }
        outcome
    }

    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(super) fn node(&self) -> Option<&Node> {
        self.model.nodes.get(self.options.node.as_str())
    }

    /// What the tables should hold of a service, by what is known now.
    fn wanted(&self, service: &Service) -> plan::Wanted {
        let sources = self.tunnel_sources();
        let seed = self.model.dataplane.hash_seed;
        wanted(service, seed, &sources, |backend| {
            let host = self.next_hops.get(&backend.address);
            let host = host.and_then(|known| known.next_hop?.source);
            BackendNow {
                tunnel_source: sources.towards(backend.address, host),
                serves: self.checks.state(&(service.key(), backend.key())).serves(),
                drain: self.drains.get(&(service.key(), backend.key())).copied(),
                next_hop: self.next_hop(backend.address),
            }
        })
    }

    fn tunnel_sources(&self) -> TunnelSources {
        self.node()
            .map(|node| node.tunnel_sources)
            .unwrap_or_default()
    }

    fn next_hop(&self, address: IpAddr) -> NextHop {
        self.next_hops
            .get(&address)
            .and_then(|known| known.next_hop)
            .map(table_next_hop)
            .unwrap_or_default()
    }

    /// Time of the next thing to do without an event.
    fn deadline(&self) -> Duration {
        let deadlines = [
            self.checks.next_deadline(),
            self.layout.deadline(),
            self.drains.next_deadline(),
            Some(self.ageing.next_deadline()),
            self.vips.next_deadline(),
            self.flush_at,
            self.elector.next_deadline(&self.model),
        ];
        // An hour: nothing to do, but a bound.
        deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or_else(|| self.now() + Duration::from_secs(3600))
    }

    /// What is due now.
    fn turn(&mut self) {
        let now = self.now();
        for service in self.checks.poll(now) {
            self.mark(service);
        }
        self.end_drains(now);
        self.age(now);
        self.vips.announce(now, &self.watcher.links());
        self.layout.expire(now);
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush(now);
        }
        let healthy = |name: &str| {
            let service = self.model.services.iter().find(|s| s.name.as_str() == name);
            service.map_or(0, |service| {
                let up = |backend: &&model::Backend| {
                    let id = (service.key(), backend.key());
                    backend.weight > 0
                        && self.checks.state(&id).serves()
                        && self.drains.get(&id).is_none()
                };
                service.backends.iter().filter(up).count()
            })
        };
        // What is not probed counts as probed.
        let probed = self
            .model
            .services
            .iter()
            .flat_map(|service| service.backends.iter().map(|b| (service.key(), b.key())))
            .all(|id| self.checks.state(&id) != State::Unknown);
        self.elector.track(now, &self.model, healthy, probed);
    }

    pub(super) fn mark(&mut self, service: ServiceKey) {
        self.dirty.insert(service);
        let at = self.now() + COALESCE;
        self.flush_at = Some(self.flush_at.map_or(at, |old| old.min(at)));
    }

    fn probed(&mut self, finished: Finished) {
        if let Some(service) = self.checks.finish(self.now(), finished) {
            self.mark(service);
        }
    }

    async fn heard(&mut self, event: Event) {
        match event {
            Event::NextHop(changed) => self.take_next_hop(changed),
            Event::Link(changed) => self.link_changed(changed).await,
            Event::Resynced => {
                warn!("the kernel's notifications were too many at once: everything was read anew")
            }
        }
    }

    fn take_next_hop(&mut self, changed: NextHopChanged) {
        let address = changed.address;
        let source = changed.next_hop.and_then(|next_hop| next_hop.source);
        let next_hop = changed.next_hop.map(table_next_hop).unwrap_or_default();
        if self.next_hop(address) != next_hop {
            match changed.next_hop {
                Some(_) => info!("next hop of {address}: {}", changed.why),
                None => warn!("no next hop for {address}: {}", changed.why),
            }
        }
        self.next_hops.insert(address, changed);
        let source = self.tunnel_sources().towards(address, source);
        let source = source.map_or(Address::default(), Address::from);
        let writes = self.layout.set_next_hop(address.into(), next_hop, source);
        self.write(&writes);
    }

    /// Goes by what is there now, not by what the event says: an interface also comes by being renamed, and is made anew
    /// while its end is still unread.
    async fn link_changed(&mut self, changed: net::links::LinkChanged) {
        let Some(node) = self.node().cloned() else {
            return;
        };
        let links = self.watcher.links();
        let running = self.dataplane.interfaces();
        let mut came = false;
        for name in &node.interfaces {
            let there = links.named(name).map(|link| link.ifindex);
            let runs = running
                .iter()
                .find(|report| report.name == *name)
                .map(|report| report.ifindex);
            let went = changed.after.is_none()
                && changed
                    .before
                    .as_ref()
                    .is_some_and(|link| link.name == *name);
            if there.is_none() && (runs.is_some() || went) {
                warn!("interface {name} is gone");
                if let Err(error) = self.dataplane.detach_interface(name) {
                    warn!("interface {name}: {error}");
                }
            } else if there.is_some() && there != runs {
                match self.dataplane.attach_interface(name, node.xdp) {
                    Ok(_) => info!("interface {name} is there"),
                    Err(error) => error!("interface {name}: {error}"),
                }
                came = true;
            }
        }
        if came && let Err(error) = self.prepare_host() {
            error!("{error:#}");
        }
        self.hold_vips().await;
        self.follow_election();
    }

    fn follow_election(&mut self) {
        let links = self.watcher.links();
        self.elector
            .follow(&self.model, &self.options.node, &links, &self.dataplane);
    }

    /// Removes interfaces of virtual MAC addresses that the model does not have.
    async fn remove_macvlans(&self) {
        let wanted = elector::macvlans(&self.model);
        match net::macvlan::remove_leftovers(self.watcher.netlink(), &wanted).await {
            Ok(removed) => removed
                .iter()
                .for_each(|name| info!("removed the interface {name}")),
            Err(error) => warn!("cannot remove an interface of a virtual MAC address: {error}"),
        }
    }

    fn elected(&mut self, event: vrrp::Event) {
        if let vrrp::Event::Tracked {
            router,
            track,
            well,
        } = event
        {
            self.elector.tracked(router, track, well);
        }
        elector::report(event, &self.options.node, &self.model);
    }

    /// Hands over, or takes part again when this node is named.
    fn failover(&self, to: Option<&str>, answer: oneshot::Sender<vrrp::HandoverOutcome>) {
        let refuse = |why: String| Err(why);
        let outcome = match to {
            Some(to) if !self.model.nodes.contains_key(to) => {
                refuse(format!("the configuration has no [node.{to}]"))
            }
            Some(to) if to == self.options.node => {
                if self.elector.resume() {
                    Ok(())
                } else {
                    refuse("there is no election: the file has no [[virtual_router]]".to_owned())
                }
            }
            Some(_) if self.model.nodes.len() > 2 => refuse(
                "with more than two nodes the priorities decide who follows: leave --to out"
                    .to_owned(),
            ),
            _ => match self.elector.handover() {
                Some(outcome) => {
                    tokio::spawn(async move {
                        let ended = "the election ended meanwhile".to_owned();
                        let _ = answer.send(outcome.await.unwrap_or(Err(ended)));
                    });
                    return;
                }
                None => {
                    refuse("there is no election: the file has no [[virtual_router]]".to_owned())
                }
            },
        };
        let _ = answer.send(outcome);
    }

    /// Brings the tables to what is wanted of the services marked.
    fn flush(&mut self, now: Duration) {
        self.flush_at = None;
        for key in std::mem::take(&mut self.dirty) {
            let Some(service) = self.model.service(&key) else {
                continue;
            };
            let wanted = self.wanted(service);
            match self.layout.set(now, &wanted) {
                Ok(writes) => {
                    self.errors.remove(&key);
                    self.write(&writes);
                }
                Err(full @ PlanError::Full { .. }) if self.layout.deadline().is_some() => {
                    // Room comes back when what was replaced has rested.
                    info!("service {key}: {full}; trying again");
                    self.dirty.insert(key);
                    self.flush_at = Some(now + RETRY);
                }
                Err(failed) => {
                    error!("service {key} stays as it is: {failed}");
                    self.errors.insert(key, failed.to_string());
                }
            }
        }
    }

    pub(super) fn write(&mut self, writes: &[Write]) {
        if let Err(defect) = self.dataplane.tables_mut().apply(writes) {
            // The layout and the maps were made with one capacity.
            error!(
                "the tables refuse what was planned for them, which is a defect of Futago: {defect}"
            );
        }
    }

    /// Makes checks, next hops and dirty services follow the model; services that it has not go.
    fn follow_model(&mut self) {
        let now = self.now();
        let known: BTreeMap<(Key, IpAddr, u16), bool> = self
            .layout
            .keys()
            .collect::<Vec<_>>()
            .iter()
            .flat_map(|key| {
                self.layout
                    .backends(key)
                    .map(|(address, port, up, _)| ((*key, address.into(), port), up))
            })
            .collect();
        self.checks
            .reconcile(&self.model, now, |(service, backend)| {
                match known.get(&(Key::from(service), backend.address, backend.port)) {
                    Some(true) => State::Up,
                    Some(false) => State::Down,
                    None => State::Unknown,
                }
            });
        self.drains.follow(now, &self.model);
        let stay: Vec<Key> = self
            .model
            .services
            .iter()
            .map(|service| Key::from(&service.key()))
            .collect();
        let leave: Vec<Key> = self
            .layout
            .keys()
            .filter(|key| !stay.contains(key))
            .collect();
        for key in leave {
            let writes = self.layout.remove(now, &key);
            self.write(&writes);
        }
        self.errors
            .retain(|key, _| self.model.service(key).is_some());
        let addresses: BTreeSet<IpAddr> = self
            .model
            .services
            .iter()
            .flat_map(|service| service.backends.iter().map(|backend| backend.address))
            .collect();
        self.next_hops
            .retain(|address, _| addresses.contains(address));
        self.watcher.track(addresses);
        let services: Vec<ServiceKey> = self.model.services.iter().map(Service::key).collect();
        for key in services {
            self.mark(key);
        }
    }

    /// Waits until every backend has an answer, resolved or not, so that adopted tables are not worse for it.
    async fn first_next_hops(&mut self) {
        let wanted: BTreeSet<IpAddr> = self
            .model
            .services
            .iter()
            .flat_map(|service| service.backends.iter().map(|backend| backend.address))
            .collect();
        let until = tokio::time::Instant::now() + Duration::from_secs(2);
        let open = |owner: &Self, address| match owner.next_hops.get(address) {
            None => true,
            // The adopted tables may still know what the kernel has forgotten and asks for anew.
            Some(known) => {
                owner.adopted && matches!(known.why, Why::Unresolved(Unresolved::Waiting { .. }))
            }
        };
        while wanted.iter().any(|address| open(self, address)) {
            match tokio::time::timeout_at(until, self.events.recv()).await {
                Ok(Some(Event::NextHop(changed))) => {
                    self.next_hops.insert(changed.address, changed);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Waits a moment until the backends of services that the tables do not have yet have been probed once: a service that begins with
    /// the first backend that answers has most of its slots in change, and new flows that may be old ones, UDP's, stay there for long.
    async fn first_outcomes(&mut self) {
        const PATIENCE: Duration = Duration::from_millis(750);
        let until = self.now() + PATIENCE;
        while self.begins_blind() && self.now() < until {
            for service in self.checks.poll(self.now()) {
                self.mark(service);
            }
            let next = self.checks.next_deadline().unwrap_or(until).min(until);
            let wake = tokio::time::Instant::from_std(self.origin + next);
            tokio::select! {
                Some(finished) = self.outcomes.recv() => self.probed(finished),
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Whether a service that is not in the tables has backends that were never probed.
    fn begins_blind(&self) -> bool {
        self.model.services.iter().any(|service| {
            let key = service.key();
            self.layout.record(&Key::from(&key)).is_none()
                && service
                    .backends
                    .iter()
                    .any(|backend| self.checks.state(&(key, backend.key())) == State::Unknown)
        })
    }

    /// Kernel settings for the modes in use.
    fn prepare_host(&mut self) -> anyhow::Result<()> {
        let Some(node) = self.model.nodes.get(self.options.node.as_str()) else {
            return Ok(());
        };
        let links = self.watcher.links();
        let present: Vec<&str> = node
            .interfaces
            .iter()
            .map(String::as_str)
            .filter(|name| links.named(name).is_some())
            .collect();
        let one_arm = node.interfaces.len() == 1;
        let has = |replies| {
            let mut services = self.model.services.iter();
            services.any(|service| service.mode.sees_replies() == replies)
        };
        let mut needed = if has(true) {
            sysctl::needed_for_nat(&present, one_arm)?
        } else if has(false) && !one_arm {
            sysctl::needed_for_dsr_gateway(&present)?
        } else {
            Vec::new()
        };
        let virtual_macs = self.model.virtual_routers.iter().filter(|r| r.virtual_mac);
        for router in virtual_macs {
            let name = router.interface.as_ref().unwrap_or(&node.vip_interface);
            if links.named(name).is_some() {
                needed.extend(sysctl::needed_below_macvlan(name)?);
            }
        }
        if needed.is_empty() {
            return Ok(());
        }
        self.settings.apply(&needed)
    }

    async fn hold_vips(&mut self) {
        let (now, links, wanted) = (
            self.now(),
            self.watcher.links(),
            self.model.unelected_vips(),
        );
        self.vips
            .set(now, self.watcher.netlink(), &links, &wanted)
            .await;
    }

    /// Reads the file again and applies the difference, or nothing.
    async fn reload(&mut self) -> anyhow::Result<Reloaded> {
        let model = read_model(&self.options)?;
        let node = model.node(&self.options.node)?.clone();
        if table_capacity(&model.dataplane) != table_capacity(&self.model.dataplane) {
            bail!(
                "[dataplane] max_services, max_backends or max_slots changed: the tables are made when Futago starts; restart it (packets go on meanwhile)"
            );
        }
        if model.dataplane.flows != self.model.dataplane.flows {
            bail!(
                "[dataplane] max_flows, max_half_open or max_snat_flows changed, or there is a first `snat` service of a family: the tables of flows are made when Futago starts; restart it (packets go on meanwhile)"
            );
        }
        if self.node() != Some(&node) {
            bail!(
                "[node.{}] changed: it takes effect when Futago is restarted (packets go on meanwhile)",
                self.options.node
            );
        }
        let mut reloaded = Reloaded::default();
        for service in &model.services {
            match self.model.service(&service.key()) {
                None => reloaded.added.push(service.name.to_string()),
                Some(old) if old != service => reloaded.changed.push(service.name.to_string()),
                Some(_) => {}
            }
        }
        let removed = self
            .model
            .services
            .iter()
            .filter(|old| model.service(&old.key()).is_none());
        reloaded.removed = removed.map(|old| old.name.to_string()).collect();
        if model.dataplane.hash_seed != self.model.dataplane.hash_seed {
            reloaded.notes.push(
                "dataplane.hash_seed changed: flows go to other backends than before".to_owned(),
            );
        }
        let elects_anew = self.model.virtual_routers != model.virtual_routers
            || self.model.pair != model.pair
            || !self.model.nodes.keys().eq(model.nodes.keys());
        // Before the tables ask for what the program does not do yet.
        let features = plan::features(&model);
        self.dataplane
            .widen(features)
            .context("the configuration needs parts that the running program does not have; nothing is changed")?;
        self.model = model;
        self.follow_model();
        self.prepare_host()?;
        if elects_anew {
            self.elector.leave();
            let mut wanted = self.model.held_addresses();
            wanted.extend(elector::elected(&self.model));
            self.vips
                .remove_leftovers(self.watcher.netlink(), &wanted)
                .await;
            self.remove_macvlans().await;
        }
        self.hold_vips().await;
        self.first_outcomes().await;
        // At once, so that who asked hears of what cannot be written.
        self.flush(self.now());
        for (key, error) in &self.errors {
            reloaded
                .notes
                .push(format!("service {key} stays as it is: {error}"));
        }
        self.follow_election();
        Ok(reloaded)
    }

    async fn end(mut self, end: End) -> anyhow::Result<()> {
        match end {
            End::Keep => {
                self.elector.leave();
                info!(
                    "ending; the kernel goes on forwarding (`futago run` takes over, `futago run` and `futago stop` end it)"
                );
                Ok(())
            }
            End::CleanUp => {
                info!("ending; VIPs and programs are removed");
                self.elector.shutdown().await;
                while let Ok(event) = self.elections.try_recv() {
                    self.elected(event);
                }
                self.vips.release_all(self.watcher.netlink()).await;
                self.model.virtual_routers.clear();
                self.remove_macvlans().await;
                self.dataplane
                    .detach()
                    .context("cannot remove the programs")?;
                self.settings.restore();
                Ok(())
            }
        }
    }
}

/// The configuration, with every mistake in the error's text.
fn read_model(options: &Options) -> anyhow::Result<Model> {
    let name = options.config.display().to_string();
    let text = std::fs::read_to_string(&options.config)
        .with_context(|| format!("cannot read the configuration {name}"))?;
    match config::parse(&name, &text) {
        Ok(loaded) => {
            if loaded.warnings.warnings() > 0 {
                warn!("{}", loaded.warnings);
            }
            Ok(loaded.model)
        }
        Err(report) => bail!("{report}"),
    }
}

/// The tables for a configured capacity: twice the slots, because a table is built beside the one in use; cells enough
/// that a lookup ends after a few of them.
pub(crate) fn table_capacity(dataplane: &model::Dataplane) -> plan::Capacity {
    let Capacity {
        max_services,
        max_backends,
        max_slots,
    } = dataplane.capacity;
    // A service, its VIP, and each backend by its replies have a cell.
    let keys = u64::from(max_services) * 2 + u64::from(max_backends);
    plan::Capacity {
        cells: u32::try_from((keys * 8).next_power_of_two()).unwrap_or(1 << 31),
        services: max_services.saturating_mul(2),
        slots: max_slots.saturating_mul(2),
        // Runs of a power of two, and the next one beside the present one when a service outgrows it.
        backends: max_backends.saturating_mul(3),
        // The same for both families.
        flow_sets: dataplane.flows.ipv4.flows / FlowTable::Flows4.ways(),
        half_open_sets: dataplane.flows.ipv4.half_open / FlowTable::HalfOpen4.ways(),
    }
}

fn table_next_hop(next_hop: net::next_hop::NextHop) -> NextHop {
    NextHop {
        ifindex: next_hop.ifindex,
        destination: next_hop.dst_mac,
        source: next_hop.src_mac,
        vlan: next_hop.vlan.unwrap_or(0),
        mtu: u16::try_from(next_hop.mtu).unwrap_or(u16::MAX),
    }
}
