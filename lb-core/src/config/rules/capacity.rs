//! Whether everything fits the tables that the kernel is asked for.

use crate::{
    config::{
        diagnostic::{Diagnostic, Sink, Span},
        file::File,
        reader::At,
    },
    model::{Capacity, DEFAULT_SNAT_FLOWS, FlowCapacity, FlowTables, Mode},
};

/// Points at the first service that does not fit.
pub(super) fn check(file: &File, slots_default: Option<u32>, sink: &Sink) -> Option<Capacity> {
    let limits = &file.dataplane;
    let services = &file.services;
    let one_each = services.iter().map(|service| (1, service.header.clone()));
    exceeded(
        "max_services",
        "services",
        limits.max_services.as_ref(),
        one_each,
        sink,
    );
    let backends = services
        .iter()
        .map(|service| (service.backends.len() as u64, service.header.clone()));
    exceeded(
        "max_backends",
        "backends",
        limits.max_backends.as_ref(),
        backends,
        sink,
    );
    let slots = services.iter().map(|service| {
        let slots = service
            .slots
            .as_ref()
            .map(|slots| slots.value)
            .or(slots_default);
        (u64::from(slots.unwrap_or_default()), service.header.clone())
    });
    exceeded("max_slots", "slots", limits.max_slots.as_ref(), slots, sink);

    Some(Capacity {
        max_services: limits.max_services.as_ref()?.value,
        max_backends: limits.max_backends.as_ref()?.value,
        max_slots: limits.max_slots.as_ref()?.value,
    })
}

/// Sizes of the tables of flows. Connections of `snat` have one where there is such a service.
pub(super) fn flows(file: &File) -> Option<FlowCapacity> {
    let limits = &file.dataplane;
    let snat = limits
        .max_snat_flows
        .as_ref()
        .map_or(DEFAULT_SNAT_FLOWS, |limit| limit.value);
    let (flows, half_open) = (
        limits.max_flows.as_ref()?.value,
        limits.max_half_open.as_ref()?.value,
    );
    let family = |ipv4: bool| {
        let needed = file.services.iter().any(|service| {
            service
                .mode
                .as_ref()
                .is_some_and(|mode| mode.value == Mode::Snat)
                && service
                    .vip
                    .as_ref()
                    .is_some_and(|vip| vip.value.is_ipv4() == ipv4)
        });
        FlowTables::new(flows, half_open, if needed { snat } else { 0 })
    };
    Some(FlowCapacity {
        ipv4: family(true),
        ipv6: family(false),
    })
}

fn exceeded(
    key: &str,
    what: &str,
    limit: Option<&At<u32>>,
    amounts: impl Iterator<Item = (u64, Span)> + Clone,
    sink: &Sink,
) {
    let Some(limit) = limit else { return };
    let total: u64 = amounts.clone().map(|(amount, _)| amount).sum();
    let mut sum = 0;
    let first_beyond = amounts.into_iter().find(|(amount, _)| {
        sum += amount;
        sum > u64::from(limit.value)
    });
    if let Some((_, span)) = first_beyond {
        let diagnostic = Diagnostic::error(
            span,
            format!(
                "the services have {total} {what}, and `{key}` is {}",
                limit.value
            ),
        )
        .label("the first that does not fit")
        .help(format!("write at least {key} = {total} in [dataplane]"));
        // A limit that was not written stands at the section's header, or nowhere.
        let written = limit.span.end > limit.span.start;
        sink.push(if written {
            diagnostic.related(limit.span.clone(), "the limit")
        } else {
            diagnostic
        });
    }
}
