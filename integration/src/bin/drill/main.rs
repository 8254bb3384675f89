//! Breaks something of a running pair, again and again, and measures what a client saw.

mod connections;
mod fault;
mod peer;
mod subject;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use integration::{
    pair::{Held, Options, Pair},
    probe::Gap,
};
use lb_core::model::Mode;
use serde::Serialize;

use fault::Fault;
use peer::Peer;
use subject::Subject;

/// Two nodes, a client and two servers, as network namespaces of this machine; a probe a millisecond through the VIP.
///
/// Prints what each run cost, and the report as JSON.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask drill", version)]
pub struct Args {
    /// What is broken
    #[arg(long, value_enum)]
    pub fault: Fault,
    /// Milliseconds between adverts, a multiple of 10
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(10..=10_000))]
    pub interval_ms: u32,
    /// How often
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// VRRP alone, without the echo of the dataplanes
    #[arg(long)]
    pub no_echo: bool,
    /// Do the same with a pair of this implementation afterwards
    #[arg(long, value_enum)]
    peer: Option<Other>,
    /// Hold this many TCP connections open, with numbered messages, through one fault in each of l2-dsr, nat and l3-dsr
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20_000), conflicts_with = "peer")]
    connections: Option<u32>,
    /// How long cpu-hogs lasts
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Write the report here, too
    #[arg(long, value_name = "FILE")]
    json: Option<std::path::PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Other {
    Keepalived,
}

impl Args {
    /// How long everything is left alone between two changes: a failover by VRRP alone is over by then.
    fn calm(&self) -> Duration {
        Duration::from_millis(700).max(6 * Duration::from_millis(self.interval_ms.into()))
    }

    fn options(&self, mode: Mode) -> Options {
        Options {
            interval_ms: self.interval_ms,
            echo: !self.no_echo,
            mode,
        }
    }
}

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
            // A tenth of a millisecond is what the probes can tell.
            values
                .get(index)
                .map_or(0.0, |value| (value * 10.0).round() / 10.0)
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
    of: &'static str,
    echo: bool,
    runs: usize,
    gap_ms: Spread,
    lost_packets: Spread,
    false_failovers: u64,
    dual_active_ms: f64,
    /// Probes that this machine was too late to send: figures of a run with many are its own, not the pair's.
    late_probes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<Box<Report>>,
}

fn main() -> Result<()> {
    connections::serve_if_told()?;
    let args = Args::parse();
    if !args.interval_ms.is_multiple_of(10) {
        bail!("--interval-ms must be a multiple of 10");
    }
    let json = match args.connections {
        Some(count) => serde_json::to_string_pretty(&connections::drill(&args, count)?)?,
        None => serde_json::to_string_pretty(&drill(&args)?)?,
    };
    println!("{json}");
    if let Some(path) = &args.json {
        std::fs::write(path, json + "\n")
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn drill(args: &Args) -> Result<Report> {
    let mut report = {
        let pair = Pair::start("drill", args.options(Mode::L2Dsr))?;
        repeat(&mut Subject::Futago(Box::new(pair)), args)?
    };
    if args.peer == Some(Other::Keepalived) {
        let peer = Peer::start("drill-peer", args.interval_ms)?;
        report.peer = Some(Box::new(repeat(
            &mut Subject::Keepalived(Box::new(peer)),
            args,
        )?));
    }
    Ok(report)
}

fn repeat(subject: &mut Subject, args: &Args) -> Result<Report> {
    std::thread::sleep(args.calm());
    let mut seen: Vec<(Gap, Held)> = Vec::new();
    for run in 1..=args.runs {
        let (gap, held) = fault::one(subject, args)?;
        eprintln!(
            "{} run {run}: gap {:.1} ms, lost {} of {}, late {}, takeovers {}, both held it for {:.1} ms",
            subject.name(),
            gap.gap_ms,
            gap.lost,
            gap.sent,
            gap.late,
            held.takeovers,
            held.dual_ms
        );
        seen.push((gap, held));
    }
    Ok(Report {
        fault: args.fault.to_string(),
        interval_ms: args.interval_ms,
        of: subject.name(),
        echo: subject.has_echo(),
        runs: seen.len(),
        gap_ms: Spread::of(seen.iter().map(|(gap, _)| gap.gap_ms).collect()),
        lost_packets: Spread::of(seen.iter().map(|(gap, _)| gap.lost as f64).collect()),
        false_failovers: if args.fault.is_harmless() {
            seen.iter().map(|(_, held)| held.takeovers).sum()
        } else {
            0
        },
        // A dead node, whose namespace keeps its addresses here, is not active.
        dual_active_ms: if args.fault == Fault::NodeDeath {
            0.0
        } else {
            let most = seen
                .iter()
                .map(|(_, held)| held.dual_ms)
                .fold(0.0, f64::max);
            (most * 10.0).round() / 10.0
        },
        late_probes: seen.iter().map(|(gap, _)| gap.late).sum(),
        peer: None,
    })
}
