//! One service: its backends and its check must fit its address, its mode and its table.

use core::time::Duration;
use std::collections::HashMap;

use super::{flows, prime};
use crate::{
    config::{
        diagnostic::{Diagnostic, Sink},
        file,
        reader::At,
        schema::check::TIMEOUT_MS_DEFAULT,
        words::{CheckType, ModeWord},
    },
    model::{
        Backend, BackendKey, Check, CheckKind, Fragments, HashPolicy, MAX_BACKENDS_PER_SERVICE,
        MAX_SLOTS_PER_SERVICE, Mode, Protocol, Service, SnatPoolName, Timeouts,
    },
};

pub(super) fn check(
    written: file::Service,
    slots_default: Option<u32>,
    timeouts: Option<Timeouts>,
    sink: &Sink,
) -> Option<Service> {
    let slots = match &written.slots {
        Some(slots) => prime::check(slots, sink),
        None => slots_default,
    };
    encap(&written, sink);
    families(&written, sink);
    packets(&written, sink);
    ports(&written, sink);
    duplicates(&written, sink);
    table_size(&written, slots, sink);
    unserved(&written, sink);
    let flows = flows::check(&written, timeouts, sink);
    let snat_pool = match &written.snat_pool {
        // That there is one of this name is seen elsewhere.
        Some(name) => Some(SnatPoolName::new(name.value.clone()).ok()?),
        None => None,
    };
    let check = match &written.check {
        Some(check) => Some(health_check(check, &written, sink)?),
        None => None,
    };

    let flows = flows?;
    let port = written.port.as_ref()?.value;
    let backends: Option<Vec<_>> = written
        .backends
        .into_iter()
        .map(|b| backend(b, port))
        .collect();
    Some(Service {
        name: written.name?.value,
        vip: written.vip?.value,
        protocol: written.protocol?.value,
        port,
        mode: written.mode?.value,
        hash: written.hash?.value,
        slots: slots?,
        backends: backends?,
        check,
        gue_port: written.gue_port?.value,
        // Given out when all are known.
        dscp: 0,
        sole: false,
        fragments: written.fragments?.value,
        mss_clamp: written.mss_clamp.map(|at| at.value),
        // What other services of the VIP say comes in when all are known.
        unmatched: written
            .unmatched
            .map_or_else(Default::default, |at| at.value),
        echo: written.echo.map_or_else(Default::default, |at| at.value),
        tracking: flows.tracking,
        on_backend_down: flows.on_backend_down,
        drain: flows.drain,
        timeouts: flows.timeouts,
        max_new_flows_per_second: flows.max_new_flows_per_second,
        snat_pool,
    })
}

/// `encap` belongs to `l3-dsr`, and the other way round.
fn encap(service: &file::Service, sink: &Sink) {
    let Some(mode) = &service.mode_word else {
        return;
    };
    match (&service.encap, mode.value == ModeWord::L3Dsr) {
        (None, true) if !service.has_encap => sink.push(
            Diagnostic::error(mode.span.clone(), "`l3-dsr` says not how")
                .label("add `encap`")
                .help("encap = \"ipip\", \"gre\", \"gue\" or \"dscp\""),
        ),
        (Some(encap), false) => sink.push(
            Diagnostic::error(encap.span.clone(), "`encap` belongs to `l3-dsr` alone")
                .label("remove it")
                .related(mode.span.clone(), "the mode"),
        ),
        _ => {}
    }
}

fn backend(written: file::Backend, service_port: u16) -> Option<Backend> {
    Some(Backend {
        name: written.name.map(|name| name.value),
        address: written.address?.value,
        port: written.port.map_or(service_port, |port| port.value),
        weight: written.weight?.value,
        drain: written.drain?.value,
    })
}

/// What asks for a protocol, or for a mode.
fn packets(service: &file::Service, sink: &Sink) {
    let (Some(protocol), Some(mode), Some(port)) =
        (&service.protocol, &service.mode, &service.port)
    else {
        return;
    };
    if let Some(hash) = &service.hash
        && hash.value == HashPolicy::PerPacket
        && protocol.value != Protocol::Udp
    {
        sink.push(
            Diagnostic::error(hash.span.clone(), "`per-packet` is for UDP alone")
                .label("packets of a connection would reach servers that do not know it")
                .related(
                    protocol.span.clone(),
                    format!("the protocol is {}", protocol.value),
                ),
        );
    }
    if let Some(clamp) = &service.mss_clamp
        && protocol.value != Protocol::Tcp
    {
        sink.push(
            Diagnostic::error(clamp.span.clone(), "`mss_clamp` is for TCP alone")
                .label("remove it"),
        );
    }
    if let Some(fragments) = &service.fragments
        && fragments.value == Fragments::L3
        && mode.value.translates_port()
    {
        sink.push(
            Diagnostic::error(
                fragments.span.clone(),
                "fragments cannot be translated without their ports",
            )
            .label("write \"track\" or \"drop\"")
            .related(mode.span.clone(), "the mode"),
        );
    }
    if protocol.value != Protocol::Sctp {
        return;
    }
    if mode.value == Mode::Snat {
        sink.push(
            Diagnostic::error(protocol.span.clone(), "`snat` cannot carry SCTP")
                .label("its checksum covers the ports, which `snat` changes")
                .related(mode.span.clone(), "the mode")
                .help("mode = \"nat\" leaves the ports, the DSR modes leave everything"),
        );
    }
    for own in service.backends.iter().filter_map(|b| b.port.as_ref()) {
        if own.value != port.value && mode.value.translates_port() {
            sink.push(
                Diagnostic::error(own.span.clone(), "a port of SCTP cannot be translated")
                    .label(format!("remove it, or write {}", port.value))
                    .related(protocol.span.clone(), "its checksum covers the ports")
                    .help("let the server listen on the service's port"),
            );
        }
    }
}

fn families(service: &file::Service, sink: &Sink) {
    let Some(vip) = &service.vip else { return };
    if service
        .mode
        .as_ref()
        .is_none_or(|mode| mode.value.is_tunnel())
    {
        return;
    }
    let family = |ipv4| if ipv4 { "IPv4" } else { "IPv6" };
    for address in service.backends.iter().filter_map(|b| b.address.as_ref()) {
        if address.value.is_ipv4() != vip.value.is_ipv4() {
            let (wanted, found) = (family(vip.value.is_ipv4()), family(address.value.is_ipv4()));
            sink.push(
                Diagnostic::error(
                    address.span.clone(),
                    format!(
                        "backend {} is {found} behind an {wanted} VIP",
                        address.value
                    ),
                )
                .label(format!("write its {wanted} address"))
                .related(vip.span.clone(), format!("the VIP is {wanted}"))
                .help(format!(
                    "or serve {found} clients by a [[service]] with an {found} VIP"
                )),
            );
        }
    }
}

fn ports(service: &file::Service, sink: &Sink) {
    let (Some(mode), Some(port)) = (&service.mode, &service.port) else {
        return;
    };
    if mode.value.translates_port() {
        return;
    }
    for own in service.backends.iter().filter_map(|b| b.port.as_ref()) {
        if own.value != port.value {
            sink.push(
                Diagnostic::error(
                    own.span.clone(),
                    format!(
                        "the backend's port is {}, the service's {}",
                        own.value, port.value
                    ),
                )
                .label(format!("remove it, or write {}", port.value))
                .related(
                    mode.span.clone(),
                    "this mode delivers packets with the port they came with",
                )
                .help("let the server listen on the service's port, or choose mode = \"nat\""),
            );
        }
    }
}

fn duplicates(service: &file::Service, sink: &Sink) {
    let Some(service_port) = &service.port else {
        return;
    };
    let mut seen: HashMap<BackendKey, &At<_>> = HashMap::new();
    for backend in &service.backends {
        let Some(address) = &backend.address else {
            continue;
        };
        let port = backend.port.as_ref().unwrap_or(service_port).value;
        let key = BackendKey {
            address: address.value,
            port,
        };
        if let Some(first) = seen.insert(key, address) {
            sink.push(
                Diagnostic::error(
                    address.span.clone(),
                    format!("backend {key} is in the service twice"),
                )
                .label("remove one")
                .related(first.span.clone(), "first here")
                .help("a larger share is a larger `weight`"),
            );
        }
    }
}

fn table_size(service: &file::Service, slots: Option<u32>, sink: &Sink) {
    let Some(slots) = slots else { return };
    let count = service.backends.len();
    let limit = MAX_BACKENDS_PER_SERVICE.min(slots as usize);
    // At the key that was written, else at the service.
    let span = service
        .slots
        .as_ref()
        .map_or(&service.header, |slots| &slots.span)
        .clone();
    let wanted = u32::try_from(count)
        .ok()
        .and_then(|count| prime::next_prime(count.checked_mul(100)?))
        .filter(|prime| *prime <= MAX_SLOTS_PER_SERVICE);
    let help = wanted.map(|prime| format!("slots = {prime} is 100 for each backend"));
    let diagnostic = if count > limit {
        Diagnostic::error(
            span,
            format!("the service has {count} backends and room for {limit}"),
        )
    } else if slots < u32::try_from(count).unwrap_or(u32::MAX).saturating_mul(100) {
        Diagnostic::warning(span, format!("{slots} slots are few for {count} backends")).label(
            "shares will differ from the weights, and changes move more flows than they must",
        )
    } else {
        return;
    };
    sink.push(match help {
        Some(help) => diagnostic.help(help),
        _ => diagnostic,
    });
}

fn unserved(service: &file::Service, sink: &Sink) {
    let warning = |message: &str| Diagnostic::warning(service.header.clone(), message);
    if service.backends.is_empty() {
        sink.push(
            warning("the service has no backend")
                .label("its packets are dropped")
                .help("add: [[service.backend]]"),
        );
    } else if service
        .backends
        .iter()
        .all(|b| b.weight.as_ref().is_some_and(|w| w.value == 0) || drains(b))
    {
        sink.push(
            warning("every backend of the service has weight 0 or is drained")
                .label("new connections are dropped"),
        );
    } else if service.check.is_none() {
        sink.push(
            warning("the service has no check")
                .label("a dead backend keeps its share of the clients")
                .help("add: [service.check] with type = \"tcp\""),
        );
    }
}

fn drains(backend: &file::Backend) -> bool {
    backend.drain.as_ref().is_some_and(|drain| drain.value)
}

fn health_check(written: &file::Check, service: &file::Service, sink: &Sink) -> Option<Check> {
    check_times(written, sink);
    let kind = match written.kind.as_ref()?.value {
        CheckType::Tcp => {
            warn_of_tcp_for_udp(written, service, sink);
            CheckKind::Tcp
        }
    };
    let interval_ms = written.interval_ms.as_ref()?.value;
    // Not given, or refused: then no model comes of it.
    let timeout_ms = written
        .timeout_ms
        .as_ref()
        .map_or(interval_ms.min(TIMEOUT_MS_DEFAULT), |timeout| timeout.value);
    Some(Check {
        kind,
        interval: Duration::from_millis(interval_ms.into()),
        timeout: Duration::from_millis(timeout_ms.into()),
        rise: written.rise.as_ref()?.value,
        fall: written.fall.as_ref()?.value,
        port: written.port.as_ref().map(|port| port.value),
    })
}

fn check_times(written: &file::Check, sink: &Sink) {
    let (Some(interval), Some(timeout)) = (&written.interval_ms, &written.timeout_ms) else {
        return;
    };
    if timeout.value > interval.value {
        sink.push(
            Diagnostic::error(
                timeout.span.clone(),
                format!(
                    "`timeout_ms` is {}, longer than the interval",
                    timeout.value
                ),
            )
            .label(format!("at most {}", interval.value))
            .related(
                interval.span.clone(),
                format!("`interval_ms` is {}", interval.value),
            )
            .help("there is one probe at a time: one ends before the next begins"),
        );
    }
}

fn warn_of_tcp_for_udp(written: &file::Check, service: &file::Service, sink: &Sink) {
    let udp = service
        .protocol
        .as_ref()
        .is_some_and(|protocol| protocol.value != Protocol::Tcp);
    if let Some(kind) = written
        .kind
        .as_ref()
        .filter(|_| udp && written.port.is_none())
    {
        sink.push(
            Diagnostic::warning(
                kind.span.clone(),
                format!(
                    "a TCP check for {} service",
                    match service.protocol.as_ref().map(|protocol| protocol.value) {
                        Some(Protocol::Sctp) => "an SCTP",
                        _ => "a UDP",
                    }
                ),
            )
            .label("healthy only if the server also accepts TCP on this port")
            .help("write the port that it accepts TCP on, as `port` of the check"),
        );
    }
}
