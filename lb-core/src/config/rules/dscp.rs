//! The codes of `encap = "dscp"`: on every backend, each stands for one VIP.

use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::among;
use crate::{
    config::{
        diagnostic::{Diagnostic, Sink},
        file::Service,
    },
    model::Mode,
};

/// All codes, those first that no RFC gives a meaning: what a network does with the others may be more than carry them.
/// RFC 2474 §6: the odd ones are for local use, but for lower effort (1, RFC 8622) and NQB (45).
fn codes() -> impl Iterator<Item = u8> {
    let local = |code: &u8| code % 2 == 1 && ![1, 45].contains(code);
    (1..64)
        .filter(local)
        .chain((1..64).filter(move |code| !local(code)))
}

/// The code of each VIP: the one that is written, else the first that no other VIP has on any of its backends.
///
/// VIPs are served in the order of the file, so that one that is added at its end changes no other's.
pub(super) fn codes_of(services: &[Service], sink: &Sink) -> BTreeMap<IpAddr, u8> {
    let written = among::of_vips(services, "dscp", |service| service.dscp.as_ref(), sink);
    let coded: Vec<&Service> = services
        .iter()
        .filter(|service| {
            service
                .mode
                .as_ref()
                .is_some_and(|mode| mode.value == Mode::Dscp)
        })
        .collect();
    refuse_elsewhere(services, sink);

    let mut backends: HashMap<IpAddr, HashSet<IpAddr>> = HashMap::new();
    let mut order: Vec<(IpAddr, &Service)> = Vec::new();
    for service in &coded {
        let Some(vip) = &service.vip else { continue };
        if !backends.contains_key(&vip.value) {
            order.push((vip.value, service));
        }
        let addresses = service.backends.iter().filter_map(|b| b.address.as_ref());
        let known = backends.entry(vip.value).or_default();
        known.extend(addresses.map(|address| address.value));
    }
    let share = |one: &IpAddr, other: &IpAddr| match (backends.get(one), backends.get(other)) {
        (Some(one), Some(other)) => !one.is_disjoint(other),
        _ => false,
    };

    let mut given: BTreeMap<IpAddr, u8> = BTreeMap::new();
    // What is written comes first; what is not makes room.
    let (fixed, free): (Vec<_>, Vec<_>) = order
        .into_iter()
        .partition(|(vip, _)| written.contains_key(vip));
    for (vip, service) in fixed {
        let Some(&code) = written.get(&vip) else {
            continue;
        };
        let other = given
            .iter()
            .find(|(other, taken)| **taken == code && share(&vip, other));
        if let Some((other, _)) = other {
            let span = service.dscp.as_ref().map_or(&service.header, |at| &at.span);
            sink.push(
                Diagnostic::error(
                    span.clone(),
                    format!("{vip} and {other} share a backend and have the code {code}"),
                )
                .label("a packet with it could be for either")
                .help("remove `dscp` from both, and they get different codes"),
            );
        }
        given.insert(vip, code);
    }
    for (vip, service) in free {
        let taken: HashSet<u8> = given
            .iter()
            .filter(|(other, _)| share(&vip, other))
            .map(|(_, code)| *code)
            .collect();
        match codes().find(|code| !taken.contains(code)) {
            Some(code) => {
                given.insert(vip, code);
            }
            None => sink.push(
                Diagnostic::error(
                    service.header.clone(),
                    format!("no DSCP is left for {vip}: its backends serve 63 other VIPs"),
                )
                .label("there are 63 codes for the VIPs of a backend")
                .help("give some VIPs backends of their own, or choose a tunnel as `encap`"),
            ),
        }
    }
    given
}

fn refuse_elsewhere(services: &[Service], sink: &Sink) {
    for service in services {
        let (Some(code), Some(mode)) = (&service.dscp, &service.mode) else {
            continue;
        };
        if mode.value != Mode::Dscp {
            sink.push(
                Diagnostic::error(
                    code.span.clone(),
                    "`dscp` belongs to `encap = \"dscp\"` alone",
                )
                .label("remove it")
                .related(mode.span.clone(), "the mode"),
            );
        }
    }
}
