//! What services must not share: names, what they are found by, and backends whose replies could be either's.

use core::net::IpAddr;
use std::collections::HashMap;

use crate::{
    config::{
        diagnostic::{Diagnostic, Sink, Span},
        file::Service,
        reader::At,
    },
    model::{BackendKey, Protocol, ServiceKey},
};

pub(super) fn check(services: &[Service], sink: &Sink) {
    names(services, sink);
    keys(services, sink);
    vips_as_backends(services, sink);
    replies(services, sink);
}

/// What a VIP's services say of the VIP itself, from whichever says it; contradictions are reported.
pub(super) fn of_vips<T: Copy + PartialEq>(
    services: &[Service],
    name: &str,
    said: impl Fn(&Service) -> Option<&At<T>>,
    sink: &Sink,
) -> HashMap<IpAddr, T> {
    let mut first: HashMap<IpAddr, &At<T>> = HashMap::new();
    for service in services {
        let (Some(vip), Some(value)) = (&service.vip, said(service)) else {
            continue;
        };
        let known = first.entry(vip.value).or_insert(value);
        if known.value != value.value {
            sink.push(
                Diagnostic::error(
                    value.span.clone(),
                    format!("two services of {} differ in `{name}`", vip.value),
                )
                .label("write the same, or remove it here")
                .related(known.span.clone(), "first here"),
            );
        }
    }
    first
        .into_iter()
        .map(|(vip, value)| (vip, value.value))
        .collect()
}

fn names(services: &[Service], sink: &Sink) {
    let mut seen = HashMap::new();
    for name in services.iter().filter_map(|s| s.name.as_ref()) {
        if let Some(first) = seen.insert(&name.value, &name.span) {
            sink.push(
                Diagnostic::error(
                    name.span.clone(),
                    format!("two services have the name `{}`", name.value),
                )
                .label("choose another")
                .related(first.clone(), "first here"),
            );
        }
    }
}

fn keys(services: &[Service], sink: &Sink) {
    let mut seen: HashMap<ServiceKey, &Span> = HashMap::new();
    for service in services {
        let (Some(vip), Some(protocol), Some(port)) =
            (&service.vip, &service.protocol, &service.port)
        else {
            continue;
        };
        let key = ServiceKey {
            vip: vip.value,
            protocol: protocol.value,
            port: port.value,
        };
        if let Some(first) = seen.insert(key, &vip.span) {
            sink.push(
                Diagnostic::error(vip.span.clone(), format!("{key} is declared twice"))
                    .label("a packet to it could not choose")
                    .related(first.clone(), "first here")
                    .help("move the backends into one [[service]], or choose another VIP, protocol or port"),
            );
        }
    }
}

fn vips_as_backends(services: &[Service], sink: &Sink) {
    let vips: HashMap<IpAddr, &Span> = services
        .iter()
        .rev()
        .filter_map(|s| s.vip.as_ref())
        .map(|vip| (vip.value, &vip.span))
        .collect();
    for address in services
        .iter()
        .flat_map(|s| &s.backends)
        .filter_map(|b| b.address.as_ref())
    {
        if let Some(vip) = vips.get(&address.value) {
            sink.push(
                Diagnostic::error(
                    address.span.clone(),
                    format!("backend {} is a VIP", address.value),
                )
                .label("packets to it would come back to the load balancer")
                .related((*vip).clone(), "the VIP")
                .help("write the server's own address, also in `l2-dsr`"),
            );
        }
    }
}

/// See the module documentation of the tables in `docs/architecture.md`: a reply is matched by its source alone.
fn replies(services: &[Service], sink: &Sink) {
    let mut seen: HashMap<(BackendKey, Protocol), (usize, &Span)> = HashMap::new();
    for (index, service) in services.iter().enumerate() {
        let (Some(mode), Some(protocol), Some(port)) =
            (&service.mode, &service.protocol, &service.port)
        else {
            continue;
        };
        if !mode.value.matches_replies() {
            continue;
        }
        for backend in &service.backends {
            let Some(address) = &backend.address else {
                continue;
            };
            let key = BackendKey {
                address: address.value,
                port: backend.port.as_ref().unwrap_or(port).value,
            };
            // Twice within one service is reported there.
            match seen.insert((key, protocol.value), (index, &address.span)) {
                Some((first_service, first)) if first_service != index => sink.push(
                    Diagnostic::error(
                        address.span.clone(),
                        format!(
                            "backend {key} serves two `nat` services over {}",
                            protocol.value
                        ),
                    )
                    .label("its replies could be either's")
                    .related(first.clone(), "first here")
                    .help("let the server listen on a second port or address for one of them"),
                ),
                _ => {}
            }
        }
    }
}
