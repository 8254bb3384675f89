//! Everything at once: random configurations and faults, and the two promises that hold whatever happens.
//!
//! 1. Two nodes whose daemons run, and which any path connects, are never both active for longer than the detection time.
//! 2. When all faults are gone, each virtual router has exactly one active within a bound, and keeps it.

use core::time::Duration;

use super::world::{Fault, Layout, MS, Options, World};
use crate::vrrp::router::Preempt;
use crate::vrrp::tracking::Standing;

const CHAOS: u32 = 60;
const LEASE: u32 = 15;

/// What a seed led to.
#[derive(Debug)]
pub struct Outcome {
    /// The configuration, every fault, and every action except leases and echo; empty unless asked for.
    pub log: Vec<String>,
    /// The promise that was broken.
    pub broken: Option<String>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, trace: bool) -> Outcome {
    let mut world = World::new(seed, Options::pair(10 * MS, None));
    let options = draw(&mut world);
    let mut log = if trace {
        vec![format!("{options:#?}")]
    } else {
        Vec::new()
    };
    let mut world = World::new(seed, Options { trace, ..options });
    let broken = promises(&mut world).err();
    log.append(&mut world.log);
    Outcome { log, broken }
}

fn promises(world: &mut World) -> Result<(), String> {
    let interval = world.options.interval;
    let lossy = world.options.loss_per_mille > 0 || world.options.reorder_per_mille > 0;
    for _ in 0..world.rng.within(2, 9) {
        schedule_fault(world);
    }

    let limit = interval * if lossy { 10 } else { 4 };
    let mut both_since: [[Option<Duration>; 9]; 2] = Default::default();
    let mut never_two = |world: &World| two_actives(world, &mut both_since, limit);
    world.run(interval * CHAOS, &mut never_two)?;

    heal(world);
    let settled = world.now + interval * (LEASE + 15);
    world.run(settled, &mut never_two)?;
    world.run(settled + interval * 10, |world| {
        (0..world.routers()).try_for_each(|router| {
            let holders: Vec<usize> = world.answering(router).collect();
            match (&holders[..], world.options.preempt) {
                ([best], Preempt::After(_)) if *best != best_node(world, router) => Err(format!(
                    "at {:?} node {best} of lower priority holds router {router}",
                    world.now
                )),
                ([_], _) => Ok(()),
                // Everybody was told to stop.
                ([], _) if !(0..world.options.nodes).any(|node| world.daemon_runs(node)) => Ok(()),
                _ => Err(format!(
                    "at {:?} router {router} is held by {holders:?} after healing",
                    world.now
                )),
            }
        })
    })
}

/// Of those that were not shut down in the last moment.
fn best_node(world: &World, router: usize) -> usize {
    let running = (0..world.options.nodes).filter(|&node| world.daemon_runs(node));
    running
        .max_by_key(|&node| world.router_config(node, router).priority)
        .unwrap_or(0)
}

fn two_actives(
    world: &World,
    since: &mut [[Option<Duration>; 9]; 2],
    limit: Duration,
) -> Result<(), String> {
    for router in 0..world.routers() {
        for a in 0..world.options.nodes {
            for b in a + 1..world.options.nodes {
                let since = &mut since[router][a * 3 + b];
                let avoidable = world.answers(a, router)
                    && world.answers(b, router)
                    && world.daemon_runs(a)
                    && world.daemon_runs(b)
                    && world.connected(a, b);
                if !avoidable {
                    *since = None;
                } else if world.now - *since.get_or_insert(world.now) > limit {
                    let span = world.now - since.unwrap_or(world.now);
                    return Err(format!(
                        "at {:?} nodes {a} and {b} both hold router {router} for {span:?}",
                        world.now
                    ));
                }
            }
        }
    }
    Ok(())
}

fn draw(world: &mut World) -> Options {
    let rng = &mut world.rng;
    let v2 = rng.chance(100);
    let interval = if v2 {
        1000
    } else {
        [10, 10, 100, 1000][rng.pick(4)]
    } * MS;
    let lossy = rng.chance(500);
    let mut maybe = |per_mille: u64, end: u64| {
        if lossy && rng.chance(per_mille) {
            rng.below(end)
        } else {
            0
        }
    };
    let (loss_per_mille, reorder_per_mille, duplicate_per_mille) =
        (maybe(700, 80), maybe(500, 100), maybe(500, 100));
    let layout = match rng.below(10) {
        0..6 => Layout::Single,
        6..8 => Layout::ActiveActive,
        _ if v2 => Layout::Single,
        _ => Layout::SyncGroup,
    };
    Options {
        nodes: if rng.chance(250) { 3 } else { 2 },
        layout,
        v2,
        preempt: if rng.chance(250) {
            Preempt::Off
        } else {
            Preempt::After(interval * rng.below(6) as u32)
        },
        lease: interval * LEASE,
        echo: [None, Some(1), Some(2)][rng.pick(3)],
        loss_per_mille,
        reorder_per_mille,
        duplicate_per_mille,
        delay: Duration::from_micros(rng.within(50, 500)),
        ..Options::pair(interval, None)
    }
}

/// One fault and its end.
fn schedule_fault(world: &mut World) {
    let interval = world.options.interval;
    let nodes = world.options.nodes;
    let start = interval * 6 + world.luck(interval * (CHAOS - 10));
    let end = start + world.luck(interval * 20);
    let node = world.rng.pick(nodes);
    let other = (node + 1 + world.rng.pick(nodes - 1)) % nodes;
    let path = world.rng.pick(2);
    let kinds = spans(node, other, path);
    match world.rng.pick(kinds.len() + 4) {
        0 => {
            let by = world.luck(interval * 40);
            world.fault_at(start, Fault::ClockJump(node, by));
        }
        1 => {
            for _ in 0..world.rng.within(1, 40) {
                let at = start + world.luck(end - start);
                world.fault_at(at, Fault::Forge(node));
            }
        }
        2 => {
            // One path may come back before the other.
            let later = end + world.luck(interval * 12);
            for (each, back) in [(path, end), (1 - path, later)] {
                for (a, b) in [(node, other), (other, node)] {
                    world.fault_at(start, Fault::Block(a, b, each, true));
                    world.fault_at(back, Fault::Block(a, b, each, false));
                }
            }
        }
        3 => {
            let loss = world.options.loss_per_mille;
            world.fault_at(start, Fault::Loss(300));
            world.fault_at(start + interval * 3, Fault::Loss(loss));
        }
        kind => {
            let (begin, finish) = kinds[kind - 4].clone();
            world.fault_at(start, begin);
            world.fault_at(end, finish);
        }
    }
}

/// Faults that last, with what ends them.
fn spans(node: usize, other: usize, path: usize) -> [(Fault, Fault); 9] {
    let lowered = Standing::at(20 + node as u8);
    [
        (Fault::Crash(node), Fault::Boot(node)),
        (Fault::Kill(node), Fault::StartDaemon(node)),
        (Fault::Starve(node, true), Fault::Starve(node, false)),
        (Fault::Freeze(node, true), Fault::Freeze(node, false)),
        (
            Fault::Link(node, path, false),
            Fault::Link(node, path, true),
        ),
        (
            Fault::Block(node, other, path, true),
            Fault::Block(node, other, path, false),
        ),
        (Fault::Handover(node), Fault::Resume(node)),
        (Fault::Shutdown(node), Fault::StartDaemon(node)),
        (Fault::Standing(node, lowered), Fault::Resume(node)),
    ]
}

fn heal(world: &mut World) {
    world.fault(Fault::Loss(0));
    world.options.reorder_per_mille = 0;
    world.options.duplicate_per_mille = 0;
    for node in 0..world.options.nodes {
        for other in 0..world.options.nodes {
            world.fault(Fault::Block(node, other, 0, false));
            world.fault(Fault::Block(node, other, 1, false));
        }
    }
    world.drop_faults();
    for node in 0..world.options.nodes {
        world.fault(Fault::Boot(node));
        world.fault(Fault::Starve(node, false));
        world.fault(Fault::Freeze(node, false));
        world.fault(Fault::Link(node, 1, true));
        // Says the configured priority, too.
        world.fault(Fault::Link(node, 0, true));
        world.fault(Fault::Resume(node));
    }
}
