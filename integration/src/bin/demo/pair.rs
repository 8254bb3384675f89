//! Two nodes under load: the active one is killed, the other goes on, the first one comes back.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use integration::{
    crowd::{Crowd, Hall},
    pair::{CROWD_PORT, Options, Pair},
    probe::{Gap, Prober},
    topology::VIP4,
};
use lb_core::model::Mode;

use crate::screen::{Screen, ms, thousands};

pub const INTERVAL_MS: u32 = 10;
const CONNECTIONS: usize = 2_000;
const PROBE: Duration = Duration::from_millis(1);
const TALK: Duration = Duration::from_millis(1500);
/// For TCP to repeat what was lost.
const REPEATS: Duration = Duration::from_secs(30);

/// What was measured.
pub struct Outcome {
    pub connections: usize,
    pub kept: usize,
    pub death: Gap,
    pub back: Gap,
}

pub fn play(screen: &Screen) -> Result<Outcome> {
    let mut pair = screen.step("building the lab, starting futago on lb1 and lb2", || {
        let options = Options {
            interval_ms: INTERVAL_MS,
            echo: true,
            mode: Mode::L2Dsr,
        };
        let pair = Pair::start("demo-pair", options)?;
        Ok((
            pair,
            format!("futago on lb1 and lb2, adverts every {INTERVAL_MS} ms; lb1 is active"),
        ))
    })?;
    let vip = format!("VIP  {VIP4}");
    let notes = [
        ("lb1", vip.as_str()),
        ("lb1", "active, priority 150"),
        ("lb2", "backup, priority 100"),
        ("server1", "lo   the VIP"),
        ("server2", "lo   the VIP"),
    ];
    screen.blank();
    screen.picture(&pair.lab.picture(&notes));

    let halls = pair
        .server_addresses(CROWD_PORT)?
        .into_iter()
        .map(|(host, address)| Hall::start(&host, address))
        .collect::<integration::Result<Vec<_>>>()?;
    let client = pair.lab.host("client")?.clone();
    let what = format!("{} TCP connections open", thousands(CONNECTIONS as u64));
    let crowd = screen.step(&what, || {
        let crowd = Crowd::open(&client, Pair::crowd(), CONNECTIONS)?;
        crowd.wait_until_all_answer(REPEATS)?;
        Ok((
            crowd,
            format!("{what}, each says a number a second; one UDP probe a millisecond"),
        ))
    })?;

    let prober = Prober::udp(&client, Pair::service(), PROBE)?;
    thread::sleep(TALK / 3);
    let death = screen.step("lb1 is killed", || {
        pair.die("lb1")?;
        pair.wait_until_active("lb2")?;
        thread::sleep(TALK);
        let gap = prober.stop()?;
        let said = format!(
            "lb1 is killed under load: lb2 goes on after {:.1} ms, {} of {} probes lost",
            gap.gap_ms,
            gap.lost,
            thousands(gap.sent)
        );
        Ok((gap, said))
    })?;
    let kept = screen.step("every connection says another number", || {
        // Who does not answer is not kept, and no error.
        let _ = crowd.wait_until_all_answer(REPEATS);
        let kept: usize = crowd.shares().values().map(|share| share.answered).sum();
        let said = format!(
            "connections kept: {} of {}",
            thousands(kept as u64),
            thousands(CONNECTIONS as u64)
        );
        Ok((kept, said))
    })?;

    let prober = Prober::udp(&client, Pair::service(), PROBE)?;
    thread::sleep(TALK / 3);
    let back = screen.step("lb1 comes back", || {
        let began = Instant::now();
        pair.boot("lb1")?;
        pair.wait_until_active("lb1")?;
        let took = began.elapsed();
        thread::sleep(TALK);
        let gap = prober.stop()?;
        let said = format!(
            "lb1 comes back: active again after {}, {} of {} probes lost",
            ms(took),
            gap.lost,
            thousands(gap.sent)
        );
        Ok((gap, said))
    })?;
    let _ = crowd.wait_until_all_answer(REPEATS);
    let last: usize = crowd.shares().values().map(|share| share.answered).sum();
    drop((crowd, halls));
    Ok(Outcome {
        connections: CONNECTIONS,
        kept: kept.min(last),
        death,
        back,
    })
}

impl Outcome {
    /// A line for the summary.
    pub fn show(&self) -> String {
        format!(
            "two nodes, l2-dsr: the active one died: gap {:.1} ms, {} of {} connections kept; it came back: {} probes lost",
            self.death.gap_ms,
            thousands(self.kept as u64),
            thousands(self.connections as u64),
            self.back.lost
        )
    }

    /// What is not as it should be on any machine; how long the gap is depends on the machine.
    pub fn unexpected(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.kept < self.connections {
            wrong.push(format!(
                "two nodes: {} of {} connections did not outlive the node",
                self.connections - self.kept,
                self.connections
            ));
        }
        wrong
    }
}
