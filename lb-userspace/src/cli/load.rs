//! `futago load`: packets by the million towards one address, and a count of what arrives.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    num::NonZeroU64,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use lb_common::load::Order;
use serde::Serialize;

use super::{
    Failure, block_on,
    output::{grouped, print},
};
use crate::{
    load::{BenchObject, Generator, Kind, Receiver, Shape, Sizes, Tally},
    net::{
        next_hop::NextHop,
        watch::{Event, Options, Watcher},
    },
};

/// Frames of one call: a second or a few. Between calls the kernel takes some 30 ms to set up.
const CALL: u32 = 1 << 24;
const MOST_SECONDS: u64 = 3600;
const RESOLVE: Duration = Duration::from_secs(5);

/// Send or receive packets at the speed of the kernel, to test a load balancer (any)
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  futago load send --interface eth1 --to 10.0.0.100:80 --rate 100000 --flows 65536
  futago load send --interface eth1 --to 10.0.0.100:443 --kind syn --rate max --seconds 5 --flows 10000000
  futago load receive --interface eth0 --seconds 30        on a backend, before the sender starts

Only send to what is yours to test. Exit codes: 0 done, 1 could not send or receive, 2 wrong usage.")]
pub(super) struct Load {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Send to one address and port, by one interface, for a bounded time
    Send(Send),
    /// Count, and keep, what a sender of ours has sent to this host
    Receive(Receive),
}

#[derive(Debug, Args)]
struct Send {
    /// Interface that packets leave by; its driver needs XDP transmit
    #[arg(long)]
    interface: String,
    /// The only address and port that is sent to
    #[arg(long, value_name = "ADDRESS:PORT")]
    to: SocketAddr,
    /// Packets a second, or `max`
    #[arg(long, value_name = "PPS", value_parser = rate)]
    rate: Rate,
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    seconds: u64,
    #[arg(long, value_enum, default_value_t = Packets::Udp)]
    kind: Packets,
    /// Flows at a time: pairs of source address and port
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    flows: u32,
    /// Flows that are replaced by new ones, a second
    #[arg(long, default_value_t = 0)]
    new_flows: u64,
    /// Bytes of a frame, without its checksum [default: the shortest that has a stamp]
    #[arg(long)]
    size: Option<usize>,
    /// The first source address; further flows count it up [default: 198.18.0.0 or 2001:2::, reserved for benchmarks]
    #[arg(long)]
    source: Option<IpAddr>,
    /// Flows take turns instead of being chosen at random
    #[arg(long)]
    sequential: bool,
    /// Also count what comes back to this host by these interfaces
    #[arg(long, value_name = "INTERFACE")]
    receive: Vec<String>,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Receive {
    /// Interfaces to count on; packets without our stamp pass
    #[arg(long, required = true)]
    interface: Vec<String>,
    /// How long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MOST_SECONDS))]
    seconds: u64,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Packets {
    Udp,
    /// Segments with data, of no connection that anybody opened
    Tcp,
    /// A flood of SYN
    Syn,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    Max,
    Pps(u32),
}

fn rate(text: &str) -> Result<Rate, String> {
    if text == "max" {
        return Ok(Rate::Max);
    }
    match text.replace('_', "").parse() {
        Ok(pps @ 1..=100_000_000) => Ok(Rate::Pps(pps)),
        _ => Err("a number of packets a second, 1 to 100000000, or `max`".to_owned()),
    }
}

/// What `--json` prints.
#[derive(Debug, Default, Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<u64>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_pps: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    received: Option<u64>,
    /// Sent and not received here: only where this process did both.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reordered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ns: Option<Latency>,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Load {
    pub fn run(self) -> Result<(), Failure> {
        match self.what {
            What::Send(send) => Ok(send.run()?),
            What::Receive(receive) => Ok(receive.run()?),
        }
    }
}

impl Send {
    fn run(self) -> anyhow::Result<()> {
        let hop = next_hop(self.to.ip())?;
        let ifindex = index(&self.interface)?;
        if hop.ifindex != ifindex {
            bail!(
                "the route to {} does not leave by {}: nothing was sent",
                self.to.ip(),
                self.interface
            );
        }
        if hop.vlan.is_some() {
            bail!(
                "the route to {} leads into a VLAN of {}, and tagged packets are not made here",
                self.to.ip(),
                self.interface
            );
        }
        let shape = self.shape(&hop);
        let mut plan = shape.plan()?;
        if let Rate::Pps(pps) = self.rate {
            plan.interval = (1_000_000_000_u64 << 16) / u64::from(pps);
        }
        match (NonZeroU64::new(self.new_flows), self.rate) {
            (None, _) => {}
            (Some(new_flows), Rate::Pps(pps)) => {
                plan.packets_per_new_flow = (u64::from(pps) / new_flows).max(1);
            }
            (Some(_), _) => bail!("--new-flows needs a --rate in packets a second"),
        }
        let mut receiving = BenchObject::load(Sizes::default(), &["receive"])?;
        let mut receiver = Receiver::of_stamped(&mut receiving);
        for interface in &self.receive {
            receiver.attach(index(interface)?)?;
        }
        let mut object = BenchObject::load(Sizes::default(), &["generate"])?;
        let started = Instant::now();
        plan.end_ns = monotonic_ns() + self.seconds * 1_000_000_000;
        let mut generator = Generator::new(&mut object, &shape, &plan)?;
        let wanted = Duration::from_secs(self.seconds);
        eprintln!(
            "sending to {} by {}, {} bytes, {} flows, for {} s",
            self.to,
            self.interface,
            shape.length,
            grouped(self.flows.into()),
            self.seconds
        );
        let mut before = (Duration::ZERO, 0);
        while started.elapsed() < wanted {
            let run = generator.run(CALL)?;
            let now = (started.elapsed().min(wanted), generator.sent()?);
            let rate = (now.1 - before.1) as f64 / (now.0 - before.0).as_secs_f64();
            before = now;
            eprintln!(
                "{:6.1} s  {:>16} sent  {:>12} packets/s",
                now.0.as_secs_f64(),
                grouped(now.1),
                grouped(rate as u64)
            );
            if run.interrupted {
                break;
            }
        }
        let seconds = started.elapsed().min(wanted).as_secs_f64();
        let sent = generator.sent()?;
        let mut report = Report {
            sent: Some(sent),
            seconds,
            sent_pps: Some(sent as f64 / seconds),
            ..Report::default()
        };
        if !self.receive.is_empty() {
            // What is under way arrives within this.
            thread::sleep(Duration::from_millis(200));
            let tally = receiver.tally()?;
            report.lost = Some(sent.saturating_sub(tally.stamped));
            report.add(&tally);
        }
        report.print(self.json)
    }

    fn shape(&self, hop: &NextHop) -> Shape {
        let kind = match self.kind {
            Packets::Udp => Kind::Udp,
            Packets::Tcp => Kind::Tcp,
            Packets::Syn => Kind::Syn,
        };
        let v6 = self.to.is_ipv6();
        let source = self.source.unwrap_or(if v6 {
            std::net::Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0).into()
        } else {
            std::net::Ipv4Addr::new(198, 18, 0, 0).into()
        });
        Shape {
            ifindex: hop.ifindex,
            macs: [hop.dst_mac, hop.src_mac],
            source,
            destination: self.to,
            kind,
            length: self.size.unwrap_or_else(|| Shape::shortest(v6, kind, true)),
            flows: self.flows,
            // 10 M flows in 9,766 addresses: the benchmark network has 131,072.
            port_bits: 10,
            order: if self.sequential {
                Order::Sequential
            } else {
                Order::Random
            },
            stamped: true,
        }
    }
}

impl Receive {
    fn run(self) -> anyhow::Result<()> {
        let mut object = BenchObject::load(Sizes::default(), &["receive"])?;
        let mut receiver = Receiver::of_stamped(&mut object);
        for interface in &self.interface {
            receiver.attach(index(interface)?)?;
        }
        eprintln!(
            "receiving on {} for {} s",
            self.interface.join(", "),
            self.seconds
        );
        let started = Instant::now();
        let mut before = 0;
        for second in 1..=self.seconds {
            let due = started + Duration::from_secs(second);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let now = receiver.tally()?.stamped;
            eprintln!(
                "{second:4} s  {:>16} received  {:>12} packets/s",
                grouped(now),
                grouped(now - before)
            );
            before = now;
        }
        let mut report = Report {
            seconds: started.elapsed().as_secs_f64(),
            ..Report::default()
        };
        report.add(&receiver.tally()?);
        report.print(self.json)
    }
}

impl Report {
    fn add(&mut self, tally: &Tally) {
        self.received = Some(tally.stamped);
        self.reordered = Some(tally.reordered);
        let at = |share| tally.latency_ns(share);
        if let (Some(p50), Some(p99), Some(p999), Some(max)) =
            (at(0.5), at(0.99), at(0.999), at(1.0))
        {
            self.latency_ns = Some(Latency {
                p50,
                p99,
                p999,
                max,
            });
        }
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            return print(&(serde_json::to_string(self)? + "\n"));
        }
        let mut text = String::new();
        for (what, number) in [
            ("sent", self.sent),
            ("received", self.received),
            ("lost", self.lost),
            ("out of order", self.reordered),
        ] {
            if let Some(number) = number {
                let _ = writeln!(text, "{what:<14}{:>16}", grouped(number));
            }
        }
        if let Some(pps) = self.sent_pps {
            let _ = writeln!(text, "{:<14}{:>16} packets/s", "rate", grouped(pps as u64));
        }
        if let Some(latency) = &self.latency_ns {
            let micro = |ns: u64| ns as f64 / 1000.0;
            let _ = writeln!(
                text,
                "{:<14}{:>16.1} µs (median), {:.1} (99 %), {:.1} (99.9 %), {:.1} (most); of use where both ends have one clock",
                "latency",
                micro(latency.p50),
                micro(latency.p99),
                micro(latency.p999),
                micro(latency.max)
            );
        }
        print(&text)
    }
}

fn index(interface: &str) -> anyhow::Result<u32> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the name ends in a zero byte.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => bail!("there is no interface {interface} here"),
        index => Ok(index),
    }
}

/// What `bpf_ktime_get_ns` counts.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours, and the clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Where packets to an address leave, with the MAC that the kernel has found out.
fn next_hop(address: IpAddr) -> anyhow::Result<NextHop> {
    let search = async {
        let (watcher, mut events) = Watcher::start(Options::default())
            .await
            .context("cannot ask the kernel for the route")?;
        watcher.track([address]);
        let mut last = None;
        let found = tokio::time::timeout(RESOLVE, async {
            while let Some(event) = events.recv().await {
                let Event::NextHop(changed) = event else {
                    continue;
                };
                if let Some(hop) = changed.next_hop {
                    return Some(hop);
                }
                last = Some(changed.why);
            }
            None
        });
        match found.await {
            Ok(Some(hop)) => Ok(hop),
            _ => Err(anyhow::anyhow!(
                "no next hop to {address} is known{}; nothing was sent",
                last.map(|why| format!(" ({why})")).unwrap_or_default()
            )),
        }
    };
    block_on(async { Ok(search.await?) }).map_err(|failure| match failure {
        Failure::Failed(error) => error,
        other => anyhow::Error::new(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_max() {
        assert_eq!(rate("max"), Ok(Rate::Max));
        assert_eq!(rate("1_000_000"), Ok(Rate::Pps(1_000_000)));
        for wrong in ["0", "-1", "fast", "1e6", "100000001"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
