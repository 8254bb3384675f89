//! Asks the scripts and gateways that virtual routers track, each in a task of its own, and tells what is to be believed.

use std::{net::IpAddr, process::Stdio};

use lb_core::{
    model::{Pace, TrackKind},
    vrrp::tracking::Streak,
};
use tokio::{
    process::Command,
    task::AbortHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::warn;

use crate::net::ping;

/// A task that asks; dropping it ends it.
#[derive(Debug)]
pub struct Tracker(AbortHandle);

impl Drop for Tracker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Tracker {
    /// Starts to ask; `tell` hears of each change of what is to be believed. `None` for what is looked at without asking.
    pub fn start(kind: &TrackKind, tell: impl Fn(bool) + Send + 'static) -> Option<Self> {
        let (subject, pace) = match kind {
            TrackKind::Script { program, pace } => (Subject::Script(program.clone()), *pace),
            TrackKind::Gateway { address, pace } => (Subject::Gateway(*address), *pace),
            TrackKind::Interface(_) | TrackKind::Service { .. } | TrackKind::File(_) => {
                return None;
            }
        };
        let task = tokio::spawn(ask(subject, pace, tell));
        Some(Self(task.abort_handle()))
    }
}

enum Subject {
    Script(String),
    Gateway(IpAddr),
}

async fn ask(subject: Subject, pace: Pace, tell: impl Fn(bool)) {
    let mut streak = Streak::new(pace.fall, pace.rise);
    let mut ticks = interval(pace.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = false;
    loop {
        ticks.tick().await;
        let answer = match &subject {
            Subject::Script(program) => timeout(pace.interval, run(program)).await,
            Subject::Gateway(address) => timeout(pace.interval, ping::answers(*address)).await,
        };
        let well = match answer {
            Ok(Ok(well)) => well,
            Ok(Err(error)) => {
                if !core::mem::replace(&mut complained, true) {
                    match &subject {
                        Subject::Script(program) => warn!("cannot run {program}: {error}"),
                        Subject::Gateway(address) => warn!("cannot ping {address}: {error}"),
                    }
                }
                false
            }
            // Too late.
            Err(_) => false,
        };
        if let Some(news) = streak.take(well) {
            tell(news);
        }
    }
}

async fn run(program: &str) -> std::io::Result<bool> {
    let status = Command::new(program)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await?;
    Ok(status.success())
}
