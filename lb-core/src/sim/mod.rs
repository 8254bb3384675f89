//! The pair in a bottle: nodes, their dataplanes, the network and its faults, with one seed deciding everything.
//!
//! `FUTAGO_SIM_SEED=n cargo test -p lb-core sim_chaos -- --nocapture` replays one seed and prints what happened.

pub mod chaos;
#[cfg(test)]
mod drills;
pub mod rng;
pub mod world;
