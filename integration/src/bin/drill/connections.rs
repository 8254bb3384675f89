//! Open TCP connections with numbered messages, held through a fault in each forwarding mode.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use anyhow::{Context, Result};
use integration::{
    crowd::{Crowd, Hall},
    pair::{CROWD_PORT, Pair},
};
use lb_core::model::Mode;
use serde::Serialize;

use crate::{Args, fault, subject::Subject};

/// How long TCP may take to repeat what was lost.
const REPEATS: Duration = Duration::from_secs(30);
/// Before and after the fault everybody talks for this long.
const TALK: Duration = Duration::from_secs(3);
const CORRUPTED: &str = "another number came back";

/// Set for a copy of this program that is a server: its name and where it listens.
const HALL: &str = "FUTAGO_DRILL_HALL";
const READY: &str = "listening";

/// Serves for ever where this process is meant to be a server.
pub fn serve_if_told() -> Result<()> {
    let Ok(text) = std::env::var(HALL) else {
        return Ok(());
    };
    let (name, address) = text.split_once(' ').context("a name and an address")?;
    let _hall = Hall::here(name, address.parse()?)?;
    println!("{READY}");
    loop {
        sleep(REPEATS);
    }
}

#[derive(Serialize)]
pub struct Report {
    fault: String,
    interval_ms: u32,
    echo: bool,
    connections: u32,
    modes: BTreeMap<String, Fate>,
}

/// What became of the connections.
#[derive(Debug, Default, Serialize)]
struct Fate {
    /// Open, and a message that was sent after all was over came back; no earlier one was missing or wrong.
    survived: usize,
    reset: usize,
    corrupted: usize,
    /// Open, but without an answer.
    silent: usize,
}

pub fn drill(args: &Args, count: u32) -> Result<Report> {
    let mut modes = BTreeMap::new();
    for (name, mode) in [
        ("l2-dsr", Mode::L2Dsr),
        ("nat", Mode::Nat),
        ("l3-dsr", Mode::Ipip),
    ] {
        let fate = hold(args, count, mode)?;
        eprintln!("{name}: {fate:?}");
        modes.insert(name.to_owned(), fate);
    }
    Ok(Report {
        fault: args.fault.to_string(),
        interval_ms: args.interval_ms,
        echo: !args.no_echo,
        connections: count,
        modes,
    })
}

fn hold(args: &Args, count: u32, mode: Mode) -> Result<Fate> {
    let pair = Pair::start("crowd", args.options(mode))?;
    let mut halls = Vec::new();
    for (host, address) in pair.server_addresses(CROWD_PORT)? {
        // In processes of their own: one process may not have as many open files as both ends need.
        let mut command = host.command(std::env::current_exe()?);
        command.env(HALL, format!("{} {address}", host.name()));
        let mut hall = host.spawn_command(command)?;
        hall.wait_for(READY, REPEATS)?;
        halls.push(hall);
    }
    let client = pair.lab.host("client")?.clone();
    client.sysctl("net.ipv4.ip_local_port_range", "10000 65000")?;
    let count = usize::try_from(count)?;
    let crowd = Crowd::open(&client, Pair::crowd(), count)?;
    crowd.wait_until_all_answer(REPEATS)?;
    let mut subject = Subject::Futago(Box::new(pair));
    sleep(TALK);
    fault::happen(&mut subject, args)?;
    sleep(TALK);
    // Whoever does not answer is counted, and no error.
    let _ = crowd.wait_until_all_answer(REPEATS);
    let mut fate = Fate::default();
    for share in crowd.shares().values() {
        fate.survived += share.answered;
        fate.silent += share.open - share.answered;
        for (reason, count) in &share.broken {
            *if reason == CORRUPTED {
                &mut fate.corrupted
            } else {
                &mut fate.reset
            } += count;
        }
    }
    Ok(fate)
}
