//! `lb_userspace::dataplane` against a real kernel: every test in a network namespace and with a bpffs of its own, which vanish
//! with their thread. Needs root.

use std::{
    fs, io,
    net::Ipv6Addr,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::maps::{Array, MapData, MapInfo};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use lb_common::{
    address::Address,
    forward::{Verdict, forward},
    host::SliceFrame,
    index::{self, Entry},
    reason::Reason,
    tables::{BackendState, Counter, Key, Mode, NextHop, Route, Service, Slot, Tables},
};
use lb_core::{
    model::XdpMode,
    plan::write::{Capacity, Write},
};
use lb_userspace::dataplane::{
    Action, AttachError, AttachedMode, DEFAULT_DIRECTORY, Dataplane, DirectoryError,
    InterfaceReport, MappedTables, OpenError, Options,
};

/// A bpffs of the test's own is mounted here, over the host's; nobody else sees it.
const BPFFS: &str = "/sys/fs/bpf";
const DIRECTORY: &str = DEFAULT_DIRECTORY;

const CAPACITY: Capacity = Capacity {
    cells: 64,
    services: 4,
    slots: 128,
    backends: 16,
    flow_sets: 16,
    half_open_sets: 16,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const LB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];

const CLIENT: [u8; 4] = [10, 0, 0, 1];
const DSR_VIP: [u8; 4] = [10, 9, 9, 1];
const NAT_VIP: [u8; 4] = [10, 9, 9, 2];
const BACKEND: [u8; 4] = [10, 0, 0, 3];
const CLIENT6: [u8; 16] = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets();
const NAT_VIP6: [u8; 16] = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2).octets();
const BACKEND6: [u8; 16] = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3).octets();

const DSR_RECORD: u32 = 1;
const NAT_RECORD: u32 = 3;
const NAT6_RECORD: u32 = 5;

/// Runs a test in its own network and mount namespace, with `lb0`-`c0`, a cable whose end `c0` is the outside world.
fn alone<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: unshare(2) takes no pointers; it affects this thread, which ends here.
            let failed = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) } != 0;
            assert!(!failed, "run as root: {}", io::Error::last_os_error());
            run("mount", "--make-rprivate /");
            run("mount", &format!("-t bpf bpf {BPFFS}"));
            run("ip", "link set lo up");
            add_cable();
            test()
        });
        inside.join().expect("panicked in the namespace")
    })
}

fn add_cable() {
    run(
        "ip",
        "link add lb0 address 02:00:00:00:00:02 type veth peer name c0 address 02:00:00:00:00:01",
    );
    run("ip", "link set lb0 up");
    run("ip", "link set c0 up");
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

fn ifindex(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).expect("a name");
    // SAFETY: the name ends in a zero byte.
    unsafe { libc::if_nametoindex(name.as_ptr()) }
}

fn options(interfaces: &[(&str, XdpMode)]) -> Options {
    Options {
        directory: DIRECTORY.into(),
        interfaces: interfaces
            .iter()
            .map(|(name, mode)| ((*name).to_owned(), *mode))
            .collect(),
        ..Options::new(CAPACITY)
    }
}

fn open(interfaces: &[(&str, XdpMode)]) -> Dataplane {
    Dataplane::open(options(interfaces)).expect("opened")
}

/// Opens and fills new tables, attaches.
fn start(interfaces: &[(&str, XdpMode)]) -> Dataplane {
    let mut dataplane = open(interfaces);
    assert!(!dataplane.adopted());
    fill(&mut dataplane);
    dataplane.attach().expect("attached");
    dataplane
}

/// An `l2-dsr` service and two `nat` ones, each with one backend behind `lb0`.
fn fill(dataplane: &mut Dataplane) {
    let out = NextHop {
        ifindex: ifindex("lb0"),
        destination: BACKEND_MAC,
        source: LB_MAC,
        vlan: 0,
        mtu: 1500,
    };
    let services = [
        (
            Address::from_v4(DSR_VIP),
            Mode::L2Dsr,
            Address::from_v4(BACKEND),
            DSR_RECORD,
            80,
        ),
        (
            Address::from_v4(NAT_VIP),
            Mode::Nat,
            Address::from_v4(BACKEND),
            NAT_RECORD,
            8080,
        ),
        (
            Address::from_v6(&NAT_VIP6),
            Mode::Nat,
            Address::from_v6(&BACKEND6),
            NAT6_RECORD,
            8080,
        ),
    ];
    let mut writes = Vec::new();
    for (number, (vip, mode, address, backend, port)) in (0_u32..).zip(services) {
        let key = Key::new(vip, 6, 80);
        let service = Service {
            key,
            seed: 0x1234_5678,
            slot_base: number * 7,
            slot_count: 7,
            backend_base: backend - 1,
            backend_count: 1,
            mode: mode as u8,
            hash: 0,
            ..Service::default()
        };
        let state = BackendState {
            service: number,
            port,
            next_hop: 0,
            up: true,
            lives: true,
            on_down: None,
        };
        writes.extend([
            Write::Backend {
                record: backend,
                address,
                next_hop: out,
                tunnel_source: Address::default(),
                state,
            },
            Write::Slots {
                first: number * 7,
                words: vec![Slot::settled(1).pack(); 7],
            },
            Write::Service {
                record: number,
                service,
            },
            cell(&writes, &key, Entry::Service(number)),
        ]);
        writes.push(cell(&writes, &Key::address_only(vip), Entry::Vip(number)));
        if mode == Mode::Nat {
            let key = Key::new(address, 6, port);
            writes.push(cell(&writes, &key, Entry::Reverse(backend)));
        }
    }
    dataplane
        .tables_mut()
        .apply(&writes)
        .expect("inside the tables");
}

/// A cell for the key at the first free place.
fn cell(before: &[Write], key: &Key, entry: Entry) -> Write {
    let hash = index::hash(key);
    let mask = CAPACITY.cells - 1;
    let taken = |wanted: u32| {
        before
            .iter()
            .any(|write| matches!(write, Write::Cell { position, .. } if *position == wanted))
    };
    let position = (0..index::PROBES)
        .map(|step| (index::start(hash, mask) + step) & mask)
        .find(|position| !taken(*position));
    Write::Cell {
        position: position.expect("a free cell"),
        value: entry.cell(hash),
    }
}

fn syn(destination: [u8; 4], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, LB_MAC)
        .ipv4(CLIENT, destination, 64)
        .tcp(40_000, port, 7, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").expect("in memory");
    frame
}

fn syn6(destination: [u8; 16], port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, LB_MAC)
        .ipv6(CLIENT6, destination, 64)
        .tcp(40_000, port, 7, 1024)
        .syn();
    let mut frame = Vec::new();
    builder.write(&mut frame, b"hello").expect("in memory");
    frame
}

/// What an independent parser makes of a frame; panics if a checksum is wrong.
#[derive(Debug, PartialEq)]
struct Seen {
    macs: [[u8; 6]; 2],
    addresses: [Address; 2],
    ports: [u16; 2],
    ttl: u8,
    payload: Vec<u8>,
}

fn see(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).expect("a frame");
    let ethernet = match packet.link.expect("ethernet") {
        etherparse::LinkSlice::Ethernet2(ethernet) => ethernet,
        other => panic!("{other:?}"),
    };
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP in {frame:x?}");
    };
    let (addresses, ttl) = match packet.net.expect("IP") {
        etherparse::NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.calc_header_checksum(),
                header.header_checksum,
                "IPv4"
            );
            let expected = tcp.to_header().calc_checksum_ipv4(&header, tcp.payload());
            assert_eq!(Ok(tcp.checksum()), expected, "TCP over IPv4");
            let addresses = [header.source, header.destination].map(Address::from_v4);
            (addresses, header.time_to_live)
        }
        etherparse::NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            let expected = tcp.to_header().calc_checksum_ipv6(&header, tcp.payload());
            assert_eq!(Ok(tcp.checksum()), expected, "TCP over IPv6");
            let addresses = [header.source, header.destination].map(|a| Address::from_v6(&a));
            (addresses, header.hop_limit)
        }
        other => panic!("{other:?}"),
    };
    Seen {
        macs: [ethernet.destination(), ethernet.source()],
        addresses,
        ports: [tcp.source_port(), tcp.destination_port()],
        ttl,
        payload: tcp.payload().to_vec(),
    }
}

/// The same frame through the host's build, over the same tables: has to come out the same.
fn assert_host_agrees(dataplane: &Dataplane, frame: &[u8], ingress: u32) {
    let kernel = dataplane.test_run(frame, ingress).expect("a run");
    let mut host = SliceFrame::new(frame, ingress);
    let action = match forward(&mut host, dataplane.tables()) {
        Verdict::Pass => Action::Pass,
        Verdict::Drop => Action::Drop,
        Verdict::Transmit => Action::Transmit,
        Verdict::Redirect(_) => Action::Redirect,
    };
    assert_eq!((action, host.bytes()), (kernel.action, &kernel.frame[..]));
}

fn packets(tables: &MappedTables, wanted: Reason) -> u64 {
    let counters = tables.reason_counters();
    let found = counters.iter().find(|(reason, _)| *reason == wanted);
    found.expect("all reasons are there").1.packets
}

/// All that a restarted daemon reads.
fn contents(tables: &MappedTables) -> String {
    let capacity = tables.capacity();
    let cells: Vec<u64> = (0..capacity.cells).map(|n| tables.cell(n)).collect();
    let services: Vec<_> = (0..capacity.services).map(|n| tables.service(n)).collect();
    let slots: Vec<_> = (0..capacity.slots).map(|n| tables.slot(n)).collect();
    let backends: Vec<_> = (0..capacity.backends)
        .map(|n| (tables.backend(n), tables.backend_counter(n)))
        .collect();
    format!(
        "{cells:?} {services:?} {slots:?} {backends:?} {:?}",
        tables.reason_counters()
    )
}

/// What stands in a directory, but for the kernel's own files in a bpffs.
fn names(path: &str) -> Vec<String> {
    let entries = fs::read_dir(path).expect(path);
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect(path)
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.retain(|name| !name.ends_with(".debug"));
    names.sort();
    names
}

/// A socket that sends and receives whole frames on an interface.
struct Wire(OwnedFd);

impl Wire {
    fn new(interface: &str) -> Self {
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2) takes no pointers, and the descriptor is ours.
        let socket = unsafe {
            let raw = libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                i32::from(protocol),
            );
            assert!(raw >= 0, "{}", io::Error::last_os_error());
            OwnedFd::from_raw_fd(raw)
        };
        // SAFETY: a plain C struct of integers; all zeros is a value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = ifindex(interface) as i32;
        // SAFETY: the address is as long as said.
        let bound = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        Self(socket)
    }

    fn send(&self, frame: &[u8]) {
        // SAFETY: the buffer is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// Whether such a frame arrives within two seconds.
    fn receives(&self, wanted: impl Fn(&[u8]) -> bool) -> bool {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut buffer = [0; 2048];
        while Instant::now() < deadline {
            // SAFETY: the buffer is as long as said.
            let received = unsafe {
                libc::recv(
                    self.0.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(received) {
                Ok(length) if wanted(&buffer[..length]) => return true,
                Ok(_) => {}
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
        false
    }
}

/// Sends a SYN to the `l2-dsr` service from outside and waits for it to come back, addressed to the backend.
fn forwards() -> bool {
    let wire = Wire::new("c0");
    wire.send(&syn(DSR_VIP, 80));
    wire.receives(|frame| {
        frame.starts_with(&BACKEND_MAC) && see(frame).addresses[1] == Address::from_v4(DSR_VIP)
    })
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn l2_dsr_changes_the_link_header_only() {
    alone(|| {
        let mut dataplane = open(&[]);
        fill(&mut dataplane);
        let lb0 = ifindex("lb0");
        let frame = syn(DSR_VIP, 80);
        let run = dataplane.test_run(&frame, lb0).expect("a run");
        assert_eq!(run.action, Action::Transmit);
        assert_eq!(run.frame[..12], [BACKEND_MAC, LB_MAC].concat());
        assert_eq!(run.frame[12..], frame[12..]);

        // What comes in elsewhere leaves by the interface of the next hop.
        let run = dataplane.test_run(&frame, ifindex("c0")).expect("a run");
        assert_eq!(run.action, Action::Redirect);
        let counted = dataplane.tables().backend_counter(DSR_RECORD);
        let bytes = 2 * frame.len() as u64;
        assert_eq!(counted, Counter { packets: 2, bytes });
        assert_eq!(packets(dataplane.tables(), Reason::ToBackend), 2);
        assert_host_agrees(&dataplane, &frame, lb0);

        let clear = Write::ClearCounters { record: DSR_RECORD };
        dataplane.tables_mut().apply(&[clear]).expect("inside");
        let counted = dataplane.tables().backend_counter(DSR_RECORD);
        assert_eq!(counted, Counter::default());
    });
}

#[test]
fn nat_translates_both_families_with_correct_checksums() {
    alone(|| {
        let mut dataplane = open(&[]);
        fill(&mut dataplane);
        let lb0 = ifindex("lb0");
        for (frame, backend) in [
            (syn(NAT_VIP, 80), Address::from_v4(BACKEND)),
            (syn6(NAT_VIP6, 80), Address::from_v6(&BACKEND6)),
        ] {
            let before = see(&frame);
            let run = dataplane.test_run(&frame, lb0).expect("a run");
            assert_eq!(run.action, Action::Transmit);
            let expected = Seen {
                macs: [BACKEND_MAC, LB_MAC],
                addresses: [before.addresses[0], backend],
                ports: [40_000, 8080],
                ttl: 63,
                payload: before.payload,
            };
            assert_eq!(see(&run.frame), expected);
            assert_host_agrees(&dataplane, &frame, lb0);
        }
        let counted =
            [NAT_RECORD, NAT6_RECORD].map(|n| dataplane.tables().backend_counter(n).packets);
        assert_eq!(counted, [2, 2]);
    });
}

#[test]
fn replies_of_nat_take_the_hosts_route() {
    alone(|| {
        run("ip", "address add 10.0.0.254/24 dev lb0");
        run(
            "ip",
            "neighbour add 10.0.0.1 lladdr 02:00:00:00:00:01 dev lb0",
        );
        fs::write("/proc/sys/net/ipv4/conf/lb0/forwarding", "1").expect("forwarding");
        let mut dataplane = open(&[]);
        fill(&mut dataplane);
        let lb0 = ifindex("lb0");
        let builder = PacketBuilder::ethernet2(BACKEND_MAC, LB_MAC)
            .ipv4(BACKEND, CLIENT, 64)
            .tcp(8080, 40_000, 7, 1024)
            .syn()
            .ack(8);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).expect("in memory");
        let run = dataplane.test_run(&frame, lb0).expect("a run");
        assert_eq!(run.action, Action::Transmit);
        let seen = see(&run.frame);
        assert_eq!(seen.macs, [CLIENT_MAC, LB_MAC]);
        assert_eq!(seen.addresses, [NAT_VIP, CLIENT].map(Address::from_v4));
        assert_eq!(seen.ports, [80, 40_000]);
        assert_eq!(packets(dataplane.tables(), Reason::ToClient), 1);

        // The answer to a health check is the host's own; so is what leads nowhere, for it says so to the backend.
        for (number, destination) in [(1, [10, 0, 0, 254]), (2, [203, 0, 113, 1])] {
            let builder = PacketBuilder::ethernet2(BACKEND_MAC, LB_MAC)
                .ipv4(BACKEND, destination, 64)
                .tcp(8080, 40_000, 7, 1024)
                .syn()
                .ack(8);
            let mut frame = Vec::new();
            builder.write(&mut frame, &[]).expect("in memory");
            let run = dataplane.test_run(&frame, lb0).expect("a run");
            assert_eq!(run.action, Action::Pass);
            assert_eq!(run.frame, frame);
            assert_eq!(packets(dataplane.tables(), Reason::ReplyToHost), number);
        }

        // The host's build asks for the route what it is told to ask.
        let hop = NextHop {
            ifindex: lb0,
            destination: CLIENT_MAC,
            source: LB_MAC,
            ..NextHop::default()
        };
        dataplane.tables_mut().set_routes(move |query| {
            assert_eq!(query.source, Address::from_v4(NAT_VIP));
            Route::Direct(hop)
        });
        assert_host_agrees(&dataplane, &frame, lb0);
    });
}

#[test]
fn what_is_not_ours_passes_untouched() {
    alone(|| {
        let mut dataplane = open(&[]);
        fill(&mut dataplane);
        let mut arp = vec![0xff; 6];
        arp.extend(CLIENT_MAC);
        arp.extend([0x08, 0x06]);
        arp.resize(60, 0);
        for (frame, reason) in [
            (syn([192, 0, 2, 1], 80), Reason::NotOurs),
            (syn(DSR_VIP, 81), Reason::Unmatched),
            (arp, Reason::NotIp),
        ] {
            let run = dataplane.test_run(&frame, ifindex("lb0")).expect("a run");
            assert_eq!(run.action, Action::Pass, "{reason:?}");
            assert_eq!(run.frame, frame, "{reason:?}");
            assert_eq!(packets(dataplane.tables(), reason), 1, "{reason:?}");
            assert_host_agrees(&dataplane, &frame, ifindex("lb0"));
        }
        assert_eq!(packets(dataplane.tables(), Reason::ToBackend), 0);
        assert!(dataplane.test_run(&[0; 13], 0).is_err());
        assert!(dataplane.test_run(&syn(DSR_VIP, 80), 4711).is_err());
        let many = dataplane.test_run_repeated(&syn(DSR_VIP, 80), ifindex("lb0"), 1000);
        assert!(many.expect("a run").duration > Duration::ZERO);
        assert_eq!(packets(dataplane.tables(), Reason::ToBackend), 1000);
    });
}

#[test]
fn a_restarted_daemon_adopts_the_tables() {
    alone(|| {
        let dataplane = start(&[("lb0", XdpMode::Generic)]);
        assert!(forwards());
        let before = contents(dataplane.tables());
        let reports = dataplane.interfaces();
        drop(dataplane);
        assert!(forwards(), "nobody runs, the kernel forwards");

        let mut dataplane = open(&[("lb0", XdpMode::Generic)]);
        assert!(dataplane.adopted());
        assert!(forwards(), "the earlier program goes on");
        let again = dataplane.attach().expect("attached");
        assert!(forwards());
        assert_ne!(again[0].program_id, reports[0].program_id);
        assert_eq!(again[0].tag, reports[0].tag);
        // Only counters have moved on: by two frames.
        assert_eq!(dataplane.tables().backend_counter(DSR_RECORD).packets, 4);
        let strip = |text: &str| text.split("] [(").next().unwrap_or_default().to_owned();
        assert_eq!(strip(&contents(dataplane.tables())), strip(&before));
        assert!(before.contains(&format!("{:?}", dataplane.tables().backend(DSR_RECORD))));
        assert_eq!(names(&format!("{DIRECTORY}/v3")), ["0"]);
    });
}

#[test]
fn adopted_tables_are_byte_for_byte_the_same() {
    alone(|| {
        let dataplane = start(&[]);
        dataplane
            .test_run(&syn(NAT_VIP, 80), ifindex("lb0"))
            .expect("a run");
        let before = contents(dataplane.tables());
        drop(dataplane);
        let dataplane = open(&[]);
        assert!(dataplane.adopted());
        assert_eq!(contents(dataplane.tables()), before);
        // And the new program looks into the same ones.
        let run = dataplane
            .test_run(&syn(NAT_VIP, 80), ifindex("lb0"))
            .expect("a run");
        assert_eq!(run.action, Action::Transmit);
        assert_eq!(dataplane.tables().backend_counter(NAT_RECORD).packets, 2);
    });
}

#[test]
fn another_capacity_takes_new_tables_and_replaces_the_program_in_its_link() {
    alone(|| {
        let before = start(&[("lb0", XdpMode::Generic)]).interfaces();
        let old_maps: Vec<u32> = names(&format!("{DIRECTORY}/v3/0"))
            .iter()
            .map(|name| {
                let path = format!("{DIRECTORY}/v3/0/{name}");
                MapInfo::from_pin(path).expect("a pinned map").id()
            })
            .collect();
        assert_eq!(old_maps.len(), 15);
        let link = link_id("lb0");

        let capacity = Capacity {
            backends: 32,
            ..CAPACITY
        };
        let mut dataplane = Dataplane::open(Options {
            capacity,
            ..options(&[("lb0", XdpMode::Generic)])
        })
        .expect("opened");
        assert!(!dataplane.adopted());
        assert_eq!(dataplane.tables().capacity(), capacity);
        assert!(forwards(), "the earlier program goes on with its tables");
        assert_eq!(packets(dataplane.tables(), Reason::ToBackend), 0);
        fill(&mut dataplane);
        let after = dataplane.attach().expect("attached");
        assert!(forwards());
        assert_eq!(packets(dataplane.tables(), Reason::ToBackend), 1);

        assert_eq!(link_id("lb0"), link, "the link is the same");
        assert_ne!(after[0].program_id, before[0].program_id);
        assert_eq!(names(&format!("{DIRECTORY}/v3")), ["1"]);
        eventually("the old tables are freed", || {
            old_maps.iter().all(|id| MapInfo::from_id(*id).is_err())
        });
        drop(dataplane);
        let again = Dataplane::open(Options {
            capacity,
            ..options(&[])
        });
        assert!(again.expect("opened").adopted());
    });
}

/// Number of the link that is pinned for an interface.
fn link_id(interface: &str) -> u32 {
    let pin = aya::programs::links::PinnedLink::from_pin(format!("{DIRECTORY}/links/{interface}"));
    let link = aya::programs::links::FdLink::from(pin.expect("pinned"));
    link.info().expect("link information").id()
}

#[test]
fn tables_of_another_layout_are_replaced() {
    alone(|| {
        drop(start(&[("lb0", XdpMode::Generic)]));
        fs::rename(format!("{DIRECTORY}/v3"), format!("{DIRECTORY}/v0")).expect("renamed");
        fs::remove_file(format!("{DIRECTORY}/current")).expect("removed");
        symlink("v0/0", format!("{DIRECTORY}/current")).expect("linked");
        let mut dataplane = open(&[("lb0", XdpMode::Generic)]);
        assert!(!dataplane.adopted());
        assert_eq!(names(DIRECTORY), ["current", "links", "v0", "v3"]);
        fill(&mut dataplane);
        dataplane.attach().expect("attached");
        assert_eq!(names(DIRECTORY), ["current", "links", "v3"]);
        assert!(forwards());
    });
}

#[test]
fn a_pinned_map_of_another_kind_is_not_adopted() {
    alone(|| {
        drop(start(&[]));
        // The right type, sizes and number of entries, but it cannot be mapped.
        let slots = format!("{DIRECTORY}/v3/0/SLOTS");
        fs::remove_file(&slots).expect("removed");
        let other = Array::<MapData, u64>::create(CAPACITY.slots / 2, 0).expect("a map");
        other.pin(&slots).expect("pinned");
        assert!(!open(&[]).adopted());
    });
}

#[test]
fn tables_that_were_never_attached_do_not_stay() {
    alone(|| {
        drop(open(&[]));
        assert_eq!(names(&format!("{DIRECTORY}/v3")), [""; 0]);
        // Left by a process that was killed in between.
        let mut dataplane = open(&[]);
        fs::create_dir(format!("{DIRECTORY}/v3/7")).expect("made");
        fill(&mut dataplane);
        dataplane.attach().expect("attached");
        assert_eq!(names(&format!("{DIRECTORY}/v3")), ["0"]);
    });
}

#[test]
fn a_directory_has_one_process() {
    alone(|| {
        let _first = open(&[]);
        let second = Dataplane::open(options(&[]));
        assert!(matches!(
            second.err(),
            Some(OpenError::Directory(DirectoryError::InUse(_)))
        ));
    });
}

#[test]
fn outside_a_bpffs_nothing_is_made() {
    alone(|| {
        let elsewhere = Options {
            directory: "/run/futago-no-bpffs".into(),
            ..options(&[])
        };
        let error = Dataplane::open(elsewhere).err().expect("no bpffs");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        assert!(!Path::new("/run/futago-no-bpffs").exists());
    });
}

#[test]
fn the_hosts_bpffs_is_mounted_if_it_is_missing() {
    alone(|| {
        run("mount", "-t sysfs sysfs /sys");
        assert!(fs::create_dir("/sys/fs/bpf/futago").is_err());
        let dataplane = Dataplane::open(Options::new(CAPACITY)).expect("opened");
        assert_eq!(names("/sys/fs/bpf/futago/v3/0").len(), 15);
        dataplane.detach().expect("detached");
        assert!(!Path::new("/sys/fs/bpf/futago").exists());
    });
}

/// The daemon that is killed: opens, fills, attaches and says so.
#[test]
#[ignore = "a process that another test starts"]
fn child() {
    let _dataplane = start(&[("lb0", XdpMode::Generic)]);
    fs::create_dir(format!("{BPFFS}/ready")).expect("made");
    thread::sleep(Duration::from_secs(60));
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_killed_daemon_leaves_the_kernel_forwarding() {
    alone(|| {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .stdout(Stdio::null())
            .spawn()
            .expect("started");
        let child = Killed(child);
        eventually("the child attaches", || {
            Path::new("/sys/fs/bpf/ready").exists()
        });
        assert!(matches!(
            Dataplane::open(options(&[])).err(),
            Some(OpenError::Directory(DirectoryError::InUse(_)))
        ));
        assert!(forwards());
        drop(child);
        assert!(forwards(), "after SIGKILL");
        let mut dataplane = open(&[("lb0", XdpMode::Generic)]);
        assert!(dataplane.adopted());
        dataplane.attach().expect("attached");
        assert!(forwards());
        assert_eq!(dataplane.tables().backend_counter(DSR_RECORD).packets, 3);
    });
}

#[test]
fn detaching_removes_everything() {
    alone(|| {
        let mut dataplane = start(&[("lb0", XdpMode::Generic), ("c0", XdpMode::Native)]);
        assert_eq!(names(&format!("{DIRECTORY}/links")), ["c0", "lb0"]);
        dataplane.detach_interface("c0").expect("detached");
        dataplane
            .detach_interface("c0")
            .expect("twice is not an error");
        assert_eq!(names(&format!("{DIRECTORY}/links")), ["lb0"]);
        assert!(!run("ip", "link show dev c0").contains("xdp"));
        assert!(run("ip", "link show dev lb0").contains("xdpgeneric"));
        dataplane.detach().expect("detached");
        assert!(!run("ip", "link show dev lb0").contains("xdp"));
        assert_eq!(names(BPFFS), [""; 0]);
        assert!(!forwards());
    });
}

fn modes(reports: &[InterfaceReport]) -> Vec<(&str, AttachedMode)> {
    reports
        .iter()
        .map(|report| (&report.name[..], report.mode))
        .collect()
}

#[test]
fn modes_are_what_was_wanted_and_what_there_is() {
    alone(|| {
        run("ip", "link add br0 type bridge");
        let mut dataplane = start(&[
            ("lb0", XdpMode::Auto),
            ("br0", XdpMode::Auto),
            ("c0", XdpMode::Native),
        ]);
        let reports = dataplane.interfaces();
        use AttachedMode::{Generic, Native};
        assert_eq!(
            modes(&reports),
            [("br0", Generic), ("c0", Native), ("lb0", Native)]
        );
        for report in &reports {
            assert_eq!(report.ifindex, ifindex(&report.name));
            let shown = run("ip", &format!("-details link show dev {}", report.name));
            assert!(
                shown.contains(&format!("prog/xdp id {}", report.program_id)),
                "{shown}"
            );
            assert!(shown.contains(&format!("tag {}", report.tag)), "{shown}");
        }
        // Two balancers at the ends of one cable would send an l2-dsr frame to and fro for ever.
        dataplane.detach_interface("c0").expect("detached");
        // In the driver it counts like anywhere.
        Wire::new("c0").send(&syn(DSR_VIP, 80));
        eventually("counted", || {
            dataplane.tables().backend_counter(DSR_RECORD).packets == 1
        });

        let report = dataplane
            .attach_interface("lb0", XdpMode::Generic)
            .expect("attached");
        assert_eq!(report.mode, Generic);
        assert!(run("ip", "link show dev lb0").contains("xdpgeneric"));
        assert!(forwards());

        // What cannot be had leaves what there was.
        let refused = dataplane
            .attach_interface("br0", XdpMode::Native)
            .expect_err("a bridge has no XDP");
        assert!(
            matches!(refused, AttachError::Refused { mode: Native, .. }),
            "{refused}"
        );
        assert!(
            refused.to_string().contains("xdp = \"generic\""),
            "{refused}"
        );
        assert!(run("ip", "link show dev br0").contains("xdpgeneric"));
        drop(dataplane);

        // A restart keeps the mode that there is, where any will do.
        let mut dataplane = open(&[("lb0", XdpMode::Auto)]);
        assert_eq!(
            modes(&dataplane.attach().expect("attached")),
            [("lb0", Generic)]
        );
        assert!(
            !run("ip", "link show dev br0").contains("xdp"),
            "not wanted any more"
        );
        assert_eq!(names(&format!("{DIRECTORY}/links")), ["lb0"]);
    });
}

#[test]
fn another_program_is_named_and_left_alone() {
    alone(|| {
        let other = Options {
            directory: "/sys/fs/bpf/other".into(),
            ..options(&[("lb0", XdpMode::Native)])
        };
        let mut other = Dataplane::open(other).expect("opened");
        let id = other.attach().expect("attached")[0].program_id;
        let mut dataplane = open(&[("lb0", XdpMode::Auto)]);
        fill(&mut dataplane);
        let error = dataplane.attach().expect_err("occupied").to_string();
        assert!(
            error.contains(&format!("balancer (id {id}, native mode)")),
            "{error}"
        );
        assert!(error.contains("bpftool link detach id"), "{error}");
        assert!(dataplane.interfaces().is_empty());
        other.detach().expect("detached");
        dataplane.attach().expect("now it is free");
    });
}

#[test]
fn interfaces_come_and_go() {
    alone(|| {
        // A bpffs takes no dots in names.
        let mut dataplane = start(&[("lb0", XdpMode::Generic), ("lan.5", XdpMode::Generic)]);
        assert_eq!(
            modes(&dataplane.interfaces()),
            [("lb0", AttachedMode::Generic)]
        );
        let absent = dataplane.attach_interface("lan.5", XdpMode::Generic);
        assert!(matches!(absent, Err(AttachError::NoInterface(name)) if name == "lan.5"));
        run("ip", "link add lan.5 type veth peer name far");
        dataplane
            .attach_interface("lan.5", XdpMode::Generic)
            .expect("attached");
        assert_eq!(dataplane.interfaces().len(), 2);

        run("ip", "link delete lb0");
        assert_eq!(
            modes(&dataplane.interfaces()),
            [("lan.5", AttachedMode::Generic)]
        );
        add_cable();
        let report = dataplane
            .attach_interface("lb0", XdpMode::Generic)
            .expect("attached");
        assert_eq!(report.ifindex, ifindex("lb0"));
        let out = NextHop {
            ifindex: report.ifindex,
            destination: BACKEND_MAC,
            source: LB_MAC,
            vlan: 0,
            mtu: 1500,
        };
        let state = dataplane
            .tables()
            .backend(DSR_RECORD)
            .expect("there")
            .state();
        let state = BackendState {
            next_hop: 1,
            ..state
        };
        let write = Write::NextHop {
            tunnel_source: Address::default(),
            record: DSR_RECORD,
            next_hop: out,
            state,
        };
        dataplane.tables_mut().apply(&[write]).expect("inside");
        assert!(forwards());

        // Gone while no daemon runs, and back under the same name.
        drop(dataplane);
        run("ip", "link delete lan.5");
        run("ip", "link add lan.5 type veth peer name far");
        let mut dataplane = open(&[("lb0", XdpMode::Generic), ("lan.5", XdpMode::Generic)]);
        let reports = dataplane.attach().expect("attached");
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0].ifindex, ifindex("lan.5"));
        run("ip", "link delete lan.5");
        dataplane
            .detach_interface("lan.5")
            .expect("its pin is removed");
        assert_eq!(names(&format!("{DIRECTORY}/links")), ["lb0"]);
    });
}

#[test]
fn impossible_capacities_are_refused_before_anything_is_made() {
    alone(|| {
        let wrong = Options {
            capacity: Capacity {
                cells: 100,
                ..CAPACITY
            },
            ..options(&[])
        };
        let error = Dataplane::open(wrong).err().expect("refused");
        assert!(error.to_string().contains("power of two"), "{error}");
        assert_eq!(names(BPFFS), [""; 0]);
    });
}
