//! One fault at a time, under many seeds: what each costs, and what must never happen.

use core::time::Duration;

use super::world::{Fault, Layout, MS, Options, World};
use crate::vrrp::router::{Preempt, Reason, State};
use crate::vrrp::tracking::Standing;

const TEN: Duration = Duration::from_millis(10);

/// Node 0 is active on router 0, everything is quiet.
fn settled(seed: u64, options: Options) -> World {
    let span = options.interval * 20;
    let mut world = World::new(seed, options);
    world.settle(span);
    assert_eq!(world.answering(0).collect::<Vec<_>>(), [0], "seed {seed}");
    // Faults do not wait for a tick.
    let moment = world.luck(world.options.interval * 2);
    world.settle(moment);
    world.changes.clear();
    world.announced.clear();
    world
}

fn never(world: &World, seed: u64, what: &str, bad: bool) -> Result<(), String> {
    if bad {
        Err(format!("seed {seed} at {:?}: {what}", world.now))
    } else {
        Ok(())
    }
}

fn always_one(seed: u64) -> impl FnMut(&World) -> Result<(), String> {
    move |world| {
        (0..world.routers()).try_for_each(|router| {
            never(
                world,
                seed,
                "nobody answers for the addresses",
                world.answering(router).next().is_none(),
            )
        })
    }
}

fn never_two(seed: u64) -> impl FnMut(&World) -> Result<(), String> {
    move |world| {
        (0..world.routers()).try_for_each(|router| {
            never(
                world,
                seed,
                "two nodes answer",
                world.answering(router).count() > 1,
            )
        })
    }
}

/// Time from now until somebody answers for router 0.
fn gap(world: &mut World) -> Duration {
    let start = world.now;
    let found = |world: &World| {
        if world.answering(0).next().is_some() {
            Err(String::new())
        } else {
            Ok(())
        }
    };
    world
        .run(start + Duration::from_secs(600), found)
        .expect_err("somebody takes over");
    world.now - start
}

fn death_gaps(options: &Options) -> Vec<Duration> {
    let die = |seed| {
        let mut world = settled(seed, options.clone());
        world.fault(Fault::Crash(0));
        gap(&mut world)
    };
    let mut gaps: Vec<Duration> = (0..200).map(die).collect();
    gaps.sort();
    gaps
}

#[test]
fn node_death_by_vrrp_alone_takes_three_intervals_and_the_skew() {
    // Priority 150: skew (256 - 150) / 256 × 10 ms.
    let limit = 3 * TEN + Duration::from_micros(4141) + MS;
    let gaps = death_gaps(&Options::pair(TEN, None));
    assert!(gaps[199] <= limit, "{:?} > {limit:?}", gaps[199]);
    assert!(
        gaps[0] >= 2 * TEN,
        "{:?}: did not wait for three adverts",
        gaps[0]
    );
}

#[test]
fn node_death_with_echo_is_noticed_sooner() {
    for paths in [1, 2] {
        let gaps = death_gaps(&Options::pair(TEN, Some(paths)));
        assert!(gaps[100] <= 15 * MS, "median {:?}", gaps[100]);
        assert!(gaps[199] <= 20 * MS, "max {:?}", gaps[199]);
    }
    let three = death_gaps(&Options {
        nodes: 3,
        ..Options::pair(TEN, Some(1))
    });
    assert!(three[199] <= 25 * MS, "max of three nodes {:?}", three[199]);
}

#[test]
fn v2_waits_its_skew_in_seconds() {
    let options = Options {
        v2: true,
        ..Options::pair(Duration::from_secs(1), None)
    };
    let gaps = death_gaps(&options);
    let limit = Duration::from_secs(3) + Duration::from_secs(1) * 106 / 256 + MS;
    assert!(
        gaps[199] <= limit && gaps[199] > Duration::from_millis(3300),
        "{:?}",
        gaps[199]
    );
}

#[test]
fn a_starved_daemon_is_not_a_dead_node() {
    for seed in 0..150 {
        let mut world = settled(
            seed,
            Options {
                loss_per_mille: 10,
                ..Options::pair(TEN, Some(2))
            },
        );
        let start = world.now;
        for node in [0, 1] {
            let mut at = start;
            while at < start + TEN * 200 {
                let (run, stop) = (world.luck(TEN * 3), world.luck(TEN * 25));
                world.fault_at(at + run, Fault::Starve(node, true));
                world.fault_at(at + run + stop, Fault::Starve(node, false));
                at += run + stop;
            }
        }
        world
            .run(start + TEN * 260, always_one(seed))
            .unwrap_or_else(|error| panic!("{error}"));
        assert!(world.changes.is_empty(), "seed {seed}: {:?}", world.changes);
    }
}

#[test]
fn a_starved_daemon_without_echo_assumes_that_it_lost() {
    for seed in 0..50 {
        let mut world = settled(seed, Options::pair(TEN, None));
        world.fault(Fault::Starve(0, true));
        world.settle(TEN * 10);
        assert_eq!(world.state(1, 0), Some(State::Active));
        world.adverts.clear();
        world.fault(Fault::Starve(0, false));
        assert_eq!(world.state(0, 0), Some(State::Backup), "seed {seed}");
        assert!(
            world.adverts.iter().all(|advert| advert.1 != 0),
            "a burst after the stall"
        );
        world.settle(TEN * 10);
        assert_eq!(
            world.answering(0).collect::<Vec<_>>(),
            [0],
            "and preempts later"
        );
    }
}

#[test]
fn a_dead_daemon_is_replaced_when_its_lease_ends_and_never_doubled() {
    for seed in 0..100 {
        let options = Options::pair(TEN, Some(1));
        let lease = options.lease;
        let mut world = settled(seed, options);
        world.fault(Fault::Kill(0));
        let start = world.now;
        world
            .run(start + lease * 2, never_two(seed))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [1], "seed {seed}");
        let (at, _, _, change) = world.changes[0];
        assert_eq!(change.reason, Reason::PeerLeaseExpired);
        assert!(
            at - start > lease - 2 * TEN && at - start < lease + TEN,
            "{:?}",
            at - start
        );
        world.fault(Fault::StartDaemon(0));
        world
            .run(world.now + TEN * 20, always_one(seed))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [0], "seed {seed}");
    }
}

#[test]
fn a_daemon_that_restarts_within_its_lease_is_not_missed() {
    for layout in [Layout::Single, Layout::SyncGroup] {
        for seed in 0..50 {
            let mut world = settled(
                seed,
                Options {
                    layout,
                    ..Options::pair(TEN, Some(1))
                },
            );
            world.fault(Fault::Kill(0));
            let down = world.luck(TEN * 25);
            world.fault_at(world.now + down, Fault::StartDaemon(0));
            world
                .run(world.now + TEN * 80, always_one(seed))
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(world.state(0, 0), Some(State::Active));
            assert!(
                world.changes.iter().all(|change| change.1 == 0),
                "seed {seed}: {:?}",
                world.changes
            );
        }
    }
}

#[test]
fn a_handover_leaves_no_moment_without_an_active_that_was_heard() {
    for (layout, echo) in [
        (Layout::Single, None),
        (Layout::Single, Some(1)),
        (Layout::SyncGroup, Some(2)),
    ] {
        for seed in 0..60 {
            let mut world = settled(
                seed,
                Options {
                    layout,
                    ..Options::pair(TEN, echo)
                },
            );
            let fault = if seed % 2 == 0 {
                Fault::Handover(0)
            } else {
                Fault::Shutdown(0)
            };
            world.fault(fault);
            world.adverts.clear();
            world
                .run(world.now + TEN * 40, always_one(seed))
                .unwrap_or_else(|error| panic!("{error}"));
            for router in 0..world.routers() {
                assert_eq!(
                    world.answering(router).collect::<Vec<_>>(),
                    [1],
                    "seed {seed}: and it stays there"
                );
                let released = world
                    .changes
                    .iter()
                    .find(|change| change.1 == 0 && change.2 == router);
                let heard = world
                    .adverts
                    .iter()
                    .find(|advert| advert.1 == 1 && advert.3 > 0);
                assert!(
                    released.expect("released").0 > heard.expect("heard").0,
                    "seed {seed}"
                );
            }
            if seed % 2 == 0 {
                world.fault(Fault::Resume(0));
                world
                    .run(world.now + TEN * 20, always_one(seed))
                    .unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(
                    world.answering(0).collect::<Vec<_>>(),
                    [0],
                    "seed {seed}: until it may come back"
                );
            }
        }
    }
}

#[test]
fn a_handover_that_nobody_accepts_is_called_off() {
    let mut world = settled(1, Options::pair(TEN, None));
    world.fault(Fault::Crash(1));
    world.fault(Fault::Handover(0));
    world
        .run(world.now + TEN * 40, always_one(1))
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(world.state(0, 0), Some(State::Active));
    assert_eq!(world.adverts.last().map(|advert| advert.3), Some(200));
    world.fault(Fault::Shutdown(0));
    world.settle(TEN * 20);
    assert_eq!(world.state(0, 0), None, "a shutdown ends all the same");
    assert_eq!(world.answering(0).count(), 0);
}

#[test]
fn one_way_loss_with_a_second_path_makes_no_second_active() {
    for seed in 0..60 {
        let mut world = settled(seed, Options::pair(TEN, Some(2)));
        let (from, to) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        world.fault(Fault::Block(from, to, 0, true));
        world
            .run(world.now + TEN * 100, never_two(seed))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [0], "seed {seed}");
        world.fault(Fault::Crash(0));
        assert!(gap(&mut world) < TEN * 4, "a death is still noticed");
    }
}

#[test]
fn a_better_node_that_would_not_be_heard_does_not_preempt() {
    for seed in 0..30 {
        let mut world = settled(seed, Options::pair(TEN, Some(2)));
        world.fault(Fault::Crash(0));
        world.settle(TEN * 10);
        world.fault(Fault::Block(0, 1, 0, true));
        world.fault(Fault::Boot(0));
        world
            .run(world.now + TEN * 50, never_two(seed))
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [1], "seed {seed}");
    }
}

#[test]
fn a_split_heals_at_once_over_whatever_path_returns_first() {
    for seed in 0..60 {
        let mut world = settled(seed, Options::pair(TEN, Some(2)));
        let all = [(0, 1, 0), (1, 0, 0), (0, 1, 1), (1, 0, 1)];
        all.iter()
            .for_each(|&(a, b, path)| world.fault(Fault::Block(a, b, path, true)));
        world.settle(TEN * 20);
        assert_eq!(
            world.answering(0).count(),
            2,
            "without any path there is no other way"
        );
        world.announced.clear();
        let path = seed as usize % 2;
        world.fault(Fault::Block(0, 1, path, false));
        world.fault(Fault::Block(1, 0, path, false));
        world.settle(TEN * 4);
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [0], "seed {seed}");
        world.settle(TEN * 2);
        assert!(
            world.announced.iter().any(|announced| announced.1 == 0),
            "the winner puts its neighbours right"
        );
    }
}

#[test]
fn failback_loses_nothing() {
    for (echo, layout) in [
        (None, Layout::Single),
        (Some(1), Layout::ActiveActive),
        (Some(1), Layout::SyncGroup),
    ] {
        for seed in 0..50 {
            let mut world = settled(
                seed,
                Options {
                    layout,
                    ..Options::pair(TEN, echo)
                },
            );
            world.fault(Fault::Crash(0));
            world.settle(TEN * 10);
            for router in 0..world.routers() {
                assert_eq!(
                    world.answering(router).collect::<Vec<_>>(),
                    [1],
                    "seed {seed}: the other holds both"
                );
            }
            world.fault(Fault::Boot(0));
            world
                .run(world.now + TEN * 20, always_one(seed))
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(world.answering(0).collect::<Vec<_>>(), [0], "seed {seed}");
            if layout == Layout::ActiveActive {
                assert_eq!(world.answering(1).collect::<Vec<_>>(), [1], "seed {seed}");
            }
        }
    }
}

#[test]
fn a_node_that_is_not_ready_does_not_preempt() {
    let mut world = settled(3, Options::pair(TEN, Some(1)));
    world.fault(Fault::Crash(0));
    world.settle(TEN * 10);
    world.fault(Fault::Boot(0));
    world.fault(Fault::Standing(0, Standing::at(1)));
    world.settle(TEN * 50);
    assert_eq!(world.answering(0).collect::<Vec<_>>(), [1]);
    world.fault(Fault::Standing(0, Standing::at(200)));
    world.settle(TEN * 10);
    assert_eq!(world.answering(0).collect::<Vec<_>>(), [0]);
}

#[test]
fn preemption_can_be_late_or_off() {
    let slow = TEN * 50;
    for (preempt, expected) in [(Preempt::Off, 1), (Preempt::After(slow), 0)] {
        let mut world = settled(
            4,
            Options {
                preempt,
                ..Options::pair(TEN, None)
            },
        );
        world.fault(Fault::Crash(0));
        world.settle(TEN * 10);
        world.fault(Fault::Boot(0));
        world.settle(TEN * 45);
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [1]);
        world.settle(TEN * 15);
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn link_down_moves_everything() {
    for layout in [Layout::Single, Layout::SyncGroup] {
        for seed in 0..30 {
            let mut world = settled(
                seed,
                Options {
                    layout,
                    ..Options::pair(TEN, Some(2))
                },
            );
            world.fault(Fault::Link(0, 0, false));
            assert!(gap(&mut world) <= TEN * 4, "seed {seed}");
            world.settle(TEN);
            for router in 0..world.routers() {
                assert_eq!(
                    world.answering(router).collect::<Vec<_>>(),
                    [1],
                    "seed {seed}"
                );
                assert_eq!(world.state(0, router), Some(State::Fault));
            }
            world.fault(Fault::Link(0, 0, true));
            world
                .run(world.now + TEN * 20, always_one(seed))
                .unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(world.answering(0).collect::<Vec<_>>(), [0], "seed {seed}");
        }
    }
}

#[test]
fn a_frozen_node_does_not_take_back_what_it_lost() {
    for seed in 0..60 {
        let mut world = settled(seed, Options::pair(TEN, Some(1)));
        world.fault(Fault::Freeze(0, true));
        let span = TEN * 6 + world.luck(TEN * 60);
        world.settle(span);
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [1]);
        world.adverts.clear();
        world.fault(Fault::Freeze(0, false));
        world.settle(TEN * 2);
        assert_eq!(world.answering(0).collect::<Vec<_>>(), [1], "seed {seed}");
        assert!(
            world.adverts.iter().all(|advert| advert.1 != 0),
            "it listens first"
        );
    }
}
