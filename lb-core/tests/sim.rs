//! Runs the simulation's chaos over its seeds, or replays the one that `FUTAGO_SIM_SEED` names. Here and not beside the
//! simulation, because `lb-core` itself reads no environment.

use lb_core::sim::chaos;

const SEEDS: u64 = 2000;

#[test]
fn sim_chaos() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a seed is a number"))
    };
    let replay = number("FUTAGO_SIM_SEED");
    let seeds = replay.map_or(0..number("FUTAGO_SIM_SEEDS").unwrap_or(SEEDS), |seed| {
        seed..seed + 1
    });
    let mut failed = Vec::new();
    for seed in seeds {
        let outcome = chaos::run(seed, replay.is_some());
        outcome.log.iter().for_each(|line| println!("{line}"));
        failed.extend(outcome.broken.map(|error| format!("seed {seed}: {error}")));
    }
    assert!(
        failed.is_empty(),
        "{} seeds failed. Replay: FUTAGO_SIM_SEED=n cargo test -p lb-core sim_chaos -- --nocapture\n{}",
        failed.len(),
        failed
            .iter()
            .take(10)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    );
}

#[test]
fn sim_repeats_itself() {
    let log = |seed| chaos::run(seed, true).log;
    assert_eq!(log(7), log(7));
    assert_ne!(log(7), log(8));
}
