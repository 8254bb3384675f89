//! From "what should be forwarded" to an ordered list of table writes.
//!
//! The [`Layout`] knows what the tables hold and where there is room. It is asked for one service at a time and answers
//! with writes whose order lets a packet see the old service or the new one, never a mixture.

mod features;
mod index;
mod layout;
mod placed;
mod ranges;
#[cfg(test)]
mod tests;
pub mod transition;
mod wanted;
pub mod write;

pub use features::features;
pub use layout::{Counted, Layout, PlanError, Wanted, WantedBackend};
pub use wanted::{BackendNow, wanted};
pub use write::{Capacity, Write};
