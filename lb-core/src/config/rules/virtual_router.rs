//! Virtual routers: what VRRP's wire format, the addresses and the nodes allow.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    config::{
        diagnostic::{Diagnostic, Sink, Span},
        file::{self, File},
        reader::At,
    },
    model::{
        DEFAULT_PRIORITY, NodeName, Pace, Pair, ServiceName, Track, TrackKind, Unmatched,
        VirtualRouter,
    },
    vrrp::{Family, codec::Version},
};

/// Characters of the shortest key.
const KEY_LENGTH: usize = 16;
const DEFAULT_LEASE: Duration = Duration::from_secs(3);

/// `None` if something was reported.
pub(super) fn check(file: &File, sink: &Sink) -> Option<Vec<VirtualRouter>> {
    let rest = unnamed_vips(file);
    let routers: Vec<_> = file
        .virtual_routers
        .iter()
        .map(|written| router(written, file, &rest, sink))
        .collect();
    let routers: Vec<VirtualRouter> = routers.into_iter().collect::<Option<_>>()?;
    among(file, &routers, sink);
    Some(routers)
}

pub(super) fn pair(written: Option<&file::Pair>, sink: &Sink) -> Pair {
    let Some(written) = written else {
        return Pair::default();
    };
    if let Some(key) = &written.key
        && key.value.chars().count() < KEY_LENGTH
    {
        sink.push(
            Diagnostic::error(
                key.span.clone(),
                format!("`key` is shorter than {KEY_LENGTH} characters"),
            )
            .label("too easily guessed")
            .help("`openssl rand -base64 24` makes one"),
        );
    }
    let wanted = written.echo.as_ref();
    if let Some(echo) = wanted.filter(|echo| echo.value && written.key.is_none()) {
        sink.push(
            Diagnostic::error(echo.span.clone(), "`echo` without a `key`")
                .label("the nodes could not know each other")
                .help(
                    "add key = \"…\", the same on both nodes; `openssl rand -base64 24` makes one",
                ),
        );
    }
    Pair {
        echo: wanted.map_or(written.key.is_some(), |echo| echo.value),
        key: written.key.as_ref().map(|key| key.value.clone()),
        hook: written.hook.as_ref().map(|hook| hook.value.clone()),
    }
}

/// What `accept = false` means for packets to the services' VIPs that no service has.
pub(super) fn accept(
    file: &File,
    routers: Option<&[VirtualRouter]>,
    unmatched: &mut HashMap<IpAddr, Unmatched>,
    sink: &Sink,
) {
    let written = file.virtual_routers.iter();
    let refusing = written
        .zip(routers.unwrap_or_default())
        .filter(|(_, router)| !router.accept);
    for (written, router) in refusing {
        let span = written
            .accept
            .as_ref()
            .map_or_else(|| written.header.clone(), |accept| accept.span.clone());
        for vip in &router.vips {
            let services = file.services.iter();
            let mut services =
                services.filter(|s| s.vip.as_ref().is_some_and(|own| own.value == *vip));
            let Some(first) = services.next() else {
                sink.push(
                    Diagnostic::warning(
                        span.clone(),
                        format!("`accept = false` does not hold for {vip}, which no service has"),
                    )
                    .label("the host takes its packets")
                    .help("keep them away by the host's firewall"),
                );
                continue;
            };
            let passes = core::iter::once(first)
                .chain(services)
                .filter_map(|service| service.unmatched.as_ref())
                .find(|word| word.value == Unmatched::Pass);
            if let Some(word) = passes {
                sink.push(
                    Diagnostic::error(
                        word.span.clone(),
                        format!("`unmatched = \"pass\"` for {vip}, which is not accepted"),
                    )
                    .label("write \"drop\" or \"reject\", or remove it")
                    .related(span.clone(), "accept = false"),
                );
            }
            unmatched.entry(*vip).or_insert(Unmatched::Drop);
        }
    }
}

/// VIPs of services that no virtual router names.
fn unnamed_vips(file: &File) -> Vec<IpAddr> {
    let named: BTreeSet<IpAddr> = file
        .virtual_routers
        .iter()
        .filter_map(|router| router.vips.as_ref())
        .flat_map(|vips| vips.value.iter().map(|vip| vip.value))
        .collect();
    let all: BTreeSet<IpAddr> = file
        .services
        .iter()
        .filter_map(|service| service.vip.as_ref().map(|vip| vip.value))
        .collect();
    all.difference(&named).copied().collect()
}

fn router(
    written: &file::VirtualRouter,
    file: &File,
    rest: &[IpAddr],
    sink: &Sink,
) -> Option<VirtualRouter> {
    let vips = vips(written, rest, sink);
    let version = match written.version.as_ref()?.value {
        2 => Version::V2,
        _ => Version::V3,
    };
    let interval = interval(written.interval_ms.as_ref()?, version, sink);
    let lease = lease(written.lease_ms.as_ref(), interval, sink);
    let auth = auth(written.auth.as_ref(), version, sink);
    let priority = priority(written, file, sink);
    let tracks: Vec<_> = written
        .tracks
        .iter()
        .map(|track| self::track(track, file, sink))
        .collect();
    let vips = vips?;
    let is_ipv4 = vips.first()?.is_ipv4();
    if version == Version::V2 && !is_ipv4 {
        sink.push(
            Diagnostic::error(
                written.version.as_ref()?.span.clone(),
                "VRRP version 2 has no IPv6",
            )
            .label("write 3, or remove it"),
        );
    }
    let peers = written.peers.as_ref().map_or_else(Vec::new, |peers| {
        for peer in &peers.value {
            if peer.value.is_ipv4() != is_ipv4 {
                sink.push(
                    Diagnostic::error(
                        peer.span.clone(),
                        format!("peer {} is not of the VIPs' family", peer.value),
                    )
                    .label("adverts travel in the VIPs' family"),
                );
            }
        }
        peers.value.iter().map(|peer| peer.value).collect()
    });
    let virtual_mac = written.virtual_mac.as_ref()?;
    if virtual_mac.value && !peers.is_empty() {
        sink.push(
            Diagnostic::error(
                virtual_mac.span.clone(),
                "a virtual MAC address without multicast",
            )
            .label("not together with `peers`")
            .help("switches learn from the multicast adverts behind which port it is; without them they would send its packets everywhere"),
        );
    }
    let millis = |at: &At<u32>| Duration::from_millis(at.value.into());
    let refresh = written.announce_refresh_s.as_ref()?.value;
    Some(VirtualRouter {
        id: written.id.as_ref()?.value,
        vips,
        interface: written.interface.as_ref().map(|name| {
            super::check_interface_name(name, sink);
            name.value.clone()
        }),
        version,
        interval,
        priority: priority?,
        preempt: written.preempt.as_ref()?.value,
        preempt_delay: millis(written.preempt_delay_ms.as_ref()?),
        peers,
        checksum: written.checksum.as_ref()?.value,
        auth,
        lease,
        announce_repeats: written.announce_repeats.as_ref()?.value,
        announce_gap: millis(written.announce_gap_ms.as_ref()?),
        announce_refresh: (refresh > 0).then(|| Duration::from_secs(refresh.into())),
        sync_group: written.sync_group.as_ref().map(|group| group.value.clone()),
        virtual_mac: virtual_mac.value,
        accept: written.accept.as_ref()?.value,
        tracks: tracks.into_iter().collect::<Option<_>>()?,
    })
}

fn vips(written: &file::VirtualRouter, rest: &[IpAddr], sink: &Sink) -> Option<Vec<IpAddr>> {
    let Some(named) = &written.vips else {
        let Some(first) = rest.first() else {
            sink.push(
                Diagnostic::error(written.header.clone(), "the virtual router has no address")
                    .label("every VIP has one already")
                    .help("add: vips = [\"192.0.2.10\"]"),
            );
            return None;
        };
        if rest.iter().any(|vip| vip.is_ipv4() != first.is_ipv4()) {
            sink.push(
                Diagnostic::error(
                    written.header.clone(),
                    "a virtual router for IPv4 and IPv6 addresses at once",
                )
                .label("name its addresses")
                .help("write two [[virtual_router]], each with its `vips`; a `sync_group` keeps them together"),
            );
            return None;
        }
        return Some(rest.to_vec());
    };
    let Some(first) = named.value.first() else {
        sink.push(
            Diagnostic::error(named.span.clone(), "the virtual router has no address")
                .label("name at least one"),
        );
        return None;
    };
    if named.value.len() > 200 {
        sink.push(
            Diagnostic::error(
                named.span.clone(),
                format!("{} addresses do not fit into an advert", named.value.len()),
            )
            .label("at most 200 in IPv4, 80 in IPv6")
            .help("spread them over several [[virtual_router]] with one `sync_group`"),
        );
    }
    for vip in &named.value {
        if vip.value.is_ipv4() != first.value.is_ipv4() {
            sink.push(
                Diagnostic::error(
                    vip.span.clone(),
                    "a virtual router for IPv4 and IPv6 addresses at once",
                )
                .label("of the other family")
                .related(first.span.clone(), "the first")
                .help("write two [[virtual_router]]; a `sync_group` keeps them together"),
            );
        }
    }
    Some(named.value.iter().map(|vip| vip.value).collect())
}

fn interval(written: &At<u32>, version: Version, sink: &Sink) -> Duration {
    let step = match version {
        Version::V2 => 1000,
        Version::V3 => 10,
    };
    if !written.value.is_multiple_of(step) {
        let above = written.value.next_multiple_of(step);
        sink.push(
            Diagnostic::error(
                written.span.clone(),
                format!("`interval_ms` is {}, which VRRP cannot say", written.value),
            )
            .label(format!("a multiple of {step}, such as {above}")),
        );
    }
    Duration::from_millis(written.value.into())
}

fn lease(written: Option<&At<u32>>, interval: Duration, sink: &Sink) -> Duration {
    let Some(written) = written else {
        return DEFAULT_LEASE.max(10 * interval);
    };
    let lease = Duration::from_millis(written.value.into());
    if lease < 4 * interval {
        sink.push(
            Diagnostic::error(
                written.span.clone(),
                "`lease_ms` is shorter than four intervals",
            )
            .label(format!("at least {}", 4 * interval.as_millis())),
        );
    }
    lease
}

fn auth(written: Option<&At<String>>, version: Version, sink: &Sink) -> Option<String> {
    let written = written?;
    if version != Version::V2 {
        sink.push(
            Diagnostic::error(written.span.clone(), "VRRP version 3 has no authentication")
                .label("remove it")
                .help("`peers` narrows who is heard; the key of [pair] authenticates the echo"),
        );
    } else if written.value.is_empty() || written.value.len() > 8 {
        sink.push(
            Diagnostic::error(
                written.span.clone(),
                format!("`auth` has {} bytes", written.value.len()),
            )
            .label("1 to 8"),
        );
    }
    Some(written.value.clone())
}

fn priority(
    written: &file::VirtualRouter,
    file: &File,
    sink: &Sink,
) -> Option<BTreeMap<NodeName, u8>> {
    let mut priorities = BTreeMap::new();
    for node in &file.nodes {
        let own = node.priority.as_ref().map_or(DEFAULT_PRIORITY, |p| p.value);
        priorities.insert(node.name.clone()?, own);
    }
    for (name, priority) in written.priority.iter().flatten() {
        let node = priorities
            .iter_mut()
            .find(|(known, _)| known.as_str() == name.value);
        match node {
            Some((_, place)) => *place = priority.value,
            None => {
                let known: Vec<&str> = file
                    .nodes
                    .iter()
                    .filter_map(|node| node.name.as_ref().map(NodeName::as_str))
                    .collect();
                sink.push(
                    Diagnostic::error(
                        name.span.clone(),
                        format!("there is no node `{}`", name.value),
                    )
                    .label("not a [node.<name>]")
                    .help(format!("the nodes are: {}", known.join(", "))),
                );
            }
        }
    }
    let distinct: BTreeSet<u8> = priorities.values().copied().collect();
    if distinct.len() < priorities.len() {
        let span = written
            .priority
            .as_ref()
            .and_then(|list| list.first())
            .map_or_else(|| written.header.clone(), |(name, _)| name.span.clone());
        sink.push(
            Diagnostic::warning(span, "two nodes have the same priority")
                .label("the higher address decides")
                .help("write priority = { lb1 = 150, lb2 = 100 }, with the nodes' names"),
        );
    }
    Some(priorities)
}

fn track(written: &file::Track, file: &File, sink: &Sink) -> Option<Track> {
    let lower = written.lower.as_ref().map(|lower| lower.value);
    let pace = Pace {
        interval: Duration::from_millis(written.interval_ms.as_ref()?.value.into()),
        fall: written.fall.as_ref()?.value,
        rise: written.rise.as_ref()?.value,
    };
    let kind = match (
        &written.interface,
        &written.service,
        &written.file,
        &written.script,
        &written.gateway,
    ) {
        (Some(name), None, None, None, None) => {
            super::check_interface_name(name, sink);
            TrackKind::Interface(name.value.clone())
        }
        (None, Some(name), None, None, None) => {
            let known = file
                .services
                .iter()
                .filter_map(|service| service.name.as_ref())
                .any(|service| service.value.as_str() == name.value);
            if !known {
                sink.push(
                    Diagnostic::error(
                        name.span.clone(),
                        format!("there is no service `{}`", name.value),
                    )
                    .label("not the name of a [[service]]"),
                );
            }
            TrackKind::Service {
                name: ServiceName::new(name.value.clone()).ok()?,
                min_healthy: written.min_healthy.as_ref()?.value,
            }
        }
        (None, None, Some(path), None, None) => TrackKind::File(path.value.clone()),
        (None, None, None, Some(program), None) => TrackKind::Script {
            program: program.value.clone(),
            pace,
        },
        (None, None, None, None, Some(address)) if matches!(address.value, IpAddr::V6(v6) if v6.is_unicast_link_local()) =>
        {
            sink.push(
                Diagnostic::error(address.span.clone(), "a link-local gateway cannot be asked")
                    .label("it means another host on each interface")
                    .help("name another address of the gateway, or watch it by a `script`"),
            );
            return None;
        }
        (None, None, None, None, Some(address)) => TrackKind::Gateway {
            address: address.value,
            pace,
        },
        _ => {
            sink.push(
                Diagnostic::error(
                    written.header.clone(),
                    "a [[virtual_router.track]] watches exactly one thing",
                )
                .label("write one of `interface`, `service`, `file`, `script` and `gateway`"),
            );
            return None;
        }
    };
    Some(Track { kind, lower })
}

/// What virtual routers must not share.
fn among(file: &File, routers: &[VirtualRouter], sink: &Sink) {
    let spans: Vec<&Span> = file.virtual_routers.iter().map(|w| &w.header).collect();
    let mut ids: BTreeMap<(u8, bool), &Span> = BTreeMap::new();
    let mut owners: BTreeMap<IpAddr, &Span> = BTreeMap::new();
    for (router, span) in routers.iter().zip(spans) {
        if let Some(first) = ids.insert((router.id, router.family() == Family::V4), span) {
            sink.push(
                Diagnostic::error(
                    span.clone(),
                    format!("two virtual routers have VRID {}", router.id),
                )
                .label("choose another `id`")
                .related(first.clone(), "first here"),
            );
        }
        for vip in &router.vips {
            if let Some(first) = owners.insert(*vip, span) {
                sink.push(
                    Diagnostic::error(
                        span.clone(),
                        format!("{vip} belongs to two virtual routers"),
                    )
                    .label("name it in one")
                    .related(first.clone(), "first here"),
                );
            }
        }
        if let Some(leader) = routers
            .iter()
            .find(|other| other.sync_group == router.sync_group && router.sync_group.is_some())
        {
            let alike = |r: &VirtualRouter| {
                (
                    r.priority.clone(),
                    r.interval,
                    r.version,
                    r.preempt,
                    r.preempt_delay,
                )
            };
            if alike(leader) != alike(router) {
                sink.push(
                    Diagnostic::error(
                        span.clone(),
                        "members of a sync group differ in priority, interval, version or preemption",
                    )
                    .label("make them the same as the group's first"),
                );
            }
        }
    }
    if routers.is_empty() {
        return;
    }
    let mut left = unnamed_vips(file);
    left.retain(|vip| !owners.contains_key(vip));
    for service in &file.services {
        if let Some(vip) = service.vip.as_ref().filter(|vip| left.contains(&vip.value)) {
            left.retain(|other| *other != vip.value);
            sink.push(
                Diagnostic::warning(
                    vip.span.clone(),
                    format!("no virtual router has {}", vip.value),
                )
                .label("every node would hold it")
                .help("name it in the `vips` of a [[virtual_router]]"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Report, parse};
    use crate::model::{Model, TrackKind};
    use crate::vrrp::codec::{Auth, Version, Wire};

    const BASE: &str = r#"
[node.lb1]
interfaces = ["eth0", "eth1"]
priority = 150
echo_interfaces = ["eth1"]
[node.lb2]
interfaces = ["eth0", "eth1"]
[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
mode = "nat"
backend = [{ address = "10.0.0.11" }]
[[service]]
name = "web6"
vip = "2001:db8::10"
port = 80
mode = "nat"
backend = [{ address = "2001:db8:1::11" }]
"#;

    fn model(more: &str) -> Model {
        parse("test.toml", &format!("{BASE}{more}"))
            .unwrap_or_else(|report| panic!("{report}"))
            .model
    }

    fn refused(more: &str) -> Report {
        parse("test.toml", &format!("{BASE}{more}")).expect_err("refused")
    }

    #[test]
    fn a_pair_by_its_defaults() {
        let model = model(
            r#"
[[virtual_router]]
id = 51
vips = ["192.0.2.10", "192.0.2.1"]
interval_ms = 10
[[virtual_router]]
id = 51
track = [{ service = "web6", min_healthy = 2, lower = 60 }, { file = "/run/ok" }]
[pair]
key = "0123456789abcdef"
"#,
        );
        let [four, six] = model.virtual_routers.as_slice() else {
            panic!("two routers");
        };
        assert_eq!(
            four.priority.values().copied().collect::<Vec<_>>(),
            [150, 100]
        );
        assert_eq!(four.lease.as_millis(), 3000);
        assert_eq!(six.lease.as_millis(), 10_000);
        assert_eq!(
            six.vips,
            ["2001:db8::10"
                .parse::<core::net::IpAddr>()
                .expect("an address")]
        );
        assert_eq!(six.tracks[0].lower, Some(60));
        assert_eq!(six.tracks[1].kind, TrackKind::File("/run/ok".into()));
        assert!(model.pair.echo);
        assert!(model.unelected_vips().is_empty());
        assert!(
            !format!("{model:?}").contains("0123456789abcdef"),
            "the key is in no log"
        );
    }

    #[test]
    fn version_2_has_a_password_and_whole_seconds() {
        let model = model(
            "[[virtual_router]]\nid = 1\nvips = [\"192.0.2.10\"]\nversion = 2\nauth = \"pass\"\npriority = { lb2 = 200 }\n",
        );
        let router = &model.virtual_routers[0];
        assert_eq!(router.version, Version::V2);
        let auth = Auth::SimpleText(*b"pass\0\0\0\0");
        assert_eq!(router.wire(), Wire::V2 { auth });
        assert_eq!(
            router.priority.values().copied().collect::<Vec<_>>(),
            [150, 200]
        );
        assert!(
            model.unelected_vips().iter().all(|vip| vip.is_ipv6()),
            "with a warning"
        );
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_reason() {
        let v4 = "[[virtual_router]]\nid = 1\nvips = [\"192.0.2.10\"]\n";
        for (more, reason) in [
            (
                "[[virtual_router]]\nid = 1\n".to_owned(),
                "IPv4 and IPv6 addresses at once",
            ),
            (format!("{v4}interval_ms = 15\n"), "which VRRP cannot say"),
            (
                format!("{v4}version = 2\ninterval_ms = 100\n"),
                "which VRRP cannot say",
            ),
            (
                format!("{v4}auth = \"x\"\n"),
                "version 3 has no authentication",
            ),
            (
                format!("{v4}lease_ms = 3000\n"),
                "shorter than four intervals",
            ),
            (format!("{v4}priority = {{ lb3 = 1 }}\n"), "no node `lb3`"),
            (
                format!("{v4}priority = {{ lb1 = 0 }}\n"),
                "no number from 1 to 255",
            ),
            (
                format!("{v4}peers = [\"2001:db8::1\"]\n"),
                "not of the VIPs' family",
            ),
            (
                format!("{v4}track = [{{ service = \"nope\" }}]\n"),
                "no service `nope`",
            ),
            (
                format!("{v4}track = [{{ lower = 1 }}]\n"),
                "exactly one thing",
            ),
            (format!("{v4}{v4}"), "VRID 1"),
            (
                format!("{v4}{}", v4.replace("id = 1", "id = 2")),
                "two virtual routers",
            ),
            (
                format!(
                    "{v4}sync_group = \"a\"\n[[virtual_router]]\nid = 1\nsync_group = \"a\"\ninterval_ms = 10\n"
                ),
                "sync group differ",
            ),
            ("[pair]\nkey = \"short\"\n".to_owned(), "shorter than 16"),
            ("[pair]\necho = true\n".to_owned(), "`echo` without a `key`"),
            (
                "[[virtual_router]]\nid = 1\nversion = 2\nvips = [\"2001:db8::10\"]\n".to_owned(),
                "no IPv6",
            ),
        ] {
            let report = refused(&more).to_string();
            assert!(report.contains(reason), "{more}\n{report}");
        }
    }

    #[test]
    fn a_virtual_mac_address_needs_multicast() {
        let router = |more: &str| {
            format!(
                "\n[[virtual_router]]\nid = 51\nvips = [\"192.0.2.10\"]\n{more}\n[[virtual_router]]\nid = 52\n"
            )
        };
        assert!(model(&router("virtual_mac = true")).virtual_routers[0].virtual_mac);
        let report = refused(&router("virtual_mac = true\npeers = [\"192.0.2.2\"]"));
        assert!(
            report
                .to_string()
                .contains("a virtual MAC address without multicast"),
            "{report}"
        );
    }

    #[test]
    fn what_is_not_accepted_is_dropped_unless_the_services_say_otherwise() {
        use crate::model::Unmatched;

        let router = "\n[[virtual_router]]\nid = 51\nvips = [\"192.0.2.10\"]\naccept = false\n[[virtual_router]]\nid = 52\n";
        let services = model(router).services;
        assert_eq!(services[0].unmatched, Unmatched::Drop);
        assert_eq!(services[1].unmatched, Unmatched::Pass, "another router's");
        let written = |word: &str| {
            let base = BASE.replacen(
                "port = 80",
                &format!("port = 80\nunmatched = \"{word}\""),
                1,
            );
            parse("test.toml", &format!("{base}{router}"))
        };
        let loaded = written("reject").unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.model.services[0].unmatched, Unmatched::Reject);
        let report = written("pass").expect_err("refused");
        assert!(
            report.to_string().contains("which is not accepted"),
            "{report}"
        );
        let more = router.replace("10\"]", "10\", \"192.0.2.1\"]");
        let loaded = parse("test.toml", &format!("{BASE}{more}"));
        let loaded = loaded.unwrap_or_else(|report| panic!("{report}"));
        assert!(
            loaded
                .warnings
                .to_string()
                .contains("does not hold for 192.0.2.1"),
            "{}",
            loaded.warnings
        );
    }

    #[test]
    fn scripts_and_gateways_are_asked_at_their_pace() {
        use core::time::Duration;

        let tracks = |more: &str| {
            format!(
                "\n[[virtual_router]]\nid = 51\nvips = [\"192.0.2.10\"]\n[[virtual_router.track]]\n{more}\n[[virtual_router]]\nid = 52\n"
            )
        };
        let track = |more: &str| {
            model(&tracks(more)).virtual_routers[0].tracks[0]
                .kind
                .clone()
        };
        let TrackKind::Script { program, pace } =
            track("script = \"/bin/true\"\ninterval_ms = 500\nfall = 1")
        else {
            panic!("not a script");
        };
        assert_eq!(program, "/bin/true");
        assert_eq!(
            (pace.interval, pace.fall, pace.rise),
            (Duration::from_millis(500), 1, 2)
        );
        let kind = track("gateway = \"192.0.2.1\"");
        assert!(
            matches!(kind, TrackKind::Gateway { pace, .. } if pace.fall == 3),
            "{kind:?}"
        );
        let report = refused(&tracks("gateway = \"192.0.2.1\"\nscript = \"/bin/true\""));
        assert!(report.to_string().contains("exactly one thing"), "{report}");
    }
}
