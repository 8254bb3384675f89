use core::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::{
    diagnostic::Severity,
    parse, parse_bytes, reference,
    schema::{Absent, Kind, SECTIONS},
};
use crate::model::{
    Check, CheckKind, Dataplane, Echo, Fragments, HashPolicy, Mode, Model, MssClamp, Protocol,
    Unmatched, XdpMode,
};

mod flows;

const FULL: &str = r#"
[node.lb1]
interfaces = ["eth0", "eth1"]
vip_interface = "eth1"
xdp = "generic"

[node.lb2]
interfaces = ["ens3"]

[[service]]
name = "web"
vip = "192.0.2.10"
protocol = "tcp"
port = 80
mode = "nat"
hash = "source"
slots = 4093
backend = [{ address = "10.0.0.11", port = 8080, weight = 10, name = "one" }, { address = "10.0.0.12" }]
check = { type = "tcp", interval_ms = 500, timeout_ms = 200, rise = 1, fall = 2, port = 8081 }

[[service]]
name = "dns6"
vip = "2001:db8::53"
protocol = "udp"
port = 53
mode = "l2-dsr"
[[service.backend]]
address = "2001:db8:1::1"
weight = 0
[[service.backend]]
address = "2001:db8:1::2"
[service.check]
type = "tcp"
interval_ms = 300

[dataplane]
xdp = "native"
hash_seed = 7
max_services = 10
max_backends = 20
max_slots = 70_000
"#;

fn model(text: &str) -> Model {
    parse("test.toml", text)
        .unwrap_or_else(|report| panic!("{report}"))
        .model
}

/// What is said of `text`: "line:column message | label | help", errors only.
fn errors(text: &str) -> Vec<String> {
    match parse("test.toml", text) {
        Ok(_) => Vec::new(),
        Err(report) => report
            .findings()
            .into_iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|f| {
                let place = format!("{}:{} {}", f.position.line, f.position.column, f.message);
                std::iter::once(place)
                    .chain(f.hint)
                    .collect::<Vec<_>>()
                    .join(" | ")
            })
            .collect(),
    }
}

/// One service on line 2, whose keys follow, then `rest`.
fn with_service(keys: &str, rest: &str) -> String {
    let default = |key: &str, line: &str| {
        if keys.contains(key) {
            String::new()
        } else {
            format!("{line}\n")
        }
    };
    format!(
        "node.n.interfaces = [\"eth0\"]\n[[service]]\n{keys}\n{}{}{}{}{rest}",
        default("name =", "name = \"a\""),
        default("vip =", "vip = \"192.0.2.1\""),
        default("port =", "port = 80"),
        default("mode =", "mode = \"nat\""),
    )
}

#[track_caller]
fn one_error(text: &str, expected: &str) {
    let found = errors(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0], expected);
}

#[test]
fn every_key_reaches_the_model() {
    let model = model(FULL);
    let lb1 = model.node("lb1").expect("it is there");
    assert_eq!(
        (lb1.interfaces.as_slice(), lb1.vip_interface.as_str()),
        (["eth0".into(), "eth1".into()].as_slice(), "eth1")
    );
    assert_eq!(lb1.xdp, XdpMode::Generic);
    let lb2 = model.node("lb2").expect("it is there");
    assert_eq!(
        (lb2.vip_interface.as_str(), lb2.xdp),
        ("ens3", XdpMode::Native)
    );

    let [web, dns] = model.services.as_slice() else {
        panic!("two services")
    };
    assert_eq!(web.key().to_string(), "192.0.2.10:80/tcp");
    assert_eq!(
        (web.mode, web.hash, web.slots),
        (Mode::Nat, HashPolicy::Source, 4093)
    );
    assert_eq!(
        (
            web.backends[0].port,
            web.backends[0].weight,
            web.backends[0].name.as_deref()
        ),
        (8080, 10, Some("one"))
    );
    assert_eq!(
        (
            web.backends[1].port,
            web.backends[1].weight,
            web.backends[1].name.as_deref()
        ),
        (80, 1, None)
    );
    let check = Check {
        kind: CheckKind::Tcp,
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(200),
        rise: 1,
        fall: 2,
        port: Some(8081),
    };
    assert_eq!(web.check, Some(check));

    assert_eq!(dns.key().to_string(), "[2001:db8::53]:53/udp");
    assert_eq!(
        (dns.protocol, dns.mode, dns.hash, dns.slots),
        (Protocol::Udp, Mode::L2Dsr, HashPolicy::L3L4, 65_537)
    );
    assert_eq!(dns.backends[0].weight, 0);
    let check = dns.check.as_ref().expect("it has one");
    assert_eq!(
        (check.interval, check.timeout),
        (Duration::from_millis(300), Duration::from_millis(300))
    );

    let capacity = model.dataplane.capacity;
    assert_eq!(
        (
            capacity.max_services,
            capacity.max_backends,
            capacity.max_slots
        ),
        (10, 20, 70_000)
    );
    assert_eq!(model.dataplane.hash_seed, 7);
}

#[test]
fn defaults_are_those_of_the_model() {
    assert_eq!(
        model("node.n.interfaces = [\"eth0\"]").dataplane,
        Dataplane::default()
    );
    assert_eq!(
        model("node.n.interfaces = [\"eth0\"]\n[dataplane]").dataplane,
        Dataplane::default()
    );
}

#[test]
fn every_mistake_of_a_file_is_reported_in_its_order() {
    let text = with_service(
        "prot = \"tcp\"\nweight = 1\nmode = \"natt\"",
        "[[service.backend]]\naddress = \"x\"\nweight = \"1\"\n",
    );
    assert_eq!(
        errors(&text),
        [
            "3:1 unknown key `prot` in [[service]] | did you mean `port`?",
            "4:1 unknown key `weight` in [[service]] | belongs in [[service.backend]]",
            "5:8 `mode` cannot be \"natt\" | did you mean \"nat\"? | `mode` is one of: \"nat\", \"snat\", \"l2-dsr\", \"l3-dsr\"",
            "10:11 `address` is \"x\", which is not an IP address | an IPv4 or IPv6 address, such as \"192.0.2.10\" or \"2001:db8::10\"",
            "11:10 `weight` is text, not a number | a number is expected | write it without quotes: weight = 1",
        ]
    );
}

#[test]
fn the_text_shows_the_line_and_underlines_what_is_meant() {
    let text = with_service(
        "",
        "[[service]]\nname = \"b\"\n\tvip = \"192.0.2.1\"\nport = 80\nmode = \"nat\"\n",
    );
    let report = parse("futago.toml", &text)
        .expect_err("one VIP twice")
        .to_string();
    let expected = r#"error: 192.0.2.1:80/tcp is declared twice
  --> futago.toml:10:8
   |
10 |  vip = "192.0.2.1"
   |        ^^^^^^^^^^^ a packet to it could not choose
  --> futago.toml:5:7
   |
 5 | vip = "192.0.2.1"
   |       ----------- first here
   = help: move the backends into one [[service]], or choose another VIP, protocol or port
"#;
    assert!(report.contains(expected), "{report}");
    assert!(
        report.ends_with("futago.toml: 1 error, 2 warnings\n"),
        "{report}"
    );
}

#[test]
fn syntax() {
    one_error("a = [\n", "1:6 unclosed array, expected `]`");
    one_error(
        "vip = 192.0.2.1\n",
        "1:12 invalid float, expected nothing | text is written in quotes | write \"192.0.2.1\"",
    );
    let found = errors("mode = nat\n");
    assert!(
        found.len() == 1 && found[0].ends_with("text is written in quotes | write \"nat\""),
        "{found:?}"
    );
    let found = errors("mode = l2-dsr\n");
    assert!(
        found.len() == 1 && found[0].ends_with("write \"l2-dsr\""),
        "{found:?}"
    );
    let found = errors("vip = 2001:db8::1\n");
    assert!(
        found.len() == 1 && found[0].ends_with("write \"2001:db8::1\""),
        "{found:?}"
    );
    let found = errors("port = 8o\n");
    assert!(
        found.len() == 1 && !found[0].contains("quotes"),
        "{found:?}"
    );
    let found = errors("a = 1\nb = 2\na = 3\n");
    assert!(
        found.len() == 1 && found[0].starts_with("3:1 duplicate key"),
        "{found:?}"
    );
    let report = parse_bytes("f", b"# ok\nname = \"\xff\"").expect_err("not UTF-8");
    assert_eq!(
        report.findings()[0].position,
        super::Position { line: 2, column: 9 }
    );
}

#[test]
fn nodes() {
    one_error("", "1:1 the file has no `node` | add: [node.lb1]");
    one_error(
        "[node.lb1]\n",
        "1:1 [node.<name>] has no `interfaces` | add: interfaces = [\"eth0\", \"eth1\"]",
    );
    one_error(
        "[node.lb1]\ninterfaces = []\n",
        "2:14 the node has no interface | name at least one | interfaces = [\"eth0\"]; `ip -br link` lists what the host has",
    );
    one_error(
        "[node.lb1]\ninterfaces = [\"a\", \"a\"]\n",
        "2:20 interface `a` is listed twice | remove it",
    );
    one_error(
        "[node.lb1]\ninterfaces = [\"much-too-long-for-it\"]\n",
        "2:15 \"much-too-long-for-it\" cannot be the name of a network interface | 1 to 15 bytes, without `/`, `:` or blanks | `ip -br link` lists the interfaces of the host",
    );
    one_error(
        "[node.lb1]\ninterfaces = \"eth0\"\n",
        "2:14 `interfaces` is text, not a list | a list is expected | write it in brackets: interfaces = [\"eth0\"]",
    );
    one_error(
        "[node]\ninterfaces = [\"eth0\"]\n",
        "2:1 `interfaces` stands outside of a named section | of which one? | begin the section with its name: [node.lb1]",
    );
    one_error(
        "[node.\"a b\"]\ninterfaces = [\"eth0\"]\n",
        "1:7 name of the node: ' ' cannot be in a name: use letters, digits, `-`, `_` and `.`",
    );
    let error = model("node.lb1.interfaces = [\"eth0\"]\nnode.lb2.interfaces = [\"eth0\"]")
        .node("lb3")
        .expect_err("no such");
    assert_eq!(
        error.to_string(),
        "the configuration has no [node.lb3]; it has: lb1, lb2"
    );
}

#[test]
fn addresses() {
    for (vip, message) in [
        ("0.0.0.0", "unspecified: every host means itself by it"),
        ("::", "unspecified: every host means itself by it"),
        ("127.0.0.2", "a loopback address: it never leaves a host"),
        ("::1", "a loopback address: it never leaves a host"),
        (
            "224.0.0.1",
            "a multicast address: it names a group, not a host",
        ),
        (
            "ff02::1",
            "a multicast address: it names a group, not a host",
        ),
        (
            "255.255.255.255",
            "the broadcast address: it names every host",
        ),
    ] {
        let text = with_service(&format!("vip = \"{vip}\""), "");
        one_error(
            &text,
            &format!(
                "3:7 `vip` cannot be {} | {message}",
                vip.parse::<IpAddr>().expect("an address")
            ),
        );
    }
    for (vip, help) in [
        (
            "::ffff:192.0.2.1",
            "`vip` is an IPv4 address in IPv6 clothes | packets carry it as IPv4 | write \"192.0.2.1\"",
        ),
        (
            "192.0.2.1/32",
            "`vip` is \"192.0.2.1/32\", which is not an IP address | no prefix length here | write \"192.0.2.1\"",
        ),
        (
            "192.0.2.1:80",
            "`vip` is \"192.0.2.1:80\", which is not an IP address | the port is a key of its own | write vip = \"192.0.2.1\" and port = 80",
        ),
        (
            "[2001:db8::1]",
            "`vip` is \"[2001:db8::1]\", which is not an IP address | no brackets here | write \"2001:db8::1\"",
        ),
    ] {
        one_error(
            &with_service(&format!("vip = \"{vip}\""), ""),
            &format!("3:7 {help}"),
        );
    }
}

#[test]
fn services() {
    one_error(
        &with_service("port = 0", ""),
        "3:8 `port` is 0, outside 1 to 65535 | a number from 1 to 65535",
    );
    one_error(
        &with_service("slots = 65536", ""),
        "3:9 `slots` is 65536, which is not a prime | the next prime is 65537",
    );
    one_error(
        &with_service(
            "",
            "[[service]]\nname = \"a\"\nvip = \"192.0.2.2\"\nport = 80\nmode = \"nat\"\n",
        ),
        "9:8 two services have the name `a` | choose another",
    );
    one_error(
        "node.n.interfaces = [\"eth0\"]\n[service]\nname = \"a\"\nvip = \"192.0.2.1\"\nport = 80\nmode = \"nat\"\n",
        "2:1 `service` is a table, not a list of sections | a list of sections is expected | begin each with double brackets: [[service]]",
    );
    // The misspelt key is told once, not as missing too.
    one_error(
        &with_service("vpi = \"192.0.2.1\" # vip =", ""),
        "3:1 unknown key `vpi` in [[service]] | did you mean `vip`?",
    );
}

#[test]
fn backends() {
    let backend = |keys: &str| format!("[[service.backend]]\n{keys}\n");
    one_error(
        &with_service("", &backend("address = \"2001:db8::1\"")),
        "9:11 backend 2001:db8::1 is IPv6 behind an IPv4 VIP | write its IPv4 address | or serve IPv6 clients by a [[service]] with an IPv6 VIP",
    );
    one_error(
        &with_service("", &backend("address = \"10.0.0.1\"\nweight = 1001")),
        "10:10 `weight` is 1001, outside 0 to 1000 | a number from 0 to 1000",
    );
    one_error(
        &with_service("", &backend("address = \"10.0.0.1\"\nport = 0")),
        "10:8 `port` is 0, outside 1 to 65535 | a number from 1 to 65535",
    );
    one_error(
        &with_service(
            "",
            &(backend("address = \"10.0.0.1\"") + &backend("address = \"10.0.0.1\"\nport = 80")),
        ),
        "11:11 backend 10.0.0.1:80 is in the service twice | remove one | a larger share is a larger `weight`",
    );
    one_error(
        &with_service(
            "mode = \"l2-dsr\"",
            &backend("address = \"10.0.0.1\"\nport = 8080"),
        ),
        "9:8 the backend's port is 8080, the service's 80 | remove it, or write 80 | let the server listen on the service's port, or choose mode = \"nat\"",
    );
    assert_eq!(
        errors(&with_service(
            "mode = \"l2-dsr\"",
            &backend("address = \"10.0.0.1\"\nport = 80")
        )),
        [""; 0]
    );
    one_error(
        &with_service("", &backend("address = \"192.0.2.1\"")),
        "9:11 backend 192.0.2.1 is a VIP | packets to it would come back to the load balancer | write the server's own address, also in `l2-dsr`",
    );
    let five: String = (1..=5)
        .map(|host| backend(&format!("address = \"10.0.0.{host}\"")))
        .collect();
    one_error(
        &with_service("slots = 3", &five),
        "3:9 the service has 5 backends and room for 3 | slots = 503 is 100 for each backend",
    );
}

#[test]
fn a_backend_behind_two_nat_services_is_ambiguous_only_on_one_port_and_protocol() {
    let second = |mode: &str, protocol: &str, port: u16| {
        let first = "[[service.backend]]\naddress = \"10.0.0.1\"\n";
        let second = format!(
            "[[service]]\nname = \"b\"\nvip = \"192.0.2.2\"\nport = 80\nmode = \"{mode}\"\nprotocol = \"{protocol}\"\n\
             [[service.backend]]\naddress = \"10.0.0.1\"\n"
        );
        let port = if mode == "nat" {
            format!("port = {port}\n")
        } else {
            String::new()
        };
        errors(&with_service("", &format!("{first}{second}{port}")))
    };
    assert_eq!(
        second("nat", "tcp", 80),
        [
            "17:11 backend 10.0.0.1:80 serves two `nat` services over tcp | its replies could be either's | let the server listen on a second port or address for one of them"
        ]
    );
    assert_eq!(second("nat", "tcp", 81), [""; 0]);
    assert_eq!(second("nat", "udp", 80), [""; 0]);
    assert_eq!(second("l2-dsr", "tcp", 80), [""; 0]);
}

#[test]
fn checks() {
    let check = |keys: &str| with_service("", &format!("[service.check]\n{keys}\n"));
    one_error(
        &check("interval_ms = 100"),
        "8:1 [service.check] has no `type` | add: type = \"tcp\"",
    );
    one_error(
        &check("type = \"tcp\"\ninterval_ms = 100\ntimeout_ms = 101"),
        "11:14 `timeout_ms` is 101, longer than the interval | at most 100 | there is one probe at a time: one ends before the next begins",
    );
    one_error(
        &check("type = \"tcp\"\nrise = 0"),
        "10:8 `rise` is 0, outside 1 to 1000 | a number from 1 to 1000",
    );
    one_error(
        &check("type = \"tcp\"\nfall = 0"),
        "10:8 `fall` is 0, outside 1 to 1000 | a number from 1 to 1000",
    );
    one_error(
        &check("type = \"http\""),
        "9:8 `type` cannot be \"http\" | not known | `type` is one of: \"tcp\"",
    );
}

#[test]
fn capacity() {
    let services: String = (1..=3)
        .map(|n| {
            format!(
                "[[service]]\nname = \"s{n}\"\nvip = \"192.0.2.{n}\"\nport = 80\nmode = \"nat\"\nslots = 101\n\
                 backend = [{{ address = \"10.0.0.{n}\" }}]\n"
            )
        })
        .collect();
    for (limit, what, total) in [
        ("max_services", "services", 3),
        ("max_backends", "backends", 3),
        ("max_slots", "slots", 303),
    ] {
        let text = |limit_value: usize| {
            format!("node.n.interfaces = [\"eth0\"]\ndataplane.{limit} = {limit_value}\n{services}")
        };
        assert_eq!(errors(&text(total)), [""; 0]);
        one_error(
            &text(total - 1),
            &format!(
                "17:1 the services have {total} {what}, and `{limit}` is {} | the first that does not fit | write at least {limit} = {total} in [dataplane]",
                total - 1
            ),
        );
    }
}

#[test]
fn warnings_do_not_refuse() {
    let warnings = |text: &str| -> Vec<String> {
        let loaded = parse("f", text).unwrap_or_else(|report| panic!("{report}"));
        loaded
            .warnings
            .findings()
            .into_iter()
            .map(|f| format!("{}:{} {}", f.position.line, f.position.column, f.message))
            .collect()
    };
    let backend = "[[service.backend]]\naddress = \"10.0.0.1\"\n";
    assert_eq!(
        warnings(&with_service("", "")),
        ["2:1 the service has no backend"]
    );
    assert_eq!(
        warnings(&with_service("", backend)),
        ["2:1 the service has no check"]
    );
    assert_eq!(
        warnings(&with_service("", &format!("{backend}weight = 0"))),
        ["2:1 every backend of the service has weight 0 or is drained"]
    );
    let check = format!("{backend}[service.check]\ntype = \"tcp\"\n");
    assert_eq!(warnings(&with_service("", &check)), [""; 0]);
    assert_eq!(
        warnings(&with_service("slots = 97", &check)),
        ["3:9 97 slots are few for 1 backends"]
    );
    assert_eq!(
        warnings(&with_service("protocol = \"udp\"", &check)),
        ["11:8 a TCP check for a UDP service"]
    );
    assert_eq!(
        warnings(&with_service(
            "protocol = \"udp\"",
            &format!("{check}port = 53")
        )),
        [""; 0]
    );
}

#[test]
fn the_digest_sees_what_is_meant_and_not_how_it_is_written() {
    let digest = model(FULL).digest();
    let shuffled = r#"
        # The same, in another order and with defaults written out.
        [dataplane]
        max_slots = 70000
        max_backends = 20
        max_services = 10
        hash_seed = 0x7
        slots = 65537
        xdp = "native"
        [[service]]
        mode = "l2-dsr"
        port = 53
        protocol = "udp"
        vip = "2001:0db8:0::53"
        name = "dns6"
        hash = "l3+l4"
        check = { interval_ms = 300, type = "tcp", timeout_ms = 300, rise = 2, fall = 3 }
        backend = [{ address = "2001:db8:1::2", weight = 1 }, { address = "2001:db8:1::1", weight = 0 }]
        [[service]]
        name = "web"
        vip = "192.0.2.10"
        port = 80
        mode = "nat"
        hash = "source"
        slots = 4093
        [[service.backend]]
        address = "10.0.0.12"
        [[service.backend]]
        address = "10.0.0.11"
        port = 8080
        weight = 10
        name = "one"
        [service.check]
        type = "tcp"
        interval_ms = 500
        timeout_ms = 200
        rise = 1
        fall = 2
        port = 8081
        [node]
        lb2.interfaces = ["ens3"]
        [node.lb1]
        xdp = "generic"
        vip_interface = "eth1"
        interfaces = ["eth0", "eth1"]
    "#;
    assert_eq!(model(shuffled).digest(), digest);
    assert_eq!(digest.to_string().len(), 64);
    for (from, to) in [
        ("weight = 10", "weight = 11"),
        ("\"ens3\"", "\"ens4\""),
        ("fall = 2", "fall = 3"),
        ("hash_seed = 7", ""),
    ] {
        assert!(FULL.contains(from));
        assert_ne!(
            model(&FULL.replacen(from, to, 1)).digest(),
            digest,
            "{from} -> {to}"
        );
    }
}

/// An example in the reference that is refused would be a bad one.
#[test]
fn examples_and_defaults_of_the_schema_are_valid() {
    for key in SECTIONS.iter().flat_map(|section| section.keys) {
        if let (Kind::Number { min, max }, Absent::Number(default)) = (key.kind, key.absent) {
            assert!((min..=max).contains(&default), "default of `{}`", key.name);
        }
        let example: Option<toml::Table> = format!("value = {}", key.example).parse().ok();
        let value = example.and_then(|table| table.get("value").cloned());
        let valid = match (key.kind, value) {
            (Kind::Name | Kind::Text, Some(toml::Value::String(_))) => true,
            (Kind::Address, Some(toml::Value::String(text))) => text.parse::<IpAddr>().is_ok(),
            (Kind::Number { min, max }, Some(toml::Value::Integer(number))) => {
                (min..=max).contains(&number)
            }
            (Kind::Word(words), Some(toml::Value::String(word))) => {
                words().contains(&word.as_str())
            }
            (Kind::TextList, Some(toml::Value::Array(_))) => true,
            (Kind::Flag, Some(toml::Value::Boolean(_))) => true,
            (Kind::AddressList, Some(toml::Value::Array(list))) => list
                .iter()
                .all(|a| a.as_str().is_some_and(|a| a.parse::<IpAddr>().is_ok())),
            (Kind::NumbersByName { min, max }, Some(toml::Value::Table(numbers))) => numbers
                .values()
                .all(|n| n.as_integer().is_some_and(|n| (min..=max).contains(&n))),
            (Kind::Table(section) | Kind::Tables(section) | Kind::NamedTables(section), _) => {
                !section.keys.is_empty() && key.example.starts_with('[')
            }
            _ => false,
        };
        assert!(valid, "example of `{}`", key.name);
    }
    assert!(reference::markdown().contains("| `weight` | number, 0 to 1000 | 1 |"));
}

fn never_panics(bytes: &[u8]) {
    match parse_bytes("fuzz.toml", bytes) {
        Ok(loaded) => {
            let _ = (loaded.model.digest(), loaded.warnings.to_string());
        }
        Err(report) => {
            assert!(report.errors() > 0, "refused without a reason");
            let _ = (report.to_string(), report.findings());
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        never_panics(&bytes);
    }

    #[test]
    fn random_toml_characters_never_panic(text in r#"[\[\]{}=."',\n\t a-c0-2é:_-]{0,80}"#) {
        never_panics(text.as_bytes());
    }

    /// Pieces of a valid file cut out, doubled and exchanged, and bytes flipped.
    #[test]
    fn mutated_files_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..60_usize, any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6)
    ) {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, length, to, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let (start, to) = (at.index(bytes.len()), to.index(bytes.len()));
            let end = (start + length).min(bytes.len());
            match kind {
                0 => drop(bytes.drain(start..end)),
                1 => {
                    let piece = bytes[start..end].to_vec();
                    bytes.splice(to..to, piece);
                }
                2 => bytes[start] = byte,
                _ => {
                    // A whole line, so that the file mostly stays TOML.
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let mut lines: Vec<&str> = text.lines().collect();
                    let (from, to) = (at.index(lines.len().max(1)), usize::from(byte) % lines.len().max(1));
                    if let Some(line) = lines.get(from).copied() {
                        lines.insert(to, line);
                    }
                    bytes = lines.join("\n").into_bytes();
                }
            }
        }
        never_panics(&bytes);
    }
}

#[test]
fn tunnels() {
    let other_family = "[[service.backend]]\naddress = \"fd00::1\"\n";
    for (encap, mode) in [("ipip", Mode::Ipip), ("gre", Mode::Gre), ("gue", Mode::Gue)] {
        let text = with_service(
            &format!("mode = \"l3-dsr\"\nencap = \"{encap}\""),
            other_family,
        );
        let service = model(&text).services.remove(0);
        assert_eq!((service.mode, service.gue_port), (mode, 6080));
        assert_eq!(service.mode.words(), ("l3-dsr", Some(encap)));
    }
    one_error(
        &with_service("mode = \"l3-dsr\"", ""),
        "3:8 `l3-dsr` says not how | add `encap` | encap = \"ipip\", \"gre\", \"gue\" or \"dscp\"",
    );
    one_error(
        &with_service("encap = \"ipip\"\nmode = \"nat\"", ""),
        "3:9 `encap` belongs to `l3-dsr` alone | remove it",
    );
    one_error(
        &with_service("mode = \"l3-dsr\"\nencap = \"ipipe\"", ""),
        "4:9 `encap` cannot be \"ipipe\" | did you mean \"ipip\"? | `encap` is one of: \"ipip\", \"gre\", \"gue\", \"dscp\"",
    );
}

#[test]
fn codes_of_vips() {
    let service = |number: usize, backend: &str, rest: &str| {
        format!(
            "[[service]]\nname = \"s{number}\"\nvip = \"192.0.2.{number}\"\nport = 80\nmode = \"l3-dsr\"\nencap = \"dscp\"\n\
             backend = [{{ address = \"{backend}\" }}]\ncheck.type = \"tcp\"\n{rest}\n"
        )
    };
    let node = "node.n.interfaces = [\"eth0\"]\n";
    let codes = |text: &str| -> Vec<u8> {
        let services = model(&format!("{node}{text}")).services;
        services.iter().map(|service| service.dscp).collect()
    };
    // Given out in order, around what is written; VIPs without a common backend may have the same.
    let three = [
        service(1, "10.0.0.1", ""),
        service(2, "10.0.0.1", "dscp = 3"),
        service(3, "10.0.0.2", ""),
    ]
    .concat();
    assert_eq!(codes(&three), [5, 3, 3]);
    // One more at the end changes no other's.
    let four = three + &service(4, "10.0.0.1", "");
    assert_eq!(codes(&four), [5, 3, 3, 7]);
    // A VIP has one code, whichever service says it.
    let other_port = service(1, "10.0.0.1", "dscp = 9")
        .replace("80", "81")
        .replace("s1", "s9");
    assert_eq!(codes(&(service(1, "10.0.0.1", "") + &other_port)), [9, 9]);

    let all: String = (1..=63)
        .map(|number| service(number, "10.0.0.1", ""))
        .collect();
    let mut given = codes(&all);
    given.sort_unstable();
    assert_eq!(given, (1..=63).collect::<Vec<u8>>());
    one_error(
        &format!("{node}{all}{}", service(64, "10.0.0.1", "")),
        "569:1 no DSCP is left for 192.0.2.64: its backends serve 63 other VIPs | there are 63 codes for the VIPs of a backend | give some VIPs backends of their own, or choose a tunnel as `encap`",
    );
    one_error(
        &format!(
            "{node}{}{}",
            service(1, "10.0.0.1", "dscp = 5"),
            service(2, "10.0.0.1", "dscp = 5")
        ),
        "19:8 192.0.2.2 and 192.0.2.1 share a backend and have the code 5 | a packet with it could be for either | remove `dscp` from both, and they get different codes",
    );
    one_error(
        &with_service("dscp = 5\nmode = \"nat\"", ""),
        "3:8 `dscp` belongs to `encap = \"dscp\"` alone | remove it",
    );
    one_error(
        &with_service(
            "mode = \"l3-dsr\"\nencap = \"dscp\"",
            "[[service.backend]]\naddress = \"fd00::1\"\n",
        ),
        "9:11 backend fd00::1 is IPv6 behind an IPv4 VIP | write its IPv4 address | or serve IPv6 clients by a [[service]] with an IPv6 VIP",
    );
}

#[test]
fn what_asks_for_a_protocol_or_a_mode() {
    let service = |text: &str| model(&with_service(text, "")).services.remove(0);
    let plain = service("mode = \"nat\"");
    assert_eq!((plain.fragments, plain.mss_clamp), (Fragments::Track, None));
    assert!(plain.sole);
    let auto = service("mode = \"nat\"\nmss_clamp = \"auto\"");
    assert_eq!(auto.mss_clamp, Some(MssClamp::Auto));
    let bytes = service("mode = \"nat\"\nmss_clamp = 1300\nfragments = \"drop\"");
    assert_eq!(
        (bytes.mss_clamp, bytes.fragments),
        (Some(MssClamp::Bytes(1300)), Fragments::Drop)
    );
    one_error(
        &with_service("hash = \"per-packet\"\nmode = \"nat\"", ""),
        "3:8 `per-packet` is for UDP alone | packets of a connection would reach servers that do not know it",
    );
    one_error(
        &with_service("mss_clamp = 1300\nmode = \"nat\"\nprotocol = \"udp\"", ""),
        "3:13 `mss_clamp` is for TCP alone | remove it",
    );
    one_error(
        &with_service("fragments = \"l3\"\nmode = \"nat\"", ""),
        "3:13 fragments cannot be translated without their ports | write \"track\" or \"drop\"",
    );
    one_error(
        &with_service(
            "mode = \"nat\"\nprotocol = \"sctp\"",
            "[[service.backend]]\naddress = \"10.0.0.9\"\nport = 8080\n",
        ),
        "10:8 a port of SCTP cannot be translated | remove it, or write 80 | let the server listen on the service's port",
    );
}

#[test]
fn tunnel_sources() {
    let node =
        |sources: &str| format!("[node.n]\ninterfaces = [\"eth0\"]\ntunnel_source = [{sources}]\n");
    let sources = |text: &str| {
        let model = model(&node(text));
        model.node("n").expect("it is there").tunnel_sources
    };
    let both = sources("\"10.0.0.17/28\", \"fd00::1\"");
    let (v4, v6): (IpAddr, IpAddr) = (
        "10.0.0.16".parse().expect("one"),
        "fd00::1".parse().expect("one"),
    );
    assert_eq!((both.towards(v4, None), both.entropy_bits()), (Some(v4), 4));
    assert_eq!(both.towards(v6, Some(v4)), Some(v6));
    let none = sources("");
    assert_eq!(
        (none.towards(v4, Some(v6)), none.towards(v4, Some(v4))),
        (None, Some(v4))
    );
    assert_eq!(sources("\"10.0.0.1\"").entropy_bits(), 0);
    for (text, expected) in [
        (
            "\"10.0.0.1/16\"",
            "3:18 the prefix length is \"16\", not 17 to 32 | a prefix of a few addresses, such as \"10.0.0.16/28\"",
        ),
        (
            "\"fd00::1/64\"",
            "3:18 an IPv6 source has no prefix | write \"fd00::1\" | over IPv6 the flow label carries the entropy",
        ),
        (
            "\"10.0.0.1\", \"10.0.0.2\"",
            "3:30 a second `tunnel_source` of this family | remove one",
        ),
    ] {
        one_error(&node(text), expected);
    }
}

#[test]
fn what_is_said_of_a_vip_holds_for_all_its_services() {
    let two = |first: &str, second: &str| {
        format!(
            "node.n.interfaces = [\"eth0\"]\n\
             [[service]]\nname = \"a\"\nvip = \"192.0.2.1\"\nport = 80\nmode = \"nat\"\n{first}\n\
             [[service]]\nname = \"b\"\nvip = \"192.0.2.1\"\nport = 81\nmode = \"nat\"\n{second}\n"
        )
    };
    let services = model(&two("", "unmatched = \"reject\"\necho = \"balancer\"")).services;
    for service in services {
        assert_eq!(
            (service.unmatched, service.echo),
            (Unmatched::Reject, Echo::Balancer)
        );
    }
    one_error(
        &two("unmatched = \"pass\"", "unmatched = \"drop\""),
        "13:13 two services of 192.0.2.1 differ in `unmatched` | write the same, or remove it here",
    );
}
