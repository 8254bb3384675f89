//! One fault, watched, and everything well again after it.

use std::{
    fmt,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use integration::{
    Direction,
    pair::{Held, Holders},
    probe::{Gap, Prober},
    topology::VIP4,
};

use crate::{Args, subject::Subject};

const PROBE: Duration = Duration::from_millis(1);
const HOGS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The active host dies, with all its cables
    NodeDeath,
    /// The active's daemon is killed, and started again after 0.7 s
    DaemonKill,
    /// The active's daemon is stopped by SIGTERM
    DaemonStop,
    /// The active hands over
    Handover,
    /// The active's interface loses its link
    LinkDown,
    /// The backup hears nothing over the interface of the adverts
    OneWayLoss,
    /// No path between the nodes, and between the backup and everybody
    Partition,
    /// Eight busy loops
    CpuHogs,
    /// A node that died comes back, and has the higher priority
    Failback,
}

impl Fault {
    /// Nobody is to take over.
    pub const fn is_harmless(self) -> bool {
        matches!(self, Self::DaemonKill | Self::CpuHogs | Self::OneWayLoss)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_possible_value() {
            Some(value) => f.write_str(value.get_name()),
            None => Ok(()),
        }
    }
}

/// The pair is well again when it returns, with lb1 active.
pub fn one(subject: &mut Subject, args: &Args) -> Result<(Gap, Held)> {
    if args.fault == Fault::Failback {
        subject.die("lb1")?;
        subject.wait_until_active("lb2")?;
        sleep(args.calm());
    }
    let lab = subject.lab();
    let hosts = [lab.host("lb1")?.clone(), lab.host("lb2")?.clone()];
    let holders = Holders::watch(&hosts, VIP4)?;
    let prober = Prober::udp(lab.host("client")?, subject.service(), PROBE)?;
    sleep(Duration::from_millis(200));
    happen(subject, args)?;
    sleep(args.calm());
    let gap = prober.stop()?;
    let held = holders.stop();
    mend(subject, args)?;
    Ok((gap, held))
}

/// The fault, and its end where that is part of it.
pub fn happen(subject: &mut Subject, args: &Args) -> Result<()> {
    match args.fault {
        Fault::NodeDeath => subject.die("lb1"),
        Fault::DaemonKill => {
            subject.kill_daemon("lb1")?;
            sleep(Duration::from_millis(700));
            subject.start_daemon("lb1")
        }
        Fault::DaemonStop => subject.stop_daemon("lb1"),
        Fault::Handover => subject.hand_over("lb2"),
        Fault::LinkDown => Ok(subject.lab().unplug("lb1", "eth0")?),
        Fault::OneWayLoss => {
            subject.lab().cut("lb2", "eth0", Direction::ToHost)?;
            sleep(2 * args.calm());
            Ok(subject.lab().mend("lb2", "eth0", Direction::ToHost)?)
        }
        Fault::Partition => {
            for interface in subject.interfaces() {
                subject.lab().cut_off("lb2", interface)?;
            }
            sleep(args.calm());
            for interface in subject.interfaces() {
                for direction in [Direction::FromHost, Direction::ToHost] {
                    subject.lab().mend("lb2", interface, direction)?;
                }
            }
            Ok(())
        }
        Fault::CpuHogs => {
            let mut hogs = hogs()?;
            sleep(Duration::from_secs(args.seconds));
            for hog in &mut hogs {
                hog.kill()?;
                hog.wait()?;
            }
            Ok(())
        }
        Fault::Failback => {
            subject.boot("lb1")?;
            subject.wait_until_active("lb1")
        }
    }
}

/// What the fault left behind is put right.
pub fn mend(subject: &mut Subject, args: &Args) -> Result<()> {
    match args.fault {
        Fault::NodeDeath => subject.boot("lb1")?,
        Fault::DaemonStop => subject.start_daemon("lb1")?,
        Fault::Handover => subject.hand_over("lb1")?,
        Fault::LinkDown => subject.lab().plug("lb1", "eth0")?,
        _ => {}
    }
    subject.wait_until_active("lb1")?;
    sleep(args.calm());
    Ok(())
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
