//! What the daemon tells of itself.

use std::{collections::BTreeMap, time::Duration};

use lb_common::{
    address::Address,
    reason::Class,
    tables::{Counter, Key},
};
use lb_core::{
    drain,
    model::{Backend, Service},
};

use super::owner::Owner;
use crate::api::status::{
    BackendStatus, DrainStatus, FlowTableStatus, InterfaceStatus, ReasonStatus, ServiceStatus,
    Status,
};
use crate::vrrp;

/// The state of the node now; counters are read from the mapped tables.
pub(super) fn status(owner: &Owner, election: Option<vrrp::status::Election>) -> Status {
    Status {
        node: owner.options.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: owner.now().as_secs(),
        config_digest: owner.model.digest().to_string(),
        adopted: owner.adopted,
        election,
        interfaces: interfaces(owner),
        services: owner
            .model
            .services
            .iter()
            .map(|service| service_status(owner, service))
            .collect(),
        flow_tables: owner
            .flow_tables()
            .into_iter()
            .map(|usage| FlowTableStatus {
                table: usage.table.to_owned(),
                entries: usage.used,
                capacity: usage.capacity,
            })
            .collect(),
        flows_removed: owner.ageing.removed,
        reasons: owner
            .dataplane
            .tables()
            .reason_counters()
            .into_iter()
            .map(|(reason, counter)| ReasonStatus {
                reason: reason.label().to_owned(),
                class: class_label(reason.class()).to_owned(),
                packets: counter.packets,
                bytes: counter.bytes,
                explanation: reason.explanation().trim().to_owned(),
            })
            .collect(),
    }
}

fn interfaces(owner: &Owner) -> Vec<InterfaceStatus> {
    let reports = owner.dataplane.interfaces();
    let names = owner
        .node()
        .map(|node| node.interfaces.clone())
        .unwrap_or_default();
    names
        .into_iter()
        .map(|name| {
            let report = reports.iter().find(|report| report.name == name);
            InterfaceStatus {
                xdp: report.map_or_else(|| "absent".to_owned(), |report| report.mode.to_string()),
                program_id: report.map(|report| report.program_id),
                name,
            }
        })
        .collect()
}

fn service_status(owner: &Owner, service: &Service) -> ServiceStatus {
    let counters: BTreeMap<(Address, u16), Counter> = owner
        .layout
        .backends(&Key::from(&service.key()))
        .map(|(address, port, _, record)| {
            (
                (address, port),
                owner.dataplane.tables().backend_counter(record),
            )
        })
        .collect();
    let state = |backend: &Backend| owner.checks.state(&(service.key(), backend.key()));
    let serving = |backend: &Backend| {
        if state(backend).serves() && owner.drains.get(&(service.key(), backend.key())).is_none() {
            f64::from(backend.weight)
        } else {
            0.0
        }
    };
    let total: f64 = service.backends.iter().map(serving).sum();
    let backends: Vec<BackendStatus> = service
        .backends
        .iter()
        .map(|backend| {
            let health = owner.checks.health(&(service.key(), backend.key()));
            let unresolved = owner
                .next_hops
                .get(&backend.address)
                .filter(|known| known.next_hop.is_none())
                .map(|known| known.why.to_string());
            let counter = counters
                .get(&(backend.address.into(), backend.port))
                .copied()
                .unwrap_or_default();
            BackendStatus {
                name: backend.name.clone(),
                address: backend.address,
                port: backend.port,
                weight: backend.weight,
                state: state(backend),
                since_ms: health
                    .map_or_else(
                        || owner.now(),
                        |health| owner.now().saturating_sub(health.since()),
                    )
                    .as_millis()
                    .try_into()
                    .unwrap_or(u64::MAX),
                reason: health
                    .and_then(|health| health.last_failure())
                    .map(str::to_owned)
                    .or(unresolved),
                drain: drain_status(owner, &(service.key(), backend.key())),
                share: if total > 0.0 {
                    serving(backend) / total
                } else {
                    0.0
                },
                packets: counter.packets,
                bytes: counter.bytes,
            }
        })
        .collect();
    ServiceStatus {
        name: service.name.to_string(),
        vip: service.vip,
        port: service.port,
        protocol: service.protocol,
        mode: service.mode,
        packets: backends.iter().map(|backend| backend.packets).sum(),
        bytes: backends.iter().map(|backend| backend.bytes).sum(),
        slots_in_change: owner.layout.unsettled(&Key::from(&service.key())) as u64,
        error: owner.errors.get(&service.key()).cloned(),
        backends,
    }
}

fn drain_status(owner: &Owner, id: &drain::Id) -> Option<DrainStatus> {
    let drain = owner.drains.get(id)?;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now = owner.now();
    Some(DrainStatus {
        origin: drain.origin,
        since_ms: ms(now.saturating_sub(drain.since)),
        left_ms: drain.until.map(|until| ms(until.saturating_sub(now))),
        over: drain.over,
        at_end: drain.at_end,
    })
}

const fn class_label(class: Class) -> &'static str {
    match class {
        Class::Forwarded => "forwarded",
        Class::Passed => "passed",
        Class::Dropped => "dropped",
        Class::Answered => "answered",
    }
}
