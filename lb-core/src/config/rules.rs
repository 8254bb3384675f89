//! What must hold among the keys: a file in, a [`Model`] out, every contradiction reported.

mod among;
mod capacity;
mod dscp;
mod flows;
mod prime;
mod service;
mod snat;
mod tunnel;
mod virtual_router;

use std::collections::BTreeMap;

use super::{
    diagnostic::{Diagnostic, Sink},
    file::{self, File},
    reader::At,
};
use crate::model::{Dataplane, Mode, Model, Node, NodeName, Service, XdpMode};

pub use self::prime::next_prime;

/// `None` if anything was reported as an error, here or by the reader.
pub(super) fn check(file: File, sink: &Sink) -> Option<Model> {
    let nodes = nodes(&file.nodes, file.dataplane.xdp.as_ref(), sink);
    let slots_default = file
        .dataplane
        .slots
        .as_ref()
        .and_then(|slots| prime::check(slots, sink));
    let capacity = capacity::check(&file, slots_default, sink);
    let flow_capacity = capacity::flows(&file);
    let timeouts = flows::timeouts(&file.dataplane.timeouts);
    among::check(&file.services, sink);
    let virtual_routers = virtual_router::check(&file, sink);
    let pools = snat::check(&file, virtual_routers.as_deref(), sink);
    let pair = virtual_router::pair(file.pair.as_ref(), sink);
    let mut unmatched = among::of_vips(&file.services, "unmatched", |s| s.unmatched.as_ref(), sink);
    virtual_router::accept(&file, virtual_routers.as_deref(), &mut unmatched, sink);
    let echo = among::of_vips(&file.services, "echo", |s| s.echo.as_ref(), sink);
    let sole = among::sole(&file.services, sink);
    let dscp = dscp::codes_of(&file.services, sink);
    let services: Vec<_> = file
        .services
        .into_iter()
        .map(|service| {
            let service = service::check(service, slots_default, timeouts, sink)?;
            Some(Service {
                sole: sole.contains(&(service.vip, service.protocol)),
                dscp: match service.mode {
                    Mode::Dscp => *dscp.get(&service.vip)?,
                    _ => 0,
                },
                unmatched: unmatched.get(&service.vip).copied().unwrap_or_default(),
                echo: echo.get(&service.vip).copied().unwrap_or_default(),
                ..service
            })
        })
        .collect();

    let snat_pools = pools?;
    let mut virtual_routers = virtual_routers?;
    snat::give(&snat_pools, &mut virtual_routers);
    Some(Model {
        services: services.into_iter().collect::<Option<_>>()?,
        nodes: nodes?,
        virtual_routers,
        pair,
        snat_pools,
        dataplane: Dataplane {
            hash_seed: file.dataplane.hash_seed?.value,
            capacity: capacity?,
            flows: flow_capacity?,
        },
    })
}

fn nodes(
    nodes: &[file::Node],
    xdp: Option<&At<XdpMode>>,
    sink: &Sink,
) -> Option<BTreeMap<NodeName, Node>> {
    let nodes: Vec<_> = nodes
        .iter()
        .map(|written| Some((written.name.clone()?, node(written, xdp, sink)?)))
        .collect();
    nodes.into_iter().collect()
}

fn node(written: &file::Node, xdp: Option<&At<XdpMode>>, sink: &Sink) -> Option<Node> {
    if let Some(name) = &written.vip_interface {
        check_interface_name(name, sink);
    }
    let list = written.interfaces.as_ref()?;
    let mut interfaces: Vec<String> = Vec::new();
    for (index, name) in list.value.iter().enumerate() {
        check_interface_name(name, sink);
        if let Some(first) = list
            .value
            .iter()
            .take(index)
            .find(|first| first.value == name.value)
        {
            sink.push(
                Diagnostic::error(
                    name.span.clone(),
                    format!("interface `{}` is listed twice", name.value),
                )
                .label("remove it")
                .related(first.span.clone(), "first here"),
            );
        }
        interfaces.push(name.value.clone());
    }
    let Some(first) = interfaces.first() else {
        sink.push(
            Diagnostic::error(list.span.clone(), "the node has no interface")
                .label("name at least one")
                .help("interfaces = [\"eth0\"]; `ip -br link` lists what the host has"),
        );
        return None;
    };
    let echo = written.echo_interfaces.as_ref();
    let echo_interfaces: Vec<String> = echo.map_or_else(Vec::new, |echo| {
        for name in echo
            .value
            .iter()
            .filter(|name| !interfaces.contains(&name.value))
        {
            sink.push(
                Diagnostic::error(
                    name.span.clone(),
                    format!("`{}` is not among the node's `interfaces`", name.value),
                )
                .label("the XDP program answers the echo, so it must be attached there")
                .related(list.span.clone(), "add it here"),
            );
        }
        echo.value.iter().map(|name| name.value.clone()).collect()
    });
    Some(Node {
        echo_interfaces,
        vip_interface: written
            .vip_interface
            .as_ref()
            .map_or_else(|| first.clone(), |name| name.value.clone()),
        xdp: written.xdp.as_ref().or(xdp)?.value,
        tunnel_sources: tunnel::sources(written, sink),
        interfaces,
    })
}

/// As the kernel's `dev_valid_name`: 1 to 15 bytes, no slash, colon or blank, not `.` or `..`.
fn check_interface_name(name: &At<String>, sink: &Sink) {
    let text = &name.value;
    let valid = (1..=15).contains(&text.len())
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
        && text != "."
        && text != "..";
    if !valid {
        sink.push(
            Diagnostic::error(
                name.span.clone(),
                format!("{text:?} cannot be the name of a network interface"),
            )
            .label("1 to 15 bytes, without `/`, `:` or blanks")
            .help("`ip -br link` lists the interfaces of the host"),
        );
    }
}
