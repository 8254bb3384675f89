//! The packet path as it lives in the kernel: maps, program, links. All calls into aya and bpf(2) are made here.
//!
//! [`Dataplane::open`] loads the program and finds or makes its tables, the caller fills them, and
//! [`Dataplane::attach`] lets packets in. What is attached stays when the process ends; only [`Dataplane::detach`]
//! ends the forwarding.
//!
//! ```text
//! /sys/fs/bpf/futago/
//!   v1/0/INDEX …        the tables: layout version, generation
//!   current -> v1/0     the generation that the attached programs use
//!   links/eth0          one XDP link per interface
//! ```

mod directory;
mod error;
pub mod flows;
mod interface;
mod leases;
mod link;
mod load;
mod mapping;
mod maps;
pub mod real_server;
mod run;
mod sys;
mod tables;

pub use directory::{DEFAULT_DIRECTORY, DirectoryError};
pub use error::OpenError;
pub use interface::AttachedMode;
pub use leases::LeaseTable;
pub use link::{AttachError, InterfaceReport};
pub use load::{Dataplane, Options, WidenError};
pub use maps::{CapacityError, capacity_bytes};
pub use run::{Action, RunError, TestRun, xdp_context};
pub use tables::{MappedTables, WriteError};
