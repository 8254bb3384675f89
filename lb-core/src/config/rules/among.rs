//! What services must not share: names, what they are found by, and backends whose replies could be either's.

use core::net::IpAddr;
use std::collections::{HashMap, HashSet};

use crate::{
    config::{
        diagnostic::{Diagnostic, Sink, Span},
        file::Service,
        reader::At,
    },
    model::{BackendKey, Fragments, Protocol, ServiceKey},
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

/// VIPs and protocols with a single service. Fragments that go without ports need theirs to be one.
pub(super) fn sole(services: &[Service], sink: &Sink) -> HashSet<(IpAddr, Protocol)> {
    let of = |service: &Service| {
        Some((
            service.vip.as_ref()?.value,
            service.protocol.as_ref()?.value,
        ))
    };
    let mut counts: HashMap<(IpAddr, Protocol), usize> = HashMap::new();
    for key in services.iter().filter_map(of) {
        *counts.entry(key).or_default() += 1;
    }
    for service in services {
        let (Some(fragments), Some(key)) = (&service.fragments, of(service)) else {
            continue;
        };
        if fragments.value == Fragments::L3 && counts.get(&key).is_some_and(|count| *count > 1) {
            sink.push(
                Diagnostic::error(
                    fragments.span.clone(),
                    format!("{} has several services over {}", key.0, key.1),
                )
                .label("a fragment without ports could be for any of them")
                .help("write \"track\", or give the service a VIP of its own"),
            );
        }
    }
    let single = counts.into_iter().filter(|(_, count)| *count == 1);
    single.map(|(key, _)| key).collect()
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

/// A reply is matched by its source alone; see `docs/consistency.md`.
fn replies(services: &[Service], sink: &Sink) {
    let mut users: HashMap<(BackendKey, Protocol), Vec<(&Service, &Span)>> = HashMap::new();
    // In the order of the file, which a map has not.
    let mut order = Vec::new();
    for service in services {
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
            let users = users.entry((key, protocol.value)).or_insert_with(|| {
                order.push((key, protocol.value));
                Vec::new()
            });
            // Twice within one service is reported there.
            if users.iter().all(|(user, _)| !core::ptr::eq(*user, service)) {
                users.push((service, &address.span));
            }
        }
    }
    for id in order {
        if let Some(users) = users.get(&id).filter(|users| users.len() > 1) {
            ambiguous(id, users, sink);
        }
    }
}

fn ambiguous((key, protocol): (BackendKey, Protocol), users: &[(&Service, &Span)], sink: &Sink) {
    let Some(((_, first), others)) = users.split_first() else {
        return;
    };
    for (_, span) in others {
        sink.push(
            Diagnostic::error(
                (*span).clone(),
                format!("backend {key} serves two `nat` services over {protocol}"),
            )
            .label("its replies could be either's")
            .related((*first).clone(), "first here")
            .help("let the server listen on a second port or address for one of them"),
        );
    }
}
