//! What a file says of flows: tracking, drain, timeouts, SNAT.

use super::{errors, model, one_error, parse, with_service};
use crate::model::{DrainPolicy, FlowTables, Mode, OnBackendDown, OnDrainEnd, Timeouts, Tracking};

const SNAT: &str = r#"
node.a.interfaces = ["eth0"]
node.b.interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
mode = "snat"
snat_pool = "servers"
backend = [{ address = "10.0.0.11", port = 8080 }, { address = "10.0.0.12", drain = true }]
check = { type = "tcp" }
[[snat_pool]]
name = "servers"
addresses = ["10.0.0.100", "10.0.0.101"]
"#;

fn snat(from: &str, to: &str, more: &str) -> String {
    assert!(SNAT.contains(from));
    SNAT.replacen(from, to, 1) + more
}

#[test]
fn what_a_service_says_of_its_flows_reaches_the_model() {
    let model = model(&with_service(
        "tracking = \"full\"\nmax_new_flows_per_second = 5000\non_backend_down = \"keep\"\ndrain_s = 300\non_drain_end = \"rehash\"\ntimeouts = { established_s = 60 }",
        "backend = [{ address = \"10.0.0.1\", drain = true }, { address = \"10.0.0.2\" }]\n[dataplane]\nmax_flows = 5000\ntimeouts = { established_s = 50, reset_s = 3 }\n",
    ));
    let service = &model.services[0];
    assert_eq!(service.tracking, Tracking::Full);
    assert_eq!(service.max_new_flows_per_second, Some(5000));
    assert_eq!(service.on_backend_down, OnBackendDown::Keep);
    assert!(service.policy().full);
    let drain = DrainPolicy {
        deadline_s: Some(300),
        at_end: OnDrainEnd::Rehash,
    };
    assert_eq!(service.drain, drain);
    let timeouts = Timeouts {
        established_s: 60,
        reset_s: 3,
        ..Timeouts::default()
    };
    assert_eq!(service.timeouts, timeouts);
    assert_eq!(
        service.backends.iter().map(|b| b.drain).collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(model.dataplane.flows.ipv4.flows, 8192);
}

#[test]
fn defaults() {
    let model = model(&with_service("protocol = \"udp\"", ""));
    let service = &model.services[0];
    assert_eq!(service.tracking, Tracking::Adaptive);
    assert_eq!(service.on_backend_down, OnBackendDown::Rehash);
    assert_eq!(service.drain.at_end, OnDrainEnd::Rehash);
    assert_eq!(service.drain.deadline_s, None);
    assert_eq!(service.timeouts, Timeouts::default());
}

#[test]
fn each_of_them_is_in_the_digest() {
    let text = |keys: &str| with_service(keys, "");
    let digest = |keys: &str| model(&text(keys)).digest();
    let plain = digest("");
    for keys in [
        "tracking = \"full\"",
        "on_backend_down = \"keep\"",
        "drain_s = 1",
        "on_drain_end = \"reset\"",
        "timeouts = { closed_s = 70 }",
        "backend = [{ address = \"10.0.0.1\", drain = true }]",
    ] {
        assert_ne!(digest(keys), plain, "{keys}");
    }
    assert_eq!(digest("timeouts = { established_s = 900 }"), plain);
    let pool = model(SNAT).digest();
    assert_ne!(model(&snat("10.0.0.101", "10.0.0.102", "")).digest(), pool);
}

#[test]
fn contradictions_are_refused() {
    one_error(
        &with_service("max_new_flows_per_second = 5", ""),
        "3:28 `max_new_flows_per_second` without tracking = \"full\" | remove it | adaptive tracking records no flows while backends do not change",
    );
    one_error(
        &with_service("protocol = \"udp\"\non_backend_down = \"reset\"", ""),
        "4:19 `on_backend_down` is \"reset\", which UDP has not | write \"rehash\", or remove it",
    );
    one_error(
        &with_service("protocol = \"udp\"\non_drain_end = \"reset\"", ""),
        "4:16 `on_drain_end` is \"reset\", which UDP has not | write \"rehash\", or remove it",
    );
    one_error(
        &with_service("snat_pool = \"x\"", ""),
        "3:13 `snat_pool` belongs to `snat` alone | remove it",
    );
}

#[test]
fn a_timeout_of_the_other_protocol_is_a_warning() {
    let text = with_service("timeouts = { udp_s = 5 }", "");
    let loaded = parse("test.toml", &text).expect("allowed");
    let found = loaded.warnings.findings();
    assert!(
        found.iter().any(|f| f.message.contains("another protocol")),
        "{found:?}"
    );
}

#[test]
fn what_the_packet_path_does_not_do_yet_is_a_warning() {
    let warns = |text: &str, part: &str| {
        let loaded = parse("test.toml", text).unwrap_or_else(|report| panic!("{report}"));
        let found = loaded.warnings.findings();
        assert!(found.iter().any(|f| f.message.contains(part)), "{found:?}");
    };
    warns(SNAT, "`snat` is not in effect in this version");
}

#[test]
fn snat_has_a_pool_whose_ports_are_shared() {
    let model = model(SNAT);
    let service = &model.services[0];
    assert_eq!(
        (service.mode, service.tracking),
        (Mode::Snat, Tracking::Full)
    );
    assert_eq!(service.backends[0].port, 8080);
    let pool = model.snat_pool(service).expect("it has one");
    assert_eq!(pool.addresses.len(), 2);
    let node = model.nodes.keys().nth(1).expect("two nodes");
    assert_eq!(pool.ports(node, model.nodes.keys()).first, 33_280);
    assert_eq!(pool.virtual_router, None);
    assert_eq!(model.unelected_vips().len(), 3);
    let flows = model.dataplane.flows;
    assert_eq!(flows.ipv4.snat, 1 << 19);
    assert_eq!(flows.ipv6, FlowTables::new(1 << 18, 1 << 16, 0));
}

#[test]
fn a_virtual_router_holds_the_pool() {
    let router = "[[virtual_router]]\nid = 5\n";
    let other = "[[virtual_router]]\nid = 6\nvips = [\"10.0.0.1\"]\n";
    let of = |text: &str| {
        let model = model(text);
        assert!(model.unelected_vips().is_empty());
        let holds = |router: &crate::model::VirtualRouter| {
            let pool = &model.snat_pools[0].addresses;
            pool.iter().all(|address| router.vips.contains(address))
        };
        let holders = model.virtual_routers.iter().filter(|r| holds(r));
        (
            model.snat_pools[0].virtual_router,
            holders.map(|router| router.id).collect::<Vec<_>>(),
        )
    };
    assert_eq!(of(&snat("", "", router)), (Some(5), vec![5]));
    let named = snat(
        "name = \"servers\"",
        "name = \"servers\"\nvirtual_router = 6",
        &format!("{router}{other}"),
    );
    assert_eq!(of(&named), (Some(6), vec![6]));
    let listed = "[[virtual_router]]\nid = 6\nvips = [\"10.0.0.100\", \"10.0.0.101\"]\n";
    assert_eq!(
        of(&snat("", "", &format!("{router}{listed}"))),
        (Some(6), vec![6])
    );

    let [error] = errors(&snat("", "", &format!("{router}{other}")))
        .try_into()
        .expect("one");
    assert!(
        error.contains("the pool says not which virtual router holds its addresses | add `virtual_router` | virtual_router = one of: 5, 6"),
        "{error}"
    );
}

#[test]
fn snat_without_a_pool_that_fits_is_refused() {
    let one = |text: String, part: &str| {
        let found = errors(&text);
        assert!(
            found.len() == 1 && found[0].contains(part),
            "{part}: {found:#?}"
        );
    };
    one(
        snat("snat_pool = \"servers\"", "", ""),
        "`snat` says not what to send from | add `snat_pool` | snat_pool = \"servers\"",
    );
    one(
        snat("snat_pool = \"servers\"", "snat_pool = \"server\"", ""),
        "there is no [[snat_pool]] `server` | did you mean \"servers\"?",
    );
    one(
        snat("\"10.0.0.100\", \"10.0.0.101\"", "\"2001:db8::1\"", ""),
        "the pool `servers` is IPv6, the service and its backends IPv4",
    );
    one(
        snat("\"10.0.0.101\"", "\"2001:db8::1\"", ""),
        "a pool of IPv4 and IPv6 addresses at once",
    );
    one(
        snat("\"10.0.0.100\"", "\"192.0.2.10\"", ""),
        "192.0.2.10 is a VIP already",
    );
    one(
        snat("\"10.0.0.100\"", "\"10.0.0.11\"", ""),
        "10.0.0.11 is a backend already",
    );
    one(
        snat("\"10.0.0.100\"", "\"10.0.0.101\"", ""),
        "10.0.0.101 is in a pool already",
    );
    one(
        snat(
            "addresses = [\"10.0.0.100\", \"10.0.0.101\"]",
            "addresses = []",
            "",
        ),
        "the pool has no address",
    );
    one(
        snat("", "", "first_port = 9\nlast_port = 9\n"),
        "the ports 9 to 9 cannot be shared by two nodes",
    );
    one(
        snat(
            "mode = \"snat\"",
            "mode = \"snat\"\ntracking = \"full\"",
            "",
        ),
        "`snat` records every connection | remove it",
    );
    one(
        snat(
            "mode = \"snat\"",
            "mode = \"snat\"\nmax_new_flows_per_second = 9",
            "",
        ),
        "`snat` cannot forward a connection without a record",
    );
    one(
        snat("", "", "[node.c]\ninterfaces = [\"eth0\"]\n"),
        "`snat` with 3 nodes",
    );
}
