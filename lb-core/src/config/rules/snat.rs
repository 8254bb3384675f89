//! Pools that `snat` sends from, and whether each service has one that fits.

use core::net::IpAddr;
use std::collections::HashMap;

use crate::{
    config::{
        diagnostic::{Diagnostic, Sink, Span},
        file::{self, File},
        suggest::nearest,
        words::ModeWord,
    },
    model::{SnatPool, VirtualRouter},
    vrrp::Family,
};

const MAX_ADDRESSES: usize = 64;

/// `routers` is `None` if something was reported of them. `None` if something was reported here.
pub(super) fn check(
    file: &File,
    routers: Option<&[VirtualRouter]>,
    sink: &Sink,
) -> Option<Vec<SnatPool>> {
    services(file, sink);
    names(&file.snat_pools, sink);
    addresses(file, sink);
    nodes(file, sink);
    let pools: Vec<_> = file
        .snat_pools
        .iter()
        .map(|written| pool(written, file, routers, sink))
        .collect();
    pools.into_iter().collect()
}

/// Has the virtual routers hold the pools' addresses.
pub(super) fn give(pools: &[SnatPool], routers: &mut [VirtualRouter]) {
    for pool in pools {
        let family = family(pool.is_ipv4());
        let holder = routers
            .iter_mut()
            .find(|router| pool.virtual_router == Some(router.id) && router.family() == family);
        if let Some(router) = holder {
            for address in &pool.addresses {
                if !router.vips.contains(address) {
                    router.vips.push(*address);
                }
            }
        }
    }
}

fn pool(
    written: &file::SnatPool,
    file: &File,
    routers: Option<&[VirtualRouter]>,
    sink: &Sink,
) -> Option<SnatPool> {
    let (first_port, last_port) = (written.first_port.as_ref()?, written.last_port.as_ref()?);
    if first_port.value >= last_port.value {
        sink.push(
            Diagnostic::error(
                last_port.span.clone(),
                format!(
                    "the ports {} to {} cannot be shared by two nodes",
                    first_port.value, last_port.value
                ),
            )
            .label("`last_port` must be greater than `first_port`"),
        );
    }
    let addresses = family_of_pool(written, sink)?;
    let unused = written.name.as_ref().filter(|name| {
        let named = |service: &file::Service| {
            let pool = service.snat_pool.as_ref();
            pool.is_some_and(|pool| pool.value == name.value.as_str())
        };
        !file.services.iter().any(named)
    });
    if let Some(name) = unused {
        sink.push(
            Diagnostic::warning(
                name.span.clone(),
                format!("no service sends from the pool `{}`", name.value),
            )
            .label("name it by `snat_pool` of a [[service]]"),
        );
    }
    let virtual_router = holder(written, &addresses, routers?, sink);
    Some(SnatPool {
        name: written.name.as_ref()?.value.clone(),
        addresses,
        first_port: first_port.value,
        last_port: last_port.value,
        virtual_router: virtual_router?,
    })
}

fn family_of_pool(written: &file::SnatPool, sink: &Sink) -> Option<Vec<IpAddr>> {
    let list = written.addresses.as_ref()?;
    let Some(first) = list.value.first() else {
        sink.push(
            Diagnostic::error(list.span.clone(), "the pool has no address")
                .label("name at least one"),
        );
        return None;
    };
    if list.value.len() > MAX_ADDRESSES {
        sink.push(
            Diagnostic::error(
                list.span.clone(),
                format!("the pool has {} addresses", list.value.len()),
            )
            .label(format!("at most {MAX_ADDRESSES}"))
            .help("spread services over several pools"),
        );
    }
    for address in &list.value {
        if address.value.is_ipv4() != first.value.is_ipv4() {
            sink.push(
                Diagnostic::error(
                    address.span.clone(),
                    "a pool of IPv4 and IPv6 addresses at once",
                )
                .label("of the other family")
                .related(first.span.clone(), "the first")
                .help("write two [[snat_pool]]"),
            );
        }
    }
    Some(list.value.iter().map(|address| address.value).collect())
}

/// Which virtual router holds the addresses; `None` if something was reported.
fn holder(
    written: &file::SnatPool,
    addresses: &[IpAddr],
    routers: &[VirtualRouter],
    sink: &Sink,
) -> Option<Option<u8>> {
    let family = family(addresses.first()?.is_ipv4());
    let candidates: Vec<_> = routers.iter().filter(|r| r.family() == family).collect();
    let naming = candidates
        .iter()
        .find(|router| addresses.iter().any(|one| router.vips.contains(one)));
    match (&written.virtual_router, naming, candidates.as_slice()) {
        (Some(id), Some(other), _) if other.id != id.value => {
            sink.push(
                Diagnostic::error(
                    id.span.clone(),
                    format!("virtual router {} has addresses of the pool", other.id),
                )
                .label(format!("write {}, or remove it", other.id)),
            );
            None
        }
        (Some(id), _, _) => {
            if let Some(router) = candidates.iter().find(|router| router.id == id.value) {
                return fits(written, addresses, router, sink);
            }
            sink.push(
                Diagnostic::error(
                    id.span.clone(),
                    format!("there is no {} virtual router {}", name(family), id.value),
                )
                .label("not the `id` of a [[virtual_router]]"),
            );
            None
        }
        (None, Some(router), _) | (None, None, [router]) => fits(written, addresses, router, sink),
        (None, None, []) => Some(None),
        (None, None, _) => {
            let ids: Vec<_> = candidates.iter().map(|r| r.id.to_string()).collect();
            sink.push(
                Diagnostic::error(
                    written.header.clone(),
                    "the pool says not which virtual router holds its addresses",
                )
                .label("add `virtual_router`")
                .help(format!("virtual_router = one of: {}", ids.join(", "))),
            );
            None
        }
    }
}

/// The router's VRID, if its adverts have room for the pool.
fn fits(
    written: &file::SnatPool,
    addresses: &[IpAddr],
    router: &VirtualRouter,
    sink: &Sink,
) -> Option<Option<u8>> {
    let most = match router.family() {
        Family::V4 => 200,
        Family::V6 => 80,
    };
    let more = addresses.iter().filter(|one| !router.vips.contains(one));
    if router.vips.len() + more.count() <= most {
        return Some(Some(router.id));
    }
    sink.push(
        Diagnostic::error(
            written.header.clone(),
            format!(
                "the addresses do not fit into the adverts of virtual router {}",
                router.id
            ),
        )
        .label(format!("at most {most} with its VIPs"))
        .help("give the pool a [[virtual_router]] of its own, with the same `sync_group`"),
    );
    None
}

fn services(file: &File, sink: &Sink) {
    for service in &file.services {
        let Some(mode) = &service.mode_word else {
            continue;
        };
        if mode.value == ModeWord::Snat {
            sink.push(
                Diagnostic::warning(mode.span.clone(), "`snat` is not in effect in this version")
                    .label("packets of the service are dropped"),
            );
        }
        match (&service.snat_pool, mode.value == ModeWord::Snat) {
            (None, true) => {
                let known = file.snat_pools.iter().find_map(|pool| pool.name.as_ref());
                sink.push(
                    Diagnostic::error(mode.span.clone(), "`snat` says not what to send from")
                        .label("add `snat_pool`")
                        .help(known.map_or_else(
                            || "add: [[snat_pool]] with name = \"servers\" and addresses = [\"10.0.0.100\"], and snat_pool = \"servers\" here".to_owned(),
                            |name| format!("snat_pool = \"{}\"", name.value),
                        )),
                );
            }
            (Some(pool), false) => sink.push(
                Diagnostic::error(pool.span.clone(), "`snat_pool` belongs to `snat` alone")
                    .label("remove it")
                    .related(mode.span.clone(), "the mode"),
            ),
            (Some(_), true) => pool_of(service, file, sink),
            (None, false) => {}
        }
    }
}

fn pool_of(service: &file::Service, file: &File, sink: &Sink) {
    let Some(wanted) = &service.snat_pool else {
        return;
    };
    let names = || {
        let pools = file.snat_pools.iter();
        pools.filter_map(|pool| Some((pool, pool.name.as_ref()?.value.as_str())))
    };
    let Some((pool, _)) = names().find(|(_, name)| *name == wanted.value) else {
        let diagnostic = Diagnostic::error(
            wanted.span.clone(),
            format!("there is no [[snat_pool]] `{}`", wanted.value),
        );
        sink.push(
            match nearest(&wanted.value, names().map(|(_, name)| name)) {
                Some(meant) => diagnostic.label(format!("did you mean \"{meant}\"?")),
                None => diagnostic.label("not known").help("add: [[snat_pool]]"),
            },
        );
        return;
    };
    let first = pool
        .addresses
        .as_ref()
        .and_then(|addresses| addresses.value.first());
    if let (Some(vip), Some(address)) = (&service.vip, first)
        && vip.value.is_ipv4() != address.value.is_ipv4()
    {
        let of = |ip: IpAddr| name(family(ip.is_ipv4()));
        sink.push(
            Diagnostic::error(
                wanted.span.clone(),
                format!(
                    "the pool `{}` is {}, the service and its backends {}",
                    wanted.value,
                    of(address.value),
                    of(vip.value)
                ),
            )
            .label(format!("name a pool of {} addresses", of(vip.value)))
            .related(address.span.clone(), "the pool's first address"),
        );
    }
}

fn names(pools: &[file::SnatPool], sink: &Sink) {
    let mut seen = HashMap::new();
    for name in pools.iter().filter_map(|pool| pool.name.as_ref()) {
        if let Some(first) = seen.insert(&name.value, &name.span) {
            sink.push(
                Diagnostic::error(
                    name.span.clone(),
                    format!("two pools have the name `{}`", name.value),
                )
                .label("choose another")
                .related(first.clone(), "first here"),
            );
        }
    }
}

/// A packet to an address of a pool is a reply: the address has no other use.
fn addresses(file: &File, sink: &Sink) {
    let mut taken: HashMap<IpAddr, (&'static str, &Span)> = HashMap::new();
    for service in &file.services {
        if let Some(vip) = &service.vip {
            taken.entry(vip.value).or_insert(("a VIP", &vip.span));
        }
        for address in service.backends.iter().filter_map(|b| b.address.as_ref()) {
            taken
                .entry(address.value)
                .or_insert(("a backend", &address.span));
        }
    }
    let lists = file
        .snat_pools
        .iter()
        .filter_map(|pool| pool.addresses.as_ref());
    for address in lists.flat_map(|list| &list.value) {
        if let Some((what, first)) = taken.get(&address.value) {
            sink.push(
                Diagnostic::error(
                    address.span.clone(),
                    format!("{} is {what} already", address.value),
                )
                .label("a pool's address has no other use")
                .related((*first).clone(), "here"),
            );
        } else {
            taken.insert(address.value, ("in a pool", &address.span));
        }
    }
}

/// Ports are shared by two.
fn nodes(file: &File, sink: &Sink) {
    if let Some(pool) = file.snat_pools.first().filter(|_| file.nodes.len() > 2) {
        sink.push(
            Diagnostic::error(
                pool.header.clone(),
                format!("`snat` with {} nodes", file.nodes.len()),
            )
            .label("the ports of a pool are shared by two nodes at most"),
        );
    }
}

const fn family(ipv4: bool) -> Family {
    if ipv4 { Family::V4 } else { Family::V6 }
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
