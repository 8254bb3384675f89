//! Breaks something of a running pair, again and again, and measures what a client saw.

use std::{
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use integration::{
    Direction, Signal,
    pair::{Held, Holders, Options, Pair},
    probe::{Gap, Prober},
    topology::VIP4,
};
use serde::Serialize;

const PROBE: Duration = Duration::from_millis(1);
const CALM: Duration = Duration::from_millis(700);
const HOGS: usize = 8;
const USAGE: &str = "drill --fault node-death|daemon-kill|daemon-stop|handover|link-down|one-way-loss|partition|cpu-hogs|failback [--interval-ms N] [--runs N] [--no-echo] [--seconds N] [--json FILE]";

#[derive(Serialize)]
struct Spread {
    min: f64,
    median: f64,
    p99: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = ((values.len().max(1) - 1) as f64 * share).round() as usize;
            values.get(index).copied().unwrap_or(0.0)
        };
        Self {
            min: at(0.0),
            median: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}

#[derive(Serialize)]
struct Report {
    fault: String,
    interval_ms: u32,
    echo: bool,
    runs: usize,
    gap_ms: Spread,
    lost_packets: Spread,
    false_failovers: u64,
    dual_active_ms: f64,
    /// Probes that this machine was too late to send: figures of a run with many are its own, not the pair's.
    late_probes: u64,
}

struct Arguments {
    fault: String,
    interval_ms: u32,
    runs: usize,
    echo: bool,
    hogs_for: Duration,
    json: Option<String>,
}

fn arguments() -> Result<Arguments> {
    let mut parsed = Arguments {
        fault: String::new(),
        interval_ms: 10,
        runs: 10,
        echo: true,
        hogs_for: Duration::from_secs(60),
        json: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--no-echo" {
            parsed.echo = false;
            continue;
        }
        let value = words.next().context(USAGE)?;
        match word.as_str() {
            "--fault" => parsed.fault = value,
            "--interval-ms" => parsed.interval_ms = value.parse().context(USAGE)?,
            "--runs" => parsed.runs = value.parse().context(USAGE)?,
            "--seconds" => parsed.hogs_for = Duration::from_secs(value.parse().context(USAGE)?),
            "--json" => parsed.json = Some(value),
            _ => bail!("{USAGE}"),
        }
    }
    if parsed.fault.is_empty() {
        bail!("{USAGE}");
    }
    Ok(parsed)
}

fn main() -> Result<()> {
    let arguments = arguments()?;
    let options = Options {
        interval_ms: arguments.interval_ms,
        echo: arguments.echo,
    };
    let mut pair = Pair::start("drill", options)?;
    sleep(CALM);
    let mut seen: Vec<(Gap, Held)> = Vec::new();
    for run in 1..=arguments.runs {
        let (gap, held) = one(&mut pair, &arguments)?;
        eprintln!(
            "run {run}: gap {:.1} ms, lost {} of {}, late {}, takeovers {}, both held it for {:.1} ms",
            gap.gap_ms, gap.lost, gap.sent, gap.late, held.takeovers, held.dual_ms
        );
        seen.push((gap, held));
    }
    let harmless = matches!(
        arguments.fault.as_str(),
        "daemon-kill" | "cpu-hogs" | "one-way-loss"
    );
    let fault = arguments.fault;
    let report = Report {
        fault: fault.clone(),
        interval_ms: arguments.interval_ms,
        echo: arguments.echo,
        runs: arguments.runs,
        gap_ms: Spread::of(seen.iter().map(|(gap, _)| gap.gap_ms).collect()),
        lost_packets: Spread::of(seen.iter().map(|(gap, _)| gap.lost as f64).collect()),
        false_failovers: if harmless {
            seen.iter().map(|(_, held)| held.takeovers).sum()
        } else {
            0
        },
        // A dead node, whose namespace keeps its addresses here, is not active.
        dual_active_ms: if fault == "node-death" {
            0.0
        } else {
            seen.iter()
                .map(|(_, held)| held.dual_ms)
                .fold(0.0, f64::max)
        },
        late_probes: seen.iter().map(|(gap, _)| gap.late).sum(),
    };
    let json = serde_json::to_string_pretty(&report)?;
    println!("{json}");
    if let Some(path) = arguments.json {
        std::fs::write(&path, json + "\n").with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// One fault, watched; the pair is well again when it returns, with lb1 active.
fn one(pair: &mut Pair, arguments: &Arguments) -> Result<(Gap, Held)> {
    if arguments.fault == "failback" {
        pair.die("lb1")?;
        pair.wait_until_active("lb2")?;
        sleep(CALM);
    }
    let hosts = [pair.lab.host("lb1")?.clone(), pair.lab.host("lb2")?.clone()];
    let holders = Holders::watch(&hosts, VIP4)?;
    let prober = Prober::udp(pair.lab.host("client")?, Pair::service(), PROBE)?;
    sleep(Duration::from_millis(200));
    match arguments.fault.as_str() {
        "node-death" => pair.die("lb1")?,
        "daemon-kill" => {
            if let Some(mut daemon) = pair.daemons.remove("lb1") {
                daemon.process.kill()?;
            }
            sleep(CALM);
            pair.start_again("lb1")?;
        }
        "daemon-stop" => {
            if let Some(mut daemon) = pair.daemons.remove("lb1") {
                daemon.process.signal(Signal::SIGTERM)?;
                daemon.process.wait(Duration::from_secs(20))?;
            }
        }
        "handover" => {
            let active = pair.daemons.get("lb1").context("lb1 runs")?;
            active.cli(&["failover", "--to", "lb2"])?;
        }
        "link-down" => pair.lab.unplug("lb1", "eth0")?,
        "one-way-loss" => {
            pair.lab.cut("lb2", "eth0", Direction::ToHost)?;
            sleep(2 * CALM);
            pair.lab.mend("lb2", "eth0", Direction::ToHost)?;
        }
        "partition" => {
            for interface in ["eth0", "eth1"] {
                pair.lab.unplug("lb2", interface)?;
            }
            sleep(CALM);
            for interface in ["eth0", "eth1"] {
                pair.lab.plug("lb2", interface)?;
            }
        }
        "cpu-hogs" => {
            let mut hogs = hogs()?;
            sleep(arguments.hogs_for);
            for hog in &mut hogs {
                hog.kill()?;
                hog.wait()?;
            }
        }
        "failback" => {
            pair.boot("lb1")?;
            pair.wait_until_active("lb1")?;
        }
        _ => bail!("{USAGE}"),
    }
    sleep(CALM);
    let gap = prober.stop()?;
    let held = holders.stop();
    match arguments.fault.as_str() {
        "node-death" => pair.boot("lb1")?,
        "daemon-stop" => pair.start_again("lb1")?,
        "handover" => {
            let first = pair.daemons.get("lb1").context("lb1 runs")?;
            first.cli(&["failover", "--to", "lb1"])?;
        }
        "link-down" => pair.lab.plug("lb1", "eth0")?,
        _ => {}
    }
    pair.wait_until_active("lb1")?;
    sleep(CALM);
    Ok((gap, held))
}

fn hogs() -> Result<Vec<Child>> {
    (0..HOGS)
        .map(|_| {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdin(Stdio::null())
                .spawn()
                .context("cannot start a busy loop")
        })
        .collect()
}
