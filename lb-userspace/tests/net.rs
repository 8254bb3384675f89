//! `lb_userspace::net` against a real kernel: every test in network namespaces of its own, which have no name and
//! vanish with their last user. Needs root.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lb_userspace::net::{
    Mac,
    addresses::{self, Added, Removed},
    announce::{Announcement, Announcer, ArpForm},
    netlink::Netlink,
    next_hop::{NextHop, NextHopChanged, Unresolved, Why},
    routes::NoRoute,
    sysctl::{self, Restored},
    watch::{Event, Options, Watcher},
};
use tokio::sync::mpsc;

/// Longer than the longest pause between two attempts to resolve a neighbour.
const PATIENCE: Duration = Duration::from_secs(20);

struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        let namespace = thread::spawn(|| {
            // SAFETY: unshare(2) takes no pointers; it affects this thread, which ends here.
            let failed = unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0;
            assert!(
                !failed,
                "cannot make a network namespace; run as root: {}",
                io::Error::last_os_error()
            );
            File::open("/proc/thread-self/ns/net").expect("procfs")
        });
        let namespace = Self(namespace.join().expect("the thread that made a namespace"));
        // Otherwise IPv6 addresses go with the link.
        namespace.run(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/all/keep_addr_on_down", "1").expect("IPv6")
        });
        namespace.ip("link set lo up");
        namespace
    }

    fn enter(&self) {
        // SAFETY: setns(2) takes no pointers, and the descriptor is open.
        let failed = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } != 0;
        assert!(!failed, "setns: {}", io::Error::last_os_error());
    }

    /// Runs `f` in the namespace, in a thread of its own.
    fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter();
                f()
            });
            inside.join().expect("panicked in the namespace")
        })
    }

    fn ip(&self, arguments: &str) -> String {
        self.run(|| run("ip", arguments))
    }

    /// Makes neighbours of `interface` age in seconds instead of minutes.
    fn age_fast(&self, interface: &str) {
        self.run(|| {
            for family in ["ipv4", "ipv6"] {
                let base = format!("/proc/sys/net/{family}/neigh/{interface}");
                for (name, value) in [
                    ("base_reachable_time_ms", "600"),
                    ("delay_first_probe_time", "1"),
                    ("retrans_time_ms", "100"),
                ] {
                    std::fs::write(format!("{base}/{name}"), value).expect("neighbour settings");
                }
            }
        });
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .expect(program);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A load balancer `lb` and the rest of the world `peer`, joined by two cables: `lb0`-`peer0`, `lb1`-`peer1`.
struct Lab {
    lb: Namespace,
    peer: Namespace,
}

const PEER0_MAC: Mac = [2, 0, 0, 0, 1, 0];
const PEER1_MAC: Mac = [2, 0, 0, 0, 1, 1];
const LB0_MAC: Mac = [2, 0, 0, 0, 0, 0];
const LB1_MAC: Mac = [2, 0, 0, 0, 0, 1];

impl Lab {
    fn new() -> Self {
        let lab = Self {
            lb: Namespace::new(),
            peer: Namespace::new(),
        };
        let peer = lab.peer.path();
        for cable in 0..2 {
            lab.lb.ip(&format!(
                "link add lb{cable} address 02:00:00:00:00:0{cable} type veth \
                 peer name peer{cable} address 02:00:00:00:01:0{cable} netns {peer}"
            ));
            for (namespace, side, host) in [(&lab.lb, "lb", 1), (&lab.peer, "peer", 2)] {
                namespace.ip(&format!(
                    "addr add 10.0.{cable}.{host}/24 dev {side}{cable}"
                ));
                namespace.ip(&format!(
                    "addr add fd00:{cable}::{host}/64 dev {side}{cable} nodad"
                ));
                namespace.ip(&format!("link set {side}{cable} up"));
            }
        }
        lab
    }

    fn index(&self, name: &str) -> u32 {
        let text = self.lb.ip(&format!("-o link show dev {name}"));
        text.split(':')
            .next()
            .and_then(|index| index.parse().ok())
            .expect("ip -o link")
    }
}

/// Runs a test on the daemon's kind of runtime in the load balancer's namespace.
fn in_lab(test: impl AsyncFnOnce(&Lab) + Send) {
    let lab = Lab::new();
    lab.lb.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        runtime.block_on(test(&lab));
    });
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The first event from now on of which `wanted` makes something.
    async fn wait<T>(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            match tokio::time::timeout_at(deadline.into(), self.0.recv()).await {
                Ok(Some(event)) => match wanted(&event) {
                    Some(found) => return found,
                    None => seen.push(event),
                },
                Ok(None) => panic!("the watcher ended while waiting for {what}"),
                Err(_) => panic!("{what} never came; seen: {seen:#?}"),
            }
        }
    }

    async fn next_hop(&mut self, address: &str) -> NextHopChanged {
        let address = ip(address);
        self.wait("a next hop", |event| match event {
            Event::NextHop(change) if change.address == address => Some(change.clone()),
            _ => None,
        })
        .await
    }

    async fn next_hop_where(
        &mut self,
        address: &str,
        wanted: impl Fn(&NextHopChanged) -> bool,
    ) -> NextHopChanged {
        let address = ip(address);
        self.wait("the next hop", |event| match event {
            Event::NextHop(change) if change.address == address && wanted(change) => {
                Some(change.clone())
            }
            _ => None,
        })
        .await
    }

    async fn resolved(&mut self, address: &str) -> NextHop {
        self.next_hop_where(address, |change| change.next_hop.is_some())
            .await
            .next_hop
            .expect("checked")
    }

    async fn mac(&mut self, address: &str, mac: Mac) {
        self.next_hop_where(address, |change| {
            change.next_hop.is_some_and(|hop| hop.dst_mac == mac)
        })
        .await;
    }
}

async fn watcher() -> (Watcher, Events) {
    let (watcher, events) = Watcher::start(Options::default()).await.expect("watcher");
    (watcher, Events(events))
}

#[test]
fn a_neighbour_on_the_link_is_resolved_without_any_traffic() {
    in_lab(async |lab| {
        let (watcher, mut events) = watcher().await;
        for (address, source) in [("10.0.0.2", "10.0.0.1"), ("fd00:0::2", "fd00:0::1")] {
            watcher.track([ip(address)]);
            let first = events.next_hop(address).await;
            assert!(
                matches!(first.why, Why::Unresolved(Unresolved::Waiting { .. })),
                "{first}"
            );
            let hop = events.resolved(address).await;
            let expected = NextHop {
                ifindex: lab.index("lb0"),
                src_mac: LB0_MAC,
                dst_mac: PEER0_MAC,
                vlan: None,
                mtu: 1500,
                source: Some(ip(source)),
            };
            assert_eq!(hop, expected);
        }
    });
}

#[test]
fn a_mac_that_moves_is_followed() {
    in_lab(async |lab| {
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("10.0.0.2"), ip("fd00:0::2")]);
        events.mac("10.0.0.2", PEER0_MAC).await;
        let index = lab.peer.run(|| index_here("peer0"));
        let moved: Mac = [2, 0, 0, 0, 9, 9];
        lab.peer.ip("link set peer0 address 02:00:00:00:09:09");
        lab.peer.run(|| {
            let announcer = Announcer::open(index).expect("packet socket");
            for vip in ["10.0.0.2", "fd00:0::2"] {
                let news = Announcement {
                    vip: ip(vip),
                    mac: moved,
                    arp: ArpForm::Both,
                    router: false,
                };
                announcer.send(&news).expect("sent");
            }
        });
        // Either may come first; both have to.
        let mut missing = BTreeSet::from([ip("10.0.0.2"), ip("fd00:0::2")]);
        while !missing.is_empty() {
            let address = events
                .wait("the new MAC", |event| match event {
                    Event::NextHop(change)
                        if change.next_hop.is_some_and(|hop| hop.dst_mac == moved) =>
                    {
                        Some(change.address)
                    }
                    _ => None,
                })
                .await;
            missing.remove(&address);
        }
    });
}

fn index_here(name: &str) -> u32 {
    let text = run("ip", &format!("-o link show dev {name}"));
    text.split(':')
        .next()
        .and_then(|index| index.parse().ok())
        .expect("ip -o link")
}

#[test]
fn a_changed_route_changes_the_next_hop_and_only_for_its_own_addresses() {
    in_lab(async |lab| {
        lab.lb.ip("route add 198.51.100.0/24 via 10.0.0.2 mtu 1400");
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("198.51.100.7"), ip("10.0.0.2")]);
        let hop = events.resolved("198.51.100.7").await;
        assert_eq!((hop.dst_mac, hop.mtu), (PEER0_MAC, 1400));

        lab.lb.ip("route replace 198.51.100.0/24 via 10.0.1.2");
        let hop = events
            .next_hop_where("198.51.100.7", |change| {
                change.next_hop.is_some_and(|hop| hop.mtu == 1500)
            })
            .await
            .next_hop
            .expect("checked");
        assert_eq!(
            (hop.ifindex, hop.src_mac, hop.dst_mac),
            (lab.index("lb1"), LB1_MAC, PEER1_MAC)
        );
        assert_eq!(hop.source, Some(ip("10.0.1.1")));

        lab.lb.ip("route add blackhole 198.51.100.7/32");
        let refused = events
            .next_hop_where("198.51.100.7", |change| change.next_hop.is_none())
            .await;
        assert_eq!(refused.why, Why::Unresolved(NoRoute::Refused.into()));
        lab.lb.ip("route del blackhole 198.51.100.7/32");
        events.mac("198.51.100.7", PEER1_MAC).await;
        lab.lb.ip("route del 198.51.100.0/24");
        let missing = events
            .next_hop_where("198.51.100.7", |change| change.next_hop.is_none())
            .await;
        assert_eq!(missing.why, Why::Unresolved(NoRoute::Missing.into()));
    });
}

#[test]
fn a_link_that_goes_takes_its_next_hops_with_it_although_the_kernel_does_not_announce_the_routes() {
    in_lab(async |lab| {
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("10.0.0.2")]);
        events.mac("10.0.0.2", PEER0_MAC).await;
        lab.lb.ip("link set lb0 down");
        let gone = events
            .next_hop_where("10.0.0.2", |change| change.next_hop.is_none())
            .await;
        assert!(matches!(gone.why, Why::Unresolved(_)), "{gone}");
        lab.lb.ip("link set lb0 up");
        events.mac("10.0.0.2", PEER0_MAC).await;

        lab.peer.ip("link set peer0 down");
        let dark = events
            .next_hop_where("10.0.0.2", |change| change.next_hop.is_none())
            .await;
        assert_eq!(dark.why.to_string(), "interface lb0 has no carrier");
    });
}

#[test]
fn an_address_of_the_host_itself_is_no_backend() {
    in_lab(async |lab| {
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("10.0.0.1")]);
        let own = events.next_hop("10.0.0.1").await;
        assert_eq!(own.why, Why::Unresolved(NoRoute::Local.into()));
        watcher.track([ip("10.0.0.2")]);
        events.mac("10.0.0.2", PEER0_MAC).await;
        lab.lb.ip("addr add 10.0.0.2/32 dev lo");
        let taken = events
            .next_hop_where("10.0.0.2", |change| change.next_hop.is_none())
            .await;
        assert_eq!(taken.why, Why::Unresolved(NoRoute::Local.into()));
    });
}

#[test]
fn a_backend_that_comes_late_is_found_and_one_that_falls_silent_keeps_its_mac() {
    in_lab(async |lab| {
        lab.lb.age_fast("lb0");
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("10.0.0.9")]);
        let silent = events
            .next_hop_where("10.0.0.9", |change| {
                matches!(change.why, Why::Unresolved(Unresolved::Silent { .. }))
            })
            .await;
        assert_eq!(
            silent.why.to_string(),
            "10.0.0.9 on lb0 does not answer ARP"
        );

        lab.peer.ip("addr add 10.0.0.9/24 dev peer0");
        events.mac("10.0.0.9", PEER0_MAC).await;
        // Silence, as of a host that died: nothing answers, and the link stays.
        lab.peer.ip("addr del 10.0.0.9/24 dev peer0");
        let kept = events
            .next_hop_where("10.0.0.9", |change| {
                matches!(change.why, Why::LastKnown { .. })
            })
            .await;
        assert_eq!(kept.next_hop.map(|hop| hop.dst_mac), Some(PEER0_MAC));
        lab.lb.ip("neigh flush dev lb0 nud failed");

        lab.peer.ip("addr add 10.0.0.9/24 dev peer0");
        events
            .next_hop_where("10.0.0.9", |change| {
                matches!(change.why, Why::Resolved { .. })
            })
            .await;
    });
}

#[test]
fn entries_in_use_are_kept_confirmed_and_fixed_ones_left_alone() {
    in_lab(async |lab| {
        lab.lb.age_fast("lb0");
        lab.lb
            .ip("neigh add 10.0.0.77 lladdr 02:00:00:00:07:07 dev lb0 nud permanent");
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("10.0.0.2"), ip("10.0.0.77")]);
        events.mac("10.0.0.77", [2, 0, 0, 0, 7, 7]).await;
        // An entry ages within 0.9 s here and stays STALE for a minute if nobody uses it; confirming it again takes
        // one second in DELAY.
        let mut confirmed = 0;
        let mut was_aged = false;
        let deadline = Instant::now() + PATIENCE;
        while confirmed < 3 {
            assert!(
                Instant::now() < deadline,
                "confirmed only {confirmed} times"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
            let aged = !lab
                .lb
                .ip("neigh show 10.0.0.2 dev lb0")
                .contains("REACHABLE");
            confirmed += u32::from(was_aged && !aged);
            was_aged = aged;
        }
        assert!(
            lab.lb
                .ip("neigh show 10.0.0.77 dev lb0")
                .contains("PERMANENT")
        );
    });
}

#[test]
fn of_several_ways_a_living_one_is_taken() {
    in_lab(async |lab| {
        lab.lb
            .ip("route add 198.51.100.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
        lab.lb
            .ip("route add 2001:db8::/32 nexthop via fd00:0::2 nexthop via fd00:1::2");
        let (watcher, mut events) = watcher().await;
        for (backend, gateways) in [
            ("198.51.100.7", ["10.0.0.2", "10.0.1.2"]),
            ("2001:db8::7", ["fd00:0::2", "fd00:1::2"]),
        ] {
            watcher.track(gateways.map(ip));
            let mut missing = BTreeSet::from(gateways.map(ip));
            while !missing.is_empty() {
                let known = events.wait("the gateways", |event| match event {
                    Event::NextHop(change) if change.next_hop.is_some() => Some(change.address),
                    _ => None,
                });
                missing.remove(&known.await);
            }
            watcher.track([ip(backend)]);
            let chosen = events.resolved(backend).await.ifindex;
            let (dying, other) = if chosen == lab.index("lb0") {
                (0, PEER1_MAC)
            } else {
                (1, PEER0_MAC)
            };
            lab.peer.ip(&format!("link set peer{dying} down"));
            events.mac(backend, other).await;
            lab.peer.ip(&format!("link set peer{dying} up"));
            events
                .next_hop_where(backend, |change| {
                    change.next_hop.is_some_and(|hop| hop.ifindex == chosen)
                })
                .await;
        }
    });
}

#[test]
fn a_nexthop_object_that_changes_is_followed() {
    in_lab(async |lab| {
        lab.lb.ip("nexthop add id 7 via 10.0.0.2 dev lb0");
        lab.lb.ip("route add 198.51.100.0/24 nhid 7");
        let (watcher, mut events) = watcher().await;
        watcher.track([ip("198.51.100.7")]);
        events.mac("198.51.100.7", PEER0_MAC).await;
        lab.lb.ip("nexthop replace id 7 via 10.0.1.2 dev lb1");
        events.mac("198.51.100.7", PEER1_MAC).await;
    });
}

#[test]
fn lost_notifications_are_noticed_and_made_up_for() {
    in_lab(async |lab| {
        let options = Options {
            receive_buffer_bytes: 1,
        };
        let (watcher, events) = Watcher::start(options).await.expect("watcher");
        let mut events = Events(events);
        watcher.track([ip("10.0.0.2")]);
        events.mac("10.0.0.2", PEER0_MAC).await;

        // Nothing is read while this thread is here: the buffer overflows long before the change that matters.
        let mut script = String::new();
        for host in 10..210 {
            script += &format!(
                "neigh replace 10.0.0.{host} lladdr 02:00:00:00:08:08 dev lb0 nud permanent\n"
            );
        }
        script += "neigh replace 10.0.0.2 lladdr 02:00:00:00:07:07 dev lb0 nud permanent\n";
        script += "link set lb1 mtu 1300\n";
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("ip");
        io::Write::write_all(&mut ip.stdin.take().expect("piped"), script.as_bytes())
            .expect("ip -batch");
        assert!(ip.wait().expect("ip").success());

        let mut moved = false;
        let mut shrunk = false;
        events
            .wait("a resync", |event| {
                match event {
                    Event::NextHop(change) => {
                        moved = change
                            .next_hop
                            .is_some_and(|hop| hop.dst_mac == [2, 0, 0, 0, 7, 7]);
                    }
                    Event::Link(change) => {
                        shrunk |= change
                            .after
                            .as_ref()
                            .is_some_and(|link| link.name == "lb1" && link.mtu == 1300);
                    }
                    Event::Resynced => return Some(()),
                }
                None
            })
            .await;
        assert!(
            moved && shrunk,
            "differences are reported before the resync: MAC {moved}, MTU {shrunk}"
        );
        assert_eq!(
            watcher.links().get(lab.index("lb1")).map(|link| link.mtu),
            Some(1300)
        );
    });
}

#[test]
fn interfaces_are_seen_to_appear_change_and_vanish() {
    in_lab(async |lab| {
        let (watcher, mut events) = watcher().await;
        let link = watcher
            .links()
            .named("lb0")
            .cloned()
            .expect("lb0 is there from the start");
        assert_eq!(
            (link.mac, link.mtu, link.up, link.carrier),
            (Some(LB0_MAC), 1500, true, true)
        );
        assert!(link.addresses.contains(&(ip("10.0.0.1"), 24)));

        let mut next = async |command: &str| {
            lab.lb.ip(command);
            events
                .wait(command, |event| match event {
                    Event::Link(change) => Some(change.to_string()),
                    _ => None,
                })
                .await
        };
        assert!(
            next("link add new0 type veth peer name new1")
                .await
                .contains("appeared")
        );
        assert!(
            next("link set lb0 mtu 1400").await.contains("appeared"),
            "the other end of the veth"
        );
        assert_eq!(
            next("link set lb0 address 02:00:00:00:05:05").await,
            "interface lb0: MTU 1500 -> 1400"
        );
        assert_eq!(
            next("addr add 10.9.9.9/32 dev lb0").await,
            "interface lb0: MAC changed"
        );
        assert_eq!(
            next("addr del 10.9.9.9/32 dev lb0").await,
            "interface lb0: address 10.9.9.9/32 added"
        );
        assert_eq!(
            next("link del new0").await,
            "interface lb0: address 10.9.9.9/32 removed"
        );
        assert!(next("link set lo mtu 1000").await.ends_with("vanished"));
        assert_eq!(
            watcher.links().named("lb0").and_then(|link| link.mac),
            Some([2, 0, 0, 0, 5, 5])
        );
    });
}

#[test]
fn a_vip_is_added_once_removed_once_and_never_taken_from_others() {
    in_lab(async |lab| {
        let netlink = Netlink::open().expect("netlink");
        let index = lab.index("lb0");
        for vip in ["10.0.0.80", "fd00:0::80"].map(ip) {
            assert_eq!(
                addresses::add(&netlink, index, vip).await.expect("added"),
                Added::New
            );
            assert_eq!(
                addresses::add(&netlink, index, vip).await.expect("there"),
                Added::AlreadyOurs
            );
            assert_eq!(
                addresses::ours(&netlink).await.expect("listed"),
                [(index, vip)]
            );
            let shown = lab.lb.ip(&format!("addr show dev lb0 to {vip}"));
            if vip.is_ipv6() {
                assert!(
                    shown.contains("nodad")
                        && shown.contains("deprecated")
                        && shown.contains("/128"),
                    "{shown}"
                );
                assert!(!shown.contains("tentative"), "usable at once: {shown}");
            } else {
                assert!(shown.contains("/32 scope global"), "{shown}");
            }
            assert_eq!(
                addresses::remove(&netlink, index, vip)
                    .await
                    .expect("removed"),
                Removed::Gone
            );
            assert_eq!(
                addresses::remove(&netlink, index, vip).await.expect("gone"),
                Removed::Absent
            );
            assert!(addresses::ours(&netlink).await.expect("listed").is_empty());
        }
        for (vip, prefix_len) in [("10.0.0.1", 24), ("fd00:0::1", 64)] {
            let (foreign, vip) = (Added::Foreign { prefix_len }, ip(vip));
            assert_eq!(
                addresses::add(&netlink, index, vip).await.expect("left"),
                foreign
            );
            assert_eq!(
                addresses::remove(&netlink, index, vip).await.expect("left"),
                Removed::Foreign
            );
        }
        assert!(lab.lb.ip("addr show dev lb0").contains("10.0.0.1/24"));
        let missing = addresses::add(&netlink, 9999, ip("10.0.0.80"))
            .await
            .expect_err("no such interface");
        assert_eq!(missing.errno(), Some(libc::ENODEV), "{missing}");
    });
}

#[test]
fn an_ipv6_vip_is_not_chosen_as_a_source() {
    in_lab(async |lab| {
        let (watcher, mut events) = watcher().await;
        // Longest matching prefix (RFC 6724 rule 8) would choose it.
        addresses::add(watcher.netlink(), lab.index("lb0"), ip("fd00:0::3"))
            .await
            .expect("added");
        watcher.track([ip("fd00:0::2")]);
        assert_eq!(
            events.resolved("fd00:0::2").await.source,
            Some(ip("fd00:0::1"))
        );
    });
}

#[test]
fn an_announcement_moves_the_vip_in_the_caches_of_its_neighbours() {
    in_lab(async |lab| {
        let announcer = Announcer::open(lab.index("lb0")).expect("packet socket");
        for (vip, arp) in [
            ("10.0.0.80", ArpForm::Request),
            ("10.0.0.81", ArpForm::Reply),
            ("10.0.0.82", ArpForm::Both),
            ("fd00:0::80", ArpForm::Both),
        ] {
            // As left behind by the node that was active before.
            lab.peer.ip(&format!(
                "neigh add {vip} lladdr 02:00:00:00:0e:0e dev peer0 nud reachable"
            ));
            let news = Announcement {
                vip: ip(vip),
                mac: LB0_MAC,
                arp,
                router: false,
            };
            // Repeated as a daemon does: IPv6 hears nothing in the first second after its link came up.
            let deadline = Instant::now() + PATIENCE;
            loop {
                announcer.send(&news).expect("sent");
                tokio::time::sleep(Duration::from_millis(50)).await;
                let entry = lab.peer.ip(&format!("neigh show {vip} dev peer0"));
                if entry.contains("02:00:00:00:00:00") {
                    break;
                }
                assert!(Instant::now() < deadline, "{vip} {arp:?}: {entry}");
            }
        }
    });
}

#[test]
fn kernel_settings_are_set_once_and_put_back() {
    in_lab(async |lab| {
        let needed = sysctl::needed_for_nat(&["lb0"], true).expect("valid names");
        let before: Vec<String> = needed
            .iter()
            .map(|need| need.key.read().expect("readable"))
            .collect();
        let mut said = Vec::new();
        let changes =
            sysctl::apply(&needed, |need, _| said.push(need.to_string())).expect("applied");
        assert_eq!(said.len(), changes.len());
        assert!(
            said.iter()
                .any(|text| text.contains("net.ipv4.conf.lb0.accept_local=1")),
            "{said:?}"
        );
        for need in &needed {
            assert_eq!(need.key.read().expect("readable"), need.value, "{need}");
        }
        let again =
            sysctl::apply(&needed, |need, _| panic!("set again: {need}")).expect("nothing to do");
        assert!(again.is_empty());

        let restored = sysctl::restore(&changes);
        assert!(
            restored
                .iter()
                .all(|(_, outcome)| matches!(outcome, Restored::Done)),
            "{restored:?}"
        );
        let after: Vec<String> = needed
            .iter()
            .map(|need| need.key.read().expect("readable"))
            .collect();
        assert_eq!(before, after);

        let changes = sysctl::apply(&needed, |_, _| ()).expect("applied");
        lab.lb
            .run(|| std::fs::write("/proc/sys/net/ipv4/conf/lb0/rp_filter", "1").expect("written"));
        lab.lb.ip("link set lb0 name renamed0");
        lab.lb.ip("link set lb1 name lb0");
        let restored = sysctl::restore(&changes);
        let left = restored
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Restored::ChangedByOthers { .. }))
            .count();
        assert!(
            left > 0,
            "what is not as we left it is not ours to undo: {restored:?}"
        );
        assert!(
            sysctl::needed_for_nat(&["lb9"], true).is_ok_and(|needed| sysctl::apply(
                &needed,
                |_, _| ()
            )
            .is_err())
        );
    });
}
