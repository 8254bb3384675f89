//! What a service says of its flows: tracking, what becomes of those whose backend goes, timeouts.

use crate::{
    config::{
        diagnostic::{Diagnostic, Sink},
        file,
        reader::At,
        words::ModeWord,
    },
    model::{DrainPolicy, OnBackendDown, OnDrainEnd, Protocol, Timeouts, Tracking},
};

/// The part of a [`Service`](crate::model::Service) that is about flows.
pub(super) struct Flows {
    pub tracking: Tracking,
    pub on_backend_down: OnBackendDown,
    pub drain: DrainPolicy,
    pub timeouts: Timeouts,
    pub max_new_flows_per_second: Option<u32>,
}

/// `defaults`: the timeouts of services that do not say.
pub(super) fn check(
    service: &file::Service,
    defaults: Option<Timeouts>,
    sink: &Sink,
) -> Option<Flows> {
    let snat = service
        .mode_word
        .as_ref()
        .is_some_and(|mode| mode.value == ModeWord::Snat);
    limit(service, snat, sink);
    if let Some(tracking) = service.tracking.as_ref().filter(|_| snat) {
        sink.push(
            Diagnostic::error(tracking.span.clone(), "`snat` records every connection")
                .label("remove it"),
        );
    }
    if let Some(on_down) = &service.on_backend_down
        && on_down.value == OnBackendDown::Reset
    {
        no_reset(on_down, "on_backend_down", service, sink);
    }
    let at_end = match &service.on_drain_end {
        Some(written) if written.value == OnDrainEnd::Reset => {
            no_reset(written, "on_drain_end", service, sink);
            OnDrainEnd::Reset
        }
        _ => OnDrainEnd::Rehash,
    };
    let timeouts = match &service.timeouts {
        Some(written) => {
            own_timeouts(written, service, snat, sink);
            overridden(written, defaults?)
        }
        None => defaults?,
    };
    Some(Flows {
        tracking: match &service.tracking {
            Some(written) => written.value,
            None if snat => Tracking::Full,
            None => Tracking::Adaptive,
        },
        on_backend_down: service.on_backend_down.as_ref()?.value,
        drain: DrainPolicy {
            deadline_s: service.drain_s.as_ref().map(|at| at.value),
            at_end,
        },
        timeouts,
        max_new_flows_per_second: service.max_new_flows_per_second.as_ref().map(|at| at.value),
    })
}

/// Every one of them; they have defaults.
pub(super) fn timeouts(written: &file::Timeouts) -> Option<Timeouts> {
    let value = |at: &Option<At<u32>>| at.as_ref().map(|at| at.value);
    Some(Timeouts {
        half_open_s: value(&written.half_open_s)?,
        established_s: value(&written.established_s)?,
        closing_s: value(&written.closing_s)?,
        closed_s: value(&written.closed_s)?,
        reset_s: value(&written.reset_s)?,
        udp_s: value(&written.udp_s)?,
    })
}

fn overridden(written: &file::Timeouts, defaults: Timeouts) -> Timeouts {
    let value = |at: &Option<At<u32>>, default| at.as_ref().map_or(default, |at| at.value);
    Timeouts {
        half_open_s: value(&written.half_open_s, defaults.half_open_s),
        established_s: value(&written.established_s, defaults.established_s),
        closing_s: value(&written.closing_s, defaults.closing_s),
        closed_s: value(&written.closed_s, defaults.closed_s),
        reset_s: value(&written.reset_s, defaults.reset_s),
        udp_s: value(&written.udp_s, defaults.udp_s),
    }
}

/// What is written for the other protocol says nothing, and a port that is used again too soon meets a server that still knows it.
fn own_timeouts(written: &file::Timeouts, service: &file::Service, snat: bool, sink: &Sink) {
    let udp = is_udp(service);
    let of_tcp = [
        &written.half_open_s,
        &written.established_s,
        &written.closing_s,
        &written.closed_s,
        &written.reset_s,
    ];
    let unused = if udp {
        of_tcp.into_iter().flatten().next()
    } else {
        written.udp_s.as_ref()
    };
    if let Some(at) = unused {
        sink.push(
            Diagnostic::warning(
                at.span.clone(),
                "a timeout of another protocol than the service's",
            )
            .label("it says nothing: remove it"),
        );
    }
    const TIME_WAIT_S: u32 = 60;
    if let Some(at) = written
        .closed_s
        .as_ref()
        .filter(|at| snat && at.value <= TIME_WAIT_S)
    {
        sink.push(
            Diagnostic::warning(at.span.clone(), "ports are used again during TIME_WAIT")
                .label(format!(
                    "backends remember a port for {TIME_WAIT_S} seconds"
                ))
                .help("write 61 or more, unless the backends' TIME_WAIT is shorter"),
        );
    }
}

fn limit(service: &file::Service, snat: bool, sink: &Sink) {
    let full = service
        .tracking
        .as_ref()
        .is_some_and(|tracking| tracking.value == Tracking::Full);
    let Some(limit) = &service.max_new_flows_per_second else {
        return;
    };
    if full {
        return;
    }
    let diagnostic = if snat {
        Diagnostic::error(
            limit.span.clone(),
            "`snat` cannot forward a connection without a record",
        )
        .label("remove it")
    } else {
        Diagnostic::error(
            limit.span.clone(),
            "`max_new_flows_per_second` without tracking = \"full\"",
        )
        .label("remove it")
        .help("adaptive tracking records no flows while backends do not change")
    };
    sink.push(diagnostic);
}

fn no_reset<T>(written: &At<T>, key: &str, service: &file::Service, sink: &Sink) {
    let Some(protocol) = service.protocol.as_ref().filter(|_| is_udp(service)) else {
        return;
    };
    let diagnostic = Diagnostic::error(
        written.span.clone(),
        format!("`{key}` is \"reset\", which UDP has not"),
    )
    .label("write \"rehash\", or remove it");
    let is_written = protocol.span.end > protocol.span.start;
    sink.push(if is_written {
        diagnostic.related(protocol.span.clone(), "the protocol")
    } else {
        diagnostic
    });
}

fn is_udp(service: &file::Service) -> bool {
    service
        .protocol
        .as_ref()
        .is_some_and(|protocol| protocol.value == Protocol::Udp)
}
