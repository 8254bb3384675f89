use std::collections::BTreeSet;

use super::*;
use crate::{
    config,
    model::{Mode, Model},
};

const FILE: &str = r#"
[node.lb1]
interfaces = ["eth0"]

[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
mode = "l2-dsr"
backend = [{ address = "192.0.2.21", name = "one" }, { address = "192.0.2.22", name = "two" }]

[[service]]
name = "web6"
vip = "2001:db8::10"
port = 80
mode = "l2-dsr"
backend = [{ address = "2001:db8::21", name = "one" }, { address = "2001:db8::22" }]

[[service]]
name = "dns"
vip = "192.0.2.11"
port = 53
protocol = "udp"
mode = "nat"
backend = [{ address = "192.0.2.22", port = 5353 }]
"#;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("test data")
}

fn model() -> Model {
    config::parse("futago.toml", FILE).expect("test data").model
}

/// server1 as it should be.
fn server() -> Host {
    let addresses = |all: &[(&str, u8)]| all.iter().map(|(a, l)| (ip(a), *l)).collect();
    let settings = [
        (Setting::ipv4("all", "arp_ignore"), "1"),
        (Setting::ipv4("eth0", "arp_ignore"), "0"),
        (Setting::ipv4("all", "arp_announce"), "2"),
        (Setting::ipv4("eth0", "arp_announce"), "0"),
        (Setting::ipv4("all", "rp_filter"), "0"),
        (Setting::ipv4("eth0", "rp_filter"), "0"),
        (Setting::ipv6("lo", "disable_ipv6"), "0"),
    ];
    let route = |ipv6, gateway| DefaultRoute {
        ipv6,
        gateway: Some(ip(gateway)),
        interface: "eth0".to_owned(),
        metric: 0,
        advmss: None,
    };
    let listener = |address| Listener {
        protocol: Protocol::Tcp,
        address: ip(address),
        port: 80,
    };
    Host {
        interfaces: BTreeMap::from([
            (
                "lo".to_owned(),
                Interface {
                    silent: true,
                    mtu: 65_536,
                    addresses: addresses(&[
                        ("127.0.0.1", 8),
                        ("192.0.2.10", 32),
                        ("2001:db8::10", 128),
                    ]),
                    decapsulates: Decapsulation::Nobody,
                },
            ),
            (
                "eth0".to_owned(),
                Interface {
                    silent: false,
                    mtu: 1500,
                    addresses: addresses(&[("192.0.2.21", 24), ("2001:db8::21", 64)]),
                    decapsulates: Decapsulation::Nobody,
                },
            ),
        ]),
        settings: settings
            .map(|(setting, value)| (setting, value.to_owned()))
            .into(),
        default_routes: vec![route(false, "192.0.2.1"), route(true, "fe80::1")],
        listeners: BTreeSet::from([listener("0.0.0.0"), listener("2001:db8::10")]),
    }
}

fn of(host: &Host) -> Vec<Duty> {
    duties(&model(), Who::Holder, None, host).expect("it is a backend")
}

fn findings(host: &Host) -> Vec<Finding> {
    judge(&of(&server()), host, &BTreeSet::new())
}

/// The only finding: its kind and command.
fn only(host: &Host) -> (Kind, String) {
    let findings = findings(host);
    let [finding] = findings.as_slice() else {
        panic!("not one finding: {findings:#?}");
    };
    (finding.kind, finding.command())
}

fn set(host: &mut Host, setting: Setting, value: &str) {
    let known = host.settings.insert(setting, value.to_owned());
    assert!(known.is_some(), "test data");
}

#[test]
fn a_server_is_known_by_its_addresses() {
    let found: Vec<_> = of(&server()).iter().map(Duty::to_string).collect();
    assert_eq!(
        found,
        [
            "web 192.0.2.10:80/tcp, l2-dsr, as 192.0.2.21 on eth0",
            "web6 [2001:db8::10]:80/tcp, l2-dsr, as 2001:db8::21 on eth0"
        ]
    );
}

#[test]
fn a_server_may_say_who_it_is() {
    let (model, host) = (model(), server());
    let named = duties(&model, Who::Name("one"), None, &host).expect("a backend");
    assert_eq!(named, of(&host));
    // Its address is on another host, or behind a translation: then only the operator knows the interface.
    let other = Who::Address(ip("192.0.2.22"));
    let error = duties(&model, other, None, &host).expect_err("not held");
    assert!(error.to_string().contains("--interface"), "{error}");
    let found = duties(&model, other, Some("eth0"), &host).expect("a backend");
    let services: Vec<_> = found.iter().map(|duty| duty.service.as_str()).collect();
    assert_eq!(services, ["web", "dns"]);
}

#[test]
fn a_stranger_is_told_who_is_meant() {
    let mut host = server();
    for interface in host.interfaces.values_mut() {
        interface.addresses = [(ip("192.0.2.99"), 24), (ip("fe80::9"), 64)].into();
    }
    let model = model();
    for (who, interface, wanted) in [
        (
            Who::Holder,
            None,
            "no backend has an address of this host (192.0.2.99); the backends are 192.0.2.21, 192.0.2.22, 2001:db8::21, 2001:db8::22.",
        ),
        (
            Who::Address(ip("192.0.2.10")),
            None,
            "no backend has the address 192.0.2.10; ",
        ),
        (
            Who::Name("three"),
            None,
            "no backend has the name \"three\"; those with a name are one, two",
        ),
        (
            Who::Name("one"),
            Some("eth7"),
            "there is no interface eth7; there are eth0, lo",
        ),
    ] {
        let error = duties(&model, who, interface, &host).expect_err("a stranger");
        assert!(error.to_string().starts_with(wanted), "{error}");
    }
}

#[test]
fn nothing_is_wrong_with_a_good_server() {
    assert_eq!(findings(&server()), []);
}

#[test]
fn a_missing_vip_is_added_to_lo_after_what_keeps_it_silent() {
    let mut host = server();
    host.interfaces
        .get_mut("lo")
        .expect("test data")
        .addresses
        .clear();
    set(&mut host, Setting::ipv4("all", "arp_ignore"), "0");
    let found = findings(&host);
    let summary: Vec<_> = found.iter().map(|f| (f.kind, f.command())).collect();
    assert_eq!(
        summary,
        [
            (
                Kind::ArpIgnore,
                "sysctl -w net.ipv4.conf.all.arp_ignore=1 && sysctl -w net.ipv4.conf.eth0.arp_ignore=1".to_owned()
            ),
            (Kind::VipMissing, "ip address add 192.0.2.10/32 dev lo".to_owned()),
            (
                Kind::VipMissing,
                "ip address add 2001:db8::10/128 dev lo nodad preferred_lft 0".to_owned()
            ),
        ]
    );
    assert!(found.iter().all(Finding::is_ours));
    assert_eq!(found[0].services, [of(&server())[0].service.clone()]);
}

#[test]
fn the_larger_of_all_and_the_interface_counts() {
    let mut host = server();
    let ignore = |scope| Setting::ipv4(scope, "arp_ignore");
    set(&mut host, ignore("all"), "0");
    set(&mut host, ignore("eth0"), "1");
    assert_eq!(findings(&host), []);
    // 8 answers nobody.
    set(&mut host, ignore("eth0"), "8");
    set(&mut host, ignore("all"), "1");
    let (kind, command) = only(&host);
    assert_eq!(kind, Kind::ArpIgnore);
    assert_eq!(command, "sysctl -w net.ipv4.conf.eth0.arp_ignore=1");

    let mut host = server();
    let filter = |scope| Setting::ipv4(scope, "rp_filter");
    set(&mut host, filter("all"), "1");
    let strict = (
        Kind::RpFilter,
        "sysctl -w net.ipv4.conf.eth0.rp_filter=2".to_owned(),
    );
    assert_eq!(only(&host), strict);
    set(&mut host, filter("eth0"), "2");
    assert_eq!(findings(&host), []);

    let mut host = server();
    set(&mut host, Setting::ipv4("all", "arp_announce"), "1");
    assert_eq!(only(&host).0, Kind::ArpAnnounce);
}

#[test]
fn what_is_mended_is_good() {
    let mut host = server();
    for setting in settings_of_interest(&of(&host)) {
        set(&mut host, setting, "1");
    }
    let mut rounds = 0;
    loop {
        let found = findings(&host);
        if found.is_empty() {
            break;
        }
        for step in found.into_iter().flat_map(|finding| finding.steps) {
            let Step::Set { setting, value } = step else {
                panic!("{step}");
            };
            set(&mut host, setting, value);
        }
        rounds += 1;
        assert!(rounds < 2, "one round is enough");
    }
    assert_eq!(rounds, 1);
}

#[test]
fn a_vip_elsewhere_is_left_to_the_operator() {
    let mut host = server();
    let vip = ip("192.0.2.10");
    let eth0 = host.interfaces.get_mut("eth0").expect("test data");
    eth0.addresses.insert((vip, 24));
    let (kind, command) = only(&host);
    assert_eq!(kind, Kind::VipWrongInterface);
    assert_eq!(command, "ip address delete 192.0.2.10/24 dev eth0");
    assert!(!findings(&host)[0].is_ours());

    // A dummy answers nobody.
    let eth0 = host.interfaces.get_mut("eth0").expect("test data");
    eth0.addresses.remove(&(vip, 24));
    let lo = host.interfaces.get_mut("lo").expect("test data");
    lo.addresses.remove(&(vip, 32));
    let dummy = Interface {
        silent: true,
        addresses: [(vip, 32)].into(),
        ..Interface::default()
    };
    host.interfaces.insert("dummy0".to_owned(), dummy);
    assert_eq!(findings(&host), []);
}

#[test]
fn a_wide_prefix_on_lo_swallows_the_network() {
    let mut host = server();
    let lo = host.interfaces.get_mut("lo").expect("test data");
    lo.addresses.remove(&(ip("2001:db8::10"), 128));
    lo.addresses.insert((ip("2001:db8::10"), 64));
    let (kind, command) = only(&host);
    assert_eq!(kind, Kind::VipWidePrefix);
    assert_eq!(
        command,
        "ip address delete 2001:db8::10/64 dev lo && ip address add 2001:db8::10/128 dev lo nodad preferred_lft 0"
    );
    assert!(!findings(&host)[0].is_ours());
}

#[test]
fn a_vip_needs_a_listener_of_its_protocol() {
    let mut host = server();
    host.listeners = [Listener {
        protocol: Protocol::Udp,
        address: ip("0.0.0.0"),
        port: 80,
    }]
    .into();
    let found = findings(&host);
    assert!(found.iter().all(|f| f.kind == Kind::NotListening));
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[1].what,
        "nothing listens on [2001:db8::10]:80/tcp: let the server listen on this address, or on all"
    );
    assert_eq!(found[1].command(), "ss -H -n -p -l -t 'sport = :80'");
}

#[test]
fn ipv6_on_lo_is_needed_only_for_a_vip_of_it() {
    let mut host = server();
    set(&mut host, Setting::ipv6("lo", "disable_ipv6"), "1");
    let mended = "sysctl -w net.ipv6.conf.lo.disable_ipv6=0".to_owned();
    assert_eq!(only(&host), (Kind::Ipv6Disabled, mended));
    let web_only: Vec<_> = of(&server()).into_iter().take(1).collect();
    assert_eq!(judge(&web_only, &host, &BTreeSet::new()), []);
}

#[test]
fn nat_answers_through_the_load_balancer() {
    let (model, mut host) = (model(), server());
    let mut duties =
        duties(&model, Who::Address(ip("192.0.2.22")), Some("eth0"), &host).expect("a backend");
    duties.retain(|duty| duty.arrival == Arrival::Translated);
    let wanted = Listener {
        protocol: Protocol::Udp,
        address: ip("192.0.2.22"),
        port: 5353,
    };
    host.listeners = [wanted].into();
    assert_eq!(duties[0].listens_at(), (wanted.address, wanted.port));
    // Neither ARP settings nor a VIP on lo.
    for value in host.settings.values_mut() {
        *value = "0".to_owned();
    }
    for gateways in [vec![], vec!["192.0.2.1", "192.0.2.2"], vec!["fd00::1"]] {
        let gateways = gateways.into_iter().map(ip).collect();
        assert_eq!(judge(&duties, &host, &gateways), [], "{gateways:?}");
    }
    let gateways = BTreeSet::from([ip("192.0.2.7")]);
    let command = "ip -4 route replace default via 192.0.2.7 dev eth0";
    let elsewhere = judge(&duties, &host, &gateways);
    assert_eq!(
        (elsewhere[0].kind, elsewhere[0].command()),
        (Kind::Gateway, command.to_owned())
    );
    assert!(elsewhere[0].what.contains("leads to 192.0.2.1,"));
    assert!(!elsewhere[0].is_ours());
    // A better route than the right one.
    host.default_routes.push(DefaultRoute {
        ipv6: false,
        gateway: None,
        interface: "ppp0".to_owned(),
        metric: 0,
        advmss: None,
    });
    host.default_routes[0].metric = 100;
    assert!(
        judge(&duties, &host, &BTreeSet::new())[0]
            .what
            .contains("ppp0")
    );
    host.default_routes.clear();
    assert_eq!(judge(&duties, &host, &gateways)[0].command(), command);
}

#[test]
fn the_file_may_name_the_gateway() {
    assert_eq!(gateways(&model()), BTreeSet::new());
    let routers =
        "[[virtual_router]]\nid = 1\nvips = [\"192.0.2.10\", \"192.0.2.11\", \"192.0.2.1\"]\n";
    let file = FILE.replacen("[[service]]", &format!("{routers}\n[[service]]"), 1);
    let model = config::parse("futago.toml", &file)
        .unwrap_or_else(|r| panic!("{r}"))
        .model;
    assert_eq!(gateways(&model), BTreeSet::from([ip("192.0.2.1")]));
}

#[test]
fn dsr_without_a_default_route_serves_its_own_networks_only() {
    let mut host = server();
    host.default_routes.remove(1);
    assert_eq!(only(&host), (Kind::NoDefaultRoute, String::new()));
    assert_eq!(Kind::NoDefaultRoute.severity(), Severity::Advice);
}

#[test]
fn a_tunnel_wants_smaller_segments_and_somebody_who_unpacks() {
    let mut host = server();
    let file = FILE.replacen("\"l2-dsr\"", "\"l3-dsr\"\nencap = \"gre\"", 1);
    let model = config::parse("futago.toml", &file)
        .expect("test data")
        .model;
    let mut duties = duties(&model, Who::Holder, None, &host).expect("a backend");
    duties.truncate(1);
    assert_eq!(
        duties[0].to_string(),
        "web 192.0.2.10:80/tcp, l3-dsr gre, as 192.0.2.21 on eth0"
    );
    assert_eq!(duties[0].arrival, Arrival::Tunnelled { overhead_bytes: 24 });
    assert_eq!(
        Arrival::of(Mode::Gue, ip("2001:db8::21")),
        Arrival::Tunnelled { overhead_bytes: 48 }
    );
    host.default_routes[0].metric = 50;
    let found = judge(&duties, &host, &BTreeSet::new());
    let kinds: Vec<_> = found.iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [Kind::NotDecapsulated, Kind::SegmentSize]);
    assert_eq!(
        found[1].command(),
        "ip -4 route replace default via 192.0.2.1 dev eth0 metric 50 advmss 1436"
    );
    host.default_routes[0].advmss = Some(1436);
    let eth0 = host.interfaces.get_mut("eth0").expect("test data");
    eth0.decapsulates = Decapsulation::Device;
    assert_eq!(judge(&duties, &host, &BTreeSet::new()), []);
    let eth0 = host.interfaces.get_mut("eth0").expect("test data");
    eth0.decapsulates = Decapsulation::Program(program_duties(&duties));
    assert_eq!(judge(&duties, &host, &BTreeSet::new()), []);
    // Clients are told the same; a jumbo interface needs nothing smaller.
    host.default_routes[0].advmss = Some(1460);
    assert_eq!(judge(&duties, &host, &BTreeSet::new()).len(), 1);
    host.interfaces.get_mut("eth0").expect("test data").mtu = 9000;
    assert_eq!(judge(&duties, &host, &BTreeSet::new()), []);
}

#[test]
fn the_program_knows_the_tunnels_and_vips_of_the_file_and_is_replaced_when_they_change() {
    let mut host = server();
    let file = FILE.replace("\"l2-dsr\"", "\"l3-dsr\"\nencap = \"gue\"\ngue_port = 5555");
    let model = config::parse("futago.toml", &file)
        .unwrap_or_else(|report| panic!("{report}"))
        .model;
    let duties = duties(&model, Who::Holder, None, &host).expect("a backend");
    let wanted = program_duties(&duties);
    let keys: Vec<_> = wanted.keys().copied().collect();
    let mut expected = Vec::new();
    for (own, vip) in [
        ("192.0.2.21", "192.0.2.10"),
        ("2001:db8::21", "2001:db8::10"),
    ] {
        expected.extend([
            Key::tunnel(ip(own).into(), 17, 5555),
            Key::vip(ip(vip).into()),
        ]);
    }
    expected.sort();
    assert_eq!(keys, expected);
    let eth0 = host.interfaces.get_mut("eth0").expect("test data");
    let mut other = wanted.clone();
    other.pop_first();
    eth0.decapsulates = Decapsulation::Program(other);
    let found = judge(&duties, &host, &BTreeSet::new());
    assert_eq!(found[0].kind, Kind::DecapsulatesOther);
    assert!(found[0].is_ours());
    let step = Step::Decapsulate {
        interfaces: ["eth0".to_owned()].into(),
        duties: wanted,
    };
    assert_eq!(found[0].steps, [step]);
    let services: Vec<_> = found[0].services.iter().map(|s| s.as_str()).collect();
    assert_eq!(services, ["web", "web6"]);
}

#[test]
fn a_code_needs_the_program_and_no_tunnel_device_will_do() {
    let mut host = server();
    let file = FILE.replacen("\"l2-dsr\"", "\"l3-dsr\"\nencap = \"dscp\"\ndscp = 11", 1);
    let model = config::parse("futago.toml", &file)
        .unwrap_or_else(|report| panic!("{report}"))
        .model;
    let mut duties = duties(&model, Who::Holder, None, &host).expect("a backend");
    duties.truncate(1);
    let wanted = program_duties(&duties);
    let mark = Key::mark(ip("192.0.2.21").into(), 11, 6, 80);
    assert_eq!(wanted.get(&mark), Some(&ip("192.0.2.10").into()));
    for found in [Decapsulation::Nobody, Decapsulation::Device] {
        host.interfaces
            .get_mut("eth0")
            .expect("test data")
            .decapsulates = found;
        let found = judge(&duties, &host, &BTreeSet::new());
        assert_eq!(found[0].kind, Kind::NotDecapsulated);
    }
    let eth0 = host.interfaces.get_mut("eth0").expect("test data");
    eth0.decapsulates = Decapsulation::Program(wanted);
    assert_eq!(judge(&duties, &host, &BTreeSet::new()), []);
}
