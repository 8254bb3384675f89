//! Packets through the packet path one by one: in the loaded program and in the host's build, over tables that are planned as
//! the daemon plans them.
//!
//! ```text
//! world ─► plan ─► writes ─┬─► tables on the heap ─► host's build ─┐
//!                          └─► mapped tables ─► loaded program ────┴─► same verdict, bytes and counter
//! ```

pub mod dissect;
pub mod frame;
pub mod mutate;
pub mod namespace;
pub mod path;
pub mod random;
pub mod world;
