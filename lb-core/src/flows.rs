//! The tables of flows from outside the packet path, in portions so that nothing waits for it: ageing takes out what has been silent
//! for too long, listing and counting show what there is.

mod ageing;
mod count;
mod directory;
mod line;
mod round;
mod rounds;
mod sweep;
mod tables;

pub use ageing::{Fate, Pair, pair, record};
pub use count::{BackendCount, Count, Counter, ServiceCount};
pub use directory::{Directory, Filter, FlowState, Known};
pub use line::Lines;
pub use round::Round;
pub use rounds::{Judge, Rounds, TABLES, Usage};
pub use sweep::{CLAIM_TIMEOUT, Pace, Progress, Sweep};
pub use tables::{Flow, FlowTables, Walk};

#[cfg(test)]
mod tests;
