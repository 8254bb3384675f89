//! The pair in a bottle: nodes, their dataplanes, the network and its faults, with one seed deciding everything.
//!
//! `FUTAGO_SIM_SEED=n cargo test -p lb-core sim -- --nocapture` replays one seed of the chaos and prints what happened.

mod chaos;
mod drills;
mod rng;
mod world;
