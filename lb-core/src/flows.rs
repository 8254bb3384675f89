//! Ageing: which flows have been silent for too long, found in portions so that nothing waits for it.

mod ageing;
mod round;
mod sweep;

pub use ageing::{Fate, Pair, pair, record};
pub use round::Round;
pub use sweep::{CLAIM_TIMEOUT, Pace, Progress, Sweep};
