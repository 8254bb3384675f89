//! What a row has to do, each with a short text of what was measured.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use super::{ECHO, HTTP, Stand, vip};
use crate::{
    error::{Context, Error, Result},
    host::Host,
    http::{self, Load},
};

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Of the file that is downloaded.
    pub mebibytes: usize,
    /// Short connections, and queries.
    pub connections: u64,
    /// Datagrams in fragments.
    pub datagrams: usize,
}

impl Size {
    /// Small, unless `FUTAGO_MATRIX_FULL` is set.
    pub fn from_environment() -> Self {
        if env::var_os("FUTAGO_MATRIX_FULL").is_some() {
            Self {
                mebibytes: 100,
                connections: 5000,
                datagrams: 200,
            }
        } else {
            Self {
                mebibytes: 4,
                connections: 200,
                datagrams: 10,
            }
        }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Exercise {
    pub name: &'static str,
    /// On a row and a family (true: IPv6).
    pub run: fn(&Stand, bool) -> Result<String>,
}

/// All of them, in the order that they are done in.
pub const EXERCISES: &[Exercise] = &[
    exercise("download", download),
    exercise("connections", connections),
    exercise("both ways", both_ways),
    exercise("queries", queries),
    exercise("ping", ping),
    exercise("traceroute", traceroute),
    exercise("path mtu", path_mtu),
    exercise("fragments", fragments),
];

const fn exercise(name: &'static str, run: fn(&Stand, bool) -> Result<String>) -> Exercise {
    Exercise { name, run }
}

const PATIENCE: Duration = Duration::from_secs(5);
/// The narrow link's MTU.
const NARROW: u32 = 1400;

/// A file of nginx arrives as it was served.
fn download(stand: &Stand, ipv6: bool) -> Result<String> {
    let began = Instant::now();
    fetch(stand, ipv6)?;
    let took = began.elapsed().as_secs_f64();
    Ok(format!(
        "{} MiB, sha256 right, {:.0} MB/s",
        stand.size.mebibytes,
        (stand.size.mebibytes << 20) as f64 / 1e6 / took
    ))
}

fn fetch(stand: &Stand, ipv6: bool) -> Result<()> {
    let url = format!("http://{}/big", SocketAddr::new(vip(ipv6), HTTP));
    // A black hole is told from a slow machine by the speed.
    let options = ["--speed-limit", "1000", "--speed-time", "5"];
    let got = http::download(stand.far()?, &url, &options)?;
    let bytes = (stand.size.mebibytes << 20) as u64;
    ensure(got.bytes == bytes && got.sha256 == stand.sha256, || {
        format!("{got:?}, not {bytes} bytes with {}", stand.sha256)
    })
}

/// Every connection is answered, by all servers.
fn connections(stand: &Stand, ipv6: bool) -> Result<String> {
    let load = Load::new(SocketAddr::new(vip(ipv6), HTTP), stand.size.connections);
    let report = http::get_many(stand.far()?, load)?.all_answered()?;
    ensure(report.by_server.len() == 3, || format!("{report:?}"))?;
    Ok(format!(
        "{} of {}",
        report.answered(),
        stand.size.connections
    ))
}

/// A stream with full segments in both directions: what a client sends is larger in a tunnel than it was.
fn both_ways(stand: &Stand, ipv6: bool) -> Result<String> {
    const BYTES: usize = 256 << 10;
    let to = SocketAddr::new(vip(ipv6), ECHO);
    let sent: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
    let outcome = stand.far()?.enter(|| -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reading = stream.try_clone()?;
        let mut received = Vec::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| stream.write_all(&sent));
            let mut greeting = [0];
            // The host's name and a newline come first.
            while greeting != [b'\n'] {
                reading.read_exact(&mut greeting)?;
            }
            received.resize(BYTES, 0);
            reading.read_exact(&mut received)?;
            writer
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        Ok(received)
    })?;
    let received = outcome.context(|| format!("send {BYTES} bytes to {to} and back"))?;
    ensure(received == sent, || "other bytes came back".into())?;
    Ok(format!("{} KiB", BYTES >> 10))
}

/// Small datagrams, each from a port of its own, as resolvers send them.
fn queries(stand: &Stand, ipv6: bool) -> Result<String> {
    let to = SocketAddr::new(vip(ipv6), ECHO);
    let servers = stand.far()?.enter(|| -> std::io::Result<_> {
        let mut servers = BTreeSet::new();
        for number in 0..stand.size.connections {
            let query = format!("query {number:>20} for www.example.net");
            servers.insert(ask(to, query.as_bytes())?);
        }
        Ok(servers)
    })?;
    let servers = servers.context(|| format!("query {to}"))?;
    ensure(servers.len() == 3, || {
        format!("answers of {servers:?} only")
    })?;
    Ok(format!("{} of {0}", stand.size.connections))
}

/// Sends a datagram from a new socket; the name of the server that gave it back.
fn ask(to: SocketAddr, query: &[u8]) -> std::io::Result<String> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(query)?;
    let mut answer = vec![0; query.len() + 100];
    let length = socket.recv(&mut answer)?;
    answer.truncate(length);
    match answer.strip_suffix(query) {
        Some(name) => Ok(String::from_utf8_lossy(name).trim().to_owned()),
        None => Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("another answer: {length} bytes for {}", query.len()),
        )),
    }
}

fn ping(stand: &Stand, ipv6: bool) -> Result<String> {
    let arguments = ["-c5", "-i0.05", "-W2", &vip(ipv6).to_string()].map(str::to_owned);
    let output = stand.far()?.run("ping", &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(text.contains(" 5 received"), || text.clone())?;
    Ok("5 of 5".into())
}

/// The router, the balancer where it routes, the server: hops that answer, and the VIP at the end.
fn traceroute(stand: &Stand, ipv6: bool) -> Result<String> {
    let vip = vip(ipv6).to_string();
    let port = HTTP.to_string();
    let arguments = ["-n", "-T", "-p", &port, "-q1", "-w3", "-m6", &vip];
    let output = stand.far()?.run("traceroute", &arguments)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let hops: Vec<_> = text
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap_or_default())
        .collect();
    let router = if ipv6 { "fd00:3::1" } else { "10.0.3.1" };
    // The balancer answers in the name of the VIP.
    let wanted: Vec<&str> = match stand.row.is_hop() {
        true => vec![router, &vip, &vip],
        false => vec![router, &vip],
    };
    ensure(hops == wanted, || format!("not {wanted:?}: {text}"))?;
    Ok(format!("{} hops", hops.len()))
}

/// The router's link to the client takes 1,400 bytes, the server and the client do not know: the router tells the VIP, and the
/// balancer has to tell the server that has the connection.
fn path_mtu(stand: &Stand, ipv6: bool) -> Result<String> {
    let router = stand.router()?;
    // In place of the kernel's own route, which has this metric in IPv6.
    let route = if ipv6 {
        "route replace fd00:3::/64 dev eth1 metric 256"
    } else {
        "route replace 10.0.3.0/24 dev eth1"
    };
    let before = too_big_sent(router, ipv6)?;
    router.ip(&[format!("{route} mtu lock {NARROW}")])?;
    let outcome = fetch(stand, ipv6);
    let told = too_big_sent(router, ipv6)? - before;
    router.ip(&[route])?;
    outcome?;
    ensure(told > 0, || {
        "the router had nothing to tell: this tests nothing".into()
    })?;
    Ok(format!("{} MiB, told {told} times", stand.size.mebibytes))
}

/// How often a host said that a packet does not fit.
fn too_big_sent(host: &Host, ipv6: bool) -> Result<u64> {
    let (file, name) = if ipv6 {
        ("snmp6", "Icmp6OutPktTooBigs")
    } else {
        ("snmp", "OutDestUnreachs")
    };
    let text = host
        .enter(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")))?
        .context(|| format!("read the ICMP counters of {}", host.name()))?;
    let value = if ipv6 {
        let mut lines = text
            .lines()
            .filter_map(|line| line.split_once(char::is_whitespace));
        lines
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.trim().to_owned())
    } else {
        let mut rows = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
        let (names, values) = (
            rows.next().unwrap_or_default(),
            rows.next().unwrap_or_default(),
        );
        let mut pairs = names.split(' ').zip(values.split(' '));
        pairs
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value.to_owned())
    };
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| unexpected(format!("{} has no counter {name}", host.name())))
}

/// Datagrams of 4,000 bytes go and come in three fragments.
fn fragments(stand: &Stand, ipv6: bool) -> Result<String> {
    const BYTES: usize = 4000;
    let to = SocketAddr::new(vip(ipv6), ECHO);
    let count = stand.size.datagrams;
    let outcome = stand.far()?.enter(|| -> std::io::Result<()> {
        for number in 0..count {
            let query: Vec<u8> = (0..BYTES).map(|n| (n * 7 + number) as u8).collect();
            ask(to, &query)?;
        }
        Ok(())
    })?;
    outcome.context(|| format!("send {BYTES} bytes to {to}"))?;
    Ok(format!("{count} of {count} datagrams"))
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(unexpected(what()))
    }
}

fn unexpected(what: String) -> Error {
    Error::Unexpected { what }
}
